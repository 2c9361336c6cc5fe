//! Ends that do not want to.

use super::*;
use crate::frame::LONGEST_TEXT;

#[test]
fn either_end_may_refuse_before_it_is_over() {
    let why = "no room for another peer";
    let refused = Err(HelloError::Refused(why.to_owned()));
    for turns in 0..3 {
        for by_accepting in [false, true] {
            let (mut one, mut two) = (connecting(Toy(5)), accepting(Toy(5)));
            for turn in 0..turns {
                let heard = if turn % 2 == 0 {
                    two.receive(&output(&mut one))
                } else {
                    one.receive(&output(&mut two))
                };
                assert_eq!(heard, Ok(Step::More));
            }
            let (refuses, other) = if by_accepting { (&mut two, &mut one) } else { (&mut one, &mut two) };
            let _ = output(refuses);
            let _ = output(other);
            refuses.refuse(why);
            assert_eq!(other.receive(&output(refuses)), refused);
            assert!(other.output().is_empty(), "both have said their last word");
            assert!(matches!(refuses.receive(b""), Err(HelloError::Misuse(_))));
            assert!(!refuses.is_done() && !other.is_done());
        }
    }
}

#[test]
fn the_accepting_end_may_refuse_where_it_makes_no_rails() {
    let (mut one, mut two) = (connecting(Toy(5)), accepting(Toy(5)));
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    assert!(matches!(two.receive(&output(&mut one)), Ok(Step::MakeRails { .. })));
    two.refuse("no NIC is up");
    assert!(matches!(two.rails(addresses()), Err(HelloError::Misuse(_))));
    let error = one.receive(&output(&mut two)).expect_err("refused");
    assert_eq!(error.to_string(), "the other end refuses: no NIC is up");
}

/// The connecting end gives up in the same breath, or while rails are made.
#[test]
fn the_connecting_end_may_refuse_while_rails_are_made() {
    for together in [true, false] {
        let (mut one, mut two) = (connecting(Toy(5)), accepting(Toy(5)));
        assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
        assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
        if !together {
            assert!(matches!(two.receive(&output(&mut one)), Ok(Step::MakeRails { .. })));
        }
        one.refuse("changed its mind");
        let refused = HelloError::Refused("changed its mind".to_owned());
        assert_eq!(two.receive(&output(&mut one)), Err(refused.clone()));
        assert_eq!(two.rails(addresses()), Err(refused));
    }
}

#[test]
fn a_text_is_cut_between_characters_and_cannot_write_to_a_terminal() {
    let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
    two.refuse(&"\u{e4}\u{20ac}".repeat(1000));
    let text = "\u{e4}\u{20ac}".repeat(LONGEST_TEXT / 5) + "\u{e4}";
    assert_eq!(one.receive(&output(&mut two)), Err(HelloError::Refused(text)));
    let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
    two.refuse("\u{1b}[31mred\n");
    assert_eq!(one.receive(&output(&mut two)), Err(HelloError::Refused(" [31mred ".to_owned())));
}

#[test]
fn a_refusal_of_a_reason_that_is_not_known_is_its_text() {
    let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
    two.refuse("later");
    let refusal = with(&output(&mut two), HEAD, &[0xff, 0xff]);
    assert_eq!(one.receive(&refusal), Err(HelloError::Refused("later".to_owned())));
}

#[test]
fn when_it_is_over_a_refusal_says_nothing() {
    let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    assert!(matches!(two.receive(&output(&mut one)), Ok(Step::MakeRails { .. })));
    two.rails(addresses()).expect("good addresses");
    let welcome = output(&mut two);
    two.refuse("too late");
    assert!(two.output().is_empty() && two.is_done());
    assert_eq!(one.receive(&welcome), met());
    one.refuse("too late");
    assert!(one.output().is_empty() && one.is_done());
}

/// The first word counts.
#[test]
fn after_an_error_a_refusal_says_nothing() {
    let mut two = accepting(NoSecret);
    assert_eq!(two.receive(b"GET / HTTP"), Err(HelloError::Stranger));
    two.refuse("and this");
    assert!(two.output().is_empty());
    assert_eq!(two.receive(b""), Err(HelloError::Stranger));
}

/// Both ends learn about a broken rule, in words.
#[test]
fn a_peer_that_breaks_a_rule_is_told_which() {
    let mut facts = facts(1);
    facts.rails.clear();
    let one = Handshake::connecting(facts, [1; 32], Box::new(NoSecret));
    let course = run(one, accepting(NoSecret), |_, _| {});
    let rule = "no rails, or more than a link may have";
    assert_eq!(course.other, Err(HelloError::Rule { message: "hello", rule }));
    let text = format!("your \"hello\" message breaks a rule: {rule}");
    assert_eq!(course.outcome, Err(HelloError::Refused(text)));
}
