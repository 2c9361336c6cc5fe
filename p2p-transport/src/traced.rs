//! A transport that tells what another one is asked and answers.

use std::os::fd::BorrowedFd;

use p2p_memory::{Memory, MemoryKind};
use tracing::{debug, trace};

use crate::{
    Accepted, Address, ConnId, Error, Event, Events, Limits, ListenerId, Next, Nic, NicId, Now, OneSided,
    OneSidedLimits, OneSidedOp, Op, Rail, RegionId, RegisterError, RemoteSlice, Slice, Stop, Token,
    Transport,
};

/// One call of a transport and its answer, or one event.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    /// `listen`; `None` if it was refused.
    Listen(Option<ListenerId>),
    /// `accept`, and the connection if there is one.
    Accept(ListenerId, Option<ConnId>),
    /// `unlisten`.
    Unlisten(ListenerId),
    /// `connect`; `None` if it was refused.
    Connect(Option<ConnId>),
    /// `close`, and whether it was legal.
    Close(ConnId, bool),
    /// `abort`, and whether it was legal.
    Abort(ConnId, bool),
    /// `register`, and the region if there is one.
    Register(NicId, Option<RegionId>),
    /// `retire`, and whether it was legal.
    Retire(RegionId, bool),
    /// `reclaim`, and whether there was something to be returned.
    Reclaim(RegionId, bool),
    /// `submit` of so many two-sided operations.
    Submit(ConnId, usize, Accepted),
    /// `submit` of so many one-sided operations.
    SubmitOneSided(ConnId, usize, Accepted),
    /// `export`, and whether it was granted.
    Export(ConnId, bool),
    /// `cancel`, and whether it came in time.
    Cancel(ConnId, Token, bool),
    /// `poll`, so many events, which follow, and the answer.
    Poll(Now, usize, Next),
    /// One event of the poll before.
    Event(Event),
}

/// What a [`Traced`] has seen, in numbers.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Calls of `submit`, of either kind.
    pub submits: u64,
    /// Operations accepted.
    pub accepted: u64,
    /// Calls of `submit` that were answered with `Busy`.
    pub busy: u64,
    /// Calls of `submit` that were answered with `Closed`.
    pub closed: u64,
    /// Calls of `poll`.
    pub polls: u64,
    /// Polls without an event.
    pub empty_polls: u64,
    /// Events, of any kind.
    pub events: u64,
    /// Events that were completions.
    pub completions: u64,
}

/// A transport around a transport that watches it.
///
/// Each call and each event is one `tracing` event of the target `p2p::transport`: the data plane at level
/// `TRACE`, everything else at `DEBUG`, with fields and without any formatting while nobody listens. Besides,
/// it counts, and keeps the last calls in a ring, if it was given room for one, so that a test that fails can
/// print what led to it. The ring is allocated once; nothing else of it allocates.
#[derive(Debug)]
pub struct Traced<T>(Watch<T>);

#[derive(Debug)]
struct Watch<T> {
    inner: T,
    counts: Counts,
    ring: Vec<Call>,
    room: usize,
    /// Position of the oldest call, once the ring is full.
    oldest: usize,
    /// One-sided limits by the position of the connection: inside, they cannot be had through `&self`.
    sides: Vec<Option<(ConnId, OneSidedLimits)>>,
}

impl<T: Transport> Traced<T> {
    /// Watches `inner` and keeps no calls.
    pub const fn new(inner: T) -> Self {
        let ring = Vec::new();
        Self(Watch { inner, counts: ZERO, ring, room: 0, oldest: 0, sides: Vec::new() })
    }

    /// Watches `inner` and keeps the last `room` calls and events.
    pub fn with_ring(inner: T, room: usize) -> Self {
        let ring = Vec::with_capacity(room);
        Self(Watch { inner, counts: ZERO, ring, room, oldest: 0, sides: Vec::new() })
    }

    /// What was seen, in numbers.
    pub const fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// The calls in the ring, oldest first.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        let (newer, older) = self.0.ring.split_at(self.0.oldest);
        older.iter().chain(newer)
    }

    /// What is watched.
    pub const fn inner(&self) -> &T {
        &self.0.inner
    }

    /// As [`inner`](Self::inner). What is called directly is not seen.
    pub const fn inner_mut(&mut self) -> &mut T {
        &mut self.0.inner
    }

    /// Ends the watch.
    pub fn into_inner(self) -> T {
        self.0.inner
    }
}

const ZERO: Counts = Counts {
    submits: 0,
    accepted: 0,
    busy: 0,
    closed: 0,
    polls: 0,
    empty_polls: 0,
    events: 0,
    completions: 0,
};

impl<T> Watch<T> {
    fn keep(&mut self, call: Call) {
        if self.ring.len() < self.room {
            self.ring.push(call);
        } else if let Some(oldest) = self.ring.get_mut(self.oldest) {
            *oldest = call;
            self.oldest = (self.oldest + 1) % self.room;
        }
    }

    fn learn(&mut self, event: &Event)
    where
        T: Transport,
    {
        let (conn, limits) = match *event {
            Event::Connected(conn) => (conn, self.inner.one_sided().and_then(|side| side.limits(conn))),
            Event::Closed(conn) => (conn, None),
            Event::Completed { .. } | Event::Retired(_) | Event::Notified { .. } => return,
        };
        let length = self.sides.len().max(conn.index() + 1);
        self.sides.resize(length, None);
        self.sides[conn.index()] = limits.map(|limits| (conn, limits));
    }

    const fn count(&mut self, accepted: Accepted) {
        self.counts.submits += 1;
        self.counts.accepted += accepted.count as u64;
        match accepted.stopped {
            Some(Stop::Busy) => self.counts.busy += 1,
            Some(Stop::Closed) => self.counts.closed += 1,
            None => {}
        }
    }
}

impl<T: Transport> Transport for Traced<T> {
    fn nics(&self) -> &[Nic] {
        self.0.inner.nics()
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        let rails = self.0.inner.rails(device);
        debug!(target: "p2p::transport", device, ?rails, "rails");
        rails
    }

    fn region_align(&self, kind: MemoryKind) -> usize {
        self.0.inner.region_align(kind)
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.0.inner.limits(conn)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        let made = self.0.inner.listen(rail);
        debug!(target: "p2p::transport", ?rail, ?made, "listen");
        self.0.keep(Call::Listen(made.as_ref().ok().map(|(listener, _)| *listener)));
        made
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        let conn = self.0.inner.accept(listener);
        debug!(target: "p2p::transport", ?listener, ?conn, "accept");
        self.0.keep(Call::Accept(listener, conn.as_ref().ok().copied()));
        conn
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        let done = self.0.inner.unlisten(listener);
        debug!(target: "p2p::transport", ?listener, ?done, "unlisten");
        self.0.keep(Call::Unlisten(listener));
        done
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        let conn = self.0.inner.connect(rail, peer);
        debug!(target: "p2p::transport", ?rail, ?peer, ?conn, "connect");
        self.0.keep(Call::Connect(conn.as_ref().ok().copied()));
        conn
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        let done = self.0.inner.close(conn);
        debug!(target: "p2p::transport", ?conn, ?done, "close");
        self.0.keep(Call::Close(conn, done.is_ok()));
        done
    }

    fn abort(&mut self, conn: ConnId) -> Result<(), Error> {
        let done = self.0.inner.abort(conn);
        debug!(target: "p2p::transport", ?conn, ?done, "abort");
        self.0.keep(Call::Abort(conn, done.is_ok()));
        done
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        self.0.inner.why(conn)
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        let region = self.0.inner.register(nic, memory);
        debug!(target: "p2p::transport", ?nic, ?region, "register");
        self.0.keep(Call::Register(nic, region.as_ref().ok().copied()));
        region
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        let done = self.0.inner.retire(region);
        debug!(target: "p2p::transport", ?region, ?done, "retire");
        self.0.keep(Call::Retire(region, done.is_ok()));
        done
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        let memory = self.0.inner.reclaim(region);
        debug!(target: "p2p::transport", ?region, returned = memory.is_some(), "reclaim");
        self.0.keep(Call::Reclaim(region, memory.is_some()));
        memory
    }

    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        let accepted = self.0.inner.submit(conn, ops);
        trace!(target: "p2p::transport", ?conn, ?ops, ?accepted, "submit");
        self.0.count(accepted);
        self.0.keep(Call::Submit(conn, ops.len(), accepted));
        accepted
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        let cancelled = self.0.inner.cancel(conn, token);
        trace!(target: "p2p::transport", ?conn, token = token.0, cancelled, "cancel");
        self.0.keep(Call::Cancel(conn, token, cancelled));
        cancelled
    }

    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        let before = events.as_slice().len();
        let next = self.0.inner.poll(now, events);
        let new = events.as_slice().get(before..).unwrap_or_default();
        trace!(target: "p2p::transport", now = ?now.0, events = new.len(), ?next, "poll");
        self.0.counts.polls += 1;
        self.0.counts.empty_polls += u64::from(new.is_empty());
        self.0.counts.events += new.len() as u64;
        self.0.keep(Call::Poll(now, new.len(), next));
        for event in new {
            if let Event::Completed { conn, token, outcome } = event {
                self.0.counts.completions += 1;
                trace!(target: "p2p::transport", ?conn, token = token.0, ?outcome, "completed");
            } else {
                debug!(target: "p2p::transport", ?event, "event");
            }
            self.0.keep(Call::Event(*event));
            self.0.learn(event);
        }
        next
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.inner.wait_fd()
    }

    fn describe(&self, conn: ConnId) -> Option<String> {
        self.0.inner.describe(conn)
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        self.0.inner.one_sided()?;
        Some(&mut self.0)
    }
}

impl<T: Transport> OneSided for Watch<T> {
    fn limits(&self, conn: ConnId) -> Option<OneSidedLimits> {
        let side = self.sides.get(conn.index()).copied().flatten();
        side.filter(|(id, _)| *id == conn).map(|(_, limits)| limits)
    }

    fn export(&mut self, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error> {
        let Some(side) = self.inner.one_sided() else { return Err(Error::stale("export", "connection")) };
        let export = side.export(conn, slice);
        debug!(target: "p2p::transport", ?conn, ?slice, ?export, "export");
        self.keep(Call::Export(conn, export.is_ok()));
        export
    }

    fn submit(&mut self, conn: ConnId, ops: &[OneSidedOp]) -> Accepted {
        let Some(side) = self.inner.one_sided() else { return Accepted::prefix(0, Stop::Closed) };
        let accepted = side.submit(conn, ops);
        trace!(target: "p2p::transport", ?conn, ?ops, ?accepted, "submit one-sided");
        self.count(accepted);
        self.keep(Call::SubmitOneSided(conn, ops.len(), accepted));
        accepted
    }
}
