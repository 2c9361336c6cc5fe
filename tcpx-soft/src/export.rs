//! The functions behind the tables, in the shape that all versions share.
//!
//! Each checks its pointers, turns a failure into its result code and one line of log, and lets no panic
//! out.

use core::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;

use tcpx_sys::device::DeviceHandle;
use tcpx_sys::extension::Slice;
use tcpx_sys::table::Logger;
use tcpx_sys::{Code, HANDLE_BYTES};

use crate::comm::{Comm, Side, as_request};
use crate::connect;
use crate::failure::Failure;
use crate::interface::Nic;
use crate::listen::Listener;
use crate::log;
use crate::registration::Registration;
use crate::request::Request;
use crate::runtime::Runtime;
use crate::waiter::Waiter;

/// Runs the body of an exported function.
pub(crate) fn guard(during: &str, body: impl FnOnce() -> Result<(), Failure>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Code::SUCCESS.0,
        Ok(Err(failure)) => {
            log::warn(&format!("{during}: {}", failure.text));
            failure.code.0
        }
        Err(_) => {
            log::warn(&format!("{during}: a bug in the soft plugin (panic); the call failed"));
            Code::INTERNAL_ERROR.0
        }
    }
}

/// Writes through an out-pointer of the caller.
///
/// # Safety
///
/// `out` must be null or writable.
unsafe fn put<T>(out: *mut T, value: T, what: &str) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::rule(format!("no place for {what}")));
    }
    // SAFETY: not null; writable by the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

pub(crate) fn init(logger: Logger) -> c_int {
    log::set(logger);
    guard("init", Runtime::init)
}

pub(crate) unsafe extern "C" fn devices(count: *mut c_int) -> c_int {
    guard("devices", || {
        let n = Runtime::current()?.nics.len() as c_int;
        // SAFETY: an out-pointer of the interface.
        unsafe { put(count, n, "the number of devices") }
    })
}

/// Calls `fill` with the device, whose strings live as long as the process.
///
/// # Safety
///
/// `out` must be null or writable.
pub(crate) unsafe fn properties<P>(device: c_int, out: *mut P, fill: fn(&Nic, c_int) -> P) -> c_int {
    guard("getProperties", || {
        let runtime = Runtime::current()?;
        let (_, nic) = runtime.nic(device)?;
        let filled = fill(nic, device);
        // The caller keeps pointers to the strings.
        std::mem::forget(runtime.clone());
        // SAFETY: passed on from the caller.
        unsafe { put(out, filled, "the properties") }
    })
}

pub(crate) unsafe extern "C" fn listen(device: c_int, handle: *mut c_void, comm: *mut *mut c_void) -> c_int {
    guard("listen", || {
        let (listener, bytes) = Listener::open(&Runtime::current()?, device)?;
        // SAFETY: the interface gives 128 writable bytes of no particular alignment.
        unsafe { put(handle.cast::<[u8; HANDLE_BYTES]>(), bytes, "the handle") }?;
        // SAFETY: an out-pointer of the interface.
        unsafe { put(comm, Box::into_raw(listener).cast(), "the listen comm") }
    })
}

pub(crate) unsafe extern "C" fn connect(
    device: c_int,
    handle: *mut c_void,
    comm: *mut *mut c_void,
    _device_handle: *mut *mut DeviceHandle,
) -> c_int {
    guard("connect", || {
        // SAFETY: an out-pointer of the interface.
        unsafe { put(comm, null_mut(), "the send comm") }?;
        if handle.is_null() {
            return Err(Failure::rule("no handle"));
        }
        // SAFETY: not null; the interface gives 128 readable and writable bytes, private to the attempt,
        // and a byte array needs no alignment.
        let handle = unsafe { &mut *handle.cast::<[u8; HANDLE_BYTES]>() };
        match connect::connect(&Runtime::current()?, device, handle)? {
            None => Ok(()),
            // SAFETY: as above.
            Some(ready) => unsafe { put(comm, ready.into_pointer(), "the send comm") },
        }
    })
}

pub(crate) unsafe extern "C" fn accept(
    listener: *mut c_void,
    comm: *mut *mut c_void,
    device_handle: *mut *mut DeviceHandle,
) -> c_int {
    guard("accept", || {
        // SAFETY: an out-pointer of the interface.
        unsafe { put(comm, null_mut(), "the receive comm") }?;
        if listener.is_null() {
            return Err(Failure::rule("no listen comm"));
        }
        // SAFETY: not null; a live listen comm by the interface, used by one thread.
        let listener = unsafe { &mut *listener.cast::<Listener>() };
        let Some(mut ready) = listener.accept()? else { return Ok(()) };
        let inner = match device_handle.is_null() {
            true => null_mut(),
            // SAFETY: not null; a pointer to a pointer by the interface.
            false => unsafe { *device_handle },
        };
        let filled = match inner.is_null() {
            true => None,
            // SAFETY: not null; a writable device handle by the interface.
            false => Some(unsafe { &mut *inner }),
        };
        ready.give_device(filled);
        // SAFETY: as above.
        unsafe { put(comm, ready.into_pointer(), "the receive comm") }
    })
}

pub(crate) unsafe extern "C" fn reg_mr(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    kind: c_int,
    handle: *mut *mut c_void,
) -> c_int {
    guard("regMr", || {
        if comm.is_null() {
            return Err(Failure::rule("a call on a comm that is null"));
        }
        // Registration may run beside the data path of the comm, so the comm itself is not touched.
        let registered = Registration::register(data, size, kind, &Runtime::current()?.settings)?;
        // SAFETY: an out-pointer of the interface.
        unsafe { put(handle, registered, "the memory handle") }
    })
}

pub(crate) unsafe extern "C" fn reg_mr_v7(
    comm: *mut c_void,
    data: *mut c_void,
    size: c_int,
    kind: c_int,
    handle: *mut *mut c_void,
) -> c_int {
    match usize::try_from(size) {
        // SAFETY: passed on.
        Ok(size) => unsafe { reg_mr(comm, data, size, kind, handle) },
        Err(_) => guard("regMr", || Err(Failure::rule(format!("a size of {size}")))),
    }
}

pub(crate) unsafe extern "C" fn dereg_mr(_comm: *mut c_void, handle: *mut c_void) -> c_int {
    guard("deregMr", || {
        // SAFETY: null or a live handle by the interface.
        unsafe { Registration::deregister(handle) };
        Ok(())
    })
}

pub(crate) unsafe fn isend(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    handle: *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    guard("isend", || {
        // SAFETY: a send comm of this plugin by the interface, used by this thread.
        let comm = unsafe { Comm::from_pointer(comm) }?;
        if comm.receives() {
            return Err(Failure::rule("isend on a receive comm"));
        }
        // SAFETY: the caller keeps the memory valid until the request is done.
        let posted = unsafe { comm.post(data, size, handle) }?;
        // SAFETY: an out-pointer of the interface; whatever hint lies there is overwritten.
        unsafe { put(request, as_request(posted), "the request") }
    })
}

pub(crate) unsafe fn irecv(
    comm: *mut c_void,
    n: c_int,
    data: *mut *mut c_void,
    size: Option<usize>,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    guard("irecv", || {
        // SAFETY: a receive comm of this plugin by the interface, used by this thread.
        let comm = unsafe { Comm::from_pointer(comm) }?;
        if n != 1 || data.is_null() || handles.is_null() {
            return Err(Failure::rule(format!("irecv of {n} buffers; this plugin takes exactly one")));
        }
        let Some(size) = size else { return Err(Failure::rule("irecv without a size")) };
        comm.check_receives()?;
        // SAFETY: not null, and `n` is 1.
        let data = unsafe { *data };
        // SAFETY: as above.
        let handle = unsafe { *handles };
        // SAFETY: the caller keeps the memory valid until the request is done.
        let posted = unsafe { comm.post(data, size, handle) }?;
        // SAFETY: an out-pointer of the interface; whatever hint lies there is overwritten.
        unsafe { put(request, as_request(posted), "the request") }
    })
}

pub(crate) unsafe extern "C" fn iflush(
    _comm: *mut c_void,
    _n: c_int,
    _data: *mut *mut c_void,
    _sizes: *mut c_int,
    _handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    // Received bytes are visible once the receive is done: nothing to flush, and no request says so.
    // SAFETY: an out-pointer of the interface.
    guard("iflush", || unsafe { put(request, null_mut(), "the request") })
}

pub(crate) unsafe extern "C" fn test(request: *mut c_void, done: *mut c_int, sizes: *mut c_int) -> c_int {
    guard("test", || {
        // SAFETY: an out-pointer of the interface.
        unsafe { put(done, 0, "the answer") }?;
        if request.is_null() {
            return Err(Failure::rule("no request"));
        }
        let request = request.cast::<Request>();
        // SAFETY: not null; a request of a live comm by the interface.
        let comm = unsafe { (*request).comm };
        // SAFETY: as above.
        let sequence = unsafe { (*request).sequence };
        // SAFETY: the comm of a live request, used by this thread.
        let comm = unsafe { Comm::from_pointer(comm.cast()) }?;
        let Some(size) = comm.test(sequence)? else { return Ok(()) };
        if !sizes.is_null() && !comm.runtime.settings.strict {
            // SAFETY: not null; an array of at least one by the interface.
            unsafe { sizes.write(c_int::try_from(size).unwrap_or(c_int::MAX)) };
        }
        // SAFETY: as above.
        unsafe { put(done, 1, "the answer") }
    })
}

pub(crate) unsafe extern "C" fn irecv_consumed(comm: *mut c_void, n: c_int, request: *mut c_void) -> c_int {
    guard("irecvConsumed", || {
        // SAFETY: a receive comm of this plugin by the interface, used by this thread.
        let comm = unsafe { Comm::from_pointer(comm) }?;
        if n != 1 || request.is_null() {
            return Err(Failure::rule(format!("irecvConsumed of {n} requests at {request:p}")));
        }
        if !comm.receives() {
            log::warn("irecvConsumed on a send comm does nothing");
            return Ok(());
        }
        // SAFETY: not null; a request of this comm by the interface.
        let sequence = unsafe { (*request.cast::<Request>()).sequence };
        comm.consumed(sequence)
    })
}

pub(crate) unsafe extern "C" fn close_comm(comm: *mut c_void) -> c_int {
    guard("close", || {
        if comm.is_null() {
            return Ok(());
        }
        // SAFETY: a live comm by the interface; the check looks for its mark.
        unsafe { Comm::from_pointer(comm) }?;
        // SAFETY: it came from `into_pointer` in `connect` or `accept`, and the caller gives it up.
        unsafe { Box::from_raw(comm.cast::<Comm>()) }.close()
    })
}

pub(crate) unsafe extern "C" fn close_listen(listener: *mut c_void) -> c_int {
    guard("closeListen", || {
        if !listener.is_null() {
            // SAFETY: it came from `Box::into_raw` in `listen`, and the caller gives it up.
            drop(unsafe { Box::from_raw(listener.cast::<Listener>()) });
        }
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn get_device_mr(
    _comm: *mut c_void,
    _handle: *mut c_void,
    pointer: *mut *mut c_void,
) -> c_int {
    // SAFETY: an out-pointer of the interface.
    guard("getDeviceMr", || unsafe { put(pointer, null_mut(), "the device pointer") })
}

pub(crate) unsafe extern "C" fn waiter_open(waiter: *mut *mut c_void, fd: *mut c_int) -> c_int {
    guard("waiter_open", || {
        let open = Waiter::open().map_err(|error| Failure::system("making a waiter", error))?;
        // SAFETY: an out-pointer of the interface.
        unsafe { put(fd, open.descriptor(), "the descriptor") }?;
        // SAFETY: as above.
        unsafe { put(waiter, Arc::into_raw(open).cast_mut().cast(), "the waiter") }
    })
}

/// # Safety
///
/// `waiter` must be null or a live waiter.
unsafe fn waiter_of(waiter: *mut c_void) -> Result<std::mem::ManuallyDrop<Arc<Waiter>>, Failure> {
    if waiter.is_null() {
        return Err(Failure::rule("no waiter"));
    }
    // SAFETY: it came from `Arc::into_raw` in `waiter_open` and was not closed; the reference counted here
    // is the caller's, so it is not dropped.
    Ok(std::mem::ManuallyDrop::new(unsafe { Arc::from_raw(waiter.cast::<Waiter>()) }))
}

pub(crate) unsafe extern "C" fn waiter_attach(waiter: *mut c_void, comm: *mut c_void) -> c_int {
    guard("waiter_attach", || {
        // SAFETY: a live waiter by the interface.
        let waiter = unsafe { waiter_of(waiter) }?;
        // SAFETY: a live comm by the interface, used by this thread.
        unsafe { Comm::from_pointer(comm) }?.attach(&waiter)
    })
}

pub(crate) unsafe extern "C" fn waiter_arm(waiter: *mut c_void) -> c_int {
    guard("waiter_arm", || {
        // SAFETY: a live waiter by the interface.
        let waiter = unsafe { waiter_of(waiter) }?;
        waiter.arm().map_err(|error| Failure::system("arming a waiter", error))
    })
}

pub(crate) unsafe extern "C" fn waiter_close(waiter: *mut c_void) -> c_int {
    guard("waiter_close", || {
        // SAFETY: a live waiter by the interface, given up by the caller.
        drop(std::mem::ManuallyDrop::into_inner(unsafe { waiter_of(waiter) }?));
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn isend_slices(
    comm: *mut c_void,
    slices: *const Slice,
    n: c_int,
    request: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    guard("isend_slices", || unsafe { post_slices(comm, slices, n, request, false) })
}

pub(crate) unsafe extern "C" fn irecv_slices(
    comm: *mut c_void,
    slices: *const Slice,
    n: c_int,
    request: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    guard("irecv_slices", || unsafe { post_slices(comm, slices, n, request, true) })
}

/// # Safety
///
/// As the interface says of `isend_slices`.
unsafe fn post_slices(
    comm: *mut c_void,
    slices: *const Slice,
    n: c_int,
    request: *mut *mut c_void,
    receives: bool,
) -> Result<(), Failure> {
    // SAFETY: a comm of this plugin by the interface, used by this thread.
    let comm = unsafe { Comm::from_pointer(comm) }?;
    let count = usize::try_from(n).ok().filter(|&count| count > 0 && !slices.is_null());
    let Some(count) = count else { return Err(Failure::rule(format!("{n} slices at {slices:p}"))) };
    if comm.receives() != receives {
        return Err(Failure::rule("slices posted in the wrong direction"));
    }
    // SAFETY: not null; `n` slices by the interface.
    let slices = unsafe { core::slice::from_raw_parts(slices, count) };
    // SAFETY: the caller keeps their memory valid until the request is done.
    let posted = unsafe { comm.post_slices(slices) }?;
    // SAFETY: an out-pointer of the interface.
    unsafe { put(request, as_request(posted), "the request") }
}

pub(crate) unsafe extern "C" fn describe(comm: *mut c_void, buffer: *mut c_char, capacity: usize) -> c_int {
    guard("describe", || {
        // SAFETY: a live comm by the interface, used by this thread.
        let text = unsafe { Comm::from_pointer(comm) }?.describe();
        let Some(room) = capacity.checked_sub(1).filter(|_| !buffer.is_null()) else {
            return Err(Failure::rule("no place for the description"));
        };
        let length = text.len().min(room);
        // SAFETY: `length < capacity` bytes of the caller's buffer; the text is ours.
        unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), length) };
        let end = buffer.wrapping_add(length);
        // SAFETY: `length <= capacity - 1`, so the end is a byte of the caller's buffer.
        unsafe { end.write(0) };
        Ok(())
    })
}

impl Comm {
    /// Fills the caller's device handle, and remembers whether there was one.
    fn give_device(&mut self, handle: Option<&mut DeviceHandle>) {
        let Side::Receive(side) = &mut self.side else { return };
        match (handle, side.bounce()) {
            (Some(handle), Some(bounce)) => bounce.describe(handle),
            (Some(handle), None) => handle.needs_proxy_progress = 1,
            (None, _) => side.without_device(),
        }
    }

    fn check_receives(&mut self) -> Result<(), Failure> {
        let (strict, unpacks) =
            (self.runtime.settings.strict, self.runtime.settings.mode == crate::settings::Mode::Unpack);
        match &mut self.side {
            Side::Send(_) => Err(Failure::rule("irecv on a send comm")),
            Side::Receive(side) if side.lacks_device() && (strict || unpacks) => {
                Err(Failure::rule("irecv on a comm that was accepted without a device handle"))
            }
            Side::Receive(_) => Ok(()),
        }
    }
}
