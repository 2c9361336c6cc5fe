//! The extension table of the embedded soft plugin, beside the published tables.
//!
//! A plugin that has it exports [`SYMBOL`]; a caller that does not know it loses nothing but speed. It
//! adds two things that the published interface lacks: sleeping until something may have moved, and
//! messages made of several slices.
//!
//! **Waiters.** A waiter is a file descriptor that becomes readable when a comm attached to it may have
//! moved. One thread owns a waiter, and the comms attached to it are tested by that thread. To sleep
//! without losing a wake-up: `waiter_arm`, then one more round of `test` over all attached comms, and
//! only if nothing moved, `poll(2)` on the descriptor. A comm is attached once and leaves its waiter when
//! it is closed.

use core::ffi::{c_char, c_int, c_void};
use core::mem::{offset_of, size_of};

/// Symbol of the table in a shared library.
pub const SYMBOL: &core::ffi::CStr = c"tcpxSoftExtension_v1";

/// One slice of a message: host memory inside the registration `mhandle`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// First byte.
    pub address: *mut c_void,
    /// Length in bytes.
    pub length: usize,
    /// Registration that holds the range, made on the same comm.
    pub mhandle: *mut c_void,
}

/// The table.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExtensionV1 {
    /// `size_of::<ExtensionV1>()` of the plugin; later members may follow those known here.
    pub size: usize,
    /// Most slices one message may have.
    pub max_slices: usize,
    /// Makes a waiter and says which descriptor to sleep on. The descriptor belongs to the waiter.
    pub waiter_open: Option<unsafe extern "C" fn(waiter: *mut *mut c_void, fd: *mut c_int) -> c_int>,
    /// Attaches a send or receive comm that has no waiter yet.
    pub waiter_attach: Option<unsafe extern "C" fn(waiter: *mut c_void, comm: *mut c_void) -> c_int>,
    /// Forgets what was signalled so far and asks for the next signal.
    pub waiter_arm: Option<unsafe extern "C" fn(waiter: *mut c_void) -> c_int>,
    /// Frees the waiter; its comms go on without one.
    pub waiter_close: Option<unsafe extern "C" fn(waiter: *mut c_void) -> c_int>,
    /// `isend` of `n` slices as one message.
    pub isend_slices: Option<
        unsafe extern "C" fn(
            comm: *mut c_void,
            slices: *const Slice,
            n: c_int,
            request: *mut *mut c_void,
        ) -> c_int,
    >,
    /// `irecv` of one message into `n` slices. Refused by a device of type UNPACK, whose scatter list says
    /// where bytes belong.
    pub irecv_slices: Option<
        unsafe extern "C" fn(
            comm: *mut c_void,
            slices: *const Slice,
            n: c_int,
            request: *mut *mut c_void,
        ) -> c_int,
    >,
    /// Writes a line about the comm (peer, sockets, lanes, chunk) and a terminating zero into `buffer`,
    /// cut to `capacity` bytes.
    pub describe:
        Option<unsafe extern "C" fn(comm: *mut c_void, buffer: *mut c_char, capacity: usize) -> c_int>,
}

// SAFETY: immutable data and function pointers.
unsafe impl Sync for ExtensionV1 {}

const _: () = {
    assert!(size_of::<Slice>() == 24);
    assert!(size_of::<ExtensionV1>() == 72);
    assert!(offset_of!(ExtensionV1, max_slices) == 8 && offset_of!(ExtensionV1, waiter_open) == 16);
    assert!(offset_of!(ExtensionV1, isend_slices) == 48 && offset_of!(ExtensionV1, describe) == 64);
};
