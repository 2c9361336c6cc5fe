//! Items: what one end hands to the other, by whatever way, so that it may reach memory.

use p2p_proto::id::{Epoch, RegionKey};
use p2p_proto::list::RemoteRange;

use super::Access;

/// Bytes of an item.
pub const ITEM_BYTES: usize = 64;

const MAGIC: [u8; 2] = *b"U2";
const VERSION: u8 = 1;
/// What the checksum covers.
const CHECKED: std::ops::Range<usize> = 16..60;

/// Memory of an endpoint that a peer may reach, and what opens it. It always lies inside of what the key opens.
///
/// An item has 64 bytes, as UCCL's has, with the address and the length where UCCL has them. All numbers have their
/// lowest byte first.
///
/// | bytes | what |
/// |---|---|
/// | 0 to 7 | address of the first byte, at the end that made the item |
/// | 8 to 15 | bytes; the lower half lies where UCCL has its 32-bit size |
/// | 16 to 23 | address of the first byte that the key opens |
/// | 24 to 31 | bytes that the key opens |
/// | 32 to 39 | secret of the key |
/// | 40 to 43 | place of the key |
/// | 44 to 47 | generation of the key |
/// | 48 to 55 | life of the endpoint that made the item |
/// | 56, 57 | `U2` |
/// | 58 | version of this layout: 1 |
/// | 59 | what is allowed: 1 to read, 2 to write, 3 both |
/// | 60 to 63 | checksum (FNV-1a, 32 bits) of the bytes 16 to 59 |
///
/// The first 16 bytes are outside of the checksum, because callers of UCCL's C interface may set address and size
/// by hand. A holder who sets them to what the key does not open is told so here; whoever made the item checks each
/// access anyway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Item {
    key: RegionKey,
    epoch: Epoch,
    /// What the key opens.
    base: u64,
    opened: u64,
    access: Access,
    address: u64,
    length: u64,
}

/// Why bytes are no item, or an item does not go as far as asked.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ItemError {
    /// Too few or too many bytes.
    #[error("an item has 64 bytes, and these are {0}: hand over what `advertise` returned, unchanged")]
    Length(usize),
    /// Not from here.
    #[error("these 64 bytes are no item of this library: hand over what `advertise` returned, unchanged")]
    Foreign,
    /// From another release.
    #[error("the item is of version {0}, and this is 1: run the same release at both ends")]
    Version(u8),
    /// Bytes were changed on the way.
    #[error("the item is damaged: hand over what `advertise` returned, unchanged")]
    Damaged,
    /// Not all of it was advertised.
    #[error("{length} bytes at {address:#x} are outside of what was advertised, {opened} bytes at {base:#x}")]
    Outside {
        /// Where it was to begin.
        address: u64,
        /// How many bytes it was to have.
        length: u64,
        /// Where what was advertised begins.
        base: u64,
        /// How many bytes that has.
        opened: u64,
    },
}

impl Item {
    pub(super) const fn new(key: RegionKey, epoch: Epoch, address: u64, length: u64, access: Access) -> Self {
        Self { key, epoch, base: address, opened: length, access, address, length }
    }

    /// A part of what the key opens, by its address at the end that made the item.
    ///
    /// # Errors
    ///
    /// [`ItemError::Outside`].
    pub const fn narrow(&self, address: u64, length: u64) -> Result<Self, ItemError> {
        let (base, opened) = (self.base, self.opened);
        let offset = address.wrapping_sub(base);
        if address < base || offset > opened || length > opened - offset {
            return Err(ItemError::Outside { address, length, base, opened });
        }
        Ok(Self { address, length, ..*self })
    }

    /// Address of the first byte, at the end that made the item.
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// What a peer may do with it.
    pub const fn access(&self) -> Access {
        self.access
    }

    /// The life of the endpoint that made it. In another one it opens nothing.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What opens it.
    pub const fn key(&self) -> RegionKey {
        self.key
    }

    /// The range that is asked for on the wire.
    pub const fn range(&self) -> RemoteRange {
        RemoteRange { key: self.key, offset: self.address - self.base, len: self.length }
    }

    /// In the layout above.
    pub fn to_bytes(&self) -> [u8; ITEM_BYTES] {
        let mut bytes = [0; ITEM_BYTES];
        let access = match self.access {
            Access::Read => 1,
            Access::Write => 2,
            Access::Both => 3,
        };
        bytes[0..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.base.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.opened.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.key.secret.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.key.index.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.key.generation.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.epoch.0.to_le_bytes());
        bytes[56..58].copy_from_slice(&MAGIC);
        bytes[58..60].copy_from_slice(&[VERSION, access]);
        let sum = checksum(&bytes[CHECKED]);
        bytes[60..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The item that these bytes are.
    ///
    /// # Errors
    ///
    /// [`ItemError`]: they are no item, are damaged, or name more than what was advertised.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ItemError> {
        let bytes: &[u8; ITEM_BYTES] = bytes.try_into().map_err(|_| ItemError::Length(bytes.len()))?;
        if bytes[56..58] != MAGIC {
            return Err(ItemError::Foreign);
        }
        if bytes[58] != VERSION {
            return Err(ItemError::Version(bytes[58]));
        }
        if checksum(&bytes[CHECKED]) != half(bytes, 60) {
            return Err(ItemError::Damaged);
        }
        let access = match bytes[59] {
            1 => Access::Read,
            2 => Access::Write,
            3 => Access::Both,
            _ => return Err(ItemError::Damaged),
        };
        let key = RegionKey { index: half(bytes, 40), generation: half(bytes, 44), secret: word(bytes, 32) };
        let (base, opened) = (word(bytes, 16), word(bytes, 24));
        if base.checked_add(opened).is_none() {
            return Err(ItemError::Damaged);
        }
        Self::new(key, Epoch(word(bytes, 48)), base, opened, access).narrow(word(bytes, 0), word(bytes, 8))
    }
}

fn word(bytes: &[u8; ITEM_BYTES], at: usize) -> u64 {
    u64::from(half(bytes, at)) | u64::from(half(bytes, at + 4)) << 32
}

fn half(bytes: &[u8; ITEM_BYTES], at: usize) -> u32 {
    (0..4).fold(0, |value, byte| value | u32::from(bytes[at + byte]) << (8 * byte))
}

pub(super) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
