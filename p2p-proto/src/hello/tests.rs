use bytes::Bytes;

use super::message::HEAD;
use super::*;

mod golden;
mod refusals;
mod rules;
mod secrets;
mod strangers;
mod streams;
mod versions;

const ADDRESSES: [&[u8]; 2] = [b"first-rail", b"second-rail"];

fn facts(name: u8) -> Facts {
    let rail = |nic: &str, megabits| RailFacts { nic: nic.to_owned(), megabits, channels: 4 };
    Facts {
        endpoint: EndpointId([name; 16]),
        epoch: Epoch(u64::from(name) << 8),
        device: (name % 2 == 1).then_some(3),
        name: format!("host-{name}:99"),
        rails: vec![rail("eth0", 200_000), rail("eth1", 0)],
    }
}

fn addresses() -> Vec<Bytes> {
    ADDRESSES.map(Bytes::from_static).into()
}

/// Something like a keyed hash, good enough against those who do not try.
#[derive(Clone, Copy)]
struct Toy(u64);

impl Seal for Toy {
    fn seal(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut lanes = [self.0, !self.0, self.0.rotate_left(17), self.0 ^ 0x9e37_79b9_7f4a_7c15];
        for (at, byte) in parts.iter().copied().flatten().enumerate() {
            let lane = &mut lanes[at % 4];
            *lane = (*lane ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
            lanes[(at + 1) % 4] ^= lanes[at % 4];
        }
        for _ in 0..8 {
            for at in 0..4 {
                lanes[(at + 1) % 4] = (lanes[(at + 1) % 4] ^ lanes[at]).wrapping_mul(0x0100_0000_01b3);
            }
        }
        let mut seal = [0; 32];
        seal.chunks_mut(8).zip(lanes).for_each(|(bytes, lane)| bytes.copy_from_slice(&lane.to_le_bytes()));
        seal
    }

    fn is_secret(&self) -> bool {
        true
    }
}

fn connecting(seal: impl Seal + Send + 'static) -> Handshake {
    Handshake::connecting(facts(1), [0xc1; 32], Box::new(seal))
}

fn accepting(seal: impl Seal + Send + 'static) -> Handshake {
    Handshake::accepting(facts(2), [0xa2; 32], Box::new(seal))
}

/// Takes what an end has to send.
fn output(end: &mut Handshake) -> Vec<u8> {
    let bytes = end.output().to_vec();
    end.sent(bytes.len());
    assert!(end.output().is_empty());
    bytes
}

/// What both ends said, message by message, and how the connecting end came out of it.
struct Course {
    said: Vec<Vec<u8>>,
    outcome: Result<Step, HelloError>,
    /// What the accepting end was told.
    other: Result<Step, HelloError>,
}

/// Runs a handshake to its end, or until nobody has anything to say; `change` sees each message on its way.
fn run(mut one: Handshake, mut two: Handshake, mut change: impl FnMut(usize, &mut Vec<u8>)) -> Course {
    let (mut said, mut outcome, mut other) = (Vec::new(), Ok(Step::More), Ok(Step::More));
    // Each end has three messages at most, and a last word.
    for _ in 0..4 {
        let mut carry = |from: &mut Handshake, to: &mut Handshake, last: &mut Result<Step, HelloError>| {
            let mut message = output(from);
            if message.is_empty() {
                return false;
            }
            change(said.len(), &mut message);
            let heard = to.receive(&message);
            said.push(message);
            if let Ok(Step::MakeRails { .. }) = heard {
                to.rails(addresses()).expect("good addresses");
            }
            if last.is_ok() {
                *last = heard;
            }
            true
        };
        let forth = carry(&mut one, &mut two, &mut other);
        let back = carry(&mut two, &mut one, &mut outcome);
        if !forth && !back {
            return Course { said, outcome, other };
        }
    }
    panic!("they do not come to an end: {said:?}");
}

fn met() -> Result<Step, HelloError> {
    Ok(Step::Connect { peer: facts(2), addresses: addresses() })
}

fn with(bytes: &[u8], at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

/// Puts `value` in the place of some bytes of a message, and corrects its length.
fn spliced(message: &[u8], at: std::ops::Range<usize>, value: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    bytes.splice(at, value.iter().copied());
    let length = bytes.len() as u32;
    with(&bytes, 0, &length.to_le_bytes())
}

#[test]
fn two_ends_meet() {
    for course in [
        run(connecting(NoSecret), accepting(NoSecret), |_, _| {}),
        run(connecting(Toy(5)), accepting(Toy(5)), |_, _| {}),
    ] {
        assert_eq!(course.outcome, met());
        assert_eq!(course.other, Ok(Step::MakeRails { peer: facts(1) }));
        assert_eq!(course.said.len(), 4);
    }
}

#[test]
fn an_endpoint_may_meet_itself() {
    let one = Handshake::connecting(facts(1), [1; 32], Box::new(Toy(5)));
    let two = Handshake::accepting(facts(1), [2; 32], Box::new(Toy(5)));
    let course = run(one, two, |_, _| {});
    assert_eq!(course.outcome, Ok(Step::Connect { peer: facts(1), addresses: addresses() }));
    assert_eq!(course.other, Ok(Step::MakeRails { peer: facts(1) }));
}

#[test]
fn both_are_done_at_the_end_and_not_before() {
    let (mut one, mut two) = (connecting(Toy(5)), accepting(Toy(5)));
    assert!(two.output().is_empty(), "it speaks second");
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::More));
    assert_eq!(one.receive(&output(&mut two)), Ok(Step::More));
    assert_eq!(two.receive(&output(&mut one)), Ok(Step::MakeRails { peer: facts(1) }));
    assert!(!one.is_done() && !two.is_done());
    assert!(two.output().is_empty(), "it waits for its rails");
    two.rails(addresses()).expect("good addresses");
    assert!(!one.is_done() && two.is_done());
    assert_eq!(one.receive(&output(&mut two)), met());
    assert!(one.is_done() && two.is_done());
    assert!(one.output().is_empty() && one.leftover().is_empty() && two.leftover().is_empty());
}

#[test]
fn debug_output_holds_no_nonce_seal_or_address() {
    let mut one = Handshake::connecting(facts(1), [0xc1; 32], Box::new(Toy(0x5151_5151)));
    let mut two = Handshake::accepting(facts(2), [0xa2; 32], Box::new(Toy(0x5151_5151)));
    let mut texts = vec![format!("{one:?} {two:?}")];
    for _ in 0..2 {
        let heard = two.receive(&output(&mut one));
        if matches!(heard, Ok(Step::MakeRails { .. })) {
            two.rails(addresses()).expect("good addresses");
        }
        texts.push(format!("{one:?} {two:?} {heard:?}"));
        let heard = one.receive(&output(&mut two));
        texts.push(format!("{one:?} {two:?} {heard:?}"));
    }
    assert!(one.is_done() && two.is_done());
    let text = texts.concat();
    assert!(text.contains("host-1:99") && text.contains("host-2:99") && text.contains("rails: 2"), "{text}");
    for hidden in ["193, 193", "162, 162", "c1c1", "a2a2", "first-rail", "102, 105", "1364283729", "51515151"]
    {
        assert!(!text.to_lowercase().contains(hidden), "{hidden} in {text}");
    }
}
