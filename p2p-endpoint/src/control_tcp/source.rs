//! Whom an event of the kernel is about, and which events are asked for.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, OwnedFd};

use p2p_transport::{DoorId, Id, StreamId};
use rustix::event::epoll::{self, EventData, EventFlags};

/// A socket that is nobody's: a stranger, or a closed stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct HeldId {
    index: u32,
    generation: NonZeroU32,
}

impl Id for HeldId {
    fn of(index: u32, generation: NonZeroU32) -> Self {
        Self { index, generation }
    }

    fn index(self) -> usize {
        self.index as usize
    }

    fn generation(self) -> NonZeroU32 {
        self.generation
    }
}

/// Whom an event of the kernel, or of ours, is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    Door(DoorId),
    Stream(StreamId),
    Held(HeldId),
}

const INDEX_BITS: u32 = 30;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

impl Source {
    pub(super) fn data(self) -> EventData {
        let pack = |kind: u64, index: usize, generation: NonZeroU32| {
            EventData::new_u64(u64::from(generation.get()) << 32 | kind << INDEX_BITS | index as u64)
        };
        match self {
            Self::Door(id) => pack(0, id.index(), id.generation()),
            Self::Stream(id) => pack(1, id.index(), id.generation()),
            Self::Held(id) => pack(2, Id::index(id), id.generation()),
        }
    }

    pub(super) fn of(data: EventData) -> Option<Self> {
        let data = data.u64();
        let generation = NonZeroU32::new((data >> 32) as u32)?;
        let index = (data & INDEX_MASK) as u32;
        match (data as u32) >> INDEX_BITS {
            0 => Some(Self::Door(DoorId::of(index, generation))),
            1 => Some(Self::Stream(StreamId::of(index, generation))),
            2 => Some(Self::Held(HeldId::of(index, generation))),
            _ => None,
        }
    }
}

/// Told again as long as somebody waits.
pub(super) const DOOR: EventFlags = EventFlags::IN;
/// Told again as long as something is there.
pub(super) const HELD: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
/// Told once for each change: nobody need write or read before he wants to.
pub(super) const STREAM: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

pub(super) fn watch(epoll: &OwnedFd, source: impl AsFd, about: Source, flags: EventFlags) -> io::Result<()> {
    Ok(epoll::add(epoll, source, about.data(), flags)?)
}

pub(super) fn unwatch(epoll: &OwnedFd, source: impl AsFd) {
    let _ = epoll::delete(epoll, source);
}
