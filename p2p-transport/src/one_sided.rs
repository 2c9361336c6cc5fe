//! Remote memory access, for backends whose hardware has it.

use crate::{Accepted, ConnId, Error, Slice, Token};

/// Memory of a peer, as an upper layer's wire carries it: it owns nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RemoteSlice {
    /// First byte, as the backend that exported it counts.
    pub addr: u64,
    /// The backend's key: where it fits 32 bits on the hardware, the rest is zero.
    pub key: u64,
    /// Length in bytes.
    pub len: u32,
}

/// A one-sided operation. Like any other it completes exactly once, by
/// [`Event::Completed`](crate::Event::Completed).
///
/// It takes no place in the order of messages, and no order among its like is promised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OneSidedOp {
    /// Copies local bytes to the peer. Done means that they are visible there.
    Write {
        /// Returned with the completion.
        token: Token,
        /// The bytes.
        from: Slice,
        /// Where they belong; as long as `from`.
        to: RemoteSlice,
        /// Reported to the peer as [`Event::Notified`](crate::Event::Notified) when the bytes of this
        /// operation are visible there.
        notify: Option<u32>,
    },
    /// Copies the peer's bytes here. Done means that they are visible here.
    Read {
        /// Returned with the completion.
        token: Token,
        /// The bytes.
        from: RemoteSlice,
        /// Where they belong; as long as `from`.
        into: Slice,
    },
}

impl OneSidedOp {
    /// What the caller named it.
    pub const fn token(&self) -> Token {
        match *self {
            Self::Write { token, .. } | Self::Read { token, .. } => token,
        }
    }

    /// Its local slice.
    pub const fn local(&self) -> Slice {
        match *self {
            Self::Write { from: slice, .. } | Self::Read { into: slice, .. } => slice,
        }
    }

    /// The peer's slice.
    pub const fn remote(&self) -> RemoteSlice {
        match *self {
            Self::Write { to: slice, .. } | Self::Read { from: slice, .. } => slice,
        }
    }
}

/// Fixed facts about one-sided operations on a connection.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OneSidedLimits {
    /// Longest operation, in bytes.
    pub max_len: u32,
    /// Operations that the connection holds at once, apart from sends and receives.
    pub max_ops: u16,
}

impl OneSidedLimits {
    /// These limits.
    pub const fn new(max_len: u32, max_ops: u16) -> Self {
        Self { max_len, max_ops }
    }
}

/// One-sided operations of a backend that has them; handed out by
/// [`Transport::one_sided`](crate::Transport::one_sided).
///
/// An operation whose two lengths differ, or are above the limit, ends [`TooLong`](crate::OpFault::TooLong);
/// one whose key is refused by the peer ends [`Remote`](crate::OpFault::Remote), or takes the connection with
/// it where the hardware knows no smaller failure. Nothing outside the exported range is ever touched.
pub trait OneSided {
    /// Fixed facts; `None` before `Connected`, and once the id is stale.
    fn limits(&self, conn: ConnId) -> Option<OneSidedLimits>;

    /// Lets the peer of `conn` read and write local memory, and describes it. Access ends at the latest when
    /// the region is reported as [`Retired`](crate::Event::Retired).
    ///
    /// Whether another peer on the same NIC is kept out if it learns the key depends on the hardware: hand
    /// keys to those only who may use them.
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a stale id, or a slice that is not in its region.
    fn export(&mut self, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error>;

    /// As [`Transport::submit`](crate::Transport::submit).
    fn submit(&mut self, conn: ConnId, ops: &[OneSidedOp]) -> Accepted;
}
