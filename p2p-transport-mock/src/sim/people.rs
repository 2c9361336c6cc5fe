//! Who takes part in a simulated workload, and what they remember.

use p2p_transport::{ConnId, Limits, OpFault, RegionId, RemoteSlice, Slice, Token};

use super::bed::Bed;
use super::talk::Talker;
use crate::MockTransport;

/// One process.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) transport: MockTransport,
    pub(super) nics: u16,
    pub(super) beds: Vec<Bed>,
    pub(super) conns: Vec<Conn>,
    pub(super) talker: Talker,
    /// Regions that are gone, for using them nevertheless.
    pub(super) stale: Vec<RegionId>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ConnState {
    Pending,
    Connected,
    Closed,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) nic: u16,
    pub(super) pair: usize,
    pub(super) side: usize,
    pub(super) state: ConnState,
    pub(super) closed_by_me: bool,
    /// The code of the reason it ended for.
    pub(super) code: Option<i32>,
    pub(super) limits: Option<Limits>,
    pub(super) pending: Vec<Pending>,
}

impl Conn {
    pub(super) const fn new(id: ConnId, nic: u16, pair: usize, side: usize) -> Self {
        let (state, closed_by_me, code, limits) = (ConnState::Pending, false, None, None);
        Self { id, nic, pair, side, state, closed_by_me, code, limits, pending: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Work {
    Send,
    Recv,
    Write,
    Read,
}

/// An accepted operation.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) token: Token,
    pub(super) work: Work,
    /// Its position among those of its direction.
    pub(super) position: usize,
    /// Bed and block; none if it is bad on purpose.
    pub(super) block: Option<(usize, usize)>,
    pub(super) slices: Vec<Slice>,
    pub(super) fault: Option<OpFault>,
    pub(super) withdrawn: bool,
    pub(super) remote: Option<Remote>,
}

/// The peer's part of a one-sided operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remote {
    pub(super) person: usize,
    pub(super) bed: usize,
    pub(super) block: usize,
    pub(super) local: Slice,
    pub(super) slice: RemoteSlice,
    pub(super) uid: u64,
    /// It was stale when it was used.
    pub(super) stale: bool,
    pub(super) notify: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Open,
    Done,
    /// It never counted in the order of messages.
    Gone,
    Lost,
}

/// One message that was sent, or a receive that was posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) uid: u64,
    pub(super) len: u32,
    pub(super) fate: Fate,
}

/// Messages in one direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) sends: Vec<Item>,
    pub(super) recvs: Vec<Item>,
}

impl Way {
    /// Those that count.
    pub(super) fn counted(items: &[Item]) -> usize {
        items.iter().filter(|item| item.fate != Fate::Gone).count()
    }

    pub(super) fn done(items: &[Item]) -> usize {
        items.iter().filter(|item| item.fate == Fate::Done).count()
    }

    /// The send that the receive at a position meets.
    pub(super) fn met(&self, position: usize) -> Option<Item> {
        let ordinal = Self::counted(&self.recvs[..position]);
        self.sends.iter().filter(|item| item.fate != Fate::Gone).nth(ordinal).copied()
    }
}

/// Two ends: who, and which of their connections.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) ends: [(usize, usize); 2],
    /// The messages that each side sends.
    pub(super) ways: [Way; 2],
    /// Values that the peer of each side was promised, with the write they belong to.
    pub(super) told: [Vec<(u32, Remote)>; 2],
    /// The length that all messages have, where lengths are not checked.
    pub(super) uniform: Option<u32>,
}
