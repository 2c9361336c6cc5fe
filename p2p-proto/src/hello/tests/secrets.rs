//! Who has no secret, has another one, or sits in between.

use super::*;

#[test]
fn different_secrets_do_not_meet_and_both_ends_know_why() {
    let course = run(connecting(Toy(5)), accepting(Toy(6)), |_, _| {});
    assert_eq!(course.outcome, Err(HelloError::WrongSecret));
    assert_eq!(course.other, Err(HelloError::WrongSecret));
    assert_eq!(course.said.len(), 3);
}

#[test]
fn one_secret_is_refused_and_both_ends_say_whose_it_is() {
    let course = run(connecting(Toy(5)), accepting(NoSecret), |_, _| {});
    assert_eq!(course.outcome, Err(HelloError::OneSecret { here: true }));
    assert_eq!(course.other, Err(HelloError::OneSecret { here: false }));
    let course = run(connecting(NoSecret), accepting(Toy(5)), |_, _| {});
    assert_eq!(course.outcome, Err(HelloError::OneSecret { here: false }));
    assert_eq!(course.other, Err(HelloError::OneSecret { here: true }));
    let texts = [true, false].map(|here| HelloError::OneSecret { here }.to_string());
    assert!(
        texts[0].starts_with("this end has a secret") && texts[1].starts_with("the other end has a secret")
    );
}

/// The accepting end says that it has none, whatever it was told.
#[test]
fn an_accepting_end_without_the_secret_is_refused() {
    let mut one = connecting(Toy(5));
    let hello = with(&output(&mut one), 0x3c + 12, &[1]);
    let mut two = accepting(NoSecret);
    assert_eq!(two.receive(&hello), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Err(HelloError::OneSecret { here: true }));
}

#[test]
fn whoever_only_says_that_it_has_the_secret_is_refused() {
    struct Pretends;
    impl Seal for Pretends {
        fn seal(&self, _parts: &[&[u8]]) -> [u8; 32] {
            [0; 32]
        }
        fn is_secret(&self) -> bool {
            true
        }
    }
    let course = run(connecting(Toy(5)), accepting(Pretends), |_, _| {});
    assert_eq!(course.outcome, Err(HelloError::WrongSecret));
    // It does not look at the challenge, and goes on.
    let mut two = accepting(Toy(5));
    let mut one = connecting(Pretends);
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    let proof = run(connecting(NoSecret), accepting(NoSecret), |_, _| {}).said[2].clone();
    assert_eq!(two.receive(&proof), Err(HelloError::WrongSecret));
}

/// Every bit of every message counts: facts, versions, nonces, addresses and seals.
#[test]
fn whatever_somebody_between_them_changes_is_noticed() {
    let lengths: Vec<usize> =
        run(connecting(Toy(5)), accepting(Toy(5)), |_, _| {}).said.iter().map(Vec::len).collect();
    let mut changed = 0;
    for (which, length) in lengths.into_iter().enumerate() {
        for bit in 0..8 * length {
            let course = run(connecting(Toy(5)), accepting(Toy(5)), |message, bytes| {
                if message == which {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            });
            let connected = matches!(course.outcome, Ok(Step::Connect { .. }));
            assert!(!connected, "bit {bit} of message {which} was changed, and nobody noticed");
            let made = matches!(course.other, Ok(Step::MakeRails { .. }));
            assert!(!made || which == 3, "bit {bit} of message {which} was changed, and rails were made");
            changed += 1;
        }
    }
    assert!(changed > 1000, "{changed}");
}

/// What is not promised without a secret.
#[test]
fn without_a_secret_a_changed_address_is_not_noticed() {
    let course = run(connecting(NoSecret), accepting(NoSecret), |message, bytes| {
        if message == 3 {
            bytes[HEAD + 4] = b'F';
        }
    });
    let changed = vec![Bytes::from_static(b"First-rail"), addresses()[1].clone()];
    assert_eq!(course.outcome, Ok(Step::Connect { peer: facts(2), addresses: changed }));
}

#[test]
fn what_a_connecting_end_said_once_is_worth_nothing_again() {
    let course = run(connecting(Toy(5)), accepting(Toy(5)), |_, _| {});
    let mut again = Handshake::accepting(facts(2), [0xa3; 32], Box::new(Toy(5)));
    assert_eq!(again.receive(&course.said[0]), Ok(Step::More));
    assert_eq!(again.receive(&course.said[2]), Err(HelloError::WrongSecret));
}

#[test]
fn what_an_accepting_end_said_once_is_worth_nothing_again() {
    let course = run(connecting(Toy(5)), accepting(Toy(5)), |_, _| {});
    let mut again = Handshake::connecting(facts(1), [0xc3; 32], Box::new(Toy(5)));
    assert_eq!(again.receive(&course.said[1]), Err(HelloError::WrongSecret));
    // Nor is a welcome of a former handshake, after a challenge of this one.
    let (mut one, mut two) = (connecting(Toy(5)), Handshake::accepting(facts(2), [9; 32], Box::new(Toy(5))));
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    assert_eq!(one.receive(&course.said[3]), Err(HelloError::WrongSecret));
}

/// Whoever has no secret sends an end's own words back to it.
#[test]
fn what_an_end_said_is_worth_nothing_to_itself() {
    let mut one = connecting(Toy(5));
    let hello = output(&mut one);
    assert_eq!(one.receive(&hello), Err(HelloError::Order { message: "hello" }));

    let mut two = accepting(Toy(5));
    assert_eq!(two.receive(&hello), Ok(Step::More));
    let challenge = output(&mut two);
    let seal = &challenge[challenge.len() - 32..];
    let proof = run(connecting(NoSecret), accepting(NoSecret), |_, _| {}).said[2].clone();
    assert_eq!(two.receive(&with(&proof, HEAD, seal)), Err(HelloError::WrongSecret));
}

/// It opens two handshakes with one endpoint, one in each direction, and carries seals from one to the other.
#[test]
fn a_seal_of_the_other_direction_is_worth_nothing() {
    // The endpoint connects to the stranger ...
    let mut connects = Handshake::connecting(facts(1), [1; 32], Box::new(Toy(5)));
    let hello = output(&mut connects);
    // ... who has itself challenged with the same words, to learn a seal.
    let mut accepts = Handshake::accepting(facts(1), [2; 32], Box::new(Toy(5)));
    assert_eq!(accepts.receive(&hello), Ok(Step::More));
    let challenge = output(&mut accepts);
    assert_eq!(connects.receive(&challenge), Ok(Step::More), "the endpoint meets itself, which it may");
    let proof = output(&mut connects);
    // The seal of the proof makes no welcome.
    let welcome = run(connecting(NoSecret), accepting(NoSecret), |_, _| {}).said[3].clone();
    let forged = with(&welcome, welcome.len() - 32, &proof[proof.len() - 32..]);
    assert_eq!(connects.receive(&forged), Err(HelloError::WrongSecret));
}

#[test]
fn a_seal_that_is_wrong_in_any_one_bit_is_wrong() {
    let (mut one, mut two) = (connecting(Toy(5)), accepting(Toy(5)));
    let hello = output(&mut one);
    assert_eq!(two.receive(&hello), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    let proof = output(&mut one);
    for bit in 0..256 {
        let mut two = accepting(Toy(5));
        assert_eq!(two.receive(&hello), Ok(Step::More));
        let at = HEAD + bit / 8;
        let changed = with(&proof, at, &[proof[at] ^ 1 << (bit % 8)]);
        assert_eq!(two.receive(&changed), Err(HelloError::WrongSecret), "bit {bit}");
    }
}
