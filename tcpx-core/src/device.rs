//! Devices as the plugin reports them.

use std::path::PathBuf;

use tcpx_sys::device::{DEVICE_UNPACK, UNPACK_MAX_MESSAGE, UNPACK_VERSION};
use tcpx_sys::{PTR_CUDA, PTR_DMABUF, PTR_HOST};

use crate::api::Reported;
use crate::api::comm::Place;
use crate::error::Error;
use tcpx_sys::Version;

/// Kinds of memory that a device can use, as bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PtrSupport(pub i32);

impl PtrSupport {
    /// Host memory.
    pub const fn host(self) -> bool {
        self.0 & PTR_HOST != 0
    }

    /// CUDA memory.
    pub const fn cuda(self) -> bool {
        self.0 & PTR_CUDA != 0
    }

    /// CUDA memory given as a dma-buf.
    pub const fn dmabuf(self) -> bool {
        self.0 & PTR_DMABUF != 0
    }
}

/// How received bytes get into the posted buffer.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeviceType {
    /// The plugin writes them there.
    Host,
    /// They land in bounce pages, and a scatter list says where they belong.
    Unpack,
    /// A type that nobody published; kept as it is.
    Other(i32),
}

/// A NIC as the plugin numbers and reports it. Nothing is invented, and nothing is checked against the
/// machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Number in the plugin's list.
    pub index: usize,
    /// Name, usually the interface's.
    pub name: &'static str,
    /// Folder of the PCI device in sysfs; `None` for a device without one.
    pub pci_path: Option<PathBuf>,
    /// Identifies the NIC chip.
    pub guid: u64,
    /// Speed of the port in Mbit/s.
    pub speed_mbps: i32,
    /// Port number.
    pub port: i32,
    /// Latency in microseconds; 0 if unknown.
    pub latency_us: f32,
    /// Kinds of memory it can use.
    pub ptr_support: PtrSupport,
    /// How received bytes get into the posted buffer.
    pub device_type: DeviceType,
    /// Version of that type.
    pub device_version: i32,
    /// Comms it can hold.
    pub max_comms: i32,
    /// Buffers that one receive could group. This crate posts one.
    pub max_recvs: i32,
    /// Largest message it carries, in bytes.
    pub max_message: usize,
}

impl Device {
    /// A comm that delivers scattered pages must be of the version published.
    pub(crate) fn check_version(&self, device_type: i32, version: i32) -> Result<(), Error> {
        if device_type == DEVICE_UNPACK && version != UNPACK_VERSION {
            return Err(Error::DeviceVersion { device: self.name, version });
        }
        Ok(())
    }

    pub(crate) fn new(index: usize, reported: Reported, max_message: usize) -> Self {
        let device_type = match reported.device_type {
            0 => DeviceType::Host,
            DEVICE_UNPACK => DeviceType::Unpack,
            other => DeviceType::Other(other),
        };
        let max_message = max_message.min(reported.max_bytes.unwrap_or(max_message));
        let max_message = match device_type {
            DeviceType::Unpack => max_message.min(UNPACK_MAX_MESSAGE),
            DeviceType::Host | DeviceType::Other(_) => max_message,
        };
        // A plugin is opened once per process, so its devices' names are kept for good.
        let name = reported.name.unwrap_or_else(|| format!("device {index}"));
        Self {
            index,
            name: Box::leak(name.into_boxed_str()),
            pci_path: reported.pci_path,
            guid: reported.guid,
            speed_mbps: reported.speed,
            port: reported.port,
            latency_us: reported.latency,
            ptr_support: PtrSupport(reported.ptr_support),
            device_type,
            device_version: reported.device_version,
            max_comms: reported.max_comms,
            max_recvs: reported.max_recvs,
            max_message,
        }
    }

    pub(crate) const fn place(&self, version: Version, host_lists: bool) -> Place {
        let ptr_support = self.ptr_support.0;
        Place { device: self.name, ptr_support, version, max_message: self.max_message, host_lists }
    }
}
