//! What the threads of an endpoint share: the engine, and what it has reported.
//!
//! Whoever waits drives the engine, one at a time; when nobody waits, the progress thread does. Anybody else asks
//! the engine under its lock, which is held for one round at most.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use p2p_transport::{Error, ErrorKind, Next, Now};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::slots::{OpId, Slots};
use crate::engine::{Engine, Event, LinkId};

/// Longest sleep of whoever drives: deadlines are found in rounds.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How long somebody who waits and does not drive sleeps at most, should nobody drive any more.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// How often the progress thread looks whether those who wait still drive.
const HANDOVER: Duration = Duration::from_millis(1);

/// What the engine has reported of links and notifications, until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Links that came from peers and were not taken.
    pub(super) accepted: VecDeque<LinkId>,
    /// Links that are up.
    pub(super) up: Vec<LinkId>,
    /// Links that this end opened and that ended, with the reason, until whoever opened them asks.
    pub(super) over: VecDeque<(LinkId, Option<Error>)>,
    pub(super) notifications: VecDeque<(LinkId, Bytes)>,
    /// How often a peer's counter went up.
    pub(super) counters: Vec<(LinkId, u32, u64)>,
    /// Incremented by `stop_accept`; who waits in `accept` leaves.
    pub(super) stops: u64,
}

/// Ends of links that are remembered.
const MOST_ENDS: usize = 1024;

/// See the module documentation.
pub(super) struct Shared {
    engine: Mutex<Engine>,
    /// Threads that want the engine: whoever drives lets them in between two polls.
    wanted: AtomicUsize,
    /// Somebody who waits drives the engine; the progress thread leaves it to them.
    driven: AtomicBool,
    pub(super) slots: Slots,
    reports: Mutex<Reports>,
    changed: Condvar,
    /// What whoever drives sleeps on: the transport's, the control streams', and the one that others write to.
    transport: Option<OwnedFd>,
    control: Option<OwnedFd>,
    wake: OwnedFd,
    /// Whoever drives sleeps, or is about to.
    asleep: AtomicBool,
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
            driven: AtomicBool::new(false),
            slots: Slots::new(slots),
            reports: Mutex::default(),
            changed: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: AtomicBool::new(false),
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
        self.engine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
        self.changed.notify_all();
        self.wake_up();
    }

    pub(super) fn wake_up(&self) {
        if self.asleep.swap(false, Ordering::AcqRel) {
            // A full counter means that it is awake already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
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
                Event::Ended { token, outcome, .. } => self.slots.end(OpId::from_number(token.0), outcome),
                other @ (Event::Connected(_)
                | Event::Accepted(_)
                | Event::Closed(_)
                | Event::Notified { .. }
                | Event::Counted { .. }) => self.take(engine, other),
            }
        }
        if told {
            self.changed.notify_all();
        }
    }

    fn take(&self, engine: &Engine, event: Event) {
        let mut reports = self.reports();
        match event {
            Event::Connected(link) => reports.up.push(link),
            Event::Accepted(link) => {
                reports.up.push(link);
                reports.accepted.push_back(link);
            }
            Event::Closed(link) => {
                reports.up.retain(|one| *one != link);
                reports.accepted.retain(|one| *one != link);
                reports.counters.retain(|(of, ..)| *of != link);
                reports.over.push_back((link, engine.why(link).cloned()));
                if reports.over.len() > MOST_ENDS {
                    reports.over.pop_front();
                }
            }
            Event::Notified { link, bytes } => reports.notifications.push_back((link, bytes)),
            Event::Counted { link, counter } => {
                match reports.counters.iter_mut().find(|(of, number, _)| (*of, *number) == (link, counter)) {
                    Some((.., count)) => *count += 1,
                    None => reports.counters.push((link, counter, 1)),
                }
            }
            Event::Ended { .. } => {}
        }
    }

    /// Waits until `check` has something, driving the engine if nobody else does. `None` after the deadline.
    pub(super) fn wait<T>(&self, deadline: Instant, mut check: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = check() {
                return Some(found);
            }
            if Instant::now() >= deadline || self.broken.load(Ordering::Acquire) {
                return None;
            }
            if !self.driven.swap(true, Ordering::AcqRel) {
                let found = self.drive_until(deadline, &mut check);
                self.driven.store(false, Ordering::Release);
                self.changed.notify_all();
                if self.slots.in_use() > 0 {
                    self.wake_up();
                }
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
            // What was told between the check and this is found at the latest when the wait is over.
            drop(self.changed.wait_timeout(self.reports(), left));
        }
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
            self.rest(next, deadline.saturating_duration_since(now));
        }
    }

    /// The progress thread.
    pub(super) fn drive(&self) {
        while !self.stop.load(Ordering::Acquire) {
            if self.driven.swap(true, Ordering::AcqRel) {
                self.sleep_on(&[&self.wake], HANDOVER);
                continue;
            }
            let next = self.round();
            self.driven.store(false, Ordering::Release);
            self.rest(next, LONGEST_SLEEP);
        }
    }

    /// As [`drive`](Self::drive); a panic ends every operation, and leaves the process alive.
    pub(super) fn drive_safely(&self) {
        let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.drive()));
        if driven.is_err() {
            tracing::error!(
                "the engine of an endpoint panicked: all its operations end, and it cannot be used any more"
            );
            self.broken.store(true, Ordering::Release);
            self.slots.end_all();
            self.changed.notify_all();
        }
    }

    /// Makes rounds until every link is over, or for `limit`.
    pub(super) fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !self.look(Engine::is_empty) {
            let next = self.round();
            self.rest(next, LONGEST_WAIT);
        }
    }

    /// One round; whoever wants the engine gets it first.
    fn round(&self) -> Next {
        while self.wanted.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        let mut engine = self.lock();
        self.poll(&mut engine)
    }

    /// Sleeps after a round, if that says so. Before sleeping one more round is made, so that whoever asked the
    /// engine meanwhile either is seen by it or wakes the sleeper.
    fn rest(&self, next: Next, most: Duration) {
        match next {
            Next::Again => {}
            Next::Spin => std::hint::spin_loop(),
            Next::Wait(_) | Next::Idle(_) => {
                self.asleep.store(true, Ordering::SeqCst);
                if let Next::Wait(until) | Next::Idle(until) = self.round() {
                    let left = until.map_or(LONGEST_SLEEP, |until| until.0.saturating_sub(self.now().0));
                    let files = [self.transport.as_ref(), self.control.as_ref(), Some(&self.wake)];
                    let files: Vec<&OwnedFd> = files.into_iter().flatten().collect();
                    self.sleep_on(&files, left.min(LONGEST_SLEEP).min(most));
                }
                self.asleep.store(false, Ordering::SeqCst);
            }
        }
    }

    fn sleep_on(&self, files: &[&OwnedFd], time: Duration) {
        let mut polled: Vec<PollFd<'_>> =
            files.iter().map(|file| PollFd::new(*file, PollFlags::IN)).collect();
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        // Whether it slept, was woken or was interrupted: what follows is a round.
        let _ = poll(&mut polled, Some(&time));
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }
}
