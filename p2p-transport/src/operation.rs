//! What a caller submits, and how it ends.

use crate::{RegionId, Token};

/// A range of registered memory.
///
/// Checked against its region when submitted: outside of it, or with a region that is stale, retired or of
/// another NIC, the operation ends [`OpFault::BadSlice`] and touches nothing (laws 5, 8).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Slice {
    /// The region.
    pub region: RegionId,
    /// First byte, counted from the start of the region.
    pub offset: u64,
    /// Length in bytes. 0 is legal, with an offset that lies in the region or at its end.
    pub len: u32,
}

/// Two-sided work, which every backend does.
///
/// The k-th message that a connection sends meets the k-th receive of its peer (law 3). A message gathers
/// from, and scatters to, one to [`Limits::max_slices`](crate::Limits::max_slices) slices, which the two ends
/// may cut differently (law 14). The list is copied before `submit` returns; the memory is not.
///
/// An operation that ends [`Cancelled`](Outcome::Cancelled), or [`Failed`](Outcome::Failed) with anything but
/// [`Truncated`](OpFault::Truncated) or [`Unplaced`](OpFault::Unplaced), never started: it does not count in that order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Op<'a> {
    /// Sends `from` as one message.
    Send {
        /// Returned with the completion.
        token: Token,
        /// What to send, in this order.
        from: &'a [Slice],
    },
    /// Receives one message into `into`.
    Recv {
        /// Returned with the completion.
        token: Token,
        /// Where its bytes belong, in this order. The message may be shorter.
        into: &'a [Slice],
    },
}

impl<'a> Op<'a> {
    /// What the caller named it.
    pub const fn token(&self) -> Token {
        match *self {
            Op::Send { token, .. } | Op::Recv { token, .. } => token,
        }
    }

    /// Its slices.
    pub const fn slices(&self) -> &'a [Slice] {
        match *self {
            Op::Send { from: slices, .. } | Op::Recv { into: slices, .. } => slices,
        }
    }
}

/// How an operation ended. `Copy`, so that a completion never allocates.
///
/// After its completion a backend neither reads nor writes the memory of an operation any more.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Of a receive: all bytes are in place and visible to work submitted afterwards, on the host or on any
    /// stream of a device (law 4). Of a send: the memory may be changed; the bytes reach the peer's matching
    /// receive, also when this end closes the connection next, unless the connection is lost.
    Done {
        /// Bytes of the message. Of a receive on a connection that does not
        /// [check lengths](crate::Limits::checks_length): the bytes that were posted.
        len: u32,
    },
    /// Withdrawn before the backend started it (law 18).
    Cancelled,
    /// The connection ended first; [`Transport::why`](crate::Transport::why) has the reason. How many bytes
    /// were moved until then is unknown.
    ConnLost,
    /// This operation alone failed; the connection goes on.
    Failed(OpFault),
}

/// Why one operation failed while its connection goes on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum OpFault {
    /// The message that met this receive is longer than it. It took its place in the order; what is in the
    /// receive's memory is unspecified, and nothing outside was written. A backend that knows no smaller
    /// failure loses the connection as well (law 15).
    #[error("the message is longer than the receive posted for it: both ends must agree on lengths")]
    Truncated,
    /// A slice is not inside a live region of the connection's NIC.
    #[error(
        "a slice is outside its region, or its region is retired or of another NIC: register the memory on this NIC"
    )]
    BadSlice,
    /// Longer than [`Limits::max_message`](crate::Limits::max_message).
    #[error("the message is longer than Limits::max_message: cut it")]
    TooLong,
    /// No slice, or more than [`Limits::max_slices`](crate::Limits::max_slices). An empty message has one
    /// slice of length 0.
    #[error("a message has at least one slice and at most Limits::max_slices")]
    SliceCount,
    /// The message arrived and could not be put in place, for a defect of whoever sent or placed it. It took its
    /// place in the order; what is in the receive's memory is unspecified.
    #[error("the message arrived and could not be put in place: the log says why")]
    Unplaced,
    /// The peer refused a one-sided access: its key is stale, or the range is outside what was exported.
    #[error("the peer refused the access: ask it for a new export")]
    Remote,
}

/// How much of a batch was taken.
///
/// The rest was not looked at: it has no effect and produces no event (law 2).
#[must_use = "what was not accepted has to be submitted again"]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// Length of the accepted prefix.
    pub count: usize,
    /// Why it is shorter than the batch; `None` if it is the whole batch.
    pub stopped: Option<Stop>,
}

impl Accepted {
    /// A whole batch of `count` operations.
    pub const fn all(count: usize) -> Self {
        Self { count, stopped: None }
    }

    /// The first `count` operations, and why not the next one.
    pub const fn prefix(count: usize, stop: Stop) -> Self {
        Self { count, stopped: Some(stop) }
    }
}

/// Why a batch was cut short. Not an error: backpressure is a value.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Stop {
    /// There is no room for this operation: try again after the next completion of this connection (law 11),
    /// or after `Connected`.
    Busy,
    /// The connection is closing or closed, or its id is stale.
    Closed,
}
