//! What handles and driver share, and the commands that go from one to the other.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;
use futures::task::AtomicWaker;
use p2p_memory::Memory;

use super::slot::Table;
use super::work::Way;
use super::{Connection, Listener, NotRegistered, Options, Region};
use crate::{Address, ConnId, Error, ErrorKind, ListenerId, Nic, NicId, Rail, RegionId, RemoteSlice, Slice};

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
    pub(super) nics: Vec<Nic>,
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
