//! Net device handles and the UNPACK structures that NCCL publishes.

use core::ffi::{c_int, c_void};
use core::mem::{offset_of, size_of};

/// Net device type: the plugin writes straight into the posted buffer.
pub const DEVICE_HOST: c_int = 0;
/// Net device type: data lands in bounce pages and a scatter list tells where it belongs.
pub const DEVICE_UNPACK: c_int = 1;
/// Device version of a plugin without a device side.
pub const DEVICE_VERSION_NONE: c_int = 0;
/// The only published version of the UNPACK structures, NCCL 2.19 to 2.30.
pub const UNPACK_VERSION: c_int = 0x7;

/// Receives one comm can hold; the k-th receive uses slot `k % UNPACK_SLOTS`.
pub const UNPACK_SLOTS: usize = 16;
/// Bytes of one bounce page.
pub const UNPACK_PAGE: usize = 4096;
/// Largest message that can be described by one slot, in bytes.
pub const UNPACK_MAX_MESSAGE: usize = 4 << 20;
/// Scatter entries one slot can hold.
pub const UNPACK_MAX_ENTRIES: usize = UNPACK_MAX_MESSAGE / UNPACK_PAGE * 2;

/// Filled by a plugin when it hands out a comm; allocated, and zeroed, by the caller.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceHandle {
    /// [`DEVICE_HOST`] or [`DEVICE_UNPACK`].
    pub device_type: c_int,
    /// [`UNPACK_VERSION`] for UNPACK.
    pub device_version: c_int,
    /// For UNPACK: an [`UnpackQueue`] in device memory (host memory for a plugin without CUDA).
    pub handle: *mut c_void,
    /// Bytes behind `handle`.
    pub size: usize,
    /// Whether the caller must keep calling `test` for this comm.
    pub needs_proxy_progress: c_int,
}

impl DeviceHandle {
    /// The zeroed handle that a caller passes in.
    pub const fn zeroed() -> Self {
        Self {
            device_type: 0,
            device_version: 0,
            handle: core::ptr::null_mut(),
            size: 0,
            needs_proxy_progress: 0,
        }
    }
}

/// One scatter entry (`loadMeta`): `len` bytes at `src_off` of the bounce buffer belong at `dst_off` of
/// the posted buffer.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LoadMeta {
    /// Offset into the bounce buffer, in bytes.
    pub src_off: u32,
    /// Length in bytes.
    pub len: u32,
    /// Offset into the posted buffer, in bytes.
    pub dst_off: u64,
}

/// The scatter lists of one receive comm (`netUnpackMeta`), half a megabyte.
#[repr(C, align(16))]
pub struct UnpackMeta {
    /// Entries of each slot; only the first `cnt[slot]` count, in no order.
    pub mem: [[LoadMeta; UNPACK_MAX_ENTRIES]; UNPACK_SLOTS],
    /// Entries in each slot. Zero after an empty message, or when the data was placed directly.
    pub cnt: [u64; UNPACK_SLOTS],
}

/// What [`DeviceHandle::handle`] points to for UNPACK (`unpackNetDeviceHandle`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnpackQueue {
    /// The scatter lists.
    pub meta: *mut UnpackMeta,
    /// Base of the bounce buffer that `src_off` counts from.
    pub bounce_buf: *mut c_void,
    /// Receives consumed so far, minus one: starts at `u64::MAX`.
    pub head: u64,
}

const _: () = {
    assert!(size_of::<DeviceHandle>() == 32);
    assert!(offset_of!(DeviceHandle, device_version) == 4);
    assert!(offset_of!(DeviceHandle, handle) == 8);
    assert!(offset_of!(DeviceHandle, size) == 16);
    assert!(offset_of!(DeviceHandle, needs_proxy_progress) == 24);
    assert!(size_of::<LoadMeta>() == 16 && align_of::<LoadMeta>() == 16);
    assert!(offset_of!(LoadMeta, len) == 4 && offset_of!(LoadMeta, dst_off) == 8);
    assert!(UNPACK_MAX_ENTRIES == 2048);
    assert!(size_of::<UnpackMeta>() == 524_416 && align_of::<UnpackMeta>() == 16);
    assert!(offset_of!(UnpackMeta, cnt) == 524_288);
    assert!(size_of::<[LoadMeta; UNPACK_MAX_ENTRIES]>() == 32_768);
    assert!(size_of::<UnpackQueue>() == 24);
    assert!(offset_of!(UnpackQueue, bounce_buf) == 8 && offset_of!(UnpackQueue, head) == 16);
};
