//! Slots: one for each data operation that is under way, all allocated at the start.
//!
//! # Who owns a slot
//!
//! At any time exactly one side may write a slot's fields, and `state` says which.
//!
//! | state      | owner    | leaves it                                                              |
//! |------------|----------|------------------------------------------------------------------------|
//! | `FREE`     | nobody   | a transfer takes it from the free list, and so becomes its owner       |
//! | `CLAIMED`  | transfer | it has written the operation, stores `QUEUED`, and puts it in the inbox |
//! | `QUEUED`   | driver   | to `DONE` when the operation ended; to `DETACHED` by a transfer that is dropped |
//! | `DETACHED` | driver   | to `FREE` when the operation ended: nobody asks for the outcome        |
//! | `DONE`     | transfer | it has read the outcome, or is dropped: to `FREE`                      |
//!
//! Only the two ways out of `QUEUED` compete; both are a compare-and-exchange from `QUEUED`, so one of them
//! wins and the other one sees it. A dropped transfer never makes a slot free before its operation has ended:
//! until then the driver may hand its index to the backend as a token, or find it there.
//!
//! `waker` may be registered by the transfer alone, and woken by anybody. `generation` counts the owners of a
//! slot; it is written in `CLAIMED` only, and is half of the token, so that a backend that reports something
//! twice is found out.
//!
//! `cancel_for` and `cancelling` are apart from all that: a request to cancel may lie in its list longer than
//! its operation lives. `cancelling` says whether the slot lies in that list, and `cancel_for` names the
//! generation that is meant; a request for an earlier one has no effect.
//!
//! loom runs through every order of these steps that it finds (the models beside this file).

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use futures::task::AtomicWaker;

use super::sync::{AtomicBool, AtomicU32, AtomicU64};
use super::work::{Ended, Way, Words, Work, decode, encode};
use crate::ConnId;

/// No slot: ends a list.
pub(super) const NONE: u32 = u32::MAX;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const QUEUED: u32 = 2;
const DETACHED: u32 = 3;
const DONE: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Slot {
    state: AtomicU32,
    generation: AtomicU32,
    pub(super) waker: AtomicWaker,
    words: Words,
    outcome: AtomicU64,
    /// The next one in the free list, or in the inbox.
    next: AtomicU32,
    cancelling: AtomicBool,
    cancel_for: AtomicU32,
    next_cancelled: AtomicU32,
}

/// A list of free slots. Upper half: counts changes, so that a list that only looks as before is told apart.
/// Lower half: the first one.
#[derive(Debug)]
pub(super) struct Free(AtomicU64);

impl Free {
    /// The list that begins with this slot.
    pub(super) fn new(first: u32) -> Self {
        Self(AtomicU64::new(first.into()))
    }
}

/// All slots, and two of the lists that they may lie in; the free lists belong to connections.
#[derive(Debug)]
pub(super) struct Table {
    slots: Box<[Slot]>,
    /// Newest first; the driver takes it whole and turns it round.
    inbox: AtomicU32,
    cancelled: AtomicU32,
}

impl Table {
    /// Of so many slots, in free lists of `each`, for one way after the other.
    pub(super) fn new(slots: u32, each: u32, slices: u16) -> Self {
        let slot = |index: u32| Slot {
            next: AtomicU32::new(if (index + 1).is_multiple_of(each) { NONE } else { index + 1 }),
            words: Words::new(match Way::of_slot(index, each) {
                Way::Send | Way::Recv => slices,
                Way::OneSided => 1,
            }),
            ..Slot::default()
        };
        Self {
            slots: (0..slots).map(slot).collect(),
            inbox: AtomicU32::new(NONE),
            cancelled: AtomicU32::new(NONE),
        }
    }

    pub(super) fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn in_use(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state.load(Relaxed) != FREE).count()
    }

    pub(super) fn wake_all(&self) {
        self.slots.iter().for_each(|slot| slot.waker.wake());
    }

    /// The generation of a slot, for its owner.
    pub(super) fn generation(&self, index: u32) -> u32 {
        self.slot(index).generation.load(Relaxed)
    }

    /// Takes a free slot, of which the caller is the owner from here on.
    pub(super) fn claim(&self, free: &Free) -> Option<u32> {
        let mut head = free.0.load(SeqCst);
        loop {
            let index = head as u32;
            let slot = self.slots.get(index as usize)?;
            let changed = (head >> 32).wrapping_add(1) << 32 | u64::from(slot.next.load(Relaxed));
            match free.0.compare_exchange_weak(head, changed, SeqCst, SeqCst) {
                Ok(_) => {
                    slot.generation.fetch_add(1, Relaxed);
                    slot.state.store(CLAIMED, Relaxed);
                    return Some(index);
                }
                Err(other) => head = other,
            }
        }
    }

    /// Gives a slot back to its list. The caller is its owner, and wakes whoever waits for one.
    pub(super) fn release(&self, free: &Free, index: u32) {
        let slot = self.slot(index);
        // Not to keep the task of the last owner alive.
        drop(slot.waker.take());
        slot.state.store(FREE, Relaxed);
        let mut head = free.0.load(Relaxed);
        loop {
            slot.next.store(head as u32, Relaxed);
            let changed = (head >> 32).wrapping_add(1) << 32 | u64::from(index);
            match free.0.compare_exchange_weak(head, changed, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(other) => head = other,
            }
        }
    }

    /// Writes an operation into a claimed slot and hands it to the driver. There are at most as many slices as
    /// fit.
    pub(super) fn queue(&self, index: u32, conn: ConnId, work: &Work<'_>) {
        let slot = self.slot(index);
        slot.words.store(conn, work);
        slot.state.store(QUEUED, Release);
        push(&self.inbox, index, &slot.next);
    }

    /// Takes the whole inbox: the newest operation, from which [`next`](Self::next) leads to older ones.
    pub(super) fn take_inbox(&self) -> u32 {
        // Most turns find nothing, and need not write for it.
        if self.inbox.load(SeqCst) == NONE { NONE } else { self.inbox.swap(NONE, SeqCst) }
    }

    pub(super) fn next(&self, index: u32) -> u32 {
        self.slot(index).next.load(Relaxed)
    }

    /// Asks the driver to cancel what a queued slot holds.
    pub(super) fn request_cancel(&self, index: u32, generation: u32) {
        let slot = self.slot(index);
        slot.cancel_for.store(generation, Relaxed);
        if !slot.cancelling.swap(true, AcqRel) {
            push(&self.cancelled, index, &slot.next_cancelled);
        }
    }

    /// Takes all requests to cancel: slots, and the generations that are meant. What a request means was queued
    /// before it: it is with the driver once that takes the inbox afterwards.
    pub(super) fn take_cancelled(&self, requests: &mut Vec<(u32, u32)>) {
        if self.cancelled.load(SeqCst) == NONE {
            return;
        }
        let mut index = self.cancelled.swap(NONE, SeqCst);
        while index != NONE {
            let slot = self.slot(index);
            // The link first: once the mark is gone, the slot may come into the list again.
            let next = slot.next_cancelled.load(Relaxed);
            slot.cancelling.swap(false, AcqRel);
            requests.push((index, slot.cancel_for.load(Relaxed)));
            index = next;
        }
    }
}

fn push(list: &AtomicU32, index: u32, link: &AtomicU32) {
    let mut head = list.load(Relaxed);
    loop {
        link.store(head, Relaxed);
        match list.compare_exchange_weak(head, index, SeqCst, Relaxed) {
            Ok(_) => return,
            Err(other) => head = other,
        }
    }
}

impl Slot {
    /// Of a queued slot: its operation.
    pub(super) const fn words(&self) -> &Words {
        &self.words
    }

    /// The driver's end of an operation. False if the slot is detached: then it is to be released.
    pub(super) fn finish(&self, ended: Ended) -> bool {
        self.outcome.store(encode(ended), Relaxed);
        let done = self.state.compare_exchange(QUEUED, DONE, Release, Acquire).is_ok();
        if done {
            self.waker.wake();
        }
        done
    }

    /// The transfer's look at a queued slot: how it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        (self.state.load(Acquire) == DONE).then(|| decode(self.outcome.load(Relaxed)))
    }

    /// The transfer's farewell to a queued slot. False if the operation has ended: then it is to be released.
    pub(super) fn detach(&self) -> bool {
        self.state.compare_exchange(QUEUED, DETACHED, Release, Acquire).is_ok()
    }
}
