//! Two engines in a simulated world.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod log;
pub(crate) mod sim;
pub(crate) mod sockets;

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use p2p_endpoint::engine::{Engine, Event, LinkId, OpToken, Options, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport::Next;
use p2p_transport_mock::{NicModel, Random, Settings, World};

/// Steps after which a test gives up.
const MOST_STEPS: u64 = 3_000_000;

/// What an engine has said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) up: Vec<LinkId>,
    pub(crate) closed: Vec<LinkId>,
    pub(crate) ended: Vec<(OpToken, Outcome)>,
    pub(crate) notified: VecDeque<Bytes>,
    pub(crate) counted: Vec<u32>,
}

pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) engines: Vec<Engine>,
    pub(crate) said: Vec<Said>,
}

impl Pair {
    /// As many engines as `nodes` has entries, each on a node with these NICs.
    pub(crate) fn of(seed: u64, settings: Settings, nodes: &[&[NicModel]]) -> Self {
        Self::with(seed, settings, nodes, |_| {})
    }

    /// As [`of`](Self::of), with other options than the defaults.
    pub(crate) fn with(
        seed: u64,
        settings: Settings,
        nodes: &[&[NicModel]],
        change: impl Fn(&mut Options),
    ) -> Self {
        let world = World::new(seed, settings);
        let engines = nodes.iter().zip(1_u64..).map(|(nics, number)| {
            let node = world.add_node(nics);
            let mut secrets = Random::new(seed.wrapping_mul(1000) + number);
            let random = move || secrets.next();
            let mut options = Options::new(format!("node{number}"));
            change(&mut options);
            Engine::new(Box::new(node.transport()), Box::new(node.control()), options, Box::new(random))
                .expect("an engine")
        });
        let engines: Vec<_> = engines.collect();
        let said = engines.iter().map(|_| Said::default()).collect();
        Self { world, engines, said }
    }

    /// Two nodes with NICs of this kind.
    pub(crate) fn new(settings: Settings, nics: usize) -> Self {
        let nics = vec![NicModel::FAST; nics];
        Self::of(1, settings, &[&nics, &nics])
    }

    /// Lets every engine do what it can; true if one of them wants to go on at once.
    pub(crate) fn poll(&mut self) -> bool {
        self.poll_first(self.engines.len())
    }

    /// As [`poll`](Self::poll), for so many engines: nobody drives the others.
    pub(crate) fn poll_first(&mut self, count: usize) -> bool {
        let mut again = false;
        for (engine, said) in self.engines.iter_mut().zip(&mut self.said).take(count) {
            let next = engine.poll(self.world.now());
            again |= matches!(next, Next::Again);
            while let Some(event) = engine.next_event() {
                match event {
                    Event::Connected(link) | Event::Accepted(link) => said.up.push(link),
                    Event::Closed(link) => said.closed.push(link),
                    Event::Ended { token, outcome, .. } => said.ended.push((token, outcome)),
                    Event::Notified { bytes, .. } => said.notified.push_back(bytes),
                    Event::Counted { counter, .. } => said.counted.push(counter),
                    other => panic!("an event that nobody expects: {other:?}"),
                }
            }
        }
        again
    }

    /// Goes on until `done`.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..MOST_STEPS {
            while self.poll() {}
            if done(self) {
                return;
            }
            if !self.world.step() {
                // Nothing is on its way: only time goes on.
                let now = self.world.now();
                self.world.advance(now.after(std::time::Duration::from_millis(5)));
            }
        }
        let why: Vec<_> = self
            .engines
            .iter()
            .zip(&self.said)
            .flat_map(|(engine, said)| {
                said.closed.iter().map(|link| engine.why(*link).map(ToString::to_string))
            })
            .collect();
        panic!("{what} does not happen; {why:?}; {:?}; {:?}", self.said, self.engines);
    }

    pub(crate) fn door(&self, engine: usize) -> SocketAddr {
        self.engines[engine].door().expect("it listens")
    }

    /// A link from one engine to another, and its two ends.
    pub(crate) fn connect(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let before = (self.said[from].up.len(), self.said[to].up.len());
        let door = self.door(to);
        self.engines[from].connect(door).expect("there is room");
        self.until("a link", |pair| pair.said[from].up.len() > before.0 && pair.said[to].up.len() > before.1);
        (self.said[from].up[before.0], self.said[to].up[before.1])
    }

    pub(crate) fn reg(&mut self, engine: usize, memory: &SharedHost) -> MrId {
        self.engines[engine].reg(Box::new(memory.clone())).expect("registered")
    }

    pub(crate) fn item(&mut self, engine: usize, mr: MrId, offset: u64, len: u64) -> Item {
        self.engines[engine].advertise(Part { mr, offset, len }, Access::Both).expect("advertised")
    }

    pub(crate) fn start(
        &mut self,
        engine: usize,
        link: LinkId,
        token: u64,
        parts: &[Part],
        request: Request<'_>,
    ) {
        self.engines[engine].start(link, OpToken(token), parts, request).expect("started");
    }

    /// How the operation with this token ended.
    pub(crate) fn outcome(&mut self, engine: usize, token: u64) -> Outcome {
        self.until("the end of an operation", |pair| {
            pair.said[engine].ended.iter().any(|(of, _)| of.0 == token)
        });
        let at = self.said[engine].ended.iter().position(|(of, _)| of.0 == token).expect("it ended");
        self.said[engine].ended.remove(at).1
    }
}

/// Memory whose bytes all differ from their neighbours.
pub(crate) fn filled(length: usize, seed: u8) -> SharedHost {
    let memory = SharedHost::new(length).expect("memory");
    let bytes: Vec<u8> = (0..length).map(|at| pattern(at, seed)).collect();
    memory.copy_in(0, &bytes).expect("in bounds");
    memory
}

pub(crate) fn pattern(at: usize, seed: u8) -> u8 {
    (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ (at >> 12) as u8 ^ seed
}

pub(crate) fn bytes(memory: &SharedHost, offset: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.copy_out(offset, &mut bytes).expect("in bounds");
    bytes
}
