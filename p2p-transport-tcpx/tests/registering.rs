//! Memory that comes and goes while connections are made.

mod support;

use p2p_transport::{Event, Events, OpFault, Outcome, Token, Transport};
use support::{End, slice, until};

/// The report of a retired region waits for room; meanwhile a connection registers what there is.
#[test]
fn a_region_that_was_retired_while_a_connection_opens_is_given_back_and_unusable() {
    let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
    let (old, old_memory) = a.register(4096);
    old_memory.fill(0, 4096, 0xaa).expect("inside");
    let (into, target) = b.register(4096);
    let (at_a, address) = a.listen(1);
    let at_b = b.connect(1, &address);
    a.transport.retire(old).expect("live");
    let mut no_room = Events::with_capacity(0);
    let mut nobody = End::new(|_| {});
    until(&mut b, &mut nobody, "the other end's ready", |b, _| {
        let now = a.now();
        let _ = a.transport.poll(now, &mut no_room);
        b.has(Event::Connected(at_b))
    });
    until(&mut a, &mut b, "the reports", |a, _| a.has(Event::Connected(at_a)) && a.has(Event::Retired(old)));
    drop(a.transport.reclaim(old).expect("nobody uses it"));
    assert_eq!(old_memory.owners(), 1);

    // Its place may be taken by another one, and its id stays without meaning.
    let (new, new_memory) = a.register(4096);
    new_memory.fill(0, 4096, 0xbb).expect("inside");
    assert_eq!(new.index(), old.index());
    assert_eq!(a.transport.send(at_a, Token(1), &[slice(old, 0, 4096)]).count, 1);
    assert_eq!(a.transport.send(at_a, Token(2), &[slice(new, 0, 4096)]).count, 1);
    assert_eq!(b.transport.recv(at_b, Token(3), &[slice(into, 0, 4096)]).count, 1);
    until(&mut a, &mut b, "the messages", |a, b| a.outcome(2).is_some() && b.outcome(3).is_some());
    assert_eq!(a.outcome(1), Some(Outcome::Failed(OpFault::BadSlice)));
    assert_eq!(b.outcome(3), Some(Outcome::Done { len: 4096 }));
    let mut arrived = vec![0; 4096];
    target.copy_out(0, &mut arrived).expect("inside");
    assert!(arrived.iter().all(|byte| *byte == 0xbb), "{:x?}", &arrived[..8]);
}

/// One region comes and goes with each look, so that some look registers it on the new connection.
#[test]
fn regions_that_come_and_go_while_a_connection_opens_are_all_given_back() {
    let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
    let (at_a, address) = a.listen(2);
    let at_b = b.connect(2, &address);
    let (mut gone, mut last) = (Vec::new(), None);
    // This end looks at its own pace here, and `until` calls it as well.
    let mut nobody = End::new(|_| {});
    until(&mut b, &mut nobody, "connecting", |b, _| {
        let next = a.register(4096);
        if let Some((region, memory)) = last.replace(next) {
            a.transport.retire(region).expect("live");
            gone.push((region, memory));
        }
        a.poll();
        a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
    });
    until(&mut a, &mut b, "the reports", |a, _| {
        gone.iter().all(|(region, _)| a.has(Event::Retired(*region)))
    });
    for (region, memory) in gone {
        drop(a.transport.reclaim(region).expect("nobody uses it"));
        assert_eq!(memory.owners(), 1);
    }
}
