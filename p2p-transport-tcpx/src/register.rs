//! Registration: each region once on every comm of every connection on its NIC that serves its kind.

use p2p_memory::{Memory, MemoryKind, Shared};
use p2p_transport::{ConnId, Error, ErrorKind, NicId, Rail, RegionId, RegisterError, Transport};
use tcpx_core::{ChannelId, ChannelSet, DeviceType, RegistrationId};

use crate::Tcpx;
use crate::connection::{Live, Registered};
use crate::regions::Cut;

/// Regions that one look registers on a new connection.
const MOST_AT_ONCE: usize = 16;

/// What is kept of a region.
pub(crate) struct Entry {
    /// The owner, shared with every registration; taken out when it is reclaimed.
    shared: Option<Shared>,
    cut: Cut,
}

/// Whether a connection moves memory of this kind.
const fn serves(rail: Rail, kind: MemoryKind) -> bool {
    match (kind, rail.device) {
        (MemoryKind::Host, _) => true,
        (MemoryKind::Cuda { ordinal, .. }, Some(device)) => ordinal == device,
        _ => false,
    }
}

impl Tcpx {
    pub(crate) fn register_on(
        &mut self,
        nic: NicId,
        memory: Box<dyn Memory>,
    ) -> Result<RegionId, RegisterError> {
        if usize::from(nic.0) >= self.plugin.devices().len() {
            let text = format!("there is no NIC {}: there are {}", nic.0, self.plugin.devices().len());
            return Err(RegisterError { error: Error::misuse("register", text), memory });
        }
        if let Err(error) = self.check_memory(nic, &*memory) {
            return Err(RegisterError { error, memory });
        }
        let length = memory.span().1;
        let cut = Cut::new(length, self.registration_limit());
        let shared = Shared::new(memory);
        // What `Regions` keeps is another owner; the caller's own box comes back from `shared`.
        let id =
            self.regions.insert(nic, Box::new(shared.whole()), Entry { shared: Some(shared.clone()), cut });
        // Room for its report, so that none has to be made on the data path.
        self.unused.reserve(id.index() + 1);
        let Self { conns, set, .. } = self;
        let mut failed = None;
        for (_, conn) in conns.iter_mut().filter(|(_, conn)| conn.rail.nic == nic) {
            let rail = conn.rail;
            let Some(live) = conn.live.as_mut().filter(|live| !live.channels.is_empty()) else { continue };
            if let Err(error) = live.register(set, rail, id, &shared, cut) {
                failed = Some(error);
                break;
            }
        }
        let Some(error) = failed else { return Ok(id) };
        for (_, conn) in conns.iter_mut() {
            if let Some(live) = &mut conn.live {
                live.deregister(set, id);
            }
        }
        // Drops the owner that `Regions` has.
        drop(self.regions.take_back(id));
        Err(refused(error, shared))
    }

    /// Makes some regions of a NIC usable on a new connection, from the region at this position on: so many that
    /// a poll does bounded work. Returns where to go on.
    pub(crate) fn register_from(&mut self, conn: ConnId, from: usize) -> Result<Option<usize>, Error> {
        let Self { conns, regions, set, .. } = self;
        let Some(conn) = conns.get_mut(conn) else { return Ok(None) };
        let (rail, Some(live)) = (conn.rail, &mut conn.live) else { return Ok(None) };
        let mut left = MOST_AT_ONCE;
        for (id, entry) in regions.live().filter(|(id, _)| id.index() >= from) {
            let on_this_nic = regions.facts(id).is_some_and(|(nic, ..)| nic == rail.nic);
            let (true, Some(shared)) = (on_this_nic, &entry.shared) else { continue };
            if left == 0 {
                return Ok(Some(id.index()));
            }
            left -= 1;
            live.register(set, rail, id, shared, entry.cut)?;
        }
        Ok(None)
    }

    /// Whether the NIC can use this memory: found now, and not when a connection is made.
    fn check_memory(&self, nic: NicId, memory: &dyn Memory) -> Result<(), Error> {
        let device = self.device(nic);
        let (base, length) = memory.span();
        let kind = memory.kind();
        if length == 0 {
            return Err(Error::misuse("register", "memory of zero bytes cannot be registered"));
        }
        let align = self.region_align(kind);
        let address = base.as_ptr().addr();
        if !address.is_multiple_of(align) || !length.is_multiple_of(align) {
            let text = format!(
                "{length} bytes at {address:#x}: GPU memory has to start and end at a multiple of {align} bytes; \
                 allocate it so"
            );
            return Err(Error::misuse("register", text));
        }
        let unsupported = |text: String| Err(Error::new(ErrorKind::Unsupported, "register", text));
        match kind {
            MemoryKind::Host if device.ptr_support.host() => Ok(()),
            MemoryKind::Host => unsupported(format!("NIC {} moves GPU memory only", device.name)),
            MemoryKind::Cuda { .. } if !device.ptr_support.cuda() => unsupported(format!(
                "NIC {} of {} cannot move GPU memory: copy through host memory, or use Google's plugin on A3-high",
                device.name,
                self.plugin.name()
            )),
            MemoryKind::Cuda { .. }
                if device.device_type == DeviceType::Unpack && self.options.unpackers.is_none() =>
            {
                unsupported(format!(
                    "NIC {} delivers scattered pages of GPU memory, and nobody puts them in place: make the \
                     transport with Options::unpackers",
                    device.name
                ))
            }
            MemoryKind::Cuda { .. } => Ok(()),
            _ => unsupported("this kind of memory is unknown here: use host or CUDA memory".to_owned()),
        }
    }

    /// Takes a region that nobody uses any more from every comm; it is reported next.
    pub(crate) fn deregister(&mut self, id: RegionId) {
        for (_, conn) in self.conns.iter_mut() {
            if let Some(live) = &mut conn.live {
                live.deregister(&mut self.set, id);
            }
        }
        self.regions.ready(id);
    }

    pub(crate) fn reclaim_region(&mut self, id: RegionId) -> Option<Box<dyn Memory>> {
        let shared = self.regions.value_mut(id).map(|entry| entry.shared.take());
        let Some(whole) = self.regions.reclaim(id) else {
            // Not yet: the owner goes back.
            if let (Some(entry), Some(shared)) = (self.regions.value_mut(id), shared) {
                entry.shared = shared;
            }
            return None;
        };
        drop(whole);
        // Another owner is a comm whose plugin did not give the memory back.
        shared??.try_into_inner().ok()
    }
}

fn refused(error: Error, shared: Shared) -> RegisterError {
    match shared.try_into_inner() {
        Ok(memory) => RegisterError { error, memory },
        // A comm did not give a piece back: the memory lives on there, and this is another owner of it.
        Err(shared) => RegisterError { error, memory: Box::new(shared.whole()) },
    }
}

impl Live {
    /// Registers a region on every comm; on an error on none.
    pub(crate) fn register(
        &mut self,
        set: &mut ChannelSet,
        rail: Rail,
        region: RegionId,
        shared: &Shared,
        cut: Cut,
    ) -> Result<(), Error> {
        let index = region.index();
        if self.registered.len() <= index {
            self.registered.resize_with(index + 1, || None);
        }
        if !serves(rail, shared.kind()) || self.is_registered(region) {
            return Ok(());
        }
        let mut ids = Vec::with_capacity(2 * self.channels.len() * cut.pieces());
        let comms = self.channels.iter().flat_map(|pair| [pair.send, pair.recv]);
        let result = comms.clone().try_for_each(|comm| register_pieces(set, comm, shared, cut, &mut ids));
        match result {
            Ok(()) => {
                self.registered[index] = Some(Registered { region, cut, ids });
                Ok(())
            }
            Err(error) => {
                give_back(set, comms, cut, &ids);
                Err(error)
            }
        }
    }

    /// Takes a region from every comm, if it is there.
    pub(crate) fn deregister(&mut self, set: &mut ChannelSet, region: RegionId) {
        let place = self.registered.get_mut(region.index());
        let entry = place.and_then(|place| place.take_if(|entry| entry.region == region));
        if let Some(Registered { cut, ids, .. }) = entry {
            give_back(set, self.channels.iter().flat_map(|pair| [pair.send, pair.recv]), cut, &ids);
        }
    }
}

fn register_pieces(
    set: &mut ChannelSet,
    comm: ChannelId,
    shared: &Shared,
    cut: Cut,
    ids: &mut Vec<RegistrationId>,
) -> Result<(), Error> {
    let parts = cut.parts(shared).map_err(|error| Error::misuse("register", error.to_string()))?;
    for part in parts {
        let channel = set.channel(comm).map_err(|error| Error::misuse("register", error.to_string()))?;
        match channel.register(Box::new(part)) {
            Ok(id) => ids.push(id),
            Err(tcpx_core::RegisterError { error, memory }) => {
                drop(memory);
                return Err(Error::new(kind_of(&error), "register", error.to_string()).with_source(error));
            }
        }
    }
    Ok(())
}

/// Deregisters, comm by comm, as many registrations as there are.
fn give_back(set: &mut ChannelSet, comms: impl Iterator<Item = ChannelId>, cut: Cut, ids: &[RegistrationId]) {
    for (comm, ids) in comms.zip(ids.chunks(cut.pieces())) {
        let Ok(channel) = set.channel(comm) else { continue };
        for &id in ids {
            match channel.deregister(id) {
                Ok(part) => drop(part),
                // The comm keeps its owner, so that nothing is freed under the plugin.
                Err(error) => tracing::error!("memory stays registered until its connection ends: {error}"),
            }
        }
    }
}

const fn kind_of(error: &tcpx_core::Error) -> ErrorKind {
    match error.kind() {
        tcpx_core::ErrorKind::Misuse => ErrorKind::Misuse,
        tcpx_core::ErrorKind::Exhausted => ErrorKind::Exhausted,
        tcpx_core::ErrorKind::Comm => ErrorKind::Conn,
        tcpx_core::ErrorKind::Plugin => ErrorKind::Device,
        tcpx_core::ErrorKind::Unsupported | _ => ErrorKind::Unsupported,
    }
}
