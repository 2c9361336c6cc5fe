//! Exchange streams in memory, through the contract's own seam for them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_transport::{Control, ControlEvent, DoorId, Error, ErrorKind, Now, Received, Slab, StreamId};

struct Stream {
    peer: Option<StreamId>,
    inbox: VecDeque<u8>,
    ends: (SocketAddr, SocketAddr),
}

struct Net {
    doors: Slab<DoorId, (SocketAddr, VecDeque<StreamId>)>,
    streams: Slab<StreamId, Stream>,
    port: u16,
}

/// Both ends of each stream lie in it. It reports no events: its user tries.
#[derive(Clone)]
pub(crate) struct SoftStreams(Arc<Mutex<Net>>);

impl SoftStreams {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Net { doors: Slab::new(), streams: Slab::new(), port: 1000 })))
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control for SoftStreams {
    fn listen(&mut self, at: SocketAddr) -> Result<DoorId, Error> {
        let mut net = self.net();
        net.port += 1;
        let at = SocketAddr::new(at.ip(), net.port);
        Ok(net.doors.insert((at, VecDeque::new())))
    }

    fn local(&self, door: DoorId) -> Option<SocketAddr> {
        self.net().doors.get(door).map(|door| door.0)
    }

    fn accept(&mut self, door: DoorId) -> Option<StreamId> {
        self.net().doors.get_mut(door)?.1.pop_front()
    }

    fn shut(&mut self, door: DoorId) {
        let knocked = self.net().doors.remove(door).map(|door| door.1);
        for stream in knocked.into_iter().flatten() {
            self.close(stream);
        }
    }

    fn connect(&mut self, to: SocketAddr) -> Result<StreamId, Error> {
        let mut net = self.net();
        let Some(door) = net.doors.iter().find(|(_, door)| door.0 == to).map(|(id, _)| id) else {
            return Err(Error::new(ErrorKind::Conn, "connect", format!("nobody listens at {to}")));
        };
        let empty = || Stream { peer: None, inbox: VecDeque::with_capacity(256), ends: (to, to) };
        let here = net.streams.insert(empty());
        let there = net.streams.insert(Stream { peer: Some(here), ..empty() });
        net.streams.get_mut(here).expect("new").peer = Some(there);
        net.doors.get_mut(door).expect("found").1.push_back(there);
        Ok(here)
    }

    fn ends(&self, stream: StreamId) -> Option<(SocketAddr, SocketAddr)> {
        self.net().streams.get(stream).map(|stream| stream.ends)
    }

    fn send(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let mut net = self.net();
        let peer = net.streams.get(stream).and_then(|stream| stream.peer);
        let Some(peer) = peer.and_then(|peer| net.streams.get_mut(peer)) else { return 0 };
        // Cut small, because a real stream may.
        let count = bytes.len().min(7);
        peer.inbox.extend(&bytes[..count]);
        count
    }

    fn receive(&mut self, stream: StreamId, into: &mut [u8]) -> Received {
        let mut net = self.net();
        let Some(found) = net.streams.get_mut(stream) else { return Received::Ended };
        if found.inbox.is_empty() {
            let peer = found.peer;
            let alive = peer.is_some_and(|peer| net.streams.get(peer).is_some());
            return if alive { Received::Nothing } else { Received::Ended };
        }
        let count = found.inbox.len().min(into.len());
        for byte in &mut into[..count] {
            *byte = found.inbox.pop_front().expect("counted");
        }
        Received::Bytes(count)
    }

    fn why(&self, _: StreamId) -> Option<&Error> {
        None
    }

    fn close(&mut self, stream: StreamId) {
        self.net().streams.remove(stream);
    }

    fn poll(&mut self, _: Now, _: usize, _: &mut dyn FnMut(ControlEvent)) -> Option<Now> {
        None
    }
}
