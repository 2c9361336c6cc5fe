//! Places in the PCI tree and how far they lie apart.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

/// Hops up to the common bridge that one PCIe switch accounts for: its own two ports.
const SWITCH_HOPS: usize = 2;

/// Address of a PCI function, such as `0000:04:00.0`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PciAddress {
    /// PCI domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device on the bus.
    pub device: u8,
    /// Function of the device.
    pub function: u8,
}

/// Text that is no PCI address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no PCI address such as 0000:04:00.0")]
pub struct BadAddress(String);

impl FromStr for PciAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        parse_address(text).ok_or_else(|| BadAddress(text.to_owned()))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

fn parse_address(text: &str) -> Option<PciAddress> {
    let mut fields = text.split(':');
    let (domain, bus, rest) = (fields.next()?, fields.next()?, fields.next()?);
    let (device, function) = rest.split_once('.')?;
    let whole = fields.next().is_none()
        && (4..=8).contains(&domain.len())
        && (bus.len(), device.len(), function.len()) == (2, 2, 1);
    let address = PciAddress {
        domain: hex(domain)?,
        bus: hex(bus)?.try_into().ok()?,
        device: hex(device)?.try_into().ok()?,
        function: hex(function)?.try_into().ok()?,
    };
    (whole && address.device < 32 && address.function < 8).then_some(address)
}

fn hex(digits: &str) -> Option<u32> {
    let digits_only = digits.bytes().all(|b| b.is_ascii_hexdigit());
    if digits_only { u32::from_str_radix(digits, 16).ok() } else { None }
}

/// Where a device hangs in the PCI tree: the components of its path in sysfs, from below `/sys/devices`
/// down to the PCI function, and its NUMA node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PciPath {
    components: Vec<String>,
    /// Components that make up the root: up to the first host bridge, it included.
    root: usize,
    address: PciAddress,
    numa: Option<u32>,
}

impl PciPath {
    /// Reads a real path in sysfs (without links), such as
    /// `/sys/devices/pci0000:01/0000:01:00.0/0000:02:00.0`.
    ///
    /// What follows the last PCI function, such as `virtio0/net/eth0`, does not count. `None` when the
    /// path holds no host bridge with a PCI function below it.
    pub fn parse(path: &Path, numa: Option<u32>) -> Option<Self> {
        let normal = path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_str()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        });
        let names: Vec<&str> = normal.collect::<Option<_>>()?;
        let bridge = names.iter().position(|name| is_host_bridge(name))?;
        let start = names[..bridge].iter().rposition(|name| *name == "devices").map_or(0, |at| at + 1);
        let last = names.iter().rposition(|name| parse_address(name).is_some())?;
        if last < bridge {
            return None;
        }
        Some(Self {
            components: names[start..=last].iter().map(|name| (*name).to_owned()).collect(),
            root: bridge - start + 1,
            address: parse_address(names[last])?,
            numa,
        })
    }

    /// Address of the device itself.
    pub const fn address(&self) -> PciAddress {
        self.address
    }

    /// NUMA node, where the kernel knows it.
    pub const fn numa(&self) -> Option<u32> {
        self.numa
    }

    /// The PCIe root: the host bridge and what lies above it.
    pub fn root(&self) -> String {
        self.components[..self.root].join("/")
    }

    /// Whether both hang under the same PCIe root.
    pub fn shares_root(&self, other: &Self) -> bool {
        self.components[..self.root] == other.components[..other.root]
    }

    /// How far `other` lies from here; the same in both directions.
    pub fn class(&self, other: &Self) -> Class {
        if !self.shares_root(other) {
            return if self.numa == other.numa { Class::Node } else { Class::Sys };
        }
        let pairs = self.components.iter().zip(&other.components);
        let common = pairs.take_while(|(mine, theirs)| mine == theirs).count();
        let farther = self.components.len().max(other.components.len()) - common;
        if common == self.root && farther > 0 {
            Class::Phb
        } else if farther <= SWITCH_HOPS {
            Class::Pix
        } else {
            Class::Pxb
        }
    }
}

fn is_host_bridge(name: &str) -> bool {
    let number = name.strip_prefix("pci").and_then(|rest| rest.split_once(':'));
    number.is_some_and(|(domain, bus)| {
        domain.len() >= 4 && bus.len() == 2 && hex(domain).is_some() && hex(bus).is_some()
    })
}

/// What a path between two devices crosses, closest first; NCCL's words.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// One PCIe switch at most.
    Pix,
    /// Several PCIe switches, no host bridge.
    Pxb,
    /// One host bridge.
    Phb,
    /// Two host bridges of one NUMA node, or of a machine whose nodes are unknown.
    Node,
    /// The link between NUMA nodes, or no PCI path at all.
    Sys,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pix => "PIX",
            Self::Pxb => "PXB",
            Self::Phb => "PHB",
            Self::Node => "NODE",
            Self::Sys => "SYS",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str, numa: Option<u32>) -> PciPath {
        PciPath::parse(Path::new(text), numa).unwrap()
    }

    #[test]
    fn addresses_round_trip_and_reject_what_is_none() {
        for text in ["0000:04:00.0", "0000:ff:1f.7", "10000:e0:06.0"] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "04:00.0",
            "0000:04:00",
            "0000:04:20.0",
            "0000:04:00.8",
            "0000:4:00.0",
            "000g:04:00.0",
            "0000:04:00.0:1",
            "virtio0",
            "0000:+4:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_ends_at_the_last_pci_function() {
        let virtio = path("/sys/devices/pci0000:00/0000:00:03.0/virtio0/net/eth0", Some(0));
        assert_eq!(virtio.address().to_string(), "0000:00:03.0");
        assert_eq!(virtio.root(), "pci0000:00");
        let behind_vmd = path("/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0", None);
        assert_eq!(behind_vmd.root(), "pci0000:00");
        assert_eq!(behind_vmd.address().domain, 0x10000);
        let platform = path("/sys/devices/platform/40000000.pcie/pci0000:00/0000:00:01.0", None);
        assert_eq!(platform.root(), "platform/40000000.pcie/pci0000:00");
        for none in ["/sys/devices/virtual/net/lo", "/sys/devices/pci0000:00", "/sys/devices/0000:00:03.0"] {
            assert_eq!(PciPath::parse(Path::new(none), None), None, "{none}");
        }
    }

    #[test]
    fn roots_that_share_a_text_prefix_are_different_roots() {
        let a = path("/sys/devices/pci0000:0/pci0000:01/0000:01:00.0", Some(0));
        let b = path("/sys/devices/pci0000:01/0000:01:00.0", Some(1));
        assert!(!a.shares_root(&b));
        let short = path("/sys/devices/pci0000:01/0000:01:00.0/0000:02:00.0", Some(0));
        let long = path("/sys/devices/pci0000:01/0000:01:00.1/0000:02:00.0", Some(0));
        assert_eq!(short.class(&long), Class::Phb, "0000:01:00.0 and 0000:01:00.1 are two bridges");
    }

    #[test]
    fn each_class_is_told_from_the_next() {
        let gpu =
            path("/sys/devices/pci0000:01/0000:01:00.0/0000:02:00.0/0000:03:00.0/0000:04:00.0", Some(0));
        let same_switch =
            path("/sys/devices/pci0000:01/0000:01:00.0/0000:02:00.0/0000:03:02.0/0000:06:00.0", Some(0));
        let next_switch = path(
            "/sys/devices/pci0000:01/0000:01:00.0/0000:02:00.0/0000:03:02.0/0000:06:00.0/0000:07:00.0/0000:08:00.0",
            Some(0),
        );
        let same_bridge = path("/sys/devices/pci0000:01/0000:01:01.0/0000:09:00.0", Some(0));
        let same_node = path("/sys/devices/pci0000:07/0000:07:00.0", Some(0));
        let other_node = path("/sys/devices/pci0000:81/0000:81:00.0", Some(1));
        let unknown_node = path("/sys/devices/pci0000:81/0000:81:00.0", None);
        assert_eq!(gpu.class(&gpu), Class::Pix);
        assert_eq!(gpu.class(&same_switch), Class::Pix);
        assert_eq!(gpu.class(&next_switch), Class::Pxb);
        assert_eq!(gpu.class(&same_bridge), Class::Phb);
        assert_eq!(gpu.class(&same_node), Class::Node);
        assert_eq!(gpu.class(&other_node), Class::Sys);
        assert_eq!(gpu.class(&unknown_node), Class::Sys);
    }
}
