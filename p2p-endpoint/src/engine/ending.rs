//! How links end: rails and streams that are lost, operations that are told, and memory that a transport lets go of.

use std::time::Duration;

use bytes::BytesMut;
use p2p_proto::id::RailIndex;
use p2p_transport::{ConnId, Error, ErrorKind, StreamId};

use super::Engine;
use super::event::{Event, LinkId, RailOf};
use super::link::{Phase, RailState};
use super::moving::flush;
use super::opening::lost;

/// Time in which the last words of a peer are awaited whose rails are gone: they travel on a stream of their own.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Turns at most in which the rest of a stream that broke is heard: more than a socket's buffer holds.
const MOST_LAST_TURNS: usize = 1024;

impl Engine {
    pub(super) fn stream_broke(&mut self, stream: StreamId) {
        let why = self
            .control
            .why(stream)
            .map_or_else(|| "the stream broke".to_owned(), |error| error.text().to_owned());
        let Some(id) = self.link_of(stream) else {
            self.control.close(stream);
            return;
        };
        // What came before the break is still heard.
        if let Some(link) = self.links.get_mut(id) {
            link.readable = true;
        }
        for _ in 0..MOST_LAST_TURNS {
            self.work(id);
            if !self.links.get(id).is_some_and(|link| link.readable && link.hears()) {
                break;
            }
        }
        self.close_stream(id);
        let during = if self.links.get(id).is_some_and(|link| link.was_up) { "poll" } else { "connect" };
        self.end(id, Some(Error::new(ErrorKind::Conn, during, why)));
        self.enqueue(id);
    }

    pub(super) fn rail_is_closed(&mut self, conn: ConnId) {
        let Some(RailOf { link: id, rail, .. }) = self.rail_of(conn) else { return };
        self.rails_of[conn.index()] = None;
        let why = self
            .transport
            .why(conn)
            .map_or_else(|| "it was closed".to_owned(), |error| error.text().to_owned());
        let now = self.now.0;
        self.memories.may_go = true;
        let Some(link) = self.links.get_mut(id) else { return };
        link.rails[rail].state = RailState::Closed;
        let all = link.rails_are(RailState::Closed);
        let name = link.name().to_owned();
        match &mut link.phase {
            Phase::Greeting(_) | Phase::Railing => {
                self.end(id, Some(lost(format!("rail {rail} to {name} did not come up: {why}"))));
            }
            Phase::Up(peer) if !all => {
                // The peer may have closed all of them, one after another, and said so on the stream, which is slower.
                link.untold.push((rail, why));
                link.tells_at.get_or_insert(self.now.after(LAST_WORDS));
                peer.rail_lost(now, RailIndex(rail as u8));
            }
            Phase::Up(_) => {
                // What the peer has said last may still be on its way.
                link.last_rail = Some((rail, format!("the last rail to {name} is lost: {why}")));
                link.deadline = Some(self.now.after(LAST_WORDS));
            }
            Phase::Ending(Some(peer)) => peer.rail_lost(now, RailIndex(rail as u8)),
            Phase::Ending(None) => {}
        }
        self.enqueue(id);
    }

    /// Nothing more came of a peer whose rails are gone.
    pub(super) fn rails_are_gone(&mut self, id: LinkId) {
        let now = self.now.0;
        let Some(link) = self.links.get_mut(id) else { return };
        let Some((rail, text)) = link.last_rail.take() else { return };
        if let Phase::Up(peer) = &mut link.phase {
            peer.rail_lost(now, RailIndex(rail as u8));
        }
        self.end(id, Some(Error::new(ErrorKind::Conn, "poll", text)));
    }

    /// Ends a link, as far as that can be done at once: its operations end, and its rails and stream are closed.
    pub(super) fn end(&mut self, id: LinkId, reason: Option<Error>) {
        let Some(link) = self.links.get_mut(id) else { return };
        if let Phase::Ending(_) = link.phase {
            return;
        }
        let ends = link.stream.and_then(|stream| self.control.ends(stream));
        if !link.was_closed_there && reason.is_some() {
            link.tell_lost_rails();
        }
        link.tell_end(link.address.or(ends.map(|(_, peer)| peer)), reason.as_ref());
        self.links_tally.ended(link.incoming, link.was_up, link.peer.is_some(), reason.is_some());
        self.flying -= std::mem::take(&mut link.flying);
        let closes_in_peace = reason.is_none();
        link.reason = reason;
        link.deadline = Some(self.now.after(self.options.close_timeout));
        link.phase = match core::mem::replace(&mut link.phase, Phase::Ending(None)) {
            Phase::Greeting(handshake) => {
                link.said = BytesMut::from(handshake.output());
                Phase::Ending(None)
            }
            Phase::Up(mut peer) => {
                peer.link_lost();
                let last = peer.control().len();
                link.said.extend_from_slice(peer.control());
                peer.control_sent(last);
                Phase::Ending(Some(peer))
            }
            Phase::Railing | Phase::Ending(_) => Phase::Ending(None),
        };
        // What landed is known by then, so that nothing is lost; what has not is waited for by nobody, and its memory is
        // wanted back.
        let closes_in_peace = closes_in_peace && link.is_quiet();
        for rail in link.rails.iter().filter(|rail| rail.state != RailState::Closed) {
            // It may have closed meanwhile.
            let _ = match closes_in_peace {
                true => self.transport.close(rail.conn),
                false => self.transport.abort(rail.conn),
            };
        }
        self.memories.may_go = true;
        self.strangers.retain(|stranger| *stranger != id);
        self.report(id);
        self.conclude(id);
        self.enqueue(id);
    }

    /// Reports that a link is over, once no memory of its transfers is used any more, or its time is.
    fn conclude(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else { return };
        let is_over = link.is_quiet() || link.is_late();
        if is_over && !std::mem::replace(&mut link.concluded, true) && (link.was_up || !link.incoming) {
            self.out.push_back(Event::Closed(id));
        }
    }

    /// A link that ended has had its time. Whoever waits for its transfers is told; memory that the transport has not
    /// let go of until now is opened to nobody until it has.
    pub(super) fn give_up(&mut self, id: LinkId) {
        self.close_stream(id);
        let Some(link) = self.links.get_mut(id) else { return };
        link.deadline = None;
        let held = link.held();
        if !held.is_empty() {
            tracing::error!(
                link = %link.name(),
                regions = held.len(),
                "the transport has not let go of the memory of a link that ended: it may still be written, and is refused \
                 to new transfers until then; deregister it, or end the process if it stays so"
            );
        }
        while let Some(started) = link.tokens.pop() {
            link.has_ended(&started, super::LOST, &mut self.traffic);
            self.out.push_back(Event::Ended { link: id, token: started.token, outcome: super::LOST });
        }
        self.see_off(id);
    }

    /// Opens to nobody what links hold whose time is over.
    fn hold_back(&mut self) {
        let late = self.links.iter().filter(|(_, link)| link.is_late());
        self.exports.hold_back(late.flat_map(|(_, link)| link.held()).collect());
    }

    /// Says the last words, and forgets the link when everything of it is closed.
    pub(super) fn see_off(&mut self, id: LinkId) {
        let Self { links, control, .. } = self;
        let Some(link) = links.get_mut(id) else { return };
        if let Some(stream) = link.stream {
            flush(control.as_mut(), stream, &mut link.said);
            if link.said.is_empty() {
                self.close_stream(id);
            }
        }
        self.report(id);
        self.conclude(id);
        let Some(link) = self.links.get(id) else { return };
        let was_late = link.is_late();
        if link.stream.is_none() && link.rails_are(RailState::Closed) {
            self.forget(id);
        }
        if was_late {
            self.hold_back();
        }
    }

    fn close_stream(&mut self, id: LinkId) {
        let Some(stream) = self.links.get_mut(id).and_then(|link| link.stream.take()) else { return };
        self.links_of[stream.index()] = None;
        self.control.close(stream);
    }

    /// Forgets a link of which nothing is left.
    fn forget(&mut self, id: LinkId) {
        let Some(mut link) = self.links.remove(id) else { return };
        self.incoming -= usize::from(link.incoming);
        let at = p2p_transport::Id::index(id);
        self.reasons[at] = link.reason.take().map(|reason| (id, reason));
    }
}
