//! What writes of the peer carried, until somebody reads it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Connection;
use super::wakers::Wakers;
use crate::ConnId;

/// What a peer told with one of its writes.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notification {
    /// The value. The bytes of the write that carried it are visible.
    Value(u32),
    /// So many came here while [`Options::notifications`](super::Options::notifications) were kept already, or
    /// later but before this was read, and are gone. The bytes of their writes are visible all the same.
    Lost(u64),
}

/// Notifications of one connection.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    values: VecDeque<u32>,
    room: usize,
    /// Those that came behind `values`.
    lost: u64,
    wakers: Wakers,
}

impl Kept {
    fn next(&mut self) -> Option<Notification> {
        if let Some(value) = self.values.pop_front() {
            return Some(Notification::Value(value));
        }
        (self.lost > 0).then(|| Notification::Lost(std::mem::take(&mut self.lost)))
    }
}

impl Notices {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing here panics half-way, so a poisoned one is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps so many from here on.
    pub(super) fn reserve(&self, room: u16) {
        let mut kept = self.lock();
        kept.room = room.into();
        kept.values.reserve(room.into());
    }

    pub(super) fn push(&self, conn: ConnId, value: u32) {
        let mut kept = self.lock();
        // Once one is lost, those after it are too until the reader knows: so the gap has a place.
        if kept.lost == 0 && kept.values.len() < kept.room {
            kept.values.push_back(value);
        } else {
            if kept.lost == 0 {
                let room = kept.room;
                tracing::warn!(target: "p2p::transport", ?conn, room, "notifications are not read and get lost");
            }
            kept.lost += 1;
        }
        drop(kept);
        self.wake();
    }

    /// Wakes those who wait.
    pub(super) fn wake(&self) {
        // Those who come meanwhile come behind.
        let until = self.lock().wakers.last();
        loop {
            let waker = self.lock().wakers.pop(until);
            // Without the lock: a waker may run anything.
            match waker {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }

    /// The next one. `is_closed` says whether no more come.
    fn poll(
        &self,
        ticket: &mut Option<u64>,
        waker: &Waker,
        is_closed: impl Fn() -> bool,
    ) -> Poll<Option<Notification>> {
        let mut kept = self.lock();
        let next = kept.next();
        // With the lock, which whoever closes takes afterwards in order to wake.
        let (poll, before) = if next.is_some() || is_closed() {
            (Poll::Ready(next), kept.wakers.leave(ticket))
        } else {
            (Poll::Pending, kept.wakers.keep(ticket, waker))
        };
        drop(kept);
        drop(before);
        poll
    }

    fn leave(&self, ticket: &mut Option<u64>) {
        let waker = self.lock().wakers.leave(ticket);
        drop(waker);
    }
}

/// The future of the next [`Notification`]: `None` when the connection has ended and all of them were read.
/// Dropping it loses nothing, and leaves nothing behind.
#[must_use = "nothing is read before it is polled"]
#[derive(Debug)]
pub struct NextNotification<'a> {
    conn: &'a Connection,
    ticket: Option<u64>,
}

impl<'a> NextNotification<'a> {
    pub(super) const fn new(conn: &'a Connection) -> Self {
        Self { conn, ticket: None }
    }
}

impl Future for NextNotification<'_> {
    type Output = Option<Notification>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { conn, ticket } = &mut *self;
        let fate = conn.fate();
        fate.notices.poll(ticket, cx.waker(), || fate.is_closed())
    }
}

impl Drop for NextNotification<'_> {
    fn drop(&mut self) {
        self.conn.fate().notices.leave(&mut self.ticket);
    }
}
