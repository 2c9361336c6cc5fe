//! A descriptor to sleep on until a comm may have moved.

use core::cell::Cell;
use core::marker::PhantomData;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use tcpx_sys::Code;

use super::comm::Comm;
use super::{Calls, Raw};

/// A waiter of a plugin with the extension. One thread owns it and tests the comms attached to it.
pub(crate) struct Waiter {
    calls: Arc<dyn Calls>,
    raw: Raw,
    file: RawFd,
    _one_thread: PhantomData<Cell<()>>,
}

impl Waiter {
    /// `None` where the plugin has no extension.
    pub(crate) fn open(calls: &Arc<dyn Calls>) -> Option<Result<Self, Code>> {
        let (code, made) = calls.waiter_open()?;
        let made = made.filter(|&(_, file)| code.is_success() && file >= 0);
        let waiter = made.map(|(raw, file)| {
            let calls = calls.clone();
            Self { calls, raw, file, _one_thread: PhantomData }
        });
        Some(waiter.ok_or(code))
    }

    /// The comm must belong to the same plugin; it leaves the waiter when it is closed.
    pub(crate) fn attach(&self, comm: &Comm) -> Code {
        if !Arc::ptr_eq(&self.calls, comm.shared_calls()) {
            return Code::INVALID_ARGUMENT;
        }
        // SAFETY: waiter and comm are open and of one plugin; both are this thread's (not Sync).
        unsafe { self.calls.waiter_attach(self.raw, comm.raw()) }
    }

    /// Forgets what was signalled so far and asks for the next signal.
    pub(crate) fn arm(&self) -> Code {
        // SAFETY: the waiter is open and this thread's.
        unsafe { self.calls.waiter_arm(self.raw) }
    }

    /// The descriptor to sleep on.
    pub(crate) const fn file(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the waiter, which is open as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.file) }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // SAFETY: the waiter is open, and nothing uses it after this.
        let code = unsafe { self.calls.waiter_close(self.raw) };
        if !code.is_success() {
            tracing::warn!(%code, "closing a waiter failed");
        }
    }
}
