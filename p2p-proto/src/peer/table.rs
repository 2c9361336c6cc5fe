//! The transfers of a link: where they lie, and under which numbers.

use std::collections::VecDeque;

use super::entry::Entry;
use crate::id::TransferId;

/// A transfer's place. It finds nothing once the transfer is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Handle {
    index: u32,
    generation: u32,
}

/// All transfers that are not over and quiet.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    /// By the numbers of this end.
    pub(super) ours: Numbers,
    /// By the numbers of the peer.
    pub(super) theirs: Numbers,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    entry: Option<Entry>,
}

impl Table {
    pub(super) fn insert(&mut self, entry: Entry) -> Handle {
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.entry = Some(entry);
            return Handle { index, generation: place.generation };
        }
        // Caps keep the number of transfers far below 2^32.
        let index = self.places.len() as u32;
        self.places.push(Place { generation: 0, entry: Some(entry) });
        Handle { index, generation: 0 }
    }

    pub(super) fn get(&self, handle: Handle) -> Option<&Entry> {
        let place = self.places.get(handle.index as usize)?;
        place.entry.as_ref().filter(|_| place.generation == handle.generation)
    }

    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Entry> {
        let place = self.places.get_mut(handle.index as usize)?;
        place.entry.as_mut().filter(|_| place.generation == handle.generation)
    }

    /// Takes a transfer out. Its numbers stay with the caller.
    pub(super) fn remove(&mut self, handle: Handle) -> Option<Entry> {
        let place = self.places.get_mut(handle.index as usize)?;
        if place.generation != handle.generation {
            return None;
        }
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(handle.index);
        Some(entry)
    }

    /// All of them, by place.
    pub(super) fn handles(&self) -> Vec<Handle> {
        let places = (0..).zip(&self.places);
        let live = places.filter(|(_, place)| place.entry.is_some());
        live.map(|(index, place)| Handle { index, generation: place.generation }).collect()
    }

    pub(super) const fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

/// Numbers that count up, each with a transfer as long as it lives.
///
/// A row sorted by number, with holes where transfers are gone: a search, and no hashing, for each chunk.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    row: VecDeque<(u64, Option<Handle>)>,
    holes: usize,
    last: u64,
}

/// Holes that are left alone.
const FEW_HOLES: usize = 64;

impl Numbers {
    /// The largest number so far.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Takes note of a number without a transfer; it is larger than any before.
    pub(super) fn pass(&mut self, number: u64) {
        self.last = number;
    }

    /// Adds a number, which is larger than any before.
    pub(super) fn add(&mut self, number: u64, handle: Handle) {
        self.last = number;
        self.row.push_back((number, Some(handle)));
    }

    /// The live transfer of this number.
    pub(super) fn find(&self, number: TransferId) -> Option<Handle> {
        self.row.get(self.place(number)?)?.1
    }

    /// Lets a live number mean another transfer.
    pub(super) fn change(&mut self, number: TransferId, handle: Handle) {
        if let Some(entry) = self.place(number).and_then(|place| self.row.get_mut(place)) {
            entry.1 = Some(handle);
        }
    }

    /// The transfer of this number is gone.
    pub(super) fn remove(&mut self, number: TransferId) {
        let Some(entry) = self.place(number).and_then(|place| self.row.get_mut(place)) else { return };
        self.holes += usize::from(entry.1.take().is_some());
        while self.row.front().is_some_and(|(_, handle)| handle.is_none()) {
            self.row.pop_front();
            self.holes -= 1;
        }
        if self.holes > FEW_HOLES && self.holes * 2 > self.row.len() {
            self.row.retain(|(_, handle)| handle.is_some());
            self.holes = 0;
        }
    }

    /// Whether the number was given out at some time.
    pub(super) const fn was_given(&self, number: TransferId) -> bool {
        number.0 > 0 && number.0 <= self.last
    }

    fn place(&self, number: TransferId) -> Option<usize> {
        self.row.binary_search_by_key(&number.0, |(number, _)| *number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_find_what_lives_and_forget_the_rest() {
        let mut numbers = Numbers::default();
        for number in 1..=1000u64 {
            numbers.add(number, Handle { index: number as u32, generation: 0 });
        }
        for number in (1..=1000u64).filter(|number| number % 10 != 1) {
            numbers.remove(TransferId(number));
        }
        assert!(numbers.row.len() < 300, "holes are closed: {}", numbers.row.len());
        for number in 1..=1000u64 {
            let found = numbers.find(TransferId(number)).map(|handle| handle.index);
            assert_eq!(found, (number % 10 == 1).then_some(number as u32));
        }
        let holes = numbers.row.iter().filter(|(_, handle)| handle.is_none()).count();
        assert_eq!(numbers.holes, holes);
        numbers.remove(TransferId(5));
        assert!(numbers.was_given(TransferId(5)) && !numbers.was_given(TransferId(1001)));
        assert!(!numbers.was_given(TransferId(0)));
    }
}
