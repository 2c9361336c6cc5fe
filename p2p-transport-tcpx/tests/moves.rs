//! Messages over the soft plugin, between two transports of this process.

mod support;

use p2p_transport::{Event, Outcome, Token, Transport};
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
        std::thread::sleep(std::time::Duration::from_millis(3));
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
