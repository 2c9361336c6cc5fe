//! A plugin of version 7, the only one that Google's has, which writes down what it is asked and answers
//! from a script. Unscripted, everything succeeds at once.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test program uses its part")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it looks for")]

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use tcpx_sys::Table;
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::properties::PropertiesV7;
use tcpx_sys::table::{Logger, NetV7};

type Pointer = *mut c_void;

/// One call, as the plugin saw it. Objects are numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    Init {
        logger: bool,
    },
    Listen {
        thread: ThreadId,
    },
    /// Where the handle lies, and what its bytes 80 to 87 were before the plugin wrote there.
    Connect {
        thread: ThreadId,
        handle: usize,
        private: u64,
    },
    /// Whether the device handle was there and zeroed.
    Accept {
        thread: ThreadId,
        listener: usize,
        zeroed: bool,
    },
    CloseListen {
        listener: usize,
    },
    Register {
        thread: ThreadId,
        comm: usize,
        base: usize,
        size: c_int,
        kind: c_int,
        made: usize,
    },
    Deregister {
        comm: usize,
        registration: usize,
    },
    Post {
        comm: usize,
        n: c_int,
        data: usize,
        size: c_int,
        registration: usize,
        request: usize,
    },
    Test {
        request: usize,
    },
    Consumed {
        comm: usize,
        n: c_int,
        request: usize,
    },
    Close {
        comm: usize,
    },
    Iflush,
}

/// What happened and what shall happen.
#[derive(Debug)]
pub struct Script {
    pub calls: Vec<Call>,
    pub init: c_int,
    /// Code, and whether there is a comm.
    pub connect: VecDeque<(c_int, bool)>,
    pub accept: VecDeque<(c_int, bool)>,
    /// Code, and whether there is a request.
    pub post: VecDeque<(c_int, bool)>,
    /// Code, done, and the size that is written, if any.
    pub test: VecDeque<(c_int, bool, Option<c_int>)>,
    pub consumed: VecDeque<c_int>,
    pub deregister: c_int,
    /// Answers go on like this when a queue is empty.
    pub idle: bool,
    pub device_type: c_int,
    pub ptr_support: c_int,
    objects: usize,
    device_handle: usize,
}

impl Script {
    const fn new() -> Self {
        Self {
            calls: Vec::new(),
            init: 0,
            connect: VecDeque::new(),
            accept: VecDeque::new(),
            post: VecDeque::new(),
            test: VecDeque::new(),
            consumed: VecDeque::new(),
            deregister: 0,
            idle: false,
            device_type: 0,
            ptr_support: 3,
            objects: 0,
            device_handle: 0,
        }
    }

    fn object(&mut self) -> usize {
        self.objects += 1;
        self.objects * 64
    }

    /// Numbers of the requests posted, in order.
    pub fn requests(&self) -> Vec<usize> {
        let request = |call: &Call| match *call {
            Call::Post { request, .. } if request != 0 => Some(request),
            _ => None,
        };
        self.calls.iter().filter_map(request).collect()
    }
}

static SCRIPT: Mutex<Script> = Mutex::new(Script::new());
static SESSION: Mutex<()> = Mutex::new(());

/// The script; do not hold it across a call of the plugin.
pub fn script() -> MutexGuard<'static, Script> {
    SCRIPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One test has the plugin for itself, with an empty script.
pub struct Session(#[allow(dead_code, reason = "held")] MutexGuard<'static, ()>);

pub fn session() -> Session {
    let guard = SESSION.lock().unwrap_or_else(PoisonError::into_inner);
    *script() = Script::new();
    Session(guard)
}

/// Forgets the calls so far, and returns them.
pub fn take_calls() -> Vec<Call> {
    std::mem::take(&mut script().calls)
}

/// The plugin under a name of its own.
pub const fn plugin() -> tcpx_sys::Plugin {
    tcpx_sys::Plugin { table: Table::V7(&SPY), extension: None }
}

/// The plugin under the name of Google's.
pub const fn tcpx() -> tcpx_sys::Plugin {
    tcpx_sys::Plugin { table: Table::V7(&TCPX), extension: None }
}

/// The plugin under a third name, whose `init` is refused by tests.
pub const fn refusing() -> tcpx_sys::Plugin {
    tcpx_sys::Plugin { table: Table::V7(&REFUSING), extension: None }
}

/// The plugin without the entry that ends a test.
pub const fn without_test() -> tcpx_sys::Plugin {
    tcpx_sys::Plugin { table: Table::V7(&WITHOUT_TEST), extension: None }
}

static SPY: NetV7 = table(c"spy".as_ptr());
static TCPX: NetV7 = table(c"GPUDirectTCPX_v7".as_ptr());
static REFUSING: NetV7 = table(c"refusing".as_ptr());
static WITHOUT_TEST: NetV7 = NetV7 { test: None, ..table(c"broken".as_ptr()) };

const fn table(name: *const c_char) -> NetV7 {
    NetV7 {
        name,
        init: Some(init),
        devices: Some(devices),
        get_properties: Some(properties),
        listen: Some(listen),
        connect: Some(connect),
        accept: Some(accept),
        reg_mr: Some(register),
        reg_mr_dma_buf: None,
        dereg_mr: Some(deregister),
        isend: Some(isend),
        irecv: Some(irecv),
        iflush: Some(iflush),
        test: Some(test),
        close_send: Some(close),
        close_recv: Some(close_recv),
        close_listen: Some(close_listen),
        get_device_mr: None,
        irecv_consumed: Some(consumed),
    }
}

/// Writes a value to a place that the caller passes.
///
/// # Safety
///
/// The place is valid for the write.
unsafe fn put<T>(place: *mut T, value: T) {
    // SAFETY: promised by the caller.
    unsafe { place.write(value) };
}

fn pointer(object: usize) -> Pointer {
    ptr::without_provenance_mut(object)
}

unsafe extern "C" fn init(logger: Logger) -> c_int {
    let mut script = script();
    script.calls.push(Call::Init { logger: logger.is_some() });
    script.init
}

unsafe extern "C" fn devices(count: *mut c_int) -> c_int {
    // SAFETY: the caller passes a place for the count.
    unsafe { put(count, 1) };
    0
}

unsafe extern "C" fn properties(device: c_int, properties: *mut PropertiesV7) -> c_int {
    let script = script();
    let value = PropertiesV7 {
        name: c"spy0".as_ptr(),
        pci_path: ptr::null(),
        guid: 0,
        ptr_support: script.ptr_support,
        speed: 200_000,
        port: 0,
        latency: 0.0,
        max_comms: 16,
        max_recvs: 1,
        net_device_type: script.device_type,
        net_device_version: 7,
    };
    // SAFETY: the caller passes a place for the properties of version 7.
    unsafe { put(properties, value) };
    c_int::from(device != 0)
}

unsafe extern "C" fn listen(_: c_int, _: Pointer, listener: *mut Pointer) -> c_int {
    let mut script = script();
    script.calls.push(Call::Listen { thread: thread::current().id() });
    let object = script.object();
    // SAFETY: the caller passes a place for the listener.
    unsafe { put(listener, pointer(object)) };
    0
}

unsafe extern "C" fn connect(
    _: c_int,
    handle: Pointer,
    comm: *mut Pointer,
    _: *mut *mut DeviceHandle,
) -> c_int {
    let mut script = script();
    let place = handle.cast::<u64>().wrapping_add(10);
    // SAFETY: a handle has 128 bytes; an unaligned read does not presume what the test checks.
    let private = unsafe { place.read_unaligned() };
    let thread = thread::current().id();
    script.calls.push(Call::Connect { thread, handle: handle.addr(), private });
    // SAFETY: as above.
    unsafe { place.write_unaligned(private + 1) };
    let (code, ready) = script.connect.pop_front().unwrap_or((0, !script.idle));
    if ready {
        let object = script.object();
        // SAFETY: the caller passes a place for the comm.
        unsafe { put(comm, pointer(object)) };
    }
    code
}

unsafe extern "C" fn accept(
    listener: Pointer,
    comm: *mut Pointer,
    device_handle: *mut *mut DeviceHandle,
) -> c_int {
    let mut script = script();
    // SAFETY: null, or a pointer to a device handle.
    let inner = unsafe { device_handle.as_ref() }.copied().unwrap_or(ptr::null_mut());
    // SAFETY: as above.
    let handle = unsafe { inner.as_ref() };
    let zeroed = handle
        .is_some_and(|h| (h.device_type, h.device_version, h.handle.is_null(), h.size) == (0, 0, true, 0));
    let thread = thread::current().id();
    script.calls.push(Call::Accept { thread, listener: listener.addr(), zeroed });
    let (code, ready) = script.accept.pop_front().unwrap_or((0, !script.idle));
    if ready {
        script.device_handle = inner.expose_provenance();
        let object = script.object();
        // SAFETY: the caller passes a place for the comm.
        unsafe { put(comm, pointer(object)) };
    }
    code
}

unsafe extern "C" fn register(
    comm: Pointer,
    data: Pointer,
    size: c_int,
    kind: c_int,
    registration: *mut Pointer,
) -> c_int {
    let mut script = script();
    let made = script.object();
    let thread = thread::current().id();
    let (comm, base) = (comm.addr(), data.addr());
    script.calls.push(Call::Register { thread, comm, base, size, kind, made });
    // SAFETY: the caller passes a place for the registration.
    unsafe { put(registration, pointer(made)) };
    0
}

unsafe extern "C" fn deregister(comm: Pointer, registration: Pointer) -> c_int {
    let mut script = script();
    script.calls.push(Call::Deregister { comm: comm.addr(), registration: registration.addr() });
    script.deregister
}

fn posted(comm: Pointer, n: c_int, data: Pointer, size: c_int, mh: Pointer, request: *mut Pointer) -> c_int {
    let mut script = script();
    let (code, taken) = script.post.pop_front().unwrap_or((0, true));
    let object = if taken { script.object() } else { 0 };
    let (comm, data, registration) = (comm.addr(), data.addr(), mh.addr());
    script.calls.push(Call::Post { comm, n, data, size, registration, request: object });
    if code == 0 {
        // SAFETY: the caller passes a place for the request.
        unsafe { put(request, pointer(object)) };
    }
    code
}

unsafe extern "C" fn isend(
    comm: Pointer,
    data: Pointer,
    size: c_int,
    _: c_int,
    mh: Pointer,
    request: *mut Pointer,
) -> c_int {
    posted(comm, 1, data, size, mh, request)
}

unsafe extern "C" fn irecv(
    comm: Pointer,
    n: c_int,
    data: *mut Pointer,
    sizes: *mut c_int,
    _: *mut c_int,
    mhandles: *mut Pointer,
    request: *mut Pointer,
) -> c_int {
    // SAFETY: each array has at least one entry.
    let data = unsafe { data.read() };
    // SAFETY: as above.
    let size = unsafe { sizes.read() };
    // SAFETY: as above.
    let mh = unsafe { mhandles.read() };
    posted(comm, n, data, size, mh, request)
}

unsafe extern "C" fn iflush(
    _: Pointer,
    _: c_int,
    _: *mut Pointer,
    _: *mut c_int,
    _: *mut Pointer,
    _: *mut Pointer,
) -> c_int {
    script().calls.push(Call::Iflush);
    3
}

unsafe extern "C" fn test(request: Pointer, done: *mut c_int, size: *mut c_int) -> c_int {
    let mut script = script();
    script.calls.push(Call::Test { request: request.addr() });
    let (code, is_done, written) = script.test.pop_front().unwrap_or((0, !script.idle, None));
    // SAFETY: the caller passes a place for the answer.
    unsafe { put(done, c_int::from(is_done)) };
    if let Some(written) = written {
        // SAFETY: the caller passes a place for the size.
        unsafe { put(size, written) };
    }
    code
}

unsafe extern "C" fn consumed(comm: Pointer, n: c_int, request: Pointer) -> c_int {
    let mut script = script();
    script.calls.push(Call::Consumed { comm: comm.addr(), n, request: request.addr() });
    script.consumed.pop_front().unwrap_or(0)
}

unsafe extern "C" fn close(comm: Pointer) -> c_int {
    script().calls.push(Call::Close { comm: comm.addr() });
    0
}

unsafe extern "C" fn close_recv(comm: Pointer) -> c_int {
    let mut script = script();
    script.calls.push(Call::Close { comm: comm.addr() });
    let handle = ptr::with_exposed_provenance_mut::<DeviceHandle>(std::mem::take(&mut script.device_handle));
    // SAFETY: null, or the device handle given to `accept`, which lives until here.
    if let Some(handle) = unsafe { handle.as_mut() } {
        handle.size = 77;
    }
    0
}

unsafe extern "C" fn close_listen(listener: Pointer) -> c_int {
    script().calls.push(Call::CloseListen { listener: listener.addr() });
    0
}
