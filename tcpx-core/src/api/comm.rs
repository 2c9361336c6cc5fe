//! A comm of a plugin: its registrations, and its end.

use core::cell::Cell;
use core::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_memory::{Memory, MemoryKind, PAGE};
use tcpx_sys::{PTR_CUDA, PTR_HOST, Version};

use super::registration::{Live, RegistrationId, Registrations};
use super::{Calls, Raw, Region, Side};
use crate::error::{Call, Error, Misuse, RegisterError};
use crate::gate::Gate;

/// Objects that were not freed because freeing them would have been unsafe: memory that a plugin did not
/// give back, listeners and connects given up half-way.
static LEAKED: AtomicU64 = AtomicU64::new(0);

/// How many objects this process has leaked on purpose: memory whose deregistration or whose comm's close
/// failed, and listeners and connects dropped while the plugin was still working on them.
pub fn leaked_objects() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

pub(super) fn count_leak() {
    LEAKED.fetch_add(1, Ordering::Relaxed);
}

/// What a comm must know of its device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) device: &'static str,
    pub(crate) ptr_support: i32,
    pub(crate) version: Version,
    /// Largest message, in bytes.
    pub(crate) max_message: usize,
    /// Whether scatter lists and bounce pages lie in host memory: those of the embedded plugin.
    pub(crate) host_lists: bool,
}

/// An open comm. Dropping it deregisters, closes, and only then frees the memory.
pub(crate) struct Comm {
    calls: Arc<dyn Calls>,
    raw: Raw,
    side: Side,
    place: Place,
    registrations: Registrations,
    gate: Arc<Gate>,
    /// A comm belongs to one thread at a time: `Send`, not `Sync`.
    _one_thread: PhantomData<Cell<()>>,
}

impl Comm {
    /// Takes over a comm that `connect` or `accept` of these calls made.
    pub(super) fn new(calls: Arc<dyn Calls>, raw: Raw, side: Side, place: Place, gate: Arc<Gate>) -> Self {
        let registrations = Registrations::default();
        Self { calls, raw, side, place, registrations, gate, _one_thread: PhantomData }
    }

    pub(super) fn calls(&self) -> &dyn Calls {
        &*self.calls
    }

    pub(crate) fn shared_calls(&self) -> &Arc<dyn Calls> {
        &self.calls
    }

    pub(super) const fn raw(&self) -> Raw {
        self.raw
    }

    pub(super) const fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    pub(super) const fn registrations_mut(&mut self) -> &mut Registrations {
        &mut self.registrations
    }

    pub(crate) const fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) const fn side(&self) -> Side {
        self.side
    }

    pub(crate) fn registered(&self) -> usize {
        self.registrations.count()
    }

    /// A line about the comm, where the plugin has one.
    pub(crate) fn describe(&self) -> Option<String> {
        // SAFETY: the comm is open until `self` is dropped, and `&self` keeps other threads out (not Sync).
        unsafe { self.calls.describe(self.raw) }
    }

    pub(crate) fn register(&mut self, memory: Box<dyn Memory>) -> Result<RegistrationId, RegisterError> {
        let region = match self.region(&*memory) {
            Ok(region) => region,
            Err(error) => return Err(RegisterError { error, memory }),
        };
        let pass = match self.gate.lock(Call::RegMr, self.place.device, None) {
            Ok(pass) => pass,
            Err(error) => return Err(RegisterError { error, memory }),
        };
        // SAFETY: the comm is open and used by this thread alone; the region is that of `memory`, which
        // stays with the registration until it is given back.
        let (code, handle) = unsafe { self.calls.register(self.raw, region) };
        drop(pass);
        match handle.filter(|_| code.is_success()) {
            Some(handle) => {
                self.gate.was_set_up();
                Ok(self.registrations.insert(handle, memory))
            }
            None => {
                let (device, length) = (self.place.device, region.length);
                let error = Error::Registration { call: Call::RegMr, device, length, code };
                Err(RegisterError { error, memory })
            }
        }
    }

    pub(crate) fn deregister(&mut self, id: RegistrationId) -> Result<Box<dyn Memory>, Error> {
        let &Live { handle, length, .. } = self.registrations.unused(id)?;
        // SAFETY: the comm is open, the handle is one of its live registrations, and no request uses it.
        let code = unsafe { self.calls.deregister(self.raw, handle) };
        if !code.is_success() {
            let device = self.place.device;
            return Err(Error::Registration { call: Call::DeregMr, device, length, code });
        }
        let live = self.registrations.remove(id).ok_or(Misuse::StaleRegistration)?;
        Ok(live.memory)
    }

    /// What to register for `memory`: exactly its span, so that no plugin has a claim on what lies beside it.
    fn region(&self, memory: &dyn Memory) -> Result<Region, Error> {
        let (base, length) = memory.span();
        let kind = memory.kind();
        if length == 0 {
            return Err(Misuse::Empty.into());
        }
        self.check_kind(kind)?;
        if !matches!(kind, MemoryKind::Host) {
            let address = base.as_ptr().addr();
            if !address.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) {
                return Err(Misuse::Unaligned { address, length }.into());
            }
        }
        let max = self.calls.max_registration();
        if length > max {
            let Place { device, version, .. } = self.place;
            return Err(Error::RegistrationTooLarge { device, version, length, max });
        }
        Ok(Region { base, length, kind })
    }

    fn check_kind(&self, kind: MemoryKind) -> Result<(), Error> {
        let Place { device, ptr_support, .. } = self.place;
        let (bit, kind, hint) = match kind {
            MemoryKind::Host => (PTR_HOST, "host", "copy through device memory"),
            MemoryKind::Cuda { .. } => {
                (PTR_CUDA, "CUDA", "use Google's plugin on an A3-high machine, or copy through host memory")
            }
            _ => (0, "this kind of", "use host or CUDA memory"),
        };
        if ptr_support & bit == 0 {
            return Err(Error::MemoryKind { device, kind, hint });
        }
        Ok(())
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        let Place { device, .. } = self.place;
        let mut memories = Vec::new();
        for Live { handle, memory, length, .. } in self.registrations.take_all() {
            // SAFETY: the comm is open and the handle one of its live registrations. Requests that still
            // use it are never tested again.
            let code = unsafe { self.calls.deregister(self.raw, handle) };
            if code.is_success() {
                memories.push(memory);
            } else {
                tracing::error!(device, length, %code, "deregMr failed at close; the memory is leaked");
                count_leak();
                std::mem::forget(memory);
            }
        }
        // SAFETY: the comm is open, and nothing uses it after this.
        let code = unsafe { self.calls.close(self.raw, self.side) };
        if !code.is_success() {
            // Its workers may still be running.
            tracing::error!(device, %code, "closing a comm failed; its memory is leaked");
            for memory in memories {
                count_leak();
                std::mem::forget(memory);
            }
        }
    }
}
