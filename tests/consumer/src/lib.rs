//! A backend of somebody else's: each connection is one Unix socket, each message a length and its bytes.
//!
//! It is small, correct and slow: everything goes through a buffer. It never uses what is not public in the
//! library.

#![forbid(unsafe_code)]

mod pipe;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Event, Events, Limits, ListenerId, Memory, MemoryKind, Next,
    Nic, NicId, Now, Op, Rail, RegionId, Regions, RegisterError, Slab, Stop, Token, Transport,
};

use pipe::Pipe;

const NIC: NicId = NicId(0);
const MAGIC: &[u8] = b"unix-pipes-1:";
/// Until when a peer has to come, and how long messages of a peer that has gone wait for receives.
pub const BOUND: Duration = Duration::from_secs(2);

static NAMES: AtomicU32 = AtomicU32::new(0);

/// The backend.
pub struct Pipes {
    nics: [Nic; 1],
    regions: Regions<()>,
    listeners: Slab<ListenerId, UnixListener>,
    pipes: Slab<ConnId, Pipe>,
    ended: Vec<(ConnId, Error)>,
    scratch: Vec<u8>,
    first: usize,
}

impl Pipes {
    /// One with nothing connected.
    pub fn new() -> Self {
        Self {
            nics: [Nic::new(NIC, "unix")],
            regions: Regions::new(),
            listeners: Slab::new(),
            pipes: Slab::new(),
            ended: Vec::new(),
            scratch: vec![0; 1 << 16],
            first: 0,
        }
    }

    fn insert(&mut self, made: impl FnOnce(ConnId) -> Pipe) -> ConnId {
        self.ended.clear();
        self.pipes.insert_with(made)
    }
}

impl Default for Pipes {
    fn default() -> Self {
        Self::new()
    }
}

fn system(during: &'static str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Conn, during, error.to_string()).with_source(error)
}

fn check(during: &'static str, rail: Rail) -> Result<(), Error> {
    if rail.nic != NIC || rail.channels == 0 {
        return Err(Error::misuse(during, "there is only NIC 0, and a rail has a channel"));
    }
    match rail.device {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Unsupported, during, "pipes carry host memory only")),
    }
}

impl Transport for Pipes {
    fn nics(&self) -> &[Nic] {
        &self.nics
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        let rail = Rail { nic: NIC, device, channels: 1 };
        check("rails", rail).map(|()| vec![rail])
    }

    fn region_align(&self, _: MemoryKind) -> usize {
        1
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.pipes.get(conn).and_then(Pipe::limits)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        check("listen", rail)?;
        let name = format!("consumer-{}-{}", process::id(), NAMES.fetch_add(1, Relaxed));
        let listener = SocketAddr::from_abstract_name(&name)
            .and_then(|at| UnixListener::bind_addr(&at))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|error| system("listen", error))?;
        let address = Address::new(&[MAGIC, name.as_bytes()].concat()).expect("a short name");
        Ok((self.listeners.insert(listener), address))
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        let listener = self.listeners.remove(listener).ok_or_else(|| Error::stale("accept", "listener"))?;
        Ok(self.insert(|id| Pipe::accepting(id, listener)))
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.listeners.remove(listener).map(drop).ok_or_else(|| Error::stale("unlisten", "listener"))
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        check("connect", rail)?;
        let name = peer.as_bytes().strip_prefix(MAGIC).filter(|name| !name.is_empty());
        let at = name.and_then(|name| SocketAddr::from_abstract_name(name).ok());
        let at = at.ok_or_else(|| Error::misuse("connect", "no address of a pipe"))?;
        let stream = UnixStream::connect_addr(&at)
            .and_then(|stream| stream.set_nonblocking(true).map(|()| stream))
            .map_err(|error| system("connect", error));
        Ok(self.insert(|id| Pipe::connecting(id, stream)))
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        let pipe = self.pipes.get_mut(conn).ok_or_else(|| Error::stale("close", "connection"))?;
        pipe.end(None);
        Ok(())
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        let live = self.pipes.get(conn).and_then(Pipe::why);
        live.or_else(|| self.ended.iter().find(|(id, _)| *id == conn).map(|(_, why)| why))
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        if nic != NIC || memory.kind() != MemoryKind::Host {
            let error = Error::misuse("register", "host memory on NIC 0");
            return Err(RegisterError { error, memory });
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
        let Some(pipe) = self.pipes.get_mut(conn) else { return Accepted::prefix(0, Stop::Closed) };
        for (count, op) in ops.iter().enumerate() {
            if let Some(stop) = pipe.take(&mut self.regions, op) {
                return Accepted::prefix(count, stop);
            }
        }
        Accepted::all(ops.len())
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        self.pipes.get_mut(conn).is_some_and(|pipe| pipe.cancel(token))
    }

    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        let before = events.room();
        let count = self.pipes.positions();
        self.first = self.first.wrapping_add(1);
        for step in 0..count {
            let Some(conn) = self.pipes.id_at((self.first + step) % count) else { continue };
            let Some(pipe) = self.pipes.get_mut(conn) else { continue };
            pipe.progress(now, &self.regions, &mut self.scratch);
            pipe.report(&mut self.regions, events);
            if pipe.is_over() && events.push(Event::Closed(conn)).is_ok() {
                let why = self.pipes.remove(conn).and_then(Pipe::into_why);
                self.ended.extend(why.map(|why| (conn, why)));
            }
        }
        while events.room() > 0
            && let Some(region) = self.regions.next_retired()
        {
            events.push(Event::Retired(region)).expect("there is room");
        }
        match (events.room() < before, self.pipes.is_empty() && !self.regions.has_retired()) {
            (true, _) => Next::Again,
            (false, true) => Next::Idle(None),
            (false, false) => Next::Spin,
        }
    }
}
