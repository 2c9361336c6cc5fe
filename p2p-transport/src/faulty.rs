//! A transport that damages another one.

mod core;
mod damage;
mod events;
mod held;

use std::os::fd::BorrowedFd;

use p2p_memory::{Memory, MemoryKind};

use self::core::Core;
pub use self::damage::{Damage, Strikes};
use crate::{
    Accepted, Address, ConnId, Error, ErrorKind, Events, Limits, ListenerId, Next, Nic, NicId, Now, OneSided,
    Op, Rail, RegionId, RegisterError, Token, Transport,
};

/// A transport around a transport that lets go wrong what may go wrong.
///
/// It holds completions back, lets them overtake each other where no order is promised, narrows windows,
/// passes events through one by one, refuses memory and connections, and closes connections. All of it is
/// what a backend could do as well: the laws hold, but for the one that [`Damage::short`] names. The caller
/// is never put to sleep while an event is held back.
///
/// Its [`ConnId`]s are its own, because a connection that has ended inside may still have events to come. It
/// is as deterministic as what lies inside. After a warm-up it allocates nothing on the data plane.
#[derive(Debug)]
pub struct Faulty<T>(Core<T>);

impl<T: Transport> Faulty<T> {
    /// Damages `inner`, which has no connection yet.
    pub fn new(inner: T, damage: Damage) -> Self {
        Self(Core::new(inner, damage))
    }

    /// How often each kind of damage struck.
    pub const fn strikes(&self) -> &Strikes {
        &self.0.strikes
    }

    /// What is damaged. Its connections have other ids than here.
    pub const fn inner(&self) -> &T {
        &self.0.inner
    }

    /// As [`inner`](Self::inner). To poll it or to submit to it directly loses events.
    pub const fn inner_mut(&mut self) -> &mut T {
        &mut self.0.inner
    }

    /// The id inside of a connection; `None` for a stale id, and once it has ended inside.
    pub fn inside(&self, conn: ConnId) -> Option<ConnId> {
        self.0.conns.get(conn).and_then(|conn| conn.inner)
    }
}

impl<T: Transport> Transport for Faulty<T> {
    fn nics(&self) -> &[Nic] {
        self.0.inner.nics()
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        self.0.inner.rails(device)
    }

    fn region_align(&self, kind: MemoryKind) -> usize {
        self.0.inner.region_align(kind)
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.0.conns.get(conn).filter(|conn| conn.connected).and_then(|conn| conn.limits.as_ref())
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        self.0.inner.listen(rail)
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        self.0.ended.clear();
        let inner = self.0.inner.accept(listener)?;
        Ok(self.0.add(Some(inner)))
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.0.inner.unlisten(listener)
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        self.0.ended.clear();
        let damage = self.0.damage;
        if self.0.dice.strikes(damage.refuse_connect) {
            return Ok(self.0.refuse());
        }
        let inner = self.0.inner.connect(rail, peer)?;
        Ok(self.0.add(Some(inner)))
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        let known = self.0.conns.get_mut(conn).ok_or_else(|| Error::stale("close", "connection"))?;
        known.closing = true;
        known.inner.map_or(Ok(()), |inner| self.0.inner.close(inner))
    }

    fn abort(&mut self, conn: ConnId) -> Result<(), Error> {
        let known = self.0.conns.get_mut(conn).ok_or_else(|| Error::stale("abort", "connection"))?;
        known.closing = true;
        known.inner.map_or(Ok(()), |inner| self.0.inner.abort(inner))
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        if let Some(conn) = self.0.conns.get(conn) {
            return conn.why.as_ref().filter(|_| conn.lost);
        }
        self.0.ended.iter().find(|(id, _)| *id == conn).map(|(_, why)| why)
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        let damage = self.0.damage;
        if self.0.dice.strikes(damage.refuse_register) {
            self.0.strikes.refused_registrations += 1;
            let text = "Faulty refused this registration: try again";
            return Err(RegisterError { error: Error::new(ErrorKind::Exhausted, "register", text), memory });
        }
        self.0.inner.register(nic, memory)
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        self.0.inner.retire(region)
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        // Inside it may have been reported, but the caller does not know that yet.
        if self.0.queue.has_retired(region) { None } else { self.0.inner.reclaim(region) }
    }

    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        self.0.submit(conn, ops, T::submit)
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        self.0.cancel(conn, token)
    }

    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        self.0.poll(now, events)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.inner.wait_fd()
    }

    fn describe(&self, conn: ConnId) -> Option<String> {
        self.0.inner.describe(self.inside(conn)?)
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        self.0.inner.one_sided()?;
        Some(&mut self.0)
    }
}
