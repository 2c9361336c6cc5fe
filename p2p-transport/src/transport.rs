//! The contract that every backend keeps.

use std::os::fd::BorrowedFd;

use p2p_memory::{Memory, MemoryKind};

use crate::{
    Accepted, Address, ConnId, Error, Events, Limits, ListenerId, Next, Nic, NicId, Now, OneSided, Op, Rail,
    RegionId, RegisterError, Slice, Token,
};

/// Moves messages between registered memory here and at peers, for one owner, without blocking.
///
/// **Calls.** No method waits for a peer, reads a clock or wakes anybody. Time comes with
/// [`poll`](Self::poll). The control plane (everything but the three below) may allocate and make system
/// calls; the data plane ([`submit`](Self::submit), [`cancel`](Self::cancel), [`poll`](Self::poll)) allocates
/// nothing after a warm-up (law 20) and does bounded work per call (law 12). Nothing moves unless `poll` is
/// called.
///
/// **Order.** Completions and everything else come from `poll` alone. Each accepted operation completes
/// exactly once (law 1), all of them before `Closed` (law 6), and every run ends (law 21). Messages may flow
/// both ways at once with full windows (law 16).
///
/// **Memory** is owned by the transport from `register` until `reclaim`. Dropping the transport ends all
/// connections as the death of its process would, so that close and poll until `Closed` come first where the
/// last messages matter. It drops memory only when no device can reach it any more; memory that a device may
/// still reach is leaked instead (law 19).
///
/// **Threads.** A transport belongs to one thread at a time; it is `Send`.
pub trait Transport: Send {
    /// Its NICs, in the order of their numbers.
    fn nics(&self) -> &[Nic];

    /// The rails over which memory of a CUDA device (`None`: of the host) should go, best first, each on a NIC of
    /// its own: as many NICs and channels as the backend was configured for.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if no NIC here may serve that memory; the text says why.
    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error>;

    /// What base and length of a region must be a multiple of, in bytes; 1 where anything goes.
    fn region_align(&self, kind: MemoryKind) -> usize;

    /// Fixed facts about a connection; `None` before `Connected`, and once its id is stale.
    fn limits(&self, conn: ConnId) -> Option<&Limits>;

    /// Makes a place where one peer can connect to, and returns the address to hand to that peer.
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a NIC that is not there or no channels; otherwise what the
    /// system refused.
    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error>;

    /// Waits for the peer of a listener, which is used up: the connection ends up `Connected` or `Closed`,
    /// within a bound that the backend was made with.
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a stale id (law 9).
    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error>;

    /// Gives up a listener that was not accepted. Its address leads nowhere from here on.
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a stale id (law 9).
    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error>;

    /// Starts to connect: the connection ends up `Connected` or `Closed`, within a bound that the backend was
    /// made with.
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a NIC that is not there, no channels, or bytes that are no
    /// address of this backend and version.
    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error>;

    /// Ends a connection, within a bound that the backend was made with.
    ///
    /// What has not completed ends with `ConnLost`, if it does not end by itself meanwhile; then comes
    /// `Closed` (law 6). Messages whose send was reported `Done` still reach receives that the peer has
    /// posted or posts within the bound. Closing what is closing already does nothing.
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a stale id (law 9).
    fn close(&mut self, conn: ConnId) -> Result<(), Error>;

    /// As [`close`](Self::close), for a caller that waits for nothing of the peer any more: what it has not received
    /// may be lost, also where its send was reported `Done`, and operations end as soon as the backend has let go of
    /// their memory. A backend whose `close` agrees on nothing with the peer needs no other.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    fn abort(&mut self, conn: ConnId) -> Result<(), Error> {
        self.close(conn)
    }

    /// Why a connection ended or was never made, the peer's goodbye included. `None` while it lives, and if this
    /// end closed it. Known from its first `ConnLost`, or its `Closed`, until the next call of `accept` or
    /// `connect`.
    fn why(&self, conn: ConnId) -> Option<&Error>;

    /// Takes `memory` over and makes it usable on every connection of `nic`, also on later ones.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] with the memory, of which nothing is registered then.
    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError>;

    /// Refuses new operations on the region, which end `BadSlice` from here on (law 8). `Retired` follows
    /// when the last one that uses it has completed, at once if there is none (law 7).
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a stale id or a region that was retired before (law 9).
    fn retire(&mut self, region: RegionId) -> Result<(), Error>;

    /// Gives back the owner of a region after its `Retired`; the id is stale from here on (law 7).
    ///
    /// `None` before that, for a stale id, and for memory that a device may reach for ever, because it could
    /// not be deregistered: that is leaked, logged and counted by the backend.
    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>>;

    /// Takes a prefix of `ops` (law 2).
    ///
    /// An operation with a bad slice is taken as well, and ends `Failed`. A stale `conn` takes nothing and
    /// says [`Stop::Closed`](crate::Stop::Closed) (law 9).
    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted;

    /// Withdraws the newest operation with this token that has not started. True if there was one: it then
    /// completes as `Cancelled`, without waiting for those before it. An operation that has started runs to
    /// its end (law 18).
    fn cancel(&mut self, conn: ConnId, token: Token) -> bool;

    /// Makes progress, and stores at most [`events.room()`](Events::room) events; what does not fit comes with
    /// a later call (law 10). `now` never goes back.
    fn poll(&mut self, now: Now, events: &mut Events) -> Next;

    /// Becomes readable when a poll may find something. `None` where only polling reveals it.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Sends one message: [`submit`](Self::submit) of one operation.
    fn send(&mut self, conn: ConnId, token: Token, from: &[Slice]) -> Accepted {
        self.submit(conn, &[Op::Send { token, from }])
    }

    /// Receives one message: [`submit`](Self::submit) of one operation.
    fn recv(&mut self, conn: ConnId, token: Token, into: &[Slice]) -> Accepted {
        self.submit(conn, &[Op::Recv { token, into }])
    }

    /// What carries a connection, in a line for people: sockets, queue pairs, and the like; `None` where there
    /// is nothing to say.
    fn describe(&self, conn: ConnId) -> Option<String> {
        let _ = conn;
        None
    }

    /// Native one-sided operations, where the backend has them.
    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        None
    }
}

const _: fn(&dyn Transport) = |_| {};

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        /// Everything is passed on.
        impl<T: Transport + ?Sized> Transport for $pointer {
            fn nics(&self) -> &[Nic] {
                (**self).nics()
            }
            fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
                (**self).rails(device)
            }
            fn region_align(&self, kind: MemoryKind) -> usize {
                (**self).region_align(kind)
            }
            fn limits(&self, conn: ConnId) -> Option<&Limits> {
                (**self).limits(conn)
            }
            fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
                (**self).listen(rail)
            }
            fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
                (**self).accept(listener)
            }
            fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
                (**self).unlisten(listener)
            }
            fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
                (**self).connect(rail, peer)
            }
            fn close(&mut self, conn: ConnId) -> Result<(), Error> {
                (**self).close(conn)
            }
            fn abort(&mut self, conn: ConnId) -> Result<(), Error> {
                (**self).abort(conn)
            }
            fn why(&self, conn: ConnId) -> Option<&Error> {
                (**self).why(conn)
            }
            fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
                (**self).register(nic, memory)
            }
            fn retire(&mut self, region: RegionId) -> Result<(), Error> {
                (**self).retire(region)
            }
            fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
                (**self).reclaim(region)
            }
            fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
                (**self).submit(conn, ops)
            }
            fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
                (**self).cancel(conn, token)
            }
            fn poll(&mut self, now: Now, events: &mut Events) -> Next {
                (**self).poll(now, events)
            }
            fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
                (**self).wait_fd()
            }
            fn send(&mut self, conn: ConnId, token: Token, from: &[Slice]) -> Accepted {
                (**self).send(conn, token, from)
            }
            fn recv(&mut self, conn: ConnId, token: Token, into: &[Slice]) -> Accepted {
                (**self).recv(conn, token, into)
            }
            fn describe(&self, conn: ConnId) -> Option<String> {
                (**self).describe(conn)
            }
            fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
                (**self).one_sided()
            }
        }
    )*};
}

forward!(Box<T>, &mut T);
