//! One attempt to connect, with its own copy of the handle.

use core::ffi::{c_int, c_void};
use core::ptr::NonNull;
use std::sync::Arc;

use tcpx_sys::{Code, HANDLE_BYTES};

use super::comm::{Comm, Place, count_leak};
use super::{Calls, Side};
use crate::gate::Gate;

/// Bytes of the handle in which the plugin keeps a pointer of its own; zero at the start of an attempt.
const PRIVATE: core::ops::Range<usize> = 80..88;

#[repr(C, align(8))]
struct Handle([u8; HANDLE_BYTES]);

/// An attempt. A plugin keeps state behind a pointer in the handle, so that each attempt has a copy that
/// stays where it is and is never used again.
pub(crate) struct AttemptHandle {
    calls: Arc<dyn Calls>,
    handle: NonNull<Handle>,
    /// `connect` said pending: the plugin works on the handle.
    pending: bool,
    /// `connect` gave its last answer.
    over: bool,
    /// Whether the plugin uses the handle only during a call of `connect`, and keeps no pointer to it.
    freed_any_time: bool,
}

// SAFETY: it owns one allocation that belongs to no thread.
unsafe impl Send for AttemptHandle {}

impl AttemptHandle {
    pub(crate) fn new(calls: Arc<dyn Calls>, received: &[u8; HANDLE_BYTES], freed_any_time: bool) -> Self {
        let mut handle = Handle(*received);
        handle.0[PRIVATE].fill(0);
        let handle = NonNull::from(Box::leak(Box::new(handle)));
        Self { calls, handle, pending: false, over: false, freed_any_time }
    }

    /// One call of `connect`. After an answer other than pending the attempt is over, and asking again is
    /// answered here.
    pub(crate) fn connect(&mut self, device: c_int, place: Place, gate: &Arc<Gate>) -> (Code, Option<Comm>) {
        if self.over {
            return (Code::INVALID_USAGE, None);
        }
        let handle: *mut c_void = self.handle.as_ptr().cast();
        // SAFETY: the device is one of the plugin's (the caller has it from `devices`); the handle has 128
        // writable bytes, 8-aligned, is this attempt's alone, and the attempt is not over.
        let (code, comm) = unsafe { self.calls.connect(device, handle) };
        let comm = comm.filter(|_| code.is_success());
        self.pending = code.is_success() && comm.is_none();
        self.over = !self.pending;
        let comm = comm.map(|raw| Comm::new(self.calls.clone(), raw, Side::Send, place, gate.clone()));
        (code, comm)
    }
}

impl Drop for AttemptHandle {
    fn drop(&mut self) {
        if self.pending && !self.freed_any_time {
            // There is no call to give up an attempt; the plugin's thread ends by itself.
            tracing::warn!("a connect was given up while the plugin works on it; its handle is leaked");
            count_leak();
            return;
        }
        // SAFETY: from `Box::leak` in `new`, and freed only here; the plugin has given its last answer, or keeps no
        // pointer to the handle between calls.
        drop(unsafe { Box::from_raw(self.handle.as_ptr()) });
    }
}
