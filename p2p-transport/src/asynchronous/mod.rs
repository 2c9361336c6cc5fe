//! The contract for users who live in async code.
//!
//! [`open`] splits a transport in two. The [`Driver`] owns it, and somebody turns it: a thread, or a task of
//! any executor. [`Handle`]s are cheap, `Send` and `Sync`; through them, as an [`AsyncTransport`], come
//! [`Connection`]s and [`Region`]s. Data operations are [`Transfer`]s: futures without an allocation, a
//! reference count or a lock (but where they wait for a slot).
//!
//! **Dropping never cancels.** A transfer that is dropped after it started goes on, and its outcome is lost:
//! it is *detached*. Memory stays with the transport: a [`Region`] that is dropped is retired behind all
//! operations that were started before. Only a [`Connection`] ends what it carries, when its last clone is
//! dropped.
//!
//! **Backpressure.** A connection has a fixed number of slots each way ([`Options::slots`]), one for each
//! transfer that is under way. Without a free one, a transfer waits for its turn, and [`Transfer::try_start`]
//! says no. What has a slot may still have to wait for room in the transport. Sends, receives, one-sided operations
//! and connections wait apart from each other.
//!
//! **Order.** The messages of a connection go, each way, in the order in which their transfers started. One
//! starts with its first poll, if there is a free slot, or when [`Transfer::start`] ends. Whoever has several
//! under way at once and cares for their order starts them one after another.
//!
//! **One-sided operations**, where the backend has them, come from [`Connection::one_sided`]: transfers like
//! messages, and what the peer's writes tell. Notifications are kept up to [`Options::notifications`] of a
//! connection; what is lost beyond is counted, and its reader is told where.
//!
//! **Sleep.** A driver never sleeps, reads no clock and knows no executor. [`Driver::turn`] answers how long
//! its caller may sleep, and wakes the waker that it was given as soon as there is something to do. A thread:
//!
//! ```
//! use std::sync::Arc;
//! use std::task::{Wake, Waker};
//! use std::thread::{self, Thread};
//! use std::time::{Duration, Instant};
//!
//! use p2p_transport::asynchronous::Driver;
//! use p2p_transport::{Next, Now, Transport};
//!
//! struct Unpark(Thread);
//!
//! impl Wake for Unpark {
//!     fn wake(self: Arc<Self>) {
//!         self.0.unpark();
//!     }
//! }
//!
//! /// Turns a driver until nobody needs it. A transport with a `wait_fd` deserves better: poll that one and
//! /// an eventfd, to which the waker writes.
//! fn drive<T: Transport>(mut driver: Driver<T>, origin: Instant) {
//!     let waker = Waker::from(Arc::new(Unpark(thread::current())));
//!     while !driver.is_finished() {
//!         let now = Now(origin.elapsed());
//!         match driver.turn(now, &waker) {
//!             Next::Again => {}
//!             Next::Spin => std::hint::spin_loop(),
//!             Next::Wait(until) | Next::Idle(until) => {
//!                 let most = if driver.wait_fd().is_some() { 1 } else { 100 };
//!                 let most = Duration::from_millis(most);
//!                 thread::park_timeout(until.map_or(most, |until| until.0.saturating_sub(now.0).min(most)));
//!             }
//!         }
//!     }
//! }
//! # drop(drive::<Box<dyn Transport>>);
//! ```
//!
//! In an executor, [`Driver::run`] is the task; the clock and the sleep are passed in.

mod access;
mod connection;
mod driver;
mod fate;
mod handle;
mod lines;
#[cfg(all(test, loom))]
mod models;
mod notification;
mod shared;
mod slot;
mod sync;
mod transfer;
mod waiters;
mod wakers;
mod work;

use std::sync::Arc;

pub use access::Access;
pub use connection::{Connection, Listener, Region};
pub use driver::Driver;
pub use fate::Closed;
pub use handle::{AsyncTransport, Handle, NotRegistered};
pub use notification::{NextNotification, Notification};
pub use transfer::Transfer;

use crate::{OpFault, Transport};

/// How much is allocated at the start.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Connections at once; the next one ends [`Exhausted`](crate::ErrorKind::Exhausted). One counts until it
    /// has ended and its last handle is gone.
    pub connections: u16,
    /// Sends of one connection that are under way at once, those detached included, and as many receives, and
    /// as many one-sided operations; at least 1. More than [`Limits::max_sends`](crate::Limits::max_sends)
    /// keeps the transport busy.
    pub slots: u16,
    /// Slices of one transfer. What a connection allows beyond is not used.
    pub slices: u16,
    /// Events taken from the transport in one turn; at least 1.
    pub events: u16,
    /// Notifications of one connection that are kept until somebody reads them. Those beyond are dropped and
    /// counted, and the reader is told: see [`Notification::Lost`].
    pub notifications: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 32, slots: 64, slices: 16, events: 64, notifications: 1024 }
    }
}

impl Options {
    /// Slots of one connection and way.
    fn each(&self) -> u32 {
        u32::from(self.slots.max(1))
            .min((u32::MAX - 1) / work::Way::COUNT as u32 / u32::from(self.connections.max(1)))
    }
}

/// Why a [`Transfer`] did not end well. `Copy`, so that none of them allocates.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// Withdrawn by [`Transfer::cancel`] before it was started by the backend.
    #[error("the transfer was cancelled before it started")]
    Cancelled,
    /// The connection ended first, or had ended before: [`Connection::why`] has the reason.
    #[error("the connection ended first: its `why` has the reason")]
    Lost,
    /// The driver was dropped, and the transport with it.
    #[error("the driver of this transport is gone: make a new transport")]
    Gone,
    /// This transfer alone failed; the connection goes on.
    #[error(transparent)]
    Failed(#[from] OpFault),
}

/// Makes the async face of a transport: handles for those who move data, and what somebody has to turn.
pub fn open<T: Transport>(transport: T, options: Options) -> (Handle, Driver<T>) {
    let shared = Arc::new(shared::Shared::new(transport.nics().to_vec(), options));
    let handle = Handle::new(shared::Lease::new(&shared));
    (handle, Driver::new(transport, shared, options))
}
