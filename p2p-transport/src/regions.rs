//! Registered memory and who uses it: the part of laws 5, 7, 8 and 9 that is the same in every backend.

use std::collections::VecDeque;

use p2p_memory::{Memory, MemoryKind, OutOfBounds};

use crate::{Error, NicId, OpFault, RegionId, Slab, Slice};

/// The regions of a backend, each with a value `T` of the backend's own.
///
/// A region goes one way: live, retiring (no new users), unused, and, once [`next_retired`](Self::next_retired)
/// has named it, reclaimable. Its users are a plain count, because a transport has one owner. The backend
/// makes sure that no device reaches an unused region before it calls [`ready`](Self::ready).
#[derive(Default)]
pub struct Regions<T> {
    entries: Slab<RegionId, Entry<T>>,
    /// Unreported ones; as long as all of them, so that nothing is allocated later.
    ready: VecDeque<RegionId>,
}

struct Entry<T> {
    nic: NicId,
    length: usize,
    kind: MemoryKind,
    memory: Option<Box<dyn Memory>>,
    users: u32,
    state: State,
    value: T,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Live,
    /// Refuses new users; [`Regions::ready`] has not been called.
    Retiring,
    /// Waits to be reported.
    Ready,
    /// Reported.
    Retired,
}

impl<T> Regions<T> {
    /// No regions.
    pub const fn new() -> Self {
        Self { entries: Slab::new(), ready: VecDeque::new() }
    }

    /// Takes memory over.
    pub fn insert(&mut self, nic: NicId, memory: Box<dyn Memory>, value: T) -> RegionId {
        let (_, length) = memory.span();
        let (kind, memory) = (memory.kind(), Some(memory));
        let entry = Entry { nic, length, kind, memory, users: 0, state: State::Live, value };
        let id = self.entries.insert(entry);
        self.ready.reserve(self.entries.positions() - self.ready.len());
        id
    }

    /// Takes memory and value out again, for a registration that failed half-way.
    pub fn take_back(&mut self, id: RegionId) -> Option<(Box<dyn Memory>, T)> {
        let entry = self.entries.remove(id)?;
        Some((entry.memory?, entry.value))
    }

    /// The value of a region, whatever its state.
    pub fn value(&self, id: RegionId) -> Option<&T> {
        self.entries.get(id).map(|entry| &entry.value)
    }

    /// As [`value`](Self::value).
    pub fn value_mut(&mut self, id: RegionId) -> Option<&mut T> {
        self.entries.get_mut(id).map(|entry| &mut entry.value)
    }

    /// The memory of a region, unless it was leaked.
    pub fn memory(&self, id: RegionId) -> Option<&dyn Memory> {
        self.entries.get(id).and_then(|entry| entry.memory.as_deref())
    }

    /// NIC, kind and length in bytes of a region.
    pub fn facts(&self, id: RegionId) -> Option<(NicId, MemoryKind, usize)> {
        self.entries.get(id).map(|entry| (entry.nic, entry.kind, entry.length))
    }

    /// The regions that can be used: those to be made known to a new connection.
    pub fn live(&self) -> impl Iterator<Item = (RegionId, &T)> {
        let live = self.entries.iter().filter(|(_, entry)| entry.state == State::Live);
        live.map(|(id, entry)| (id, &entry.value))
    }

    /// The regions that are not reported as retired.
    pub fn iter(&self) -> impl Iterator<Item = (RegionId, &T)> {
        let unreported = self.entries.iter().filter(|(_, entry)| entry.state != State::Retired);
        unreported.map(|(id, entry)| (id, &entry.value))
    }

    /// Operations that use a region.
    pub fn users(&self, id: RegionId) -> Option<u32> {
        self.entries.get(id).map(|entry| entry.users)
    }

    /// Checks one slice of an operation on this NIC.
    ///
    /// # Errors
    ///
    /// [`OpFault::BadSlice`].
    #[inline]
    pub fn check(&self, nic: NicId, slice: Slice) -> Result<(), OpFault> {
        let entry = self.entries.get(slice.region).ok_or(OpFault::BadSlice)?;
        let offset = usize::try_from(slice.offset).map_err(|_| OpFault::BadSlice)?;
        OutOfBounds::check(offset, slice.len as usize, entry.length).map_err(|_| OpFault::BadSlice)?;
        if entry.nic == nic && entry.state == State::Live { Ok(()) } else { Err(OpFault::BadSlice) }
    }

    /// Checks the slices of a message on this NIC, and counts it as a user of each; returns its length. On a
    /// fault nothing was counted.
    ///
    /// # Errors
    ///
    /// [`OpFault`]: none or more than `max_slices`, one outside its region, more than `max_message` bytes.
    #[inline]
    pub fn hold(
        &mut self,
        nic: NicId,
        slices: &[Slice],
        max_slices: u16,
        max_message: u32,
    ) -> Result<u32, OpFault> {
        if slices.is_empty() || slices.len() > usize::from(max_slices) {
            return Err(OpFault::SliceCount);
        }
        let mut total = 0_u64;
        for &slice in slices {
            self.check(nic, slice)?;
            total += u64::from(slice.len);
        }
        if total > u64::from(max_message) {
            return Err(OpFault::TooLong);
        }
        for slice in slices {
            if let Some(entry) = self.entries.get_mut(slice.region) {
                entry.users += 1;
            }
        }
        Ok(total as u32)
    }

    /// Ends one use of a region by each of these slices. `unused` is called with each region that is retiring
    /// and has no user left: the backend deregisters it and calls [`ready`](Self::ready).
    #[inline]
    pub fn release(&mut self, slices: &[Slice], mut unused: impl FnMut(&mut Self, RegionId)) {
        for slice in slices {
            let Some(entry) = self.entries.get_mut(slice.region) else { continue };
            entry.users = entry.users.saturating_sub(1);
            if entry.users == 0 && entry.state == State::Retiring {
                unused(self, slice.region);
            }
        }
    }

    /// Refuses new users from here on. True if there is none: the backend deregisters the region and calls
    /// [`ready`](Self::ready).
    ///
    /// # Errors
    ///
    /// [`Misuse`](crate::ErrorKind::Misuse) for a stale id or a region that was retired before.
    pub fn retire(&mut self, id: RegionId) -> Result<bool, Error> {
        let entry = self.entries.get_mut(id).ok_or_else(|| Error::stale("retire", "region"))?;
        if entry.state != State::Live {
            let text = "the region was retired before: wait for Retired, then reclaim it";
            return Err(Error::misuse("retire", text));
        }
        entry.state = State::Retiring;
        Ok(entry.users == 0)
    }

    /// No device reaches the region any more: it is to be reported.
    pub fn ready(&mut self, id: RegionId) {
        if let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.state == State::Retiring) {
            entry.state = State::Ready;
            self.ready.push_back(id);
        }
    }

    /// Its memory must never be freed, because a device may reach it for ever: forgets the owner.
    pub fn leak(&mut self, id: RegionId) {
        if let Some(memory) = self.entries.get_mut(id).and_then(|entry| entry.memory.take()) {
            std::mem::forget(memory);
        }
    }

    /// The next region to be reported as retired, which is reclaimable from here on. To be called when there
    /// is room for the event.
    pub fn next_retired(&mut self) -> Option<RegionId> {
        let id = self.ready.pop_front()?;
        if let Some(entry) = self.entries.get_mut(id) {
            entry.state = State::Retired;
        }
        Some(id)
    }

    /// Whether a region waits to be reported.
    pub fn has_retired(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gives the owner of a reported region back; its id is stale from here on.
    pub fn reclaim(&mut self, id: RegionId) -> Option<Box<dyn Memory>> {
        self.entries.get(id).filter(|entry| entry.state == State::Retired)?;
        self.entries.remove(id)?.memory
    }
}

#[cfg(test)]
mod tests {
    use p2p_memory::HostBuffer;

    use super::Regions;
    use crate::{ErrorKind, NicId, OpFault, RegionId, Slice};

    const NIC: NicId = NicId(1);

    fn one() -> (Regions<()>, RegionId) {
        let mut regions = Regions::new();
        let memory = Box::new(HostBuffer::new(100).expect("little memory"));
        let id = regions.insert(NIC, memory, ());
        (regions, id)
    }

    fn slice(region: RegionId, offset: u64, len: u32) -> Slice {
        Slice { region, offset, len }
    }

    #[test]
    fn a_slice_lies_inside_a_live_region_of_the_nic() {
        let (mut regions, id) = one();
        for good in [slice(id, 0, 100), slice(id, 99, 1), slice(id, 100, 0)] {
            assert_eq!(regions.check(NIC, good), Ok(()), "{good:?}");
        }
        for bad in [slice(id, 0, 101), slice(id, 100, 1), slice(id, 101, 0), slice(id, u64::MAX, 2)] {
            assert_eq!(regions.check(NIC, bad), Err(OpFault::BadSlice), "{bad:?}");
        }
        assert_eq!(regions.check(NicId(0), slice(id, 0, 1)), Err(OpFault::BadSlice));
        assert!(regions.retire(id).expect("live"));
        assert_eq!(regions.check(NIC, slice(id, 0, 1)), Err(OpFault::BadSlice));
    }

    #[test]
    fn a_refused_message_uses_nothing() {
        let (mut regions, id) = one();
        let (good, bad) = (slice(id, 0, 60), slice(id, 60, 60));
        assert_eq!(regions.hold(NIC, &[good, bad], 2, 1000), Err(OpFault::BadSlice));
        assert_eq!(regions.hold(NIC, &[good, good], 2, 119), Err(OpFault::TooLong));
        assert_eq!(regions.hold(NIC, &[good, good], 1, 1000), Err(OpFault::SliceCount));
        assert_eq!(regions.hold(NIC, &[], 1, 1000), Err(OpFault::SliceCount));
        assert_eq!(regions.users(id), Some(0));
        assert_eq!(regions.hold(NIC, &[good, good], 2, 120), Ok(120));
        assert_eq!(regions.users(id), Some(2));
    }

    #[test]
    fn it_is_reclaimed_once_and_only_after_its_report() {
        let (mut regions, id) = one();
        let used = [slice(id, 0, 1), slice(id, 1, 1)];
        assert_eq!(regions.hold(NIC, &used, 2, 1000), Ok(2));
        assert!(!regions.retire(id).expect("live"), "two users");
        assert_eq!(regions.retire(id).expect_err("twice").kind(), ErrorKind::Misuse);
        regions.release(&used[..1], |_, id| panic!("{id:?} has a user"));
        assert!(regions.next_retired().is_none() && regions.reclaim(id).is_none());
        regions.release(&used[1..], Regions::ready);
        assert!(regions.reclaim(id).is_none(), "not reported");
        assert_eq!((regions.next_retired(), regions.next_retired()), (Some(id), None));
        assert_eq!(regions.reclaim(id).expect("reported").span().1, 100);
        assert!(regions.reclaim(id).is_none(), "stale");
        assert_eq!(regions.retire(id).expect_err("stale").kind(), ErrorKind::Misuse);
    }
}
