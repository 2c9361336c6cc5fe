//! Registrations of one comm, which owns the memory until they are given back.

use core::ptr::NonNull;

use p2p_memory::{Memory, MemoryKind, OutOfBounds};

use super::Raw;
use crate::error::Misuse;

/// Memory registered on one comm. A stale id is refused and never names other memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RegistrationId {
    index: u32,
    generation: u32,
}

/// A range of registered memory, checked when it is posted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slice {
    /// The registration.
    pub registration: RegistrationId,
    /// First byte, counted from the start of the memory.
    pub offset: usize,
    /// Length in bytes; 0 is a legal message.
    pub length: usize,
}

/// A live registration.
pub(super) struct Live {
    pub(super) handle: Raw,
    base: NonNull<u8>,
    pub(super) length: usize,
    pub(super) memory: Box<dyn Memory>,
}

/// A slice as the plugin takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) address: NonNull<u8>,
    pub(super) handle: Raw,
}

#[derive(Default)]
struct Entry {
    generation: u32,
    users: u32,
    live: Option<Live>,
}

/// The registrations of one comm, found by index.
#[derive(Default)]
pub(super) struct Registrations {
    entries: Vec<Entry>,
}

// SAFETY: the addresses are those of the memory owned beside them, which is `Send`.
unsafe impl Send for Registrations {}

impl Registrations {
    pub(super) fn insert(&mut self, handle: Raw, memory: Box<dyn Memory>) -> RegistrationId {
        let (base, length) = memory.span();
        let live = Some(Live { handle, base, length, memory });
        let free = self.entries.iter().position(|entry| entry.live.is_none());
        let index = free.unwrap_or(self.entries.len());
        if free.is_none() {
            self.entries.push(Entry::default());
        }
        let entry = &mut self.entries[index];
        entry.live = live;
        RegistrationId { index: index as u32, generation: entry.generation }
    }

    fn entry(&self, id: RegistrationId) -> Result<&Entry, Misuse> {
        let entry = self.entries.get(id.index as usize);
        entry.filter(|entry| entry.generation == id.generation).ok_or(Misuse::StaleRegistration)
    }

    fn entry_mut(&mut self, id: RegistrationId) -> Option<&mut Entry> {
        self.entries.get_mut(id.index as usize).filter(|entry| entry.generation == id.generation)
    }

    /// Checks a slice against its registration.
    pub(super) fn resolve(&self, slice: Slice) -> Result<Resolved, Misuse> {
        let live = self.entry(slice.registration)?.live.as_ref().ok_or(Misuse::StaleRegistration)?;
        OutOfBounds::check(slice.offset, slice.length, live.length)
            .map_err(|OutOfBounds { offset, length, size }| Misuse::OutOfRange { offset, length, size })?;
        // SAFETY: the offset lies inside the memory (checked), which is one allocation of `length` bytes.
        let address = unsafe { live.base.add(slice.offset) };
        Ok(Resolved { address, handle: live.handle })
    }

    pub(super) fn is_cuda(&self, id: RegistrationId) -> bool {
        let live = self.entry(id).ok().and_then(|entry| entry.live.as_ref());
        live.is_some_and(|live| matches!(live.memory.kind(), MemoryKind::Cuda { .. }))
    }

    pub(super) fn add_user(&mut self, id: RegistrationId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.users += 1;
        }
    }

    pub(super) fn remove_user(&mut self, id: RegistrationId) {
        if let Some(entry) = self.entry_mut(id) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    /// The registration, if it may be given back.
    pub(super) fn unused(&self, id: RegistrationId) -> Result<&Live, Misuse> {
        let entry = self.entry(id)?;
        if entry.users > 0 {
            return Err(Misuse::InUse { users: entry.users });
        }
        entry.live.as_ref().ok_or(Misuse::StaleRegistration)
    }

    /// Takes a registration out; its id is stale from here on.
    pub(super) fn remove(&mut self, id: RegistrationId) -> Option<Live> {
        let entry = self.entry_mut(id)?;
        let live = entry.live.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        entry.users = 0;
        Some(live)
    }

    /// Everything that is registered, whoever uses it.
    pub(super) fn take_all(&mut self) -> Vec<Live> {
        self.entries.drain(..).filter_map(|entry| entry.live).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.live.is_some()).count()
    }
}
