//! What the threads of an endpoint share: the engine, and what it has reported.
//!
//! Whoever waits drives the engine, one at a time; when nobody waits, the progress thread does. Anybody else asks
//! the engine under its lock, which is held for one round at most.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant};

use p2p_memory::Memory;
use p2p_transport::{Error, ErrorKind, Next, Now};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::reports::Reports;
use super::slots::{OpId, Slots};
use crate::engine::{Engine, Event};

/// Longest sleep of whoever drives: deadlines are found in rounds.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How long somebody who waits and does not drive sleeps at most, should nobody drive any more.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// No wait is longer.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often a round gives way to those who want the engine: they may never stop asking.
const MOST_YIELDS: usize = 64;
/// How often the progress thread looks whether those who wait still drive.
const HANDOVER: Duration = Duration::from_millis(1);
/// How often somebody who waits looks whether the progress thread has ended its round, before they sleep and have to be
/// woken.
const MOST_LOOKS: usize = 1000;

const NOBODY: u8 = 0;
/// The progress thread, for a round.
const THREAD: u8 = 1;
/// Somebody who waits, until what they wait for has come.
const CALLER: u8 = 2;

/// Where one thread sleeps: one for the progress thread and one for whoever waits and drives, so that neither takes a
/// wake-up that the other waits for.
struct Bed {
    /// It sleeps, or is about to.
    asleep: AtomicBool,
    wake: OwnedFd,
}

impl Bed {
    fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: AtomicBool::new(false), wake })
    }

    fn wake_up(&self) {
        if self.asleep.swap(false, Ordering::AcqRel) {
            // A full counter means that it is awake already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// How often those who wait and do not drive were told of something, and how many they are.
#[derive(Debug, Default)]
struct Told {
    times: u64,
    waiting: usize,
}

/// See the module documentation.
pub(super) struct Shared {
    engine: Mutex<Engine>,
    /// Threads that want the engine: whoever drives lets them in between two polls.
    wanted: AtomicUsize,
    /// Who drives the engine: one of the states below.
    driver: AtomicU8,
    /// Threads that wait. The progress thread leaves the engine to them.
    waiting: AtomicUsize,
    pub(super) slots: Slots,
    reports: Mutex<Reports>,
    /// Who is to be woken, once the engine is free: a waker may run code that asks it for something.
    to_wake: Mutex<Vec<Waker>>,
    told: Mutex<Told>,
    changed: Condvar,
    /// What whoever drives sleeps on: the transport's, the control streams', and the bed's, which others write to.
    transport: Option<OwnedFd>,
    control: Option<OwnedFd>,
    /// Of the progress thread.
    thread: Bed,
    /// Of whoever waits and drives.
    caller: Bed,
    pub(super) stop: AtomicBool,
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
            to_wake: Mutex::default(),
            told: Mutex::default(),
            changed: Condvar::new(),
            thread: Bed::new()?,
            caller: Bed::new()?,
            stop: AtomicBool::new(false),
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
        self.engine.lock().unwrap_or_else(|poisoned| {
            self.came_to_a_bad_end();
            poisoned.into_inner()
        })
    }

    fn to_wake(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.to_wake.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Wakes those of whose operations the end was found. The engine is free: a waker, or the owner of memory, may run
    /// code that asks it for something.
    fn wake_those(&self, gone: Vec<Box<dyn Memory>>) {
        drop(gone);
        loop {
            // Taken one by one, so that a waker that comes back here finds the lock free.
            let Some(waker) = self.to_wake().pop() else { return };
            waker.wake();
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Lets everybody who waits look again.
    fn tell(&self) {
        let mut told = self.told();
        told.times += 1;
        if told.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// A round panicked, whoever made it: nothing of the engine can be trusted, and nobody waits for it.
    fn came_to_a_bad_end(&self) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(
                "the engine of an endpoint panicked: all its operations end, and it cannot be used any more"
            );
            self.to_wake().extend(self.slots.end_all());
            self.tell();
        }
    }

    /// Asks the engine for something, lets it begin at once, and wakes whoever drives it.
    pub(super) fn with<T>(&self, ask: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.enter();
        engine.at(self.now());
        let answer = ask(&mut engine);
        engine.begin();
        self.pass_on(&mut engine);
        let gone = engine.take_gone();
        drop(engine);
        self.wake_up();
        self.wake_those(gone);
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
        if self.broken.load(Ordering::Acquire) {
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
    fn poll(&self, engine: &mut Engine) -> Next {
        let next = engine.poll(self.now());
        self.pass_on(engine);
        // Everything that was reported is passed on, so that only what moved asks for another round.
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
                        self.to_wake().push(waker);
                    }
                }
                other @ (Event::Connected(_)
                | Event::Accepted(_)
                | Event::Closed(_)
                | Event::Notified { .. }
                | Event::Counted { .. }) => self.reports().take(engine, other),
            }
        }
        if told {
            self.tell();
        }
    }

    /// Waits until `check` has something, driving the engine if nobody else does. `None` after the time.
    pub(super) fn wait<T>(&self, time: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
        let now = Instant::now();
        // For ever is long enough with a year.
        let deadline = now + time.min(FOREVER);
        let _waiting = Waiting::new(self);
        loop {
            let seen = self.told().times;
            if let Some(found) = check() {
                return Some(found);
            }
            if Instant::now() >= deadline || self.broken.load(Ordering::Acquire) {
                return None;
            }
            if self.begins_to_drive() {
                let _driving = Driving(self);
                return self.drive_until(deadline, &mut check);
            }
            let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
            let mut told = self.told();
            if told.times == seen {
                told.waiting += 1;
                let waited = self.changed.wait_timeout(told, left);
                waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.waiting -= 1;
            }
        }
    }

    /// Whether the caller is the one who drives from here on. The progress thread is waited for, which gives way after
    /// its round.
    fn begins_to_drive(&self) -> bool {
        for _ in 0..MOST_LOOKS {
            match self.driver.compare_exchange(NOBODY, CALLER, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(THREAD) => std::hint::spin_loop(),
                Err(_) => return false,
            }
        }
        false
    }

    fn drive_until<T>(&self, deadline: Instant, check: &mut impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let next = self.round();
            if let Some(found) = check() {
                return Some(found);
            }
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            self.rest(&self.caller, next, deadline.saturating_duration_since(now));
        }
    }

    /// The progress thread.
    pub(super) fn drive(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let is_theirs = self.waiting.load(Ordering::SeqCst) > 0;
            let begun = || self.driver.compare_exchange(NOBODY, THREAD, Ordering::SeqCst, Ordering::Relaxed);
            if is_theirs || begun().is_err() {
                std::thread::sleep(HANDOVER);
                continue;
            }
            let next = self.round();
            self.driver.store(NOBODY, Ordering::SeqCst);
            if self.waiting.load(Ordering::SeqCst) > 0 {
                // They may have fallen asleep over this round.
                self.tell();
            } else {
                self.rest(&self.thread, next, LONGEST_SLEEP);
            }
        }
    }

    /// As [`drive`](Self::drive); a panic ends every operation, and leaves the process alive.
    pub(super) fn drive_safely(&self) {
        let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.drive()));
        if driven.is_err() {
            self.came_to_a_bad_end();
        }
    }

    /// Makes rounds until every link is over, or for `limit`.
    pub(super) fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !self.look(Engine::is_empty) {
            let next = self.round();
            self.rest(&self.caller, next, LONGEST_WAIT);
        }
    }

    /// One round; whoever wants the engine gets it first.
    fn round(&self) -> Next {
        for _ in 0..MOST_YIELDS {
            if self.wanted.load(Ordering::Acquire) == 0 {
                break;
            }
            std::thread::yield_now();
        }
        let mut engine = self.lock();
        let next = self.poll(&mut engine);
        let gone = engine.take_gone();
        drop(engine);
        self.wake_those(gone);
        next
    }

    /// Sleeps after a round, if that says so. Before sleeping one more round is made, so that whoever asked the
    /// engine meanwhile either is seen by it or wakes the sleeper.
    fn rest(&self, bed: &Bed, next: Next, most: Duration) {
        match next {
            Next::Again => {}
            Next::Spin => std::hint::spin_loop(),
            Next::Wait(_) | Next::Idle(_) => {
                bed.asleep.store(true, Ordering::SeqCst);
                if let Next::Wait(until) | Next::Idle(until) = self.round() {
                    let left = until.map_or(LONGEST_SLEEP, |until| until.0.saturating_sub(self.now().0));
                    let files = [self.transport.as_ref(), self.control.as_ref(), Some(&bed.wake)];
                    let files: Vec<&OwnedFd> = files.into_iter().flatten().collect();
                    sleep_on(&files, left.min(LONGEST_SLEEP).min(most));
                    let _ = rustix::io::read(&bed.wake, &mut [0_u8; 8]);
                }
                bed.asleep.store(false, Ordering::SeqCst);
            }
        }
    }
}

/// Somebody waits.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Somebody who waits drives. When they leave, also by a panic, somebody else may.
struct Driving<'a>(&'a Shared);

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.came_to_a_bad_end();
        }
        self.0.driver.store(NOBODY, Ordering::SeqCst);
        self.0.tell();
        if self.0.slots.in_use() > 0 {
            self.0.thread.wake_up();
        }
    }
}

fn sleep_on(files: &[&OwnedFd], time: Duration) {
    let mut polled: Vec<PollFd<'_>> = files.iter().map(|file| PollFd::new(*file, PollFlags::IN)).collect();
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    // Whether it slept, was woken or was interrupted: what follows is a round.
    let _ = poll(&mut polled, Some(&time));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_wake_up_of_another() {
        let beds = [Bed::new().expect("a descriptor"), Bed::new().expect("a descriptor")];
        beds.iter().for_each(|bed| bed.asleep.store(true, Ordering::SeqCst));
        beds.iter().for_each(Bed::wake_up);
        for bed in &beds {
            assert!(!bed.asleep.load(Ordering::SeqCst));
            let mut count = [0; 8];
            assert_eq!(rustix::io::read(&bed.wake, &mut count), Ok(8));
            assert_eq!(u64::from_ne_bytes(count), 1);
            bed.wake_up();
            assert!(rustix::io::read(&bed.wake, &mut count).is_err(), "nobody sleeps there");
        }
    }
}
