//! Exchange streams that somebody interferes with: delayed, cut in each phase, and with words that may not be
//! said.

#[path = "support/relay.rs"]
mod relay;
mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use p2p_transport::{ConnId, Event, Outcome, Token, Transport};
use relay::{Fate, Relay};
use support::{End, PATIENCE, carry, slice, until};

/// Ends whose deadlines do not hide what is noticed too late.
fn patient() -> End {
    End::new(|options| {
        options.connect_timeout = Duration::from_secs(600);
        options.peer_timeout = Duration::from_secs(600);
    })
}

fn why(end: &End, conn: ConnId) -> String {
    end.transport.why(conn).map(ToString::to_string).unwrap_or_default()
}

/// The connecting end is connected, sends, and closes while the other one does not look.
fn is_heard_in_full(held: bool) {
    let (mut a, mut b) = (patient(), patient());
    let (into, target) = a.register(100);
    let (from, source) = b.register(100);
    source.fill(0, 100, 7).expect("inside");
    // Registering these takes a while, in which the other end is ready.
    let _more: Vec<_> = (0..40).map(|_| a.register(10)).collect();
    let (at_a, address) = a.listen(1);
    let hold = move |of_connecting, kind| match (held, of_connecting, kind) {
        (true, true, relay::READY) => Fate::Hold,
        _ => Fate::Pass,
    };
    let (relay, address) = Relay::before(&address, hold);
    let at_b = b.connect(1, &address);
    let begin = Instant::now();
    while !relay.saw(false, relay::READY) {
        a.poll();
        for _ in 0..20 {
            b.poll();
            // The plugin's threads and the relay's are to keep up.
            std::thread::sleep(Duration::from_micros(100));
        }
        assert!(begin.elapsed() < PATIENCE, "{} {}", why(&a, at_a), why(&b, at_b));
    }
    // From here on this end does not look.
    let mut nobody = End::new(|_| {});
    until(&mut b, &mut nobody, "one end", |b, _| b.has(Event::Connected(at_b)));
    assert!(!(held && a.has(Event::Connected(at_a))));
    assert_eq!(b.transport.send(at_b, Token(1), &[slice(from, 0, 100)]).count, 1);
    let done = Some(Outcome::Done { len: 100 });
    until(&mut b, &mut nobody, "sending", |b, _| b.outcome(1) == done);
    b.transport.close(at_b).expect("open");
    until(&mut b, &mut nobody, "saying so", |_, _| relay.saw(true, relay::CLOSING));
    if held {
        relay.release();
    }
    until(&mut a, &mut b, "the other end", |a, _| {
        a.has(Event::Connected(at_a)) || a.has(Event::Closed(at_a))
    });
    assert!(a.has(Event::Connected(at_a)), "{}", why(&a, at_a));
    assert_eq!(a.transport.recv(at_a, Token(2), &[slice(into, 0, 100)]).count, 1);
    until(&mut a, &mut b, "the end", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
    assert_eq!(a.outcome(2), done);
    let mut arrived = [0; 100];
    target.copy_out(0, &mut arrived).expect("inside");
    assert_eq!(arrived, [7; 100]);
    assert!(why(&a, at_a).contains("closed"), "{}", why(&a, at_a));
    assert!(why(&b, at_b).is_empty(), "{}", why(&b, at_b));
}

#[test]
fn a_peer_that_sends_and_closes_before_anybody_looks_is_heard_in_full() {
    // Its ready comes with its goodbye.
    is_heard_in_full(true);
    // Its ready comes before this end is ready itself, most of the time.
    for _ in 0..5 {
        is_heard_in_full(false);
    }
}

/// What a peer may not say once a connection is made, what this end says of it, and whether the stream is cut
/// right behind it.
#[test]
fn words_that_may_not_be_said_end_their_connection_alone() {
    let goodbye = relay::closing(&[0]);
    let cases = [
        (relay::frame(relay::RECEIVED, &[]), "received what was not sent", false),
        ([&goodbye[..], &goodbye].concat(), "closed", false),
        (relay::closing(&[0, 0]), "order", false),
        (relay::closing(&[]), "breaks a rule", false),
        (relay::frame(relay::READY, &[]), "order", false),
        (relay::frame(99, &[]), "unknown kind", false),
        (vec![0xff; 64], "too long", false),
        (relay::refused("the sky fell down"), "the sky fell down", false),
        (relay::refused("the sky fell down")[..9].to_vec(), "gone", true),
        (goodbye[..goodbye.len() - 1].to_vec(), "gone", true),
    ];
    let (mut a, mut b) = (patient(), patient());
    let (good_a, address) = a.listen(1);
    let good_b = b.connect(1, &address);
    let (region_a, _) = a.register(64);
    let (region_b, _) = b.register(64);
    let mut token = 0;
    for (bytes, says, cut) in cases {
        let (at_a, address) = a.listen(1);
        let (relay, address) = Relay::before(&address, |_, _| Fate::Pass);
        let at_b = b.connect(1, &address);
        until(&mut a, &mut b, "connecting", |a, b| {
            a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b)) && a.has(Event::Connected(good_a))
        });
        assert_eq!(a.transport.recv(at_a, Token(token), &[slice(region_a, 0, 64)]).count, 1);
        assert_eq!(b.transport.recv(at_b, Token(token), &[slice(region_b, 0, 64)]).count, 1);
        relay.say_to_accepting(&bytes);
        if cut {
            relay.cut();
        }
        until(&mut a, &mut b, says, |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        assert_eq!([a.outcome(token), b.outcome(token)], [Some(Outcome::ConnLost); 2], "{says}");
        assert!(why(&a, at_a).contains(says), "{says} in {}", why(&a, at_a));
        assert!(!why(&b, at_b).is_empty(), "{says}");
        carry(&mut a, good_a, &mut b, good_b, token + 1..token + 2);
        token += 2;
    }
}

#[test]
fn a_peer_that_never_stops_talking_does_not_hold_a_poll() {
    let mut a = End::new(|_| {});
    let (mut b, mut c) = (End::new(|_| {}), End::new(|_| {}));
    let (good_a, address) = a.listen(1);
    let good_c = c.connect(1, &address);
    let (at_a, address) = a.listen(1);
    let swallow = |of_connecting: bool, kind| match (of_connecting, kind) {
        (false, relay::CLOSING) => Fate::Swallow,
        _ => Fate::Pass,
    };
    let (relay, address) = Relay::before(&address, swallow);
    let at_b = b.connect(1, &address);
    until(&mut a, &mut b, "connecting", |a, b| {
        a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
    });
    until(&mut a, &mut c, "connecting", |a, c| {
        a.has(Event::Connected(good_a)) && c.has(Event::Connected(good_c))
    });
    a.transport.close(at_a).expect("open");
    let stop = Arc::new(AtomicBool::new(false));
    let mut stream = relay.accepting();
    let talking = std::thread::spawn({
        let stop = stop.clone();
        move || {
            // It closes too, and has sent more than ever arrives, so that the end is not agreed.
            let _ = stream.write_all(&relay::closing(&[1000]));
            let begin = Instant::now();
            let much = relay::frame(relay::RECEIVED, &[]).repeat(20_000);
            while stream.write_all(&much).is_ok() && !stop.load(Ordering::Relaxed) {
                assert!(begin.elapsed() < PATIENCE / 3, "a poll takes as long as somebody talks");
            }
        }
    });
    until(&mut a, &mut b, "the end", |a, _| a.has(Event::Closed(at_a)));
    stop.store(true, Ordering::Relaxed);
    talking.join().expect("no panic");
    carry(&mut a, good_a, &mut c, good_c, 1..2);
}

/// The stream is lost together with a frame, in each phase. Nothing here waits for a deadline.
#[test]
fn a_peer_that_dies_while_a_connection_is_made_ends_it_at_once() {
    for kind in [relay::HELLO, relay::WELCOME, relay::HANDLES, relay::READY] {
        let (mut a, mut b) = (patient(), patient());
        let (at_a, address) = a.listen(2);
        let cut = move |_, seen| if seen == kind { Fate::Cut } else { Fate::Pass };
        let (_, crafted) = Relay::before(&address, cut);
        let at_b = b.connect(2, &crafted);
        until(&mut a, &mut b, "the connecting end", |_, b| b.has(Event::Closed(at_b)));
        assert!(!why(&b, at_b).is_empty() && !b.has(Event::Connected(at_b)), "{kind}");
        if kind == relay::HELLO {
            // Nobody has come yet, so that another one still may.
            assert!(!a.has(Event::Closed(at_a)));
            let mut other = patient();
            let at_b = other.connect(2, &address);
            until(&mut a, &mut other, "connecting", |a, b| {
                a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
            });
            carry(&mut a, at_a, &mut other, at_b, 1..2);
        } else {
            until(&mut a, &mut b, "the accepting end", |a, _| a.has(Event::Closed(at_a)));
            assert!(!why(&a, at_a).is_empty() && !a.has(Event::Connected(at_a)), "{kind}");
        }
    }
}

#[test]
fn a_peer_that_dies_when_a_connection_is_open_ends_it_at_once() {
    let (mut a, mut b) = (patient(), patient());
    let (at_a, address) = a.listen(2);
    let (relay, address) = Relay::before(&address, |_, _| Fate::Pass);
    let at_b = b.connect(2, &address);
    until(&mut a, &mut b, "connecting", |a, b| {
        a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
    });
    carry(&mut a, at_a, &mut b, at_b, 1..2);
    relay.cut();
    until(&mut a, &mut b, "the end", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
    for (end, conn) in [(&a, at_a), (&b, at_b)] {
        assert!(why(end, conn).contains("gone"), "{}", why(end, conn));
    }
}

#[test]
fn a_peer_that_dies_while_a_connection_ends_does_not_delay_the_end() {
    for kind in [relay::CLOSING, relay::RECEIVED] {
        let (mut a, mut b) = (patient(), patient());
        let (at_a, address) = a.listen(2);
        let cut = move |_, seen| if seen == kind { Fate::Cut } else { Fate::Pass };
        let (_, address) = Relay::before(&address, cut);
        let at_b = b.connect(2, &address);
        until(&mut a, &mut b, "connecting", |a, b| {
            a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
        });
        carry(&mut a, at_a, &mut b, at_b, 1..2);
        a.transport.close(at_a).expect("open");
        until(&mut a, &mut b, "the end", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        assert!(why(&a, at_a).is_empty(), "this end has closed it: {}", why(&a, at_a));
        assert!(!why(&b, at_b).is_empty());
    }
}

#[test]
fn closing_against_a_peer_that_never_looks_takes_the_bound_and_no_longer() {
    let bound = Duration::from_secs(2);
    let (mut a, at_a, mut b, at_b) = support::connect(End::new(|_| {}), patient(), 1);
    let (from, _) = a.register(100);
    let mut nobody = End::new(|_| {});
    assert_eq!(a.transport.send(at_a, Token(1), &[slice(from, 0, 100)]).count, 1);
    until(&mut a, &mut nobody, "sending", |a, _| a.outcome(1) == Some(Outcome::Done { len: 100 }));
    let begin = Instant::now();
    a.transport.close(at_a).expect("open");
    until(&mut a, &mut nobody, "the end", |a, _| a.has(Event::Closed(at_a)));
    assert!(begin.elapsed() >= bound, "{:?}", begin.elapsed());
    // The peer looks at last, and can still receive nothing more or everything; it ends in any case.
    let (into, _) = b.register(100);
    let _ = b.transport.recv(at_b, Token(1), &[slice(into, 0, 100)]);
    until(&mut b, &mut nobody, "the other end", |b, _| b.has(Event::Closed(at_b)));
    assert!(!why(&b, at_b).is_empty());
}
