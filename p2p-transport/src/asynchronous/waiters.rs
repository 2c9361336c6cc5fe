//! The free slots of a connection, and transfers that wait for one in the order in which they came.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::slot::{Free, Table};
use super::work::Way;

/// The slots of one connection: as many for each way, and for one-sided operations, apart from each other. A connection that had none left
/// for its receives, because its sends wait for those of the peer, would wait for ever; so would one whose
/// slots others have taken.
#[derive(Debug)]
pub(super) struct Block {
    ways: [Waiters; Way::COUNT],
}

impl Block {
    /// The slots from `first` on, `each` for every way.
    pub(super) fn new(first: u32, each: u32) -> Self {
        Self { ways: Way::ALL.map(|way| Waiters::new(Free::new(first + way as u32 * each), each)) }
    }

    pub(super) const fn way(&self, way: Way) -> &Waiters {
        &self.ways[way as usize]
    }
}

/// Nobody waits while there is a free slot: whoever comes, and whoever gives a slot back, hands out what there
/// is. `waiting` and the free list are both accessed in one total order (`SeqCst`), so that of two who do so at
/// once at least one sees the other.
#[derive(Debug)]
pub(super) struct Waiters {
    free: Free,
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
    /// With room for so many who wait; more allocate.
    fn new(free: Free, room: u32) -> Self {
        let queue = Queue { entries: VecDeque::with_capacity(room as usize), last: 0 };
        Self { free, waiting: AtomicUsize::new(0), queue: Mutex::new(queue) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing here panics half-way, so a poisoned queue is a whole one.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a free slot, unless somebody waits for one already.
    pub(super) fn claim(&self, table: &Table) -> Option<u32> {
        if self.waiting.load(SeqCst) == 0 { table.claim(&self.free) } else { None }
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
            let before = waiter.waker.replace(waker.clone());
            // Without the lock: to drop a waker may drop a task that waits here as well.
            drop(queue);
            drop(before);
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
                self.release(table, slot);
            }
            Some(None) => {
                self.waiting.fetch_sub(1, SeqCst);
            }
            None => {}
        }
    }

    /// Gives a slot back, whose owner the caller is, to whoever waits.
    pub(super) fn release(&self, table: &Table, slot: u32) {
        table.release(&self.free, slot);
        self.hand_out(table);
    }

    /// Gives free slots to those who wait.
    fn hand_out(&self, table: &Table) {
        while self.waiting.load(SeqCst) > 0 {
            let waker = {
                let mut queue = self.lock();
                let Some(waiter) = queue.entries.iter_mut().find(|waiter| waiter.slot.is_none()) else {
                    return;
                };
                let Some(slot) = table.claim(&self.free) else { return };
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::{Block, Table, Way};

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let (block, table) = (Block::new(0, 1), Table::new(3, 1, 1));
        let slots = block.way(Way::Send);
        let slot = slots.claim(&table).expect("free");
        let ticket = slots.join(&table, Waker::noop());
        // Half-way of giving it back: the slot is free, and not yet handed out.
        table.release(&slots.free, slot);
        assert_eq!(slots.claim(&table), None, "before the one who waits");
        slots.hand_out(&table);
        assert_eq!(slots.claim(&table), None, "there is only one");
        assert_eq!(slots.poll(ticket, Waker::noop()), Some(slot));
        slots.release(&table, slot);
        assert_eq!(slots.claim(&table), Some(slot), "nobody waits any more");
    }

    #[test]
    fn no_two_kinds_share_a_slot() {
        // The second connection of two.
        let (block, table) = (Block::new(6, 2), Table::new(12, 2, 1));
        let mut claimed = Vec::new();
        for way in Way::ALL {
            for _ in 0..3 {
                claimed.extend(block.way(way).claim(&table).map(|slot| (slot, way)));
            }
        }
        assert!(claimed.iter().all(|&(slot, way)| Way::of_slot(slot, 2) == way), "{claimed:?}");
        assert!(claimed.into_iter().map(|(slot, _)| slot).eq(6..12));
    }

    #[test]
    fn those_who_wait_are_served_in_the_order_in_which_they_came() {
        let (block, table) = (Block::new(0, 2), Table::new(6, 2, 1));
        let slots = block.way(Way::Recv);
        let held = [slots.claim(&table), slots.claim(&table)].map(|slot| slot.expect("free"));
        let tickets = [0; 4].map(|_| slots.join(&table, Waker::noop()));
        slots.leave(&table, tickets[1]);
        slots.release(&table, held[0]);
        let served = |ticket| slots.poll(ticket, Waker::noop());
        assert_eq!((served(tickets[3]), served(tickets[2]), served(tickets[0])), (None, None, Some(held[0])));
        slots.release(&table, held[1]);
        assert_eq!(served(tickets[3]), None);
        // Handed out, and not taken: it goes on to the next one.
        slots.leave(&table, tickets[2]);
        assert_eq!(served(tickets[3]), Some(held[1]));
    }
}
