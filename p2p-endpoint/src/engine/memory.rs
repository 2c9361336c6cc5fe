//! Registered memory between three sides: the registry, which knows what is registered; the transport, which has it
//! on each NIC; and the table of what peers may reach.

use p2p_memory::{Memory, Part as WholeMemory, SharedHost};
use p2p_proto::id::LocalRegion;
use p2p_proto::list::{LocalRange, RemoteList};
use p2p_transport::{Error, ErrorKind, NicId, RegionId, Slice, Transport};

use super::event::LinkId;
use super::link::Phase;
use super::{Engine, Local, Part, Request};
use crate::exports::{Access, Item};
use crate::registry::{Deregistered, MrId, Registered, Registry};

/// A region on the NICs of an endpoint.
#[derive(Debug)]
struct Place {
    /// By position of the rail; two rails of one NIC have one id.
    regions: Vec<RegionId>,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Live,
    /// No registration is left, and messages that were announced may still use it.
    Leaving,
    /// NICs let go of it; so many have not.
    Retiring(usize),
}

/// See the module documentation.
pub(super) struct Memories {
    registry: Registry,
    /// By position of the rail.
    nics: Vec<NicId>,
    /// By number of the region.
    places: Vec<Option<Place>>,
    /// For what is received and thrown away, by position of the rail: the region and its bytes.
    thrown: Vec<Option<(RegionId, u32)>>,
    leaving: usize,
    /// A message or a link has ended since somebody looked whether memory that leaves is still used.
    pub(super) may_go: bool,
    /// What nothing uses any more. Whoever drops it may run code of the caller's.
    gone: Vec<Box<dyn Memory>>,
}

impl Memories {
    pub(super) fn new(nics: impl Iterator<Item = NicId>) -> Self {
        let nics: Vec<NicId> = nics.collect();
        let thrown = vec![None; nics.len()];
        Self {
            registry: Registry::new(),
            nics,
            places: Vec::new(),
            thrown,
            leaving: 0,
            may_go: false,
            gone: Vec::new(),
        }
    }

    /// The region on the NIC of a rail, unless it is gone.
    pub(super) fn on(&self, region: LocalRegion, rail: usize) -> Option<RegionId> {
        let place = self.places.get(region.0 as usize)?.as_ref()?;
        place.regions.get(rail).copied().filter(|_| !matches!(place.state, State::Retiring(_)))
    }

    /// Memory of so many bytes on the NIC of a rail whose content nobody wants; `None` if there is none to be had.
    pub(super) fn thrown_away(
        &mut self,
        transport: &mut dyn Transport,
        rail: usize,
        bytes: u32,
    ) -> Option<Slice> {
        let (region, have) = match self.thrown[rail] {
            Some(known) if known.1 >= bytes => known,
            old => {
                let length = bytes.next_power_of_two();
                let memory = SharedHost::new(length as usize).ok()?;
                let region = transport.register(self.nics[rail], Box::new(memory)).ok()?;
                if let Some((old, _)) = old {
                    // Operations that use it go on; nobody asks for its memory.
                    let _ = transport.retire(old);
                }
                (region, length)
            }
        };
        self.thrown[rail] = Some((region, have));
        Some(Slice { region, offset: 0, len: bytes })
    }

    pub(super) fn take_gone(&mut self) -> Vec<Box<dyn Memory>> {
        std::mem::take(&mut self.gone)
    }

    pub(super) fn part(&self, part: &Part) -> Result<LocalRange, Error> {
        self.registry.part(part.mr, part.offset, part.len)
    }
}

impl Memories {
    pub(super) fn reg(
        &mut self,
        transport: &mut dyn Transport,
        memory: Box<dyn Memory>,
        held_back: &[LocalRegion],
    ) -> Result<MrId, Error> {
        let (base, length) = memory.span();
        let base = base.addr().get();
        let mut spans = held_back.iter().filter_map(|region| self.registry.region_span(*region));
        if spans.any(|(from, to)| base < to && from < base.saturating_add(length)) {
            self.gone.push(memory);
            let text = format!(
                "the transport has not let go of {length} bytes at {base:#x}, or of some of them, since a link was lost: use \
                 other memory, or wait"
            );
            return Err(Error::new(ErrorKind::Exhausted, "register", text));
        }
        let registered = self.registry.register(memory).map_err(|refused| {
            self.gone.push(refused.memory);
            refused.error
        })?;
        match registered {
            Registered::Shared { mr, .. } => Ok(mr),
            Registered::New { mr, region, memory } => match place(transport, &self.nics, &memory) {
                Ok(place) => {
                    let at = region.0 as usize;
                    if self.places.len() <= at {
                        self.places.resize_with(at + 1, || None);
                    }
                    self.places[at] = Some(place);
                    Ok(mr)
                }
                Err(error) => {
                    // It was given out a moment ago, and nothing uses it.
                    let _ = self.registry.deregister(mr);
                    self.gone.extend(self.registry.retired(region));
                    Err(error)
                }
            },
        }
    }

    /// Ends a registration; the region that has none left, if it was the last.
    fn dereg(&mut self, mr: MrId) -> Result<Option<LocalRegion>, Error> {
        match self.registry.deregister(mr)? {
            Deregistered::Shared { memory } => {
                self.gone.extend(memory);
                Ok(None)
            }
            Deregistered::Last { region } => {
                if let Some(Some(place)) = self.places.get_mut(region.0 as usize) {
                    place.state = State::Leaving;
                    self.leaving += 1;
                }
                Ok(Some(region))
            }
        }
    }

    /// Takes regions from their NICs that no link holds any more.
    pub(super) fn let_go(&mut self, transport: &mut dyn Transport, is_held: impl Fn(LocalRegion) -> bool) {
        if !std::mem::take(&mut self.may_go) || self.leaving == 0 {
            return;
        }
        for (number, place) in (0..).zip(&mut self.places) {
            let Some(place) = place.as_mut().filter(|place| place.state == State::Leaving) else { continue };
            if is_held(LocalRegion(number)) {
                continue;
            }
            let mut own = place.regions.clone();
            own.sort_unstable();
            own.dedup();
            place.state = State::Retiring(own.len());
            self.leaving -= 1;
            for region in own {
                // It lives: it was never retired.
                let _ = transport.retire(region);
            }
        }
    }

    /// A NIC has let go of a region. The memory of one that no NIC has any more is dropped.
    pub(super) fn retired(&mut self, transport: &mut dyn Transport, region: RegionId) {
        self.gone.extend(transport.reclaim(region));
        let found = (0..).zip(&mut self.places).find_map(|(number, place)| {
            let of = place.as_mut().filter(|place| place.regions.contains(&region))?;
            let State::Retiring(left) = &mut of.state else { return None };
            *left -= 1;
            (*left == 0).then_some(number)
        });
        if let Some(number) = found {
            self.places[number as usize] = None;
            self.gone.extend(self.registry.retired(LocalRegion(number)));
        }
    }
}

/// Registers memory on every NIC once.
fn place(transport: &mut dyn Transport, nics: &[NicId], memory: &WholeMemory) -> Result<Place, Error> {
    let mut regions: Vec<RegionId> = Vec::with_capacity(nics.len());
    for (rail, nic) in nics.iter().enumerate() {
        if let Some(same) = nics[..rail].iter().position(|other| other == nic) {
            regions.push(regions[same]);
            continue;
        }
        match transport.register(*nic, Box::new(memory.clone())) {
            Ok(region) => regions.push(region),
            Err(refused) => {
                for region in regions {
                    // No operation uses it; its memory is dropped when the NIC has let go.
                    let _ = transport.retire(region);
                }
                return Err(refused.error);
            }
        }
    }
    Ok(Place { regions, state: State::Live })
}

impl Engine {
    pub(super) fn take_memory_back(&mut self, mr: MrId) -> Result<(), Error> {
        let gone = self.memories.dereg(mr)?;
        self.exports.take_back_all_of(mr);
        if let Some(region) = gone {
            for (_, link) in self.links.iter_mut() {
                if let Phase::Up(peer) = &mut link.phase {
                    peer.release(region);
                }
            }
            for index in 0..self.links.positions() {
                if let Some(link) = self.links.id_at(index) {
                    self.enqueue(link);
                }
            }
            self.memories.may_go = true;
        }
        self.let_memory_go();
        Ok(())
    }

    /// Takes memory from NICs that was taken back, as soon as no link holds it any more.
    pub(super) fn let_memory_go(&mut self) {
        let Self { memories, transport, links, .. } = self;
        memories.let_go(transport.as_mut(), |region| {
            links.iter().any(|(_, link)| match &link.phase {
                Phase::Up(peer) | Phase::Ending(Some(peer)) => peer.holds(region),
                Phase::Greeting(_) | Phase::Railing | Phase::Ending(None) => false,
            })
        });
    }

    pub(super) fn open_part(&mut self, part: Part, access: Access) -> Result<Item, Error> {
        let range = self.memories.part(&part)?;
        let base = self.memories.registry.span(part.mr).map_or(0, |(base, _)| base);
        let address = base as u64 + part.offset;
        self.exports.advertise(part.mr, address, range, access, &mut self.random)
    }

    pub(super) fn local_list(&self, parts: &[Part]) -> Result<Local, Error> {
        let mut list = Local::with_capacity(parts.len());
        for part in parts {
            let range = self.memories.part(part)?;
            if self.exports.is_held_back(range.region) {
                let text = format!(
                    "the transport has not let go of memory of {:?} since a link was lost: deregister it and use other \
                     memory, or wait",
                    part.mr
                );
                return Err(Error::new(ErrorKind::Exhausted, "start", text));
            }
            list.push(range).map_err(|error| Error::misuse("start", error.to_string()))?;
        }
        Ok(list)
    }

    /// The items of a request, checked against the peer that gave them out.
    pub(super) fn remote_list(
        &self,
        link: LinkId,
        request: &Request<'_>,
    ) -> Result<Option<RemoteList>, Error> {
        let items = match request {
            Request::Write { into, .. } => into,
            Request::Read { from } => from,
            Request::Send | Request::Recv => return Ok(None),
        };
        let epoch = self.links.get(link).and_then(|link| link.peer.as_ref()).map(|peer| peer.epoch);
        let mut list = RemoteList::with_capacity(items.len());
        for item in *items {
            if Some(item.epoch()) != epoch {
                let text = "an item is of another peer, or of a former life of this one: ask for a new one";
                return Err(Error::new(ErrorKind::Misuse, "start", text));
            }
            list.push(item.range()).map_err(|error| Error::misuse("start", error.to_string()))?;
        }
        Ok(Some(list))
    }
}
