//! The bytes of each message, written by hand: whoever changes them changes the protocol.

use super::*;

/// Blanks separate fields; `*` after a field repeats its last byte so often.
fn from_digits(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in text.split_whitespace() {
        let (digits, times) = field.split_once('*').unwrap_or((field, "1"));
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
        let field: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        bytes.extend(field.repeat(times.parse().expect("a number")));
    }
    bytes
}

const HELLO: &str = "71000000 0101 0000 55503250 0100 0100 c1*32 01*16 0001000000000000 0100 0300 \
    0900 686f73742d313a3939 0200 400d0300 0400 0400 65746830 00000000 0400 0400 65746831";
const CHALLENGE: &str = "8f000000 0201 0000 55503250 0100 a2*32 02*16 0002000000000000 0000 0000 \
    0900 686f73742d323a3939 0200 400d0300 0400 0400 65746830 00000000 0400 0400 65746831 00*32";
const PROOF: &str = "2c000000 0301 0000 55503250 00*32";
const WELCOME: &str = "47000000 0401 0000 55503250 0200 \
    0a00 66697273742d7261696c 0b00 7365636f6e642d7261696c 00*32";

#[test]
fn messages_have_the_bytes_that_the_protocol_says() {
    let course = run(connecting(NoSecret), accepting(NoSecret), |_, _| {});
    assert_eq!(course.said, [HELLO, CHALLENGE, PROOF, WELCOME].map(from_digits));
}

#[test]
fn a_refusal_has_the_bytes_that_the_protocol_says() {
    let mut end = connecting(NoSecret);
    let _ = output(&mut end);
    end.refuse("why");
    assert_eq!(output(&mut end), from_digits("15000000 0501 0000 55503250 0000 0100 0100 776879"));
    let wrong = run(connecting(Toy(1)), accepting(Toy(2)), |_, _| {}).said;
    assert_eq!(wrong[2][HEAD..HEAD + 6], [2, 0, 1, 0, 1, 0]);
    let one = run(connecting(Toy(1)), accepting(NoSecret), |_, _| {}).said;
    assert_eq!(one[1][HEAD..HEAD + 6], [3, 0, 1, 0, 1, 0]);
}

/// A seal is over a text of its own, all that was said, and the message as far as the seal.
#[test]
fn seals_cover_what_the_protocol_says() {
    let seal = Toy(77);
    let course = run(connecting(seal), accepting(seal), |_, _| {});
    let hello = with(&course.said[0], 0x3c + 12, &[3]);
    assert_eq!(course.said[0], hello, "the bit of a secret beside that of a device");
    for message in 1..4 {
        let before = course.said[..message].concat();
        let (front, sealed) = course.said[message].split_last_chunk().expect("a seal");
        assert_eq!(*sealed, seal.seal(&[b"UP2P-handshake-1", &before, front]));
    }
}
