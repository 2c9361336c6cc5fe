//! The transport: what its caller asks for, apart from progress.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use p2p_memory::{Memory, MemoryKind, PAGE};
use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Events, Limits, ListenerId, Next, Nic, NicId, Now, Op,
    OpFault, Rail, RegionId, Regions, RegisterError, Slab, Stop, Token, Transport,
};
use tcpx_core::config::Config;
use tcpx_core::preflight::Nature;
use tcpx_core::{ChannelId, ChannelSet, Device, Fault, Plugin};

use crate::Choice;
use crate::bits::Bits;
use crate::connection::{Conn, Ending, Live, Phase, Side, far};
use crate::counters::Counters;
use crate::establish::Opening;
use crate::exchange::address::Place;
use crate::exchange::places;
use crate::exchange::wire::{Key, Word};
use crate::options::Options;
use crate::rails::Rails;
use crate::regions::longest_slice;
use crate::register::Entry;
use crate::watch::Watch;

/// A transport over a net plugin.
///
/// It is driven by [`poll`](Transport::poll) and has no thread of its own; the bytes are moved by the plugin's.
pub struct Tcpx {
    /// First, so that comms are closed before anything that they use is gone.
    pub(crate) set: ChannelSet,
    pub(crate) conns: Slab<ConnId, Conn>,
    pub(crate) regions: Regions<Entry>,
    pub(crate) listeners: Slab<ListenerId, Listener>,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) options: Options,
    pub(crate) watch: Watch,
    pub(crate) counters: Counters,
    pub(crate) now: Now,
    pub(crate) next_look: Now,
    /// When a look is wanted even if nothing comes.
    pub(crate) wake_at: Option<Now>,
    pub(crate) next_publish: Now,
    /// From when on a poll that finds nothing says how to sleep.
    pub(crate) quiet_at: Now,
    /// Connections that have something to report.
    pub(crate) reports: Bits,
    /// The connection that reports first.
    pub(crate) report_next: usize,
    /// Connections with operations that wait for a channel, or were refused for a full window.
    pub(crate) waiting: Bits,
    /// Connections that open or end.
    pub(crate) unsettled: Bits,
    /// Channels whose comm was lost in this round.
    pub(crate) lost: Vec<(ChannelId, Fault)>,
    /// Regions whose last user was reported in this round.
    pub(crate) unused: Vec<RegionId>,
    /// Slices of the message that is being posted.
    pub(crate) scratch: Vec<tcpx_core::Slice>,
    /// Why the last connection at each position ended.
    pub(crate) reasons: Vec<Option<(ConnId, Error)>>,
    rails: Rails,
    /// Bytes that Google's plugin was told to put on one socket at a time.
    chunk_bytes: usize,
    /// Interfaces of the control NIC, whose addresses peers are told first.
    control: Vec<String>,
}

/// Something that waits to be accepted.
pub(crate) struct Listener {
    rail: Rail,
    key: Key,
}

impl Tcpx {
    /// A transport over the plugin that this process's variables choose, with time counted from `origin`.
    ///
    /// # Errors
    ///
    /// As [`Choice::open`]; [`Misuse`](ErrorKind::Misuse) for a bad value of a variable.
    pub fn from_process(origin: Instant) -> Result<Self, Error> {
        let config = Config::from_process()
            .map_err(|error| Error::misuse("open", error.to_string()).with_source(error))?;
        let plugin = Choice::of(&config).open(&config)?;
        Self::new(plugin, &config, Options::of(&config, origin))
    }

    /// A transport over this plugin.
    ///
    /// # Errors
    ///
    /// [`Device`](ErrorKind::Device) if the plugin or the system gives nothing to sleep on.
    pub fn new(plugin: Arc<Plugin>, config: &Config, options: Options) -> Result<Self, Error> {
        let device = |text: String| Error::new(ErrorKind::Device, "open", text);
        let set = ChannelSet::new(plugin.clone()).map_err(|error| device(error.to_string()))?;
        let watch = Watch::new(set.wait_fd()).map_err(|error| device(format!("epoll: {error}")))?;
        let rails = Rails::new(&plugin, config, Path::new("/"));
        let filter = config.control_device.value.as_ref();
        let is_control =
            |local: &places::Local| filter.is_some_and(|filter| filter.matches(&local.interface));
        let control = places::all().into_iter().filter(is_control).map(|local| local.interface).collect();
        Ok(Self {
            set,
            conns: Slab::new(),
            regions: Regions::new(),
            listeners: Slab::new(),
            plugin,
            options,
            watch,
            counters: Counters::new(),
            now: Now::default(),
            next_look: Now::default(),
            wake_at: None,
            next_publish: Now::default(),
            quiet_at: Now::default(),
            reports: Bits::default(),
            report_next: 0,
            waiting: Bits::default(),
            unsettled: Bits::default(),
            lost: Vec::with_capacity(16),
            unused: Vec::new(),
            scratch: Vec::with_capacity(64),
            reasons: Vec::new(),
            rails,
            chunk_bytes: usize::try_from(config.chunk_bytes.value.get()).unwrap_or(usize::MAX),
            control,
        })
    }

    /// The plugin.
    pub const fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// A reader of its counters, for any thread.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Exchange streams that are open: one for each connection, however many channels it has.
    pub fn exchange_streams(&self) -> usize {
        self.conns.iter().filter(|(_, conn)| conn.stream.is_some()).count()
    }

    /// The instant that a time stands for.
    pub(crate) fn instant(&self, now: Now) -> Instant {
        far(self.options.origin, now.0)
    }

    pub(crate) fn device(&self, nic: NicId) -> &Device {
        &self.plugin.devices()[usize::from(nic.0)]
    }

    /// Bytes registered at once at most.
    pub(crate) fn registration_limit(&self) -> usize {
        let limit = self.options.registration_limit.unwrap_or(usize::MAX).max(2 * PAGE);
        self.plugin.max_registration().min(limit)
    }

    /// Longest message that this end of a connection on `nic` carries.
    fn max_message(&self, nic: NicId) -> u32 {
        let longest = self.device(nic).max_message.min(longest_slice(self.registration_limit()));
        longest_message(self.plugin.nature(), longest, self.chunk_bytes)
    }

    /// Where peers reach the exchange of this process, best first.
    fn places(&self, nic: NicId, port: u16) -> Vec<std::net::SocketAddr> {
        let ips = if self.options.exchange_at.is_empty() {
            let name = self.device(nic).name;
            let control = self.control.iter().map(String::as_str);
            let preferred: Vec<&str> = control.chain([places::interface_of(name), name]).collect();
            places::ordered(places::all(), &preferred)
        } else {
            self.options.exchange_at.clone()
        };
        ips.into_iter().map(|ip| (ip, port).into()).collect()
    }

    /// Addresses of a NIC, from which its exchange streams go; none where these go over the control NIC.
    fn own_addresses(&self, nic: NicId) -> Vec<std::net::IpAddr> {
        if !self.control.is_empty() || !self.options.exchange_at.is_empty() {
            return Vec::new();
        }
        let name = self.device(nic).name;
        if let Some(ip) = name.split_once('-').and_then(|(_, ip)| ip.parse().ok()) {
            return vec![ip];
        }
        places::all().into_iter().filter(|local| local.interface == name).map(|local| local.ip).collect()
    }

    fn open(&mut self, rail: Rail, make: impl FnOnce(u32) -> Opening) -> ConnId {
        let opening = make(self.max_message(rail.nic));
        let id = self.conns.insert(Conn::opening(rail, Box::new(opening)));
        let positions = self.conns.positions();
        self.reasons.resize(positions, None);
        self.reasons[id.index()] = None;
        for bits in [&mut self.reports, &mut self.waiting, &mut self.unsettled] {
            bits.grow(positions);
        }
        self.unsettled.set(id.index());
        self.next_look = Now::default();
        id
    }
}

impl Transport for Tcpx {
    fn nics(&self) -> &[Nic] {
        self.rails.nics()
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        self.rails.of(device)
    }

    fn region_align(&self, kind: MemoryKind) -> usize {
        if kind == MemoryKind::Host { 1 } else { PAGE }
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        let conn = self.conns.get(conn).filter(|conn| conn.was_open)?;
        conn.live.as_ref().map(|live| &live.limits)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        self.rails.check(rail, "listen")?;
        let refused = |error: std::io::Error| {
            let text = format!("the exchange port of this process: {error}");
            Error::new(ErrorKind::Exhausted, "listen", text).with_source(error)
        };
        let (hub, bell) = self.watch.hub().map_err(refused)?;
        let key = hub.subscribe(bell).map_err(refused)?;
        let at = self.places(rail.nic, hub.port());
        if at.is_empty() {
            let text = "this host has no address that a peer could reach: configure one, or name it in UCCL_TCPX_CTRL_IP";
            hub.unsubscribe(&key);
            return Err(Error::new(ErrorKind::Unsupported, "listen", text));
        }
        let address = Place { key, at }.to_address();
        let address = address.ok_or_else(|| Error::misuse("listen", "too many addresses of this host"))?;
        Ok((self.listeners.insert(Listener { rail, key }), address))
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        let hub = self.watch.known_hub().ok_or_else(|| Error::stale("accept", "listener"))?;
        let found = self.listeners.remove(listener).ok_or_else(|| Error::stale("accept", "listener"))?;
        let Listener { rail, key } = found;
        Ok(self.open(rail, |longest| Opening::accepting(key, hub, longest)))
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        let found = self.listeners.remove(listener).ok_or_else(|| Error::stale("unlisten", "listener"))?;
        if let Some(hub) = self.watch.known_hub() {
            hub.unsubscribe(&found.key);
        }
        Ok(())
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        self.rails.check(rail, "connect")?;
        let Place { key, at } = Place::parse(peer)
            .map_err(|error| Error::misuse("connect", error.to_string()).with_source(error))?;
        let from = self.own_addresses(rail.nic);
        Ok(self.open(rail, |longest| Opening::connecting(key, at, &from, longest)))
    }

    fn close(&mut self, id: ConnId) -> Result<(), Error> {
        let conn = self.conns.get_mut(id).ok_or_else(|| Error::stale("close", "connection"))?;
        let ending = match &mut conn.phase {
            Phase::Opening(_) => {
                if let Some(stream) = &mut conn.stream {
                    stream.say(&Word::Refused("it was closed there".to_owned()));
                }
                conn.finish(&mut self.set, None);
                self.reports.set(id.index());
                return Ok(());
            }
            Phase::Over => return Ok(()),
            Phase::Ending(ending) => ending,
            phase @ Phase::Open => {
                *phase = Phase::Ending(Ending::new());
                let Phase::Ending(ending) = phase else { return Ok(()) };
                ending
            }
        };
        if ending.closed_here {
            return Ok(());
        }
        ending.closed_here = true;
        if let Some(live) = &mut conn.live {
            live.sends.flush_waiting();
            live.recvs.flush_waiting();
            let sent = live.channels.iter().map(|pair| pair.sent).collect();
            if let Some(stream) = &mut conn.stream {
                stream.say(&Word::Closing { sent });
            }
        }
        self.reports.set(id.index());
        self.unsettled.set(id.index());
        self.next_look = Now::default();
        Ok(())
    }

    fn abort(&mut self, id: ConnId) -> Result<(), Error> {
        self.close(id)?;
        if let Some(Phase::Ending(ending)) = self.conns.get_mut(id).map(|conn| &mut conn.phase) {
            // The next look says to the peer what can be said, and closes the comms.
            ending.deadline = Some(Now::default());
            self.unsettled.set(id.index());
            self.next_look = Now::default();
        }
        Ok(())
    }

    fn why(&self, id: ConnId) -> Option<&Error> {
        match self.conns.get(id) {
            Some(conn) => conn.reason.as_ref(),
            None => {
                let (of, error) = self.reasons.get(id.index())?.as_ref()?;
                (*of == id).then_some(error)
            }
        }
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        self.register_on(nic, memory)
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        if self.regions.retire(region)? {
            self.deregister(region);
        }
        Ok(())
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        self.reclaim_region(region)
    }

    fn submit(&mut self, id: ConnId, ops: &[Op<'_>]) -> Accepted {
        let at = self.instant(self.now);
        let Self { conns, regions, set, scratch, reports, waiting, .. } = self;
        let Some(conn) = conns.get_mut(id) else { return Accepted::prefix(0, Stop::Closed) };
        let mut stop = None;
        let mut count = 0;
        for op in ops {
            match submit_one(conn, id.index(), op, regions, set, scratch, at) {
                Ok(started) => {
                    count += 1;
                    if !started {
                        waiting.set(id.index());
                    }
                }
                Err(stopped) => {
                    // For the time that the window is full.
                    waiting.set(id.index());
                    stop = Some(stopped);
                    break;
                }
            }
        }
        if conn.live.as_ref().is_some_and(Live::has_ended) {
            reports.set(id.index());
        }
        Accepted { count, stopped: stop }
    }

    fn cancel(&mut self, id: ConnId, token: Token) -> bool {
        let Some(live) = self.conns.get_mut(id).and_then(|conn| conn.live.as_mut()) else { return false };
        let withdrawn = if live.recvs.newest_waiting(token) > live.sends.newest_waiting(token) {
            live.recvs.cancel(token)
        } else {
            live.sends.cancel(token)
        };
        if withdrawn {
            self.reports.set(id.index());
        }
        withdrawn
    }

    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        self.progress(now, events)
    }

    fn describe(&self, conn: ConnId) -> Option<String> {
        let live = self.conns.get(conn)?.live.as_ref()?;
        self.set.describe(live.channels.first()?.send)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        // Where the plugin has nothing to sleep on, neither has the transport.
        self.set.wait_fd().map(|_| self.watch.as_fd())
    }
}

/// Longest message of a NIC that carries `longest` bytes. Google's plugin has to get a message in one chunk:
/// of more it loses pages, and stalls.
fn longest_message(nature: Nature, longest: usize, chunk: usize) -> u32 {
    let longest = if nature == Nature::Tcpx { longest.min(chunk) } else { longest };
    u32::try_from(longest).unwrap_or(u32::MAX)
}

/// Takes one operation in, and starts it if nothing waits before it. True if nothing of its side waits.
#[inline]
fn submit_one(
    conn: &mut Conn,
    index: usize,
    op: &Op<'_>,
    regions: &mut Regions<Entry>,
    set: &mut ChannelSet,
    scratch: &mut Vec<tcpx_core::Slice>,
    at: Instant,
) -> Result<bool, Stop> {
    let (side, token, slices) = match *op {
        Op::Send { token, from } => (Side::Send, token, from),
        Op::Recv { token, into } => (Side::Recv, token, into),
    };
    if !conn.takes(side) {
        return Err(if matches!(conn.phase, Phase::Opening(_)) { Stop::Busy } else { Stop::Closed });
    }
    let nic = conn.rail.nic;
    let Some(live) = &mut conn.live else { return Err(Stop::Closed) };
    if !live.operations(side).has_room() {
        live.refused[side as usize] = true;
        return Err(Stop::Busy);
    }
    let Limits { max_message, max_slices, .. } = live.limits;
    let fault = if slices.iter().all(|slice| live.is_registered(slice.region)) {
        regions.hold(nic, slices, max_slices, max_message).err()
    } else {
        Some(OpFault::BadSlice)
    };
    live.submitted += 1;
    let submitted = live.submitted;
    let _ = live.operations(side).accept(token, slices, fault, submitted);
    live.start(index, side, set, scratch, at);
    Ok(!live.operations(side).is_waiting())
}

impl std::fmt::Debug for Tcpx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcpx")
            .field("plugin", &self.plugin)
            .field("connections", &self.conns.len())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Drop for Tcpx {
    fn drop(&mut self) {
        if let Some(hub) = self.watch.known_hub() {
            for (_, listener) in self.listeners.iter() {
                hub.unsubscribe(&listener.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::longest_message;
    use tcpx_core::preflight::Nature;

    #[test]
    fn a_message_of_googles_plugin_is_one_chunk() {
        assert_eq!(longest_message(Nature::Tcpx, 4 << 20, 512 << 10), 512 << 10);
        assert_eq!(longest_message(Nature::Tcpx, 4 << 20, 64 << 20), 4 << 20);
        for other in [Nature::Soft, Nature::Other] {
            assert_eq!(longest_message(other, 4 << 20, 512 << 10), 4 << 20);
        }
        assert_eq!(longest_message(Nature::Soft, usize::MAX, 1), u32::MAX);
    }
}
