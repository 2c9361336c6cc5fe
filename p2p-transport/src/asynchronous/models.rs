//! Slots in every order of two threads that loom finds: `cargo xtask deep --only loom`.
//!
//! One thread does what transfers do, the other one what the driver does. Wakers are left out: whoever waits
//! asks again and again.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use loom::thread;

use super::TransferError;
use super::slot::{Free, NONE, Table};
use super::sync::AtomicBool;
use super::work::{Ended, Way, Work};
use crate::{ConnId, Id, RegionId, Slice};

/// Slots, and the list of those for sends.
struct Slots {
    table: Table,
    free: Free,
}

impl Slots {
    fn new(each: u32) -> Arc<Self> {
        Arc::new(Self { table: Table::new(each * Way::COUNT as u32, each, 1), free: Free::new(0) })
    }

    fn claim(&self) -> u32 {
        loop {
            match self.table.claim(&self.free) {
                Some(slot) => return slot,
                None => thread::yield_now(),
            }
        }
    }

    /// Starts a send whose words say which one it is.
    fn start(&self, name: u32) -> (u32, u32) {
        let slot = self.claim();
        let generation = self.table.generation(slot);
        let slice = Slice { region: RegionId::of(name, NonZeroU32::MIN), offset: name.into(), len: name };
        self.table.queue(slot, ConnId::of(name, NonZeroU32::MIN), &Work::Send(&[slice]));
        (slot, generation)
    }

    /// Waits for the end of a transfer, and gives its slot back.
    fn end(&self, slot: u32) -> Ended {
        loop {
            if let Some(ended) = self.table.slot(slot).ended() {
                self.table.release(&self.free, slot);
                return ended;
            }
            thread::yield_now();
        }
    }

    /// Drops a transfer that was started.
    fn abandon(&self, slot: u32) {
        if !self.table.slot(slot).detach() {
            self.table.release(&self.free, slot);
        }
    }

    /// Which send lies in a slot. All of its words have to be of the same one.
    fn name(&self, slot: u32) -> u32 {
        let words = self.table.slot(slot).words();
        let (conn, way) = words.operation();
        let slices: Vec<Slice> = words.slices().collect();
        let name = slices[0].len;
        let slice = Slice { region: RegionId::of(name, NonZeroU32::MIN), offset: name.into(), len: name };
        assert_eq!((conn, way), (Some(ConnId::of(name, NonZeroU32::MIN)), Way::Send));
        assert_eq!(slices, [slice]);
        name
    }

    /// What the driver finds in its inbox.
    fn inbox(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut slot = self.table.take_inbox();
        while slot != NONE {
            found.push(slot);
            slot = self.table.next(slot);
        }
        found
    }

    /// The driver ends an operation.
    fn finish(&self, slot: u32, ended: Ended) {
        if !self.table.slot(slot).finish(ended) {
            self.table.release(&self.free, slot);
        }
    }

    /// Each of so many slots is in its list, once.
    fn are_all_free(&self, each: u32) {
        assert_eq!(self.table.in_use(), 0);
        let mut free: Vec<u32> = std::iter::from_fn(|| self.table.claim(&self.free)).take(9).collect();
        free.sort_unstable();
        assert_eq!(free, (0..each).collect::<Vec<_>>());
    }
}

fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

#[test]
fn a_slot_is_given_back_once_whoever_ends_first() {
    model(|| {
        let slots = Slots::new(1);
        let driver = Arc::clone(&slots);
        let driver = thread::spawn(move || {
            let mut seen = 0;
            while seen < 2 {
                let found = driver.inbox();
                if found.is_empty() {
                    thread::yield_now();
                }
                for slot in found {
                    seen += 1;
                    assert_eq!(driver.name(slot), seen);
                    driver.finish(slot, Ok(seen));
                }
            }
        });
        // Dropped, before its end or after it; then the only slot has another owner.
        let (slot, first) = slots.start(1);
        slots.abandon(slot);
        let (slot, second) = slots.start(2);
        assert_ne!(first, second);
        assert_eq!(slots.end(slot), Ok(2));
        driver.join().expect("the driver");
        slots.are_all_free(1);
    });
}

/// A driver that ends what is at most `ends_well` at once, and all the rest when it is cancelled.
fn cancels(slots: &Slots, ends_well: u32, total: usize) {
    let mut held = Vec::new();
    let mut ended = 0;
    while ended < total {
        // As the driver does: requests first, so that it holds what they mean; and what it does not hold may be
        // written just now.
        let mut cancelled = Vec::new();
        slots.table.take_cancelled(&mut cancelled);
        held.extend(slots.inbox());
        let before = ended;
        for (slot, generation) in cancelled {
            let at = held.iter().position(|held| *held == slot);
            if let Some(at) = at.filter(|_| generation == slots.table.generation(slot)) {
                held.swap_remove(at);
                slots.finish(slot, Err(TransferError::Cancelled));
                ended += 1;
            }
        }
        while let Some(at) = held.iter().position(|slot| slots.name(*slot) <= ends_well) {
            let slot = held.swap_remove(at);
            slots.finish(slot, Ok(0));
            ended += 1;
        }
        if ended == before {
            thread::yield_now();
        }
    }
}

#[test]
fn a_request_to_cancel_is_not_lost() {
    model(|| {
        let slots = Slots::new(2);
        let driver = Arc::clone(&slots);
        let driver = thread::spawn(move || cancels(&driver, 0, 2));
        let started = [slots.start(1), slots.start(2)];
        // The last one may find the list of requests being read.
        for (slot, generation) in [started[0], started[1], started[1]] {
            slots.table.request_cancel(slot, generation);
        }
        for (slot, _) in started {
            assert_eq!(slots.end(slot), Err(TransferError::Cancelled));
        }
        driver.join().expect("the driver");
        slots.are_all_free(2);
    });
}

#[test]
fn a_request_to_cancel_is_not_lost_behind_that_of_an_earlier_owner() {
    model(|| {
        let slots = Slots::new(1);
        let driver = Arc::clone(&slots);
        let driver = thread::spawn(move || cancels(&driver, 1, 2));
        let (slot, generation) = slots.start(1);
        slots.table.request_cancel(slot, generation);
        slots.abandon(slot);
        let (slot, generation) = slots.start(2);
        slots.table.request_cancel(slot, generation);
        assert_eq!(slots.end(slot), Err(TransferError::Cancelled));
        driver.join().expect("the driver");
        slots.are_all_free(1);
    });
}

#[test]
fn a_request_to_cancel_hits_no_later_owner() {
    model(|| {
        let slots = Slots::new(1);
        let driver = Arc::clone(&slots);
        let driver = thread::spawn(move || {
            let mut seen = 0;
            while seen < 2 {
                let mut cancelled = Vec::new();
                driver.table.take_cancelled(&mut cancelled);
                let held = driver.inbox().pop();
                for (slot, generation) in cancelled {
                    if generation == driver.table.generation(slot) && held == Some(slot) {
                        assert_eq!(driver.name(slot), 1, "the other one was not meant");
                    }
                }
                match held {
                    Some(slot) => {
                        seen += 1;
                        driver.finish(slot, Ok(seen));
                    }
                    None => thread::yield_now(),
                }
            }
        });
        let (slot, generation) = slots.start(1);
        slots.table.request_cancel(slot, generation);
        slots.abandon(slot);
        let (slot, _) = slots.start(2);
        assert_eq!(slots.end(slot), Ok(2));
        driver.join().expect("the driver");
        slots.are_all_free(1);
    });
}

#[test]
fn no_two_have_the_same_slot() {
    model(|| {
        let slots = Slots::new(2);
        let taken = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let take = |slots: &Slots, taken: &[AtomicBool; 2]| {
            let slot = slots.claim();
            assert!(!taken[slot as usize].swap(true, Relaxed));
            slot
        };
        let give = |slots: &Slots, taken: &[AtomicBool; 2], slot: u32| {
            taken[slot as usize].store(false, Relaxed);
            slots.table.release(&slots.free, slot);
        };
        let (other, others) = (Arc::clone(&slots), Arc::clone(&taken));
        let other = thread::spawn(move || {
            // The first one comes back alone: the list begins as before, and goes on otherwise.
            let both = [take(&other, &others), take(&other, &others)];
            both.into_iter().for_each(|slot| give(&other, &others, slot));
        });
        for _ in 0..2 {
            let slot = take(&slots, &taken);
            give(&slots, &taken, slot);
        }
        other.join().expect("the other one");
        slots.are_all_free(2);
    });
}
