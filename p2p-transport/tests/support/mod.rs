//! A backend whose connections all lead back to itself, small enough to be read at one sitting.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use p2p_memory::{HostView, SharedHost};
use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Event, Events, Id, Limits, ListenerId, Memory, MemoryKind,
    Next, Nic, NicId, Now, Op, Outcome, Rail, RegionId, Regions, RegisterError, Slab, Slice, Stop, Token,
    Transport,
};
use rustix::event::{EventfdFlags, eventfd};

pub(crate) const NIC: NicId = NicId(0);
pub(crate) const RAIL: Rail = Rail { nic: NIC, device: None, channels: 1 };
const SLICES: usize = 4;

#[derive(Clone, Copy)]
struct Work {
    token: Token,
    slices: [Slice; SLICES],
    count: usize,
    len: u32,
}

impl Work {
    fn slices(&self) -> &[Slice] {
        &self.slices[..self.count]
    }
}

struct Link {
    peer: Option<ConnId>,
    sends: VecDeque<Work>,
    recvs: VecDeque<Work>,
    limits: Limits,
    connected: bool,
    closing: bool,
}

/// Where a listener leads.
struct Door {
    accepted: Option<ConnId>,
    wanted: Option<ConnId>,
}

/// Both ends of each connection lie in it; one poll matches and copies.
pub(crate) struct Loopback {
    nics: Vec<Nic>,
    regions: Regions<()>,
    links: Slab<ConnId, Link>,
    doors: Vec<Door>,
    listeners: Slab<ListenerId, usize>,
    events: VecDeque<Event>,
    why: Vec<(ConnId, Error)>,
    limits: Limits,
    /// Messages are not matched while this is set.
    pub(crate) stalled: bool,
    /// Each completion is reported twice, which no backend may do.
    pub(crate) repeats: bool,
    /// The next poll panics.
    pub(crate) panics: bool,
    /// Messages are matched when somebody else says so.
    pub(crate) device: Option<Arc<Device>>,
    /// Each completion is kept here as well, if there is something to keep it in.
    pub(crate) kept: Option<Vec<Event>>,
}

impl Loopback {
    pub(crate) fn new(window: u16, fifo: bool) -> Self {
        let mut limits = Limits::new(1 << 16, window, window);
        limits.max_slices = SLICES as u16;
        limits.fifo = fifo;
        Self {
            nics: vec![Nic::new(NIC, "lo")],
            regions: Regions::new(),
            links: Slab::new(),
            doors: Vec::new(),
            listeners: Slab::new(),
            events: VecDeque::with_capacity(4096),
            why: Vec::new(),
            limits,
            stalled: false,
            repeats: false,
            panics: false,
            device: None,
            kept: None,
        }
    }

    pub(crate) fn live_connections(&self) -> usize {
        self.links.len()
    }

    pub(crate) fn live_listeners(&self) -> usize {
        self.listeners.len()
    }

    /// Lengths of the sends of a connection that wait for a receive.
    pub(crate) fn waiting(&self, conn: ConnId) -> impl Iterator<Item = u32> {
        self.links.get(conn).into_iter().flat_map(|link| link.sends.iter().map(|work| work.len))
    }

    /// Loses a connection and its peer, as a cut wire would.
    pub(crate) fn cut(&mut self, conn: ConnId) {
        let peer = self.links.get(conn).and_then(|link| link.peer);
        for id in [Some(conn), peer].into_iter().flatten() {
            self.why.push((id, Error::new(ErrorKind::Conn, "poll", "the wire was cut")));
            self.end(id);
        }
    }

    /// Reports something that is not so.
    pub(crate) fn lie(&mut self, event: Event) {
        self.events.push_back(event);
    }

    fn connection(&mut self) -> ConnId {
        let window = usize::from(self.limits.max_sends);
        self.links.insert(Link {
            peer: None,
            sends: VecDeque::with_capacity(window),
            recvs: VecDeque::with_capacity(window),
            limits: self.limits,
            connected: false,
            closing: false,
        })
    }

    fn marry(&mut self, door: usize) {
        let Door { accepted: Some(one), wanted: Some(other) } = self.doors[door] else { return };
        for (id, peer) in [(one, other), (other, one)] {
            let alive = self.links.get(peer).is_some_and(|link| !link.closing);
            let Some(link) = self.links.get_mut(id).filter(|link| !link.closing) else { continue };
            if alive {
                link.peer = Some(peer);
                link.connected = true;
                self.events.push_back(Event::Connected(id));
            }
        }
    }

    fn end(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(conn).filter(|link| !link.closing) else { return };
        link.closing = true;
        while let Some(work) =
            self.links.get_mut(conn).and_then(|link| link.sends.pop_front().or(link.recvs.pop_front()))
        {
            self.complete(conn, &work, Outcome::ConnLost);
        }
        self.events.push_back(Event::Closed(conn));
    }

    fn complete(&mut self, conn: ConnId, work: &Work, outcome: Outcome) {
        for _ in 0..=usize::from(self.repeats) {
            self.events.push_back(Event::Completed { conn, token: work.token, outcome });
        }
        if let Some(kept) = &mut self.kept {
            kept.push(Event::Completed { conn, token: work.token, outcome });
        }
        self.regions.release(work.slices(), Regions::ready);
    }

    fn copy(&self, send: &Work, recv: &Work) {
        let mut targets = recv.slices().iter().copied();
        let Some(mut target) = targets.next() else { return };
        for source in send.slices() {
            let mut source = *source;
            while source.len > 0 {
                while target.len == 0 {
                    let Some(next) = targets.next() else { return };
                    target = next;
                }
                let step = source.len.min(target.len);
                let view = |slice: Slice| {
                    HostView::of(self.regions.memory(slice.region).expect("held")).expect("of the host")
                };
                view(source)
                    .copy_to(source.offset as usize, &view(target), target.offset as usize, step as usize)
                    .expect("checked");
                (source.offset, source.len) = (source.offset + u64::from(step), source.len - step);
                (target.offset, target.len) = (target.offset + u64::from(step), target.len - step);
            }
        }
    }

    fn step(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.links.positions() {
            let Some(id) = self.links.id_at(index) else { continue };
            let Some(peer) = self.links.get(id).and_then(|link| link.peer) else { continue };
            loop {
                if self.links.get(id).is_none_or(|link| link.sends.is_empty())
                    || self.links.get(peer).is_none_or(|link| link.recvs.is_empty())
                {
                    break;
                }
                let send = self.links.get_mut(id).and_then(|link| link.sends.pop_front());
                let recv = self.links.get_mut(peer).and_then(|link| link.recvs.pop_front());
                let (Some(send), Some(recv)) = (send, recv) else { break };
                self.copy(&send, &recv);
                self.complete(id, &send, Outcome::Done { len: send.len });
                self.complete(peer, &recv, Outcome::Done { len: send.len.min(recv.len) });
                moved = true;
            }
        }
        moved
    }
}

impl Transport for Loopback {
    fn nics(&self) -> &[Nic] {
        &self.nics
    }

    fn rails(&self, _device: Option<u16>) -> Result<Vec<Rail>, Error> {
        Ok(vec![RAIL])
    }

    fn region_align(&self, _kind: MemoryKind) -> usize {
        1
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.links.get(conn).filter(|link| link.connected).map(|link| &link.limits)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        if rail.nic != NIC {
            return Err(Error::misuse("listen", "no such NIC: there is only 0"));
        }
        self.doors.push(Door { accepted: None, wanted: None });
        let door = self.doors.len() - 1;
        let address = Address::new(&(door as u64).to_le_bytes()).expect("8 bytes");
        Ok((self.listeners.insert(door), address))
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        let door = self.listeners.remove(listener).ok_or_else(|| Error::stale("accept", "listener"))?;
        self.why.clear();
        let conn = self.connection();
        self.doors[door].accepted = Some(conn);
        self.marry(door);
        Ok(conn)
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.listeners.remove(listener).map(|_| ()).ok_or_else(|| Error::stale("unlisten", "listener"))
    }

    fn connect(&mut self, _rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        let door = peer.as_bytes().try_into().map(u64::from_le_bytes);
        let door = door.ok().filter(|door| *door < self.doors.len() as u64);
        let door = door.ok_or_else(|| Error::misuse("connect", "no address of this backend"))? as usize;
        self.why.clear();
        let conn = self.connection();
        self.doors[door].wanted = Some(conn);
        self.marry(door);
        Ok(conn)
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        let link = self.links.get(conn).ok_or_else(|| Error::stale("close", "connection"))?;
        if let Some(peer) = link.peer.filter(|_| !link.closing) {
            if self.links.get(peer).is_some_and(|link| !link.closing) {
                self.why.push((peer, Error::new(ErrorKind::Conn, "poll", "the peer closed the connection")));
            }
            self.end(peer);
        }
        self.end(conn);
        Ok(())
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        self.why.iter().find(|(id, _)| *id == conn).map(|(_, error)| error)
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        if nic != NIC {
            return Err(RegisterError { error: Error::misuse("register", "no such NIC"), memory });
        }
        Ok(self.regions.insert(nic, memory, ()))
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        if self.regions.retire(region)? {
            self.regions.ready(region);
        }
        Ok(())
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        self.regions.reclaim(region)
    }

    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        for (op, count) in ops.iter().zip(0..) {
            let Some(link) = self.links.get_mut(conn).filter(|link| !link.closing) else {
                return Accepted::prefix(count, Stop::Closed);
            };
            let full = match op {
                Op::Send { .. } => link.sends.len() >= usize::from(link.limits.max_sends),
                Op::Recv { .. } => link.recvs.len() >= usize::from(link.limits.max_recvs),
            };
            if full || !link.connected {
                return Accepted::prefix(count, Stop::Busy);
            }
            let slices = op.slices();
            let held = self.regions.hold(NIC, slices, link.limits.max_slices, link.limits.max_message);
            match held {
                Err(fault) => self.events.push_back(Event::Completed {
                    conn,
                    token: op.token(),
                    outcome: Outcome::Failed(fault),
                }),
                Ok(len) => {
                    let region = slices[0].region;
                    let mut work = Work {
                        token: op.token(),
                        slices: [Slice { region, offset: 0, len: 0 }; SLICES],
                        count: slices.len(),
                        len,
                    };
                    work.slices[..slices.len()].copy_from_slice(slices);
                    match op {
                        Op::Send { .. } => link.sends.push_back(work),
                        Op::Recv { .. } => link.recvs.push_back(work),
                    }
                }
            }
        }
        Accepted::all(ops.len())
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        let Some(link) = self.links.get_mut(conn) else { return false };
        let named = |work: &Work| work.token == token;
        let work = match link.sends.iter().rposition(named) {
            Some(at) => link.sends.remove(at),
            None => link.recvs.iter().rposition(named).and_then(|at| link.recvs.remove(at)),
        };
        let Some(work) = work else { return false };
        self.complete(conn, &work, Outcome::Cancelled);
        true
    }

    fn poll(&mut self, _now: Now, events: &mut Events) -> Next {
        assert!(!self.panics, "asked to");
        let allowed = self.device.as_ref().is_none_or(|device| device.takes());
        let moved = allowed && !self.stalled && self.step();
        while events.room() > 0 {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => match self.regions.next_retired() {
                    Some(region) => Event::Retired(region),
                    None => break,
                },
            };
            if let Event::Closed(id) = event {
                self.links.remove(id);
            }
            events.push(event).expect("there is room");
        }
        if moved || !self.events.is_empty() || self.regions.has_retired() {
            return Next::Again;
        }
        let busy = self.links.iter().any(|(_, link)| !link.sends.is_empty() || !link.recvs.is_empty());
        if busy { Next::Wait(None) } else { Next::Idle(None) }
    }

    fn describe(&self, conn: ConnId) -> Option<String> {
        self.links.get(conn).map(|_| format!("over {conn:?}"))
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(|device| device.0.as_fd())
    }
}

/// Something outside that lets messages through one poll at a time, and tells a descriptor.
pub(crate) struct Device(OwnedFd);

impl Device {
    pub(crate) fn new() -> Self {
        let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
        Self(eventfd(0, flags).expect("has one"))
    }

    /// Lets messages through.
    pub(crate) fn ring(&self) {
        rustix::io::write(&self.0, &1_u64.to_ne_bytes()).expect("has room");
    }

    fn takes(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

/// Memory to register, and the clone that the test keeps.
pub(crate) fn memory(length: usize) -> (Box<dyn Memory>, SharedHost) {
    let host = SharedHost::new(length).expect("little memory");
    (Box::new(host.clone()), host)
}

/// Bytes that tell where they lie.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (seed.wrapping_mul(31).wrapping_add(at * 7)) as u8).collect()
}

/// Two ends of a connection of any transport that leads back to itself.
pub(crate) fn pair(transport: &mut impl Transport) -> (ConnId, ConnId) {
    let (listener, address) = transport.listen(RAIL).expect("listens");
    let here = transport.accept(listener).expect("accepts");
    let there = transport.connect(RAIL, &address).expect("connects");
    let mut events = Events::with_capacity(8);
    let mut seen = 0;
    for _ in 0..1000 {
        let _ = transport.poll(Now::default(), &mut events);
        for event in events.drain() {
            assert!(matches!(event, Event::Connected(_)), "{event:?}");
            seen += 1;
        }
        if seen == 2 {
            return (here, there);
        }
    }
    panic!("never connected");
}

/// Where an id lies, for tests that look at positions.
pub(crate) fn position(id: impl Id) -> usize {
    id.index()
}
