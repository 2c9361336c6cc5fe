//! Transfers that wait for a free slot, in the order in which they came.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::slot::Table;

/// Nobody waits while there is a free slot: whoever comes, and whoever gives a slot back, hands out what there
/// is. `waiting` and the free list are both accessed in one total order (`SeqCst`), so that of two who do so at
/// once at least one sees the other.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// Those without a slot.
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Waiter>,
    last: u64,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    waker: Option<Waker>,
    slot: Option<u32>,
}

impl Waiters {
    /// With room for so many; more allocate.
    pub(super) fn new(room: usize) -> Self {
        let queue = Queue { entries: VecDeque::with_capacity(room), last: 0 };
        Self { waiting: AtomicUsize::new(0), queue: Mutex::new(queue) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing here panics half-way, so a poisoned queue is a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free slot, unless somebody waits for one already.
    pub(super) fn claim(&self, table: &Table) -> Option<u32> {
        if self.waiting.load(SeqCst) == 0 { table.claim() } else { None }
    }

    /// Begins to wait.
    pub(super) fn join(&self, table: &Table, waker: &Waker) -> u64 {
        let ticket = {
            let mut queue = self.lock();
            queue.last += 1;
            let ticket = queue.last;
            queue.entries.push_back(Waiter { ticket, waker: Some(waker.clone()), slot: None });
            self.waiting.fetch_add(1, SeqCst);
            ticket
        };
        self.hand_out(table);
        ticket
    }

    /// The slot of a waiter, whose wait is over then; otherwise `waker` is the one that is woken.
    pub(super) fn poll(&self, ticket: u64, waker: &Waker) -> Option<u32> {
        let mut queue = self.lock();
        let at = queue.entries.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()?;
        let waiter = queue.entries.get_mut(at)?;
        if waiter.slot.is_none() {
            waiter.waker = Some(waker.clone());
            return None;
        }
        queue.entries.remove(at)?.slot
    }

    /// Ends a wait. A slot that was handed out meanwhile goes to the next one.
    pub(super) fn leave(&self, table: &Table, ticket: u64) {
        let left = {
            let mut queue = self.lock();
            let at = queue.entries.binary_search_by_key(&ticket, |waiter| waiter.ticket).ok();
            at.and_then(|at| queue.entries.remove(at))
        };
        match left.map(|waiter| waiter.slot) {
            Some(Some(slot)) => {
                table.release(slot);
                self.hand_out(table);
            }
            Some(None) => {
                self.waiting.fetch_sub(1, SeqCst);
            }
            None => {}
        }
    }

    /// Gives free slots to those who wait. To be called after each release of a slot.
    pub(super) fn hand_out(&self, table: &Table) {
        while self.waiting.load(SeqCst) > 0 {
            let waker = {
                let mut queue = self.lock();
                let Some(waiter) = queue.entries.iter_mut().find(|waiter| waiter.slot.is_none()) else {
                    return;
                };
                let Some(slot) = table.claim() else { return };
                waiter.slot = Some(slot);
                self.waiting.fetch_sub(1, SeqCst);
                waiter.waker.take()
            };
            // Without the lock: a waker may run anything.
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Wakes all of them; who is polled then sees that the driver is gone.
    pub(super) fn wake_all(&self) {
        loop {
            let waker = self.lock().entries.iter_mut().find_map(|waiter| waiter.waker.take());
            match waker {
                Some(waker) => waker.wake(),
                None => return,
            }
        }
    }
}
