//! The seam to a plugin: its calls as a trait, and what may be done with them without breaking its rules.
//!
//! Everything in this crate that needs `unsafe` lies below this module. The submodules turn the calls
//! into objects that cannot be misused: a listener that is polled to its end, a comm that is closed
//! once, requests that are tested and consumed oldest first.

pub(crate) mod comm;
pub(crate) mod connecting;
pub(crate) mod delivery;
pub(crate) mod listening;
pub(crate) mod process;
pub(crate) mod registration;
pub(crate) mod requests;
mod table;
#[cfg(test)]
mod tests;
mod traced;
pub(crate) mod waiter;

use core::ffi::{c_int, c_void};
use core::ptr::NonNull;
use std::os::fd::RawFd;
use std::path::PathBuf;

use p2p_memory::MemoryKind;
use tcpx_sys::Code;
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::extension::Slice;

pub(crate) use table::{TableCalls, max_message_of, name_of as table_name};
pub use traced::CALLS_TARGET;
pub(crate) use traced::traced_if_asked;

/// An object of a plugin that only the plugin can look into: a comm, a request, a registration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Raw(NonNull<c_void>);

// SAFETY: an address; what may be done with it from which thread is for the unsafe calls below to say.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    pub(crate) fn new(pointer: *mut c_void) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    pub(crate) const fn as_ptr(self) -> *mut c_void {
        self.0.as_ptr()
    }
}

/// A result code and what the call made, if it made anything.
pub(crate) type Made = (Code, Option<Raw>);

/// What `test` said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tested {
    pub(crate) code: Code,
    pub(crate) done: bool,
    /// The size the plugin wrote; `None` if it left the place untouched.
    pub(crate) size: Option<usize>,
}

/// Properties of a device, copied out of the plugin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reported {
    pub(crate) name: Option<String>,
    pub(crate) pci_path: Option<PathBuf>,
    pub(crate) guid: u64,
    pub(crate) ptr_support: c_int,
    pub(crate) speed: c_int,
    pub(crate) port: c_int,
    pub(crate) latency: f32,
    pub(crate) max_comms: c_int,
    pub(crate) max_recvs: c_int,
    pub(crate) device_type: c_int,
    pub(crate) device_version: c_int,
    /// Largest message; from version 9 on.
    pub(crate) max_bytes: Option<usize>,
}

/// Memory as a registration call takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) base: NonNull<u8>,
    pub(crate) length: usize,
    pub(crate) kind: MemoryKind,
}

/// Which way a comm carries data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Towards the peer.
    Send,
    /// From the peer.
    Recv,
}

/// The calls of one plugin, whatever the version of its table. Codes are passed on as they are.
///
/// # Safety of the unsafe calls
///
/// Objects come from the same plugin, are of the kind that the call takes, and are not closed, freed,
/// or finished. A comm and its requests are used by one thread at a time. Registered memory and the data
/// of a request stay valid until the registration, and the request, have ended.
#[cfg_attr(test, mockall::automock)]
pub(crate) trait Calls: Send + Sync {
    fn init(&self) -> Code;
    fn devices(&self) -> (Code, c_int);
    fn properties(&self, device: c_int) -> (Code, Option<Reported>);

    /// `handle` points to 128 writable bytes.
    unsafe fn listen(&self, device: c_int, handle: *mut c_void) -> Made;
    /// `handle` points to the attempt's own 128 bytes, 8-aligned, the same at each call.
    unsafe fn connect(&self, device: c_int, handle: *mut c_void) -> Made;
    /// `device_handle` points to a pointer to a device handle; all live until the comm is closed.
    unsafe fn accept(&self, listener: Raw, device_handle: *mut *mut DeviceHandle) -> Made;
    unsafe fn close_listen(&self, listener: Raw) -> Code;
    unsafe fn close(&self, comm: Raw, side: Side) -> Code;

    /// Largest region that one registration can take, in bytes.
    fn max_registration(&self) -> usize;
    unsafe fn register(&self, comm: Raw, region: Region) -> Made;
    unsafe fn deregister(&self, comm: Raw, registration: Raw) -> Code;

    unsafe fn isend(&self, comm: Raw, data: *mut c_void, length: usize, registration: Raw) -> Made;
    unsafe fn irecv(&self, comm: Raw, data: *mut c_void, length: usize, registration: Raw) -> Made;
    unsafe fn test(&self, request: Raw) -> Tested;
    /// `None` if the plugin has no such call, which means that it needs none.
    unsafe fn consumed(&self, comm: Raw, request: Raw) -> Option<Code>;

    /// Slices one message may have; 1 without the extension.
    fn max_slices(&self) -> usize;
    /// `slices` holds at most [`max_slices`](Self::max_slices) entries.
    unsafe fn isend_slices(&self, comm: Raw, slices: &[Slice]) -> Made;
    /// `slices` holds at most [`max_slices`](Self::max_slices) entries.
    unsafe fn irecv_slices(&self, comm: Raw, slices: &[Slice]) -> Made;
    /// A line about the comm; `None` without the extension.
    unsafe fn describe(&self, comm: Raw) -> Option<String>;

    /// A waiter and the descriptor to sleep on; `None` without the extension.
    fn waiter_open(&self) -> Option<(Code, Option<(Raw, RawFd)>)>;
    unsafe fn waiter_attach(&self, waiter: Raw, comm: Raw) -> Code;
    unsafe fn waiter_arm(&self, waiter: Raw) -> Code;
    unsafe fn waiter_close(&self, waiter: Raw) -> Code;
}
