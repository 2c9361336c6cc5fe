//! The driver: owns the transport, and is turned by whoever wants to.

mod control;
mod data;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::lines::{ById, Hold, Line, Place};
use super::shared::{Command, Shared, gone};
use super::waiters::Block;
use super::work::Way;
use super::{NotRegistered, Options, TransferError};
use crate::{ConnId, Events, Next, Now, Slice, Transport};

/// Operations submitted at once.
const BATCH: usize = 16;

/// Owns a transport and moves everything between it and the handles.
///
/// Dropping it drops the transport. Whatever has not ended then ends [`TransferError::Gone`] or
/// [`Device`](crate::ErrorKind::Device): nobody is left waiting. The same happens when the transport panics
/// and its driver is unwound. Memory is still the transport's until it is dropped as well, right after that.
pub struct Driver<T: Transport> {
    transport: T,
    shared: Arc<Shared>,
    lines: ById<Line>,
    holds: ById<Hold>,
    /// Of connections, one after the other.
    blocks: Box<[Arc<Block>]>,
    /// Slots of one connection and way.
    each: u32,
    /// By slot.
    places: Box<[Place]>,
    /// Requests to cancel, while they are carried out: slots and generations.
    cancelled: Vec<(u32, u32)>,
    /// Connections to be looked at: something came, or there may be room again.
    marked: Vec<ConnId>,
    /// The other half of `marked`, while that one is walked.
    walked: Vec<ConnId>,
    events: Events,
    scratch: Vec<Slice>,
    /// Notifications that a connection keeps.
    notifications: u16,
    commands: VecDeque<Command>,
    strays: u64,
}

impl<T: Transport> Driver<T> {
    pub(super) fn new(transport: T, shared: Arc<Shared>, options: Options) -> Self {
        let each = options.each();
        let blocks = (0..u32::from(options.connections))
            .map(|at| Arc::new(Block::new(at * Way::COUNT as u32 * each, each)));
        Self {
            transport,
            lines: ById::default(),
            holds: ById::default(),
            blocks: blocks.collect(),
            each,
            places: vec![Place::Absent; shared.table.len()].into(),
            cancelled: Vec::with_capacity(shared.table.len()),
            marked: Vec::new(),
            walked: Vec::new(),
            events: Events::with_capacity(options.events.max(1).into()),
            scratch: Vec::with_capacity(BATCH * usize::from(options.slices)),
            notifications: options.notifications,
            commands: VecDeque::new(),
            strays: 0,
            shared,
        }
    }

    /// Does what there is to do, without waiting: takes over what handles ask for, passes on what there is room
    /// for, polls the transport once, and wakes those whose operations ended.
    ///
    /// Returns when it wants to be turned again, as [`Transport::poll`] does. `waker` is woken as soon as a
    /// handle asks for something after this call began. Only the waker of the last call is.
    pub fn turn(&mut self, now: Now, waker: &Waker) -> Next {
        // First of all, so that what comes during this turn is noticed.
        self.shared.driver.register(waker);
        // In this order: an operation that was started before a command, or before a request to cancel it, is
        // taken before that is carried out.
        let mut cancelled = std::mem::take(&mut self.cancelled);
        self.shared.table.take_cancelled(&mut cancelled);
        let mut commands = std::mem::take(&mut self.commands);
        self.shared.take_commands(&mut commands);
        self.take_operations();
        self.cancel_operations(cancelled.drain(..));
        self.cancelled = cancelled;
        self.pass_on();
        for command in commands.drain(..) {
            self.obey(command);
        }
        self.commands = commands;
        let next = self.poll(now);
        // What was passed on after the poll is not known to it.
        if self.pass_on() { Next::Again } else { next }
    }

    /// Whether nobody needs it any more: no handle, connection, listener or region is left, and whatever they
    /// started has ended. Once true, it stays so.
    pub fn is_finished(&self) -> bool {
        !self.shared.is_needed() && self.lines.is_empty() && self.holds.is_empty()
    }

    /// Turns it until it [is finished](Self::is_finished), as a task of any executor.
    ///
    /// `clock` says what time it is. `pause` returns a future that ends at a time, if there is one, or when the
    /// descriptor becomes readable, if there is one; it is dropped when a handle asks for something meanwhile.
    /// While the transport spins or moves, the task yields between turns.
    pub async fn run<F: Future<Output = ()>>(
        &mut self,
        mut clock: impl FnMut() -> Now,
        mut pause: impl FnMut(Option<Now>, Option<BorrowedFd<'_>>) -> F,
    ) {
        while !self.is_finished() {
            let next = poll_fn(|cx| Poll::Ready(self.turn(clock(), cx.waker()))).await;
            match next {
                Next::Again | Next::Spin => yield_once().await,
                // The last handle may have gone during the turn.
                Next::Wait(_) | Next::Idle(_) if self.is_finished() => {}
                Next::Wait(until) | Next::Idle(until) => {
                    let mut paused = pin!(pause(until, self.transport.wait_fd()));
                    let mut first = true;
                    // Polled for a second time, something woke it: the pause, or a handle.
                    poll_fn(|cx| {
                        if std::mem::take(&mut first) { paused.as_mut().poll(cx) } else { Poll::Ready(()) }
                    })
                    .await;
                }
            }
        }
    }

    /// As [`Transport::wait_fd`].
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.transport.wait_fd()
    }

    /// The transport.
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, for what this face does not offer. Events of what is submitted, polled or connected to it
    /// directly are lost.
    pub const fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Completions that belong to nothing: more than 0 shows a broken backend.
    pub const fn strays(&self) -> u64 {
        self.strays
    }

    /// Puts a connection on the list of those to be looked at.
    fn mark(&mut self, id: ConnId) {
        if let Some(line) = self.lines.line(id).filter(|line| !line.marked) {
            line.marked = true;
            self.marked.push(id);
        }
    }
}

async fn yield_once() {
    let mut first = true;
    poll_fn(|cx| {
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<T: Transport> Drop for Driver<T> {
    fn drop(&mut self) {
        // Those that come from here on see that it is gone, and those that came before are ended below.
        let unanswered = self.shared.end();
        for command in unanswered.into_iter().chain(self.commands.drain(..)) {
            if let Command::Register(_, memory, reply) = command {
                let error = gone("register");
                drop(reply.send(Err(NotRegistered { error, memory: Some(memory) })));
            }
        }
        self.take_operations();
        for (place, slot) in self.places.iter_mut().zip(0..) {
            if *place != Place::Absent {
                *place = Place::Absent;
                // Nobody needs a slot any more, so a detached one is left as it is.
                let _wanted = self.shared.table.slot(slot).finish(Err(TransferError::Gone));
            }
        }
        // One that the transport panicked with is in no place.
        self.shared.table.wake_all();
        for line in self.lines.drain() {
            line.fate.blame(Some(&gone("poll")));
            line.fate.close();
        }
        for block in &self.blocks {
            Way::ALL.into_iter().for_each(|way| block.way(way).wake_all());
        }
    }
}

impl<T: Transport + fmt::Debug> fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("transport", &self.transport).finish_non_exhaustive()
    }
}
