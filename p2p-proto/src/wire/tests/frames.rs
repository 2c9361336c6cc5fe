//! Frames that keep every rule, of every kind.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::frame::{
    Chunk, Frame, Kind, LONGEST_PIECE, LONGEST_TRANSFER, MOST_RAILS, MOST_RANGES, Owner, Refusal, Repeat,
    Run, Verdict,
};
use crate::id::{RailIndex, RegionKey, TransferId};

fn transfer() -> impl Strategy<Value = TransferId> {
    (1..=u64::MAX).prop_map(TransferId)
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![Just(Owner::Speaker), Just(Owner::Hearer)]
}

fn rail() -> impl Strategy<Value = RailIndex> {
    (0..MOST_RAILS as u8).prop_map(RailIndex)
}

fn begin() -> impl Strategy<Value = Frame> {
    let total = prop_oneof![1 => Just(1), 1 => Just(LONGEST_TRANSFER), 4 => 1..=LONGEST_TRANSFER];
    let part = prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0];
    let counter = proptest::option::of(any::<u32>());
    (transfer(), 0..6, total, part, counter).prop_map(|(transfer, which, total, part, counter)| {
        let most = total.min(MOST_RANGES.into()) as f64;
        let ranges = (most * part).max(1.0) as u32;
        match which {
            0 | 1 => Frame::Begin { transfer, kind: Kind::Write, total, ranges, counter },
            2 => Frame::Begin { transfer, kind: Kind::Read, total, ranges, counter: None },
            3 => Frame::Begin { transfer, kind: Kind::Send, total, ranges: 0, counter: None },
            4 => Frame::Begin { transfer, kind: Kind::Send, total: 0, ranges: 0, counter: None },
            _ => Frame::Begin { transfer, kind: Kind::Write, total: 0, ranges: 0, counter },
        }
    })
}

fn run() -> impl Strategy<Value = Run> {
    let key = any::<(u32, u32, u64)>();
    let range = (any::<u64>(), 1..=LONGEST_TRANSFER / 64)
        .prop_map(|(offset, length)| (offset.min(u64::MAX - length), length));
    (key, vec(range, 1..8)).prop_map(|((index, generation, secret), ranges)| Run {
        key: RegionKey { index, generation, secret },
        ranges,
    })
}

fn repeat() -> impl Strategy<Value = Repeat> {
    (1..=LONGEST_TRANSFER >> 24, 1..=MOST_RANGES >> 6).prop_map(|(length, count)| Repeat { length, count })
}

fn chunk() -> impl Strategy<Value = Chunk> {
    (owner(), transfer(), any::<u64>(), 1..=u32::MAX).prop_map(|(owner, transfer, start, length)| {
        let start = start % (LONGEST_TRANSFER + 1 - u64::from(length));
        Chunk { owner, transfer, start, length }
    })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Landed),
        Just(Verdict::Refused(Refusal::UnknownKey)),
        Just(Verdict::Refused(Refusal::OutOfRange)),
        Just(Verdict::Refused(Refusal::TooLong)),
        Just(Verdict::Refused(Refusal::TooMany)),
        Just(Verdict::Refused(Refusal::Withdrawn)),
        rail().prop_map(Verdict::RailLost),
        Just(Verdict::MemoryGone),
    ]
}

fn notify() -> impl Strategy<Value = Frame> {
    let bytes = prop_oneof![4 => vec(any::<u8>(), 0..200), 1 => Just(vec![7; LONGEST_PIECE])];
    (proptest::option::of(transfer()), any::<bool>(), bytes).prop_map(|(after, more, bytes)| Frame::Notify {
        after,
        more: more && !bytes.is_empty(),
        bytes: Bytes::from(bytes),
    })
}

pub(super) fn frame() -> impl Strategy<Value = Frame> {
    let chunks = (rail(), any::<u64>(), vec(chunk(), 1..20)).prop_map(|(rail, before, chunks)| {
        Frame::Chunks { rail, before: before.min(u64::MAX - chunks.len() as u64), chunks }
    });
    prop_oneof![
        begin(),
        (transfer(), vec(run(), 1..8)).prop_map(|(transfer, runs)| Frame::Ranges { transfer, runs }),
        (owner(), transfer(), vec(repeat(), 1..20)).prop_map(|(owner, transfer, parts)| Frame::Shape {
            owner,
            transfer,
            parts
        }),
        chunks,
        (owner(), transfer(), verdict()).prop_map(|(owner, transfer, verdict)| Frame::Fin {
            owner,
            transfer,
            verdict
        }),
        notify(),
        any::<u64>().prop_map(|number| Frame::Ping { number }),
        any::<u64>().prop_map(|number| Frame::Pong { number }),
        "[^\\p{Cc}]{0,80}".prop_map(|why| Frame::Goodbye { why }),
    ]
}
