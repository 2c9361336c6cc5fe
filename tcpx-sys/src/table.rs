//! The function tables, versions 7 to 11.
//!
//! Every member is an `Option`, because a plugin may leave any of them null. Members that differ
//! between versions:
//!
//! | member | 7 | 8 | 9 | 10 | 11 |
//! |---|---|---|---|---|---|
//! | `init` | log | log | log | log, profiler | context, comm id, config, log, profiler |
//! | `listen` | device first | = | = | = | **context first** |
//! | `connect` | device, handle | = | = | device, **config**, handle | **context**, device, handle |
//! | `reg_mr` size | `int` | `size_t` | = | = | = |
//! | `isend`, `irecv` size | `int` | `int` | `size_t` | = plus profiler handle | = 10 |
//!
//! Versions 10 and 11 pass different things in the same places of `connect`; only the types here keep
//! them apart.

use core::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use core::mem::{offset_of, size_of};

use crate::device::DeviceHandle;
use crate::properties::{
    CommConfig, NetAttributes, PropertiesV7, PropertiesV8, PropertiesV9, PropertiesV10, PropertiesV11,
    VirtualDevices,
};

/// The C-variadic logger: level, subsystem bits, function, line, format, arguments.
pub type Logger = Option<unsafe extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const c_char, ...)>;
/// The profiler callback of versions 10 and 11; may be null.
pub type Profiler =
    Option<unsafe extern "C" fn(*mut *mut c_void, c_int, *mut c_void, i64, *mut c_void) -> c_int>;

/// `init` of versions 7 to 9.
pub type InitV7 = unsafe extern "C" fn(Logger) -> c_int;
/// `init` of version 10.
pub type InitV10 = unsafe extern "C" fn(Logger, Profiler) -> c_int;
/// `init` of version 11.
pub type InitV11 = unsafe extern "C" fn(*mut *mut c_void, u64, *mut CommConfig, Logger, Profiler) -> c_int;
/// `devices`.
pub type Devices = unsafe extern "C" fn(*mut c_int) -> c_int;
/// `getProperties`, generic over the property struct of the version.
pub type GetProperties<P> = unsafe extern "C" fn(c_int, *mut P) -> c_int;
/// `listen` of versions 7 to 10: device, handle, listen comm.
pub type ListenV7 = unsafe extern "C" fn(c_int, *mut c_void, *mut *mut c_void) -> c_int;
/// `listen` of version 11: the context comes first.
pub type ListenV11 = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, *mut *mut c_void) -> c_int;
/// `connect` of versions 7 to 9: device, handle, send comm, device handle.
pub type ConnectV7 =
    unsafe extern "C" fn(c_int, *mut c_void, *mut *mut c_void, *mut *mut DeviceHandle) -> c_int;
/// `connect` of version 10: the config lies between device and handle.
pub type ConnectV10 = unsafe extern "C" fn(
    c_int,
    *mut CommConfig,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut DeviceHandle,
) -> c_int;
/// `connect` of version 11: the context comes first.
pub type ConnectV11 =
    unsafe extern "C" fn(*mut c_void, c_int, *mut c_void, *mut *mut c_void, *mut *mut DeviceHandle) -> c_int;
/// `accept`: listen comm, receive comm, device handle.
pub type Accept = unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut *mut DeviceHandle) -> c_int;
/// `regMr` of version 7: the size is an `int`.
pub type RegMrV7 = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int, c_int, *mut *mut c_void) -> c_int;
/// `regMr` of versions 8 to 11.
pub type RegMrV8 = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int, *mut *mut c_void) -> c_int;
/// `regMrDmaBuf`: comm, data, size, type, offset, file descriptor, memory handle.
pub type RegMrDmaBuf =
    unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int, u64, c_int, *mut *mut c_void) -> c_int;
/// `deregMr`: comm, memory handle.
pub type DeregMr = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
/// `isend` of versions 7 and 8: comm, data, size, tag, memory handle, request.
pub type IsendV7 =
    unsafe extern "C" fn(*mut c_void, *mut c_void, c_int, c_int, *mut c_void, *mut *mut c_void) -> c_int;
/// `isend` of version 9: the size is a `size_t`.
pub type IsendV9 =
    unsafe extern "C" fn(*mut c_void, *mut c_void, usize, c_int, *mut c_void, *mut *mut c_void) -> c_int;
/// `isend` of versions 10 and 11: a profiler handle before the request.
pub type IsendV10 = unsafe extern "C" fn(
    *mut c_void,
    *mut c_void,
    usize,
    c_int,
    *mut c_void,
    *mut c_void,
    *mut *mut c_void,
) -> c_int;
/// `irecv` of versions 7 and 8: comm, n, data, sizes, tags, memory handles, request.
pub type IrecvV7 = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *mut *mut c_void,
    *mut c_int,
    *mut c_int,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
/// `irecv` of version 9: sizes are `size_t`.
pub type IrecvV9 = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *mut *mut c_void,
    *mut usize,
    *mut c_int,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
/// `irecv` of versions 10 and 11: profiler handles before the request.
pub type IrecvV10 = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *mut *mut c_void,
    *mut usize,
    *mut c_int,
    *mut *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
/// `iflush`: comm, n, data, sizes (`int` in every version), memory handles, request.
pub type Iflush = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *mut *mut c_void,
    *mut c_int,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;
/// `test`: request, done, sizes (`int` in every version, may be null).
pub type Test = unsafe extern "C" fn(*mut c_void, *mut c_int, *mut c_int) -> c_int;
/// `closeSend`, `closeRecv`, `closeListen` and `finalize`.
pub type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
/// `getDeviceMr`: comm, memory handle, device pointer.
pub type GetDeviceMr = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut *mut c_void) -> c_int;
/// `irecvConsumed`: receive comm, n, request.
pub type IrecvConsumed = unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int;
/// `makeVDevice` of versions 9 to 11.
pub type MakeVDevice = unsafe extern "C" fn(*mut c_int, *mut VirtualDevices) -> c_int;
/// `setNetAttr` of version 11.
pub type SetNetAttr = unsafe extern "C" fn(*mut c_void, *mut NetAttributes) -> c_int;

/// Declares a table, with `name` first, and asserts its size and the offset of every member.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident, $size:literal, { $($field:ident: $type:ty = $offset:literal,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name {
            /// Name of the plugin; valid for the life of the process.
            pub name: *const c_char,
            $(#[doc = concat!("The member of that name, at offset ", stringify!($offset), ".")]
            pub $field: Option<$type>,)*
        }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(offset_of!($name, name) == 0);
            $(assert!(offset_of!($name, $field) == $offset);)*
        };
        // SAFETY: the table is immutable data: a pointer to a constant string and function pointers.
        unsafe impl Sync for $name {}
        // SAFETY: as above; nothing in it belongs to a thread.
        unsafe impl Send for $name {}
        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field.is_some()))*.finish()
            }
        }
    };
}

table! {
    /// `ncclNet_v7_t`.
    NetV7, 152, {
        init: InitV7 = 8, devices: Devices = 16, get_properties: GetProperties<PropertiesV7> = 24,
        listen: ListenV7 = 32, connect: ConnectV7 = 40, accept: Accept = 48, reg_mr: RegMrV7 = 56,
        reg_mr_dma_buf: RegMrDmaBuf = 64, dereg_mr: DeregMr = 72, isend: IsendV7 = 80, irecv: IrecvV7 = 88,
        iflush: Iflush = 96, test: Test = 104, close_send: Close = 112, close_recv: Close = 120,
        close_listen: Close = 128, get_device_mr: GetDeviceMr = 136, irecv_consumed: IrecvConsumed = 144,
    }
}
table! {
    /// `ncclNet_v8_t`.
    NetV8, 152, {
        init: InitV7 = 8, devices: Devices = 16, get_properties: GetProperties<PropertiesV8> = 24,
        listen: ListenV7 = 32, connect: ConnectV7 = 40, accept: Accept = 48, reg_mr: RegMrV8 = 56,
        reg_mr_dma_buf: RegMrDmaBuf = 64, dereg_mr: DeregMr = 72, isend: IsendV7 = 80, irecv: IrecvV7 = 88,
        iflush: Iflush = 96, test: Test = 104, close_send: Close = 112, close_recv: Close = 120,
        close_listen: Close = 128, get_device_mr: GetDeviceMr = 136, irecv_consumed: IrecvConsumed = 144,
    }
}
table! {
    /// `ncclNet_v9_t`.
    NetV9, 160, {
        init: InitV7 = 8, devices: Devices = 16, get_properties: GetProperties<PropertiesV9> = 24,
        listen: ListenV7 = 32, connect: ConnectV7 = 40, accept: Accept = 48, reg_mr: RegMrV8 = 56,
        reg_mr_dma_buf: RegMrDmaBuf = 64, dereg_mr: DeregMr = 72, isend: IsendV9 = 80, irecv: IrecvV9 = 88,
        iflush: Iflush = 96, test: Test = 104, close_send: Close = 112, close_recv: Close = 120,
        close_listen: Close = 128, get_device_mr: GetDeviceMr = 136, irecv_consumed: IrecvConsumed = 144,
        make_v_device: MakeVDevice = 152,
    }
}
table! {
    /// `ncclNet_v10_t`.
    NetV10, 160, {
        init: InitV10 = 8, devices: Devices = 16, get_properties: GetProperties<PropertiesV10> = 24,
        listen: ListenV7 = 32, connect: ConnectV10 = 40, accept: Accept = 48, reg_mr: RegMrV8 = 56,
        reg_mr_dma_buf: RegMrDmaBuf = 64, dereg_mr: DeregMr = 72, isend: IsendV10 = 80, irecv: IrecvV10 = 88,
        iflush: Iflush = 96, test: Test = 104, close_send: Close = 112, close_recv: Close = 120,
        close_listen: Close = 128, get_device_mr: GetDeviceMr = 136, irecv_consumed: IrecvConsumed = 144,
        make_v_device: MakeVDevice = 152,
    }
}
table! {
    /// `ncclNet_v11_t`.
    NetV11, 176, {
        init: InitV11 = 8, devices: Devices = 16, get_properties: GetProperties<PropertiesV11> = 24,
        listen: ListenV11 = 32, connect: ConnectV11 = 40, accept: Accept = 48, reg_mr: RegMrV8 = 56,
        reg_mr_dma_buf: RegMrDmaBuf = 64, dereg_mr: DeregMr = 72, isend: IsendV10 = 80, irecv: IrecvV10 = 88,
        iflush: Iflush = 96, test: Test = 104, close_send: Close = 112, close_recv: Close = 120,
        close_listen: Close = 128, get_device_mr: GetDeviceMr = 136, irecv_consumed: IrecvConsumed = 144,
        make_v_device: MakeVDevice = 152, finalize: Close = 160, set_net_attr: SetNetAttr = 168,
    }
}

/// A version of the table.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// NCCL 2.19; the only one that Google's TCPX plugin exports.
    V7,
    /// NCCL 2.20 to 2.23.
    V8,
    /// NCCL 2.24 and 2.25.
    V9,
    /// NCCL 2.26 and 2.27.
    V10,
    /// NCCL 2.28 and later.
    V11,
}

impl Version {
    /// Every version, newest first: the order in which a loader looks.
    pub const NEWEST_FIRST: [Self; 5] = [Self::V11, Self::V10, Self::V9, Self::V8, Self::V7];

    /// The exported data symbol.
    pub const fn symbol(self) -> &'static CStr {
        match self {
            Self::V7 => c"ncclNetPlugin_v7",
            Self::V8 => c"ncclNetPlugin_v8",
            Self::V9 => c"ncclNetPlugin_v9",
            Self::V10 => c"ncclNetPlugin_v10",
            Self::V11 => c"ncclNetPlugin_v11",
        }
    }

    /// The version as a number.
    pub const fn number(self) -> u32 {
        match self {
            Self::V7 => 7,
            Self::V8 => 8,
            Self::V9 => 9,
            Self::V10 => 10,
            Self::V11 => 11,
        }
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "v{}", self.number())
    }
}

/// A table of one version, static or in a library that is never unloaded.
#[derive(Clone, Copy, Debug)]
pub enum Table {
    /// Version 7.
    V7(&'static NetV7),
    /// Version 8.
    V8(&'static NetV8),
    /// Version 9.
    V9(&'static NetV9),
    /// Version 10.
    V10(&'static NetV10),
    /// Version 11.
    V11(&'static NetV11),
}

impl Table {
    /// Which version it is.
    pub const fn version(&self) -> Version {
        match self {
            Self::V7(_) => Version::V7,
            Self::V8(_) => Version::V8,
            Self::V9(_) => Version::V9,
            Self::V10(_) => Version::V10,
            Self::V11(_) => Version::V11,
        }
    }

    /// The name member, which may be null.
    pub const fn name_pointer(&self) -> *const c_char {
        match self {
            Self::V7(t) => t.name,
            Self::V8(t) => t.name,
            Self::V9(t) => t.name,
            Self::V10(t) => t.name,
            Self::V11(t) => t.name,
        }
    }
}
