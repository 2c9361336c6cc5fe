//! Where operations of any thread wait for their end: a table of slots, found by ids that never name another
//! operation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

use crossbeam_queue::ArrayQueue;
use futures::task::AtomicWaker;
use p2p_proto::frame::Refusal;
use p2p_proto::id::RailIndex;
use p2p_proto::peer::Outcome;

/// An operation that was started. It stays valid until its outcome was taken; a stale one is found out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OpId(u64);

impl OpId {
    const fn new(index: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | index as u64)
    }

    const fn index(self) -> usize {
        self.0 as u32 as usize
    }

    const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As a number, for faces that have no types. Never 0.
    pub const fn to_number(self) -> u64 {
        self.0
    }

    /// Whatever number it is: a wrong one is found out when it is used.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// What is known of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// It has not ended.
    Pending,
    /// It ended so; its id is stale from here on.
    Ended(Outcome),
    /// No operation has this id: its end was taken before, or it never was one.
    Unknown,
}

const FREE: u64 = 0;
const PENDING: u64 = 1;
const ENDED: u64 = 2;
/// Nobody will ask.
const DETACHED: u64 = 3;

struct Slot {
    /// Generation, and one of the states above in the lowest two bits.
    word: AtomicU64,
    /// The packed outcome; written before the state says ended.
    outcome: AtomicU64,
    waker: AtomicWaker,
    /// The generation that a future waits for.
    awaited: AtomicU64,
}

const fn word(generation: u32, state: u64) -> u64 {
    (generation as u64) << 2 | state
}

/// See the module documentation.
pub(super) struct Slots {
    slots: Box<[Slot]>,
    free: ArrayQueue<u32>,
}

impl Slots {
    pub(super) fn new(count: u32) -> Self {
        let count = count.max(1);
        let slot = || Slot {
            word: AtomicU64::new(word(1, FREE)),
            outcome: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            awaited: AtomicU64::new(0),
        };
        let free = ArrayQueue::new(count as usize);
        for index in 0..count {
            let _ = free.push(index);
        }
        Self { slots: (0..count).map(|_| slot()).collect(), free }
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// A slot for a new operation; `None` if all are taken.
    pub(super) fn take(&self) -> Option<OpId> {
        let index = self.free.pop()?;
        let slot = &self.slots[index as usize];
        let generation = (slot.word.load(Ordering::Relaxed) >> 2) as u32;
        slot.word.store(word(generation, PENDING), Ordering::Release);
        Some(OpId::new(index, generation))
    }

    /// The operation ended; returns whom to wake. What has nobody who asks is forgotten.
    #[must_use = "it has to be woken"]
    pub(super) fn end(&self, id: OpId, outcome: Outcome) -> Option<Waker> {
        let slot = self.slots.get(id.index())?;
        let pending = word(id.generation(), PENDING);
        // Whoever drives the engine ends operations, one after another: nobody else writes this.
        if slot.word.load(Ordering::Acquire) == pending {
            slot.outcome.store(pack(outcome), Ordering::Relaxed);
        }
        let ended = word(id.generation(), ENDED);
        match slot.word.compare_exchange(pending, ended, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => slot.waker.take(),
            Err(found) if found == word(id.generation(), DETACHED) => {
                drop(self.give_back(id));
                None
            }
            Err(_) => None,
        }
    }

    /// Ends what is under way: its link is lost. Returns whom to wake.
    #[must_use = "they have to be woken"]
    pub(super) fn end_all(&self) -> Vec<Waker> {
        let end = |(slot, index): (&Slot, u32)| {
            let generation = (slot.word.load(Ordering::Acquire) >> 2) as u32;
            self.end(OpId::new(index, generation), Outcome::LinkLost)
        };
        self.slots.iter().zip(0..).filter_map(end).collect()
    }

    /// What is known of it. The outcome is taken by whoever asks first; a future that waits for it is woken, and finds
    /// that it is gone.
    pub(super) fn poll(&self, id: OpId) -> Status {
        let (status, waits) = self.take_end(id);
        if let Some(waker) = waits {
            waker.wake();
        }
        status
    }

    /// A future begins to wait for this operation. False if another one does: there is one waker.
    pub(super) fn claim(&self, id: OpId) -> bool {
        let generation = u64::from(id.generation());
        self.slots.get(id.index()).is_some_and(|slot| {
            let claimed = slot.awaited.load(Ordering::Acquire);
            // The slot of a stale id is not touched, not even if it became stale a moment ago.
            let known = slot.word.load(Ordering::Acquire) >> 2;
            let claim =
                || slot.awaited.compare_exchange(claimed, generation, Ordering::AcqRel, Ordering::Relaxed);
            known == generation && claimed != generation && claim().is_ok()
        })
    }

    /// What is known of it, and who waits for the outcome if that was taken.
    fn take_end(&self, id: OpId) -> (Status, Option<Waker>) {
        let unknown = (Status::Unknown, None);
        let Some(slot) = self.slots.get(id.index()) else { return unknown };
        let found = slot.word.load(Ordering::Acquire);
        if found == word(id.generation(), PENDING) {
            return (Status::Pending, None);
        }
        let ended = word(id.generation(), ENDED);
        let outcome = slot.outcome.load(Ordering::Relaxed);
        // Several may ask; one of them gets it. `FREE` with the old generation is seen by nobody as pending.
        let taken = word(id.generation(), FREE);
        if found != ended
            || slot.word.compare_exchange(ended, taken, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return unknown;
        }
        let waits = self.give_back(id);
        (Status::Ended(unpack(outcome)), waits)
    }

    /// As [`poll`](Self::poll), and wakes `waker` when there is an outcome.
    pub(super) fn poll_with(&self, id: OpId, waker: &Waker) -> Poll<Status> {
        // The slot of a stale id may be another operation's by now, whose waker has to stay.
        match (self.take_end(id).0, self.slots.get(id.index())) {
            (Status::Pending, Some(slot)) => slot.waker.register(waker),
            (status, _) => return Poll::Ready(status),
        }
        match self.take_end(id).0 {
            Status::Pending => Poll::Pending,
            status @ (Status::Ended(_) | Status::Unknown) => Poll::Ready(status),
        }
    }

    /// Nobody will ask any more. It goes on; its end is forgotten.
    pub(super) fn detach(&self, id: OpId) {
        let Some(slot) = self.slots.get(id.index()) else { return };
        let (pending, detached) = (word(id.generation(), PENDING), word(id.generation(), DETACHED));
        if slot.word.compare_exchange(pending, detached, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // It ended before: the outcome is taken and dropped.
            let _ = self.poll(id);
        }
    }

    /// The slot is free; returns the waker of a future that still waits.
    fn give_back(&self, id: OpId) -> Option<Waker> {
        let slot = &self.slots[id.index()];
        let waits = slot.waker.take();
        let next = id.generation().wrapping_add(1) & (u32::MAX >> 2);
        slot.word.store(word(next.max(1), FREE), Ordering::Release);
        // There is room: it came from there.
        let _ = self.free.push(id.index() as u32);
        waits
    }
}

const BYTES: u32 = 48;

/// An outcome in one word: its kind, a detail, and bytes.
fn pack(outcome: Outcome) -> u64 {
    let word = |kind: u64, detail: u64, bytes: u64| kind << 60 | detail << BYTES | bytes;
    match outcome {
        Outcome::Done { bytes } => word(0, 0, bytes & ((1 << BYTES) - 1)),
        Outcome::Refused(refusal) => {
            let detail = REFUSALS.iter().position(|one| *one == refusal).unwrap_or(0);
            word(1, detail as u64, 0)
        }
        Outcome::RailLost(RailIndex(rail)) => word(2, rail.into(), 0),
        Outcome::MemoryGone { here } => word(3, here.into(), 0),
        Outcome::LinkLost => word(4, 0, 0),
        Outcome::Abandoned => word(5, 0, 0),
    }
}

const REFUSALS: [Refusal; 5] =
    [Refusal::UnknownKey, Refusal::OutOfRange, Refusal::TooLong, Refusal::TooMany, Refusal::Withdrawn];

fn unpack(word: u64) -> Outcome {
    let detail = word >> BYTES & 0xfff;
    match word >> 60 {
        0 => Outcome::Done { bytes: word & ((1 << BYTES) - 1) },
        1 => Outcome::Refused(REFUSALS.get(detail as usize).copied().unwrap_or(Refusal::UnknownKey)),
        2 => Outcome::RailLost(RailIndex(detail as u8)),
        3 => Outcome::MemoryGone { here: detail != 0 },
        5 => Outcome::Abandoned,
        _ => Outcome::LinkLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const DONE: Outcome = Outcome::Done { bytes: 7 };

    #[test]
    fn outcomes_survive_a_slot() {
        let all = [
            Outcome::Done { bytes: 0 },
            Outcome::Done { bytes: (1 << 48) - 1 },
            Outcome::Refused(Refusal::UnknownKey),
            Outcome::Refused(Refusal::OutOfRange),
            Outcome::Refused(Refusal::TooLong),
            Outcome::Refused(Refusal::TooMany),
            Outcome::Refused(Refusal::Withdrawn),
            Outcome::RailLost(RailIndex(255)),
            Outcome::MemoryGone { here: true },
            Outcome::MemoryGone { here: false },
            Outcome::LinkLost,
            Outcome::Abandoned,
        ];
        for outcome in all {
            assert_eq!(unpack(pack(outcome)), outcome);
        }
    }

    #[test]
    fn an_id_is_good_once() {
        let slots = Slots::new(1);
        let id = slots.take().expect("one");
        assert!(slots.take().is_none());
        assert_eq!(slots.poll(id), Status::Pending);
        drop(slots.end(id, DONE));
        drop(slots.end(id, Outcome::LinkLost));
        assert_eq!(slots.poll(id), Status::Ended(DONE), "the first end counts");
        assert_eq!(slots.poll(id), Status::Unknown);
        let next = slots.take().expect("again");
        assert_ne!(next, id);
        drop(slots.end(id, DONE));
        assert_eq!(slots.poll(next), Status::Pending, "a stale id ends nothing");
        assert_eq!(slots.poll(OpId::from_number(u64::MAX)), Status::Unknown);
    }

    #[test]
    fn what_is_detached_gives_its_slot_back() {
        let slots = Slots::new(1);
        let id = slots.take().expect("one");
        slots.detach(id);
        assert!(slots.take().is_none(), "it is still under way");
        drop(slots.end(id, DONE));
        let id = slots.take().expect("it ended");
        drop(slots.end(id, DONE));
        slots.detach(id);
        assert_eq!(slots.free.len(), 1);
    }

    #[test]
    fn who_asks_with_a_stale_id_takes_nobodys_waker() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = || std::sync::Arc::new(Flag(false.into()));
        let (waits, stale) = (flag(), flag());
        let slots = Slots::new(1);
        let old = slots.take().expect("one");
        drop(slots.end(old, DONE));
        assert_eq!(slots.poll(old), Status::Ended(DONE));
        let new = slots.take().expect("again");
        assert_eq!(slots.poll_with(new, &waits.clone().into()), Poll::Pending);
        assert_eq!(slots.poll_with(old, &stale.clone().into()), Poll::Ready(Status::Unknown));
        slots.end(new, DONE).expect("it waits").wake();
        assert!(waits.0.load(Ordering::SeqCst), "it is woken");
        assert!(!stale.0.load(Ordering::SeqCst));
        assert_eq!(slots.poll_with(new, &waits.into()), Poll::Ready(Status::Ended(DONE)));
    }

    #[test]
    fn a_future_is_woken_when_another_takes_the_end() {
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        let slots = Slots::new(1);
        let id = slots.take().expect("one");
        assert_eq!(slots.poll_with(id, &count.clone().into()), Poll::Pending);
        // It is polled for the end, and before it was: somebody else has asked.
        let waker = slots.end(id, DONE).expect("it waits");
        assert_eq!(slots.poll_with(id, &count.clone().into()), Poll::Ready(Status::Ended(DONE)));
        drop(waker);
        let id = slots.take().expect("one");
        assert_eq!(slots.poll_with(id, &count.clone().into()), Poll::Pending);
        let _unused = slots.end(id, DONE);
        slots.slots[id.index()].waker.register(&count.clone().into());
        assert_eq!(slots.poll(id), Status::Ended(DONE));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(slots.poll_with(id, &count.into()), Poll::Ready(Status::Unknown));
    }

    #[test]
    fn one_future_waits_for_an_operation() {
        let slots = Slots::new(1);
        let id = slots.take().expect("one");
        assert!(slots.claim(id));
        assert!(!slots.claim(id));
        assert!(!slots.claim(OpId::from_number(u64::MAX)));
        drop(slots.end(id, DONE));
        assert_eq!(slots.poll(id), Status::Ended(DONE));
        assert!(!slots.claim(id), "a stale id");
        assert!(slots.claim(slots.take().expect("again")));
    }

    #[test]
    fn threads_take_every_end_once() {
        const EACH: usize = 20_000;
        let slots = Slots::new(8);
        let taken = AtomicUsize::new(0);
        let (said, hears) = std::sync::mpsc::sync_channel::<OpId>(8);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for id in hears {
                    drop(slots.end(id, DONE));
                }
            });
            for detaches in [false, true] {
                let (said, slots, taken) = (said.clone(), &slots, &taken);
                scope.spawn(move || {
                    for _ in 0..EACH {
                        let id = loop {
                            match slots.take() {
                                Some(id) => break id,
                                None => std::thread::yield_now(),
                            }
                        };
                        said.send(id).expect("it listens");
                        if detaches {
                            slots.detach(id);
                            continue;
                        }
                        let status = loop {
                            match slots.poll(id) {
                                Status::Pending => std::thread::yield_now(),
                                status @ (Status::Ended(_) | Status::Unknown) => break status,
                            }
                        };
                        assert_eq!(status, Status::Ended(DONE));
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            drop(said);
        });
        assert_eq!((taken.into_inner(), slots.free.len()), (EACH, 8));
    }
}
