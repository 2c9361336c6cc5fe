//! Messages over the soft plugin, between two transports of this process.

mod support;

use std::time::{Duration, Instant};

use p2p_transport::{Event, Outcome, Stop, Token, Transport};
use support::{End, pair, slice, until};

#[test]
fn messages_arrive_in_order_over_several_channels() {
    for channels in [1, 3] {
        let (mut a, at_a, mut b, at_b) = pair(channels);
        let (from, source) = a.register(1 << 20);
        let (into, target) = b.register(1 << 20);
        let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 31 % 251) as u8).collect();
        source.copy_in(0, &bytes).expect("inside");
        let count = 8_u32;
        let len = (1 << 20) / count;
        for n in 0..count {
            let part = slice(into, u64::from(n * len), len);
            assert_eq!(b.transport.recv(at_b, Token(n.into()), &[part]).count, 1);
            let halves = [
                slice(from, u64::from(n * len), len / 2),
                slice(from, u64::from(n * len + len / 2), len / 2),
            ];
            assert_eq!(a.transport.send(at_a, Token(n.into()), &halves).count, 1);
        }
        let done = Some(Outcome::Done { len });
        until(&mut a, &mut b, "moving", |a, b| {
            (0..count.into()).all(|n| a.outcome(n) == done && b.outcome(n) == done)
        });
        let mut arrived = vec![0; 1 << 20];
        target.copy_out(0, &mut arrived).expect("inside");
        assert_eq!(arrived, bytes);
        assert_eq!((a.transport.exchange_streams(), b.transport.exchange_streams()), (1, 1));
        let counters = a.transport.counters();
        std::thread::sleep(Duration::from_millis(3));
        a.poll();
        let total = counters.conns()[0].total();
        assert_eq!((total.sent.messages, total.sent.bytes), (u64::from(count), 1 << 20));
    }
}

#[test]
fn the_last_message_is_not_lost_by_closing() {
    for size in [100, 4 << 20] {
        let (mut a, at_a, mut b, at_b) = pair(2);
        let (from, _) = a.register(size as usize);
        let (into, _) = b.register(size as usize);
        assert_eq!(a.transport.send(at_a, Token(1), &[slice(from, 0, size)]).count, 1);
        if size > 100 {
            assert_eq!(b.transport.recv(at_b, Token(2), &[slice(into, 0, size)]).count, 1);
        }
        until(&mut a, &mut b, "sending", |a, _| a.outcome(1).is_some());
        a.transport.close(at_a).expect("open");
        if size == 100 {
            assert_eq!(b.transport.recv(at_b, Token(2), &[slice(into, 0, size)]).count, 1);
        }
        until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        assert_eq!(b.outcome(2), Some(Outcome::Done { len: size }));
        assert!(a.transport.why(at_a).is_none());
        assert!(b.transport.why(at_b).expect("closed there").text().contains("closed"));
    }
}

#[test]
fn a_dropped_peer_is_noticed() {
    let (mut a, at_a, b, _) = pair(2);
    let (region, _) = a.register(4096);
    assert_eq!(a.transport.recv(at_a, Token(1), &[slice(region, 0, 4096)]).count, 1);
    drop(b);
    let mut nobody = End::new(|_| {});
    until(&mut a, &mut nobody, "the end", |a, _| a.has(Event::Closed(at_a)));
    assert_eq!(a.outcome(1), Some(Outcome::ConnLost));
    let why = a.transport.why(at_a).expect("a reason").to_string();
    assert!(why.contains("peer"), "{why}");
}

#[test]
fn a_region_in_many_pieces_is_one_region() {
    let few = |options: &mut p2p_transport_tcpx::Options| options.registration_limit = Some(64 << 10);
    let (mut a, at_a, mut b, at_b) = support::connect(End::new(few), End::new(few), 2);
    let limits = a.limits(at_a);
    assert_eq!(limits.max_message, 32 << 10);
    let length = 1_000_003;
    let (from, source) = a.register(length);
    let (into, target) = b.register(length);
    let bytes: Vec<u8> = (0..length).map(|n| (n * 13 % 241) as u8).collect();
    source.copy_in(0, &bytes).expect("inside");
    let step = limits.max_message - 1;
    let (mut at, mut token) = (0, 0);
    while (at as usize) < length {
        let len = step.min(length as u32 - at);
        let part = |region| [slice(region, at.into(), len)];
        until(&mut a, &mut b, "room", |a, b| {
            a.events.len() as u64 + 2 >= token && b.events.len() as u64 + 2 >= token
        });
        assert_eq!(b.transport.recv(at_b, Token(token), &part(into)).count, 1);
        assert_eq!(a.transport.send(at_a, Token(token), &part(from)).count, 1);
        (at, token) = (at + len, token + 1);
    }
    until(&mut a, &mut b, "the last", |_, b| (0..token).all(|token| b.outcome(token).is_some()));
    let mut arrived = vec![0; length];
    target.copy_out(0, &mut arrived).expect("inside");
    assert_eq!(arrived, bytes);
    a.transport.retire(from).expect("live");
    until(&mut a, &mut b, "retiring", |a, _| a.has(Event::Retired(from)));
    let memory = a.transport.reclaim(from).expect("retired").into_any();
    let memory = memory.downcast::<p2p_memory::SharedHost>().expect("what went in");
    drop(memory);
    assert_eq!(source.owners(), 1);
}

#[test]
fn regions_registered_before_and_after_connecting_are_usable() {
    let mut a = End::new(|_| {});
    let (before, _) = a.register(4096);
    let (mut a, at_a, mut b, at_b) = support::connect(a, End::new(|_| {}), 2);
    let (after, _) = a.register(4096);
    let (into, _) = b.register(8192);
    for (token, region) in [(1, before), (2, after)] {
        assert_eq!(b.transport.recv(at_b, Token(token), &[slice(into, 0, 4096)]).count, 1);
        assert_eq!(a.transport.send(at_a, Token(token), &[slice(region, 0, 4096)]).count, 1);
    }
    until(&mut a, &mut b, "both", |_, b| {
        [1, 2].iter().all(|&token| b.outcome(token) == Some(Outcome::Done { len: 4096 }))
    });
}

#[test]
fn the_end_that_wants_or_carries_less_decides() {
    let of = |limit: usize| End::new(move |options| options.registration_limit = Some(limit));
    for (listening, connecting) in [((4, 1 << 20), (2, 64 << 10)), ((2, 64 << 10), (4, 1 << 20))] {
        let (mut a, mut b) = (of(listening.1), of(connecting.1));
        let (at_a, address) = a.listen(listening.0);
        let at_b = b.connect(connecting.0, &address);
        until(&mut a, &mut b, "connecting", |a, b| {
            a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
        });
        for limits in [a.limits(at_a), b.limits(at_b)] {
            assert_eq!((limits.max_sends, limits.max_recvs, limits.max_message), (24, 32, 32 << 10));
        }
    }
}

#[test]
fn exchange_streams_are_peers_times_rails() {
    let mut hub = End::new(|_| {});
    let mut peers: Vec<End> = (0..3).map(|_| End::new(|_| {})).collect();
    for peer in &mut peers {
        for _ in 0..2 {
            let (here, address) = hub.listen(4);
            let there = peer.connect(4, &address);
            until(&mut hub, peer, "connecting", |hub, peer| {
                hub.has(Event::Connected(here)) && peer.has(Event::Connected(there))
            });
        }
        assert_eq!(peer.transport.exchange_streams(), 2);
    }
    assert_eq!(hub.transport.exchange_streams(), 6);
}

#[test]
fn the_time_of_a_full_window_is_counted() {
    const LEN: u32 = 8 << 20;
    let (mut a, at_a, mut b, at_b) = pair(1);
    let (from, _) = a.register(LEN as usize);
    let (into, _) = b.register(LEN as usize);
    let counters = a.transport.counters();
    let full = |counters: &p2p_transport_tcpx::Counters| counters.conns()[0].window_full;
    // Nobody receives: what the sockets hold comes to an end, and the window is full.
    let begin = Instant::now();
    let mut sent = 0;
    while full(&counters) < Duration::from_millis(5) {
        sent += a.transport.send(at_a, Token(sent), &[slice(from, 0, LEN)]).count as u64;
        a.poll();
        assert!(begin.elapsed() < support::PATIENCE, "{sent} sent");
    }
    let mut received = 0;
    while (0..sent).any(|token| a.outcome(token).is_none()) {
        if received < sent {
            received += b.transport.recv(at_b, Token(received), &[slice(into, 0, LEN)]).count as u64;
        }
        a.poll();
        b.poll();
        assert!(begin.elapsed() < support::PATIENCE, "{received} of {sent} received");
    }
    a.poll();
    let time = full(&counters);
    for _ in 0..20 {
        a.poll();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(full(&counters) < time + Duration::from_millis(5), "there is room again");
    assert_eq!(counters.nic(p2p_transport::NicId(0)).window_full, full(&counters));
}

#[test]
fn what_was_sent_before_a_close_can_be_received_after_it() {
    for channels in [1, 2] {
        let (mut a, at_a, mut b, at_b) = pair(channels);
        let (from, source) = a.register(3000);
        let (into, target) = b.register(3000);
        source.fill(0, 3000, 7).expect("inside");
        for n in 0..3 {
            assert_eq!(a.transport.send(at_a, Token(n), &[slice(from, 1000 * n, 1000)]).count, 1);
        }
        until(&mut a, &mut b, "sending", |a, _| (0..3).all(|n| a.outcome(n).is_some()));
        a.transport.close(at_a).expect("open");
        // From here on the peer knows that it was closed: it takes no sends any more.
        let begin = Instant::now();
        while b.transport.send(at_b, Token(9), &[slice(into, 0, 1)]).stopped != Some(Stop::Closed) {
            a.poll();
            b.poll();
            assert!(begin.elapsed() < support::PATIENCE);
        }
        for n in 0..3 {
            assert_eq!(b.transport.recv(at_b, Token(n), &[slice(into, 1000 * n, 1000)]).count, 1);
            until(&mut a, &mut b, "a message", |_, b| b.outcome(n).is_some());
            assert_eq!(b.outcome(n), Some(Outcome::Done { len: 1000 }), "{n}");
        }
        until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        let mut bytes = vec![0; 3000];
        target.copy_out(0, &mut bytes).expect("inside");
        assert!(bytes.iter().all(|&byte| byte == 7));
    }
}

#[test]
fn a_send_that_ends_after_the_close_is_not_said_to_be_done() {
    let (mut a, at_a, mut b, at_b) = pair(1);
    let (from, _) = a.register(100);
    assert_eq!(a.transport.send(at_a, Token(1), &[slice(from, 0, 100)]).count, 1);
    a.transport.close(at_a).expect("open");
    until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
    assert_eq!(a.outcome(1), Some(Outcome::ConnLost), "the peer did not wait for it");
}

#[test]
fn an_aborted_connection_waits_for_nothing_of_its_peer() {
    let patient = || End::new(|options| options.peer_timeout = 10 * support::PATIENCE);
    for closed_before in [false, true] {
        let (mut a, at_a, mut b, at_b) = support::connect(patient(), patient(), 2);
        let (region, memory) = a.register(100);
        for token in 0..4 {
            assert_eq!(a.transport.recv(at_a, Token(token), &[slice(region, 0, 100)]).count, 1);
        }
        if closed_before {
            a.transport.close(at_a).expect("open");
            a.poll();
        }
        a.transport.abort(at_a).expect("open");
        let begin = Instant::now();
        // The peer is not driven.
        while !a.has(Event::Closed(at_a)) {
            a.poll();
            assert!(begin.elapsed() < support::PATIENCE, "{:?}", a.events);
        }
        assert!((0..4).all(|token| a.outcome(token) == Some(Outcome::ConnLost)));
        assert!(a.transport.abort(at_a).is_err(), "a stale id");
        // What the peer sends now is nobody's.
        let (from, source) = b.register(100);
        source.fill(0, 100, 7).expect("inside");
        let _ = b.transport.send(at_b, Token(1), &[slice(from, 0, 100)]);
        until(&mut a, &mut b, "the peer's end", |_, b| b.has(Event::Closed(at_b)));
        let mut bytes = [1; 100];
        memory.copy_out(0, &mut bytes).expect("inside");
        assert_eq!(bytes, [0; 100]);
    }
}
