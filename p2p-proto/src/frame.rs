//! What two ends of a link say to each other on the control stream, once they know each other.

use bytes::Bytes;

use crate::id::{RailIndex, RegionKey, TransferId};

/// Longest frame, in bytes, with its header.
pub const LONGEST_FRAME: usize = 64 << 10;
/// Longest part of a notification in one frame, in bytes.
pub const LONGEST_PIECE: usize = 32 << 10;
/// Longest notification, in bytes.
pub const LONGEST_NOTIFICATION: usize = 1 << 20;
/// Longest transfer, in bytes.
pub const LONGEST_TRANSFER: u64 = 1 << 48;
/// Ranges of one transfer at most, in the list of either end.
pub const MOST_RANGES: u32 = 1 << 22;
/// Rails of one link at most.
pub const MOST_RAILS: usize = 64;
/// Longest text for people, in bytes; a longer one is cut.
pub const LONGEST_TEXT: usize = 1 << 10;

/// Which end gave a transfer its number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Owner {
    /// The end that says the frame.
    Speaker,
    /// The end that hears it.
    Hearer,
}

/// What kind of transfer begins.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// The speaker sends into memory that the hearer has opened. Its ranges follow.
    Write,
    /// The hearer sends from memory that it has opened. Its ranges and the speaker's shape follow.
    Read,
    /// The speaker sends, once the hearer has said where to.
    Send,
}

/// So many bytes of a peer's memory, in ranges under one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Run {
    /// What opens it.
    pub key: RegionKey,
    /// Offset and length of each, in bytes; no length is 0.
    pub ranges: Vec<(u64, u64)>,
}

/// So many parts of one length after another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Repeat {
    /// Length of each, in bytes; not 0.
    pub length: u64,
    /// How many; not 0.
    pub count: u32,
}

/// The part of a transfer that one message carries.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Chunk {
    /// Whose number it is.
    pub owner: Owner,
    /// The transfer.
    pub transfer: TransferId,
    /// Its first byte, counted over all ranges of the transfer.
    pub start: u64,
    /// Its bytes.
    pub length: u32,
}

/// Why a peer does not do what it was asked.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum Refusal {
    /// The key opens nothing: it was never given out, was taken back, or is of a former life of the peer.
    #[error(
        "the key opens nothing at the peer: it was taken back, or the peer was restarted; advertise again"
    )]
    UnknownKey,
    /// A range reaches outside of what the key opens.
    #[error("a range reaches outside of what the peer has advertised")]
    OutOfRange,
    /// A message is longer than what the peer receives into.
    #[error("the message is longer than what the peer receives into")]
    TooLong,
    /// The peer has no room for another transfer of this size.
    #[error("the peer takes no more transfers at the moment; wait for some to end")]
    TooMany,
    /// The peer has given the transfer up.
    #[error("the peer has withdrawn it")]
    Withdrawn,
}

/// How a transfer ended at the end that says so.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// Every byte is visible at the receiving end.
    Landed,
    /// Nothing of it counts.
    Refused(Refusal),
    /// Bytes of it were lost with a rail.
    RailLost(RailIndex),
    /// Memory that it uses was taken away at the end that says so.
    MemoryGone,
}

/// One word on the control stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// A transfer begins, under a number that is larger than any before.
    Begin {
        /// Its number, of the speaker.
        transfer: TransferId,
        /// What it is.
        kind: Kind,
        /// Its bytes.
        total: u64,
        /// Ranges that follow in frames of their own, none of length 0; none for [`Kind::Send`].
        ranges: u32,
        /// A counter of the hearer that goes up by one when a write has landed; only for [`Kind::Write`].
        counter: Option<u32>,
    },
    /// More ranges of a transfer of the speaker that has begun.
    Ranges {
        /// Its number.
        transfer: TransferId,
        /// In the order of its bytes.
        runs: Vec<Run>,
    },
    /// How the memory is cut into which the speaker of this frame receives: more parts of it. For a read of the
    /// speaker, or a send of the hearer, which may begin once the shape has all its bytes.
    Shape {
        /// Whose number it is.
        owner: Owner,
        /// Its number.
        transfer: TransferId,
        /// In the order of its bytes.
        parts: Vec<Repeat>,
    },
    /// What the speaker's next messages on a rail are.
    Chunks {
        /// The rail.
        rail: RailIndex,
        /// How many messages the speaker announced on this rail before these.
        before: u64,
        /// In the order of the messages.
        chunks: Vec<Chunk>,
    },
    /// The last word of the end that receives about a transfer, or of the other one if it cannot go on.
    Fin {
        /// Whose number it is.
        owner: Owner,
        /// Its number.
        transfer: TransferId,
        /// How it ended.
        verdict: Verdict,
    },
    /// A part of a notification.
    Notify {
        /// The write of the speaker after which it is delivered, if it waits for one.
        after: Option<TransferId>,
        /// Whether more parts follow, before any other notification.
        more: bool,
        /// At most [`LONGEST_PIECE`]; not empty if more parts follow.
        bytes: Bytes,
    },
    /// Asks for a sign of life.
    Ping {
        /// Comes back.
        number: u64,
    },
    /// The sign of life.
    Pong {
        /// That of the ping.
        number: u64,
    },
    /// The speaker ends the link.
    Goodbye {
        /// Why, for people; at most [`LONGEST_TEXT`].
        why: String,
    },
}
