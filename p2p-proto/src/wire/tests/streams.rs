//! Streams cut anywhere, and random ones.

use proptest::collection::vec;
use proptest::prelude::*;

use super::frames::frame;
use super::*;
use crate::frame::{Chunk, Owner, Repeat, Run};
use crate::id::{RailIndex, RegionKey, TransferId};

/// Pushes the bytes in pieces of these lengths, over and over; takes all frames after each.
fn in_pieces(bytes: &[u8], lengths: &[usize]) -> Vec<Frame> {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
    while !rest.is_empty() {
        let length = lengths.next().map_or(rest.len(), |length| (*length).min(rest.len()));
        let (piece, after) = rest.split_at(length);
        decoder.push(piece);
        rest = after;
        while let Some(frame) = decoder.next().expect("good frames") {
            frames.push(frame.clone());
            decoder.recycle(frame);
        }
    }
    assert_eq!(decoder.buffered(), 0, "bytes of a frame that is whole");
    frames
}

proptest! {
    #[test]
    fn what_was_said_is_heard_however_it_is_cut(
        frames in vec(frame(), 1..12),
        lengths in vec(prop_oneof![1..4usize, 1..200usize, 1..100_000usize], 1..6),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(bytes_of).collect();
        prop_assert_eq!(in_pieces(&bytes, &lengths), frames);
    }

    #[test]
    fn a_frame_that_is_cut_short_is_awaited(frame in frame(), at in any::<prop::sample::Index>()) {
        let bytes = bytes_of(&frame);
        prop_assert_eq!(decode(&bytes[..at.index(bytes.len())]), Ok(None));
    }

    /// There is one way to say each frame: a byte that changed is noticed, or makes another frame.
    #[test]
    fn every_byte_counts(frame in frame(), at in any::<prop::sample::Index>(), change in 1..=u8::MAX) {
        let mut bytes = bytes_of(&frame);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        if let Ok(Some(other)) = decode(&bytes) {
            let again = bytes_of(&other);
            match other {
                // Control characters became blanks, and a blank that became one is a blank.
                Frame::Goodbye { .. } => prop_assert_eq!(decode(&again), Ok(Some(other))),
                Frame::Begin { .. }
                | Frame::Ranges { .. }
                | Frame::Shape { .. }
                | Frame::Chunks { .. }
                | Frame::Fin { .. }
                | Frame::Notify { .. }
                | Frame::Ping { .. }
                | Frame::Pong { .. } => {
                    prop_assert_ne!(&other, &frame);
                    prop_assert_eq!(&again, &bytes[..again.len()]);
                }
            }
        }
    }

    #[test]
    fn random_bytes_are_an_error_or_frames_that_can_be_said(
        kind in 0..12u16,
        flags in 0..4u16,
        body in vec(prop_oneof![3 => Just(0u8), 2 => 1..4u8, 1 => any::<u8>()], 0..200),
    ) {
        let mut bytes = (HEADER as u32 + body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(body);
        match decode(&bytes) {
            Ok(frame) => {
                let frame = frame.expect("it is whole");
                prop_assert_eq!(decode(&bytes_of(&frame)), Ok(Some(frame)));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn bytes_without_any_order_do_no_harm(pieces in vec(vec(any::<u8>(), 0..60), 0..6)) {
        let mut decoder = Decoder::new();
        for piece in pieces {
            decoder.push(&piece);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}

/// Full frames fit, and one entry more would not.
#[test]
fn as_much_as_the_limits_say_fits_a_frame() {
    let transfer = TransferId(u64::MAX);
    let run = |index| Run {
        key: RegionKey { index, generation: 1, secret: 2 },
        ranges: vec![(u64::MAX - (1 << 37), 1 << 37)],
    };
    let chunk = Chunk { owner: Owner::Hearer, transfer, start: 5, length: u32::MAX };
    let full = [
        (Frame::Ranges { transfer, runs: (0..RANGES_PER_FRAME as u32).map(run).collect() }, 24 + 16),
        (
            Frame::Shape {
                owner: Owner::Speaker,
                transfer,
                parts: vec![Repeat { length: 1 << 30, count: 40 }; REPEATS_PER_FRAME],
            },
            12,
        ),
        (Frame::Chunks { rail: RailIndex(63), before: 0, chunks: vec![chunk; CHUNKS_PER_FRAME] }, 24),
        (
            Frame::Ranges {
                transfer,
                runs: vec![Run { ranges: vec![(0, 1); (LONGEST_FRAME - 48) / 16], ..run(0) }],
            },
            16,
        ),
    ];
    for (frame, entry) in full {
        let bytes = bytes_of(&frame);
        assert!((LONGEST_FRAME - entry + 1..=LONGEST_FRAME).contains(&bytes.len()), "{} bytes", bytes.len());
        assert_eq!(in_pieces(&bytes, &[1000]), [frame]);
    }
}

#[test]
fn after_an_error_nothing_is_kept_or_understood() {
    let mut decoder = Decoder::new();
    decoder.push(&[9, 0, 0, 0, 77, 0, 0, 0]);
    assert_eq!(decoder.next(), Err(WireError::Kind(77)));
    decoder.push(&bytes_of(&Frame::Ping { number: 1 }));
    assert_eq!(decoder.buffered(), 0);
    assert_eq!(decoder.next(), Err(WireError::Kind(77)));
}

/// A log must not open memory.
#[test]
fn debug_output_holds_no_key() {
    let key = RegionKey { index: 1, generation: 2, secret: 0x7171_7171_7171_7171 };
    let ranges = Frame::Ranges { transfer: TransferId(1), runs: vec![Run { key, ranges: vec![(3, 4); 40] }] };
    let mut decoder = Decoder::new();
    decoder.push(&bytes_of(&ranges)[..200]);
    assert_eq!(decoder.next(), Ok(None));
    let text = format!("{decoder:?} {ranges:?}");
    assert!(text.starts_with("Decoder { buffered: 200, failed: None, .. }"), "{text}");
    for hidden in ["qqqq", "8174439530702664049", "7171"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

#[test]
fn frames_before_a_bad_one_are_heard() {
    let mut decoder = Decoder::new();
    decoder.push(&bytes_of(&Frame::Ping { number: 1 }));
    decoder.push(&[0; 8]);
    assert_eq!(decoder.next(), Ok(Some(Frame::Ping { number: 1 })));
    assert_eq!(decoder.next(), Err(WireError::Length(0)));
}

#[test]
fn a_text_is_cut_between_characters_and_cannot_write_to_a_terminal() {
    let long = Frame::Goodbye { why: "a\u{e4}".repeat(LONGEST_TEXT) };
    let heard = decode(&bytes_of(&long));
    // 341 times three bytes, and one more: the next character would need two.
    let expected = format!("{}a", "a\u{e4}".repeat(LONGEST_TEXT / 3));
    assert_eq!(heard, Ok(Some(Frame::Goodbye { why: expected })));
    let wild = Frame::Goodbye { why: "\u{1b}[2Jgone\n".to_owned() };
    assert_eq!(decode(&bytes_of(&wild)), Ok(Some(Frame::Goodbye { why: " [2Jgone ".to_owned() })));
}
