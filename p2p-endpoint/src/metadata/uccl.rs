//! The forms in which UCCL's callers hand an endpoint's address around.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::MetadataError;

/// A device, as UCCL tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Device {
    /// Its number: UCCL of 2025.
    Index(i32),
    /// Its PCI address, or whatever the peer says: UCCL of 2026.
    Bdf(String),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Bdf(name) => f.write_str(name),
        }
    }
}

/// One address of an endpoint, and its device.
///
/// As bytes, with the highest byte of the port first:
///
/// | form | IP address | port | device |
/// |---|---|---|---|
/// | of 2025 | 4 or 16 | 2 | its number, 4 bytes in the machine's order |
/// | of 2026 | 4 or 16 | 2 | length of its name, 1 byte, and the name |
///
/// They are told apart by their length: those of 2025 have 10 or 22 bytes.
///
/// As text, for the C interface, `ip:port?device`, with brackets around an IPv6 address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Where it listens.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// The device, in the form of the years.
    pub device: Device,
}

impl Place {
    /// In the form to which its device belongs.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Device`] for a name that this form cannot carry, or that would make it look like the other.
    pub fn to_bytes(&self) -> Result<Vec<u8>, MetadataError> {
        let mut bytes = match self.ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.extend(self.port.to_be_bytes());
        match &self.device {
            Device::Index(index) => bytes.extend(index.to_ne_bytes()),
            Device::Bdf(name) => {
                let refused = || MetadataError::Device(name.clone());
                let length = u8::try_from(name.len()).map_err(|_| refused())?;
                if length == 3 || length == 15 || !is_name(name.as_bytes()) {
                    return Err(refused());
                }
                bytes.push(length);
                bytes.extend(name.as_bytes());
            }
        }
        Ok(bytes)
    }

    /// What these bytes tell, in either form.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Foreign`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MetadataError> {
        let read = match bytes.len() {
            10 => read::<4>(bytes, index),
            22 => read::<16>(bytes, index),
            _ => read::<4>(bytes, name).or_else(|| read::<16>(bytes, name)),
        };
        read.ok_or(MetadataError::Foreign(bytes.len()))
    }
}

/// An address of so many bytes, a port, and a device.
fn read<const IP: usize>(bytes: &[u8], device: fn(&[u8]) -> Option<Device>) -> Option<Place> {
    let (ip, rest) = bytes.split_first_chunk::<IP>()?;
    let (&port, rest) = rest.split_first_chunk()?;
    let ip = match ip.as_slice().try_into() {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from_octets(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from_octets(ip.as_slice().try_into().ok()?)),
    };
    Some(Place { ip, port: u16::from_be_bytes(port), device: device(rest)? })
}

fn index(bytes: &[u8]) -> Option<Device> {
    bytes.try_into().ok().map(|index| Device::Index(i32::from_ne_bytes(index)))
}

fn name(bytes: &[u8]) -> Option<Device> {
    let (&length, name) = bytes.split_first()?;
    let good = name.len() == usize::from(length) && is_name(name);
    good.then(|| Device::Bdf(name.iter().copied().map(char::from).collect()))
}

fn is_name(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, device } = self;
        match ip {
            IpAddr::V4(ip) => write!(f, "{ip}:{port}?{device}"),
            IpAddr::V6(ip) => write!(f, "[{ip}]:{port}?{device}"),
        }
    }
}

impl FromStr for Place {
    type Err = MetadataError;

    /// A device that is a number is its number.
    fn from_str(text: &str) -> Result<Self, MetadataError> {
        let read = || {
            let (address, device) = text.split_once('?')?;
            let (ip, port) = address.rsplit_once(':')?;
            let ip = match ip.strip_prefix('[') {
                Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
                None => IpAddr::V4(ip.parse().ok()?),
            };
            let port = port.parse().ok()?;
            let device = match device.parse() {
                Ok(index) => Device::Index(index),
                Err(_) if is_name(device.as_bytes()) => Device::Bdf(device.to_owned()),
                Err(_) => return None,
            };
            Some(Self { ip, port, device })
        };
        read().ok_or_else(|| MetadataError::Text(text.to_owned()))
    }
}
