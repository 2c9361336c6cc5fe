//! Both ends post their part and then only wait: nobody may need the other one to do something else first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use p2p_endpoint::endpoint::Progress;
use p2p_endpoint::engine::{Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;

use crate::both;
use crate::support::sockets::{End, PATIENCE, link};
use crate::support::{Pair, bytes, filled};

const LEN: u64 = 24 << 20;

/// What each end posts first.
#[derive(Clone, Copy, Debug)]
enum First {
    Send,
    Recv,
}

#[test]
fn both_ends_send_and_receive_and_then_only_wait() {
    both(|settings| {
        for first in [[First::Send; 2], [First::Recv; 2], [First::Send, First::Recv]] {
            let mut pair = Pair::new(settings.clone(), 2);
            let (here, there) = pair.connect(0, 1);
            let mut targets = Vec::new();
            for (engine, link) in [(0, here), (1, there)] {
                let target = SharedHost::new(LEN as usize).expect("memory");
                let from = pair.reg(engine, &filled(LEN as usize, engine as u8));
                let to = pair.reg(engine, &target);
                let send = (1, Part { mr: from, offset: 0, len: LEN }, Request::Send);
                let recv = (2, Part { mr: to, offset: 0, len: LEN }, Request::Recv);
                let order = match first[engine] {
                    First::Send => [send, recv],
                    First::Recv => [recv, send],
                };
                for (token, part, request) in order {
                    pair.start(engine, link, token, &[part], request);
                }
                targets.push(target);
            }
            for (engine, target) in targets.iter().enumerate() {
                for token in [1, 2] {
                    assert_eq!(pair.outcome(engine, token), Outcome::Done { bytes: LEN }, "{first:?}");
                }
                let sent = filled(LEN as usize, 1 - engine as u8);
                assert!(bytes(target, 0, LEN as usize) == bytes(&sent, 0, LEN as usize));
            }
        }
    });
}

/// Nothing but the waiting caller drives either end.
#[test]
fn two_callers_that_only_wait_drive_both_directions() {
    let ends = link(Progress::Caller, [&[], &[]]);
    let rest = Rest::default();
    let exchange = |end: &End, seed: u8, first: First| {
        let (from, to) = (end.area(LEN as usize, seed), end.area(LEN as usize, 0));
        let (send, recv) = match first {
            First::Send => {
                let send = end.start(from.whole(), Request::Send);
                (send, end.start(to.whole(), Request::Recv))
            }
            First::Recv => {
                let recv = end.start(to.whole(), Request::Recv);
                (end.start(from.whole(), Request::Send), recv)
            }
        };
        end.done(send, LEN);
        end.done(recv, LEN);
        rest.until_both_are_done(end);
        bytes(&to.memory, 0, LEN as usize)
    };
    for first in [First::Send, First::Recv] {
        let [one, other] = std::thread::scope(|scope| {
            let one = scope.spawn(|| exchange(&ends[0], 1, first));
            let other = scope.spawn(|| exchange(&ends[1], 2, first));
            [one.join().expect("done"), other.join().expect("done")]
        });
        assert!(one == bytes(&filled(LEN as usize, 2), 0, LEN as usize));
        assert!(other == bytes(&filled(LEN as usize, 1), 0, LEN as usize));
    }
}

/// Who is done goes on to drive its end: the other one may need it.
#[derive(Default)]
struct Rest(AtomicUsize);

impl Rest {
    fn until_both_are_done(&self, end: &End) {
        let before = self.0.fetch_add(1, Ordering::AcqRel);
        let begin = Instant::now();
        while self.0.load(Ordering::Acquire) < before / 2 * 2 + 2 {
            assert!(begin.elapsed() < PATIENCE, "the other end is not done");
            end.endpoint.turn(Duration::from_millis(5));
        }
    }
}

/// Each reads from the other and writes to it at the same time.
#[test]
fn both_ends_read_and_write_and_then_only_wait() {
    let ends = link(Progress::Caller, [&[], &[]]);
    let [one, other] = &ends;
    let areas = [one, other]
        .map(|end| (end.area(LEN as usize, 1), end.area(LEN as usize, 2), end.area(LEN as usize, 3)));
    let items = [0, 1].map(|at| {
        let end = &ends[at];
        (end.item(&areas[at].0), end.item(&areas[at].1))
    });
    let rest = Rest::default();
    std::thread::scope(|scope| {
        for at in 0..2 {
            let (end, areas, items, rest) = (&ends[at], &areas, &items, &rest);
            scope.spawn(move || {
                let (source, _, read) = &areas[at];
                let (from, into) = items[1 - at];
                let write = end.start(source.whole(), Request::Write { into: &[into], counter: None });
                let read = end.start(read.whole(), Request::Read { from: &[from] });
                end.done(write, LEN);
                end.done(read, LEN);
                rest.until_both_are_done(end);
            });
        }
    });
    for at in 0..2 {
        let (source, written, read) = &areas[at];
        assert!(
            written.is(&areas[1 - at].0.memory)
                && read.is(&areas[1 - at].0.memory)
                && source.is(&filled(LEN as usize, 1))
        );
    }
}
