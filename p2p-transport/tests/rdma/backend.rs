//! The contract over verbs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2p_memory::{Part, Shared};
use p2p_transport::{
    Accepted, Address, ConnId, Control, DoorId, Error, ErrorKind, Event, Events, Id, Limits, ListenerId,
    Memory, MemoryKind, Next, Nic, NicId, Now, OneSided, OneSidedLimits, OneSidedOp, Op, Rail, Received,
    RegionId, Regions, RegisterError, RemoteSlice, Slab, Slice, Stop, StreamId, Token, Transport,
};

use crate::link::{Link, Memories, Stage};
use crate::verbs::{Access, AsyncEvent, Errno, Fabric, Mr, Verbs, Wc};
use crate::wire::{self, Hello, MAX_CHANNELS};

pub(crate) const NIC: NicId = NicId(0);
/// Until when a connection has to stand.
const ESTABLISH: Duration = Duration::from_secs(5);

pub(crate) struct Registered {
    shared: Shared,
    pub(crate) mr: Mr,
    exports: Vec<u32>,
    revoked: bool,
}

struct Listener {
    channels: usize,
}

/// Somebody who came before or after `accept`, and has said who it wants.
struct Guest {
    stream: StreamId,
    said: Vec<u8>,
}

pub(crate) struct Rdma<V: Verbs> {
    verbs: V,
    control: Box<dyn Control>,
    door: DoorId,
    nics: [Nic; 1],
    memories: Memories,
    listeners: Slab<ListenerId, Listener>,
    guests: Vec<Guest>,
    links: Slab<ConnId, Link>,
    wanted: Vec<(ConnId, (u32, u32), usize)>,
    ended: Vec<(ConnId, Error)>,
    batch: Vec<Wc>,
    first: usize,
    broken: bool,
}

fn device(during: &'static str, errno: Errno) -> Error {
    Error::new(ErrorKind::Device, during, "a verb failed: see the code").with_code(errno.0)
}

fn key(id: ListenerId) -> (u32, u32) {
    (id.index() as u32, Id::generation(id).get())
}

impl<V: Verbs> Rdma<V> {
    pub(crate) fn new(verbs: V, mut control: Box<dyn Control>) -> Result<Self, Error> {
        let door = control.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self {
            verbs,
            control,
            door,
            nics: [Nic::new(NIC, "soft0")],
            memories: Regions::new(),
            listeners: Slab::new(),
            guests: Vec::new(),
            links: Slab::new(),
            wanted: Vec::new(),
            ended: Vec::new(),
            batch: Vec::with_capacity(64),
            first: 0,
            broken: false,
        })
    }

    fn rail(&self, during: &'static str, rail: Rail) -> Result<usize, Error> {
        if rail.nic != NIC || rail.channels == 0 {
            let text = "there is one NIC, number 0, and a rail has at least one channel";
            return Err(Error::misuse(during, text));
        }
        if rail.device.is_some() {
            let text = "memory of the host only";
            return Err(Error::new(ErrorKind::Unsupported, during, text));
        }
        Ok(usize::from(rail.channels).min(MAX_CHANNELS))
    }

    /// Moves the exchange streams, and through them the stages of connections.
    fn exchange(&mut self, now: Now) {
        while let Some(stream) = self.control.accept(self.door) {
            self.guests.push(Guest { stream, said: Vec::new() });
        }
        let mut index = 0;
        while let Some(guest) = self.guests.get_mut(index) {
            let missing = Hello::BYTES - guest.said.len();
            let ended = receive(self.control.as_mut(), guest.stream, &mut guest.said, missing);
            let whole = guest.said.len() == Hello::BYTES;
            let hello = Hello::decode(&guest.said).filter(|_| whole);
            let known = hello.is_some_and(|hello| {
                let open = self.listeners.iter().any(|(id, _)| key(id) == hello.listener);
                open || self.wanted.iter().any(|(_, listener, _)| *listener == hello.listener)
            });
            if ended || (whole && !known) {
                let guest = self.guests.remove(index);
                self.control.close(guest.stream);
                continue;
            }
            let at = hello.and_then(|hello| {
                self.wanted.iter().position(|(_, listener, _)| *listener == hello.listener).zip(Some(hello))
            });
            if let Some((at, hello)) = at {
                let (conn, _, channels) = self.wanted.remove(at);
                let guest = self.guests.remove(index);
                self.greet(conn, guest.stream, &hello, channels);
                continue;
            }
            index += 1;
        }
        for (_, link) in self.links.iter_mut() {
            stage(&mut self.verbs, self.control.as_mut(), link, now);
        }
    }

    fn greet(&mut self, conn: ConnId, stream: StreamId, hello: &Hello, channels: usize) {
        let Some(link) = self.links.get_mut(conn) else { return };
        link.stream = Some(stream);
        let wanted = channels.min(hello.channels as usize);
        let made = link.create(&mut self.verbs, wanted);
        let joined = made.and_then(|mine| link.join(&mut self.verbs, hello).map(|()| mine));
        match joined {
            Ok(mine) => {
                mine.encode(&mut link.outbox);
                link.stage = Stage::Greeted;
            }
            Err(errno) => link.lose(&mut self.verbs, device("accept", errno)),
        }
    }

    fn finish(&mut self, conn: ConnId) {
        self.wanted.retain(|(wanted, _, _)| *wanted != conn);
        let Some(mut link) = self.links.remove(conn) else { return };
        link.destroy(&mut self.verbs);
        if let Some(stream) = link.stream {
            self.control.close(stream);
        }
        if let Some(why) = link.why {
            self.ended.push((conn, why));
        }
    }

    fn drive(&mut self, conn: ConnId, events: &mut Events) {
        let (verbs, memories) = (&mut self.verbs, &mut self.memories);
        let Some(link) = self.links.get_mut(conn) else { return };
        loop {
            while events.room() > 0 {
                let mut unused = |slices: &[Slice]| {
                    memories.release(slices, |memories, region| revoke(verbs, memories, region));
                };
                let Some(event) = link.deliver(&mut unused) else { break };
                events.push(event).expect("room was asked for");
            }
            let (Some(cq), room) = (link.queue(), events.room().min(16)) else { break };
            if room == 0 {
                break;
            }
            verbs.poll_cq(cq, &mut self.batch, room);
            if self.batch.is_empty() {
                break;
            }
            for wc in self.batch.drain(..) {
                link.completed(verbs, memories, &wc);
            }
        }
        if link.stage == Stage::Draining && link.drained() && events.room() > 0 {
            events.push(Event::Closed(conn)).expect("room was asked for");
            self.finish(conn);
        }
    }
}

/// Takes the bytes that are there, at most `missing`. True if the stream has ended.
fn receive(control: &mut dyn Control, stream: StreamId, into: &mut Vec<u8>, missing: usize) -> bool {
    let mut block = [0; 64];
    let mut left = missing;
    loop {
        let want = left.clamp(1, block.len());
        if left == 0 && !into.is_empty() {
            return false;
        }
        match control.receive(stream, &mut block[..want]) {
            Received::Bytes(count) => {
                into.extend(&block[..count]);
                left = left.saturating_sub(count);
            }
            Received::Nothing => return false,
            Received::Ended => return true,
        }
    }
}

fn stage<V: Verbs>(verbs: &mut V, control: &mut dyn Control, link: &mut Link, now: Now) {
    if link.stage == Stage::Draining {
        return;
    }
    if let Some(stream) = link.stream {
        let count = control.send(stream, &link.outbox);
        link.outbox.drain(..count);
        let missing = match link.stage {
            Stage::Greeting => Hello::BYTES - link.inbox.len(),
            Stage::Greeted | Stage::Open | Stage::Listening | Stage::Draining => 1,
        };
        let ended = receive(control, stream, &mut link.inbox, missing);
        if link.stage == Stage::Greeting && link.inbox.len() == Hello::BYTES {
            let joined = Hello::decode(&link.inbox).ok_or(Errno(71)).and_then(|peer| link.join(verbs, &peer));
            link.inbox.clear();
            match joined {
                Ok(()) => {
                    link.outbox.push(1);
                    open(link);
                }
                Err(errno) => link.lose(verbs, device("connect", errno)),
            }
        } else if link.stage == Stage::Greeted && !link.inbox.is_empty() {
            link.inbox.clear();
            open(link);
        }
        if ended {
            let why = Error::new(ErrorKind::Conn, "poll", "the peer has gone: its exchange stream ended");
            link.lose(verbs, why);
        }
    }
    let deadline = *link.deadline.get_or_insert(now.after(ESTABLISH));
    if link.stage != Stage::Open && now >= deadline {
        let why = Error::new(ErrorKind::Conn, "connect", "no peer has come in time");
        link.lose(verbs, why);
    }
}

fn open(link: &mut Link) {
    link.stage = Stage::Open;
    link.ready.push_back(Event::Connected(link.id));
}

/// No device reaches the region from here on: deregistration ends remote access as well.
fn revoke<V: Verbs>(verbs: &mut V, memories: &mut Memories, region: RegionId) {
    let Some(registered) = memories.value_mut(region).filter(|registered| !registered.revoked) else {
        return;
    };
    registered.revoked = true;
    let keys = registered.exports.drain(..).chain([registered.mr.lkey]);
    let mut refused = false;
    for key in keys {
        refused |= verbs.dereg_mr(key).is_err();
    }
    if refused {
        memories.leak(region);
    }
    memories.ready(region);
}

impl<V: Verbs> Transport for Rdma<V> {
    fn nics(&self) -> &[Nic] {
        &self.nics
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        let rail = Rail { nic: NIC, device, channels: 2 };
        self.rail("rails", rail).map(|_| vec![rail])
    }

    fn region_align(&self, _: MemoryKind) -> usize {
        1
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.links.get(conn).filter(|link| link.connected).map(|link| &link.limits)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        let channels = self.rail("listen", rail)?;
        let port = self.control.local(self.door).map_or(0, |at| at.port());
        let id = self.listeners.insert(Listener { channels });
        Ok((id, wire::address(port, key(id))))
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        let found = self.listeners.remove(listener).ok_or_else(|| Error::stale("accept", "listener"))?;
        self.ended.clear();
        let fabric = self.verbs.fabric();
        let conn = self.links.insert_with(|id| Link::new(id, fabric, Stage::Listening));
        self.wanted.push((conn, key(listener), found.channels));
        Ok(conn)
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.listeners.remove(listener).map(drop).ok_or_else(|| Error::stale("unlisten", "listener"))
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        let channels = self.rail("connect", rail)?;
        let Some((port, listener)) = wire::parse(peer) else {
            return Err(Error::misuse("connect", "this is no address of this backend and version"));
        };
        self.ended.clear();
        let fabric = self.verbs.fabric();
        let conn = self.links.insert_with(|id| Link::new(id, fabric, Stage::Greeting));
        let link = self.links.get_mut(conn).expect("new");
        let stream = self.control.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        match (stream, link.create(&mut self.verbs, channels)) {
            (Ok(stream), Ok(mut hello)) => {
                hello.listener = listener;
                hello.encode(&mut link.outbox);
                link.stream = Some(stream);
            }
            (Err(error), _) => link.lose(&mut self.verbs, error),
            (_, Err(errno)) => link.lose(&mut self.verbs, device("connect", errno)),
        }
        Ok(conn)
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        let link = self.links.get_mut(conn).ok_or_else(|| Error::stale("close", "connection"))?;
        if link.stage != Stage::Draining {
            link.drain(&mut self.verbs);
        }
        Ok(())
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        let live = self.links.get(conn).and_then(|link| link.why.as_ref());
        live.or_else(|| self.ended.iter().find(|(id, _)| *id == conn).map(|(_, why)| why))
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        if nic != NIC || memory.kind() != MemoryKind::Host || memory.span().1 == 0 {
            let error = Error::misuse("register", "memory of the host that is not empty, on NIC 0");
            return Err(RegisterError { error, memory });
        }
        let shared = Shared::new(memory);
        // Without order the peer's writes are the receives: the whole region is open to whoever has its key.
        let remote_write = self.verbs.fabric() == Fabric::Srd;
        let access = Access { remote_write, remote_read: false };
        let made = whole(&shared).and_then(|part| self.verbs.reg_mr(part, access));
        let kept = whole(&shared);
        match (made, kept) {
            (Ok(mr), Ok(part)) => {
                let registered = Registered { shared, mr, exports: Vec::new(), revoked: false };
                Ok(self.memories.insert(nic, Box::new(part), registered))
            }
            (Err(errno), kept) | (_, kept @ Err(errno)) => {
                drop(kept);
                let memory = shared.try_into_inner().expect("nobody else has it");
                Err(RegisterError { error: device("register", errno), memory })
            }
        }
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        if self.memories.retire(region)? {
            revoke(&mut self.verbs, &mut self.memories, region);
        }
        Ok(())
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        let shared = self.memories.value(region)?.shared.clone();
        drop(self.memories.reclaim(region)?);
        shared.try_into_inner().ok()
    }

    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        let (verbs, memories) = (&mut self.verbs, &mut self.memories);
        batch(&mut self.links, conn, ops, |link, op| link.take(verbs, memories, op))
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        self.links.get_mut(conn).is_some_and(|link| link.cancel(token))
    }

    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        let before = events.room();
        while let Some(event) = self.verbs.async_event() {
            self.broken |= matches!(event, AsyncEvent::DeviceFatal | AsyncEvent::CqOverflow);
        }
        if self.broken {
            for (_, link) in self.links.iter_mut() {
                link.lose(&mut self.verbs, Error::new(ErrorKind::Device, "poll", "the device failed"));
            }
        }
        self.exchange(now);
        let count = self.links.positions();
        self.first = self.first.wrapping_add(1);
        for step in 0..count {
            if let Some(conn) = self.links.id_at((self.first + step) % count) {
                self.drive(conn, events);
            }
        }
        while events.room() > 0
            && let Some(region) = self.memories.next_retired()
        {
            events.push(Event::Retired(region)).expect("room was asked for");
        }
        if events.room() < before {
            return Next::Again;
        }
        let quiet = self.links.is_empty() && !self.memories.has_retired();
        if quiet { Next::Idle(None) } else { Next::Spin }
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        Some(self)
    }
}

fn whole(shared: &Shared) -> Result<Part, Errno> {
    shared.part(0, shared.len()).map_err(|_| Errno(22))
}

fn batch<O>(
    links: &mut Slab<ConnId, Link>,
    conn: ConnId,
    ops: &[O],
    mut take: impl FnMut(&mut Link, &O) -> bool,
) -> Accepted {
    let Some(link) = links.get_mut(conn) else { return Accepted::prefix(0, Stop::Closed) };
    for (count, op) in ops.iter().enumerate() {
        if link.stage == Stage::Draining {
            return Accepted::prefix(count, Stop::Closed);
        }
        if link.stage != Stage::Open || !take(link, op) {
            return Accepted::prefix(count, Stop::Busy);
        }
    }
    Accepted::all(ops.len())
}

impl<V: Verbs> OneSided for Rdma<V> {
    fn limits(&self, conn: ConnId) -> Option<OneSidedLimits> {
        self.links.get(conn).filter(|link| link.connected).map(|link| link.one_sided)
    }

    fn export(&mut self, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error> {
        self.links.get(conn).ok_or_else(|| Error::stale("export", "connection"))?;
        self.memories.check(NIC, slice).map_err(|fault| Error::misuse("export", fault.to_string()))?;
        let registered = self.memories.value_mut(slice.region).expect("checked");
        let part = registered.shared.part(slice.offset as usize, slice.len as usize);
        let part = part.map_err(|_| Error::misuse("export", "outside of its region"))?;
        // A key for these bytes alone; it is the device's domain that bounds who may use it.
        let access = Access { remote_write: true, remote_read: true };
        let mr = self.verbs.reg_mr(part, access).map_err(|errno| device("export", errno))?;
        registered.exports.push(mr.lkey);
        Ok(RemoteSlice { addr: mr.addr, key: u64::from(mr.rkey), len: slice.len })
    }

    fn submit(&mut self, conn: ConnId, ops: &[OneSidedOp]) -> Accepted {
        let (verbs, memories) = (&mut self.verbs, &mut self.memories);
        batch(&mut self.links, conn, ops, |link, op| link.take_one_sided(verbs, memories, op))
    }
}

impl<V: Verbs> Drop for Rdma<V> {
    fn drop(&mut self) {
        let links: Vec<ConnId> = self.links.iter().map(|(id, _)| id).collect();
        for conn in links {
            self.finish(conn);
        }
        for guest in &self.guests {
            self.control.close(guest.stream);
        }
        self.control.shut(self.door);
        // After the queue pairs: nothing posted names the memory any more.
        let regions: Vec<RegionId> = self.memories.iter().map(|(id, _)| id).collect();
        for region in regions {
            drop(self.memories.retire(region));
            revoke(&mut self.verbs, &mut self.memories, region);
        }
    }
}
