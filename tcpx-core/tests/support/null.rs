//! A plugin that does nothing: every post is taken and done at the first test. It measures what the core
//! itself costs.

use std::ffi::{c_int, c_void};
use std::ptr;

use tcpx_sys::Table;
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::properties::{CommConfig, PropertiesV9, PropertiesV11, VirtualDevices};
use tcpx_sys::table::{Logger, NetV11, Profiler};

/// The table, as a plugin that is linked in.
pub(crate) const fn plugin() -> tcpx_sys::Plugin {
    tcpx_sys::Plugin { table: Table::V11(&TABLE), extension: None }
}

static TABLE: NetV11 = NetV11 {
    name: c"null".as_ptr(),
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
    iflush: None,
    test: Some(test),
    close_send: Some(close),
    close_recv: Some(close),
    close_listen: Some(close),
    get_device_mr: None,
    irecv_consumed: Some(consumed),
    make_v_device: None,
    finalize: None,
    set_net_attr: None,
};

/// An object that is only an address.
const OBJECT: *mut c_void = ptr::without_provenance_mut(64);

unsafe extern "C" fn init(_: *mut *mut c_void, _: u64, _: *mut CommConfig, _: Logger, _: Profiler) -> c_int {
    0
}

unsafe extern "C" fn devices(count: *mut c_int) -> c_int {
    // SAFETY: the caller passes a place for the count.
    unsafe { count.write(1) };
    0
}

unsafe extern "C" fn properties(_: c_int, properties: *mut PropertiesV11) -> c_int {
    let v9 = PropertiesV9 {
        name: c"null0".as_ptr(),
        pci_path: ptr::null(),
        guid: 0,
        ptr_support: 1,
        reg_is_global: 0,
        force_flush: 0,
        speed: 1,
        port: 0,
        latency: 0.0,
        max_comms: 1024,
        max_recvs: 1,
        net_device_type: 0,
        net_device_version: 0,
        virtual_devices: VirtualDevices { ndevs: 1, devs: [0; 4] },
        max_p2p_bytes: 1 << 30,
        max_coll_bytes: 1 << 30,
    };
    // SAFETY: the caller passes a place for the properties of version 11.
    unsafe { properties.write(PropertiesV11 { v9, max_multi_request_size: 1 }) };
    0
}

fn give(place: *mut *mut c_void) -> c_int {
    // SAFETY: the caller of each entry passes a place for the object.
    unsafe { place.write(OBJECT) };
    0
}

unsafe extern "C" fn listen(_: *mut c_void, _: c_int, _: *mut c_void, listener: *mut *mut c_void) -> c_int {
    give(listener)
}

unsafe extern "C" fn connect(
    _: *mut c_void,
    _: c_int,
    _: *mut c_void,
    comm: *mut *mut c_void,
    _: *mut *mut DeviceHandle,
) -> c_int {
    give(comm)
}

unsafe extern "C" fn accept(_: *mut c_void, comm: *mut *mut c_void, _: *mut *mut DeviceHandle) -> c_int {
    give(comm)
}

unsafe extern "C" fn register(
    _: *mut c_void,
    _: *mut c_void,
    _: usize,
    _: c_int,
    registration: *mut *mut c_void,
) -> c_int {
    give(registration)
}

unsafe extern "C" fn deregister(_: *mut c_void, _: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn isend(
    _: *mut c_void,
    _: *mut c_void,
    _: usize,
    _: c_int,
    _: *mut c_void,
    _: *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    give(request)
}

unsafe extern "C" fn irecv(
    _: *mut c_void,
    _: c_int,
    _: *mut *mut c_void,
    _: *mut usize,
    _: *mut c_int,
    _: *mut *mut c_void,
    _: *mut *mut c_void,
    request: *mut *mut c_void,
) -> c_int {
    give(request)
}

unsafe extern "C" fn test(_: *mut c_void, done: *mut c_int, _: *mut c_int) -> c_int {
    // SAFETY: the caller passes a place for the answer.
    unsafe { done.write(1) };
    0
}

unsafe extern "C" fn consumed(_: *mut c_void, _: c_int, _: *mut c_void) -> c_int {
    0
}

unsafe extern "C" fn close(_: *mut c_void) -> c_int {
    0
}
