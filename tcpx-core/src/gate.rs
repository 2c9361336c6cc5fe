//! The lock around the calls whose first use is not thread-safe.
//!
//! A plugin fills tables lazily in `listen`, `connect`, `accept` and `regMr`, without locking. In one known
//! build `connect` blocks until the peer accepts, which must not keep this process from accepting. So:
//!
//! - `listen`, `accept` and `regMr` hold [`SETUP`]. `accept` is polled and only tries it; the other two wait
//!   for it, but not for ever, because the first call may be a `connect`.
//! - `connect` holds [`SETUP`] only until some call of its plugin has succeeded: the tables are filled then.
//!   Until the first `connect` has returned, one `connect` runs at a time ([`CONNECT`]).
//!
//! A process that listens before it connects therefore never waits for a `connect` here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Call, Error};

/// The locks are the process's; the flags belong to one plugin. Whoever takes both takes `CONNECT` first, and
/// only tries the second.
static SETUP: Mutex<()> = Mutex::new(());
static CONNECT: Mutex<()> = Mutex::new(());

/// How long a call without a deadline of its own waits for the lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(1);

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// A `listen`, `accept` or `regMr` has succeeded.
    set_up: AtomicBool,
    /// A `connect` has returned.
    connected: AtomicBool,
}

/// Held during a call, which may need none, one or both of the locks.
#[derive(Debug)]
pub(crate) struct Pass {
    _setup: Option<MutexGuard<'static, ()>>,
    _connect: Option<MutexGuard<'static, ()>>,
}

impl Gate {
    /// Waits for the lock, for `listen` and `regMr` on `device`: until `deadline`, or for ten seconds.
    pub(crate) fn lock(
        &self,
        call: Call,
        device: &'static str,
        deadline: Option<Instant>,
    ) -> Result<Pass, Error> {
        let started = Instant::now();
        let deadline = deadline.unwrap_or(started + PATIENCE);
        loop {
            if let Some(pass) = self.try_accept() {
                return Ok(pass);
            }
            let now = Instant::now();
            if now >= deadline {
                let waited = now.saturating_duration_since(started);
                return Err(Error::SetupBusy { call, device, waited });
            }
            thread::sleep(PAUSE);
        }
    }

    /// The lock for `accept`; `None` if it is taken.
    pub(crate) fn try_accept(&self) -> Option<Pass> {
        Some(Pass { _setup: Some(try_lock(&SETUP)?), _connect: None })
    }

    /// The locks that `connect` still needs; `None` if one is taken.
    pub(crate) fn try_connect(&self) -> Option<Pass> {
        if self.connected.load(Ordering::Acquire) {
            return Some(Pass { _setup: None, _connect: None });
        }
        let connect = try_lock(&CONNECT)?;
        let setup = if self.set_up.load(Ordering::Acquire) { None } else { Some(try_lock(&SETUP)?) };
        Some(Pass { _setup: setup, _connect: Some(connect) })
    }

    /// A `connect` has returned.
    pub(crate) fn connect_returned(&self) {
        self.connected.store(true, Ordering::Release);
    }

    /// A `listen`, `accept` or `regMr` has succeeded.
    pub(crate) fn was_set_up(&self) {
        self.set_up.store(true, Ordering::Release);
    }
}

fn try_lock(lock: &'static Mutex<()>) -> Option<MutexGuard<'static, ()>> {
    match lock.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(PoisonError::into_inner(poisoned)),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process may hold a lock for a moment.
    fn insist(take: impl Fn() -> Option<Pass>) -> Pass {
        loop {
            if let Some(pass) = take() {
                return pass;
            }
            thread::yield_now();
        }
    }

    /// One test for the whole gate, because its locks are the process's.
    #[test]
    fn first_uses_exclude_each_other_and_a_connect_only_its_first_time() {
        let (one, other) = (Gate::default(), Gate::default());
        let held = one.lock(Call::Listen, "eth9", None).unwrap();
        assert!(other.try_accept().is_none());
        assert!(other.try_connect().is_none());
        other.connect_returned();
        assert!(other.try_connect().is_some());
        assert!(one.try_connect().is_none());
        drop(held);

        // A first connect that hangs keeps the others waiting, but not for ever.
        let hangs = insist(|| one.try_connect());
        let soon = Instant::now() + Duration::from_millis(20);
        let error = other.lock(Call::RegMr, "eth9", Some(soon)).unwrap_err();
        assert!(error.to_string().starts_with("regMr on eth9 was not called"), "{error}");
        assert!(error.to_string().contains("connect"), "{error}");
        drop(hangs);

        // After a listen it keeps only other first connects waiting.
        one.was_set_up();
        let hangs = insist(|| one.try_connect());
        drop(other.lock(Call::Listen, "eth9", None).unwrap());
        drop(insist(|| other.try_accept()));
        assert!(Gate::default().try_connect().is_none());
        drop(hangs);
    }
}
