//! What the peer says. Everything is checked before anything is done.
//!
//! A number that was given out and is not live belongs to a transfer that is over here. The peer may not have heard
//! that when it spoke, so what it says about it is swallowed.

use std::time::Duration;

use super::covered::Uncovered;
use super::entry::{Entry, Remote, Role};
use super::line::Queued;
use super::words::{Breach, Exports, Happened, Outcome};
use super::{Handle, Peer};
use crate::frame::{Chunk, Frame, Kind, LONGEST_TRANSFER, MOST_RANGES, Owner, Refusal, Repeat, Run, Verdict};
use crate::id::{RailIndex, TransferId};
use crate::list::{Cursor, ListError, Shape, cut};
use crate::stripe::RailLimits;
use crate::transfer::{Input, Part, State};

impl Peer {
    /// Hears bytes of the control stream, cut anywhere.
    ///
    /// # Errors
    ///
    /// The peer broke the protocol. The link is over, as after [`goodbye`](Self::goodbye), and the peer is told why if
    /// [`control`](Self::control) is still sent.
    pub fn receive(&mut self, now: Duration, bytes: &[u8], exports: &dyn Exports) -> Result<(), Breach> {
        self.at(now);
        if self.over || bytes.is_empty() {
            return Ok(());
        }
        self.alive.heard();
        self.decoder.push(bytes);
        let heard = self.hear_all(exports);
        if let Err(breach) = &heard {
            self.goodbye(&breach.to_string());
        }
        heard
    }

    fn hear_all(&mut self, exports: &dyn Exports) -> Result<(), Breach> {
        while !self.over {
            let Some(frame) = self.decoder.next()? else { break };
            self.hear(&frame, exports)?;
            self.decoder.recycle(frame);
            if self.says_too_much() {
                return Err(Breach::new("it speaks and does not listen: too many answers wait for it"));
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: &Frame, exports: &dyn Exports) -> Result<(), Breach> {
        match frame {
            Frame::Begin { transfer, kind, total, ranges, counter } => {
                self.hear_begin(*transfer, *kind, *total, *ranges, *counter)
            }
            Frame::Ranges { transfer, runs } => self.hear_ranges(*transfer, runs, exports),
            Frame::Shape { owner, transfer, parts } => self.hear_shape(*owner, *transfer, parts),
            Frame::Chunks { rail, before, chunks } => self.hear_chunks(*rail, *before, chunks),
            Frame::Fin { owner, transfer, verdict } => self.hear_fin(*owner, *transfer, *verdict),
            Frame::Notify { after, more, bytes } => self.hear_notice(*after, *more, bytes.clone()),
            Frame::Ping { number } => {
                self.output.pong = Some(*number);
                Ok(())
            }
            Frame::Pong { .. } => Ok(()),
            Frame::Goodbye { why } => {
                self.happened.push_back(Happened::Goodbye(why.clone()));
                self.link_lost();
                Ok(())
            }
        }
    }

    fn hear_begin(
        &mut self,
        transfer: TransferId,
        kind: Kind,
        total: u64,
        ranges: u32,
        counter: Option<u32>,
    ) -> Result<(), Breach> {
        if transfer.0 <= self.table.theirs.last() {
            return Err(Breach::new("a transfer begins with a number that is not larger than any before"));
        }
        if total > LONGEST_TRANSFER || ranges > MOST_RANGES {
            return Err(Breach::new("a transfer is longer than the longest"));
        }
        let ranges_fit = match kind {
            Kind::Write | Kind::Read => u64::from(ranges) <= total && (ranges == 0) == (total == 0),
            Kind::Send => ranges == 0,
        };
        if !ranges_fit {
            return Err(Breach::new("a transfer begins with a number of ranges that its bytes cannot have"));
        }
        if counter.is_some() && kind != Kind::Write {
            return Err(Breach::new("a transfer that is no write names a counter"));
        }
        let ranges_held = self.peers_ranges + u64::from(ranges);
        if self.peers_open >= self.caps.peer_transfers || ranges_held > u64::from(self.caps.peer_ranges) {
            self.table.theirs.pass(transfer.0);
            if kind == Kind::Write {
                self.notices.failed(transfer);
            }
            self.output.fin(Owner::Hearer, transfer, Verdict::Refused(Refusal::TooMany));
            return Ok(());
        }
        let part = match kind {
            Kind::Write | Kind::Send => Part::Receiver,
            Kind::Read => Part::Sender,
        };
        let mut entry = Entry::new(Role::Peers(kind), transfer, part, total);
        entry.due = ranges;
        entry.held_ranges = ranges;
        entry.counter = counter;
        if kind == Kind::Read {
            entry.remote = Remote::Shape(Shape::new());
        }
        self.peers_open += 1;
        self.peers_ranges = ranges_held;
        let handle = self.table.insert(entry);
        self.table.theirs.add(transfer.0, handle);
        match kind {
            Kind::Write => self.ready(handle),
            Kind::Read if total == 0 => self.ready(handle),
            Kind::Read => {}
            Kind::Send => {
                self.sends.push_back(handle);
                self.meet();
            }
        }
        Ok(())
    }

    /// The first send of the peer meets the first receive of this end, and so on.
    pub(super) fn meet(&mut self) {
        while let (Some(send), Some(recv)) = (self.sends.front().copied(), self.recvs.front().copied()) {
            let total = self.table.get(send).map_or(0, |entry| entry.total);
            let capacity = self.table.get(recv).map_or(0, |entry| entry.local.total());
            self.sends.pop_front();
            if total > capacity {
                let why = Refusal::TooLong;
                self.fail(send, Outcome::Refused(why), Verdict::Refused(why));
                continue;
            }
            self.recvs.pop_front();
            let Some(recv) = self.table.remove(recv) else { continue };
            self.table.ours.change(recv.number, send);
            let Some(entry) = self.table.get_mut(send) else { continue };
            entry.report = Some(recv.number);
            entry.shape = shape_of(&recv.local, total);
            entry.local = recv.local;
            if total == 0 {
                self.ready(send);
            } else {
                self.telling.push_back(send);
            }
        }
    }

    fn hear_ranges(
        &mut self,
        transfer: TransferId,
        runs: &[Run],
        exports: &dyn Exports,
    ) -> Result<(), Breach> {
        let Some(handle) = self.find(Owner::Speaker, transfer)? else { return Ok(()) };
        let Some(entry) = self.table.get_mut(handle) else { return Ok(()) };
        let write = match entry.role {
            Role::Peers(Kind::Write) => true,
            Role::Peers(Kind::Read) => false,
            Role::Own(_) | Role::Recv | Role::Peers(Kind::Send) => {
                return Err(Breach::new("ranges of a transfer that has none"));
            }
        };
        if !entry.state.is_open() {
            return Ok(());
        }
        for run in runs {
            for &(offset, length) in &run.ranges {
                let fits = entry.local.total().checked_add(length).is_some_and(|sum| sum <= entry.total);
                if length == 0 || !fits || entry.due == 0 {
                    return Err(Breach::new("ranges that are empty, or more than their transfer has"));
                }
                entry.due -= 1;
                let opened = exports.open(run.key, offset, length, write);
                let opened =
                    opened.and_then(|range| entry.local.push(range).map_err(|_| Refusal::OutOfRange));
                if let Err(why) = opened {
                    self.fail(handle, Outcome::Refused(why), Verdict::Refused(why));
                    return Ok(());
                }
            }
        }
        if (entry.due == 0) != (entry.local.total() == entry.total) {
            return Err(Breach::new("the ranges of a transfer have other bytes than it has"));
        }
        self.ready_to_be_read(handle);
        Ok(())
    }

    fn hear_shape(&mut self, owner: Owner, transfer: TransferId, parts: &[Repeat]) -> Result<(), Breach> {
        let Some(handle) = self.find(owner, transfer)? else { return Ok(()) };
        let Some(entry) = self.table.get_mut(handle) else { return Ok(()) };
        match entry.role {
            Role::Own(Kind::Send) if matches!(entry.remote, Remote::Unknown) => {
                if entry.state.is_open() {
                    entry.remote = Remote::Shape(Shape::new());
                }
            }
            Role::Own(Kind::Send) | Role::Peers(Kind::Read) => {}
            Role::Own(Kind::Write | Kind::Read) | Role::Recv | Role::Peers(Kind::Write | Kind::Send) => {
                return Err(Breach::new("the shape of a transfer that has none"));
            }
        }
        if !entry.state.is_open() {
            return Ok(());
        }
        let Remote::Shape(shape) = &mut entry.remote else { return Ok(()) };
        for part in parts {
            if part.length == 0 || part.count == 0 {
                return Err(Breach::new("a shape with an empty part"));
            }
            shape
                .push(*part)
                .map_err(|_: ListError| Breach::new("a shape that is longer than the longest"))?;
        }
        if shape.total() > entry.total || entry.state != State::Asking {
            return Err(Breach::new("a shape with more bytes than its transfer has"));
        }
        let whole = shape.total() == entry.total;
        // A list of repeats is as long as they are, and counts like ranges.
        let held = parts.len() as u32;
        entry.held_ranges += held;
        self.peers_ranges += u64::from(held);
        if self.peers_ranges > u64::from(self.caps.peer_ranges) {
            let why = Refusal::TooMany;
            self.fail(handle, Outcome::Refused(why), Verdict::Refused(why));
        } else if owner == Owner::Speaker {
            self.ready_to_be_read(handle);
        } else if whole {
            self.ready(handle);
        }
        Ok(())
    }

    /// A read of the peer moves once both lists are whole.
    fn ready_to_be_read(&mut self, handle: Handle) {
        let Some(entry) = self.table.get(handle) else { return };
        if let Remote::Shape(shape) = &entry.remote
            && shape.total() == entry.total
            && entry.local.total() == entry.total
        {
            self.ready(handle);
        }
    }

    fn hear_chunks(&mut self, rail: RailIndex, before: u64, chunks: &[Chunk]) -> Result<(), Breach> {
        let index = usize::from(rail.0);
        let Some(lines) = self.rails.get_mut(index) else {
            return Err(Breach::new("messages on a rail that the link does not have"));
        };
        if before != lines.recv.announced {
            return Err(Breach::said(format_args!(
                "it announces messages of rail {} behind {before}, and {} were announced",
                rail.0, lines.recv.announced
            )));
        }
        lines.recv.announced += chunks.len() as u64;
        let (limits, lost) = (lines.limits, lines.lost);
        for chunk in chunks {
            if chunk.length == 0 || chunk.length > limits.max_message {
                return Err(Breach::new("a message that is empty, or longer than its rail takes"));
            }
            let (handle, at) = self.hear_chunk(chunk, &limits)?;
            if lost {
                if let Some(handle) = handle {
                    self.fail(handle, Outcome::RailLost(rail), Verdict::RailLost(rail));
                }
                continue;
            }
            self.unlanded += 1;
            if let Some(lines) = self.rails.get_mut(index) {
                lines.recv.queue.push_back(Queued { handle, length: chunk.length, at });
            }
        }
        Ok(())
    }

    /// The transfer that wants a chunk, if any does, and where it begins in memory here.
    fn hear_chunk(&mut self, chunk: &Chunk, limits: &RailLimits) -> Result<(Option<Handle>, Cursor), Breach> {
        let nowhere = (None, Cursor::default());
        let Some(handle) = self.find(chunk.owner, chunk.transfer)? else { return Ok(nowhere) };
        self.apply_peer(handle, Input::PeerAnnounces, Outcome::LinkLost)?;
        let Some(entry) = self.table.get_mut(handle) else { return Ok(nowhere) };
        if !entry.state.is_open() {
            return Ok(nowhere);
        }
        let known = entry.local.total().min(entry.total);
        let Some(end) = chunk.start.checked_add(u64::from(chunk.length)).filter(|end| *end <= known) else {
            return Err(Breach::new("a message of bytes that its transfer does not have, or not yet"));
        };
        entry.covered.add(chunk.start, end).map_err(|why| match why {
            Uncovered::Twice => Breach::new("bytes of a transfer that were announced before"),
            Uncovered::Scattered => Breach::new("the messages of a transfer are too scattered"),
        })?;
        entry.local.move_to(&mut entry.at, chunk.start);
        let at = entry.at;
        let (mut one, mut two) = (at, at);
        let slices = limits.max_slices;
        let local = &entry.local;
        if cut(local, &mut one, local, &mut two, chunk.length, slices, slices) != chunk.length {
            return Err(Breach::new("a message of more parts than its rail takes"));
        }
        entry.at = one;
        if entry.covered.bytes() == entry.total {
            self.apply(handle, Input::Covered, Outcome::LinkLost);
        }
        Ok((Some(handle), at))
    }

    fn hear_fin(&mut self, owner: Owner, transfer: TransferId, verdict: Verdict) -> Result<(), Breach> {
        let Some(handle) = self.find(owner, transfer)? else { return Ok(()) };
        let (input, outcome) = match verdict {
            Verdict::Landed => (Input::PeerLanded, Outcome::LinkLost),
            Verdict::Refused(why) => (Input::PeerRefused, Outcome::Refused(why)),
            Verdict::RailLost(rail) => (Input::PeerLost, Outcome::RailLost(rail)),
            Verdict::MemoryGone => (Input::PeerLost, Outcome::MemoryGone { here: false }),
        };
        // Where an empty send goes to need not be said before.
        let is_empty = |entry: &Entry| entry.part == Part::Sender && entry.total == 0;
        if verdict == Verdict::Landed && self.table.get(handle).is_some_and(is_empty) {
            self.ready(handle);
        }
        self.apply_peer(handle, input, outcome)?;
        self.settle(handle);
        Ok(())
    }

    /// The live transfer that the peer names; `None` if it is over here.
    fn find(&self, owner: Owner, number: TransferId) -> Result<Option<Handle>, Breach> {
        let numbers = match owner {
            Owner::Speaker => &self.table.theirs,
            Owner::Hearer => &self.table.ours,
        };
        if !numbers.was_given(number) {
            return Err(Breach::new("a word about a transfer that has not begun"));
        }
        let Some(handle) = numbers.find(number) else { return Ok(None) };
        let role = self.table.get(handle).map(|entry| entry.role);
        match (owner, role) {
            // Receives have numbers for the caller only.
            (Owner::Hearer, Some(Role::Recv | Role::Peers(_))) => {
                Err(Breach::new("a word about a receive, of which it cannot know"))
            }
            (_, None) => Ok(None),
            (Owner::Hearer, Some(Role::Own(_))) | (Owner::Speaker, Some(_)) => Ok(Some(handle)),
        }
    }
}

/// How the first `total` bytes of a receive's memory are cut.
fn shape_of(local: &crate::list::List<crate::list::LocalRange>, total: u64) -> Shape {
    if local.total() == total {
        return local.shape();
    }
    let mut shape = Shape::new();
    let mut left = total;
    for range in local.ranges() {
        let length = range.len.min(left);
        // An empty part is left out, and a list has no more parts than a shape.
        let _ = shape.push(Repeat { length, count: 1 });
        left -= length;
        if left == 0 {
            break;
        }
    }
    shape
}
