//! One rule broken at a time.

use super::*;
use crate::frame::{LONGEST_TEXT, MOST_RAILS};

/// All four messages of a handshake without a secret.
fn said() -> Vec<Vec<u8>> {
    run(connecting(NoSecret), accepting(NoSecret), |_, _| {}).said
}

/// Runs a handshake in which one message is another one; returns what its hearer says.
fn heard_instead(which: usize, message: &[u8]) -> Result<Step, HelloError> {
    let course = run(connecting(NoSecret), accepting(NoSecret), |at, bytes| {
        if at == which {
            *bytes = message.to_vec();
        }
    });
    if which.is_multiple_of(2) { course.other } else { course.outcome }
}

#[track_caller]
fn refused(which: usize, message: &[u8], expected: &str) {
    let name = ["hello", "challenge", "proof", "welcome"][which];
    match heard_instead(which, message) {
        Err(HelloError::Rule { message, rule }) => assert_eq!((message, rule), (name, expected)),
        other => panic!("{other:?} instead of: {expected}"),
    }
}

/// Where the fields of an end begin, behind the versions of a hello or the version of a challenge.
const PARTY: [usize; 2] = [HEAD + 4, HEAD + 2];
const BITS: usize = 32 + 16 + 8;
const NAME: usize = BITS + 4;
const RAILS: usize = NAME + 2 + 9;
const NIC: usize = RAILS + 2 + 6;
const RAIL: usize = 6 + 2 + 4;

#[test]
fn facts_are_within_their_limits() {
    for (which, party) in PARTY.into_iter().enumerate() {
        let message = &said()[which];
        let replaced =
            |at: usize, old: usize, new: &[u8]| spliced(message, party + at..party + at + old, new);
        let short = |bytes: &[u8]| [&(bytes.len() as u16).to_le_bytes()[..], bytes].concat();

        refused(which, &with(message, party + BITS, &[4]), "a flag that is not known");
        refused(which, &with(message, party + BITS + 1, &[1]), "a flag that is not known");
        refused(which, &with(message, party + BITS, &[0, 0, 1]), "a field that is not used and not 0");
        refused(which, &with(message, party + NAME + 2, &[0xff]), "a text that is not UTF-8");
        refused(which, &replaced(NAME, 11, &short(&[b'n'; LONGEST_NAME + 1])), "a text that is too long");
        refused(which, &replaced(NIC, 6, &short(&[b'n'; LONGEST_NIC + 1])), "a text that is too long");
        refused(which, &with(message, party + NIC + 2, &[0xff]), "a text that is not UTF-8");
        let rail = &message[party + RAILS + 2..party + RAILS + 2 + RAIL];
        for count in [0, MOST_RAILS + 1, usize::from(u16::MAX)] {
            let rails = [&(count as u16).to_le_bytes()[..], &rail.repeat(count.min(MOST_RAILS + 1))].concat();
            let rule = "no rails, or more than a link may have";
            refused(which, &replaced(RAILS, 2 + 2 * RAIL, &rails), rule);
        }
        let most = [&(MOST_RAILS as u16).to_le_bytes()[..], &rail.repeat(MOST_RAILS)].concat();
        assert!(heard_instead(which, &replaced(RAILS, 2 + 2 * RAIL, &most)).is_ok());
        refused(which, &with(message, party + NAME, &u16::MAX.to_le_bytes()), "it ends too early");
        refused(which, &replaced(RAILS + 2 + 2 * RAIL, 0, &[0]), "bytes after its end");
    }
}

/// The longest facts that there are fit their messages.
#[test]
fn full_facts_are_said_and_those_beyond_are_cut() {
    let rail = |index: usize| RailFacts {
        nic: format!("{index:02}{}", "x".repeat(LONGEST_NIC)),
        megabits: u32::MAX,
        channels: u16::MAX,
    };
    let long = |name: u8| Facts {
        name: format!("{name}{}", "\u{e4}".repeat(LONGEST_NAME)),
        device: Some(u16::MAX),
        rails: (0..MOST_RAILS + 3).map(rail).collect(),
        ..facts(name)
    };
    let cut = |name: u8| {
        let mut facts = long(name);
        facts.name = format!("{name}{}", "\u{e4}".repeat((LONGEST_NAME - 1) / 2));
        facts.rails.truncate(MOST_RAILS);
        facts.rails.iter_mut().for_each(|rail| rail.nic.truncate(LONGEST_NIC));
        facts
    };
    let one = Handshake::connecting(long(1), [1; 32], Box::new(Toy(5)));
    let two = Handshake::accepting(long(2), [2; 32], Box::new(Toy(5)));
    let course = run(one, two, |_, _| {});
    assert_eq!(course.other, Ok(Step::MakeRails { peer: cut(1) }));
    assert_eq!(course.outcome, Ok(Step::Connect { peer: cut(2), addresses: addresses() }));
}

#[test]
fn a_name_cannot_write_to_a_terminal() {
    let mut wild = facts(1);
    wild.name = "\u{1b}[2Jhost".to_owned();
    wild.rails[0].nic = "eth0\n".to_owned();
    let one = Handshake::connecting(wild.clone(), [1; 32], Box::new(NoSecret));
    let course = run(one, accepting(NoSecret), |_, _| {});
    wild.name = " [2Jhost".to_owned();
    wild.rails[0].nic = "eth0 ".to_owned();
    assert_eq!(course.other, Ok(Step::MakeRails { peer: wild }));
}

#[test]
fn a_welcome_has_an_address_for_each_of_some_rails() {
    let welcome = &said()[3];
    let end = welcome.len() - 32;
    let list = |addresses: &[Vec<u8>]| {
        let mut bytes = (addresses.len() as u16).to_le_bytes().to_vec();
        for address in addresses {
            bytes.extend((address.len() as u16).to_le_bytes());
            bytes.extend(address);
        }
        spliced(welcome, HEAD..end, &bytes)
    };
    let longest = vec![7; LONGEST_ADDRESS];
    assert!(heard_instead(3, &list(&vec![longest.clone(); MOST_RAILS])).is_ok());
    refused(3, &list(&[]), "no rails, or more than a link may have");
    refused(3, &list(&vec![vec![1]; MOST_RAILS + 1]), "no rails, or more than a link may have");
    refused(3, &list(&[vec![1], vec![]]), "an address that is empty or too long");
    refused(3, &list(&[vec![1], [&longest[..], &[7]].concat()]), "an address that is empty or too long");
    refused(3, &with(welcome, HEAD, &[1]), "bytes after its end");
    refused(3, &with(welcome, HEAD, &[3]), "it ends too early");
    refused(3, &with(welcome, HEAD + 2, &u16::MAX.to_le_bytes()), "it ends too early");
}

#[test]
fn a_message_that_is_too_short_or_too_long_is_refused() {
    for (which, message) in said().into_iter().enumerate() {
        for length in HEAD..message.len() {
            let error = heard_instead(which, &spliced(&message, length..message.len(), &[]));
            // Without the bytes of a seal, other bytes are taken for it.
            let expected = matches!(error, Err(HelloError::Rule { .. } | HelloError::WrongSecret));
            assert!(expected, "{error:?} for {length} bytes of message {which}");
        }
    }
    let proof = &said()[2];
    let long = spliced(proof, proof.len()..proof.len(), &[0]);
    let rule = "no message of its kind has its length";
    assert_eq!(heard_instead(2, &long), Err(HelloError::Rule { message: "next", rule }));
}

#[test]
fn every_message_begins_as_one_of_a_handshake() {
    for (which, message) in said().into_iter().enumerate().skip(2) {
        for (at, rule) in [
            (6, "a flag that is not known"),
            (7, "a flag that is not known"),
            (8, "it does not begin as a message of a handshake"),
            (11, "it does not begin as a message of a handshake"),
        ] {
            let error = heard_instead(which, &with(&message, at, &[message[at] ^ 0x20]));
            assert_eq!(error, Err(HelloError::Rule { message: "next", rule }));
        }
        let error = heard_instead(which, &with(&message, 4, &[6]));
        assert_eq!(error, Err(HelloError::Rule { message: "next", rule: "its kind is not known" }));
    }
}

#[test]
fn messages_come_in_their_order() {
    let said = said();
    let names = ["hello", "challenge", "proof", "welcome"];
    for which in 0..4 {
        for other in (0..4).filter(|other| *other != which) {
            let expected = Err(HelloError::Order { message: names[other] });
            assert_eq!(heard_instead(which, &said[other]), expected, "{} for {}", names[other], names[which]);
        }
    }
    assert_eq!(HelloError::Order { message: "hello" }.to_string(), "its \"hello\" message came out of order");
}

/// Whoever waits for a welcome has nothing to say.
#[test]
fn nothing_is_said_while_rails_are_made() {
    for together in [true, false] {
        let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
        assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
        assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
        let proof = output(&mut one);
        let error = if together {
            two.receive(&proof.repeat(2))
        } else {
            assert_eq!(two.receive(&proof), Ok(Step::MakeRails { peer: facts(1) }));
            two.receive(&proof)
        };
        assert_eq!(error, Err(HelloError::Order { message: "proof" }));
        assert_eq!(two.rails(addresses()), error.map(|_| ()));
    }
}

#[test]
fn a_refusal_is_within_its_limits() {
    let mut two = accepting(NoSecret);
    two.refuse(&"x".repeat(LONGEST_TEXT));
    let refusal = output(&mut two);
    assert_eq!(heard_instead(1, &refusal), Err(HelloError::Refused("x".repeat(LONGEST_TEXT))));
    let wrong = |message: &[u8]| match heard_instead(1, message) {
        Err(HelloError::Rule { rule, .. }) => rule,
        other => panic!("{other:?}"),
    };
    let long = spliced(&refusal, refusal.len()..refusal.len(), b"x");
    assert_eq!(heard_instead(1, &long), Err(HelloError::Stranger), "no message of its kind has its length");
    assert_eq!(wrong(&with(&refusal, HEAD + 6, &[0xff])), "a text that is not UTF-8");
    assert_eq!(wrong(&with(&refusal, HEAD + 2, &[2])), "its versions end before they begin");
    assert_eq!(wrong(&spliced(&refusal, HEAD + 5..refusal.len(), &[])), "it ends too early");
}

#[test]
fn rails_are_said_once_and_at_their_time() {
    let misuse = |end: &mut Handshake, addresses| matches!(end.rails(addresses), Err(HelloError::Misuse(_)));
    let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
    assert!(misuse(&mut one, addresses()) && misuse(&mut two, addresses()));
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    assert!(misuse(&mut two, addresses()));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    assert!(misuse(&mut one, addresses()));
    assert!(matches!(two.receive(&output(&mut one)), Ok(Step::MakeRails { .. })));
    let address = |length| Bytes::from(vec![1; length]);
    assert!(misuse(&mut two, Vec::new()));
    assert!(misuse(&mut two, vec![address(1); MOST_RAILS + 1]));
    assert!(misuse(&mut two, vec![address(1), address(0)]));
    assert!(misuse(&mut two, vec![address(LONGEST_ADDRESS + 1)]));
    assert!(two.output().is_empty() && !two.is_done(), "nothing has changed");
    assert_eq!(two.rails(vec![address(LONGEST_ADDRESS); MOST_RAILS]), Ok(()));
    assert!(matches!(one.receive(&output(&mut two)), Ok(Step::Connect { .. })));
    assert!(misuse(&mut two, addresses()) && misuse(&mut one, addresses()));
    assert!(one.is_done() && two.is_done());
}
