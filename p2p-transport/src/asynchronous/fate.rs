//! How a connection ends, and who waits for that.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Connection;
use super::notification::Notices;
use super::wakers::Wakers;
use crate::Error;

/// How a connection ended, and what waits for that or for notifications.
#[derive(Debug, Default)]
pub(super) struct Fate {
    why: OnceLock<Error>,
    closed: AtomicBool,
    wakers: Mutex<Wakers>,
    pub(super) notices: Notices,
}

impl Fate {
    /// Notes the reason. The first one stays.
    pub(super) fn blame(&self, why: Option<&Error>) {
        if let Some(why) = why.filter(|_| self.why.get().is_none()) {
            let _first = self.why.set(why.clone());
        }
    }

    pub(super) fn why(&self) -> Option<&Error> {
        self.why.get()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
        let wakers = std::mem::take(&mut *self.lock());
        wakers.wake_all();
        self.notices.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Wakers> {
        // Nothing here panics half-way, so poisoned wakers are whole ones.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_closed(&self, ticket: &mut Option<u64>, waker: &Waker) -> Poll<()> {
        let mut wakers = self.lock();
        // With the lock, which whoever closes takes afterwards in order to wake.
        let (poll, before) = if self.is_closed() {
            (Poll::Ready(()), wakers.leave(ticket))
        } else {
            (Poll::Pending, wakers.keep(ticket, waker))
        };
        drop(wakers);
        drop(before);
        poll
    }

    fn leave(&self, ticket: &mut Option<u64>) {
        let waker = self.lock().leave(ticket);
        drop(waker);
    }
}

/// The future of the end of a connection, whoever brings it about. Dropping it leaves nothing behind.
#[must_use = "it waits only while it is polled"]
#[derive(Debug)]
pub struct Closed<'a> {
    conn: &'a Connection,
    ticket: Option<u64>,
}

impl<'a> Closed<'a> {
    pub(super) const fn new(conn: &'a Connection) -> Self {
        Self { conn, ticket: None }
    }
}

impl Future for Closed<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { conn, ticket } = &mut *self;
        conn.fate().poll_closed(ticket, cx.waker())
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.conn.fate().leave(&mut self.ticket);
    }
}
