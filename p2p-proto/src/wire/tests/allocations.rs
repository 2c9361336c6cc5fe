//! What coding allocates.

use allocation_counter::measure;
use bytes::{Buf, Bytes};

use super::golden::all;
use super::*;
use crate::frame::{Chunk, Owner, Repeat, Run};
use crate::id::{RailIndex, RegionKey, TransferId};

const FRAMES: u64 = 10_000;

fn chunks(before: u64, count: usize) -> Frame {
    let transfer = TransferId(1);
    let chunk = Chunk { owner: Owner::Speaker, transfer, start: 4096 * before, length: 4096 };
    Frame::Chunks { rail: RailIndex(0), before, chunks: vec![chunk; count] }
}

fn lists() -> Vec<Frame> {
    let transfer = TransferId(1);
    let run = |index, count| Run {
        key: RegionKey { index, generation: 1, secret: 2 },
        ranges: vec![(0, 1); count],
    };
    vec![
        chunks(0, 30),
        Frame::Shape { owner: Owner::Speaker, transfer, parts: vec![Repeat { length: 1, count: 1 }; 50] },
        Frame::Ranges { transfer, runs: vec![run(0, 100), run(1, 100), run(2, 100)] },
        Frame::Ping { number: 1 },
    ]
}

/// Takes all frames there are, gives their lists back, and counts them.
fn drain(decoder: &mut Decoder) -> u64 {
    let mut count = 0;
    while let Some(frame) = decoder.next().expect("good frames") {
        count += 1;
        decoder.recycle(frame);
    }
    count
}

#[test]
fn frames_with_lists_are_decoded_without_an_allocation_where_they_come_back() {
    let bytes: Vec<u8> = lists().iter().flat_map(bytes_of).collect();
    let mut decoder = Decoder::new();
    let mut count = 0;
    let mut some = |times| {
        for _ in 0..times {
            // Cut so that frames and pieces never begin together.
            for piece in bytes.chunks(333) {
                decoder.push(piece);
                count += drain(&mut decoder);
            }
        }
    };
    some(10);
    let info = measure(|| some(FRAMES / 4));
    assert_eq!(info.count_total, 0, "{info:?}");
    assert_eq!(count, FRAMES + 40);
}

#[test]
fn chunks_that_do_not_come_back_are_one_allocation_each() {
    let bytes = bytes_of(&chunks(0, 8));
    let mut decoder = Decoder::new();
    let info = measure(|| {
        for _ in 0..FRAMES {
            decoder.push(&bytes);
            assert!(decoder.next().expect("a good frame").is_some());
        }
    });
    // And the buffer, once.
    assert!(info.count_total <= FRAMES + 4, "{info:?}");
    assert!(info.bytes_max < 2 * LONGEST_FRAME as u64, "{info:?}");
}

#[test]
fn encoding_into_a_buffer_that_is_emptied_allocates_nothing() {
    let frames = lists();
    let mut into = BytesMut::new();
    let mut some = |times| {
        for _ in 0..times {
            for frame in &frames {
                encode(frame, &mut into);
            }
            // A stream takes what it takes.
            into.advance(into.len() / 2);
            into.advance(into.len());
        }
    };
    some(10);
    let info = measure(|| some(FRAMES / 4));
    assert_eq!(info.count_total, 0, "{info:?}");
}

/// A frame that promises more than it has is refused before there is room for it.
#[test]
fn a_count_allocates_nothing() {
    for (_, bytes) in all() {
        for at in (HEADER..bytes.len().saturating_sub(3)).step_by(4) {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            let info = measure(|| drop(decoder.next()));
            assert!(info.bytes_max < 1024, "{info:?} for {bytes:?}");
        }
    }
}

/// The worst frame is many lists of one range each.
#[test]
fn a_decoder_holds_little_more_than_a_frame() {
    let run = |index| Run { key: RegionKey { index, generation: 1, secret: 2 }, ranges: vec![(0, 1)] };
    let runs = (0..RANGES_PER_FRAME as u32).map(run).collect();
    let bytes = bytes_of(&Frame::Ranges { transfer: TransferId(1), runs });
    let mut decoder = Decoder::new();
    let info = measure(|| {
        for _ in 0..20 {
            for piece in bytes.chunks(1000) {
                decoder.push(piece);
                drain(&mut decoder);
            }
        }
    });
    assert!(info.bytes_max < 10 * LONGEST_FRAME as u64, "{info:?}");
}

#[test]
fn room_for_a_large_push_is_given_back() {
    let ping = bytes_of(&Frame::Ping { number: 1 });
    let mut decoder = Decoder::new();
    let many = ping.repeat((8 << 20) / ping.len());
    let info = measure(|| {
        decoder.push(&many);
        drain(&mut decoder);
    });
    assert!(info.bytes_current < 5 * LONGEST_FRAME as i64, "{info:?}");
}

#[test]
fn lists_that_come_back_are_kept_up_to_a_bound() {
    let mut decoder = Decoder::new();
    let run =
        |count| Run { key: RegionKey { index: 0, generation: 1, secret: 2 }, ranges: vec![(0, 1); count] };
    let info = measure(|| {
        for count in 1..200 {
            decoder.recycle(chunks(0, count * 1000));
            decoder.recycle(Frame::Ranges { transfer: TransferId(1), runs: vec![run(100); count] });
        }
    });
    assert!(info.bytes_current < 8 * LONGEST_FRAME as i64, "{info:?}");
}

/// A notification that is kept keeps its own bytes, and not those around it.
#[test]
fn a_notification_keeps_itself_alone() {
    let notify = Frame::Notify { after: None, more: false, bytes: Bytes::from_static(b"small") };
    let mut decoder = Decoder::new();
    let mut kept = None;
    let info = measure(|| {
        decoder.push(&bytes_of(&chunks(0, 1000)));
        decoder.push(&bytes_of(&notify));
        drop(decoder.next());
        kept = decoder.next().expect("a good frame");
        decoder = Decoder::new();
    });
    assert_eq!(kept, Some(notify));
    assert!(info.bytes_current < 200, "{info:?}");
}
