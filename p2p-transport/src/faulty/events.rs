//! Events from inside on their way through `Faulty`, and its one-sided operations.

use super::core::{Core, WorkId};
use super::held::{Held, Way};
use crate::{
    Accepted, ConnId, Error, ErrorKind, Event, OneSided, OneSidedLimits, OneSidedOp, Outcome, RemoteSlice,
    Slice, Transport,
};

impl<T: Transport> Core<T> {
    /// Takes an event from inside. One of a connection that is not known is dropped: it has no name here.
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Connected(inner) => {
                let Some(id) = self.outside(inner) else { return };
                let mut limits = self.inner.limits(inner).copied();
                if let Some(limits) = limits.as_mut()
                    && self.dice.strikes(self.damage.narrow)
                {
                    self.strikes.narrowed += 1;
                    limits.max_sends = self.dice.one_to(limits.max_sends.into()) as u16;
                    limits.max_recvs = self.dice.one_to(limits.max_recvs.into()) as u16;
                }
                let one_sided = self.inner.one_sided().and_then(|side| side.limits(inner));
                if let Some(conn) = self.conns.get_mut(id) {
                    (conn.limits, conn.one_sided) = (limits, one_sided);
                }
                self.enqueue(Event::Connected(id), None, false);
            }
            Event::Closed(inner) => {
                let Some(id) = self.outside(inner) else { return };
                self.learn_why(id, inner);
                self.outer[inner.index()] = None;
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.inner = None;
                }
                self.enqueue(Event::Closed(id), None, false);
            }
            Event::Completed { conn: inner, token, outcome } => {
                let Some(id) = self.outside(inner) else { return };
                if outcome == Outcome::ConnLost {
                    self.learn_why(id, inner);
                }
                // What completes twice inside is reported twice: to hide it would help nobody.
                let work = WorkId::from_token(token).and_then(|work| self.works.remove(work));
                let token = work.map_or(token, |work| work.token);
                let hold = work.is_some() && self.dice.strikes(self.damage.hold);
                self.strikes.held += u64::from(hold);
                let event = Event::Completed { conn: id, token, outcome };
                self.enqueue(event, work.map(|work| (id, work.way)), hold);
            }
            Event::Notified { conn: inner, value } => {
                let Some(conn) = self.outside(inner) else { return };
                self.enqueue(Event::Notified { conn, value }, None, false);
            }
            Event::Retired(_) => self.enqueue(event, None, false),
        }
    }

    pub(super) fn enqueue(&mut self, event: Event, way: Option<(ConnId, Way)>, hold: bool) {
        let limits = way.and_then(|(id, _)| self.conns.get(id)).and_then(|conn| conn.limits);
        let fifo = limits.is_none_or(|limits| limits.fifo);
        let polls = if hold { self.dice.one_to(self.damage.hold_polls) } else { 0 };
        self.queue.push(Held { event, way, fifo, until: self.polls + u64::from(polls) });
    }

    /// Notes what the caller is about to know. True if it costs a connection its life.
    pub(super) fn report(&mut self, held: &Held) -> bool {
        match held.event {
            Event::Connected(id) => {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.connected = true;
                }
                false
            }
            Event::Closed(id) => {
                let why = self.conns.remove(id).and_then(|conn| conn.why);
                self.ended.extend(why.map(|why| (id, why)));
                false
            }
            Event::Completed { conn: id, outcome, .. } => {
                if let Some((id, way)) = held.way {
                    self.count(id, way, -1);
                }
                let Some(conn) = self.conns.get_mut(id) else { return false };
                conn.lost |= outcome == Outcome::ConnLost;
                let Some(lives) = conn.lives.as_mut() else { return false };
                *lives -= 1;
                let over = *lives == 0;
                if over {
                    conn.lives = None;
                }
                over && self.kill(id)
            }
            Event::Retired(_) | Event::Notified { .. } => false,
        }
    }

    fn kill(&mut self, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        // What is lost or closed already keeps its reason.
        let Some(inner) = conn.inner.filter(|_| !conn.lost && conn.why.is_none()) else { return false };
        if self.inner.close(inner).is_err() {
            return false;
        }
        let text = "Faulty closed this connection after one of its completions: connect again";
        conn.why = Some(Error::new(ErrorKind::Conn, "poll", text));
        conn.closing = true;
        self.strikes.killed += 1;
        true
    }

    fn learn_why(&mut self, id: ConnId, inner: ConnId) {
        if let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.why.is_none()) {
            conn.why = self.inner.why(inner).cloned();
        }
    }

    fn outside(&self, inner: ConnId) -> Option<ConnId> {
        let id = self.outer.get(inner.index()).copied().flatten()?;
        self.conns.get(id).filter(|conn| conn.inner == Some(inner)).map(|_| id)
    }
}

impl<T: Transport> OneSided for Core<T> {
    fn limits(&self, conn: ConnId) -> Option<OneSidedLimits> {
        self.conns.get(conn).filter(|conn| conn.connected)?.one_sided
    }

    fn export(&mut self, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error> {
        let stale = || Error::stale("export", "connection");
        let inner = self.conns.get(conn).and_then(|conn| conn.inner).ok_or_else(stale)?;
        self.inner.one_sided().ok_or_else(stale)?.export(inner, slice)
    }

    fn submit(&mut self, conn: ConnId, ops: &[OneSidedOp]) -> Accepted {
        Self::submit(self, conn, ops, |inner, conn, ops| match inner.one_sided() {
            Some(side) => side.submit(conn, ops),
            // It was there when this object was handed out.
            None => Accepted::prefix(0, crate::Stop::Closed),
        })
    }
}
