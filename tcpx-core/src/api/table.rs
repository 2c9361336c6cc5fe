//! The calls over a plugin's table, versions 7 to 11.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;
use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicPtr, Ordering};

use p2p_memory::MemoryKind;
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::extension::{ExtensionV1, Slice};
use tcpx_sys::properties::{CommConfig, PropertiesV7, PropertiesV8, PropertiesV9, PropertiesV11};
use tcpx_sys::table::{
    Accept, Close, ConnectV7, ConnectV10, ConnectV11, DeregMr, Devices, GetProperties, InitV7, InitV10,
    InitV11, IrecvConsumed, IrecvV7, IrecvV9, IrecvV10, IsendV7, IsendV9, IsendV10, ListenV7, ListenV11,
    RegMrDmaBuf, RegMrV7, RegMrV8, Test,
};
use tcpx_sys::{Code, MAX_NET_SIZE, PTR_CUDA, PTR_HOST, Table, Version, log};

use super::{Calls, Made, Raw, Region, Reported, Side, Tested};

/// A table entry that must not be null is null.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MissingEntry(pub(crate) &'static str);

enum InitCall {
    V7(InitV7),
    V10(InitV10),
    V11(InitV11),
}
enum PropertiesCall {
    V7(GetProperties<PropertiesV7>),
    V8(GetProperties<PropertiesV8>),
    V9(GetProperties<PropertiesV9>),
    V11(GetProperties<PropertiesV11>),
}
enum ListenCall {
    V7(ListenV7),
    V11(ListenV11),
}
enum ConnectCall {
    V7(ConnectV7),
    V10(ConnectV10),
    V11(ConnectV11),
}
enum RegisterCall {
    V7(RegMrV7),
    V8(RegMrV8),
}
enum IsendCall {
    V7(IsendV7),
    V9(IsendV9),
    V10(IsendV10),
}
enum IrecvCall {
    V7(IrecvV7),
    V9(IrecvV9),
    V10(IrecvV10),
}

/// A table whose required entries are all there.
pub(crate) struct TableCalls {
    init: InitCall,
    devices: Devices,
    properties: PropertiesCall,
    listen: ListenCall,
    connect: ConnectCall,
    accept: Accept,
    register: RegisterCall,
    register_dma_buf: Option<RegMrDmaBuf>,
    deregister: DeregMr,
    isend: IsendCall,
    irecv: IrecvCall,
    test: Test,
    consumed: Option<IrecvConsumed>,
    close_send: Close,
    close_recv: Close,
    close_listen: Close,
    extension: Option<&'static ExtensionV1>,
    /// What version 11's `init` made; null before and for other versions. It lives as long as the process.
    context: AtomicPtr<c_void>,
}

/// Takes the entries that have the same type in every version and wraps those that have not.
macro_rules! calls {
    ($table:ident, $extension:ident, $init:ident, $properties:ident, $listen:ident, $connect:ident,
     $register:ident, $isend:ident, $irecv:ident) => {
        TableCalls {
            init: InitCall::$init($table.init.ok_or(MissingEntry("init"))?),
            devices: $table.devices.ok_or(MissingEntry("devices"))?,
            properties: PropertiesCall::$properties(
                $table.get_properties.ok_or(MissingEntry("getProperties"))?,
            ),
            listen: ListenCall::$listen($table.listen.ok_or(MissingEntry("listen"))?),
            connect: ConnectCall::$connect($table.connect.ok_or(MissingEntry("connect"))?),
            accept: $table.accept.ok_or(MissingEntry("accept"))?,
            register: RegisterCall::$register($table.reg_mr.ok_or(MissingEntry("regMr"))?),
            register_dma_buf: $table.reg_mr_dma_buf,
            deregister: $table.dereg_mr.ok_or(MissingEntry("deregMr"))?,
            isend: IsendCall::$isend($table.isend.ok_or(MissingEntry("isend"))?),
            irecv: IrecvCall::$irecv($table.irecv.ok_or(MissingEntry("irecv"))?),
            test: $table.test.ok_or(MissingEntry("test"))?,
            consumed: $table.irecv_consumed,
            close_send: $table.close_send.ok_or(MissingEntry("closeSend"))?,
            close_recv: $table.close_recv.ok_or(MissingEntry("closeRecv"))?,
            close_listen: $table.close_listen.ok_or(MissingEntry("closeListen"))?,
            extension: $extension.filter(|extension| is_usable(extension)),
            context: AtomicPtr::new(ptr::null_mut()),
        }
    };
}

/// A half-filled extension is as good as none.
fn is_usable(extension: &ExtensionV1) -> bool {
    extension.waiter_open.is_some()
        && extension.waiter_attach.is_some()
        && extension.waiter_arm.is_some()
        && extension.waiter_close.is_some()
        && extension.isend_slices.is_some()
        && extension.irecv_slices.is_some()
}

impl TableCalls {
    /// Checks that every entry that is called without asking is there.
    ///
    /// # Errors
    ///
    /// The first entry that is null.
    pub(crate) fn new(plugin: tcpx_sys::Plugin) -> Result<Self, MissingEntry> {
        let extension = plugin.extension;
        Ok(match plugin.table {
            Table::V7(t) => calls!(t, extension, V7, V7, V7, V7, V7, V7, V7),
            Table::V8(t) => calls!(t, extension, V7, V8, V7, V7, V8, V7, V7),
            Table::V9(t) => calls!(t, extension, V7, V9, V7, V7, V8, V9, V9),
            Table::V10(t) => calls!(t, extension, V10, V9, V7, V10, V8, V10, V10),
            Table::V11(t) => calls!(t, extension, V11, V11, V11, V11, V8, V10, V10),
        })
    }

    fn context(&self) -> *mut c_void {
        self.context.load(Ordering::Acquire)
    }
}

/// The name that a table gives its plugin.
pub(crate) fn name_of(table: &Table) -> Option<String> {
    text(table.name_pointer())
}

/// The largest message that calls of this version can carry, in bytes.
pub(crate) const fn max_message_of(_: Version) -> usize {
    // Versions 7 and 8 take `int` sizes, and every version's `test` writes an `int`.
    MAX_NET_SIZE
}

fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, and the interface promises a zero-terminated string for the life of the process.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

fn path(pointer: *const c_char) -> Option<PathBuf> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as in `text`.
    let bytes = unsafe { CStr::from_ptr(pointer) }.to_bytes();
    (!bytes.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(bytes)))
}

/// Copies the fields that every version has; they have the same names in each struct.
macro_rules! reported {
    ($p:expr, $max_bytes:expr) => {{
        let p = $p;
        Reported {
            name: text(p.name),
            pci_path: path(p.pci_path),
            guid: p.guid,
            ptr_support: p.ptr_support,
            speed: p.speed,
            port: p.port,
            latency: p.latency,
            max_comms: p.max_comms,
            max_recvs: p.max_recvs,
            device_type: p.net_device_type,
            device_version: p.net_device_version,
            max_bytes: $max_bytes,
        }
    }};
}

/// Calls `get` with a zeroed struct.
fn properties_of<P>(get: GetProperties<P>, device: c_int) -> (Code, Option<P>) {
    let mut properties = MaybeUninit::<P>::zeroed();
    // SAFETY: `device` is below the plugin's own count, and the struct is the one of the table's version.
    let code = Code(unsafe { get(device, properties.as_mut_ptr()) });
    // SAFETY: plain numbers and pointers, for which zeros are valid where the plugin wrote nothing.
    let properties = unsafe { properties.assume_init() };
    (code, code.is_success().then_some(properties))
}

fn made(code: c_int, object: *mut c_void) -> Made {
    (Code(code), Raw::new(object))
}

impl Calls for TableCalls {
    fn init(&self) -> Code {
        let logger = log::logger();
        match self.init {
            // SAFETY: called once per process (the plugin's owner sees to it) with a logger that is safe
            // from any thread and never unwinds.
            InitCall::V7(init) => Code(unsafe { init(logger) }),
            // SAFETY: as above; the profiler may be null.
            InitCall::V10(init) => Code(unsafe { init(logger, None) }),
            InitCall::V11(init) => {
                let mut context = ptr::null_mut();
                let mut config = CommConfig { traffic_class: -1 };
                // SAFETY: as above; context and config are valid for the call.
                let code = unsafe { init(&raw mut context, 0, &raw mut config, logger, None) };
                self.context.store(context, Ordering::Release);
                Code(code)
            }
        }
    }

    fn devices(&self) -> (Code, c_int) {
        let mut count = 0;
        // SAFETY: the plugin is initialised, and `count` is valid for the call.
        let code = Code(unsafe { (self.devices)(&raw mut count) });
        (code, count)
    }

    fn properties(&self, device: c_int) -> (Code, Option<Reported>) {
        match self.properties {
            PropertiesCall::V7(get) => {
                let (code, p) = properties_of(get, device);
                (code, p.map(|p| reported!(p, None)))
            }
            PropertiesCall::V8(get) => {
                let (code, p) = properties_of(get, device);
                (code, p.map(|p| reported!(p, None)))
            }
            PropertiesCall::V9(get) => {
                let (code, p) = properties_of(get, device);
                (code, p.map(|p| reported!(p, Some(p.max_p2p_bytes))))
            }
            PropertiesCall::V11(get) => {
                let (code, p) = properties_of(get, device);
                (code, p.map(|p| reported!(p.v9, Some(p.v9.max_p2p_bytes))))
            }
        }
    }

    unsafe fn listen(&self, device: c_int, handle: *mut c_void) -> Made {
        let mut listener = ptr::null_mut();
        let code = match self.listen {
            // SAFETY: promised by the caller; the result's place is valid for the call.
            ListenCall::V7(listen) => unsafe { listen(device, handle, &raw mut listener) },
            ListenCall::V11(listen) => {
                let context = self.context();
                // SAFETY: as above; the context is the one that this plugin's `init` made.
                unsafe { listen(context, device, handle, &raw mut listener) }
            }
        };
        made(code, listener)
    }

    unsafe fn connect(&self, device: c_int, handle: *mut c_void) -> Made {
        let mut comm = ptr::null_mut();
        // A sender has no device handle; the plugin takes a pointer to a null one.
        let mut none: *mut DeviceHandle = ptr::null_mut();
        let code = match self.connect {
            // SAFETY: promised by the caller; the other places are valid for the call.
            ConnectCall::V7(connect) => unsafe { connect(device, handle, &raw mut comm, &raw mut none) },
            ConnectCall::V10(connect) => {
                let mut config = CommConfig { traffic_class: -1 };
                // SAFETY: as above; in this version the config lies between device and handle.
                unsafe { connect(device, &raw mut config, handle, &raw mut comm, &raw mut none) }
            }
            ConnectCall::V11(connect) => {
                let context = self.context();
                // SAFETY: as above; in this version the context comes first.
                unsafe { connect(context, device, handle, &raw mut comm, &raw mut none) }
            }
        };
        made(code, comm)
    }

    unsafe fn accept(&self, listener: Raw, device_handle: *mut *mut DeviceHandle) -> Made {
        let mut comm = ptr::null_mut();
        // SAFETY: promised by the caller.
        let code = unsafe { (self.accept)(listener.as_ptr(), &raw mut comm, device_handle) };
        made(code, comm)
    }

    unsafe fn close_listen(&self, listener: Raw) -> Code {
        // SAFETY: promised by the caller.
        Code(unsafe { (self.close_listen)(listener.as_ptr()) })
    }

    unsafe fn close(&self, comm: Raw, side: Side) -> Code {
        let close = match side {
            Side::Send => self.close_send,
            Side::Recv => self.close_recv,
        };
        // SAFETY: promised by the caller.
        Code(unsafe { close(comm.as_ptr()) })
    }

    fn max_registration(&self) -> usize {
        match self.register {
            RegisterCall::V7(_) => c_int::MAX as usize,
            RegisterCall::V8(_) => isize::MAX as usize,
        }
    }

    unsafe fn register(&self, comm: Raw, region: Region) -> Made {
        let (comm, data, length) = (comm.as_ptr(), region.base.as_ptr().cast(), region.length);
        let mut registration = ptr::null_mut();
        let (kind, dmabuf) = match region.kind {
            MemoryKind::Cuda { dmabuf, .. } => (PTR_CUDA, dmabuf),
            MemoryKind::Host | _ => (PTR_HOST, None),
        };
        let code = match (&self.register, self.register_dma_buf, dmabuf) {
            (_, Some(register), Some(file)) => {
                // SAFETY: promised by the caller; the descriptor belongs to the region's owner.
                unsafe { register(comm, data, length, kind, 0, file, &raw mut registration) }
            }
            (RegisterCall::V7(register), ..) => match c_int::try_from(length) {
                // SAFETY: promised by the caller.
                Ok(length) => unsafe { register(comm, data, length, kind, &raw mut registration) },
                Err(_) => Code::INVALID_ARGUMENT.0,
            },
            (RegisterCall::V8(register), ..) => {
                // SAFETY: promised by the caller.
                unsafe { register(comm, data, length, kind, &raw mut registration) }
            }
        };
        made(code, registration)
    }

    unsafe fn deregister(&self, comm: Raw, registration: Raw) -> Code {
        // SAFETY: promised by the caller.
        Code(unsafe { (self.deregister)(comm.as_ptr(), registration.as_ptr()) })
    }

    unsafe fn isend(&self, comm: Raw, data: *mut c_void, length: usize, registration: Raw) -> Made {
        let (comm, registration) = (comm.as_ptr(), registration.as_ptr());
        let mut request = ptr::null_mut();
        let place = &raw mut request;
        let code = match self.isend {
            IsendCall::V7(isend) => match c_int::try_from(length) {
                // SAFETY: promised by the caller. Tags mean nothing.
                Ok(length) => unsafe { isend(comm, data, length, 0, registration, place) },
                Err(_) => Code::INVALID_ARGUMENT.0,
            },
            // SAFETY: as above.
            IsendCall::V9(isend) => unsafe { isend(comm, data, length, 0, registration, place) },
            IsendCall::V10(isend) => {
                // SAFETY: as above; the profiler's handle may be null.
                unsafe { isend(comm, data, length, 0, registration, ptr::null_mut(), place) }
            }
        };
        made(code, request)
    }

    unsafe fn irecv(&self, comm: Raw, data: *mut c_void, length: usize, registration: Raw) -> Made {
        let comm = comm.as_ptr();
        let (mut data, mut registration, mut tag) = (data, registration.as_ptr(), 0);
        let (data, registration, tag) = (&raw mut data, &raw mut registration, &raw mut tag);
        let mut request = ptr::null_mut();
        let place = &raw mut request;
        let mut size = length;
        let code = match self.irecv {
            IrecvCall::V7(irecv) => match c_int::try_from(length) {
                Ok(mut size) => {
                    // SAFETY: promised by the caller; one entry in each array, valid for the call.
                    unsafe { irecv(comm, 1, data, &raw mut size, tag, registration, place) }
                }
                Err(_) => Code::INVALID_ARGUMENT.0,
            },
            IrecvCall::V9(irecv) => {
                // SAFETY: as above.
                unsafe { irecv(comm, 1, data, &raw mut size, tag, registration, place) }
            }
            IrecvCall::V10(irecv) => {
                let mut profiler = ptr::null_mut();
                let profiler = &raw mut profiler;
                // SAFETY: as above; one null profiler handle.
                unsafe { irecv(comm, 1, data, &raw mut size, tag, registration, profiler, place) }
            }
        };
        made(code, request)
    }

    unsafe fn test(&self, request: Raw) -> Tested {
        let mut done = 0;
        let mut size: c_int = -1;
        // SAFETY: promised by the caller.
        let code = unsafe { (self.test)(request.as_ptr(), &raw mut done, &raw mut size) };
        Tested { code: Code(code), done: done != 0, size: usize::try_from(size).ok() }
    }

    unsafe fn consumed(&self, comm: Raw, request: Raw) -> Option<Code> {
        let consumed = self.consumed?;
        // SAFETY: promised by the caller.
        Some(Code(unsafe { consumed(comm.as_ptr(), 1, request.as_ptr()) }))
    }

    fn max_slices(&self) -> usize {
        self.extension.map_or(1, |extension| extension.max_slices.clamp(1, c_int::MAX as usize))
    }

    unsafe fn isend_slices(&self, comm: Raw, slices: &[Slice]) -> Made {
        // SAFETY: promised by the caller.
        unsafe { post_slices(self.extension.and_then(|e| e.isend_slices), comm, slices) }
    }

    unsafe fn irecv_slices(&self, comm: Raw, slices: &[Slice]) -> Made {
        // SAFETY: promised by the caller.
        unsafe { post_slices(self.extension.and_then(|e| e.irecv_slices), comm, slices) }
    }

    unsafe fn describe(&self, comm: Raw) -> Option<String> {
        let describe = self.extension?.describe?;
        let mut line = [0_u8; 512];
        // SAFETY: promised by the caller for `comm`; the buffer is valid for the call.
        let code = unsafe { describe(comm.as_ptr(), line.as_mut_ptr().cast(), line.len()) };
        let line = CStr::from_bytes_until_nul(&line).ok()?;
        (code == 0).then(|| line.to_string_lossy().into_owned())
    }

    fn waiter_open(&self) -> Option<(Code, Option<(Raw, RawFd)>)> {
        let open = self.extension?.waiter_open?;
        let (mut waiter, mut file) = (ptr::null_mut(), -1);
        // SAFETY: both places are valid for the call.
        let code = Code(unsafe { open(&raw mut waiter, &raw mut file) });
        Some((code, Raw::new(waiter).map(|waiter| (waiter, file))))
    }

    unsafe fn waiter_attach(&self, waiter: Raw, comm: Raw) -> Code {
        match self.extension.and_then(|e| e.waiter_attach) {
            // SAFETY: promised by the caller.
            Some(attach) => Code(unsafe { attach(waiter.as_ptr(), comm.as_ptr()) }),
            None => Code::INVALID_USAGE,
        }
    }

    unsafe fn waiter_arm(&self, waiter: Raw) -> Code {
        match self.extension.and_then(|e| e.waiter_arm) {
            // SAFETY: promised by the caller.
            Some(arm) => Code(unsafe { arm(waiter.as_ptr()) }),
            None => Code::INVALID_USAGE,
        }
    }

    unsafe fn waiter_close(&self, waiter: Raw) -> Code {
        match self.extension.and_then(|e| e.waiter_close) {
            // SAFETY: promised by the caller.
            Some(close) => Code(unsafe { close(waiter.as_ptr()) }),
            None => Code::INVALID_USAGE,
        }
    }
}

/// `isend` and `irecv` of several slices have the same form.
type PostSlices = unsafe extern "C" fn(*mut c_void, *const Slice, c_int, *mut *mut c_void) -> c_int;

/// # Safety
///
/// As the calls of [`Calls`].
unsafe fn post_slices(post: Option<PostSlices>, comm: Raw, slices: &[Slice]) -> Made {
    let (Some(post), Ok(count)) = (post, c_int::try_from(slices.len())) else {
        return (Code::INVALID_USAGE, None);
    };
    let mut request = ptr::null_mut();
    // SAFETY: promised by the caller; the list is valid for the call, in which it is copied.
    let code = unsafe { post(comm.as_ptr(), slices.as_ptr(), count, &raw mut request) };
    made(code, request)
}

#[cfg(test)]
mod tests {
    use tcpx_sys::table::{NetV7, NetV8, NetV9, NetV10, NetV11};

    use super::*;

    /// For each version: the soft plugin's table with one entry after the other set to null.
    macro_rules! without_each {
        ($version:ident, $net:ident: $($entry:ident = $name:literal),*) => {{
            let soft = tcpx_soft::plugin_of(Version::$version);
            let Table::$version(whole) = soft.table else { panic!("the version asked for") };
            let missing = |table: $net| {
                let table = Table::$version(Box::leak(Box::new(table)));
                TableCalls::new(tcpx_sys::Plugin { table, extension: None }).err().map(|MissingEntry(name)| name)
            };
            assert_eq!(missing(*whole), None);
            $(assert_eq!(missing($net { $entry: None, ..*whole }), Some($name));)*
            let optional = $net {
                reg_mr_dma_buf: None,
                iflush: None,
                get_device_mr: None,
                irecv_consumed: None,
                ..*whole
            };
            assert_eq!(missing(optional), None);
            assert_eq!(name_of(&soft.table).as_deref(), Some("TCPX_Soft"));
            assert_eq!(name_of(&Table::$version(Box::leak(Box::new($net { name: ptr::null(), ..*whole })))), None);
        }};
        ($version:ident, $net:ident) => {
            without_each!($version, $net: init = "init", devices = "devices", get_properties = "getProperties",
                listen = "listen", connect = "connect", accept = "accept", reg_mr = "regMr",
                dereg_mr = "deregMr", isend = "isend", irecv = "irecv", test = "test",
                close_send = "closeSend", close_recv = "closeRecv", close_listen = "closeListen")
        };
    }

    #[test]
    fn a_null_entry_that_is_needed_is_named_and_others_are_done_without() {
        without_each!(V7, NetV7);
        without_each!(V8, NetV8);
        without_each!(V9, NetV9);
        without_each!(V10, NetV10);
        without_each!(V11, NetV11);
    }

    #[test]
    fn half_an_extension_is_none() {
        let soft = tcpx_soft::plugin();
        let whole = soft.extension.unwrap();
        let slices = |extension| {
            let extension: &'static ExtensionV1 = Box::leak(Box::new(extension));
            let plugin = tcpx_sys::Plugin { extension: Some(extension), ..soft };
            TableCalls::new(plugin).ok().unwrap().max_slices()
        };
        assert_eq!(slices(*whole), whole.max_slices);
        assert_eq!(slices(ExtensionV1 { max_slices: 0, ..*whole }), 1);
        assert_eq!(slices(ExtensionV1 { describe: None, ..*whole }), whole.max_slices);
        assert_eq!(slices(ExtensionV1 { waiter_open: None, ..*whole }), 1);
        assert_eq!(slices(ExtensionV1 { waiter_attach: None, ..*whole }), 1);
        assert_eq!(slices(ExtensionV1 { waiter_arm: None, ..*whole }), 1);
        assert_eq!(slices(ExtensionV1 { waiter_close: None, ..*whole }), 1);
        assert_eq!(slices(ExtensionV1 { isend_slices: None, ..*whole }), 1);
        assert_eq!(slices(ExtensionV1 { irecv_slices: None, ..*whole }), 1);
    }

    #[test]
    fn version_7_takes_int_sizes_and_later_ones_do_not() {
        let max = |version| {
            let calls = TableCalls::new(tcpx_soft::plugin_of(version)).ok().unwrap();
            calls.max_registration()
        };
        assert_eq!(max(Version::V7), i32::MAX as usize);
        for version in [Version::V8, Version::V9, Version::V10, Version::V11] {
            assert!(max(version) > 1 << 40);
        }
    }
}
