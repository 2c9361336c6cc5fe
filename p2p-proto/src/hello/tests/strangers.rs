//! Those who speak something else.

use super::*;
use crate::frame::Frame;

const STRANGERS: [&[u8]; 8] = [
    b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x20\x00\x00\x00\x01UP2X\x01\x00",
    b"\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x40\x00\x00\x00\x01\x01\x01\x00UP2P",
    b"\x40\x00\x00\x00\x01\x01\x00\x00UP2X",
];

#[test]
fn a_stranger_is_known_by_its_first_bytes_and_told_nothing() {
    for said in STRANGERS {
        for mut end in [connecting(Toy(5)), accepting(Toy(5))] {
            let _ = output(&mut end);
            assert_eq!(end.receive(said), Err(HelloError::Stranger), "{said:?}");
            assert_eq!(end.receive(b""), Err(HelloError::Stranger), "it stays so");
            assert!(end.output().is_empty(), "{said:?} was answered");
        }
    }
}

/// However slowly it speaks, and at the first byte that shows it.
#[test]
fn a_stranger_is_known_byte_by_byte() {
    for said in STRANGERS {
        let mut end = accepting(NoSecret);
        let refused = said.iter().position(|byte| end.receive(&[*byte]) == Err(HelloError::Stranger));
        assert!(refused.is_some_and(|at| at < 12), "{said:?}: {refused:?}");
    }
}

#[test]
fn a_length_that_no_message_has_is_a_strangers() {
    for (kind, most) in [(1u8, 16 << 10), (2, 6000), (3, 44), (4, 263_000), (5, 2000)] {
        for length in [0, 11, most + 1, 1 << 20, u32::MAX] {
            let mut head = length.to_le_bytes().to_vec();
            head.extend([kind, 1, 0, 0]);
            head.extend(b"UP2P");
            assert_eq!(accepting(NoSecret).receive(&head), Err(HelloError::Stranger), "{kind} {length}");
        }
    }
}

#[test]
fn a_control_stream_that_skips_the_handshake_is_a_strangers() {
    let mut bytes = bytes::BytesMut::new();
    crate::wire::encode(&Frame::Ping { number: 1 }, &mut bytes);
    assert_eq!(accepting(NoSecret).receive(&bytes), Err(HelloError::Stranger));
}

#[test]
fn the_decoder_of_frames_understands_no_handshake() {
    for message in run(connecting(NoSecret), accepting(NoSecret), |_, _| {}).said {
        let mut decoder = crate::wire::Decoder::new();
        decoder.push(&message);
        assert!(matches!(decoder.next(), Err(crate::wire::WireError::Kind(0x101..=0x104))));
    }
}

/// Who has spoken well once is no stranger, but breaks a rule.
#[test]
fn a_peer_that_loses_its_way_is_told() {
    let mut two = accepting(NoSecret);
    assert_eq!(two.receive(&output(&mut connecting(NoSecret))), Ok(Step::More));
    let _ = output(&mut two);
    let error = two.receive(b"GET / HTTP/1.1").expect_err("nothing of ours");
    assert_eq!(error, HelloError::Rule { message: "next", rule: "no message has its length" });
    assert!(!two.output().is_empty());
}

/// What it announces is not what it gets.
#[test]
fn a_stranger_is_given_no_room_before_it_has_spoken() {
    let info = allocation_counter::measure(|| {
        let mut end = accepting(NoSecret);
        let most = 16u32 << 10;
        let mut head = most.to_le_bytes().to_vec();
        head.extend([1, 1, 0, 0]);
        head.extend(b"UP2P");
        assert_eq!(end.receive(&head), Ok(Step::More));
        assert_eq!(end.receive(&[0; 100]), Ok(Step::More));
    });
    assert!(info.bytes_max < 2048, "{info:?}");
}
