//! Property structs, one per table version, and the small structs passed beside them.

use core::ffi::{c_char, c_int};
use core::mem::{offset_of, size_of};

/// Properties of a device in version 7.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PropertiesV7 {
    /// Unique device name; valid for the life of the process.
    pub name: *const c_char,
    /// Path of the PCI device in sysfs; null for a virtual device.
    pub pci_path: *const c_char,
    /// Identifies the NIC chip.
    pub guid: u64,
    /// `PTR_*` bits.
    pub ptr_support: c_int,
    /// Port speed in Mbit/s.
    pub speed: c_int,
    /// Port number.
    pub port: c_int,
    /// Latency in microseconds.
    pub latency: f32,
    /// Comms the device can hold.
    pub max_comms: c_int,
    /// Buffers one `irecv` may group.
    pub max_recvs: c_int,
    /// `DEVICE_*` type.
    pub net_device_type: c_int,
    /// Version of that type.
    pub net_device_version: c_int,
}

/// Properties of a device in version 8.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PropertiesV8 {
    /// See [`PropertiesV7::name`].
    pub name: *const c_char,
    /// See [`PropertiesV7::pci_path`].
    pub pci_path: *const c_char,
    /// See [`PropertiesV7::guid`].
    pub guid: u64,
    /// See [`PropertiesV7::ptr_support`].
    pub ptr_support: c_int,
    /// Whether one registration serves all comms.
    pub reg_is_global: c_int,
    /// See [`PropertiesV7::speed`].
    pub speed: c_int,
    /// See [`PropertiesV7::port`].
    pub port: c_int,
    /// See [`PropertiesV7::latency`].
    pub latency: f32,
    /// See [`PropertiesV7::max_comms`].
    pub max_comms: c_int,
    /// See [`PropertiesV7::max_recvs`].
    pub max_recvs: c_int,
    /// See [`PropertiesV7::net_device_type`].
    pub net_device_type: c_int,
    /// See [`PropertiesV7::net_device_version`].
    pub net_device_version: c_int,
}

/// Physical devices behind a device (`ncclNetVDeviceProps_t`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VirtualDevices {
    /// Entries of `devs` in use.
    pub ndevs: c_int,
    /// Physical device indices.
    pub devs: [c_int; 4],
}

/// Properties of a device in versions 9 and 10.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PropertiesV9 {
    /// See [`PropertiesV7::name`].
    pub name: *const c_char,
    /// See [`PropertiesV7::pci_path`].
    pub pci_path: *const c_char,
    /// See [`PropertiesV7::guid`].
    pub guid: u64,
    /// See [`PropertiesV7::ptr_support`].
    pub ptr_support: c_int,
    /// See [`PropertiesV8::reg_is_global`].
    pub reg_is_global: c_int,
    /// Whether a flush is needed even where the GPU would not need one.
    pub force_flush: c_int,
    /// See [`PropertiesV7::speed`].
    pub speed: c_int,
    /// See [`PropertiesV7::port`].
    pub port: c_int,
    /// See [`PropertiesV7::latency`].
    pub latency: f32,
    /// See [`PropertiesV7::max_comms`].
    pub max_comms: c_int,
    /// See [`PropertiesV7::max_recvs`].
    pub max_recvs: c_int,
    /// See [`PropertiesV7::net_device_type`].
    pub net_device_type: c_int,
    /// See [`PropertiesV7::net_device_version`].
    pub net_device_version: c_int,
    /// Physical devices.
    pub virtual_devices: VirtualDevices,
    /// Largest point-to-point message in bytes; must be positive.
    pub max_p2p_bytes: usize,
    /// Largest collective message in bytes; must be positive.
    pub max_coll_bytes: usize,
}

/// Version 10 uses the layout of version 9.
pub type PropertiesV10 = PropertiesV9;

/// Properties of a device in version 11.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PropertiesV11 {
    /// The fields shared with versions 9 and 10.
    pub v9: PropertiesV9,
    /// Requests one multi-request may group.
    pub max_multi_request_size: c_int,
}

/// Traffic options of a communicator (`ncclNetCommConfig_t`), versions 10 and 11.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CommConfig {
    /// Traffic class; -1 means undefined.
    pub traffic_class: c_int,
}

/// Expected use of one direction; -1 means undefined.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CommAttributes {
    /// Most peers at once.
    pub max_concurrent_peers: i32,
    /// Fewest peers at once.
    pub min_concurrent_peers: i32,
    /// Most flows to a peer.
    pub max_flows_per_peer: i32,
    /// Fewest flows to a peer.
    pub min_flows_per_peer: i32,
}

/// Hints about the traffic to come (`ncclNetAttr_v11_t`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NetAttributes {
    /// Send comms.
    pub send_comm: CommAttributes,
    /// Receive comms.
    pub recv_comm: CommAttributes,
    /// Collective bit set.
    pub op: u32,
    /// Algorithm bit set.
    pub algo: u32,
    /// Protocol bit set.
    pub proto: u32,
}

const _: () = {
    assert!(size_of::<PropertiesV7>() == 56);
    assert!(offset_of!(PropertiesV7, pci_path) == 8 && offset_of!(PropertiesV7, guid) == 16);
    assert!(offset_of!(PropertiesV7, ptr_support) == 24 && offset_of!(PropertiesV7, speed) == 28);
    assert!(offset_of!(PropertiesV7, port) == 32 && offset_of!(PropertiesV7, latency) == 36);
    assert!(offset_of!(PropertiesV7, max_comms) == 40 && offset_of!(PropertiesV7, max_recvs) == 44);
    assert!(offset_of!(PropertiesV7, net_device_type) == 48);
    assert!(offset_of!(PropertiesV7, net_device_version) == 52);

    assert!(size_of::<PropertiesV8>() == 64);
    assert!(offset_of!(PropertiesV8, pci_path) == 8 && offset_of!(PropertiesV8, guid) == 16);
    assert!(offset_of!(PropertiesV8, ptr_support) == 24 && offset_of!(PropertiesV8, reg_is_global) == 28);
    assert!(offset_of!(PropertiesV8, speed) == 32 && offset_of!(PropertiesV8, port) == 36);
    assert!(offset_of!(PropertiesV8, latency) == 40 && offset_of!(PropertiesV8, max_comms) == 44);
    assert!(offset_of!(PropertiesV8, max_recvs) == 48);
    assert!(offset_of!(PropertiesV8, net_device_type) == 52);
    assert!(offset_of!(PropertiesV8, net_device_version) == 56);

    assert!(size_of::<VirtualDevices>() == 20);
    assert!(size_of::<PropertiesV9>() == 104);
    assert!(offset_of!(PropertiesV9, pci_path) == 8 && offset_of!(PropertiesV9, guid) == 16);
    assert!(offset_of!(PropertiesV9, ptr_support) == 24 && offset_of!(PropertiesV9, reg_is_global) == 28);
    assert!(offset_of!(PropertiesV9, force_flush) == 32 && offset_of!(PropertiesV9, speed) == 36);
    assert!(offset_of!(PropertiesV9, port) == 40 && offset_of!(PropertiesV9, latency) == 44);
    assert!(offset_of!(PropertiesV9, max_comms) == 48 && offset_of!(PropertiesV9, max_recvs) == 52);
    assert!(offset_of!(PropertiesV9, net_device_type) == 56);
    assert!(offset_of!(PropertiesV9, net_device_version) == 60);
    assert!(offset_of!(PropertiesV9, virtual_devices) == 64);
    assert!(offset_of!(PropertiesV9, max_p2p_bytes) == 88);
    assert!(offset_of!(PropertiesV9, max_coll_bytes) == 96);

    assert!(size_of::<PropertiesV11>() == 112);
    assert!(offset_of!(PropertiesV11, v9) == 0);
    assert!(offset_of!(PropertiesV11, max_multi_request_size) == 104);

    assert!(size_of::<CommConfig>() == 4);
    assert!(size_of::<NetAttributes>() == 44 && align_of::<NetAttributes>() == 4);
    assert!(offset_of!(NetAttributes, recv_comm) == 16 && offset_of!(NetAttributes, op) == 32);
    assert!(offset_of!(NetAttributes, algo) == 36 && offset_of!(NetAttributes, proto) == 40);
};
