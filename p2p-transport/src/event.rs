//! What a poll reports, and where it puts it.

use std::time::Duration;

use crate::{ConnId, Outcome, RegionId, Token};

/// Time since an origin that whoever drives a transport has fixed. A backend reads no clock of its own.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Now(pub Duration);

impl Now {
    /// The time `later`, saturating.
    #[must_use]
    pub const fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

/// What [`Transport::poll`](crate::Transport::poll) reports.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// `accept` or `connect` succeeded: the connection's limits are known, and it takes operations.
    Connected(ConnId),
    /// The last event of a connection: each accepted operation has completed (law 6). Its id is stale from
    /// here on. Without a `Connected` before it, it was never connected.
    Closed(ConnId),
    /// An operation ended: exactly one for each that was accepted (law 1).
    Completed {
        /// Its connection.
        conn: ConnId,
        /// What the caller named it.
        token: Token,
        /// How it ended.
        outcome: Outcome,
    },
    /// No operation uses the region any more, and no device can reach it:
    /// [`Transport::reclaim`](crate::Transport::reclaim) returns its owner (law 7). An operation that ends
    /// `BadSlice` never used the region, and may complete later.
    Retired(RegionId),
    /// A native one-sided write of the peer arrived whole, and it carried this value.
    Notified {
        /// Its connection.
        conn: ConnId,
        /// What the peer gave it.
        value: u32,
    },
}

const _: () = assert!(size_of::<Event>() <= 24);

/// Storage of the caller's for a fixed number of events.
#[derive(Debug)]
pub struct Events {
    buffer: Vec<Event>,
    limit: usize,
}

impl Events {
    /// Room for `limit` events, allocated once. 0 is possible and useless.
    pub fn with_capacity(limit: usize) -> Self {
        Self { buffer: Vec::with_capacity(limit), limit }
    }

    /// Events that still fit. A backend keeps what does not fit for a later poll (law 10).
    pub const fn room(&self) -> usize {
        self.limit - self.buffer.len()
    }

    /// Stores an event.
    ///
    /// # Errors
    ///
    /// The event itself, if there is no room.
    pub fn push(&mut self, event: Event) -> Result<(), Event> {
        if self.room() == 0 {
            return Err(event);
        }
        self.buffer.push(event);
        Ok(())
    }

    /// The stored events, oldest first.
    pub fn as_slice(&self) -> &[Event] {
        &self.buffer
    }

    /// Removes and yields the stored events, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> {
        self.buffer.drain(..)
    }
}

/// What a poll wants next.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Something moved: poll again at once.
    Again,
    /// Work is in flight that only polling reveals.
    Spin,
    /// Work is in flight. Sleep until [`Transport::wait_fd`](crate::Transport::wait_fd) is readable, and at
    /// most until this time, if there is one. Nothing that happens after the poll that answered this is
    /// missed.
    Wait(Option<Now>),
    /// No work is in flight. Sleep until something is submitted, and at most until this time, if there is
    /// one; where there is a `wait_fd`, it shows peers that go away, and notifications that come.
    Idle(Option<Now>),
}
