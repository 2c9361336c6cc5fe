//! Streams cut anywhere, what follows a handshake, and random bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Carries all output of `from` in pieces; returns the last that was not `More`.
fn carry(from: &mut Handshake, to: &mut Handshake, pieces: &[usize]) -> Result<Step, HelloError> {
    let mut last = Step::More;
    let mut pieces = pieces.iter().cycle();
    while !from.output().is_empty() {
        let piece = pieces.next().map_or(1, |piece| (*piece).min(from.output().len()));
        let step = to.receive(&from.output()[..piece])?;
        from.sent(piece);
        if step != Step::More {
            last = step;
        }
    }
    Ok(last)
}

proptest! {
    #[test]
    fn two_ends_meet_however_their_words_are_cut(
        pieces in vec(prop_oneof![1..4usize, 1..300usize], 1..6),
        after in vec(any::<u8>(), 0..100),
    ) {
        let (mut one, mut two) = (connecting(Toy(5)), accepting(Toy(5)));
        prop_assert_eq!(carry(&mut one, &mut two, &pieces), Ok(Step::More));
        prop_assert_eq!(carry(&mut two, &mut one, &pieces), Ok(Step::More));
        prop_assert_eq!(carry(&mut one, &mut two, &pieces), Ok(Step::MakeRails { peer: facts(1) }));
        two.rails(addresses()).expect("good addresses");
        // What follows the last word comes with it.
        let mut last = output(&mut two);
        let length = last.len();
        last.extend(&after);
        let mut rest = &last[..];
        let mut pieces = pieces.iter().cycle();
        let mut met_at = None;
        while !rest.is_empty() {
            let piece = pieces.next().map_or(1, |piece| (*piece).min(rest.len()));
            let step = one.receive(&rest[..piece]);
            rest = &rest[piece..];
            if step != Ok(Step::More) {
                prop_assert_eq!(step, met());
                prop_assert_eq!(met_at, None);
                met_at = Some(last.len() - rest.len());
            }
        }
        prop_assert!(met_at.is_some_and(|at| at >= length));
        prop_assert_eq!(&one.leftover()[..], &after[..]);
        prop_assert!(one.leftover().is_empty(), "once");
    }

    #[test]
    fn random_bytes_do_no_harm(
        first in any::<bool>(),
        kind in 0..7u8,
        body in vec(prop_oneof![3 => Just(0u8), 2 => 1..4u8, 1 => any::<u8>()], 0..200),
    ) {
        let mut message = (HEAD as u32 + body.len() as u32).to_le_bytes().to_vec();
        message.extend([kind, 1, 0, 0]);
        message.extend(b"UP2P");
        message.extend(body);
        let mut end = if first { connecting(NoSecret) } else { accepting(NoSecret) };
        if let Err(error) = end.receive(&message) {
            prop_assert!(!error.to_string().is_empty());
            prop_assert_eq!(end.receive(b"more"), Err(error));
        }
    }

    /// Any bytes in the place of any message.
    #[test]
    fn a_damaged_message_does_no_harm(which in 0..4usize, at in any::<prop::sample::Index>(), damage in vec(any::<u8>(), 1..40)) {
        let _ = run(connecting(NoSecret), accepting(NoSecret), |message, bytes| {
            if message == which {
                let at = at.index(bytes.len());
                let end = (at + damage.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&damage[..end - at]);
            }
        });
    }
}

/// The accepting end hears of the link before it has looked at its own welcome.
#[test]
fn what_comes_after_it_is_over_is_kept_up_to_a_bound() {
    let (mut one, mut two) = (connecting(NoSecret), accepting(NoSecret));
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    assert!(matches!(two.receive(&output(&mut one)), Ok(Step::MakeRails { .. })));
    // The head of something, too early.
    assert_eq!(two.receive(&[9, 0]), Ok(Step::More));
    two.rails(addresses()).expect("good addresses");
    assert_eq!(two.receive(&[8, 7]), Ok(Step::More));
    assert_eq!(&two.leftover()[..], [9, 0, 8, 7]);
    let much = vec![1; LONGEST_HANDSHAKE];
    assert_eq!(two.receive(&much), Ok(Step::More));
    assert!(matches!(two.receive(&[1]), Err(HelloError::Misuse(_))));
    assert_eq!(two.receive(&[]), Ok(Step::More));
    assert_eq!(two.leftover().len(), LONGEST_HANDSHAKE);
    assert_eq!(two.receive(&[1]), Ok(Step::More), "there is room again");
}
