//! What memory an endpoint has registered, under which number, and who shares what.
//!
//! A **registration** is what a caller asked for: memory, and an [`MrId`]. A **region** is what the transport
//! has: memory that is registered on its NICs. Memory that lies inside of a live registration shares that one's
//! region, so that ten thousand tensors of one pool cost one region. Memory that overlaps others partly, or
//! contains them, gets a region of its own.
//!
//! A region lives as long as any of its registrations, and so does its memory, however long ago the registration
//! went that brought it. The memory of a registration that shares is given back at once where another live
//! registration of its region vouches for the same bytes, and otherwise with the region: transfers may be on their
//! way that began under it.
//!
//! Addresses are numbers here. Nothing is read, registered or retired; the caller does what it is told.

mod cover;
mod ids;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use p2p_memory::{Memory, MemoryKind, Part, Shared};
use p2p_proto::id::LocalRegion;
use p2p_proto::list::LocalRange;
use p2p_transport::{Error, RegisterError};

use cover::{Cover, Span};
use ids::{Ids, Places};

/// A registration. Numbers count up from 1, and none is used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MrId(pub u64);

impl fmt::Display for MrId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "registration {}", self.0)
    }
}

/// What a registration needs.
#[must_use]
#[derive(Debug)]
pub enum Registered {
    /// The caller registers the memory, once for each NIC, as this region. If that fails it calls
    /// [`deregister`](Registry::deregister) and [`retired`](Registry::retired).
    New {
        /// The number of the registration.
        mr: MrId,
        /// The number of the region.
        region: LocalRegion,
        /// The memory; each clone is one more owner.
        memory: Part,
    },
    /// Nothing: the region is there.
    Shared {
        /// The number of the registration.
        mr: MrId,
        /// The region that it shares.
        region: LocalRegion,
    },
}

impl Registered {
    /// The number of the registration.
    pub const fn mr(&self) -> MrId {
        match self {
            Self::New { mr, .. } | Self::Shared { mr, .. } => *mr,
        }
    }
}

/// What the end of a registration needs.
#[must_use]
pub enum Deregistered {
    /// Others use the region.
    Shared {
        /// The memory that was registered, for the caller to drop; `None` if it stays with the region.
        memory: Option<Box<dyn Memory>>,
    },
    /// It was the last one of its region: the caller retires the region on each NIC, and calls
    /// [`retired`](Registry::retired) when no NIC has it any more.
    Last {
        /// The region.
        region: LocalRegion,
    },
}

impl fmt::Debug for Deregistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared { memory } => {
                f.debug_struct("Shared").field("gives_back", &memory.is_some()).finish()
            }
            Self::Last { region } => f.debug_struct("Last").field("region", region).finish(),
        }
    }
}

/// The registrations of an endpoint. See the module documentation.
#[derive(Debug, Default)]
pub struct Registry {
    ids: Ids,
    registrations: Places<Registration>,
    regions: Places<Region>,
    /// The live registrations of each kind of memory.
    covers: BTreeMap<Kind, Cover>,
}

#[derive(Debug)]
struct Registration {
    span: Span,
    kind: Kind,
    region: u32,
    /// Where it begins in its region.
    offset: u64,
    /// `None` for the one that brought the region, which has the memory.
    memory: Option<Owner>,
}

#[derive(Debug)]
struct Region {
    base: usize,
    users: u32,
    memory: Part,
    /// Its live registrations.
    cover: Cover,
    /// Memory of registrations that are gone, and for which no live one vouches.
    kept: Vec<Owner>,
}

struct Owner(Box<dyn Memory>);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}

/// Memory that can share: of one device, or of the host.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Kind {
    Host,
    Cuda(u16),
    /// Not known here; shares with nobody.
    Other(u64),
}

impl Registry {
    /// No registrations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes memory over, under a new number.
    ///
    /// # Errors
    ///
    /// [`Misuse`](p2p_transport::ErrorKind::Misuse) for memory of no bytes, or beyond the end of the address space.
    pub fn register(&mut self, memory: Box<dyn Memory>) -> Result<Registered, RegisterError> {
        let (base, length) = memory.span();
        let base = base.addr().get();
        let refused = |text: &str| Error::misuse("register", format!("{length} bytes at {base:#x} {text}"));
        if length == 0 {
            let error = refused("cannot be registered: there is nothing to reach; leave it out");
            return Err(RegisterError { error, memory });
        }
        let Some(end) = base.checked_add(length) else {
            let error = refused("reach beyond the end of all addresses: check the length");
            return Err(RegisterError { error, memory });
        };
        let kind = Kind::of(memory.kind(), self.ids.next());
        Ok(self.add(Span { base, end }, kind, memory))
    }

    fn add(&mut self, span: Span, kind: Kind, memory: Box<dyn Memory>) -> Registered {
        let around = self.covers.get(&kind).and_then(|cover| cover.around(span));
        let sharing = around.and_then(|mr| self.registration(mr)).map(|around| around.region);
        let (index, own, founding) = match sharing {
            Some(index) => (index, Some(Owner(memory)), None),
            None => {
                let memory = Shared::new(memory).whole();
                (self.regions.put(Region::new(span.base, memory.clone())), None, Some(memory))
            }
        };
        let base = self.regions.get(index).map_or(span.base, |region| region.base);
        let offset = (span.base - base) as u64;
        let place = self.registrations.put(Registration { span, kind, region: index, offset, memory: own });
        let mr = MrId(self.ids.give(place));
        self.covers.entry(kind).or_default().insert(span, mr);
        if let Some(region) = self.regions.get_mut(index) {
            region.users += 1;
            region.cover.insert(span, mr);
        }
        let region = LocalRegion(index);
        match founding {
            Some(memory) => Registered::New { mr, region, memory },
            None => Registered::Shared { mr, region },
        }
    }

    /// Ends a registration.
    ///
    /// # Errors
    ///
    /// [`Misuse`](p2p_transport::ErrorKind::Misuse) for a number that was not given out, or whose registration has
    /// ended.
    pub fn deregister(&mut self, mr: MrId) -> Result<Deregistered, Error> {
        let place = self.ids.take(mr.0).ok_or_else(|| unknown("deregister", mr))?;
        let Some(gone) = self.registrations.take(place) else { return Err(unknown("deregister", mr)) };
        if let Some(cover) = self.covers.get_mut(&gone.kind) {
            cover.remove(gone.span, mr);
            if cover.is_empty() {
                self.covers.remove(&gone.kind);
            }
        }
        let Some(region) = self.regions.get_mut(gone.region) else { return Err(unknown("deregister", mr)) };
        region.cover.remove(gone.span, mr);
        region.users -= 1;
        let last = region.users == 0;
        if last || region.cover.around(gone.span).is_none() {
            region.kept.extend(gone.memory);
            let region = LocalRegion(gone.region);
            return Ok(if last {
                Deregistered::Last { region }
            } else {
                Deregistered::Shared { memory: None }
            });
        }
        Ok(Deregistered::Shared { memory: gone.memory.map(|owner| owner.0) })
    }

    /// No NIC has a region any more whose last registration has ended: its number may mean another one from here
    /// on. Returns all memory that was kept with it, for the caller to drop; none for a region that is in use.
    pub fn retired(&mut self, region: LocalRegion) -> Vec<Box<dyn Memory>> {
        if self.regions.get(region.0).is_none_or(|region| region.users > 0) {
            return Vec::new();
        }
        let Some(region) = self.regions.take(region.0) else { return Vec::new() };
        let mut memory: Vec<Box<dyn Memory>> = vec![Box::new(region.memory)];
        memory.extend(region.kept.into_iter().map(|owner| owner.0));
        memory
    }

    /// Where a region lies: its first byte, and the one behind its last. `None` once it is gone.
    pub fn region_span(&self, region: LocalRegion) -> Option<(usize, usize)> {
        let region = self.regions.get(region.0)?;
        Some((region.base, region.base + region.memory.span().1))
    }

    /// A live registration that has all of these bytes, if there is one.
    pub fn find(&self, address: usize, length: usize) -> Option<MrId> {
        let span = Span { base: address, end: address.checked_add(length)? };
        self.covers.values().find_map(|cover| cover.around(span))
    }

    /// Address and length in bytes of a registration.
    pub fn span(&self, mr: MrId) -> Option<(usize, usize)> {
        self.registration(mr).map(|known| (known.span.base, known.span.end - known.span.base))
    }

    /// Where bytes of a registration are, by their address.
    ///
    /// # Errors
    ///
    /// [`Misuse`](p2p_transport::ErrorKind::Misuse) for an unknown registration, or bytes outside of it.
    pub fn resolve(&self, mr: MrId, address: usize, length: u64) -> Result<LocalRange, Error> {
        let known = self.registration(mr).ok_or_else(|| unknown("resolve", mr))?;
        let outside = || known.outside(mr, format_args!("{length} bytes at {address:#x}"));
        let offset = address.checked_sub(known.span.base).ok_or_else(outside)?;
        known.range(offset as u64, length).ok_or_else(outside)
    }

    /// Where bytes of a registration are, by their distance from its beginning.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve).
    pub fn part(&self, mr: MrId, offset: u64, length: u64) -> Result<LocalRange, Error> {
        let known = self.registration(mr).ok_or_else(|| unknown("resolve", mr))?;
        let outside = || known.outside(mr, format_args!("{length} bytes from its byte {offset} on"));
        known.range(offset, length).ok_or_else(outside)
    }

    /// As [`resolve`](Self::resolve), but for at most as many bytes as the registration has from that address on:
    /// what is received into may be named with more than there is.
    ///
    /// # Errors
    ///
    /// As [`resolve`](Self::resolve), for an address outside of it.
    pub fn capacity(&self, mr: MrId, address: usize, length: u64) -> Result<LocalRange, Error> {
        let known = self.registration(mr).ok_or_else(|| unknown("resolve", mr))?;
        let left = known.span.end.saturating_sub(address) as u64;
        self.resolve(mr, address, length.min(left))
    }

    /// Live registrations.
    pub const fn len(&self) -> usize {
        self.registrations.len()
    }

    /// Whether there is no live registration.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn registration(&self, mr: MrId) -> Option<&Registration> {
        self.registrations.get(self.ids.find(mr.0)?)
    }
}

impl Kind {
    /// `number` is one that no other memory has.
    fn of(kind: MemoryKind, number: u64) -> Self {
        match kind {
            MemoryKind::Host => Self::Host,
            MemoryKind::Cuda { ordinal, .. } => Self::Cuda(ordinal),
            _ => Self::Other(number),
        }
    }
}

impl Registration {
    fn range(&self, offset: u64, len: u64) -> Option<LocalRange> {
        let have = (self.span.end - self.span.base) as u64;
        let inside = offset.checked_add(len).is_some_and(|end| end <= have);
        let (region, offset) = (LocalRegion(self.region), self.offset.checked_add(offset)?);
        inside.then_some(LocalRange { region, offset, len })
    }

    fn outside(&self, mr: MrId, what: fmt::Arguments<'_>) -> Error {
        let Span { base, end } = self.span;
        let text = format!("{what} are outside of {mr}, which has {} bytes at {base:#x}", end - base);
        Error::misuse("resolve", text)
    }
}

impl Region {
    const fn new(base: usize, memory: Part) -> Self {
        Self { base, users: 0, memory, cover: Cover::new(), kept: Vec::new() }
    }
}

fn unknown(during: &'static str, mr: MrId) -> Error {
    Error::misuse(during, format!("{mr} is not there: it was never made here, or it has ended"))
}
