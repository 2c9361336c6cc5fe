//! What a link and its caller say to each other.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::frame::{LONGEST_NOTIFICATION, LONGEST_TRANSFER, MOST_RANGES, Refusal};
use crate::id::{RailIndex, RegionKey, TransferId};
use crate::list::LocalRange;
use crate::wire::WireError;

/// Opens memory of this end to the peer.
pub trait Exports {
    /// The memory that `len` bytes from `offset` on are, of what `key` opens; for the peer to write into, or to
    /// read from. The range that is returned has `len` bytes.
    ///
    /// # Errors
    ///
    /// What the peer is told.
    fn open(&self, key: RegionKey, offset: u64, len: u64, write: bool) -> Result<LocalRange, Refusal>;
}

/// Which way a message goes on a rail.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Side {
    /// To the peer.
    Send,
    /// From the peer.
    Recv,
}

/// A message to hand to the transport.
#[derive(Debug, Eq, PartialEq)]
pub struct Post<'a> {
    /// Comes back with [`Peer::ended`](super::Peer::ended).
    pub token: u64,
    /// Its memory, in this order; not more parts than the rail's slices.
    pub parts: &'a [LocalRange],
    /// Of a receive that nobody wants any more: so many bytes have to be received anywhere. 0: into `parts`.
    pub scratch: u32,
}

/// How a message that was handed to the transport ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Landing {
    /// As it should.
    Done,
    /// Its rail was lost.
    Lost,
    /// The rail is there, and the message was not sent or not put in place, because of its memory or its length.
    /// The messages behind it meet the wrong receives, so that the rail has to go, too.
    Failed,
}

/// What the caller learns. Each accepted transfer has exactly one `Ended`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Happened {
    /// A transfer of this end is over, and the transport uses its memory no more.
    Ended {
        /// Which.
        transfer: TransferId,
        /// How.
        outcome: Outcome,
    },
    /// The peer notifies.
    Notified(Bytes),
    /// A write of the peer has landed, and wants this counter to go up by one.
    Counted(u32),
    /// A rail is of no use any more: the caller closes it, and says
    /// [`rail_lost`](super::Peer::rail_lost) when that is done.
    RailBroken(RailIndex),
    /// The peer has ended the link, for this reason. All transfers end.
    Goodbye(String),
    /// The link is lost. All transfers end; what is still with the transport is waited for.
    Lost(Loss),
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// Every byte is visible at the receiving end.
    Done {
        /// So many; of a receive, those of the message.
        bytes: u64,
    },
    /// The peer does not do it. Nothing of it counts.
    Refused(Refusal),
    /// Bytes of it were lost with a rail.
    RailLost(RailIndex),
    /// Its memory was taken away.
    MemoryGone {
        /// At this end; otherwise at the peer.
        here: bool,
    },
    /// The link was lost. How many bytes have arrived is unknown.
    LinkLost,
    /// The caller had given it up.
    Abandoned,
}

/// Why a link is lost.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Loss {
    /// The peer said nothing.
    #[error("the peer said nothing for {0:?}: its process is stopped or its host is unreachable")]
    Silent(Duration),
    /// There is no rail left.
    #[error("all rails to the peer are lost")]
    NoRail,
}

/// Why a call did nothing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Rejected {
    /// Too many transfers, or too many bytes of notifications, are not over. Not a failure: wait.
    #[error("the link holds no more at the moment; wait for a transfer to end")]
    Full,
    /// Longer than anything may be.
    #[error(
        "a transfer has at most {LONGEST_TRANSFER} bytes and {MOST_RANGES} ranges, a notification {LONGEST_NOTIFICATION} bytes"
    )]
    TooLong,
    /// The two lists of a transfer have different lengths.
    #[error("{here} bytes of memory here, and {there} bytes of the peer's; both must be equal")]
    Unequal {
        /// Bytes here.
        here: u64,
        /// Bytes at the peer.
        there: u64,
    },
    /// The transfer is no write of this end, or it is over: its outcome says whether to notify.
    #[error("the transfer that the notification waits for is no write, or it has ended")]
    NotAWrite,
    /// The link is over.
    #[error("the link to the peer is over: connect again")]
    Over,
}

/// What the peer did that it must not do. The link is over.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the peer broke the protocol: {text}")]
pub struct Breach {
    text: Cow<'static, str>,
}

impl Breach {
    /// What it did, for people.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) const fn new(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text) }
    }

    pub(super) fn said(text: fmt::Arguments<'_>) -> Self {
        Self { text: Cow::Owned(text.to_string()) }
    }
}

impl From<WireError> for Breach {
    fn from(error: WireError) -> Self {
        Self { text: Cow::Owned(error.to_string()) }
    }
}

/// How much one link holds, and how long it waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caps {
    /// Transfers of this end that are not over, receives among them; more are [`Rejected::Full`].
    pub own_transfers: u32,
    /// Transfers of the peer that are not over; more are refused. At least `own_transfers` of the peer, so that
    /// it never comes to that.
    pub peer_transfers: u32,
    /// Ranges of all transfers of the peer; more are refused.
    pub peer_ranges: u32,
    /// Messages that the peer has announced and that have not landed; beyond it the control stream rests.
    pub announced: u32,
    /// Bytes of notifications that the caller has not taken; beyond it the control stream rests.
    pub unread: u32,
    /// Bytes of notifications of this end that are not said, or that wait for a write; more are
    /// [`Rejected::Full`]. A peer whose notifications hold four times as much here breaks the protocol.
    pub held: u32,
    /// Bytes of the control stream that wait to be sent, beyond which nothing more is begun.
    pub control: u32,
    /// Time without a sign of life after which the peer is asked for one.
    pub ping_after: Duration,
    /// Time without a sign of life after which the link is lost.
    pub silence: Duration,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            own_transfers: 4096,
            peer_transfers: 4096,
            peer_ranges: 4 << 20,
            announced: 4096,
            unread: 16 << 20,
            held: 16 << 20,
            control: 256 << 10,
            ping_after: Duration::from_secs(1),
            silence: Duration::from_secs(5),
        }
    }
}
