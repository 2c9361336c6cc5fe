//! Peers that are idle, stopped or in another life, and memory that is taken back while it moves.

use std::time::Duration;

use p2p_endpoint::engine::{LinkId, OpToken, Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport::ErrorKind;
use p2p_transport_mock::Fault;

use crate::both;
use crate::support::{Pair, bytes, filled};

const LEN: usize = 8 << 20;

/// Lets so much virtual time pass, in which the first `driven` engines are driven.
fn pass(pair: &mut Pair, time: Duration, driven: usize) {
    let end = pair.world.now().after(time);
    while pair.world.now() < end {
        while pair.poll_first(driven) {}
        if pair.world.next_time().is_none_or(|next| next > pair.world.now().after(Duration::from_millis(5))) {
            let now = pair.world.now();
            pair.world.advance(now.after(Duration::from_millis(5)));
        } else {
            pair.world.step();
        }
    }
}

#[test]
fn a_link_that_is_idle_for_a_minute_stays_up() {
    both(|settings| {
        let mut pair = Pair::new(settings, 1);
        pair.connect(0, 1);
        pass(&mut pair, Duration::from_secs(60), 2);
        assert!(pair.said.iter().all(|said| said.closed.is_empty()), "{:?}", pair.said);
    });
}

/// Its kernel answers, and nobody drives it.
#[test]
fn a_peer_that_is_stopped_is_found_and_what_it_was_to_do_ends() {
    both(|settings| {
        let mut pair = Pair::new(settings, 1);
        let (link, _) = pair.connect(0, 1);
        let to = pair.reg(0, &filled(LEN, 1));
        pair.start(0, link, 1, &[Part { mr: to, offset: 0, len: LEN as u64 }], Request::Recv);
        pass(&mut pair, Duration::from_secs(4), 1);
        assert!(pair.said[0].ended.is_empty(), "it is given 5 seconds");
        pass(&mut pair, Duration::from_secs(4), 1);
        assert_eq!(pair.said[0].ended, [(OpToken(1), Outcome::LinkLost)]);
        let why = pair.engines[0].why(link).expect("a reason").to_string();
        assert!(why.contains("said nothing"), "{why}");
    });
}

/// What a peer gave out in its former life, or another peer did, is not even asked for.
#[test]
fn items_of_another_life_are_refused_before_anything_is_said() {
    both(|settings| {
        let nics = [p2p_transport_mock::NicModel::FAST];
        let mut pair = Pair::of(1, settings, &[&nics, &nics, &nics]);
        let (link, _) = pair.connect(0, 1);
        let from = pair.reg(0, &filled(4096, 1));
        let (right, other) = (pair.reg(1, &filled(4096, 2)), pair.reg(2, &filled(4096, 3)));
        let (right, other) = (pair.item(1, right, 0, 4096), pair.item(2, other, 0, 4096));
        let part = Part { mr: from, offset: 0, len: 4096 };
        let write = |pair: &mut Pair, token, item| {
            pair.engines[0].start(
                link,
                OpToken(token),
                &[part],
                Request::Write { into: &[item], counter: None },
            )
        };
        let refused = write(&mut pair, 1, other).expect_err("of another peer");
        assert!(
            refused.kind() == ErrorKind::Misuse && refused.to_string().contains("former life"),
            "{refused}"
        );
        write(&mut pair, 2, right).expect("its own");
        assert_eq!(pair.outcome(0, 2), Outcome::Done { bytes: 4096 });
    });
}

/// Memory goes while its chunks are on the rails: the order there holds, and what else is under way is not touched.
#[test]
fn memory_that_is_taken_back_at_either_end_takes_nothing_else_along() {
    both(|mut settings| {
        settings.max_message = 64 << 10;
        for taker in [0, 1] {
            let mut pair = Pair::new(settings.clone(), 2);
            let (link, _) = pair.connect(0, 1);
            let (source, target) = (filled(LEN, 1), SharedHost::new(LEN).expect("memory"));
            let from = [pair.reg(0, &source), pair.reg(0, &filled(LEN, 3))];
            let gone = SharedHost::new(LEN).expect("memory");
            let to = [pair.reg(1, &target), pair.reg(1, &gone)];
            let whole = |mr| Part { mr, offset: 0, len: LEN as u64 };
            // The transport of the taker takes one message at a time: what is announced waits.
            let node = taker as u16;
            pair.world.inject(Fault::ShortAcceptance { node, room: 1, lasts: Duration::from_millis(2) });
            for (token, at) in [(1, 0), (2, 1)] {
                let item = pair.item(1, to[at], 0, LEN as u64);
                pair.start(
                    0,
                    link,
                    token,
                    &[whole(from[at])],
                    Request::Write { into: &[item], counter: None },
                );
            }
            let began = |pair: &Pair| pair.engines[1].counters().by_nic[0].messages.received.count > 8;
            pair.until("some chunks of both", began);
            let taken = [from[1], to[1]][taker];
            pair.engines[taker].dereg(taken).expect("registered");
            assert_eq!(pair.outcome(0, 2), Outcome::MemoryGone { here: taker == 0 });
            assert_eq!(pair.outcome(0, 1), Outcome::Done { bytes: LEN as u64 }, "the other one goes on");
            assert!(bytes(&target, 0, LEN) == bytes(&source, 0, LEN));
            assert!(pair.said.iter().all(|said| said.closed.is_empty()));
            let rails = |pair: &Pair, engine: usize| pair.engines[engine].counters().by_link[0].rails.len();
            assert_eq!((rails(&pair, 0), rails(&pair, 1)), (2, 2));
            if taker == 1 {
                pair.until("the end of the memory", |_| gone.owners() == 1);
            }
            // Both rails still carry something.
            let before = pair.engines[1]
                .counters()
                .by_nic
                .iter()
                .map(|nic| nic.messages.received.count)
                .collect::<Vec<_>>();
            let item = pair.item(1, to[0], 0, LEN as u64);
            pair.start(0, link, 3, &[whole(from[0])], Request::Write { into: &[item], counter: None });
            assert_eq!(pair.outcome(0, 3), Outcome::Done { bytes: LEN as u64 });
            let after = pair.engines[1].counters().by_nic;
            assert!(
                after.iter().zip(before).all(|(nic, before)| nic.messages.received.count > before),
                "{after:?}"
            );
        }
    });
}

/// Messages meet receives in the order in which both were posted; one that is too long meets none.
#[test]
fn the_nth_message_meets_the_nth_receive() {
    both(|settings| {
        let mut pair = Pair::new(settings, 2);
        let (here, there) = pair.connect(0, 1);
        let source = filled(LEN, 1);
        let from = pair.reg(0, &source);
        let target = SharedHost::new(LEN).expect("memory");
        let to = pair.reg(1, &target);
        let lengths = [300_000_u64, 1, 70_000, 5, 200_000];
        let receive = |pair: &mut Pair, link: LinkId, nth: usize| {
            let part = Part { mr: to, offset: nth as u64 * 300_000, len: 300_000 };
            pair.start(1, link, nth as u64, &[part], Request::Recv);
        };
        (0..2).for_each(|nth| receive(&mut pair, there, nth));
        let too_long = Part { mr: from, offset: 0, len: 300_001 };
        pair.start(0, here, 100, &[too_long], Request::Send);
        for (nth, len) in lengths.into_iter().enumerate() {
            let part = Part { mr: from, offset: nth as u64 * 10, len };
            pair.start(0, here, nth as u64, &[part], Request::Send);
        }
        (2..5).for_each(|nth| receive(&mut pair, there, nth));
        assert!(matches!(pair.outcome(0, 100), Outcome::Refused(_)));
        for (nth, len) in lengths.into_iter().enumerate() {
            for engine in 0..2 {
                assert_eq!(pair.outcome(engine, nth as u64), Outcome::Done { bytes: len }, "message {nth}");
            }
            let came = bytes(&target, nth * 300_000, len as usize);
            assert!(came == bytes(&source, nth * 10, len as usize), "message {nth}");
        }
    });
}

/// An id of a link that is gone names no other link, whatever lies at its place.
#[test]
fn the_id_of_a_link_that_is_gone_names_no_other_one() {
    both(|settings| {
        let mut pair = Pair::new(settings, 1);
        let from = pair.reg(0, &filled(64, 1));
        let part = Part { mr: from, offset: 0, len: 64 };
        let mut old = Vec::new();
        for _ in 0..3 {
            let (link, _) = pair.connect(0, 1);
            for stale in &old {
                assert_ne!(*stale, link);
                let refused = pair.engines[0].start(*stale, OpToken(9), &[part], Request::Send);
                assert_eq!(refused.expect_err("it is gone").kind(), ErrorKind::Misuse);
                assert_eq!(pair.engines[0].close(*stale).expect_err("it is gone").kind(), ErrorKind::Misuse);
                assert!(pair.engines[0].peer(*stale).is_none());
            }
            pair.engines[0].notify(link, None, vec![1].into()).expect("it is up");
            pair.engines[0].close(link).expect("it is up");
            pair.until("the end", |pair| pair.engines.iter().all(|engine| engine.is_empty()));
            old.push(link);
        }
    });
}
