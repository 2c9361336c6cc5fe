//! Commands of handles, and what the transport reports.

use super::super::connection::{Connection, Listener, Region};
use super::super::lines::{Hold, Line};
use super::super::shared::{Command, Lease, Reply};
use super::super::waiters::Block;
use super::super::work::Way;
use super::super::{NotRegistered, TransferError};
use super::Driver;
use crate::{
    ConnId, Error, ErrorKind, Event, Events, Next, Now, Outcome, RegionId, RemoteSlice, Slice, Transport,
};

use std::sync::Arc;

fn exhausted(during: &'static str) -> Error {
    let text = "there are as many connections as Options::connections allows: drop one that has ended";
    Error::new(ErrorKind::Exhausted, during, text)
}

impl<T: Transport> Driver<T> {
    /// Carries a command out. Who asked and went away leaves nothing behind: what it would have got is dropped.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Rails(device, reply) => drop(reply.send(self.transport.rails(device))),
            Command::Listen(rail, reply) => {
                let listener = self.transport.listen(rail);
                let listener =
                    listener.map(|(id, address)| Listener::new(Lease::new(&self.shared), id, address));
                drop(reply.send(listener));
            }
            Command::Unlisten(id) => drop(self.transport.unlisten(id)),
            Command::Accept(mut listener, reply) => {
                let Some(block) = self.free_block() else {
                    return drop(reply.send(Err(exhausted("accept"))));
                };
                let stale = || Error::stale("accept", "listener");
                let conn = listener.take().ok_or_else(stale).and_then(|id| self.transport.accept(id));
                self.await_connection(conn, reply, block);
            }
            Command::Connect(rail, peer, reply) => {
                let Some(block) = self.free_block() else {
                    return drop(reply.send(Err(exhausted("connect"))));
                };
                let conn = self.transport.connect(rail, &peer);
                self.await_connection(conn, reply, block);
            }
            Command::Close(id) => {
                // Unless it has closed by itself.
                if self.lines.line(id).is_some() {
                    drop(self.transport.close(id));
                }
            }
            Command::Register(nic, memory, reply) => {
                let (_, length) = memory.span();
                let region = self.transport.register(nic, memory).map_err(NotRegistered::from).map(|id| {
                    self.holds.insert(id, Hold::new(id));
                    Region::new(Lease::new(&self.shared), id, nic, length)
                });
                drop(reply.send(region));
            }
            Command::Export(conn, slice, reply) => drop(reply.send(self.export(conn, slice))),
            Command::Retire(id, reply) => {
                if self.holds.retire(id, reply) {
                    drop(self.transport.retire(id));
                }
            }
        }
    }

    fn export(&mut self, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error> {
        if self.holds.refuses(std::iter::once(slice)) {
            return Err(Error::misuse(
                "export",
                "the region was dropped: keep it for as long as peers use it",
            ));
        }
        let none =
            || Error::new(ErrorKind::Unsupported, "export", "this backend has no one-sided operations");
        self.transport.one_sided().ok_or_else(none)?.export(conn, slice)
    }

    /// Slots that no connection has. What was started on an earlier one and is still in the inbox keeps its
    /// slots: they are not in the free lists.
    fn free_block(&self) -> Option<Arc<Block>> {
        self.blocks.iter().find(|block| Arc::strong_count(block) == 1).map(Arc::clone)
    }

    fn await_connection(&mut self, conn: Result<ConnId, Error>, reply: Reply<Connection>, block: Arc<Block>) {
        match conn {
            Ok(id) => {
                self.lines.insert(id, Line::new(id, reply, block));
                // Each connection may be marked at once without an allocation.
                self.marked.reserve(self.lines.len().saturating_sub(self.marked.len()));
                self.walked.reserve(self.lines.len().saturating_sub(self.walked.len()));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Polls the transport once and tells everybody what happened.
    pub(super) fn poll(&mut self, now: Now) -> Next {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let next = self.transport.poll(now, &mut events);
        let full = events.room() == 0;
        for event in events.drain() {
            match event {
                Event::Connected(id) => self.connected(id),
                Event::Closed(id) => self.closed(id),
                Event::Completed { conn, token, outcome } => {
                    if outcome == Outcome::ConnLost
                        && let Some(line) = self.lines.line(conn)
                    {
                        line.fate.blame(self.transport.why(conn));
                    }
                    self.completed(conn, token, outcome);
                }
                Event::Retired(id) => self.retired(id),
                Event::Notified { conn, value } => {
                    if let Some(line) = self.lines.line(conn) {
                        line.fate.notices.push(conn, value);
                    }
                }
            }
        }
        self.events = events;
        if full { Next::Again } else { next }
    }

    fn connected(&mut self, id: ConnId) {
        let Some(line) = self.lines.line(id) else { return };
        let (Some(reply), Some(limits)) = (line.reply.take(), self.transport.limits(id)) else { return };
        // Dropped if nobody waits for it any more, and so closed.
        let limits = *limits;
        let one_sided = self.transport.one_sided().and_then(|side| side.limits(id));
        if one_sided.is_some() {
            line.fate.notices.reserve(self.notifications);
        }
        drop(reply.send(Ok(Connection::new(Lease::new(&self.shared), limits, one_sided, line))));
    }

    fn closed(&mut self, id: ConnId) {
        for way in Way::ALL {
            self.fail_waiting(id, way, TransferError::Lost);
        }
        let Some(line) = self.lines.end(id) else { return };
        line.fate.blame(self.transport.why(id));
        if let Some(reply) = line.reply {
            let unknown =
                || Error::new(ErrorKind::Conn, "connect", "the connection was closed before it was made");
            drop(reply.send(Err(line.fate.why().cloned().unwrap_or_else(unknown))));
        }
        line.fate.close();
    }

    fn retired(&mut self, id: RegionId) {
        let memory = self.transport.reclaim(id);
        let Some(hold) = self.holds.end(id) else { return };
        if let Some(reply) = hold.reply {
            let leaked = "the backend could not let go of the memory, and leaked it: see its log";
            drop(reply.send(memory.ok_or_else(|| Error::new(ErrorKind::Device, "reclaim", leaked))));
        }
    }
}
