//! Peers that do not exist yet.

use super::*;

/// A hello that says these versions and something that this version does not know.
fn later(min: u16, max: u16, seal: impl Seal + Send + 'static) -> Vec<u8> {
    let hello = output(&mut connecting(seal));
    let [a, b] = min.to_le_bytes();
    let [c, d] = max.to_le_bytes();
    let hello = with(&hello, HEAD, &[a, b, c, d]);
    spliced(&hello, hello.len()..hello.len(), b"more that a later version says")
}

const PEER: Versions = Versions { min: 2, max: 3 };

#[test]
fn versions_agree_on_the_newest_of_both() {
    let agree = |a, b, c, d| Versions { min: a, max: b }.agree(Versions { min: c, max: d });
    assert_eq!(agree(1, 1, 1, 1), Some(1));
    assert_eq!(agree(1, 1, 1, 3), Some(1));
    assert_eq!(agree(1, 4, 2, 3), Some(3));
    assert_eq!(agree(2, 3, 1, 2), Some(2));
    assert_eq!(agree(1, 1, 2, 3), None);
    assert_eq!(agree(4, 5, 2, 3), None);
    assert_eq!([VERSIONS, PEER].map(|versions| versions.to_string()), ["version 1", "versions 2 to 3"]);
}

/// It speaks this version, too, and seals what it has really said.
#[test]
fn a_peer_of_versions_1_to_3_is_understood() {
    let seal = Toy(5);
    let mut two = accepting(seal);
    let hello = later(1, 3, seal);
    assert_eq!(two.receive(&hello), Ok(Step::More));
    let challenge = output(&mut two);
    assert_eq!(challenge[HEAD..HEAD + 2], [1, 0]);
    let proof = run(connecting(NoSecret), accepting(NoSecret), |_, _| {}).said[2].clone();
    let sealed = seal.seal(&[b"UP2P-handshake-1", &hello, &challenge, &proof[..HEAD]]);
    assert_eq!(two.receive(&with(&proof, HEAD, &sealed)), Ok(Step::MakeRails { peer: facts(1) }));
}

#[test]
fn a_peer_of_versions_2_to_3_is_refused_and_told_what_is_spoken_here() {
    let expected = HelloError::Version { own: VERSIONS, peer: PEER };
    let mut two = accepting(NoSecret);
    assert_eq!(two.receive(&later(2, 3, NoSecret)), Err(expected.clone()));
    assert_eq!(
        expected.to_string(),
        "it speaks versions 2 to 3 of the protocol, and this end version 1: run the same release at both ends"
    );
    let refusal = output(&mut two);
    assert_eq!(refusal[HEAD..HEAD + 6], [1, 0, 1, 0, 1, 0]);
}

/// What follows the versions may be anything.
#[test]
fn a_hello_of_another_version_is_not_read_further() {
    let hello = later(2, 3, NoSecret);
    let mut two = accepting(NoSecret);
    let other = spliced(&hello, HEAD + 4..hello.len(), &[0xff; 5]);
    assert_eq!(two.receive(&other), Err(HelloError::Version { own: VERSIONS, peer: PEER }));
}

#[test]
fn a_refusal_of_a_later_peer_names_its_versions() {
    let mut two = accepting(NoSecret);
    two.refuse("older than what is spoken here");
    let refusal = with(&output(&mut two), HEAD, &[1, 0, 2, 0, 3, 0]);
    let mut one = connecting(NoSecret);
    let _ = output(&mut one);
    assert_eq!(one.receive(&refusal), Err(HelloError::Version { own: VERSIONS, peer: PEER }));
    assert!(one.output().is_empty(), "the other end has refused itself");
}

#[test]
fn a_version_that_was_not_offered_is_not_spoken() {
    let course = run(connecting(NoSecret), accepting(NoSecret), |message, bytes| {
        if message == 1 {
            bytes[HEAD] = 2;
        }
    });
    let chosen = Versions { min: 2, max: 2 };
    assert_eq!(course.outcome, Err(HelloError::Version { own: VERSIONS, peer: chosen }));
}

#[test]
fn a_peer_that_speaks_no_later_version_says_nothing_more() {
    let rule = "bytes after its end";
    let expected = Err(HelloError::Rule { message: "hello", rule });
    assert_eq!(accepting(NoSecret).receive(&later(1, 1, NoSecret)), expected);
}

#[test]
fn versions_begin_before_they_end() {
    let rule = "its versions end before they begin";
    let expected = Err(HelloError::Rule { message: "hello", rule });
    assert_eq!(accepting(NoSecret).receive(&later(3, 2, NoSecret)), expected);
}
