//! Every call of a plugin as a `tracing` event, for whoever asks for it.

use core::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::sync::Arc;

use tcpx_sys::Code;
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::extension::Slice;

use super::{Calls, Made, Raw, Region, Reported, Side, Tested};

/// Target of the events: one for each call, at level TRACE, with the plugin's result code, the objects it was about as
/// addresses, and for a test whether the request is done and the size that the plugin wrote. Whether there are any is
/// decided when a plugin is opened, so that calls cost nothing more where nobody asks.
pub const CALLS_TARGET: &str = "tcpx_core::calls";

/// Calls that are told.
pub(crate) struct TracedCalls(Arc<dyn Calls>);

/// As they are, unless they are to be told.
pub(crate) fn traced_if_asked(calls: Arc<dyn Calls>) -> Arc<dyn Calls> {
    if tracing::enabled!(target: CALLS_TARGET, tracing::Level::TRACE) {
        Arc::new(TracedCalls(calls))
    } else {
        calls
    }
}

/// An object's address, 0 for none.
fn address(object: Option<Raw>) -> usize {
    object.map_or(0, |object| object.as_ptr().addr())
}

fn bytes(slices: &[Slice]) -> usize {
    slices.iter().map(|slice| slice.length).sum()
}

/// Tells a call: its name, its code, and what else there is to say.
macro_rules! tell {
    ($name:literal, $code:expr $(, $field:ident = $value:expr)* $(,)?) => {
        tracing::trace!(target: CALLS_TARGET, call = $name, code = $code.0 $(, $field = $value)*)
    };
}

impl Calls for TracedCalls {
    fn init(&self) -> Code {
        let code = self.0.init();
        tell!("init", code);
        code
    }

    fn devices(&self) -> (Code, c_int) {
        let (code, count) = self.0.devices();
        tell!("devices", code, count = count);
        (code, count)
    }

    fn properties(&self, device: c_int) -> (Code, Option<Reported>) {
        let (code, reported) = self.0.properties(device);
        tell!("getProperties", code, device = device);
        (code, reported)
    }

    unsafe fn listen(&self, device: c_int, handle: *mut c_void) -> Made {
        // SAFETY: promised by the caller, in these very words.
        let (code, listener) = unsafe { self.0.listen(device, handle) };
        tell!("listen", code, device = device, listener = address(listener));
        (code, listener)
    }

    unsafe fn connect(&self, device: c_int, handle: *mut c_void) -> Made {
        // SAFETY: as for `listen`.
        let (code, comm) = unsafe { self.0.connect(device, handle) };
        tell!("connect", code, device = device, comm = address(comm));
        (code, comm)
    }

    unsafe fn accept(&self, listener: Raw, device_handle: *mut *mut DeviceHandle) -> Made {
        // SAFETY: as for `listen`.
        let (code, comm) = unsafe { self.0.accept(listener, device_handle) };
        tell!("accept", code, listener = address(Some(listener)), comm = address(comm));
        (code, comm)
    }

    unsafe fn close_listen(&self, listener: Raw) -> Code {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.close_listen(listener) };
        tell!("closeListen", code, listener = address(Some(listener)));
        code
    }

    unsafe fn close(&self, comm: Raw, side: Side) -> Code {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.close(comm, side) };
        match side {
            Side::Send => tell!("closeSend", code, comm = address(Some(comm))),
            Side::Recv => tell!("closeRecv", code, comm = address(Some(comm))),
        }
        code
    }

    fn max_registration(&self) -> usize {
        self.0.max_registration()
    }

    unsafe fn register(&self, comm: Raw, region: Region) -> Made {
        // SAFETY: as for `listen`.
        let (code, registration) = unsafe { self.0.register(comm, region) };
        let (comm, registered) = (address(Some(comm)), address(registration));
        tell!("regMr", code, comm = comm, size = region.length, registration = registered);
        (code, registration)
    }

    unsafe fn deregister(&self, comm: Raw, registration: Raw) -> Code {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.deregister(comm, registration) };
        tell!("deregMr", code, comm = address(Some(comm)), registration = address(Some(registration)));
        code
    }

    unsafe fn isend(&self, comm: Raw, data: *mut c_void, length: usize, registration: Raw) -> Made {
        // SAFETY: as for `listen`.
        let (code, request) = unsafe { self.0.isend(comm, data, length, registration) };
        tell!("isend", code, comm = address(Some(comm)), size = length, request = address(request));
        (code, request)
    }

    unsafe fn irecv(&self, comm: Raw, data: *mut c_void, length: usize, registration: Raw) -> Made {
        // SAFETY: as for `listen`.
        let (code, request) = unsafe { self.0.irecv(comm, data, length, registration) };
        tell!("irecv", code, comm = address(Some(comm)), size = length, request = address(request));
        (code, request)
    }

    unsafe fn test(&self, request: Raw) -> Tested {
        // SAFETY: as for `listen`.
        let tested = unsafe { self.0.test(request) };
        let Tested { code, done, size } = tested;
        tell!("test", code, request = address(Some(request)), done = done, size = size);
        tested
    }

    unsafe fn consumed(&self, comm: Raw, request: Raw) -> Option<Code> {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.consumed(comm, request) }?;
        tell!("irecvConsumed", code, comm = address(Some(comm)), request = address(Some(request)));
        Some(code)
    }

    fn max_slices(&self) -> usize {
        self.0.max_slices()
    }

    unsafe fn isend_slices(&self, comm: Raw, slices: &[Slice]) -> Made {
        // SAFETY: as for `listen`.
        let (code, request) = unsafe { self.0.isend_slices(comm, slices) };
        let (comm, size) = (address(Some(comm)), bytes(slices));
        tell!(
            "isendSlices",
            code,
            comm = comm,
            slices = slices.len(),
            size = size,
            request = address(request)
        );
        (code, request)
    }

    unsafe fn irecv_slices(&self, comm: Raw, slices: &[Slice]) -> Made {
        // SAFETY: as for `listen`.
        let (code, request) = unsafe { self.0.irecv_slices(comm, slices) };
        let (comm, size) = (address(Some(comm)), bytes(slices));
        tell!(
            "irecvSlices",
            code,
            comm = comm,
            slices = slices.len(),
            size = size,
            request = address(request)
        );
        (code, request)
    }

    unsafe fn describe(&self, comm: Raw) -> Option<String> {
        // SAFETY: as for `listen`.
        unsafe { self.0.describe(comm) }
    }

    fn waiter_open(&self) -> Option<(Code, Option<(Raw, RawFd)>)> {
        let opened = self.0.waiter_open()?;
        tell!("waiterOpen", opened.0);
        Some(opened)
    }

    unsafe fn waiter_attach(&self, waiter: Raw, comm: Raw) -> Code {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.waiter_attach(waiter, comm) };
        tell!("waiterAttach", code, comm = address(Some(comm)));
        code
    }

    unsafe fn waiter_arm(&self, waiter: Raw) -> Code {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.waiter_arm(waiter) };
        tell!("waiterArm", code);
        code
    }

    unsafe fn waiter_close(&self, waiter: Raw) -> Code {
        // SAFETY: as for `listen`.
        let code = unsafe { self.0.waiter_close(waiter) };
        tell!("waiterClose", code);
        code
    }
}
