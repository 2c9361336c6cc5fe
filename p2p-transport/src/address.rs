//! Where a listener can be found.

use std::fmt;

/// What a listener publishes and a peer connects to: bytes that only the backend understands.
///
/// It travels out of band, as metadata of whatever protocol lies above. One connection may need many handles
/// of a plugin, 128 bytes each; a backend puts the place where it trades them here, not the handles.
#[derive(Clone, Eq, PartialEq)]
pub struct Address(Box<[u8]>);

/// More bytes than an [`Address`] may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an address of {0} bytes: {max} are the most", max = Address::MAX)]
pub struct AddressTooLong(pub usize);

impl Address {
    /// Longest address, in bytes.
    pub const MAX: usize = 4096;

    /// Copies `bytes`.
    ///
    /// # Errors
    ///
    /// [`AddressTooLong`] for more than [`MAX`](Self::MAX). Whether the bytes mean anything is seen by
    /// [`Transport::connect`](crate::Transport::connect).
    pub fn new(bytes: &[u8]) -> Result<Self, AddressTooLong> {
        if bytes.len() > Self::MAX {
            return Err(AddressTooLong(bytes.len()));
        }
        Ok(Self(bytes.into()))
    }

    /// The bytes to hand to a peer.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({} bytes)", self.0.len())
    }
}
