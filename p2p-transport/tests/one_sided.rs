//! One-sided operations and their notifications, through transports that watch or damage what lies inside.

use std::time::Duration;

use p2p_memory::SharedHost;
use p2p_transport::{
    Accepted, Call, ConnId, Damage, ErrorKind, Event, Events, Faulty, NicId, OneSided, OneSidedOp, OpFault,
    Outcome, Rail, RegionId, RemoteSlice, Slice, Stop, Token, Traced, Transport,
};
use p2p_transport_mock::{MockTransport, NicModel, Settings, World};

const NIC: NicId = NicId(0);
const RAIL: Rail = Rail { nic: NIC, device: None, channels: 1 };

/// Two ends of a connection in a world of its own.
struct Two<T> {
    world: World,
    ends: [T; 2],
    conns: [ConnId; 2],
}

impl<T: Transport> Two<T> {
    fn new(seed: u64, settings: Settings, mut wrap: impl FnMut(MockTransport) -> T) -> Self {
        let world = World::new(seed, settings);
        let mut ends = [(); 2].map(|()| wrap(world.add_node(&[NicModel::FAST]).transport()));
        let (listener, address) = ends[0].listen(RAIL).expect("listens");
        let conns = [ends[0].accept(listener), ends[1].connect(RAIL, &address)];
        let conns = conns.map(|conn| conn.expect("on the way"));
        let mut all = Self { world, ends, conns };
        let seen = all.run(2);
        assert!(seen.contains(&(0, Event::Connected(conns[0]))), "{seen:?}");
        assert!(seen.contains(&(1, Event::Connected(conns[1]))), "{seen:?}");
        all
    }

    /// Goes on until so many events came, and then until nothing more does.
    fn run(&mut self, count: usize) -> Vec<(usize, Event)> {
        let mut seen = Vec::new();
        let mut quiet = 0;
        for _ in 0..20_000 {
            self.world.advance(self.world.now().after(Duration::from_micros(5)));
            let before = seen.len();
            for (at, end) in self.ends.iter_mut().enumerate() {
                let mut events = Events::with_capacity(4);
                let _ = end.poll(self.world.now(), &mut events);
                seen.extend(events.drain().map(|event| (at, event)));
            }
            quiet = if seen.len() == before { quiet + 1 } else { 0 };
            if seen.len() >= count && quiet > 100 {
                return seen;
            }
        }
        panic!("{count} events were expected: {seen:?}");
    }

    fn side(&mut self, end: usize) -> &mut dyn OneSided {
        self.ends[end].one_sided().expect("has one")
    }

    fn region(&mut self, end: usize, length: usize) -> (RegionId, SharedHost) {
        let host = SharedHost::new(length).expect("little memory");
        (self.ends[end].register(NIC, Box::new(host.clone())).expect("registers"), host)
    }

    fn completed(&self, token: u64, outcome: Outcome) -> (usize, Event) {
        (1, Event::Completed { conn: self.conns[1], token: Token(token), outcome })
    }
}

fn slice(region: RegionId, offset: u64, len: u32) -> Slice {
    Slice { region, offset, len }
}

fn bytes(host: &SharedHost, offset: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    host.copy_out(offset, &mut bytes).expect("inside");
    bytes
}

/// A write with a value, a read, a key that is none any more, and lengths that differ. Returns the transports.
fn accesses<T: Transport>(seed: u64, wrap: impl FnMut(MockTransport) -> T) -> Two<T> {
    let mut all = Two::new(seed, Settings::rdma(), wrap);
    let [there, here] = all.conns;
    let (exported, remote) = all.region(0, 96);
    let (own, local) = all.region(1, 96);
    local.copy_in(0, &[7; 32]).expect("fits");
    remote.copy_in(64, &[9; 32]).expect("fits");
    let limits = all.side(1).limits(here).expect("connected");
    assert!(limits.max_ops > 2 && limits.max_len >= 96);
    assert_eq!(all.side(0).limits(there), Some(limits));
    let target = all.side(0).export(there, slice(exported, 0, 32)).expect("exports");
    let source = all.side(0).export(there, slice(exported, 64, 32)).expect("exports");
    let outside = all.side(0).export(there, slice(exported, 90, 32)).expect_err("outside");
    assert_eq!(outside.kind(), ErrorKind::Misuse);
    let write = |token, len, to, notify| OneSidedOp::Write {
        token: Token(token),
        from: slice(own, 0, len),
        to,
        notify,
    };
    let ops = [
        write(1, 32, target, Some(42)),
        OneSidedOp::Read { token: Token(2), from: source, into: slice(own, 64, 32) },
        write(3, 16, target, None),
    ];
    assert_eq!(all.side(1).submit(here, &ops), Accepted::all(3), "seed {seed}");
    let seen = all.run(4);
    assert_eq!(seen.len(), 4, "seed {seed}: {seen:?}");
    for expected in [
        all.completed(1, Outcome::Done { len: 32 }),
        all.completed(2, Outcome::Done { len: 32 }),
        all.completed(3, Outcome::Failed(OpFault::TooLong)),
        (0, Event::Notified { conn: there, value: 42 }),
    ] {
        assert!(seen.contains(&expected), "seed {seed}: {expected:?} in {seen:?}");
    }
    assert_eq!(bytes(&remote, 0, 64), [[7; 32], [0; 32]].concat(), "seed {seed}");
    assert_eq!(bytes(&local, 32, 64), [[0; 32], [9; 32]].concat(), "seed {seed}");
    // The key ends with its region.
    all.ends[0].retire(exported).expect("live");
    assert_eq!(all.run(1), [(0, Event::Retired(exported))], "seed {seed}");
    assert!(all.ends[0].reclaim(exported).is_some());
    assert_eq!(all.side(1).submit(here, &[write(4, 32, target, Some(1))]), Accepted::all(1));
    assert_eq!(all.run(1), [all.completed(4, Outcome::Failed(OpFault::Remote))], "seed {seed}");
    assert_eq!(bytes(&remote, 0, 32), [7; 32]);
    all
}

fn closed<T: Transport>(all: &mut Two<T>) {
    let [_, here] = all.conns;
    all.ends[1].close(here).expect("open");
    let seen = all.run(2);
    assert_eq!(seen.iter().filter(|(_, event)| matches!(event, Event::Closed(_))).count(), 2);
    let (region, _host) = all.region(1, 8);
    let to = RemoteSlice { addr: 0, key: 0, len: 8 };
    let write = OneSidedOp::Write { token: Token(9), from: slice(region, 0, 8), to, notify: None };
    assert_eq!(all.side(1).submit(here, &[write]), Accepted::prefix(0, Stop::Closed));
    assert_eq!(all.side(1).limits(here), None);
    assert_eq!(all.side(1).export(here, slice(region, 0, 8)).expect_err("stale").kind(), ErrorKind::Misuse);
}

#[test]
fn a_watched_transport_passes_accesses_on_and_tells_of_them() {
    let mut all = accesses(1, |inner| Traced::with_ring(inner, 4096));
    let [there, here] = all.conns;
    let calls: Vec<_> = all.ends[1].calls().copied().collect();
    assert!(calls.contains(&Call::SubmitOneSided(here, 3, Accepted::all(3))));
    let of_peer: Vec<_> = all.ends[0].calls().copied().collect();
    for granted in [true, false] {
        assert!(of_peer.contains(&Call::Export(there, granted)));
    }
    let notified = Call::Event(Event::Notified { conn: there, value: 42 });
    assert!(of_peer.contains(&notified));
    let counts = all.ends[1].counts();
    assert_eq!((counts.submits, counts.accepted, counts.completions), (2, 4, 4));
    closed(&mut all);
}

#[test]
fn a_damaged_transport_passes_accesses_on_whatever_it_holds_back() {
    let mut held = 0;
    for seed in 0..30 {
        let mut dice = 2 * seed;
        let mut all = accesses(seed, |inner| {
            dice += 1;
            Faulty::new(inner, Damage::legal(dice))
        });
        held += all.ends[1].strikes().held;
        closed(&mut all);
    }
    assert!(held > 0);
}

#[test]
fn accesses_overtake_each_other_and_none_is_lost() {
    let mut reordered = 0;
    for seed in 0..10 {
        let mut all = Two::new(seed, Settings::rdma(), |inner| Faulty::new(inner, Damage::legal(seed)));
        let [there, here] = all.conns;
        let (exported, remote) = all.region(0, 64);
        let (own, local) = all.region(1, 64);
        let content: Vec<u8> = (1..=64).collect();
        local.copy_in(0, &content).expect("fits");
        let to = all.side(0).export(there, slice(exported, 0, 64)).expect("exports");
        let writes: Vec<_> = (0..64)
            .map(|at| OneSidedOp::Write {
                token: Token(at),
                from: slice(own, at, 1),
                to: RemoteSlice { addr: to.addr + at, key: to.key, len: 1 },
                notify: Some(at as u32),
            })
            .collect();
        assert_eq!(all.side(1).submit(here, &writes), Accepted::all(64));
        let seen = all.run(128);
        let mut tokens = Vec::new();
        let mut values = Vec::new();
        for (_, event) in seen {
            if let Event::Completed { token, outcome: Outcome::Done { len: 1 }, .. } = event {
                tokens.push(token.0);
            } else if let Event::Notified { conn, value } = event {
                assert_eq!(conn, there);
                values.push(u64::from(value));
            }
        }
        tokens.sort_unstable();
        values.sort_unstable();
        assert!(tokens.into_iter().eq(0..64) && values.into_iter().eq(0..64), "seed {seed}");
        assert_eq!(bytes(&remote, 0, 64), content, "seed {seed}");
        reordered += all.ends[1].strikes().reordered;
    }
    assert!(reordered > 0);
}

#[test]
fn the_window_of_accesses_is_exact_through_both() {
    let most = Settings::rdma().one_sided_ops;
    let mut all = Two::new(3, Settings::rdma(), |inner| Traced::new(Faulty::new(inner, Damage::none(1))));
    let [there, here] = all.conns;
    let (exported, _remote) = all.region(0, 8);
    let (own, _local) = all.region(1, 8);
    let to = all.side(0).export(there, slice(exported, 0, 8)).expect("exports");
    let write = OneSidedOp::Write { token: Token(1), from: slice(own, 0, 8), to, notify: None };
    let ops = vec![write; usize::from(most) + 3];
    assert_eq!(all.side(1).submit(here, &ops), Accepted::prefix(most.into(), Stop::Busy));
    assert_eq!(all.ends[1].counts().busy, 1);
    assert_eq!(all.run(most.into()).len(), usize::from(most));
    assert_eq!(all.side(1).submit(here, &ops[..1]), Accepted::all(1), "Busy clears");
}

#[test]
fn accesses_of_a_damaged_transport_reach_the_connection_that_was_meant() {
    let mut first = true;
    let mut all = Two::new(5, Settings::rdma(), |inner| {
        let mut damage = Damage::none(1);
        damage.refuse_connect = u32::from(std::mem::take(&mut first));
        Faulty::new(inner, damage)
    });
    // A connection that exists outside only: those after it have other ids inside.
    let (listener, address) = all.ends[0].listen(RAIL).expect("listens");
    let refused = all.ends[0].connect(RAIL, &address).expect("ends by an event");
    let there = all.ends[0].accept(listener).expect("accepts");
    let here = all.ends[1].connect(RAIL, &address).expect("connects");
    let seen = all.run(3);
    assert!(seen.contains(&(0, Event::Closed(refused))) && seen.contains(&(0, Event::Connected(there))));
    assert_ne!(all.ends[0].inside(there), Some(there));
    let (exported, remote) = all.region(0, 8);
    let (own, local) = all.region(1, 8);
    local.copy_in(0, &[3; 8]).expect("fits");
    assert!(all.side(0).limits(there).is_some());
    let to = all.side(0).export(there, slice(exported, 0, 8)).expect("exports");
    let write = OneSidedOp::Write { token: Token(1), from: slice(own, 0, 8), to, notify: Some(9) };
    assert_eq!(all.side(1).submit(here, &[write]), Accepted::all(1));
    let seen = all.run(2);
    let done = Event::Completed { conn: here, token: Token(1), outcome: Outcome::Done { len: 8 } };
    assert!(seen.contains(&(1, done)), "{seen:?}");
    assert!(seen.contains(&(0, Event::Notified { conn: there, value: 9 })), "{seen:?}");
    assert_eq!(bytes(&remote, 0, 8), [3; 8]);
    // And back, from the end whose ids differ.
    let from = all.side(1).export(here, slice(own, 0, 8)).expect("exports");
    let read = OneSidedOp::Read { token: Token(2), from, into: slice(exported, 0, 8) };
    assert_eq!(all.side(0).submit(there, &[read]), Accepted::all(1));
    let done = Event::Completed { conn: there, token: Token(2), outcome: Outcome::Done { len: 8 } };
    assert_eq!(all.run(1), [(0, done)]);
}

#[test]
fn a_backend_without_them_has_none_through_either() {
    let all = Two::new(1, Settings::plugin(), |inner| Traced::new(Faulty::new(inner, Damage::legal(1))));
    for mut end in all.ends {
        assert!(end.one_sided().is_none());
    }
}
