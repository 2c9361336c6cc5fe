//! Handles: the control operations as async functions.

use std::fmt;

use async_trait::async_trait;
use futures::channel::oneshot;
use p2p_memory::Memory;

use super::shared::{Command, Lease, gone};
use super::{Connection, Listener, Region};
use crate::{Address, Error, Nic, NicId, Rail, RegisterError};

/// The control operations of a transport, as async functions. They are rare, and allocate.
///
/// It is object-safe, so that code above names no backend and can be tested with one of its own. All of them
/// end [`Device`](crate::ErrorKind::Device) once the driver is gone; none ends unless the driver is turned. A future
/// that is dropped leaves nothing behind: what it would have returned is closed, retired or given up.
#[async_trait]
pub trait AsyncTransport: Send + Sync {
    /// As [`Transport::nics`](crate::Transport::nics).
    fn nics(&self) -> &[Nic];

    /// As [`Transport::rails`](crate::Transport::rails).
    ///
    /// # Errors
    ///
    /// As there.
    async fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error>;

    /// As [`Transport::listen`](crate::Transport::listen).
    ///
    /// # Errors
    ///
    /// As there.
    async fn listen(&self, rail: Rail) -> Result<Listener, Error>;

    /// Waits for the peer of a listener, until it is connected.
    ///
    /// # Errors
    ///
    /// As [`Transport::accept`](crate::Transport::accept), or why there is no connection.
    async fn accept(&self, listener: Listener) -> Result<Connection, Error>;

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`Transport::connect`](crate::Transport::connect), or why there is no connection.
    async fn connect(&self, rail: Rail, peer: &Address) -> Result<Connection, Error>;

    /// Ends a connection, as [`Transport::close`](crate::Transport::close), and waits for its end. Transfers
    /// that were started before are passed to the transport first, as far as there is room.
    async fn close(&self, conn: &Connection);

    /// As [`Transport::register`](crate::Transport::register).
    ///
    /// # Errors
    ///
    /// As there, with the memory if it is still there.
    async fn register(&self, nic: NicId, memory: Box<dyn Memory>) -> Result<Region, NotRegistered>;
}

const _: fn(&dyn AsyncTransport) = |_| {};

/// Registration failed.
#[non_exhaustive]
pub struct NotRegistered {
    /// Why.
    pub error: Error,
    /// The owner that was passed in; `None` if the transport panicked while it had it.
    pub memory: Option<Box<dyn Memory>>,
}

impl From<RegisterError> for NotRegistered {
    fn from(RegisterError { error, memory }: RegisterError) -> Self {
        Self { error, memory: Some(memory) }
    }
}

impl fmt::Debug for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for NotRegistered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// The way to a [`Driver`](super::Driver), for any number of threads.
#[derive(Clone)]
pub struct Handle {
    shared: Lease,
}

impl Handle {
    pub(super) const fn new(shared: Lease) -> Self {
        Self { shared }
    }

    /// Whether the driver was dropped.
    pub fn is_gone(&self) -> bool {
        self.shared.is_gone()
    }

    /// Transfers that are under way, or detached and not ended yet.
    pub fn under_way(&self) -> usize {
        self.shared.table.in_use()
    }

    async fn ask<R>(
        &self,
        during: &'static str,
        command: impl FnOnce(oneshot::Sender<Result<R, Error>>) -> Command + Send,
    ) -> Result<R, Error>
    where
        R: Send,
    {
        let (reply, answer) = oneshot::channel();
        // Refused or dropped, the reply ends.
        drop(self.shared.command(command(reply)));
        answer.await.unwrap_or_else(|_| Err(gone(during)))
    }
}

#[async_trait]
impl AsyncTransport for Handle {
    fn nics(&self) -> &[Nic] {
        &self.shared.nics
    }

    async fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        self.ask("rails", |reply| Command::Rails(device, reply)).await
    }

    async fn listen(&self, rail: Rail) -> Result<Listener, Error> {
        self.ask("listen", |reply| Command::Listen(rail, reply)).await
    }

    async fn accept(&self, listener: Listener) -> Result<Connection, Error> {
        self.ask("accept", |reply| Command::Accept(listener, reply)).await
    }

    async fn connect(&self, rail: Rail, peer: &Address) -> Result<Connection, Error> {
        let peer = peer.clone();
        self.ask("connect", |reply| Command::Connect(rail, peer, reply)).await
    }

    async fn close(&self, conn: &Connection) {
        conn.close();
        conn.closed().await;
    }

    async fn register(&self, nic: NicId, memory: Box<dyn Memory>) -> Result<Region, NotRegistered> {
        let (reply, answer) = oneshot::channel();
        if let Err(Command::Register(_, memory, _)) =
            self.shared.command(Command::Register(nic, memory, reply))
        {
            return Err(NotRegistered { error: gone("register"), memory: Some(memory) });
        }
        answer.await.unwrap_or_else(|_| Err(NotRegistered { error: gone("register"), memory: None }))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("gone", &self.is_gone()).finish_non_exhaustive()
    }
}
