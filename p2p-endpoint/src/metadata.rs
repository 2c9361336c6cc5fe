//! What an endpoint tells of itself so that others can connect: in its own form, and in those of UCCL.
//!
//! The program hands these bytes from one process to another, by whatever way it has. The form of our own names
//! several addresses, so that a peer tries the next one where the first leads nowhere, and who the endpoint is, so
//! that a peer notices when somebody else listens there by now.

mod uccl;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use p2p_proto::id::EndpointId;

pub use uccl::{Device, Place};

/// Addresses of an endpoint at most.
pub const MOST_ADDRESSES: usize = 16;
/// Bytes of an endpoint's name at most.
pub const LONGEST_NAME: usize = 256;

const MAGIC: [u8; 4] = *b"UP2M";
const VERSION: u16 = 1;
/// Stands for no device.
const HOST: u16 = u16::MAX;

/// Why bytes or text are no metadata.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MetadataError {
    /// Of no known shape.
    #[error("these {0} bytes are no endpoint's metadata: hand over what the peer returned, unchanged")]
    Foreign(usize),
    /// From another release.
    #[error("the metadata is of version {0}, and this is {VERSION}: run the same release at both ends")]
    Version(u16),
    /// Cut, or changed on the way.
    #[error("the metadata is cut or damaged ({0} bytes): hand over what the peer returned, unchanged")]
    Damaged(usize),
    /// No `ip:port?device`.
    #[error("{0:?} is not of the form ip:port?device, such as 10.0.0.1:28900?0")]
    Text(String),
    /// A device name that UCCL's form cannot carry.
    #[error("{0:?} cannot be told as a device: at most 255 printable characters, and not 3 or 15 of them")]
    Device(String),
}

/// What an endpoint tells of itself.
///
/// Its bytes, with the lowest byte of a number first:
///
/// | bytes | what |
/// |---|---|
/// | 4 | `UP2M` |
/// | 2 | version of this layout: 1 |
/// | 16 | the endpoint |
/// | 2 | its device; 65535 for the host |
/// | 2, and as many | length of its name, and the name as UTF-8; at most 256 |
/// | 1 | number of addresses, 1 to 16 |
/// | for each 1, 4 or 16, 2 | 4 or 6; the IP address; the port |
///
/// Nothing follows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// Who it is.
    pub endpoint: EndpointId,
    /// Its GPU, by the number that its process gives it; `None` for the host.
    pub device: Option<u16>,
    /// Host and process, for people. A longer one than [`LONGEST_NAME`] is cut.
    pub name: String,
    /// Where it listens, best first. Those beyond [`MOST_ADDRESSES`] are left out.
    pub addresses: Vec<SocketAddr>,
}

impl Metadata {
    /// As the layout says.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.endpoint.0);
        bytes.extend(self.device.unwrap_or(HOST).to_le_bytes());
        let name = &self.name[..self.name.floor_char_boundary(LONGEST_NAME)];
        bytes.extend((name.len() as u16).to_le_bytes());
        bytes.extend(name.as_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(MOST_ADDRESSES)];
        bytes.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(address.port().to_le_bytes());
        }
        bytes
    }

    /// What these bytes tell.
    ///
    /// # Errors
    ///
    /// [`MetadataError`]: they are not of this form, of another version, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MetadataError> {
        let rest = bytes.strip_prefix(&MAGIC).ok_or(MetadataError::Foreign(bytes.len()))?;
        let damaged = MetadataError::Damaged(bytes.len());
        let Some((version, rest)) = rest.split_first_chunk() else { return Err(damaged) };
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(MetadataError::Version(version));
        }
        Self::read(rest).ok_or(damaged)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (&endpoint, rest) = bytes.split_first_chunk()?;
        let (&device, rest) = rest.split_first_chunk()?;
        let (&length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(length));
        let (name, rest) = rest.split_at_checked(length).filter(|_| length <= LONGEST_NAME)?;
        let (&count, mut rest) = rest.split_first()?;
        let count = usize::from(count);
        if count == 0 || count > MOST_ADDRESSES {
            return None;
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let (address, left) = read_address(rest)?;
            addresses.push(address);
            rest = left;
        }
        let device = Some(u16::from_le_bytes(device)).filter(|device| *device != HOST);
        let name = String::from_utf8(name.to_vec()).ok()?;
        rest.is_empty().then_some(Self { endpoint: EndpointId(endpoint), device, name, addresses })
    }
}

fn read_address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (&family, rest) = bytes.split_first()?;
    let (ip, rest): (IpAddr, _) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_le_bytes(*port)), rest))
}

/// What somebody tells of an endpoint, in any of the forms.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// In our own.
    Own(Metadata),
    /// In one of UCCL's.
    Uccl(Place),
}

impl Told {
    /// What these bytes tell.
    ///
    /// # Errors
    ///
    /// [`MetadataError`]: of no known form, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MetadataError> {
        if bytes.starts_with(&MAGIC) {
            Metadata::from_bytes(bytes).map(Self::Own)
        } else {
            Place::from_bytes(bytes).map(Self::Uccl)
        }
    }

    /// Where the endpoint listens, best first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Own(metadata) => metadata.addresses.clone(),
            Self::Uccl(place) => vec![SocketAddr::new(place.ip, place.port)],
        }
    }
}

/// Where peers reach a door, best first.
///
/// A door of one address is reached there; whoever opened it said so, and may have said loopback. A door of all
/// addresses is reached at those of this host, as `host` lists them, which never has loopback beside others.
pub fn reachable_at(door: SocketAddr, host: impl FnOnce() -> Vec<IpAddr>) -> Vec<SocketAddr> {
    if !door.ip().is_unspecified() {
        return vec![door];
    }
    let reaches = |ip: &IpAddr| door.is_ipv6() || ip.is_ipv4();
    host().into_iter().filter(reaches).map(|ip| SocketAddr::new(ip, door.port())).collect()
}

#[cfg(test)]
mod tests;
