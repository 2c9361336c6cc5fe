//! What peers may reach: keys that open parts of registered memory, and the items in which keys travel.
//!
//! A key is a place in a table, a generation, and a random secret. It opens what it was made for until it is taken
//! back, and nothing ever after: a place that is used again has another generation and another secret, and one whose
//! generations are used up is never used again.

mod item;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::hint::black_box;

use p2p_proto::frame::Refusal;
use p2p_proto::id::{Epoch, LocalRegion, RegionKey};
use p2p_proto::list::LocalRange;
use p2p_proto::peer::Exports;
use p2p_transport::{Error, ErrorKind};

pub use item::{ITEM_BYTES, Item, ItemError};

use crate::registry::MrId;

/// What a peer may do with memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Both.
    Both,
}

impl Access {
    /// Whether a peer may do this.
    pub const fn allows(self, write: bool) -> bool {
        match self {
            Self::Read => !write,
            Self::Write => write,
            Self::Both => true,
        }
    }
}

/// The keys of an endpoint.
#[derive(Debug)]
pub struct ExportTable {
    epoch: Epoch,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Places in use, by the registration whose memory they open.
    of: BTreeSet<(MrId, u32)>,
    /// Memory that opens to nobody for the time being.
    held_back: Vec<LocalRegion>,
}

struct Place {
    /// Of what lies here, or lay here last.
    generation: u32,
    secret: u64,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    mr: MrId,
    range: LocalRange,
    access: Access,
}

impl ExportTable {
    /// No keys, in this life of the endpoint.
    pub const fn new(epoch: Epoch) -> Self {
        Self { epoch, places: Vec::new(), free: Vec::new(), of: BTreeSet::new(), held_back: Vec::new() }
    }

    /// Opens a range to peers, until it is taken back. It is of this registration, and begins at this address.
    /// `random` gives a number that nobody can guess.
    ///
    /// # Errors
    ///
    /// [`Exhausted`](ErrorKind::Exhausted) when there is no place left; [`Misuse`](ErrorKind::Misuse) for a range
    /// beyond the end of all addresses.
    pub fn advertise(
        &mut self,
        mr: MrId,
        address: u64,
        range: LocalRange,
        access: Access,
        random: impl FnOnce() -> u64,
    ) -> Result<Item, Error> {
        if address.checked_add(range.len).is_none() || range.offset.checked_add(range.len).is_none() {
            let text = format!("{} bytes at {address:#x} reach beyond the end of all addresses", range.len);
            return Err(Error::misuse("advertise", text));
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => u32::try_from(self.places.len()).map_err(|_| {
                let text = "all places for keys are in use: take some back";
                Error::new(ErrorKind::Exhausted, "advertise", text)
            })?,
        };
        if index as usize == self.places.len() {
            self.places.push(Place { generation: 0, secret: 0, open: None });
        }
        let place = &mut self.places[index as usize];
        place.generation += 1;
        place.secret = random();
        place.open = Some(Open { mr, range, access });
        self.of.insert((mr, index));
        let key = RegionKey { index, generation: place.generation, secret: place.secret };
        Ok(Item::new(key, self.epoch, address, range.len, access))
    }

    /// What this key opened opens to nobody from here on. False if it opened nothing.
    pub fn take_back(&mut self, key: RegionKey) -> bool {
        let Some(open) = self.find(key) else { return false };
        self.of.remove(&(open.mr, key.index));
        self.close(key.index);
        true
    }

    /// As [`take_back`](Self::take_back), of all keys of a registration. Returns how many there were.
    pub fn take_back_all_of(&mut self, mr: MrId) -> usize {
        let first = (mr, 0);
        let all: Vec<u32> = self.of.range(first..=(mr, u32::MAX)).map(|(_, index)| *index).collect();
        for &index in &all {
            self.of.remove(&(mr, index));
            self.close(index);
        }
        all.len()
    }

    /// These regions, and no others, open to nobody from here on, whatever the key.
    pub fn hold_back(&mut self, regions: Vec<LocalRegion>) {
        self.held_back = regions;
    }

    /// The regions that are held back.
    pub fn held_back(&self) -> &[LocalRegion] {
        &self.held_back
    }

    /// Whether a region is held back.
    pub fn is_held_back(&self, region: LocalRegion) -> bool {
        self.held_back.contains(&region)
    }

    /// Keys that open something.
    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether no key opens anything.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    fn close(&mut self, index: u32) {
        let Some(place) = self.places.get_mut(index as usize) else { return };
        place.open = None;
        if place.generation < u32::MAX {
            self.free.push(index);
        }
    }

    /// Takes as long for a key that is nearly right as for any other.
    fn find(&self, key: RegionKey) -> Option<Open> {
        let place = self.places.get(key.index as usize)?;
        let differs = (place.secret ^ key.secret) | u64::from(place.generation ^ key.generation);
        place.open.filter(|_| black_box(differs) == 0)
    }
}

impl Exports for ExportTable {
    fn open(&self, key: RegionKey, offset: u64, len: u64, write: bool) -> Result<LocalRange, Refusal> {
        let Open { range, access, .. } = self.find(key).ok_or(Refusal::UnknownKey)?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= range.len);
        if !inside || !access.allows(write) {
            return Err(Refusal::OutOfRange);
        }
        if self.is_held_back(range.region) {
            return Err(Refusal::Withdrawn);
        }
        Ok(LocalRange { region: range.region, offset: range.offset + offset, len })
    }
}

impl std::fmt::Debug for Place {
    /// Without the secret: a log must not open memory.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("generation", &self.generation).field("open", &self.open).finish()
    }
}
