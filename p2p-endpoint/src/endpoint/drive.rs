//! Who drives the engine: whoever waits, one at a time; when nobody does, the progress thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

use p2p_transport::Next;

use super::bed::Bed;
use super::shared::Shared;
use crate::engine::Engine;

/// Longest sleep of whoever drives: deadlines are found in rounds.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How long somebody who waits and does not drive sleeps at most, should nobody drive any more.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// No wait is longer.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often a round gives way to those who want the engine: they may never stop asking.
const MOST_YIELDS: usize = 64;
/// A short sleep of the progress thread while others drive. Nobody has to wake it from that, so that those who wait and
/// leave again and again do not.
const NAP: Duration = Duration::from_millis(1);
/// After so many naps it sleeps until the last of those who wait leaves.
const MOST_NAPS: u32 = 20;
/// How often somebody who waits looks whether the progress thread has ended its round, before they sleep and have to be
/// woken.
const MOST_LOOKS: usize = 1000;
/// What an end of an endpoint may take longer than the end of its last link: a few looks at deadlines.
const LAST_LOOKS: Duration = Duration::from_millis(100);

/// Nobody drives.
pub(super) const NOBODY: u8 = 0;
/// The progress thread does, for a round.
const THREAD: u8 = 1;
/// Somebody who waits does, until what they wait for has come.
const CALLER: u8 = 2;

/// How somebody who waits has driven.
enum Drove<T> {
    Found(T),
    /// The time is over, or the engine came to a bad end.
    InVain,
    /// Somebody is to be woken, which is done while anybody may drive.
    GivesWay,
}

impl Shared {
    /// Waits until `check` has something, driving the engine if nobody else does. `None` after the time; without any,
    /// after one round.
    pub(super) fn wait<T>(&self, time: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
        if time.is_zero() {
            return check().or_else(|| {
                self.drive_once();
                check()
            });
        }
        // For ever is long enough with a year.
        let deadline = Instant::now() + time.min(FOREVER);
        let _waiting = Waiting::new(self);
        loop {
            let seen = self.times();
            if let Some(found) = check() {
                return Some(found);
            }
            if Instant::now() >= deadline || self.is_broken() {
                return None;
            }
            if self.begins_to_drive() {
                let driving = Driving::new(self);
                let drove = self.drive_until(deadline, &mut check);
                drop(driving);
                self.run_later();
                match drove {
                    Drove::Found(found) => return Some(found),
                    Drove::InVain => return None,
                    Drove::GivesWay => continue,
                }
            }
            let left = deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
            self.sleep_until_told(seen, left);
        }
    }

    /// Whether the caller is the one who drives from here on. The progress thread is waited for, which gives way after
    /// its round.
    fn begins_to_drive(&self) -> bool {
        for _ in 0..MOST_LOOKS {
            match self.driver.compare_exchange(NOBODY, CALLER, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(THREAD) => std::hint::spin_loop(),
                Err(_) => return false,
            }
        }
        false
    }

    fn drive_until<T>(&self, deadline: Instant, check: &mut impl FnMut() -> Option<T>) -> Drove<T> {
        loop {
            let next = self.round();
            let seen = self.times();
            if let Some(found) = check() {
                return Drove::Found(found);
            }
            let now = Instant::now();
            if now >= deadline || self.is_broken() {
                return Drove::InVain;
            }
            if self.has_later() {
                return Drove::GivesWay;
            }
            let most = deadline.saturating_duration_since(now);
            self.rest(&self.caller, next, most, |shared| shared.times() == seen);
        }
    }

    /// A round, unless somebody else drives.
    fn drive_once(&self) {
        if self.driver.compare_exchange(NOBODY, CALLER, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let driving = Driving::new(self);
            let _ = self.round();
            drop(driving);
        }
        self.run_later();
    }

    /// The progress thread.
    fn drive(&self) {
        let mut naps = 0;
        while !self.stop.load(Ordering::SeqCst) && !self.is_broken() {
            if self.is_waited() {
                if naps < MOST_NAPS {
                    naps += 1;
                    sleep(NAP);
                } else {
                    self.sleep_while_waited();
                    naps = 0;
                }
                continue;
            }
            naps = 0;
            let begun = self.driver.compare_exchange(NOBODY, THREAD, Ordering::SeqCst, Ordering::SeqCst);
            if begun.is_err() {
                sleep(NAP);
                continue;
            }
            let next = self.round();
            self.driver.store(NOBODY, Ordering::SeqCst);
            self.run_later();
            if self.is_waited() {
                // They may have fallen asleep over this round.
                self.tell();
            } else {
                let stays = |shared: &Self| !shared.stop.load(Ordering::SeqCst);
                self.rest(&self.thread, next, LONGEST_SLEEP, stays);
                self.run_later();
            }
        }
    }

    fn sleep_while_waited(&self) {
        self.thread.lie_down();
        if self.is_waited() && !self.stop.load(Ordering::SeqCst) {
            self.thread.sleep([None, None], LONGEST_SLEEP);
        }
        self.thread.rise();
    }

    /// As [`drive`](Self::drive); a panic ends every operation, and leaves the process alive. If it was this thread that
    /// let go of the endpoint, in what it woke, it also ends the links.
    pub(super) fn drive_safely(&self, close_timeout: Duration) {
        if catch_unwind(AssertUnwindSafe(|| self.drive())).is_err() {
            self.came_to_a_bad_end();
            self.run_later();
        }
        if self.is_orphan.load(Ordering::SeqCst) {
            self.finish(close_timeout);
        }
    }

    /// Ends every link, or gives them up after `close_timeout` and a little more. Nothing is under way afterwards.
    pub(super) fn finish(&self, close_timeout: Duration) {
        if !self.is_broken() {
            self.with(Engine::close_all);
            let deadline = Instant::now() + close_timeout + LAST_LOOKS;
            while Instant::now() < deadline && !self.is_broken() && !self.look(Engine::is_empty) {
                let next = self.round();
                self.run_later();
                self.rest(&self.caller, next, LONGEST_WAIT, |shared| !shared.has_later());
            }
        }
        self.end_all();
        self.run_later();
    }

    /// One round; whoever wants the engine gets it first.
    fn round(&self) -> Next {
        for _ in 0..MOST_YIELDS {
            if !self.is_wanted() {
                break;
            }
            std::thread::yield_now();
        }
        self.poll()
    }

    /// Sleeps after a round, if that says so. Before sleeping one more round is made, so that whoever asked the
    /// engine meanwhile either is seen by it or wakes the sleeper; and `stays` is asked, for what others may have found.
    fn rest(&self, bed: &Bed, next: Next, most: Duration, stays: impl FnOnce(&Self) -> bool) {
        match next {
            Next::Again => {}
            Next::Spin => std::hint::spin_loop(),
            Next::Wait(_) | Next::Idle(_) => {
                bed.lie_down();
                if let Next::Wait(until) | Next::Idle(until) = self.round()
                    && !self.has_later()
                    && stays(self)
                {
                    let left = until.map_or(LONGEST_SLEEP, |until| until.0.saturating_sub(self.now().0));
                    bed.sleep(self.files(), left.min(LONGEST_SLEEP).min(most));
                }
                bed.rise();
            }
        }
    }
}

/// Somebody waits, with time left. The progress thread leaves the engine to them.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.thread.wake_up();
        }
    }
}

/// Somebody who waits drives. When they leave, also by a panic of a round, somebody else may.
struct Driving<'a> {
    shared: &'a Shared,
    /// Whoever drives while a panic of theirs is unwound is not to blame for it.
    was_panicking: bool,
}

impl<'a> Driving<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, was_panicking: panicking() }
    }
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        let panicked = panicking() && !self.was_panicking;
        if panicked {
            self.shared.came_to_a_bad_end();
        }
        self.shared.driver.store(NOBODY, Ordering::SeqCst);
        self.shared.tell();
        if panicked {
            self.shared.run_later();
        }
    }
}
