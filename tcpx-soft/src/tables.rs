//! The exported tables, one per version, and the extension table.

use core::ffi::{c_int, c_void};
use core::ptr::null;

use tcpx_sys::device::{DEVICE_HOST, DEVICE_UNPACK, DEVICE_VERSION_NONE, DeviceHandle, UNPACK_VERSION};
use tcpx_sys::extension::ExtensionV1;
use tcpx_sys::properties::{
    CommConfig, PropertiesV7, PropertiesV8, PropertiesV9, PropertiesV11, VirtualDevices,
};
use tcpx_sys::table::{Logger, NetV7, NetV8, NetV9, NetV10, NetV11, Profiler, Table};
use tcpx_sys::{Code, MAX_NET_SIZE, PTR_CUDA, PTR_HOST, Plugin, Version};

use crate::comm::MAX_SLICES;
use crate::export::{self, guard};
use crate::failure::Failure;
use crate::interface::Nic;
use crate::runtime::Runtime;
use crate::settings::Mode;

/// Comms a device can hold, as the real plugin says.
const MAX_COMMS: c_int = 65536;

/// The newest table and the extension, without any dynamic loading.
pub fn plugin() -> Plugin {
    plugin_of(Version::V11)
}

/// The table of one version and the extension.
pub fn plugin_of(version: Version) -> Plugin {
    let table = match version {
        Version::V7 => Table::V7(&TABLE_V7),
        Version::V8 => Table::V8(&TABLE_V8),
        Version::V9 => Table::V9(&TABLE_V9),
        Version::V10 => Table::V10(&TABLE_V10),
        Version::V11 => Table::V11(&TABLE_V11),
    };
    Plugin { table, extension: Some(&EXTENSION) }
}

const NAME: &core::ffi::CStr = c"TCPX_Soft";

/// Fields that every version reports, in the words of version 9.
fn facts(nic: &Nic, device: c_int) -> PropertiesV9 {
    let mode = Runtime::current().map_or(Mode::Host, |runtime| runtime.settings.mode);
    let (ptr_support, net_device_type, net_device_version) = match mode {
        Mode::Host => (PTR_HOST, DEVICE_HOST, DEVICE_VERSION_NONE),
        Mode::Unpack => (PTR_HOST | PTR_CUDA, DEVICE_UNPACK, UNPACK_VERSION),
    };
    PropertiesV9 {
        name: nic.name.as_ptr(),
        pci_path: nic.pci_path.as_ref().map_or(null(), |path| path.as_ptr()),
        guid: device as u64,
        ptr_support,
        reg_is_global: 0,
        force_flush: 0,
        speed: nic.speed,
        port: 0,
        latency: 0.0,
        max_comms: MAX_COMMS,
        max_recvs: 1,
        net_device_type,
        net_device_version,
        virtual_devices: VirtualDevices { ndevs: 1, devs: [device, 0, 0, 0] },
        max_p2p_bytes: MAX_NET_SIZE,
        max_coll_bytes: MAX_NET_SIZE,
    }
}

fn facts_v7(nic: &Nic, device: c_int) -> PropertiesV7 {
    let f = facts(nic, device);
    PropertiesV7 {
        name: f.name,
        pci_path: f.pci_path,
        guid: f.guid,
        ptr_support: f.ptr_support,
        speed: f.speed,
        port: f.port,
        latency: f.latency,
        max_comms: f.max_comms,
        max_recvs: f.max_recvs,
        net_device_type: f.net_device_type,
        net_device_version: f.net_device_version,
    }
}

fn facts_v8(nic: &Nic, device: c_int) -> PropertiesV8 {
    let f = facts(nic, device);
    PropertiesV8 {
        name: f.name,
        pci_path: f.pci_path,
        guid: f.guid,
        ptr_support: f.ptr_support,
        reg_is_global: f.reg_is_global,
        speed: f.speed,
        port: f.port,
        latency: f.latency,
        max_comms: f.max_comms,
        max_recvs: f.max_recvs,
        net_device_type: f.net_device_type,
        net_device_version: f.net_device_version,
    }
}

fn facts_v11(nic: &Nic, device: c_int) -> PropertiesV11 {
    PropertiesV11 { v9: facts(nic, device), max_multi_request_size: 1 }
}

unsafe extern "C" fn properties_v7(device: c_int, out: *mut PropertiesV7) -> c_int {
    // SAFETY: passed on.
    unsafe { export::properties(device, out, facts_v7) }
}
unsafe extern "C" fn properties_v8(device: c_int, out: *mut PropertiesV8) -> c_int {
    // SAFETY: passed on.
    unsafe { export::properties(device, out, facts_v8) }
}
unsafe extern "C" fn properties_v9(device: c_int, out: *mut PropertiesV9) -> c_int {
    // SAFETY: passed on.
    unsafe { export::properties(device, out, facts) }
}
unsafe extern "C" fn properties_v11(device: c_int, out: *mut PropertiesV11) -> c_int {
    // SAFETY: passed on.
    unsafe { export::properties(device, out, facts_v11) }
}

unsafe extern "C" fn init_v7(logger: Logger) -> c_int {
    export::init(logger)
}
unsafe extern "C" fn init_v10(logger: Logger, _profiler: Profiler) -> c_int {
    export::init(logger)
}
/// Called once per communicator: the first call begins, later ones only hand out a context.
unsafe extern "C" fn init_v11(
    context: *mut *mut c_void,
    _comm_id: u64,
    _config: *mut CommConfig,
    logger: Logger,
    _profiler: Profiler,
) -> c_int {
    let code = if Runtime::current().is_ok() { Code::SUCCESS.0 } else { export::init(logger) };
    if code != 0 {
        return code;
    }
    guard("init", || {
        if context.is_null() {
            return Err(Failure::rule("no place for the context"));
        }
        // SAFETY: not null; an out-pointer of the interface. A context holds nothing; any non-null value
        // tells it from none.
        unsafe { context.write((&raw const EXTENSION).cast_mut().cast()) };
        Ok(())
    })
}

unsafe extern "C" fn listen_v11(
    _context: *mut c_void,
    device: c_int,
    handle: *mut c_void,
    comm: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    unsafe { export::listen(device, handle, comm) }
}
unsafe extern "C" fn connect_v10(
    device: c_int,
    _config: *mut CommConfig,
    handle: *mut c_void,
    comm: *mut *mut c_void,
    device_handle: *mut *mut DeviceHandle,
) -> c_int {
    // SAFETY: passed on.
    unsafe { export::connect(device, handle, comm, device_handle) }
}
unsafe extern "C" fn connect_v11(
    _context: *mut c_void,
    device: c_int,
    handle: *mut c_void,
    comm: *mut *mut c_void,
    device_handle: *mut *mut DeviceHandle,
) -> c_int {
    // SAFETY: passed on.
    unsafe { export::connect(device, handle, comm, device_handle) }
}

unsafe extern "C" fn isend_v7(
    comm: *mut c_void,
    data: *mut c_void,
    size: c_int,
    _tag: c_int,
    handle: *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    match usize::try_from(size) {
        // SAFETY: passed on.
        Ok(size) => unsafe { export::isend(comm, data, size, handle, request) },
        Err(_) => guard("isend", || Err(Failure::rule(format!("a size of {size}")))),
    }
}
unsafe extern "C" fn isend_v9(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    _tag: c_int,
    handle: *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    unsafe { export::isend(comm, data, size, handle, request) }
}
unsafe extern "C" fn isend_v10(
    comm: *mut c_void,
    data: *mut c_void,
    size: usize,
    _tag: c_int,
    handle: *mut c_void,
    _profiler: *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    unsafe { export::isend(comm, data, size, handle, request) }
}

unsafe extern "C" fn irecv_v7(
    comm: *mut c_void,
    n: c_int,
    data: *mut *mut c_void,
    sizes: *mut c_int,
    _tags: *mut c_int,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    let size = match sizes.is_null() {
        true => None,
        // SAFETY: not null; an array of at least one by the interface.
        false => usize::try_from(unsafe { *sizes }).ok(),
    };
    // SAFETY: passed on.
    unsafe { export::irecv(comm, n, data, size, handles, request) }
}
unsafe extern "C" fn irecv_v9(
    comm: *mut c_void,
    n: c_int,
    data: *mut *mut c_void,
    sizes: *mut usize,
    _tags: *mut c_int,
    handles: *mut *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    let size = match sizes.is_null() {
        true => None,
        // SAFETY: not null; an array of at least one by the interface.
        false => Some(unsafe { *sizes }),
    };
    // SAFETY: passed on.
    unsafe { export::irecv(comm, n, data, size, handles, request) }
}
unsafe extern "C" fn irecv_v10(
    comm: *mut c_void,
    n: c_int,
    data: *mut *mut c_void,
    sizes: *mut usize,
    tags: *mut c_int,
    handles: *mut *mut c_void,
    _profilers: *mut *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    // SAFETY: passed on.
    unsafe { irecv_v9(comm, n, data, sizes, tags, handles, request) }
}

unsafe extern "C" fn finalize(_context: *mut c_void) -> c_int {
    // Lanes stay: the library is never unmapped, and an idle lane costs nothing.
    Code::SUCCESS.0
}

/// One static per version; what all versions share is written once.
macro_rules! table {
    ($name:ident: $type:ident = $symbol:literal { $($field:ident: $value:expr,)* }) => {
        #[doc = concat!("The table `", $symbol, "`.")]
        #[unsafe(export_name = $symbol)]
        static $name: $type = $type {
            name: NAME.as_ptr(),
            devices: Some(export::devices),
            accept: Some(export::accept),
            reg_mr_dma_buf: None,
            dereg_mr: Some(export::dereg_mr),
            iflush: Some(export::iflush),
            test: Some(export::test),
            close_send: Some(export::close_comm),
            close_recv: Some(export::close_comm),
            close_listen: Some(export::close_listen),
            get_device_mr: Some(export::get_device_mr),
            irecv_consumed: Some(export::irecv_consumed),
            $($field: $value,)*
        };
    };
}

table!(TABLE_V7: NetV7 = "ncclNetPlugin_v7" {
    init: Some(init_v7), get_properties: Some(properties_v7), listen: Some(export::listen),
    connect: Some(export::connect), reg_mr: Some(export::reg_mr_v7), isend: Some(isend_v7), irecv: Some(irecv_v7),
});
table!(TABLE_V8: NetV8 = "ncclNetPlugin_v8" {
    init: Some(init_v7), get_properties: Some(properties_v8), listen: Some(export::listen),
    connect: Some(export::connect), reg_mr: Some(export::reg_mr), isend: Some(isend_v7), irecv: Some(irecv_v7),
});
table!(TABLE_V9: NetV9 = "ncclNetPlugin_v9" {
    init: Some(init_v7), get_properties: Some(properties_v9), listen: Some(export::listen),
    connect: Some(export::connect), reg_mr: Some(export::reg_mr), isend: Some(isend_v9), irecv: Some(irecv_v9),
    make_v_device: None,
});
table!(TABLE_V10: NetV10 = "ncclNetPlugin_v10" {
    init: Some(init_v10), get_properties: Some(properties_v9), listen: Some(export::listen),
    connect: Some(connect_v10), reg_mr: Some(export::reg_mr), isend: Some(isend_v10), irecv: Some(irecv_v10),
    make_v_device: None,
});
table!(TABLE_V11: NetV11 = "ncclNetPlugin_v11" {
    init: Some(init_v11), get_properties: Some(properties_v11), listen: Some(listen_v11),
    connect: Some(connect_v11), reg_mr: Some(export::reg_mr), isend: Some(isend_v10), irecv: Some(irecv_v10),
    make_v_device: None, finalize: Some(finalize), set_net_attr: None,
});

/// The extension table.
#[unsafe(export_name = "tcpxSoftExtension_v1")]
static EXTENSION: ExtensionV1 = ExtensionV1 {
    size: size_of::<ExtensionV1>(),
    max_slices: MAX_SLICES,
    waiter_open: Some(export::waiter_open),
    waiter_attach: Some(export::waiter_attach),
    waiter_arm: Some(export::waiter_arm),
    waiter_close: Some(export::waiter_close),
    isend_slices: Some(export::isend_slices),
    irecv_slices: Some(export::irecv_slices),
    describe: Some(export::describe),
};
