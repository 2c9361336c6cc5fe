//! What handles give out: connections, listeners and regions.

use std::sync::Arc;

use futures::channel::oneshot;
use p2p_memory::Memory;

use super::fate::Fate;
use super::lines::Line;
use super::shared::{Command, Lease, Shared, gone};
use super::waiters::{Block, Waiters};
use super::work::{Way, Work};
use super::{Access, Closed, Transfer};
use crate::{Address, ConnId, Error, Limits, ListenerId, NicId, OneSidedLimits, RegionId, Slice};

/// A connection to a peer. Clones are the same connection; when the last one is dropped, it is closed.
#[derive(Clone, Debug)]
pub struct Connection {
    link: Arc<Link>,
}

struct Link {
    shared: Lease,
    id: ConnId,
    limits: Limits,
    one_sided: Option<OneSidedLimits>,
    fate: Arc<Fate>,
    block: Arc<Block>,
}

impl Connection {
    pub(super) fn new(
        shared: Lease,
        mut limits: Limits,
        one_sided: Option<OneSidedLimits>,
        line: &Line,
    ) -> Self {
        limits.max_slices = limits.max_slices.min(shared.slices);
        let (fate, block) = (Arc::clone(&line.fate), Arc::clone(&line.block));
        Self { link: Arc::new(Link { shared, id: line.id, limits, one_sided, fate, block }) }
    }

    /// The id of the transport.
    pub fn id(&self) -> ConnId {
        self.link.id
    }

    /// Fixed facts, with no more slices than [`Options::slices`](super::Options::slices).
    pub fn limits(&self) -> &Limits {
        &self.link.limits
    }

    /// Sends one message, gathered from these slices. Nothing happens before the first poll.
    pub const fn send<'a>(&'a self, from: &'a [Slice]) -> Transfer<'a> {
        Transfer::new(self, Work::Send(from))
    }

    /// Receives one message, scattered to these slices. Nothing happens before the first poll.
    pub const fn recv<'a>(&'a self, into: &'a [Slice]) -> Transfer<'a> {
        Transfer::new(self, Work::Recv(into))
    }

    /// Native one-sided operations, and what the peer's tell, where the backend has them.
    pub fn one_sided(&self) -> Option<Access<'_>> {
        self.link.one_sided.map(|limits| Access::new(self, limits))
    }

    /// Begins to end the connection, as [`Transport::close`](crate::Transport::close).
    pub fn close(&self) {
        // Without a driver it has ended.
        drop(self.link.shared.command(Command::Close(self.link.id)));
    }

    /// Waits for the end of the connection, whoever brings it about.
    pub const fn closed(&self) -> Closed<'_> {
        Closed::new(self)
    }

    /// Why the connection ended: known when the first transfer has ended
    /// [`Lost`](super::TransferError::Lost). `None` while it lives, and if this end closed it.
    pub fn why(&self) -> Option<&Error> {
        self.link.fate.why()
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.link.shared
    }

    pub(super) fn fate(&self) -> &Fate {
        &self.link.fate
    }

    pub(super) fn slots(&self, way: Way) -> &Waiters {
        self.link.block.way(way)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.shared.command(Command::Close(self.id)));
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A place where one peer can connect to. Dropping it gives it up.
pub struct Listener {
    shared: Lease,
    id: Option<ListenerId>,
    address: Address,
}

impl Listener {
    pub(super) const fn new(shared: Lease, id: ListenerId, address: Address) -> Self {
        Self { shared, id: Some(id), address }
    }

    /// What the peer connects to.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The id, for whoever uses it up.
    pub(super) const fn take(&mut self) -> Option<ListenerId> {
        self.id.take()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            drop(self.shared.command(Command::Unlisten(id)));
        }
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Registered memory. Dropping it retires it: transfers that were started before run to their end, then the
/// memory is dropped. Slices of it that are used later end [`BadSlice`](crate::OpFault::BadSlice).
pub struct Region {
    shared: Lease,
    id: Option<RegionId>,
    raw: RegionId,
    nic: NicId,
    length: usize,
}

impl Region {
    pub(super) const fn new(shared: Lease, id: RegionId, nic: NicId, length: usize) -> Self {
        Self { shared, id: Some(id), raw: id, nic, length }
    }

    /// The id of the transport.
    pub const fn id(&self) -> RegionId {
        self.raw
    }

    /// The NIC on whose connections it can be used.
    pub const fn nic(&self) -> NicId {
        self.nic
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "whether an empty memory is useful is not decided here")]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// `len` bytes from `offset` on. They are checked when they are used.
    pub const fn slice(&self, offset: u64, len: u32) -> Slice {
        Slice { region: self.raw, offset, len }
    }

    /// Retires the region, waits until nothing uses it any more, and returns its memory. A future that is
    /// dropped meanwhile drops the memory when that is so.
    ///
    /// # Errors
    ///
    /// [`Device`](crate::ErrorKind::Device) if the driver is gone, or the backend could not let go of the
    /// memory.
    pub async fn reclaim(mut self) -> Result<Box<dyn Memory>, Error> {
        let (reply, answer) = oneshot::channel();
        if let Some(id) = self.id.take() {
            drop(self.shared.command(Command::Retire(id, Some(reply))));
        }
        answer.await.unwrap_or_else(|_| Err(gone("reclaim")))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            drop(self.shared.command(Command::Retire(id, None)));
        }
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("id", &self.raw).field("length", &self.length).finish_non_exhaustive()
    }
}
