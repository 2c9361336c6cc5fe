//! Handles, and the commands through which they reach the driver.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::task::AtomicWaker;
use p2p_memory::Memory;

use super::slot::Table;
use super::work::Way;
use super::{Connection, Listener, Options, Region};
use crate::{
    Address, ConnId, Error, ErrorKind, ListenerId, Nic, NicId, Rail, RegionId, RegisterError, RemoteSlice,
    Slice,
};

/// The control operations of a transport, as async functions. They are rare, and allocate.
///
/// It is object-safe, so that code above names no backend and can be tested with one of its own. All of them
/// end [`Device`](ErrorKind::Device) once the driver is gone; none ends unless the driver is turned. A future
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

pub(super) fn gone(during: &'static str) -> Error {
    Error::new(ErrorKind::Device, during, "the driver of this transport is gone: make a new transport")
}

/// The answer to a command that a future waits for.
pub(super) type Reply<R> = oneshot::Sender<Result<R, Error>>;

/// What a handle wants from the driver.
pub(super) enum Command {
    Rails(Option<u16>, Reply<Vec<Rail>>),
    Listen(Rail, Reply<Listener>),
    Unlisten(ListenerId),
    Accept(Listener, Reply<Connection>),
    Connect(Rail, Address, Reply<Connection>),
    Close(ConnId),
    Register(NicId, Box<dyn Memory>, oneshot::Sender<Result<Region, NotRegistered>>),
    Export(ConnId, Slice, Reply<RemoteSlice>),
    Retire(RegionId, Option<Reply<Box<dyn Memory>>>),
}

/// What keeps a driver from being finished. When the last one goes, whoever turns the driver is woken.
pub(super) struct Lease(Arc<Shared>);

impl Lease {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.leases.fetch_add(1, SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.leases.fetch_sub(1, SeqCst) == 1 {
            self.0.driver.wake();
        }
    }
}

impl Deref for Lease {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What handles and driver have in common.
pub(super) struct Shared {
    pub(super) table: Table,
    /// Whoever turns the driver.
    pub(super) driver: AtomicWaker,
    pub(super) slices: u16,
    nics: Vec<Nic>,
    gone: AtomicBool,
    leases: AtomicUsize,
    commanded: AtomicBool,
    /// `None` once the driver is gone.
    commands: Mutex<Option<VecDeque<Command>>>,
}

impl Shared {
    pub(super) fn new(nics: Vec<Nic>, options: Options) -> Self {
        let each = options.each();
        Self {
            table: Table::new(
                each * Way::COUNT as u32 * u32::from(options.connections),
                each,
                options.slices,
            ),
            driver: AtomicWaker::new(),
            slices: options.slices,
            nics,
            gone: AtomicBool::new(false),
            leases: AtomicUsize::new(0),
            commanded: AtomicBool::new(false),
            commands: Mutex::new(Some(VecDeque::new())),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }

    fn commands(&self) -> MutexGuard<'_, Option<VecDeque<Command>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a command to the driver.
    ///
    /// # Errors
    ///
    /// The command itself if the driver is gone.
    pub(super) fn command(&self, command: Command) -> Result<(), Command> {
        match self.commands().as_mut() {
            Some(commands) => commands.push_back(command),
            None => return Err(command),
        }
        self.commanded.store(true, SeqCst);
        self.driver.wake();
        Ok(())
    }

    /// Exchanges the commands that wait for `empty`.
    pub(super) fn take_commands(&self, empty: &mut VecDeque<Command>) {
        if self.commanded.swap(false, SeqCst)
            && let Some(commands) = self.commands().as_mut()
        {
            std::mem::swap(commands, empty);
        }
    }

    /// Whether somebody may still ask for something, or has.
    pub(super) fn is_needed(&self) -> bool {
        self.leases.load(SeqCst) > 0 || self.commanded.load(SeqCst)
    }

    /// Nothing is answered any more from here on; returns what was not.
    pub(super) fn end(&self) -> VecDeque<Command> {
        self.gone.store(true, SeqCst);
        self.commands().take().unwrap_or_default()
    }
}
