//! From frames to bytes.

use bytes::{BufMut, BytesMut};

use crate::frame::{Chunk, Frame, Kind, LONGEST_FRAME, LONGEST_TEXT, Owner, Refusal, Run, Verdict};
use crate::id::TransferId;

use super::{flag, kind, refusal, size, transfer, verdict};

/// Appends a frame to `into`. Nothing is allocated where `into` has room.
///
/// It is no longer than [`LONGEST_FRAME`], which the peer insists on, if the caller keeps to the limits per frame
/// of [`wire`](crate::wire), and to [`LONGEST_PIECE`](crate::frame::LONGEST_PIECE). A text that is too long is
/// cut.
pub fn encode(frame: &Frame, into: &mut BytesMut) {
    let start = into.len();
    into.put_slice(&[0; size::HEADER]);
    let (kind, flags) = body(frame, into);
    let length = into.len() - start;
    debug_assert!(length <= LONGEST_FRAME, "a frame of {length} bytes; say it in several");
    if let Some(mut header) = into.get_mut(start..) {
        header.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
        header.put_u16_le(kind);
        header.put_u16_le(flags);
    }
}

/// Returns kind and flags.
fn body(frame: &Frame, into: &mut BytesMut) -> (u16, u16) {
    match frame {
        Frame::Begin { transfer, kind: what, total, ranges, counter } => {
            into.put_u64_le(transfer.0);
            into.put_u64_le(*total);
            into.put_u32_le(*ranges);
            into.put_u32_le(counter.unwrap_or_default());
            into.put_u16_le(match what {
                Kind::Write => transfer::WRITE,
                Kind::Read => transfer::READ,
                Kind::Send => transfer::SEND,
            });
            into.put_u16_le(0);
            (kind::BEGIN, counter.map_or(0, |_| flag::COUNTER))
        }
        Frame::Ranges { transfer, runs } => {
            list(transfer.0, runs.len(), into);
            runs.iter().for_each(|each| run(each, into));
            (kind::RANGES, 0)
        }
        Frame::Shape { owner, transfer, parts } => {
            list(transfer.0, parts.len(), into);
            for part in parts {
                into.put_u64_le(part.length);
                into.put_u32_le(part.count);
            }
            (kind::SHAPE, owner_flag(*owner))
        }
        Frame::Chunks { rail, before, chunks } => {
            into.put_u64_le(*before);
            into.put_u32_le(count(chunks.len()));
            into.put_u32_le(rail.0.into());
            chunks.iter().for_each(|each| chunk(each, into));
            (kind::CHUNKS, 0)
        }
        Frame::Fin { owner, transfer, verdict } => {
            into.put_u64_le(transfer.0);
            let (verdict, detail) = numbers(*verdict);
            into.put_u16_le(verdict);
            into.put_u16_le(detail);
            (kind::FIN, owner_flag(*owner))
        }
        Frame::Notify { after, more, bytes } => {
            into.put_u64_le(after.unwrap_or(TransferId(0)).0);
            into.put_slice(bytes);
            let after = after.map_or(0, |_| flag::AFTER);
            (kind::NOTIFY, after | if *more { flag::MORE } else { 0 })
        }
        Frame::Ping { number } => {
            into.put_u64_le(*number);
            (kind::PING, 0)
        }
        Frame::Pong { number } => {
            into.put_u64_le(*number);
            (kind::PONG, 0)
        }
        Frame::Goodbye { why } => {
            into.put_slice(text(why, LONGEST_TEXT).as_bytes());
            (kind::GOODBYE, 0)
        }
    }
}

/// What stands before a list of a transfer.
fn list(transfer: u64, length: usize, into: &mut BytesMut) {
    into.put_u64_le(transfer);
    into.put_u32_le(count(length));
    into.put_u32_le(0);
}

fn run(run: &Run, into: &mut BytesMut) {
    into.put_u32_le(run.key.index);
    into.put_u32_le(run.key.generation);
    into.put_u64_le(run.key.secret);
    into.put_u32_le(count(run.ranges.len()));
    into.put_u32_le(0);
    for &(offset, length) in &run.ranges {
        into.put_u64_le(offset);
        into.put_u64_le(length);
    }
}

fn chunk(chunk: &Chunk, into: &mut BytesMut) {
    into.put_u64_le(chunk.transfer.0);
    into.put_u64_le(chunk.start);
    into.put_u32_le(chunk.length);
    into.put_u32_le(owner_flag(chunk.owner).into());
}

fn owner_flag(owner: Owner) -> u16 {
    match owner {
        Owner::Speaker => 0,
        Owner::Hearer => flag::HEARER,
    }
}

fn numbers(verdict: Verdict) -> (u16, u16) {
    match verdict {
        Verdict::Landed => (verdict::LANDED, 0),
        Verdict::Refused(why) => (verdict::REFUSED, refusal_number(why)),
        Verdict::RailLost(rail) => (verdict::RAIL_LOST, rail.0.into()),
        Verdict::MemoryGone => (verdict::MEMORY_GONE, 0),
    }
}

fn refusal_number(refusal: Refusal) -> u16 {
    match refusal {
        Refusal::UnknownKey => refusal::UNKNOWN_KEY,
        Refusal::OutOfRange => refusal::OUT_OF_RANGE,
        Refusal::TooLong => refusal::TOO_LONG,
        Refusal::TooMany => refusal::TOO_MANY,
        Refusal::Withdrawn => refusal::WITHDRAWN,
    }
}

/// No list that fits a frame has more.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The front of a text, at most so many bytes, cut between characters.
pub(crate) fn text(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
