use bytes::Bytes;

use super::*;

fn facts(name: u8) -> Facts {
    Facts {
        endpoint: EndpointId([name; 16]),
        epoch: Epoch(7),
        device: Some(3),
        name: format!("host-{name}:99"),
        rails: vec![RailFacts { nic: "eth0".to_owned(), megabits: 200_000, channels: 4 }],
    }
}

#[test]
fn two_ends_meet() {
    let mut one = Handshake::connecting(facts(1), [1; 32], Box::new(NoSecret));
    let mut two = Handshake::accepting(facts(2), [2; 32], Box::new(NoSecret));
    let hello = one.output().to_vec();
    assert_eq!(two.receive(&hello), Ok(Step::More));
    let challenge = two.output().to_vec();
    two.sent(challenge.len());
    one.sent(hello.len());
    assert_eq!(one.receive(&challenge), Ok(Step::More));
    let proof = one.output().to_vec();
    assert_eq!(two.receive(&proof), Ok(Step::MakeRails { peer: facts(1) }));
    two.rails(vec![Bytes::from_static(b"there")]).expect("good");
    let mut welcome = two.output().to_vec();
    welcome.push(9);
    assert_eq!(
        one.receive(&welcome),
        Ok(Step::Connect { peer: facts(2), addresses: vec![Bytes::from_static(b"there")] })
    );
    assert_eq!(&one.leftover()[..], [9]);
}
