//! What the peer says. Everything is checked before anything is done.
//!
//! A number that was given out and is not live belongs to a transfer that is over here. The peer may not have heard
//! that when it spoke, so what it says about it is swallowed.

mod chunks;
mod lists;

use std::time::Duration;

use super::entry::{Entry, Remote, Role};
use super::words::{Breach, Exports, Happened, Outcome};
use super::{Handle, Peer};
use crate::frame::{Frame, Kind, LONGEST_TRANSFER, MOST_RANGES, Owner, Refusal, Verdict};
use crate::id::TransferId;
use crate::list::Shape;
use crate::transfer::{Input, Part};

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
