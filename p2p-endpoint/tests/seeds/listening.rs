//! Listening again at a place that is taken, and offers that fail half way, leave nothing behind.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use p2p_endpoint::endpoint::{Endpoint, Progress};
use p2p_endpoint::engine::{Engine, Options, Part, Request};
use p2p_memory::{Memory, MemoryKind};
use p2p_proto::peer::Outcome;
use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Event, Events, Limits, ListenerId, Next, Nic, NicId, Now,
    Op, Rail, RegionId, RegisterError, Token, Transport,
};
use p2p_transport_mock::{MockTransport, NicModel, Random, World};

use crate::support::sockets::{Area, PATIENCE, config, endpoint};
use crate::support::{Pair, Said, filled};
use crate::{alone, both};

#[test]
fn a_second_listen_at_a_taken_address_fails_and_leaves_nothing() {
    alone("listening::a_second_listen_at_a_taken_address_fails_and_leaves_nothing", || {
        let first = endpoint(Progress::Thread, &[]);
        let taken = first.door().expect("it listens");
        let again = || {
            let config = config(&[]);
            let mut options = Options::of(&config);
            options.door = taken;
            Endpoint::of(&config, options, Progress::Thread)
        };
        let refused = again().expect_err("the port is taken");
        assert!(refused.to_string().contains(&taken.to_string()), "{refused}");
        let before = resources();
        for _ in 0..20 {
            again().expect_err("the port is taken");
        }
        assert_eq!(resources(), before, "descriptors and threads");
        moves_bytes(&first);
    });
}

/// Listeners that come and go one after another, each with a link.
#[test]
fn endpoints_that_listen_one_after_another_leave_nothing() {
    alone("listening::endpoints_that_listen_one_after_another_leave_nothing", || {
        let first = endpoint(Progress::Thread, &[]);
        let round = || {
            let next = endpoint(Progress::Thread, &[("UCCL_TCPX_NUM_CHANNELS", "2")]);
            moves_bytes(&next);
            let link = first.connect(next.door().expect("it listens"), PATIENCE).expect("it answers");
            first.close(link).expect("up");
        };
        round();
        let before = resources();
        (0..10).for_each(|_| round());
        let begin = Instant::now();
        // What a peer closed is let go in the background.
        while resources().0 > before.0 || resources().1 > before.1 {
            assert!(begin.elapsed() < PATIENCE, "{:?} and not {before:?}", resources());
            first.turn(std::time::Duration::from_millis(20));
        }
    });
}

/// Descriptors and threads of this process.
fn resources() -> (usize, usize) {
    let count = |folder| std::fs::read_dir(folder).expect("Linux").count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

fn moves_bytes(there: &Endpoint) {
    let here = endpoint(Progress::Thread, &[]);
    let link = here.connect(there.door().expect("it listens"), PATIENCE).expect("it answers");
    let back = there.accept(PATIENCE).expect("alive").expect("somebody came").link;
    let area = |endpoint: &Endpoint, seed| {
        let memory = filled(5000, seed);
        Area { mr: endpoint.reg(Box::new(memory.clone())).expect("registered"), memory }
    };
    let (source, target) = (area(&here, 1), area(there, 2));
    std::thread::scope(|scope| {
        scope.spawn(|| there.run(back, &[target.whole()], Request::Recv, PATIENCE).expect("up"));
        let sent = here.run(link, &[source.whole()], Request::Send, PATIENCE).expect("up");
        assert_eq!(sent, Some(Outcome::Done { bytes: 5000 }));
    });
    assert!(target.is(&source.memory));
    here.close(link).expect("up");
}

#[test]
fn a_taken_address_of_a_simulated_node_is_refused() {
    both(|settings| {
        let world = World::new(1, settings);
        let node = world.add_node(&[NicModel::FAST]);
        let engine = |door: SocketAddr| {
            let mut options = Options::new("node");
            options.door = door;
            let mut random = Random::new(3);
            let random = Box::new(move || random.next());
            Engine::new(Box::new(node.transport()), Box::new(node.control()), options, random)
        };
        let first = engine((Ipv4Addr::UNSPECIFIED, 0).into()).expect("a port is free");
        let taken = first.door().expect("it listens");
        assert_eq!(engine(taken).expect_err("taken").kind(), ErrorKind::Exhausted);
        drop(first);
        assert_eq!(engine(taken).expect("free again").door(), Some(taken));
    });
}

/// The accepting end cannot make all of its rails: those that it made are closed, at both ends, and whoever comes next is
/// served.
#[test]
fn an_offer_that_fails_half_way_closes_what_it_made() {
    both(|settings| {
        for fails_at in [1, 3, 4] {
            let world = World::new(fails_at, settings.clone());
            let lives = Arc::new(AtomicI64::new(0));
            let mut engines = Vec::new();
            for number in 0..2_u64 {
                let node = world.add_node(&[NicModel::FAST; 4]);
                let listens = if number == 1 { fails_at } else { 0 };
                let transport = Refusing { inner: node.transport(), listens, lives: lives.clone() };
                let mut secrets = Random::new(number);
                let random = Box::new(move || secrets.next());
                let options = Options::new(format!("node{number}"));
                let engine = Engine::new(Box::new(transport), Box::new(node.control()), options, random);
                engines.push(engine.expect("an engine"));
            }
            let mut pair = Pair { world, engines, said: vec![Said::default(), Said::default()] };
            for _ in 0..3 {
                let door = pair.door(1);
                pair.engines[0].connect(door).expect("there is room");
                pair.until("the end of the attempt", |pair| {
                    pair.engines.iter().all(Engine::is_empty) || !pair.said[0].up.is_empty()
                });
                if !pair.said[0].up.is_empty() {
                    break;
                }
                let link = pair.said[0].closed.pop().expect("it did not come up");
                let why = pair.engines[0].why(link).expect("there is a reason").to_string();
                assert!(why.contains("no listener today"), "{why}");
                assert_eq!(lives.load(Ordering::Relaxed), 0, "listeners and connections after {why}");
            }
            // It fails once only.
            pair.until("a link", |pair| pair.said.iter().all(|said| said.up.len() == 1));
            assert_eq!(lives.load(Ordering::Relaxed), 8, "four rails with two ends");
            let (from, to) = (pair.reg(0, &filled(1000, 1)), pair.reg(1, &filled(1000, 2)));
            let into = pair.item(1, to, 0, 1000);
            let link = pair.said[0].up[0];
            let part = Part { mr: from, offset: 0, len: 1000 };
            pair.start(0, link, 1, &[part], Request::Write { into: &[into], counter: None });
            assert_eq!(pair.outcome(0, 1), Outcome::Done { bytes: 1000 });
            pair.engines.iter_mut().for_each(Engine::close_all);
            pair.until("the end", |pair| pair.engines.iter().all(Engine::is_empty));
            assert_eq!(lives.load(Ordering::Relaxed), 0);
        }
    });
}

/// A transport that refuses one listener, and counts listeners and connections that live.
#[derive(Debug)]
struct Refusing {
    inner: MockTransport,
    /// The next call of `listen` but so many is refused; never at 0.
    listens: u64,
    lives: Arc<AtomicI64>,
}

impl Refusing {
    fn count(&self, change: i64) {
        self.lives.fetch_add(change, Ordering::Relaxed);
    }
}

impl Transport for Refusing {
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
        if self.listens > 0 {
            self.listens -= 1;
            if self.listens == 0 {
                return Err(Error::new(ErrorKind::Exhausted, "listen", "there is no listener today"));
            }
        }
        self.inner.listen(rail).inspect(|_| self.count(1))
    }
    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        // The listener has become a connection.
        self.inner.accept(listener)
    }
    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.inner.unlisten(listener).inspect(|()| self.count(-1))
    }
    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        self.inner.connect(rail, peer).inspect(|_| self.count(1))
    }
    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        self.inner.close(conn)
    }
    fn abort(&mut self, conn: ConnId) -> Result<(), Error> {
        self.inner.abort(conn)
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
        self.inner.submit(conn, ops)
    }
    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        self.inner.cancel(conn, token)
    }
    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        let before = events.as_slice().len();
        let next = self.inner.poll(now, events);
        let closed = events.as_slice()[before..].iter().filter(|event| matches!(event, Event::Closed(_)));
        self.count(-(closed.count() as i64));
        next
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_fd()
    }
}
