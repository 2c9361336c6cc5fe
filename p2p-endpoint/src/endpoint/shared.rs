//! What the threads of an endpoint share: the engine, and what it has reported.
//!
//! Whoever waits drives the engine, one at a time; when nobody waits, the progress thread does. Anybody else asks
//! the engine under its lock, which is held for one round at most.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use p2p_memory::Memory;
use p2p_transport::{Error, ErrorKind, Next, Now};

use super::bed::Bed;
use super::drive::NOBODY;
use super::reports::Reports;
use super::slots::{OpId, Slots};
use crate::engine::{Engine, Event};

/// What runs code of the caller's, which may ask the engine for something: it waits until nobody drives.
#[derive(Default)]
struct Later {
    /// Of operations whose end was found.
    wakers: Vec<Waker>,
    /// What nothing uses any more.
    gone: Vec<Box<dyn Memory>>,
}

/// See the module documentation.
pub(super) struct Shared {
    engine: Mutex<Engine>,
    /// Threads that want the engine: whoever drives lets them in between two polls.
    wanted: AtomicUsize,
    /// Who drives the engine, by the states of `drive`.
    pub(super) driver: AtomicU8,
    /// Threads that wait, with time left. The progress thread leaves the engine to them.
    pub(super) waiting: AtomicUsize,
    pub(super) slots: Slots,
    reports: Mutex<Reports>,
    later: Mutex<Later>,
    /// There is something in `later`.
    is_later: AtomicBool,
    /// Threads that sleep until they are told of something.
    sleepers: Mutex<usize>,
    /// How often those who wait were told of something.
    told: AtomicU64,
    changed: Condvar,
    /// What whoever drives sleeps on, beside the bed: the transport's descriptor and the control streams'.
    transport: Option<OwnedFd>,
    control: Option<OwnedFd>,
    /// Of the progress thread.
    pub(super) thread: Bed,
    /// Of whoever waits and drives.
    pub(super) caller: Bed,
    pub(super) stop: AtomicBool,
    /// The progress thread itself has let go of the endpoint.
    pub(super) is_orphan: AtomicBool,
    /// The engine came to a bad end, and nothing of it can be trusted.
    broken: AtomicBool,
    origin: Instant,
}

impl Shared {
    pub(super) fn new(engine: Engine, slots: u32, origin: Instant) -> std::io::Result<Self> {
        let own = |fd: Option<std::os::fd::BorrowedFd<'_>>| fd.map(|fd| fd.try_clone_to_owned()).transpose();
        Ok(Self {
            transport: own(engine.transport_fd())?,
            control: own(engine.control_fd())?,
            engine: Mutex::new(engine),
            wanted: AtomicUsize::new(0),
            driver: AtomicU8::new(NOBODY),
            waiting: AtomicUsize::new(0),
            slots: Slots::new(slots),
            reports: Mutex::default(),
            later: Mutex::default(),
            is_later: AtomicBool::new(false),
            sleepers: Mutex::default(),
            told: AtomicU64::new(0),
            changed: Condvar::new(),
            thread: Bed::new()?,
            caller: Bed::new()?,
            stop: AtomicBool::new(false),
            is_orphan: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            origin,
        })
    }

    pub(super) fn now(&self) -> Now {
        Now(self.origin.elapsed())
    }

    pub(super) fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        match self.engine.lock() {
            Ok(engine) => engine,
            Err(poisoned) => {
                drop(poisoned);
                if self.came_to_a_bad_end() {
                    self.run_later();
                }
                self.engine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
            }
        }
    }

    fn later(&self) -> MutexGuard<'_, Later> {
        self.later.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn sleepers(&self) -> MutexGuard<'_, usize> {
        self.sleepers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether somebody is to be woken, or memory to be dropped.
    pub(super) fn has_later(&self) -> bool {
        self.is_later.load(Ordering::SeqCst)
    }

    /// Wakes those of whose operations the end was found, and drops what is gone. The caller does not drive, and the
    /// engine is free.
    pub(super) fn run_later(&self) {
        if !self.is_later.swap(false, Ordering::SeqCst) {
            return;
        }
        loop {
            // Taken one by one, so that code that comes back here finds the lock free.
            let (waker, gone) = {
                let mut later = self.later();
                (later.wakers.pop(), later.gone.pop())
            };
            if waker.is_none() && gone.is_none() {
                return;
            }
            let ran = catch_unwind(AssertUnwindSafe(|| {
                waker.into_iter().for_each(Waker::wake);
                drop(gone);
            }));
            if ran.is_err() {
                tracing::error!("a waker, or the owner of memory that was given back, panicked");
            }
        }
    }

    /// How often those who wait were told of something.
    pub(super) fn times(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }

    /// Lets everybody who waits look again.
    pub(super) fn tell(&self) {
        let sleepers = self.sleepers();
        self.told.fetch_add(1, Ordering::SeqCst);
        if *sleepers > 0 {
            self.changed.notify_all();
        }
        drop(sleepers);
        self.caller.wake_up();
    }

    /// Sleeps until somebody tells more than was seen, or the time is over.
    pub(super) fn sleep_until_told(&self, seen: u64, time: Duration) {
        let mut sleepers = self.sleepers();
        if self.times() == seen {
            *sleepers += 1;
            let slept = self.changed.wait_timeout(sleepers, time);
            *slept.unwrap_or_else(|poisoned| poisoned.into_inner()).0 -= 1;
        }
    }

    /// A round panicked, whoever made it: nothing of the engine can be trusted, and nobody waits for it. True the first
    /// time; whoever waits in a future is to be woken then.
    pub(super) fn came_to_a_bad_end(&self) -> bool {
        let first = !self.broken.swap(true, Ordering::SeqCst);
        if first {
            tracing::error!(
                "the engine of an endpoint panicked: all its operations end, and it cannot be used any more"
            );
            self.end_all();
            self.tell();
        }
        first
    }

    /// Nothing is under way any more.
    pub(super) fn end_all(&self) {
        let wakers = self.slots.end_all();
        self.put_off(wakers, Vec::new());
    }

    fn put_off(&self, wakers: impl IntoIterator<Item = Waker>, gone: Vec<Box<dyn Memory>>) {
        let mut later = self.later();
        later.wakers.extend(wakers);
        later.gone.extend(gone);
        if !later.wakers.is_empty() || !later.gone.is_empty() {
            self.is_later.store(true, Ordering::SeqCst);
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    pub(super) fn is_waited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Whether somebody wants the engine.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// What becomes readable when a round may find something.
    pub(super) const fn files(&self) -> [Option<&OwnedFd>; 2] {
        [self.transport.as_ref(), self.control.as_ref()]
    }

    /// Asks the engine for something, lets it begin at once, and wakes whoever drives it.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.enter();
        engine.at(self.now());
        let answer = ask(&mut engine);
        engine.begin();
        self.pass_on(&mut engine);
        drop(engine);
        self.wake_up();
        self.run_later();
        answer
    }

    /// Looks something up without moving anything.
    pub(super) fn look<T>(&self, ask: impl FnOnce(&Engine) -> T) -> T {
        ask(&self.enter())
    }

    /// The engine, after the round that is being made.
    fn enter(&self) -> MutexGuard<'_, Engine> {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        let engine = self.lock();
        self.wanted.fetch_sub(1, Ordering::AcqRel);
        engine
    }

    /// An error if the engine came to a bad end.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.is_broken() {
            let text = "the endpoint came to a bad end (the log says why); open a new one";
            return Err(Error::new(ErrorKind::Device, "poll", text));
        }
        Ok(())
    }

    /// Wakes everybody who waits.
    pub(super) fn wake_all(&self) {
        self.tell();
        self.wake_up();
    }

    pub(super) fn wake_up(&self) {
        self.thread.wake_up();
        self.caller.wake_up();
    }

    /// One round of progress, whose events are passed on.
    pub(super) fn poll(&self) -> Next {
        let mut engine = self.lock();
        let next = engine.poll(self.now());
        self.pass_on(&mut engine);
        next
    }

    /// Tells those who wait what the engine reports.
    fn pass_on(&self, engine: &mut Engine) {
        let mut told = false;
        while let Some(event) = engine.next_event() {
            told = true;
            match event {
                Event::Ended { token, outcome, .. } => {
                    if let Some(waker) = self.slots.end(OpId::from_number(token.0), outcome) {
                        self.put_off([waker], Vec::new());
                    }
                }
                other @ (Event::Connected(_)
                | Event::Accepted(_)
                | Event::Closed(_)
                | Event::Notified { .. }
                | Event::Counted { .. }) => self.reports().take(engine, other),
            }
        }
        let gone = engine.take_gone();
        if !gone.is_empty() {
            self.put_off([], gone);
        }
        if told {
            self.tell();
        }
    }
}
