//! A steady stream of chunks allocates nothing at either end.

use std::collections::VecDeque;
use std::time::Duration;

use p2p_proto::frame::Refusal;
use p2p_proto::id::{LocalRegion, RailIndex, RegionKey};
use p2p_proto::list::{List, LocalRange, RemoteRange};
use p2p_proto::peer::{Caps, Exports, Landing, Peer, Side};
use p2p_proto::stripe::RailLimits;

const RAILS: u8 = 3;
const RAIL: RailLimits = RailLimits {
    max_message: 64 << 10,
    max_slices: 8,
    max_sends: 16,
    max_recvs: 16,
    peer_slices: 8,
    megabits: 100_000,
};
const KEY: RegionKey = RegionKey { index: 1, generation: 1, secret: 1 };

struct Open;

impl Exports for Open {
    fn open(&self, _: RegionKey, offset: u64, len: u64, _: bool) -> Result<LocalRange, Refusal> {
        Ok(LocalRange { region: LocalRegion(1), offset, len })
    }
}

/// Two ends, and transports that end everything at once.
struct Pair {
    ends: [Peer; 2],
    now: Duration,
    tokens: VecDeque<(RailIndex, u64)>,
    landed: u64,
}

impl Pair {
    fn round(&mut self) {
        self.now += Duration::from_micros(3);
        for end in 0..2 {
            self.ends[end].drive(self.now);
            let [one, two] = &mut self.ends;
            let (from, to) = if end == 0 { (one, two) } else { (two, one) };
            to.receive(self.now, from.control(), &Open).expect("the other end keeps to the protocol");
            from.control_sent(usize::MAX);
        }
        for end in 0..2 {
            for rail in (0..RAILS).map(RailIndex) {
                for side in [Side::Send, Side::Recv] {
                    while let Some(post) = self.ends[end].next_post(rail, side) {
                        let bytes: u64 = post.parts.iter().map(|part| part.len).sum();
                        self.landed += if side == Side::Recv { bytes } else { 0 };
                        self.tokens.push_back((rail, post.token));
                        self.ends[end].posted(self.now, rail, side);
                    }
                }
            }
            while let Some((_, token)) = self.tokens.pop_front() {
                self.ends[end].ended(self.now, token, Landing::Done);
            }
        }
    }
}

#[test]
fn chunks_allocate_nothing() {
    let total = 1 << 30;
    // Pages of 48 KiB with gaps between them, so that messages have several parts.
    let pages = (0..total / (48 << 10)).map(|page| (page * (50 << 10), 48 << 10));
    let local = pages.clone().map(|(offset, len)| LocalRange { region: LocalRegion(0), offset, len });
    let remote = pages.map(|(offset, len)| RemoteRange { key: KEY, offset, len });
    let new = || Peer::new(vec![RAIL; usize::from(RAILS)], Caps::default());
    let mut pair =
        Pair { ends: [new(), new()], now: Duration::ZERO, tokens: VecDeque::with_capacity(1000), landed: 0 };
    for end in 0..2 {
        let list = List::of(local.clone()).expect("it breaks no limit");
        pair.ends[end]
            .write(list, List::of(remote.clone()).expect("it breaks no limit"), None)
            .expect("room");
    }
    (0..100).for_each(|_| pair.round());
    let before = pair.landed;
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| pair.round()));
    let moved = pair.landed - before;
    assert!(moved > 100 << 20, "only {moved} bytes moved");
    assert!(pair.ends.iter_mut().all(|end| end.happened().is_none()), "it is not the middle of the stream");
    assert_eq!(counted.count_total, 0, "{counted:?} for {moved} bytes");
}

#[test]
fn transfers_that_are_over_leave_nothing_behind() {
    let new = || Peer::new(vec![RAIL; usize::from(RAILS)], Caps::default());
    let mut pair =
        Pair { ends: [new(), new()], now: Duration::ZERO, tokens: VecDeque::with_capacity(1000), landed: 0 };
    // A receive that nothing meets: what comes later does not wait for it.
    pair.ends[0].recv(List::new()).expect("room");
    let small = |pair: &mut Pair| {
        for end in 0..2 {
            let list = List::of([LocalRange { region: LocalRegion(0), offset: 0, len: 100 }]).expect("short");
            let remote = List::of([RemoteRange { key: KEY, offset: 0, len: 100 }]).expect("short");
            pair.ends[end].write(list.clone(), remote.clone(), None).expect("room");
            pair.ends[end].read(list, remote).expect("room");
        }
        (0..3).for_each(|_| pair.round());
        for end in &mut pair.ends {
            while end.happened().is_some() {}
        }
    };
    (0..1000).for_each(|_| small(&mut pair));
    assert!(pair.ends.iter().all(Peer::is_idle));
    let counted = allocation_counter::measure(|| (0..10_000).for_each(|_| small(&mut pair)));
    assert!(pair.ends.iter().all(Peer::is_idle));
    assert!(counted.bytes_current < 4096, "{counted:?} for 40 000 transfers");
}
