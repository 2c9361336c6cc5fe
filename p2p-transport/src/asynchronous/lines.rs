//! What the driver knows of connections and regions: operations that wait for room, and uses that keep a
//! region from being retired.

use crate::{ConnId, Id, RegionId, Slice};

use super::Connection;
use super::fate::Fate;
use super::shared::Reply;
use super::slot::NONE;
use super::waiters::Block;
use super::work::Way;

use std::sync::Arc;

/// What the driver knows of a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Not with the driver.
    Absent,
    /// Waits for room on its connection, before this slot.
    Listed(u32),
    /// Under way in the transport.
    Sent,
}

/// Slots of one connection and way that wait for room, in the order in which they came. Each one's place names
/// the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    first: u32,
    last: u32,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };

    pub(super) const fn first(self) -> u32 {
        self.first
    }

    pub(super) fn push(&mut self, places: &mut [Place], slot: u32) {
        places[slot as usize] = Place::Listed(NONE);
        match self.last {
            NONE => self.first = slot,
            last => places[last as usize] = Place::Listed(slot),
        }
        self.last = slot;
    }

    pub(super) fn pop(&mut self, places: &mut [Place]) -> Option<u32> {
        let slot = self.first;
        let Place::Listed(next) = *places.get(slot as usize)? else { return None };
        self.first = next;
        if next == NONE {
            self.last = NONE;
        }
        places[slot as usize] = Place::Absent;
        Some(slot)
    }

    /// Takes out a slot that is in this list.
    pub(super) fn remove(&mut self, places: &mut [Place], slot: u32) {
        if self.first == slot {
            self.pop(places);
            return;
        }
        let mut before = self.first;
        while let Some(&Place::Listed(next)) = places.get(before as usize) {
            if next == slot {
                let Place::Listed(after) = places[slot as usize] else { return };
                places[before as usize] = Place::Listed(after);
                places[slot as usize] = Place::Absent;
                if self.last == slot {
                    self.last = before;
                }
                return;
            }
            before = next;
        }
    }
}

/// A connection, until its `Closed`.
pub(super) struct Line {
    pub(super) id: ConnId,
    lists: [List; Way::COUNT],
    /// No room for the next one, until something completes.
    pub(super) blocked: [bool; Way::COUNT],
    /// Whether it is in the list of connections to be looked at.
    pub(super) marked: bool,
    /// Who waits for it to be connected.
    pub(super) reply: Option<Reply<Connection>>,
    pub(super) fate: Arc<Fate>,
    pub(super) block: Arc<Block>,
}

impl Line {
    pub(super) fn new(id: ConnId, reply: Reply<Connection>, block: Arc<Block>) -> Self {
        Self {
            id,
            lists: [List::EMPTY; Way::COUNT],
            blocked: [false; Way::COUNT],
            marked: false,
            reply: Some(reply),
            fate: Arc::new(Fate::default()),
            block,
        }
    }

    pub(super) const fn list(&mut self, way: Way) -> &mut List {
        &mut self.lists[way as usize]
    }
}

/// Values found by the position of an id, which must fit.
pub(super) struct ById<T>(Vec<Option<T>>);

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ById<T> {
    pub(super) fn insert(&mut self, id: impl Id, value: T) {
        let length = self.0.len().max(id.index() + 1);
        self.0.resize_with(length, || None);
        self.0[id.index()] = Some(value);
    }

    fn at(&mut self, id: impl Id) -> Option<&mut Option<T>> {
        self.0.get_mut(id.index())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.0.drain(..).flatten()
    }
}

impl ById<Line> {
    pub(super) fn line(&mut self, id: ConnId) -> Option<&mut Line> {
        self.at(id)?.as_mut().filter(|line| line.id == id)
    }

    pub(super) fn end(&mut self, id: ConnId) -> Option<Line> {
        self.at(id)?.take_if(|line| line.id == id)
    }
}

/// A region, until its `Retired`.
pub(super) struct Hold {
    pub(super) id: RegionId,
    /// Slices of operations that wait for room.
    waiting: u32,
    /// Whether it is to be retired when nothing waits any more.
    retiring: bool,
    pub(super) reply: Option<Reply<Box<dyn p2p_memory::Memory>>>,
}

impl Hold {
    pub(super) const fn new(id: RegionId) -> Self {
        Self { id, waiting: 0, retiring: false, reply: None }
    }
}

impl ById<Hold> {
    fn hold(&mut self, id: RegionId) -> Option<&mut Hold> {
        self.at(id)?.as_mut().filter(|hold| hold.id == id)
    }

    pub(super) fn end(&mut self, id: RegionId) -> Option<Hold> {
        self.at(id)?.take_if(|hold| hold.id == id)
    }

    /// Whether an operation uses a region that is to be retired.
    pub(super) fn refuses(&mut self, mut slices: impl Iterator<Item = Slice>) -> bool {
        slices.any(|slice| self.hold(slice.region).is_some_and(|hold| hold.retiring))
    }

    /// An operation begins to wait.
    pub(super) fn enlist(&mut self, slices: impl Iterator<Item = Slice>) {
        for slice in slices {
            if let Some(hold) = self.hold(slice.region) {
                hold.waiting += 1;
            }
        }
    }

    /// An operation waits no more; `retire` is called with each region that only waited for this.
    pub(super) fn delist(&mut self, slices: impl Iterator<Item = Slice>, mut retire: impl FnMut(RegionId)) {
        for slice in slices {
            let Some(hold) = self.hold(slice.region) else { continue };
            hold.waiting = hold.waiting.saturating_sub(1);
            if hold.waiting == 0 && hold.retiring {
                retire(hold.id);
            }
        }
    }

    /// Marks a region as retiring. True if it can be retired at once.
    pub(super) fn retire(&mut self, id: RegionId, reply: Option<Reply<Box<dyn p2p_memory::Memory>>>) -> bool {
        let Some(hold) = self.hold(id) else { return false };
        hold.retiring = true;
        hold.reply = reply;
        hold.waiting == 0
    }
}
