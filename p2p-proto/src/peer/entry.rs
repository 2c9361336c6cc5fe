//! One transfer at one end.

use super::covered::Covered;
use super::words::Outcome;
use crate::frame::{Kind, Owner};
use crate::id::{LocalRegion, TransferId};
use crate::list::{Cursor, List, LocalRange, RemoteList, Shape};
use crate::transfer::{Part, State};

/// What a transfer is at this end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// A transfer that this end began.
    Own(Kind),
    /// A transfer that the peer began.
    Peers(Kind),
    /// A receive of this end, while no send of the peer has met it. Afterwards it is the peer's send.
    Recv,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) role: Role,
    /// Of the end that began it.
    pub(super) number: TransferId,
    /// What the caller knows it by, if it is the caller's.
    pub(super) report: Option<TransferId>,
    pub(super) part: Part,
    pub(super) state: State,
    /// Why it is over, once it is.
    pub(super) outcome: Outcome,
    /// False once the caller has given it up.
    pub(super) wanted: bool,
    pub(super) total: u64,
    pub(super) local: List<LocalRange>,
    pub(super) remote: Remote,
    /// Of the peer's ranges: those that have not come.
    pub(super) due: u32,
    /// Of the peer: ranges and repeats that it holds here.
    pub(super) held_ranges: u32,
    /// Of the receiver: how its memory is cut, as long as that is not all said.
    pub(super) shape: Shape,
    /// Ranges of `remote` that are said.
    pub(super) ranges_said: usize,
    /// Repeats of `shape` that are said.
    pub(super) repeats_said: usize,
    /// Of the sender: bytes that may be cut, since the peer has heard of its ranges.
    pub(super) open_to: u64,
    /// Of the sender: where the next chunk begins, in `local` and in `remote`.
    pub(super) at: Cursor,
    pub(super) remote_at: Cursor,
    /// Of the sender: whether it stands in the row of those that have something to cut.
    pub(super) in_row: bool,
    /// Of the receiver: what was announced.
    pub(super) covered: Covered,
    /// Of the receiver: bytes that are in place. Of the sender: bytes that the transport is done with.
    pub(super) moved: u64,
    /// Messages with its memory that are with the transport; of the sender also those that wait for it.
    pub(super) messages: u32,
    /// Goes up at the end.
    pub(super) counter: Option<u32>,
    /// Bytes of notifications that wait for it: of the peer, or of this end.
    pub(super) held_notices: usize,
}

/// The other end's memory.
#[derive(Debug)]
pub(super) enum Remote {
    Unknown,
    Ranges(RemoteList),
    Shape(Shape),
}

impl Entry {
    pub(super) fn new(role: Role, number: TransferId, part: Part, total: u64) -> Self {
        let report = match role {
            Role::Own(_) | Role::Recv => Some(number),
            Role::Peers(_) => None,
        };
        Self {
            role,
            number,
            report,
            part,
            state: State::Asking,
            outcome: Outcome::Done { bytes: total },
            wanted: true,
            total,
            local: List::new(),
            remote: Remote::Unknown,
            due: 0,
            held_ranges: 0,
            shape: Shape::new(),
            ranges_said: 0,
            repeats_said: 0,
            open_to: 0,
            at: Cursor::default(),
            remote_at: Cursor::default(),
            in_row: false,
            covered: Covered::default(),
            moved: 0,
            messages: 0,
            counter: None,
            held_notices: 0,
        }
    }

    /// Whose number it has, in what this end says.
    pub(super) const fn owner(&self) -> Owner {
        match self.role {
            Role::Own(_) | Role::Recv => Owner::Speaker,
            Role::Peers(_) => Owner::Hearer,
        }
    }

    /// Whether the peer began it.
    pub(super) const fn is_peers(&self) -> bool {
        matches!(self.role, Role::Peers(_))
    }

    pub(super) fn uses(&self, region: LocalRegion) -> bool {
        self.local.ranges().iter().any(|range| range.region == region)
    }

    /// Of the sender: bytes that are announced.
    pub(super) const fn cut(&self) -> u64 {
        self.at.position()
    }
}
