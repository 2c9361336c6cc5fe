//! Memory of a link that is lost is its caller's again when the transport has let go of it, and not before.

mod support;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use p2p_endpoint::engine::{Engine, LinkId, OpToken, Options, Part, Request};
use p2p_endpoint::registry::MrId;
use p2p_memory::{Memory, MemoryKind, SharedHost};
use p2p_proto::frame::Refusal;
use p2p_proto::peer::Outcome;
use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Event, Events, Limits, ListenerId, Next, Nic, NicId, Now,
    Op, Rail, RegionId, RegisterError, Slice, Token, Transport,
};
use p2p_transport_mock::{NicModel, Random, Settings, World};
use support::{Pair, filled};

const LENGTH: usize = 8 << 20;

/// A transport that does not let go of connections which this end has closed, for as long as it is told to.
struct Holding<T> {
    inner: T,
    holds: Arc<AtomicBool>,
    /// Sends less than it is asked for.
    cuts: Arc<AtomicBool>,
    closed: Vec<ConnId>,
    kept: VecDeque<Event>,
}

impl<T: Transport> Transport for Holding<T> {
    fn nics(&self) -> &[Nic] {
        self.inner.nics()
    }
    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        self.inner.rails(device)
    }
    fn region_align(&self, kind: MemoryKind) -> usize {
        self.inner.region_align(kind)
    }
    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.inner.limits(conn)
    }
    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        self.inner.listen(rail)
    }
    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        self.inner.accept(listener)
    }
    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.inner.unlisten(listener)
    }
    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        self.inner.connect(rail, peer)
    }
    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        self.closed.push(conn);
        self.inner.close(conn)
    }
    fn why(&self, conn: ConnId) -> Option<&Error> {
        self.inner.why(conn)
    }
    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        self.inner.register(nic, memory)
    }
    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        self.inner.retire(region)
    }
    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        self.inner.reclaim(region)
    }
    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        if !self.cuts.load(Ordering::Relaxed) {
            return self.inner.submit(conn, ops);
        }
        let half =
            |op: &Op<'_>| op.slices().iter().map(|slice| Slice { len: slice.len / 2, ..*slice }).collect();
        let halves: Vec<Vec<Slice>> = ops.iter().map(half).collect();
        let mut cut = Vec::new();
        for (op, half) in ops.iter().zip(&halves) {
            cut.push(match *op {
                Op::Send { token, .. } => Op::Send { token, from: half },
                Op::Recv { token, into } => Op::Recv { token, into },
            });
        }
        self.inner.submit(conn, &cut)
    }
    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        self.inner.cancel(conn, token)
    }
    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        let mut inner = Events::with_capacity(events.room());
        let next = self.inner.poll(now, &mut inner);
        for event in inner.drain() {
            if matches!(event, Event::Closed(_)) {
                // The id is in use until the end is reported: its place is kept.
                let rail = self.inner.rails(None).expect("it has some")[0];
                let (listener, _) = self.inner.listen(rail).expect("an address");
                self.inner.accept(listener).expect("it was given out");
            }
            self.kept.push_back(event);
        }
        let holds = self.holds.load(Ordering::Relaxed);
        let is_held = |event: &Event| match event {
            Event::Completed { conn, .. } | Event::Closed(conn) => holds && self.closed.contains(conn),
            Event::Connected(_) | Event::Retired(_) | Event::Notified { .. } | _ => false,
        };
        let (held, free): (Vec<Event>, Vec<Event>) = self.kept.drain(..).partition(is_held);
        let mut rest = free.into_iter();
        while events.room() > 0
            && let Some(event) = rest.next()
        {
            events.push(event).expect("there is room");
        }
        self.kept.extend(rest.chain(held));
        next
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }
}

struct Reading {
    pair: Pair,
    holds: Arc<AtomicBool>,
    cuts: Arc<AtomicBool>,
    here: LinkId,
    mr: MrId,
    /// Of engine 0, which holds.
    memory: SharedHost,
    far: MrId,
}

impl Reading {
    fn whole(&self) -> Part {
        Part { mr: self.mr, offset: 0, len: LENGTH as u64 }
    }

    fn far(&self) -> Part {
        Part { mr: self.far, offset: 0, len: LENGTH as u64 }
    }

    /// For so long in virtual time.
    fn go_on(&mut self, time: Duration) {
        let end = self.pair.world.now().after(time);
        self.pair.until("time", |pair| pair.world.now() >= end);
    }
}

/// Two engines, of which the first has begun to read all of the other's memory.
fn reading(settings: Settings) -> Reading {
    let world = World::new(5, settings);
    let holds = Arc::new(AtomicBool::new(false));
    let cuts = Arc::new(AtomicBool::new(false));
    let slow = NicModel { bytes_per_second: 1_000_000_000, ..NicModel::FAST };
    let engines: Vec<Engine> = (1..=2)
        .map(|number| {
            let node = world.add_node(&[slow]);
            let mut secrets = Random::new(number);
            let inner = node.transport();
            let kept = VecDeque::new();
            let transport =
                Holding { inner, holds: holds.clone(), cuts: cuts.clone(), closed: Vec::new(), kept };
            let options = Options::new(format!("node{number}"));
            let random = Box::new(move || secrets.next());
            Engine::new(Box::new(transport), Box::new(node.control()), options, random).expect("an engine")
        })
        .collect();
    let said = engines.iter().map(|_| support::Said::default()).collect();
    let mut pair = Pair { world, engines, said };
    let (here, _) = pair.connect(0, 1);
    let (memory, source) = (SharedHost::new(LENGTH).expect("memory"), filled(LENGTH, 3));
    let (mr, far) = (pair.reg(0, &memory), pair.reg(1, &source));
    let item = pair.item(1, far, 0, LENGTH as u64);
    let mut world = Reading { pair, holds, cuts, here, mr, memory, far };
    let whole = world.whole();
    world.pair.start(0, here, 1, &[whole], Request::Read { from: &[item] });
    // Some of it is on its way, and not all of it is there: the whole takes 8 ms.
    world.go_on(Duration::from_millis(3));
    assert!(world.pair.said[0].ended.is_empty());
    world
}

fn both(mut test: impl FnMut(Settings)) {
    test(Settings::plugin());
    test(Settings::rdma());
}

#[test]
fn an_operation_ends_when_nobody_uses_its_memory_any_more() {
    both(|settings| {
        let mut world = reading(settings);
        world.holds.store(true, Ordering::Relaxed);
        world.pair.engines[0].close(world.here).expect("it is up");
        world.go_on(Duration::from_secs(2));
        let here = &world.pair.said[0];
        assert!(here.ended.is_empty() && here.closed.is_empty(), "{here:?}");
        let whole = world.whole();
        let more = world.pair.engines[0].start(world.here, OpToken(9), &[whole], Request::Recv);
        assert!(more.is_err(), "the link is over");
        world.holds.store(false, Ordering::Relaxed);
        assert_eq!(world.pair.outcome(0, 1), Outcome::LinkLost);
        world.pair.until("its end", |pair| pair.said[0].closed.len() == 1);
        world.pair.until("nothing is left", |pair| pair.engines.iter().all(Engine::is_empty));
    });
}

#[test]
fn what_a_transport_does_not_let_go_of_is_waited_for_no_longer_and_refused() {
    both(|settings| {
        let mut world = reading(settings);
        world.holds.store(true, Ordering::Relaxed);
        world.pair.engines[0].close(world.here).expect("it is up");
        world.go_on(Duration::from_secs(6));
        assert_eq!(world.pair.outcome(0, 1), Outcome::LinkLost);
        assert_eq!(world.pair.said[0].closed, [world.here]);
        // A new link works, and not with this memory.
        let (here, there) = world.pair.connect(0, 1);
        let whole = world.whole();
        let refused = world.pair.engines[0].start(here, OpToken(2), &[whole], Request::Recv);
        let refused = refused.expect_err("the transport has it");
        assert_eq!(refused.kind(), ErrorKind::Exhausted);
        assert!(refused.text().contains("has not let go"), "{refused}");
        let item = world.pair.item(0, world.mr, 0, LENGTH as u64);
        let from = world.far();
        let write = |world: &mut Reading, token| {
            world.pair.start(1, there, token, &[from], Request::Write { into: &[item], counter: None });
            world.pair.outcome(1, token)
        };
        assert_eq!(write(&mut world, 1), Outcome::Refused(Refusal::Withdrawn));
        let other = world.pair.reg(0, &filled(64, 1));
        world.pair.start(0, here, 3, &[Part { mr: other, offset: 0, len: 64 }], Request::Recv);
        // It has let go
        world.holds.store(false, Ordering::Relaxed);
        world.go_on(Duration::from_secs(1));
        assert_eq!(write(&mut world, 2), Outcome::Done { bytes: LENGTH as u64 });
        assert!(support::bytes(&world.memory, 0, LENGTH) == support::bytes(&filled(LENGTH, 3), 0, LENGTH));
        world.pair.engines.iter_mut().for_each(Engine::close_all);
        world.pair.until("nothing is left", |pair| pair.engines.iter().all(Engine::is_empty));
    });
}

#[test]
fn memory_that_is_held_is_dropped_when_it_is_let_go_of() {
    let mut world = reading(Settings::plugin());
    world.holds.store(true, Ordering::Relaxed);
    world.pair.engines[0].close(world.here).expect("it is up");
    world.pair.engines[0].dereg(world.mr).expect("registered");
    world.go_on(Duration::from_secs(7));
    assert!(world.memory.owners() > 1, "the transport still writes there");
    let again = world.pair.engines[0].reg(Box::new(world.memory.clone())).expect_err("it may be written");
    assert_eq!(again.kind(), ErrorKind::Exhausted, "{again}");
    drop(world.pair.engines[0].take_gone());
    world.holds.store(false, Ordering::Relaxed);
    world.go_on(Duration::from_secs(1));
    assert_eq!(world.memory.owners(), 1);
    let memory = world.memory.clone();
    world.pair.reg(0, &memory);
}

/// What was announced is what has to come: a peer whose messages are shorter does not make a transfer whole.
#[test]
fn a_message_that_is_shorter_than_announced_is_no_success() {
    both(|settings| {
        let mut world = reading(settings);
        assert_eq!(world.pair.outcome(0, 1), Outcome::Done { bytes: LENGTH as u64 });
        world.cuts.store(true, Ordering::Relaxed);
        let (whole, item) = (world.whole(), world.pair.item(1, world.far, 0, LENGTH as u64));
        world.pair.start(0, world.here, 2, &[whole], Request::Read { from: &[item] });
        let outcome = world.pair.outcome(0, 2);
        assert!(!matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        world.cuts.store(false, Ordering::Relaxed);
        let (here, _) = world.pair.connect(0, 1);
        world.pair.start(0, here, 3, &[whole], Request::Read { from: &[item] });
        assert_eq!(world.pair.outcome(0, 3), Outcome::Done { bytes: LENGTH as u64 });
    });
}
