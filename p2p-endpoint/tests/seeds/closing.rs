//! Whoever closes right after its last operation has ended takes nothing from its peer.

use std::time::Instant;

use p2p_endpoint::endpoint::Progress;
use p2p_endpoint::engine::{LinkId, Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::{SendDone, Settings};

use crate::both;
use crate::support::sockets::{PATIENCE, endpoint, link};
use crate::support::{Pair, bytes, filled};

const LEN: usize = 3 << 20;

/// A pair whose control streams hold so many bytes, and its link.
fn pair(settings: &Settings, control: usize) -> (Pair, LinkId, LinkId) {
    let mut settings = settings.clone();
    settings.control_buffer = control;
    let mut pair = Pair::new(settings, 2);
    let (here, there) = pair.connect(0, 1);
    (pair, here, there)
}

#[test]
fn what_was_sent_before_the_close_is_received() {
    both(|settings| {
        for send_done in [SendDone::Sent, SendDone::Acknowledged] {
            let mut settings = settings.clone();
            settings.send_done = send_done;
            for control in [64, 64 << 10] {
                send_and_close(&settings, control);
            }
        }
    });
}

/// A message, a write that counts, and notifications; then the end, in the moment in which the last of them is done.
fn send_and_close(settings: &Settings, control: usize) {
    let (mut pair, here, there) = pair(settings, control);
    let (source, target, written) =
        (filled(LEN, 1), SharedHost::new(LEN).expect("memory"), SharedHost::new(LEN).expect("memory"));
    let from = Part { mr: pair.reg(0, &source), offset: 0, len: LEN as u64 };
    let (to, into) = (pair.reg(1, &target), pair.reg(1, &written));
    let into = pair.item(1, into, 0, LEN as u64);
    pair.start(1, there, 1, &[Part { mr: to, offset: 0, len: LEN as u64 }], Request::Recv);
    pair.engines[0].notify(here, None, vec![1; 100_000].into()).expect("there is room");
    pair.start(0, here, 2, &[from], Request::Write { into: &[into], counter: Some(7) });
    pair.start(0, here, 3, &[from], Request::Send);
    assert_eq!(pair.outcome(0, 2), Outcome::Done { bytes: LEN as u64 });
    assert_eq!(pair.outcome(0, 3), Outcome::Done { bytes: LEN as u64 });
    // What was said last is said before the end.
    pair.engines[0].notify(here, None, vec![2; 5000].into()).expect("there is room");
    pair.engines[0].close(here).expect("it is up");
    pair.until("the end of the link", |pair| pair.said[1].closed == [there]);
    assert_eq!(pair.outcome(1, 1), Outcome::Done { bytes: LEN as u64 });
    assert!(bytes(&target, 0, LEN) == bytes(&source, 0, LEN));
    assert!(bytes(&written, 0, LEN) == bytes(&source, 0, LEN));
    assert_eq!(pair.said[1].counted, [7]);
    let came: Vec<usize> = pair.said[1].notified.iter().map(|bytes| bytes.len()).collect();
    assert_eq!(came.first(), Some(&100_000), "said before anything was done");
    pair.until("the end of everything", |pair| pair.engines.iter().all(|engine| engine.is_empty()));
}

/// The word that all has landed is still on its way when the receiver closes.
#[test]
fn whoever_received_and_closed_lets_the_sender_know_that_all_has_landed() {
    both(|mut settings| {
        // What is reported only once the peer has it may not be reported any more when the peer closes.
        settings.send_done = SendDone::Sent;
        for control in [64, 64 << 10] {
            let (mut pair, here, there) = pair(&settings, control);
            let (source, target) = (filled(LEN, 1), SharedHost::new(LEN).expect("memory"));
            let from = Part { mr: pair.reg(0, &source), offset: 0, len: LEN as u64 };
            let to = Part { mr: pair.reg(1, &target), offset: 0, len: LEN as u64 };
            pair.start(0, here, 1, &[from], Request::Send);
            pair.start(1, there, 2, &[to], Request::Recv);
            // Words that are said before that one, as far as the stream takes them.
            pair.until("all chunks", |pair| {
                pair.engines[1].counters().by_link[0].rails[0].messages.received.bytes > 0
            });
            pair.engines[1].notify(there, None, vec![3; 20_000].into()).expect("there is room");
            assert_eq!(pair.outcome(1, 2), Outcome::Done { bytes: LEN as u64 });
            pair.engines[1].close(there).expect("it is up");
            assert_eq!(pair.outcome(0, 1), Outcome::Done { bytes: LEN as u64 }, "control {control}");
            assert!(bytes(&target, 0, LEN) == bytes(&source, 0, LEN));
            pair.until("the end of everything", |pair| pair.engines.iter().all(|engine| engine.is_empty()));
        }
    });
}

#[test]
fn a_close_right_after_the_last_send_loses_nothing_over_sockets() {
    for round in 0..20_u8 {
        let [here, there] = link(Progress::Thread, [&[], &[]]);
        let len = [1, 70_000, 2 << 20][usize::from(round) % 3];
        let (source, target) = (here.area(len, round), there.area(len, 99));
        std::thread::scope(|scope| {
            scope.spawn(|| there.run(target.whole(), Request::Recv));
            scope.spawn(|| {
                here.run(source.whole(), Request::Send);
                here.endpoint.notify(here.link, b"done".to_vec()).expect("there is room");
                match round % 2 {
                    0 => here.endpoint.close(here.link).expect("it is up"),
                    _ => drop(here),
                }
            });
        });
        let last = there.endpoint.notification(PATIENCE).expect("what was said before the end");
        assert_eq!((last.0, &last.1[..]), (there.link, &b"done"[..]));
        assert!(target.is(&source.memory));
    }
}

/// The receiver goes with its whole endpoint, at once.
#[test]
fn an_endpoint_that_goes_after_its_last_receive_leaves_the_sender_done() {
    let here = endpoint(Progress::Thread, &[]);
    for round in 0..20 {
        let there = endpoint(Progress::Thread, &[]);
        let link = here.connect(there.door().expect("it listens"), PATIENCE).expect("it answers");
        let source = filled(100_000, round);
        let mr = here.reg(Box::new(source.clone())).expect("registered");
        let send = here.start(link, &[Part { mr, offset: 0, len: 100_000 }], Request::Send).expect("up");
        let back = there.accept(PATIENCE).expect("alive").expect("somebody came").link;
        let target = SharedHost::new(100_000).expect("memory");
        let to = there.reg(Box::new(target.clone())).expect("registered");
        let part = Part { mr: to, offset: 0, len: 100_000 };
        let received = there.run(back, &[part], Request::Recv, PATIENCE).expect("up");
        drop(there);
        assert_eq!(received, Some(Outcome::Done { bytes: 100_000 }));
        let begin = Instant::now();
        let sent = here.wait(send, PATIENCE);
        assert_eq!(sent, p2p_endpoint::endpoint::Status::Ended(Outcome::Done { bytes: 100_000 }));
        assert!(begin.elapsed() < PATIENCE && bytes(&target, 0, 100_000) == bytes(&source, 0, 100_000));
        here.dereg(mr).expect("registered");
    }
}
