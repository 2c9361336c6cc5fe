//! What an [`Address`] of this backend holds: where the exchange listens, and the key of one listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use p2p_transport::Address;

use super::wire::{Key, VERSION};

const MAGIC: [u8; 4] = *b"UADR";
/// Places at most.
pub(crate) const MAX_PLACES: usize = 16;

/// A listener of this backend, as its address tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) key: Key,
    /// Where to connect to, best first; at least one.
    pub(crate) at: Vec<SocketAddr>,
}

/// Why bytes are no address of this backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("the address is not of this backend: hand over what `listen` returned at the peer, unchanged")]
    Foreign,
    #[error("the address is of version {0}, and this is {VERSION}: run the same release at both ends")]
    Version(u16),
    #[error("the address is cut or damaged ({0} bytes): hand over what `listen` returned, unchanged")]
    Damaged(usize),
}

impl Place {
    /// Places beyond the most are left out.
    pub(crate) fn to_address(&self) -> Option<Address> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.key);
        let at = &self.at[..self.at.len().min(MAX_PLACES)];
        bytes.push(at.len() as u8);
        for place in at {
            match place.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(place.port().to_le_bytes());
        }
        Address::new(&bytes).ok()
    }

    pub(crate) fn parse(address: &Address) -> Result<Self, AddressError> {
        let bytes = address.as_bytes();
        let rest = bytes.strip_prefix(&MAGIC).ok_or(AddressError::Foreign)?;
        let damaged = AddressError::Damaged(bytes.len());
        let (version, rest) = rest.split_first_chunk().ok_or(damaged)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(AddressError::Version(version));
        }
        let (key, rest) = rest.split_first_chunk().ok_or(damaged)?;
        let (&count, mut rest) = rest.split_first().ok_or(damaged)?;
        if count == 0 || usize::from(count) > MAX_PLACES {
            return Err(damaged);
        }
        let mut at = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (place, left) = parse_place(rest).ok_or(damaged)?;
            at.push(place);
            rest = left;
        }
        if rest.is_empty() { Ok(Self { key: *key, at }) } else { Err(damaged) }
    }
}

fn parse_place(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (&family, rest) = bytes.split_first()?;
    let (ip, rest): (IpAddr, _) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (Ipv4Addr::from(*ip).into(), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (Ipv6Addr::from(*ip).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_le_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            key: Key,
            at in proptest::collection::vec(any::<(IpAddr, u16)>(), 1..=MAX_PLACES),
        ) {
            let place = Place { key, at: at.into_iter().map(SocketAddr::from).collect() };
            let address = place.to_address().unwrap();
            prop_assert_eq!(Place::parse(&address).unwrap(), place);
            for cut in 0..address.as_bytes().len() {
                let cut = Address::new(&address.as_bytes()[..cut]).unwrap();
                prop_assert!(Place::parse(&cut).is_err());
            }
        }

        #[test]
        fn garbage_is_refused_or_a_place(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), ours: bool) {
            if ours {
                bytes.splice(0..0, *b"UADR\x01\x00");
            }
            if let Ok(place) = Place::parse(&Address::new(&bytes).unwrap()) {
                prop_assert!(!place.at.is_empty());
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let place = Place { key: [0; 16], at: vec!["1.2.3.4:5".parse().expect("an address")] };
        let mut bytes = place.to_address().expect("short").as_bytes().to_vec();
        bytes[4] = 7;
        let address = Address::new(&bytes).expect("short");
        assert_eq!(Place::parse(&address), Err(AddressError::Version(7)));
        let foreign = Address::new(b"a mock's").expect("short");
        assert_eq!(Place::parse(&foreign), Err(AddressError::Foreign));
    }
}
