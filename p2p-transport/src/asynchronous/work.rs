//! What a transfer asks for and how it ended, in words that two threads may share.

use std::sync::atomic::Ordering::Relaxed;

use super::TransferError;
use super::sync::{AtomicU32, AtomicU64};
use crate::{ConnId, Id, OneSidedOp, OpFault, RegionId, RemoteSlice, Slice, Token};

/// What kind of operation: each has its own slots, waits for room apart from the others, and has its own order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Send,
    Recv,
    OneSided,
}

impl Way {
    pub(super) const COUNT: usize = 3;
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Send, Self::Recv, Self::OneSided];

    /// Of a slot, where each connection has `each` of every kind.
    pub(super) const fn of_slot(slot: u32, each: u32) -> Self {
        match slot / each % Self::COUNT as u32 {
            0 => Self::Send,
            1 => Self::Recv,
            _ => Self::OneSided,
        }
    }
}

/// What a transfer asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work<'a> {
    Send(&'a [Slice]),
    Recv(&'a [Slice]),
    /// Its token means nothing: the driver gives it one.
    OneSided(OneSidedOp),
}

impl Work<'_> {
    pub(super) const fn way(&self) -> Way {
        match self {
            Self::Send(_) => Way::Send,
            Self::Recv(_) => Way::Recv,
            Self::OneSided(_) => Way::OneSided,
        }
    }

    /// Its local slices.
    pub(super) const fn slices(&self) -> usize {
        match self {
            Self::Send(slices) | Self::Recv(slices) => slices.len(),
            Self::OneSided(_) => 1,
        }
    }
}

/// A slice.
#[derive(Debug, Default)]
struct SliceWords {
    region: AtomicU64,
    offset: AtomicU64,
    len: AtomicU32,
}

impl SliceWords {
    fn store(&self, slice: Slice) {
        self.region.store(pack(slice.region), Relaxed);
        self.offset.store(slice.offset, Relaxed);
        self.len.store(slice.len, Relaxed);
    }

    fn load(&self) -> Option<Slice> {
        let region: RegionId = unpack(self.region.load(Relaxed))?;
        Some(Slice { region, offset: self.offset.load(Relaxed), len: self.len.load(Relaxed) })
    }
}

const SEND: u32 = 0;
const RECV: u32 = 1;
const WRITE: u32 = 2;
const WRITE_AND_NOTIFY: u32 = 3;
const READ: u32 = 4;

/// Lowest bits of a shape, which say what kind it is. The rest: number of slices.
const KIND_BITS: u32 = 3;

/// An operation. Whoever owns the slot stores or loads it; everything is `Relaxed`, because owners follow each
/// other by other means.
#[derive(Debug, Default)]
pub(super) struct Words {
    conn: AtomicU64,
    shape: AtomicU32,
    slices: Box<[SliceWords]>,
    addr: AtomicU64,
    key: AtomicU64,
    len: AtomicU32,
    value: AtomicU32,
}

impl Words {
    /// With room for so many slices.
    pub(super) fn new(slices: u16) -> Self {
        Self { slices: (0..slices).map(|_| SliceWords::default()).collect(), ..Self::default() }
    }

    /// There are at most as many slices as fit.
    pub(super) fn store(&self, conn: ConnId, work: &Work<'_>) {
        self.conn.store(pack(conn), Relaxed);
        let local;
        let (kind, slices) = match *work {
            Work::Send(slices) => (SEND, slices),
            Work::Recv(slices) => (RECV, slices),
            Work::OneSided(op) => {
                local = [op.local()];
                let remote = op.remote();
                self.addr.store(remote.addr, Relaxed);
                self.key.store(remote.key, Relaxed);
                self.len.store(remote.len, Relaxed);
                let kind = match op {
                    OneSidedOp::Read { .. } => READ,
                    OneSidedOp::Write { notify: None, .. } => WRITE,
                    OneSidedOp::Write { notify: Some(value), .. } => {
                        self.value.store(value, Relaxed);
                        WRITE_AND_NOTIFY
                    }
                };
                (kind, &local[..])
            }
        };
        self.shape.store((slices.len() as u32) << KIND_BITS | kind, Relaxed);
        self.slices.iter().zip(slices).for_each(|(words, &slice)| words.store(slice));
    }

    fn kind(&self) -> u32 {
        self.shape.load(Relaxed) & ((1 << KIND_BITS) - 1)
    }

    /// Its connection and the way it goes.
    pub(super) fn operation(&self) -> (Option<ConnId>, Way) {
        let way = match self.kind() {
            SEND => Way::Send,
            RECV => Way::Recv,
            _ => Way::OneSided,
        };
        (unpack(self.conn.load(Relaxed)), way)
    }

    /// Its local slices.
    pub(super) fn slices(&self) -> impl Iterator<Item = Slice> {
        let count = (self.shape.load(Relaxed) >> KIND_BITS) as usize;
        self.slices.iter().take(count).filter_map(SliceWords::load)
    }

    /// The one-sided operation that it is, under this name.
    pub(super) fn one_sided(&self, token: Token) -> Option<OneSidedOp> {
        let local = self.slices().next()?;
        let (addr, key) = (self.addr.load(Relaxed), self.key.load(Relaxed));
        let remote = RemoteSlice { addr, key, len: self.len.load(Relaxed) };
        Some(match self.kind() {
            WRITE => OneSidedOp::Write { token, from: local, to: remote, notify: None },
            WRITE_AND_NOTIFY => {
                let notify = Some(self.value.load(Relaxed));
                OneSidedOp::Write { token, from: local, to: remote, notify }
            }
            READ => OneSidedOp::Read { token, from: remote, into: local },
            _ => return None,
        })
    }
}

fn pack<I: Id>(id: I) -> u64 {
    u64::from(id.generation().get()) << 32 | id.index() as u64
}

fn unpack<I: Id>(word: u64) -> Option<I> {
    std::num::NonZeroU32::new((word >> 32) as u32).map(|generation| I::of(word as u32, generation))
}

/// How a transfer ended.
pub(super) type Ended = Result<u32, TransferError>;

pub(super) fn encode(ended: Ended) -> u64 {
    let (kind, value) = match ended {
        Ok(len) => (0, len),
        Err(TransferError::Cancelled) => (1, 0),
        Err(TransferError::Lost) => (2, 0),
        Err(TransferError::Gone) => (3, 0),
        Err(TransferError::Failed(OpFault::Truncated)) => (4, 0),
        Err(TransferError::Failed(OpFault::BadSlice)) => (4, 1),
        Err(TransferError::Failed(OpFault::TooLong)) => (4, 2),
        Err(TransferError::Failed(OpFault::SliceCount)) => (4, 3),
        Err(TransferError::Failed(OpFault::Remote)) => (4, 4),
        Err(TransferError::Failed(OpFault::Unplaced)) => (4, 5),
    };
    kind << 32 | u64::from(value)
}

pub(super) fn decode(word: u64) -> Ended {
    Err(match (word >> 32, word as u32) {
        (0, len) => return Ok(len),
        (1, _) => TransferError::Cancelled,
        (2, _) => TransferError::Lost,
        (4, 0) => TransferError::Failed(OpFault::Truncated),
        (4, 1) => TransferError::Failed(OpFault::BadSlice),
        (4, 2) => TransferError::Failed(OpFault::TooLong),
        (4, 3) => TransferError::Failed(OpFault::SliceCount),
        (4, 4) => TransferError::Failed(OpFault::Remote),
        (4, _) => TransferError::Failed(OpFault::Unplaced),
        _ => TransferError::Gone,
    })
}
