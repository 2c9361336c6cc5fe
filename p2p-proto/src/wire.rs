//! Frames as bytes.
//!
//! A frame begins with eight bytes: its length with them (`u32`), its kind (`u16`) and its flags (`u16`). A body
//! of fixed fields follows, then lists or bytes to the end of the frame; numbers are little-endian. Flags and
//! fields that a kind does not use are 0. What the bytes of each kind are stands in `wire/tests/golden.rs`.
//!
//! Everything is checked against the limits of [`frame`](crate::frame) before anything is allocated for it, but
//! one frame at a time: what a frame means after those before it is not known here.

mod decode;
mod encode;
mod parse;
pub(crate) mod reader;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use encode::encode;
pub(crate) use encode::text as cut;

use crate::frame::{LONGEST_FRAME, LONGEST_PIECE, LONGEST_TEXT};

/// Ranges that fit one [`Ranges`](crate::frame::Frame::Ranges) frame, even if each has a key of its own.
pub const RANGES_PER_FRAME: usize = (LONGEST_FRAME - size::RANGES) / (size::RUN + size::RANGE);
/// Repeats that fit one [`Shape`](crate::frame::Frame::Shape) frame.
pub const REPEATS_PER_FRAME: usize = (LONGEST_FRAME - size::SHAPE) / size::REPEAT;
/// Chunks that fit one [`Chunks`](crate::frame::Frame::Chunks) frame.
pub const CHUNKS_PER_FRAME: usize = (LONGEST_FRAME - size::CHUNKS) / size::CHUNK;

/// Why bytes are no frame. Nothing that follows them can be understood.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// No frame has this length.
    #[error("a frame of {0} bytes, and a frame has from {header} to {LONGEST_FRAME}", header = size::HEADER)]
    Length(u32),
    /// No frame is of this kind.
    #[error("a frame of unknown kind {0}; run the same release at both ends")]
    Kind(u16),
    /// A field has a value that it cannot have.
    #[error("a frame {frame:?} that breaks a rule: {rule}")]
    Rule {
        /// Name of the frame's kind.
        frame: &'static str,
        /// What is wrong.
        rule: &'static str,
    },
}

/// Bytes of things. Those of frames are with the header, and without lists.
mod size {
    pub(crate) const HEADER: usize = 8;
    pub(super) const RANGES: usize = HEADER + 16;
    pub(super) const RUN: usize = 24;
    pub(super) const RANGE: usize = 16;
    pub(super) const SHAPE: usize = HEADER + 16;
    pub(super) const REPEAT: usize = 12;
    pub(super) const CHUNKS: usize = HEADER + 16;
    pub(super) const CHUNK: usize = 24;
    pub(super) const NOTIFY: usize = HEADER + 8;
}
pub(crate) use size::HEADER;

const _: () = {
    assert!(size::RANGES + RANGES_PER_FRAME * (size::RUN + size::RANGE) <= LONGEST_FRAME);
    assert!(size::SHAPE + REPEATS_PER_FRAME * size::REPEAT <= LONGEST_FRAME);
    assert!(size::CHUNKS + CHUNKS_PER_FRAME * size::CHUNK <= LONGEST_FRAME);
    assert!(size::NOTIFY + LONGEST_PIECE <= LONGEST_FRAME);
    assert!(HEADER + LONGEST_TEXT <= LONGEST_FRAME);
    assert!(LONGEST_FRAME <= u32::MAX as usize);
};

/// Kinds of frames. Those of the handshake begin at 0x101.
mod kind {
    pub(super) const BEGIN: u16 = 1;
    pub(super) const RANGES: u16 = 2;
    pub(super) const SHAPE: u16 = 3;
    pub(super) const CHUNKS: u16 = 4;
    pub(super) const FIN: u16 = 5;
    pub(super) const NOTIFY: u16 = 6;
    pub(super) const PING: u16 = 7;
    pub(super) const PONG: u16 = 8;
    pub(super) const GOODBYE: u16 = 9;
}

/// Flags of frames.
mod flag {
    /// The transfer's number is of the end that hears the frame.
    pub(super) const HEARER: u16 = 1;
    /// There is a counter.
    pub(super) const COUNTER: u16 = 1;
    /// It waits for a write.
    pub(super) const AFTER: u16 = 1;
    /// More parts follow.
    pub(super) const MORE: u16 = 2;
}

/// Kinds of transfers.
mod transfer {
    pub(super) const WRITE: u16 = 0;
    pub(super) const READ: u16 = 1;
    pub(super) const SEND: u16 = 2;
}

/// Verdicts.
mod verdict {
    pub(super) const LANDED: u16 = 0;
    pub(super) const REFUSED: u16 = 1;
    pub(super) const RAIL_LOST: u16 = 2;
    pub(super) const MEMORY_GONE: u16 = 3;
}

/// Refusals.
mod refusal {
    pub(super) const UNKNOWN_KEY: u16 = 0;
    pub(super) const OUT_OF_RANGE: u16 = 1;
    pub(super) const TOO_LONG: u16 = 2;
    pub(super) const TOO_MANY: u16 = 3;
    pub(super) const WITHDRAWN: u16 = 4;
}
