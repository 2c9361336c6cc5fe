//! A link that is up: control bytes in and out, posts onto the rails, completions from them.

use bytes::{Buf, BytesMut};
use p2p_proto::id::RailIndex;
use p2p_proto::peer::{Happened, Landing, Peer, Side};
use p2p_transport::{
    Control, Error, ErrorKind, Next, Op, Outcome, Received, Slice, Stop, StreamId, Token, Transport,
};

use super::event::{Event, LinkId};
use super::link::{Link, Phase, RailState, name_of};
use super::memory::Memories;
use super::opening::READ;
use super::talk::Talk;
use super::{CLOSED_THERE, Engine};
use crate::exports::ExportTable;

/// Reads of a stream in one turn.
const READS: usize = 8;

/// Memory that is used for the length of a call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    slices: Vec<Slice>,
}

impl Scratch {
    pub(super) fn bytes(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() < count {
            self.bytes.resize(count, 0);
        }
        &mut self.bytes[..count]
    }
}

/// How a message ended, for the protocol.
const fn landing(outcome: Outcome) -> Landing {
    match outcome {
        Outcome::Done { .. } => Landing::Done,
        Outcome::ConnLost => Landing::Lost,
        Outcome::Failed(_) | Outcome::Cancelled | _ => Landing::Failed,
    }
}

/// Sends what there is room for; returns how many bytes that are.
pub(super) fn send(control: &mut dyn Control, stream: StreamId, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        let taken = control.send(stream, &bytes[sent..]);
        if taken == 0 {
            break;
        }
        sent += taken;
    }
    sent
}

/// Sends what there is room for, and keeps the rest.
pub(super) fn flush(control: &mut dyn Control, stream: StreamId, said: &mut BytesMut) {
    said.advance(send(control, stream, said));
}

impl Engine {
    /// A message on a rail ended.
    pub(super) fn ended(&mut self, id: LinkId, token: u64, outcome: Outcome) {
        let now = self.now.0;
        self.memories.may_go = true;
        let Some(link) = self.links.get_mut(id) else { return };
        if let Phase::Up(peer) | Phase::Ending(Some(peer)) = &mut link.phase {
            let (mut landing, announced) = (landing(outcome), peer.length_of(token));
            if let (Outcome::Done { len }, Some(announced)) = (outcome, announced)
                && len != announced
            {
                let name = name_of(link.peer.as_ref());
                tracing::warn!(link = %name, "a message of {len} bytes came where {announced} were announced");
                landing = Landing::Failed;
            }
            peer.ended(now, token, landing);
            self.enqueue(id);
        }
    }

    /// One turn of a link that is up.
    pub(super) fn move_bytes(&mut self, id: LinkId) -> Result<(), Error> {
        let now = self.now.0;
        let Self { links, control, scratch, transport, exports, memories, talk, .. } = self;
        let Some(link) = links.get_mut(id) else { return Ok(()) };
        let Link {
            phase: Phase::Up(peer),
            stream: Some(stream),
            said,
            rails,
            tokens,
            readable,
            flying: counted,
            ..
        } = link
        else {
            return Ok(());
        };
        tokens.began(self.now);
        let stream = *stream;
        flush(control.as_mut(), stream, said);
        let heard = match readable {
            true => hear(control.as_mut(), (id, stream), peer, now, scratch, exports, talk),
            false => Ok(Heard::All),
        };
        *readable &= !matches!(heard, Ok(Heard::All));
        peer.drive(now);
        for (rail, here) in rails.iter().enumerate().filter(|(_, here)| here.state == RailState::Up) {
            let rail = RailIndex(rail as u8);
            for side in [Side::Recv, Side::Send] {
                post(transport.as_mut(), memories, scratch, peer, rail, here.conn, here.own, side, now);
            }
        }
        let flying = peer.flying();
        self.flying = self.flying + flying - std::mem::replace(counted, flying);
        if said.is_empty() {
            let sent = send(control.as_mut(), stream, peer.control());
            if sent > 0 {
                peer.control_sent(sent);
                talk.said(id, now);
            }
        }
        self.report(id);
        match heard? {
            Heard::All | Heard::Enough => {}
            Heard::More => self.enqueue(id),
            Heard::End => {
                let text =
                    format!("{} ended the link: its process ended, or it was closed there", self.name_of(id));
                return Err(Error::new(ErrorKind::Conn, "poll", text));
            }
        }
        Ok(())
    }

    /// Looks only at the link whose answer is waited for awake. `None`: everything has to be looked at.
    pub(super) fn look_short(&mut self) -> Option<Next> {
        if !self.queue.is_empty()
            || !self.heard.is_empty()
            || !self.out.is_empty()
            || self.now >= self.next_tick
        {
            return None;
        }
        let id = self.talk.short_look(self.now)?;
        let Self { links, control, scratch, exports, talk, now, .. } = self;
        let Link { phase: Phase::Up(peer), stream: Some(stream), readable, .. } = links.get_mut(id)? else {
            return None;
        };
        if !peer.wants_control() || !control.look_again(*stream) {
            return None;
        }
        let count = match control.receive(*stream, scratch.bytes(READ)) {
            Received::Bytes(count) => count,
            Received::Nothing => return Some(Next::Spin),
            // The other way of looking comes to the same end, and tells it.
            Received::Ended => return None,
        };
        talk.heard(id, now.0);
        talk.may_look_short(false);
        *readable = true;
        let heard = peer.receive(now.0, &scratch.bytes(READ)[..count], exports);
        match heard {
            Ok(_) => self.work(id),
            Err(breach) => self.end(id, Some(Error::new(ErrorKind::Conn, "poll", breach.to_string()))),
        }
        Some(Next::Again)
    }

    fn name_of(&self, id: LinkId) -> String {
        self.links.get(id).map_or_else(String::new, |link| link.name().to_owned())
    }

    /// Reports what the protocol says has happened; ends the link if it says so.
    pub(super) fn report(&mut self, id: LinkId) {
        let Self { links, out, transport, traffic, .. } = self;
        let Some(link) = links.get_mut(id) else { return };
        let mut over = None;
        while let Phase::Up(peer) | Phase::Ending(Some(peer)) = &mut link.phase
            && let Some(happened) = peer.happened()
        {
            match happened {
                Happened::Ended { transfer, outcome } => {
                    if let Some(started) = link.tokens.take(transfer) {
                        link.has_ended(&started, outcome, traffic);
                        out.push_back(Event::Ended { link: id, token: started.token, outcome });
                    }
                }
                Happened::Notified(bytes) => {
                    for tally in [&mut link.traffic, traffic] {
                        tally.notifications_received.add(bytes.len() as u64);
                    }
                    out.push_back(Event::Notified { link: id, bytes });
                }
                Happened::Counted(counter) => {
                    for tally in [&mut link.traffic, traffic] {
                        tally.counted += 1;
                    }
                    out.push_back(Event::Counted { link: id, counter });
                }
                Happened::RailBroken(RailIndex(rail)) => {
                    // Its order is gone. It may be closed already.
                    let _ = transport.close(link.rails[usize::from(rail)].conn);
                }
                Happened::Goodbye(why) => {
                    link.was_closed_there = why == CLOSED_THERE;
                    over = Some(format!("{} ended the link: {why}", link.name()));
                }
                Happened::Lost(loss) => over = Some(format!("{}: {loss}", link.name())),
            }
        }
        if let Some(text) = over {
            self.end(id, Some(Error::new(ErrorKind::Conn, "poll", text)));
        }
    }
}

/// How far a stream was read.
enum Heard {
    /// Nothing is left.
    All,
    /// The protocol wants no more at the moment.
    Enough,
    /// There may be more.
    More,
    End,
}

fn hear(
    control: &mut dyn Control,
    (link, stream): (LinkId, StreamId),
    peer: &mut Peer,
    now: std::time::Duration,
    scratch: &mut Scratch,
    exports: &ExportTable,
    talk: &mut Talk,
) -> Result<Heard, Error> {
    for _ in 0..READS {
        if !peer.wants_control() {
            return Ok(Heard::Enough);
        }
        match control.receive(stream, scratch.bytes(READ)) {
            Received::Bytes(count) => {
                talk.heard(link, now);
                let heard = peer.receive(now, &scratch.bytes(READ)[..count], exports);
                heard.map_err(|breach| Error::new(ErrorKind::Conn, "poll", breach.to_string()))?;
            }
            Received::Nothing => return Ok(Heard::All),
            Received::Ended => return Ok(Heard::End),
        }
    }
    Ok(Heard::More)
}

/// Posts what the protocol wants on one side of a rail, until the transport is busy.
#[expect(clippy::too_many_arguments, reason = "parts of one engine that are borrowed apart")]
fn post(
    transport: &mut dyn Transport,
    memories: &mut Memories,
    scratch: &mut Scratch,
    peer: &mut Peer,
    rail: RailIndex,
    conn: p2p_transport::ConnId,
    own: usize,
    side: Side,
    now: std::time::Duration,
) {
    while let Some(post) = peer.next_post(rail, side) {
        let slices = &mut scratch.slices;
        slices.clear();
        if post.scratch > 0 {
            let Some(slice) = memories.thrown_away(transport, own, post.scratch) else {
                // Without memory to throw it into, the rail cannot go on.
                let _ = transport.close(conn);
                return;
            };
            slices.push(slice);
        }
        for part in post.parts {
            let Some(region) = memories.on(part.region, own) else {
                let _ = transport.close(conn);
                return;
            };
            slices.push(Slice { region, offset: part.offset, len: part.len as u32 });
        }
        let token = Token(post.token);
        let op = match side {
            Side::Send => Op::Send { token, from: slices },
            Side::Recv => Op::Recv { token, into: slices },
        };
        let accepted = transport.submit(conn, &[op]);
        match accepted.stopped {
            None => peer.posted(now, rail, side),
            // Its next completion, or its end, gives the link another turn.
            Some(Stop::Busy | Stop::Closed) => return,
        }
    }
}
