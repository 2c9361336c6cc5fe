//! What the fuzz targets call, and the replay of their corpora.
//!
//! The first byte of an input says how what follows it is cut: in pieces of so many bytes, or not at all.

#[cfg(test)]
#[path = "../../fuzz/harness/replay.rs"]
mod replay;

use bytes::{Bytes, BytesMut};

use crate::frame::{Frame, LONGEST_FRAME};
use crate::hello::{Facts, Handshake, HelloError, NoSecret, RailFacts, Step};
use crate::id::{EndpointId, Epoch};
use crate::wire::{Decoder, WireError, encode};

/// Frames are the same however they are cut, and there is one way to say each.
pub fn frame(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else { return };
    let (whole, error) = decode([bytes]);
    assert_eq!(decode(pieces(*cut, bytes)), (whole.clone(), error));
    let mut rest = bytes;
    for frame in whole {
        let mut said = BytesMut::new();
        encode(&frame, &mut said);
        assert!(said.len() <= LONGEST_FRAME);
        assert_eq!(decode([&said[..]]), (vec![frame.clone()], None));
        // Control characters of a text have become blanks, which may be shorter than they were.
        if matches!(frame, Frame::Goodbye { .. }) {
            return;
        }
        let (heard, after) = rest.split_at(said.len());
        assert_eq!(heard, said);
        rest = after;
    }
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<WireError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => {
                    frames.push(frame.clone());
                    decoder.recycle(frame);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(decoder.buffered() < LONGEST_FRAME);
    }
    (frames, None)
}

/// A handshake goes the same way however it is cut. The second byte says which end hears.
pub fn hello(input: &[u8]) {
    let [cut, end, bytes @ ..] = input else { return };
    let connecting = end % 2 == 0;
    let whole = Heard::of(connecting, [bytes]);
    assert_eq!(Heard::of(connecting, pieces(*cut, bytes)), whole);
    if let Err(error) = &whole.outcome {
        assert!(!error.to_string().is_empty());
    }
}

/// What an end makes of the bytes of its peer.
#[derive(Debug, Eq, PartialEq)]
struct Heard {
    outcome: Result<Step, HelloError>,
    output: Vec<u8>,
    leftover: Vec<u8>,
}

impl Heard {
    fn of<'a>(connecting: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let rail = RailFacts { nic: "eth0".to_owned(), megabits: 1, channels: 1 };
        let facts = Facts {
            endpoint: EndpointId([1; 16]),
            epoch: Epoch(1),
            device: None,
            name: "host:1".to_owned(),
            rails: vec![rail],
        };
        let start = if connecting { Handshake::connecting } else { Handshake::accepting };
        let mut end = start(facts, [1; 32], Box::new(NoSecret));
        let mut outcome = Ok(Step::More);
        for piece in pieces {
            match end.receive(piece) {
                Ok(Step::More) => {}
                other => outcome = other,
            }
            if outcome.is_err() {
                break;
            }
        }
        if matches!(outcome, Ok(Step::MakeRails { .. })) {
            assert_eq!(end.rails(vec![Bytes::from_static(b"here")]), Ok(()));
        }
        assert_eq!(end.is_done(), matches!(outcome, Ok(Step::MakeRails { .. } | Step::Connect { .. })));
        Self { outcome, output: end.output().to_vec(), leftover: end.leftover().to_vec() }
    }
}

fn pieces(cut: u8, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(if cut == 0 { bytes.len().max(1) } else { cut.into() })
}

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn the_corpora_of_the_fuzz_targets_do_no_harm() {
        replay("proto_frame", super::frame);
        replay("proto_hello", super::hello);
    }
}
