//! What writes of the peer carried, until somebody reads it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Connection;
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
    wakers: VecDeque<Waker>,
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
        let count = self.lock().wakers.len();
        for _ in 0..count {
            let waker = self.lock().wakers.pop_front();
            // Without the lock: a waker may run anything.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    pub(super) fn poll(&self, cx: &Context<'_>, closed: &AtomicBool) -> Poll<Option<Notification>> {
        let mut kept = self.lock();
        if let Some(value) = kept.values.pop_front() {
            return Poll::Ready(Some(Notification::Value(value)));
        }
        if kept.lost > 0 {
            return Poll::Ready(Some(Notification::Lost(std::mem::take(&mut kept.lost))));
        }
        // With the lock, which whoever closes takes afterwards in order to wake.
        if closed.load(SeqCst) {
            return Poll::Ready(None);
        }
        if !kept.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            kept.wakers.push_back(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// The future of the next [`Notification`]: `None` when the connection has ended and all of them were read.
/// Dropping it loses nothing.
#[must_use = "nothing is read before it is polled"]
#[derive(Debug)]
pub struct NextNotification<'a> {
    conn: &'a Connection,
}

impl<'a> NextNotification<'a> {
    pub(super) const fn new(conn: &'a Connection) -> Self {
        Self { conn }
    }
}

impl Future for NextNotification<'_> {
    type Output = Option<Notification>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.conn.fate().poll_notification(cx)
    }
}
