//! One rule broken at a time.

use super::golden::all;
use super::*;
use crate::frame::{LONGEST_PIECE, LONGEST_TRANSFER, MOST_RANGES};

fn goldens(kind: u16) -> Vec<Vec<u8>> {
    all().into_iter().map(|(_, bytes)| bytes).filter(|bytes| bytes[4..6] == kind.to_le_bytes()).collect()
}

fn with(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// The same frame with a body of another length.
fn resized(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(length, 0);
    with(&bytes, 0, &(length as u32).to_le_bytes())
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    match decode(bytes) {
        Err(WireError::Rule { rule, .. }) => assert_eq!(rule, expected),
        other => panic!("{other:?} instead of: {expected}"),
    }
}

#[test]
fn a_length_that_no_frame_has_is_refused_before_its_bytes_come() {
    for length in [0, 7, LONGEST_FRAME as u32 + 1, u32::MAX] {
        let bytes = with(&[0, 0, 0, 0, 7, 0, 0, 0], 0, &length.to_le_bytes());
        assert_eq!(decode(&bytes), Err(WireError::Length(length)));
    }
    let text = WireError::Length(3).to_string();
    assert_eq!(text, "a frame of 3 bytes, and a frame has from 8 to 65536");
}

#[test]
fn an_unknown_kind_is_named_before_its_bytes_come() {
    for kind in [0, 10, 0x100, 0x107, u16::MAX] {
        let bytes = with(&[99, 0, 0, 0, 0, 0, 0, 0], 4, &kind.to_le_bytes());
        assert_eq!(decode(&bytes), Err(WireError::Kind(kind)));
        assert!(WireError::Kind(kind).to_string().contains(&kind.to_string()));
    }
}

#[test]
fn a_rule_is_said_with_the_frame_that_breaks_it() {
    let error = decode(&resized(&goldens(7)[0], 17)).expect_err("a byte too many");
    assert_eq!(error.to_string(), "a frame \"ping\" that breaks a rule: bytes after its end");
}

#[test]
fn a_flag_that_is_not_known_is_refused() {
    for (frame, bytes) in all() {
        let known = match &frame {
            Frame::Begin { .. } | Frame::Shape { .. } | Frame::Fin { .. } => 1,
            Frame::Notify { .. } => 3,
            Frame::Ranges { .. }
            | Frame::Chunks { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Goodbye { .. } => 0,
        };
        for bit in (0..16).map(|bit| 1u16 << bit).filter(|bit| bit & known == 0) {
            let flags = u16::from_le_bytes([bytes[6], bytes[7]]) | bit;
            refused(&with(&bytes, 6, &flags.to_le_bytes()), "a flag that is not known");
        }
    }
}

#[test]
fn a_body_that_is_too_short_or_too_long_is_refused() {
    for (frame, bytes) in all() {
        // What is left of these is a shorter frame.
        let shortest = match &frame {
            Frame::Notify { .. } => 16,
            Frame::Goodbye { .. } => continue,
            Frame::Begin { .. }
            | Frame::Ranges { .. }
            | Frame::Shape { .. }
            | Frame::Chunks { .. }
            | Frame::Fin { .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. } => bytes.len(),
        };
        for length in HEADER..shortest {
            let error = decode(&resized(&bytes, length)).expect_err("it is too short");
            assert!(matches!(error, WireError::Rule { .. }), "{frame:?} of {length} bytes: {error}");
        }
        if shortest == bytes.len() && !matches!(frame, Frame::Notify { .. }) {
            for length in [bytes.len() + 1, bytes.len() + 8, bytes.len() + 400] {
                refused(&resized(&bytes, length), "bytes after its end");
            }
        }
    }
}

#[test]
fn a_transfer_has_a_number() {
    for (frame, bytes) in all() {
        let at = match &frame {
            Frame::Begin { .. } | Frame::Ranges { .. } | Frame::Shape { .. } | Frame::Fin { .. } => 8,
            Frame::Chunks { .. } => 24,
            Frame::Notify { after: Some(_), .. } => 8,
            Frame::Notify { after: None, .. }
            | Frame::Ping { .. }
            | Frame::Pong { .. }
            | Frame::Goodbye { .. } => continue,
        };
        refused(&with(&bytes, at, &[0; 8]), "a transfer of number 0");
    }
}

#[test]
fn a_transfer_begins_with_numbers_that_fit_together() {
    let [counted, empty, read, send] = &goldens(1)[..] else { panic!("four of them") };
    refused(&with(counted, 16, &(LONGEST_TRANSFER + 1).to_le_bytes()), "a transfer that is too long");
    refused(&with(counted, 24, &(MOST_RANGES + 1).to_le_bytes()), "a transfer with too many ranges");
    refused(&with(counted, 32, &[3]), "a kind of transfer that is not known");
    refused(&with(counted, 33, &[1]), "a kind of transfer that is not known");
    refused(&with(counted, 34, &[1]), "a field that is not used and not 0");
    refused(&with(counted, 35, &[1]), "a field that is not used and not 0");
    refused(&with(counted, 24, &[0x61]), "so many bytes cannot be in so many ranges");
    refused(&with(counted, 24, &[0]), "so many bytes cannot be in so many ranges");
    refused(&with(empty, 24, &[1]), "so many bytes cannot be in so many ranges");
    refused(&with(read, 24, &[0]), "so many bytes cannot be in so many ranges");
    refused(&with(send, 24, &[1]), "a send with ranges");
    refused(&with(empty, 28, &[1]), "a field that is not used and not 0");
    refused(&with(read, 6, &[1]), "a counter, and it is no write");
    refused(&with(send, 6, &[1]), "a counter, and it is no write");
}

#[test]
fn ranges_are_some_and_within_all_memory() {
    let [ranges] = &goldens(2)[..] else { panic!("one of them") };
    // Three lists do not fit where two are.
    for count in [0, 3, u32::MAX] {
        let bytes = with(ranges, 16, &count.to_le_bytes());
        refused(&bytes, "a list without anything in it, or longer than the frame");
    }
    refused(&with(ranges, 16, &[1]), "bytes after its end");
    refused(&with(ranges, 20, &[1]), "a field that is not used and not 0");
    refused(&with(ranges, 40, &[0]), "a list without anything in it");
    refused(&with(ranges, 40, &u32::MAX.to_le_bytes()), "a list longer than the frame");
    refused(&with(ranges, 44, &[1]), "a field that is not used and not 0");
    refused(&with(ranges, 56, &[0]), "a range of length 0");
    refused(&with(ranges, 48, &(u64::MAX - 0x1f).to_le_bytes()), "a range that ends beyond all memory");
    refused(&with(ranges, 56, &(LONGEST_TRANSFER + 1).to_le_bytes()), "a transfer that is too long");
    // Together with the others.
    refused(&with(ranges, 56, &(LONGEST_TRANSFER - 0x9f).to_le_bytes()), "a transfer that is too long");
    assert!(decode(&with(ranges, 56, &(LONGEST_TRANSFER - 0xa0).to_le_bytes())).is_ok());
}

#[test]
fn the_parts_of_a_shape_are_some_and_not_more_than_a_transfer() {
    let [shape] = &goldens(3)[..] else { panic!("one of them") };
    refused(&with(shape, 16, &[0]), "a list without anything in it");
    refused(&with(shape, 16, &[1]), "bytes after its end");
    refused(&with(shape, 16, &[3]), "a list longer than the frame");
    refused(&with(shape, 16, &u32::MAX.to_le_bytes()), "a list longer than the frame");
    refused(&with(shape, 20, &[1]), "a field that is not used and not 0");
    refused(&with(shape, 24, &[0; 8]), "a range of length 0");
    refused(&with(shape, 32, &[0]), "a range of length 0");
    refused(&with(shape, 24, &u64::MAX.to_le_bytes()), "a transfer that is too long");
    // Four times this is 0 in 64 bits.
    let four = with(shape, 32, &[4]);
    refused(&with(&four, 24, &(1u64 << 62).to_le_bytes()), "a transfer that is too long");
    refused(&with(shape, 24, &(LONGEST_TRANSFER / 3 + 1).to_le_bytes()), "a transfer that is too long");
    refused(&with(shape, 32, &MOST_RANGES.to_le_bytes()), "a transfer with too many ranges");
    refused(&with(shape, 44, &u32::MAX.to_le_bytes()), "a transfer with too many ranges");
    assert!(decode(&with(shape, 32, &(MOST_RANGES - 1).to_le_bytes())).is_ok());
}

#[test]
fn chunks_are_some_of_a_transfer_on_a_rail() {
    let [chunks] = &goldens(4)[..] else { panic!("one of them") };
    refused(&with(chunks, 8, &(u64::MAX - 1).to_le_bytes()), "more messages than can be counted");
    assert!(decode(&with(chunks, 8, &(u64::MAX - 2).to_le_bytes())).is_ok());
    refused(&with(chunks, 16, &[0]), "a list without anything in it");
    refused(&with(chunks, 16, &[1]), "bytes after its end");
    refused(&with(chunks, 16, &u32::MAX.to_le_bytes()), "a list longer than the frame");
    refused(&with(chunks, 20, &[64]), "a rail that no link has");
    refused(&with(chunks, 21, &[1]), "a rail that no link has");
    refused(&with(chunks, 40, &[0; 4]), "a chunk of length 0");
    refused(
        &with(chunks, 32, &(LONGEST_TRANSFER - 0x1ff).to_le_bytes()),
        "a chunk beyond the longest transfer",
    );
    refused(&with(chunks, 32, &u64::MAX.to_le_bytes()), "a chunk beyond the longest transfer");
    assert!(decode(&with(chunks, 32, &(LONGEST_TRANSFER - 0x200).to_le_bytes())).is_ok());
    refused(&with(chunks, 44, &[2]), "a transfer of neither end");
    refused(&with(chunks, 47, &[1]), "a transfer of neither end");
}

#[test]
fn a_verdict_is_one_that_there_is() {
    let fins = goldens(5);
    let (landed, refusal, rail, gone) = (&fins[0], &fins[1], &fins[6], &fins[7]);
    refused(&with(landed, 16, &[4]), "a verdict that is not known");
    refused(&with(landed, 17, &[1]), "a verdict that is not known");
    refused(&with(landed, 18, &[1]), "a field that is not used and not 0");
    refused(&with(gone, 18, &[1]), "a field that is not used and not 0");
    refused(&with(refusal, 18, &[5]), "a refusal that is not known");
    refused(&with(rail, 18, &[64]), "a rail that no link has");
    refused(&with(rail, 19, &[1]), "a rail that no link has");
}

#[test]
fn a_part_of_a_notification_is_neither_too_long_nor_endless_nothing() {
    let [part, empty] = &goldens(6)[..] else { panic!("two of them") };
    refused(&with(empty, 8, &[1]), "a field that is not used and not 0");
    refused(&resized(part, 16), "a part of a notification without anything in it");
    assert!(decode(&resized(part, 16 + LONGEST_PIECE)).is_ok());
    refused(&resized(part, 16 + LONGEST_PIECE + 1), "a part of a notification that is too long");
}

#[test]
fn a_text_is_one() {
    let [goodbye] = &goldens(9)[..] else { panic!("one of them") };
    refused(&with(goodbye, 8, &[0xff]), "a text that is not UTF-8");
    assert!(decode(&resized(goodbye, HEADER + LONGEST_TEXT)).is_ok());
    refused(&resized(goodbye, HEADER + LONGEST_TEXT + 1), "a text that is too long");
}
