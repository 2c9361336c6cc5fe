//! Two transports in one process, over the soft plugin.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::ops::Range;
use std::time::{Duration, Instant};

use p2p_memory::SharedHost;
use p2p_transport::{
    Address, ConnId, Event, Events, Limits, Next, NicId, Now, Outcome, Rail, RegionId, Slice, Token,
    Transport,
};
use p2p_transport_tcpx::{Choice, Options, Tcpx};
use tcpx_core::config::{Config, FixedEnvironment};

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn config(variables: &[(&str, &str)]) -> Config {
    let environment: FixedEnvironment = variables.iter().copied().collect();
    Config::from_environment(&environment).expect("good values")
}

/// A transport and what it reported.
pub(crate) struct End {
    pub(crate) transport: Tcpx,
    pub(crate) events: Vec<Event>,
    buffer: Events,
    origin: Instant,
}

impl End {
    pub(crate) fn new(change: impl FnOnce(&mut Options)) -> Self {
        let config = config(&[]);
        let origin = Instant::now();
        let mut options = Options::of(&config, origin);
        options.peer_timeout = Duration::from_secs(2);
        change(&mut options);
        let plugin = Choice::Soft.open(&config).expect("the soft plugin");
        let transport = Tcpx::new(plugin, &config, options).expect("a transport");
        Self { transport, events: Vec::new(), buffer: Events::with_capacity(32), origin }
    }

    pub(crate) fn of(transport: Tcpx) -> Self {
        Self { transport, events: Vec::new(), buffer: Events::with_capacity(32), origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now(self.origin.elapsed())
    }

    pub(crate) fn poll(&mut self) {
        let _ = self.poll_next();
    }

    pub(crate) fn poll_next(&mut self) -> Next {
        let next = self.transport.poll(Now(self.origin.elapsed()), &mut self.buffer);
        self.events.extend(self.buffer.drain());
        next
    }

    pub(crate) fn rail(channels: u16) -> Rail {
        Rail { nic: NicId(0), device: None, channels }
    }

    pub(crate) fn listen(&mut self, channels: u16) -> (ConnId, Address) {
        let (listener, address) = self.transport.listen(Self::rail(channels)).expect("it listens");
        (self.transport.accept(listener).expect("a listener"), address)
    }

    pub(crate) fn connect(&mut self, channels: u16, address: &Address) -> ConnId {
        self.transport.connect(Self::rail(channels), address).expect("an address")
    }

    pub(crate) fn register(&mut self, length: usize) -> (RegionId, SharedHost) {
        let memory = SharedHost::new(length).expect("memory");
        let region = self.transport.register(NicId(0), Box::new(memory.clone())).expect("registered");
        (region, memory)
    }

    pub(crate) fn limits(&self, conn: ConnId) -> Limits {
        *self.transport.limits(conn).expect("connected")
    }

    /// How the operation with this token ended, if it has.
    pub(crate) fn outcome(&self, token: u64) -> Option<Outcome> {
        self.events.iter().find_map(|event| {
            let Event::Completed { token: Token(of), outcome, .. } = event else { return None };
            (*of == token).then_some(*outcome)
        })
    }

    pub(crate) fn has(&self, event: Event) -> bool {
        self.events.contains(&event)
    }
}

/// Polls both ends until something holds.
pub(crate) fn until(a: &mut End, b: &mut End, what: &str, mut holds: impl FnMut(&End, &End) -> bool) {
    let begin = Instant::now();
    while !holds(a, b) {
        a.poll();
        b.poll();
        assert!(begin.elapsed() < PATIENCE, "{what}: {:?} and {:?}", a.events, b.events);
    }
}

/// A connected pair.
pub(crate) fn pair(channels: u16) -> (End, ConnId, End, ConnId) {
    connect(End::new(|_| {}), End::new(|_| {}), channels)
}

pub(crate) fn connect(mut a: End, mut b: End, channels: u16) -> (End, ConnId, End, ConnId) {
    let (at_a, address) = a.listen(channels);
    let at_b = b.connect(channels, &address);
    until(&mut a, &mut b, "connecting", |a, b| {
        a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
    });
    (a, at_a, b, at_b)
}

/// Moves a message from `a` to `b` for each token, one after another, and compares the bytes.
pub(crate) fn carry(a: &mut End, at_a: ConnId, b: &mut End, at_b: ConnId, tokens: Range<u64>) {
    const LENGTH: u32 = 20_000;
    let total = (tokens.end - tokens.start) * u64::from(LENGTH);
    let ((from, source), (into, target)) = (a.register(total as usize), b.register(total as usize));
    let bytes: Vec<u8> = (0..total).map(|n| (n * 7 % 253) as u8).collect();
    source.copy_in(0, &bytes).expect("inside");
    for (n, token) in (0..).zip(tokens) {
        let at = n * u64::from(LENGTH);
        assert_eq!(b.transport.recv(at_b, Token(token), &[slice(into, at, LENGTH)]).count, 1);
        assert_eq!(a.transport.send(at_a, Token(token), &[slice(from, at, LENGTH)]).count, 1);
        let done = Some(Outcome::Done { len: LENGTH });
        until(a, b, "a message", |a, b| a.outcome(token) == done && b.outcome(token) == done);
    }
    let mut arrived = vec![0; total as usize];
    target.copy_out(0, &mut arrived).expect("inside");
    assert!(arrived == bytes);
}

pub(crate) fn slice(region: RegionId, offset: u64, len: u32) -> Slice {
    Slice { region, offset, len }
}
