//! A backend over verbs, kept small: it shows that the contract fits remote memory access, and where not.

#[path = "rdma/backend.rs"]
mod backend;
#[path = "rdma/laws.rs"]
mod laws;
#[path = "rdma/link.rs"]
mod link;
#[path = "rdma/soft.rs"]
mod soft;
#[path = "rdma/streams.rs"]
mod streams;
#[path = "rdma/verbs.rs"]
mod verbs;
#[path = "rdma/wire.rs"]
mod wire;

use std::time::Duration;

use p2p_memory::SharedHost;
use p2p_transport::{
    ConnId, ErrorKind, Event, Events, Now, OneSidedOp, OpFault, Outcome, Rail, RegionId, RemoteSlice, Slice,
    Token, Transport,
};

use crate::backend::{NIC, Rdma};
use crate::soft::{SoftFabric, SoftVerbs};
use crate::streams::SoftStreams;
use crate::verbs::{AsyncEvent, Fabric};

const STEP: Duration = Duration::from_micros(100);

fn ends(fabric: &SoftFabric) -> [Rdma<SoftVerbs>; 2] {
    let streams = SoftStreams::new();
    [0, 1].map(|node| Rdma::new(fabric.device(node), Box::new(streams.clone())).expect("a door"))
}

const fn rail(channels: u16) -> Rail {
    Rail { nic: NIC, device: None, channels }
}

/// Two connected ends, each with a region of 64 KiB.
struct Two {
    fabric: SoftFabric,
    ends: [Rdma<SoftVerbs>; 2],
    conns: [ConnId; 2],
    memory: [SharedHost; 2],
    regions: [RegionId; 2],
    seen: [Vec<Event>; 2],
    now: Duration,
}

impl Two {
    fn new(kind: Fabric) -> Self {
        let fabric = SoftFabric::new(kind, 7);
        let mut ends = ends(&fabric);
        let (listener, address) = ends[0].listen(rail(2)).expect("listens");
        let conns = [
            ends[0].accept(listener).expect("lives"),
            ends[1].connect(rail(2), &address).expect("leads there"),
        ];
        let memory = [(); 2].map(|()| SharedHost::new(1 << 16).expect("memory"));
        let mut index = 0;
        let regions = ends.each_mut().map(|end| {
            index += 1;
            end.register(NIC, Box::new(memory[index - 1].clone())).expect("registered")
        });
        let mut two =
            Self { fabric, ends, conns, memory, regions, seen: Default::default(), now: Duration::ZERO };
        two.run(|two| two.seen.iter().all(|seen| !seen.is_empty()));
        assert_eq!(two.seen, [vec![Event::Connected(conns[0])], vec![Event::Connected(conns[1])]]);
        two.seen = Default::default();
        two
    }

    fn step(&mut self) {
        self.now += STEP;
        for (end, seen) in self.ends.iter_mut().zip(&mut self.seen) {
            let mut events = Events::with_capacity(3);
            let _ = end.poll(Now(self.now), &mut events);
            seen.extend(events.drain());
        }
    }

    #[track_caller]
    fn run(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("it never came: {:?}", self.seen);
    }

    fn slice(&self, end: usize, offset: u64, len: u32) -> Slice {
        Slice { region: self.regions[end], offset, len }
    }

    fn one_sided(&mut self, end: usize, op: OneSidedOp) {
        let conn = self.conns[end];
        let side = self.ends[end].one_sided().expect("it has them");
        assert_eq!(side.submit(conn, &[op]).count, 1);
    }

    fn export(&mut self, end: usize, offset: u64, len: u32) -> RemoteSlice {
        let (conn, slice) = (self.conns[end], self.slice(end, offset, len));
        self.ends[end].one_sided().expect("it has them").export(conn, slice).expect("exported")
    }

    fn outcomes(&self, end: usize) -> Vec<Outcome> {
        let outcome = |event: &Event| {
            if let Event::Completed { outcome, .. } = event { Some(*outcome) } else { None }
        };
        self.seen[end].iter().filter_map(outcome).collect()
    }
}

const BOTH: [Fabric; 2] = [Fabric::Rc, Fabric::Srd];

#[test]
fn a_write_arrives_before_its_notification_and_a_read_returns_it() {
    for kind in BOTH {
        let mut two = Two::new(kind);
        two.memory[1].fill(100, 50, 9).expect("inside");
        let remote = two.export(0, 1000, 50);
        let from = two.slice(1, 100, 50);
        two.one_sided(1, OneSidedOp::Write { token: Token(1), from, to: remote, notify: Some(77) });
        two.run(|two| !two.seen[0].is_empty());
        assert_eq!(two.seen[0], [Event::Notified { conn: two.conns[0], value: 77 }]);
        let mut bytes = [0; 52];
        two.memory[0].copy_out(999, &mut bytes).expect("inside");
        assert_eq!((bytes[0], &bytes[1..51], bytes[51]), (0, &[9; 50][..], 0));
        let into = two.slice(1, 5000, 50);
        two.one_sided(1, OneSidedOp::Read { token: Token(2), from: remote, into });
        two.run(|two| two.seen[1].len() == 2);
        assert_eq!(two.outcomes(1), [Outcome::Done { len: 50 }; 2]);
        two.memory[1].copy_out(4999, &mut bytes).expect("inside");
        assert_eq!((bytes[0], &bytes[1..51], bytes[51]), (0, &[9; 50][..], 0));
    }
}

#[test]
fn more_notifications_than_anybody_stores_wait_at_the_sender() {
    for kind in BOTH {
        let mut two = Two::new(kind);
        let remote = two.export(0, 0, 8);
        for value in 0..16 {
            let from = two.slice(1, 0, 8);
            let to = remote;
            two.one_sided(1, OneSidedOp::Write { token: Token(9), from, to, notify: Some(value) });
        }
        // Nobody polls the target: what its posted receives hold is done, the rest is not.
        for _ in 0..1000 {
            two.now += STEP;
            let mut events = Events::with_capacity(3);
            let _ = two.ends[1].poll(Now(two.now), &mut events);
            two.seen[1].extend(events.drain());
        }
        assert_eq!(two.seen[1].len(), 8, "{kind:?}");
        two.run(|two| two.seen[0].len() == 16 && two.seen[1].len() == 16);
        let value = |event: &Event| {
            if let Event::Notified { value, .. } = event { Some(*value) } else { None }
        };
        let mut values: Vec<u32> = two.seen[0].iter().filter_map(value).collect();
        values.sort_unstable();
        assert_eq!(values, (0..16).collect::<Vec<_>>(), "{kind:?}");
    }
}

#[test]
fn a_key_covers_its_export_only_and_no_longer_than_the_region_is_live() {
    for kind in BOTH {
        for retired in [false, true] {
            let mut two = Two::new(kind);
            let mut remote = two.export(0, 1000, 50);
            remote.addr += u64::from(!retired);
            if retired {
                let region = two.regions[0];
                two.ends[0].retire(region).expect("live");
                two.run(|two| two.seen[0] == [Event::Retired(region)]);
                assert!(two.ends[0].reclaim(region).is_some(), "no device holds it");
            }
            two.memory[1].fill(0, 50, 5).expect("inside");
            let from = two.slice(1, 0, 50);
            two.one_sided(1, OneSidedOp::Write { token: Token(1), from, to: remote, notify: None });
            two.run(|two| two.seen[1].len() == 2);
            let expected = Outcome::Failed(OpFault::Remote);
            assert_eq!(two.outcomes(1), [expected], "{kind:?}");
            assert_eq!(two.seen[1][1], Event::Closed(two.conns[1]), "verbs know no smaller failure");
            let mut bytes = [0; 100];
            two.memory[0].copy_out(980, &mut bytes).expect("inside");
            assert_eq!(bytes, [0; 100], "{kind:?}");
        }
    }
}

#[test]
fn too_long_a_message_ends_a_reliable_connection_and_only_itself_without_order() {
    for (kind, goes_on) in [(Fabric::Rc, false), (Fabric::Srd, true)] {
        let mut two = Two::new(kind);
        let (into, from) = (two.slice(0, 0, 10), two.slice(1, 0, 11));
        let conns = two.conns;
        assert_eq!(two.ends[0].recv(conns[0], Token(0), &[into]).count, 1);
        assert_eq!(two.ends[1].send(conns[1], Token(0), &[from]).count, 1);
        two.run(|two| !two.seen[0].is_empty() && !two.seen[1].is_empty());
        assert_eq!(two.outcomes(0), [Outcome::Failed(OpFault::Truncated)], "{kind:?}");
        for _ in 0..1000 {
            two.step();
        }
        let closed = two.seen[0].contains(&Event::Closed(conns[0]));
        assert_eq!(closed, !goes_on, "{kind:?}");
        let expected = if goes_on { Outcome::Done { len: 11 } } else { Outcome::ConnLost };
        assert_eq!(two.outcomes(1), [expected], "{kind:?}");
    }
}

#[test]
fn a_failed_device_ends_each_connection_and_says_so() {
    for event in [AsyncEvent::DeviceFatal, AsyncEvent::CqOverflow] {
        let mut two = Two::new(Fabric::Rc);
        let (conns, into) = (two.conns, two.slice(0, 0, 10));
        assert_eq!(two.ends[0].recv(conns[0], Token(0), &[into]).count, 1);
        two.fabric.raise(0, event);
        two.run(|two| two.seen[0].contains(&Event::Closed(conns[0])));
        assert_eq!(two.outcomes(0), [Outcome::ConnLost]);
        assert_eq!(two.ends[0].why(conns[0]).expect("known").kind(), ErrorKind::Device);
        two.run(|two| two.seen[1].contains(&Event::Closed(conns[1])));
        assert_eq!(two.ends[1].why(conns[1]).expect("known").kind(), ErrorKind::Conn);
    }
}

#[test]
fn nothing_stays_registered() {
    for kind in BOTH {
        let mut two = Two::new(kind);
        let _ = two.export(0, 0, 10);
        let Two { fabric, ends, memory, .. } = two;
        assert!(fabric.registered() >= 3);
        drop(ends);
        assert_eq!(fabric.registered(), 0);
        assert_eq!(memory.map(|memory| memory.owners()), [1, 1]);
    }
}
