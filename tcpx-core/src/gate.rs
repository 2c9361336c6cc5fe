//! The lock around the calls whose first use is not thread-safe.
//!
//! A plugin fills tables lazily in `listen`, `connect`, `accept` and `regMr`, without locking. `listen` and
//! `regMr` never wait for a peer and always hold the lock. `accept` and `connect` are polled: when the lock
//! is taken they are polled again later. `connect` holds it only until one call of the process has
//! returned, because in one known build it blocks until the peer accepts, which must not keep this process
//! from accepting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// The lock is the process's; the flag belongs to one plugin.
static SETUP: Mutex<()> = Mutex::new(());

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    connected: AtomicBool,
}

/// Held during a call; `None` where the call needs no lock.
pub(crate) type Pass = Option<MutexGuard<'static, ()>>;

impl Gate {
    /// Waits for the lock, for calls that never wait for a peer.
    pub(crate) fn lock(&self) -> MutexGuard<'static, ()> {
        SETUP.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock for `accept`; `None` if it is taken.
    pub(crate) fn try_accept(&self) -> Option<Pass> {
        try_lock().map(Some)
    }

    /// The lock for `connect`, where it still needs one; `None` if it is taken.
    pub(crate) fn try_connect(&self) -> Option<Pass> {
        if self.connected.load(Ordering::Acquire) { Some(None) } else { try_lock().map(Some) }
    }

    /// A `connect` has returned.
    pub(crate) fn connect_returned(&self) {
        self.connected.store(true, Ordering::Release);
    }
}

fn try_lock() -> Option<MutexGuard<'static, ()>> {
    match SETUP.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;

    /// One test for the whole lock, because it is the process's.
    #[test]
    fn first_uses_exclude_each_other_and_a_connect_only_its_first_time() {
        let (one, other) = (Gate::default(), Gate::default());
        let held = one.lock();
        assert!(other.try_accept().is_none());
        assert!(other.try_connect().is_none());
        other.connect_returned();
        assert!(matches!(other.try_connect(), Some(None)));
        assert!(one.try_connect().is_none());
        drop(held);
        // Other tests of this process may hold the lock for a moment.
        while one.try_connect().is_none() {
            std::thread::yield_now();
        }
    }
}
