//! The bytes of frames of each kind, written by hand: whoever changes them changes the protocol, and makes
//! another version of it.

use bytes::Bytes;

use super::*;
use crate::frame::{Chunk, Kind, Owner, Refusal, Repeat, Run, Verdict};
use crate::id::{RailIndex, RegionKey, TransferId};

const TRANSFER: TransferId = TransferId(0x0102_0304_0506_0708);

/// Each with its bytes in hexadecimal digits; blanks separate fields.
pub(super) fn all() -> Vec<(Frame, Vec<u8>)> {
    let key = |index| RegionKey { index, generation: 0xa2, secret: 0xa3 };
    let begin =
        |kind, total, ranges, counter| Frame::Begin { transfer: TRANSFER, kind, total, ranges, counter };
    let fin = |owner, verdict| Frame::Fin { owner, transfer: TRANSFER, verdict };
    let notify = |after, more, text: &'static str| Frame::Notify { after, more, bytes: Bytes::from(text) };
    let ranges = Frame::Ranges {
        transfer: TRANSFER,
        runs: vec![
            Run { key: key(0xa1), ranges: vec![(0x10, 0x20), (0x30, 0x40)] },
            Run { key: key(0xa4), ranges: vec![(0x50, 0x60)] },
        ],
    };
    let parts = vec![Repeat { length: 0x1000, count: 3 }, Repeat { length: 0x800, count: 1 }];
    let chunks = Frame::Chunks {
        rail: RailIndex(2),
        before: 0x11,
        chunks: vec![
            Chunk { owner: Owner::Speaker, transfer: TRANSFER, start: 0x100, length: 0x200 },
            Chunk { owner: Owner::Hearer, transfer: TransferId(9), start: 0, length: 1 },
        ],
    };
    [
        (
            begin(Kind::Write, 0x60, 2, Some(5)),
            "24000000 0100 0100 0807060504030201 6000000000000000 02000000 05000000 0000 0000",
        ),
        (
            begin(Kind::Write, 0, 0, None),
            "24000000 0100 0000 0807060504030201 0000000000000000 00000000 00000000 0000 0000",
        ),
        (
            begin(Kind::Read, 0x60, 2, None),
            "24000000 0100 0000 0807060504030201 6000000000000000 02000000 00000000 0100 0000",
        ),
        (
            begin(Kind::Send, 0x60, 0, None),
            "24000000 0100 0000 0807060504030201 6000000000000000 00000000 00000000 0200 0000",
        ),
        (
            ranges,
            "78000000 0200 0000 0807060504030201 02000000 00000000 \
            a1000000 a2000000 a300000000000000 02000000 00000000 \
            1000000000000000 2000000000000000 3000000000000000 4000000000000000 \
            a4000000 a2000000 a300000000000000 01000000 00000000 5000000000000000 6000000000000000",
        ),
        (
            Frame::Shape { owner: Owner::Hearer, transfer: TRANSFER, parts },
            "30000000 0300 0100 0807060504030201 02000000 00000000 \
            0010000000000000 03000000 0008000000000000 01000000",
        ),
        (
            chunks,
            "48000000 0400 0000 1100000000000000 02000000 02000000 \
            0807060504030201 0001000000000000 00020000 00000000 \
            0900000000000000 0000000000000000 01000000 01000000",
        ),
        (fin(Owner::Hearer, Verdict::Landed), "14000000 0500 0100 0807060504030201 0000 0000"),
        (
            fin(Owner::Speaker, Verdict::Refused(Refusal::UnknownKey)),
            "14000000 0500 0000 0807060504030201 0100 0000",
        ),
        (
            fin(Owner::Speaker, Verdict::Refused(Refusal::OutOfRange)),
            "14000000 0500 0000 0807060504030201 0100 0100",
        ),
        (
            fin(Owner::Speaker, Verdict::Refused(Refusal::TooLong)),
            "14000000 0500 0000 0807060504030201 0100 0200",
        ),
        (
            fin(Owner::Speaker, Verdict::Refused(Refusal::TooMany)),
            "14000000 0500 0000 0807060504030201 0100 0300",
        ),
        (
            fin(Owner::Speaker, Verdict::Refused(Refusal::Withdrawn)),
            "14000000 0500 0000 0807060504030201 0100 0400",
        ),
        (
            fin(Owner::Speaker, Verdict::RailLost(RailIndex(3))),
            "14000000 0500 0000 0807060504030201 0200 0300",
        ),
        (fin(Owner::Hearer, Verdict::MemoryGone), "14000000 0500 0100 0807060504030201 0300 0000"),
        (notify(Some(TRANSFER), true, "abc"), "13000000 0600 0300 0807060504030201 616263"),
        (notify(None, false, ""), "10000000 0600 0000 0000000000000000"),
        (Frame::Ping { number: 0xb1 }, "10000000 0700 0000 b100000000000000"),
        (Frame::Pong { number: 0xb2 }, "10000000 0800 0000 b200000000000000"),
        (Frame::Goodbye { why: "why".to_owned() }, "0b000000 0900 0000 776879"),
    ]
    .map(|(frame, digits)| (frame, from_digits(digits)))
    .into()
}

fn from_digits(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte =
        |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(byte).collect()
}

#[test]
fn frames_have_the_bytes_that_the_protocol_says() {
    for (frame, bytes) in all() {
        assert_eq!(bytes_of(&frame), bytes, "{frame:?}");
        assert_eq!(decode(&bytes), Ok(Some(frame)));
    }
}

#[test]
fn the_limits_per_frame_are_those_of_the_protocol() {
    assert_eq!((RANGES_PER_FRAME, REPEATS_PER_FRAME, CHUNKS_PER_FRAME), (1637, 5459, 2729));
}
