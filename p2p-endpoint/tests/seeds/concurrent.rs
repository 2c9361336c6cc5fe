//! Many transfers at once on one connection, whose windows one that ended once took for its own.

use p2p_endpoint::endpoint::Progress;
use p2p_endpoint::engine::{Part, Request};
use p2p_endpoint::exports::Item;
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::Random;

use crate::both;
use crate::support::sockets::{End, link};
use crate::support::{Pair, bytes, filled};

const SOURCE: usize = 4 << 20;

#[test]
fn many_transfers_of_one_link_end_in_any_order_with_their_own_bytes() {
    both(|mut settings| {
        settings.max_message = 70_000;
        for rails in [1, 3] {
            let mut pair = Pair::new(settings.clone(), rails);
            let (here, there) = pair.connect(0, 1);
            let mut random = Random::new(rails as u64);
            let source = filled(SOURCE, 5);
            let from = [pair.reg(0, &source), pair.reg(1, &source)];
            let mut begun = Vec::new();
            for token in 1..=64 {
                let (engine, link) = [(0, here), (1, there)][random.index(2)];
                let len = [1, 3000, 70_000, 1 << 20][random.index(4)];
                let offset = random.below((SOURCE - len) as u64);
                let target = SharedHost::new(len).expect("memory");
                let len = len as u64;
                if random.one_in(2) {
                    let to = pair.reg(1 - engine, &target);
                    let into = pair.item(1 - engine, to, 0, len);
                    let part = Part { mr: from[engine], offset, len };
                    pair.start(engine, link, token, &[part], Request::Write { into: &[into], counter: None });
                } else {
                    let to = pair.reg(engine, &target);
                    let item = pair.item(1 - engine, from[1 - engine], offset, len);
                    pair.start(
                        engine,
                        link,
                        token,
                        &[Part { mr: to, offset: 0, len }],
                        Request::Read { from: &[item] },
                    );
                }
                begun.push((engine, token, offset as usize, target));
            }
            for (engine, token, offset, target) in begun {
                let len = target.len();
                assert_eq!(pair.outcome(engine, token), Outcome::Done { bytes: len as u64 });
                assert!(bytes(&target, 0, len) == bytes(&source, offset, len), "transfer {token}");
            }
        }
    });
}

/// What a thread moves, of which every byte is looked at.
fn move_some(end: &End, random: &mut Random, item: Item, peer: &SharedHost) {
    for _ in 0..12 {
        let len = random.between(1, 600_000) as usize;
        let offset = random.below((SOURCE - len) as u64) as usize;
        let far = item.narrow(item.address() + offset as u64, len as u64).expect("a part of it");
        let target = end.area(len, 0);
        end.run(target.whole(), Request::Read { from: &[far] });
        assert!(bytes(&target.memory, 0, len) == bytes(peer, offset, len));
        end.endpoint.dereg(target.mr).expect("registered");
    }
}

#[test]
fn many_threads_share_one_link_in_both_directions() {
    const THREADS: u64 = 4;
    const MESSAGES: usize = 25;
    let ends = link(Progress::Thread, [&[], &[]]);
    let sources = [ends[0].area(SOURCE, 1), ends[1].area(SOURCE, 2)];
    let items = [ends[0].item(&sources[0]), ends[1].item(&sources[1])];
    std::thread::scope(|scope| {
        for at in 0..2 {
            let (end, sources) = (&ends[at], &sources);
            let (item, peer) = (items[1 - at], &sources[1 - at].memory);
            for thread in 0..THREADS {
                scope.spawn(move || {
                    move_some(end, &mut Random::new(thread * 2 + at as u64), item, peer);
                });
            }
            // One thread writes, each time to memory of its own, and one receives what another one sends, in order.
            scope.spawn(move || {
                for round in 0..MESSAGES {
                    let target = end.area(30_000, round as u8);
                    end.run(target.whole(), Request::Recv);
                    assert!(
                        bytes(&target.memory, 0, 30_000) == bytes(peer, round * 1000, 30_000),
                        "message {round}"
                    );
                }
            });
            let own = &sources[at];
            scope.spawn(move || {
                for round in 0..MESSAGES {
                    end.run(own.part(round as u64 * 1000, 30_000), Request::Send);
                }
            });
        }
    });
    write_from_many_threads(&ends);
}

fn write_from_many_threads(ends: &[End; 2]) {
    const PIECE: usize = 100_003;
    let sources = [ends[0].area(16 * PIECE, 7), ends[1].area(16 * PIECE, 8)];
    let targets = [ends[0].area(16 * PIECE, 0), ends[1].area(16 * PIECE, 0)];
    let items = [ends[0].item(&targets[0]), ends[1].item(&targets[1])];
    std::thread::scope(|scope| {
        for at in 0..2 {
            for thread in 0..4_u64 {
                let (end, source, item) = (&ends[at], &sources[at], items[1 - at]);
                scope.spawn(move || {
                    for piece in (0..4).map(|round| (round * 4 + thread) * PIECE as u64) {
                        let into = item.narrow(item.address() + piece, PIECE as u64).expect("a part of it");
                        let write = Request::Write { into: &[into], counter: Some(thread as u32) };
                        end.run(source.part(piece, PIECE as u64), write);
                    }
                });
            }
        }
    });
    for at in 0..2 {
        assert!(targets[at].is(&sources[1 - at].memory));
        for thread in 0..4 {
            assert_eq!(ends[at].endpoint.counter(ends[at].link, thread), 4);
        }
    }
}
