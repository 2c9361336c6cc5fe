//! `Traced` sees every call, changes nothing, and costs no allocation.

mod support;

use p2p_transport::{
    Accepted, Call, Event, Events, Next, Now, Op, Outcome, Slice, Stop, Token, Traced, Transport,
};
use support::{Loopback, NIC, RAIL, memory, pair};

#[test]
fn each_call_and_each_event_is_kept_in_order() {
    let mut transport = Traced::with_ring(Loopback::new(2, true), 64);
    let (memory, _host) = memory(16);
    let region = transport.register(NIC, memory).expect("registers");
    let (listener, address) = transport.listen(RAIL).expect("listens");
    let there = transport.accept(listener).expect("accepts");
    let here = transport.connect(RAIL, &address).expect("connects");
    let mut events = Events::with_capacity(8);
    let next = transport.poll(Now::default(), &mut events);
    let slices = [Slice { region, offset: 0, len: 8 }];
    let accepted = transport.submit(here, &[Op::Send { token: Token(1), from: &slices }; 3]);
    assert_eq!(accepted, Accepted::prefix(2, Stop::Busy));
    assert!(transport.cancel(here, Token(1)));
    transport.close(here).expect("open");
    transport.retire(region).expect("live");
    let mut late = Events::with_capacity(16);
    let last = transport.poll(Now::default(), &mut late);
    assert!(transport.reclaim(region).is_some());
    let seen: Vec<_> = transport.calls().copied().collect();
    let mut expected = vec![
        Call::Register(NIC, Some(region)),
        Call::Listen(Some(listener)),
        Call::Accept(listener, Some(there)),
        Call::Connect(Some(here)),
        Call::Poll(Now::default(), 2, next),
        Call::Event(Event::Connected(there)),
        Call::Event(Event::Connected(here)),
        Call::Submit(here, 3, accepted),
        Call::Cancel(here, Token(1), true),
        Call::Close(here, true),
        Call::Retire(region, true),
        Call::Poll(Now::default(), late.as_slice().len(), last),
    ];
    expected.extend(late.as_slice().iter().copied().map(Call::Event));
    expected.push(Call::Reclaim(region, true));
    assert_eq!(seen, expected);
    let counts = transport.counts();
    assert_eq!((counts.submits, counts.accepted, counts.busy, counts.closed), (1, 2, 1, 0));
    assert_eq!((counts.polls, counts.empty_polls, counts.events, counts.completions), (2, 0, 7, 2));
}

#[test]
fn what_carries_a_connection_is_passed_on() {
    let mut transport = Traced::new(Loopback::new(2, true));
    let (here, _there) = pair(&mut transport);
    assert_eq!(transport.describe(here), Some(format!("over {here:?}")));
}

#[test]
fn the_ring_keeps_the_last_calls() {
    let mut transport = Traced::with_ring(Loopback::new(2, true), 3);
    for at in 0..8 {
        let mut events = Events::with_capacity(1);
        assert_eq!(transport.poll(Now(std::time::Duration::from_secs(at)), &mut events), Next::Idle(None));
        let expected: Vec<_> = (at.saturating_sub(2)..=at).collect();
        let seen: Vec<_> = transport
            .calls()
            .map(|call| {
                let Call::Poll(now, 0, _) = call else { panic!("{call:?}") };
                now.0.as_secs()
            })
            .collect();
        assert_eq!(seen, expected);
    }
    assert_eq!(transport.counts().empty_polls, 8);
    let plain = Traced::new(Loopback::new(2, true));
    assert_eq!(plain.calls().count(), 0);
}

#[test]
fn events_that_lay_in_the_buffer_before_are_not_seen_twice() {
    let mut transport = Traced::new(Loopback::new(2, true));
    let (here, _) = pair(&mut transport);
    let before = transport.counts().events;
    let mut events = Events::with_capacity(8);
    for token in [1, 2] {
        assert_eq!(transport.send(here, Token(token), &[]), Accepted::all(1));
        let _ = transport.poll(Now::default(), &mut events);
    }
    assert_eq!((transport.counts().events - before, events.as_slice().len()), (2, 2));
}

#[test]
fn the_data_plane_allocates_nothing() {
    let mut transport = Traced::with_ring(Loopback::new(4, true), 16);
    let (here, there) = pair(&mut transport);
    let (memory, _host) = memory(64);
    let region = transport.register(NIC, memory).expect("registers");
    let (from, into) = ([Slice { region, offset: 0, len: 8 }], [Slice { region, offset: 32, len: 8 }]);
    let mut events = Events::with_capacity(8);
    let info = allocation_counter::measure(|| {
        for at in 0..200 {
            assert_eq!(transport.send(here, Token(at), &from), Accepted::all(1));
            assert_eq!(transport.recv(there, Token(at), &into), Accepted::all(1));
            let _ = transport.poll(Now::default(), &mut events);
            for event in events.drain() {
                assert!(matches!(event, Event::Completed { outcome: Outcome::Done { len: 8 }, .. }));
            }
        }
    });
    assert_eq!(info.count_total, 0);
    assert_eq!(transport.counts().completions, 400);
}
