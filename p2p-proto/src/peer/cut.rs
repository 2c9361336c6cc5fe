//! Cuts chunks for the rails that have room, and announces them.

use super::entry::{Entry, Remote};
use super::line::Queued;
use super::{Handle, Peer};
use crate::frame::{Chunk, Frame};
use crate::id::RailIndex;
use crate::list::cut;
use crate::stripe::RailLimits;
use crate::transfer::{Input, Part, State};
use crate::wire::CHUNKS_PER_FRAME;

/// Chunks that are announced together at most. The peer sees chunks of one transfer rail by rail, and keeps note of
/// the holes.
const BATCH: usize = 1024;
/// Bytes of control that an announcement takes, about.
const ANNOUNCEMENT: usize = 32;

const _: () = assert!(BATCH <= CHUNKS_PER_FRAME && BATCH < super::covered::MOST_STRETCHES);

impl Peer {
    /// Cuts in turns: one chunk of each transfer that has any, while a rail is chosen for it.
    pub(super) fn cut(&mut self) {
        let mut batch = 0;
        while self.output.len() + batch * ANNOUNCEMENT < self.caps.control as usize {
            let Some(handle) = self.row.pop_front() else { break };
            if !self.has_chunk(handle) {
                continue;
            }
            if !self.cut_one(handle) {
                self.row.push_front(handle);
                break;
            }
            self.row.push_back(handle);
            batch += 1;
            if batch == BATCH {
                self.announce();
                batch = 0;
            }
        }
        if batch > 0 {
            self.announce();
        }
    }

    /// Puts a transfer in the row, if it is not there.
    pub(super) fn line_up(&mut self, handle: Handle) {
        if let Some(entry) = self.table.get_mut(handle)
            && !entry.in_row
        {
            entry.in_row = true;
            self.row.push_back(handle);
        }
    }

    /// Whether a transfer that was taken out of the row belongs there.
    fn has_chunk(&mut self, handle: Handle) -> bool {
        let Some(entry) = self.table.get_mut(handle) else { return false };
        entry.in_row =
            entry.part == Part::Sender && entry.state == State::Moving && entry.cut() < entry.open_to;
        entry.in_row
    }

    /// Cuts the next chunk of a transfer, unless no rail should take one now.
    fn cut_one(&mut self, handle: Handle) -> bool {
        let Some(choice) = self.striper.choose(self.now, self.uncut) else { return false };
        let Some(rail) = self.rails.get_mut(usize::from(choice.rail.0)) else { return false };
        let Some(entry) = self.table.get_mut(handle) else { return false };
        if rail.lost || rail.send.queue.len() + rail.send.in_flight() >= rail.send.window() {
            return false;
        }
        let at = entry.at;
        let most = u64::from(choice.bytes.min(rail.limits.max_message)).min(entry.open_to - entry.cut());
        let length = walk(entry, most as u32, &rail.limits);
        if length == 0 {
            return false;
        }
        let chunk = Chunk { owner: entry.owner(), transfer: entry.number, start: at.position(), length };
        rail.unsaid.push(chunk);
        rail.send.queue.push_back(Queued { handle: Some(handle), length, at });
        entry.messages += 1;
        let covered = entry.cut() == entry.total;
        self.uncut -= u64::from(length);
        self.striper.started(self.now, choice.rail, length);
        if covered {
            self.apply(handle, Input::Covered, super::Outcome::LinkLost);
        }
        true
    }

    /// Announces what was cut, rail by rail.
    fn announce(&mut self) {
        for (index, rail) in (0..).zip(&mut self.rails) {
            if rail.unsaid.is_empty() {
                continue;
            }
            // The list goes into the frame and back, so that nothing is allocated.
            let chunks = std::mem::take(&mut rail.unsaid);
            let count = chunks.len() as u64;
            let frame = Frame::Chunks { rail: RailIndex(index), before: rail.send.announced, chunks };
            self.output.say(&frame);
            rail.send.announced += count;
            if let Frame::Chunks { mut chunks, .. } = frame {
                chunks.clear();
                rail.unsaid = chunks;
            }
        }
    }
}

/// Moves both cursors behind the next message, of at most `most` bytes, and returns its length.
fn walk(entry: &mut Entry, most: u32, limits: &RailLimits) -> u32 {
    let (own, peer) = (limits.max_slices, limits.peer_slices);
    let Entry { local, at, remote, remote_at, .. } = entry;
    match remote {
        Remote::Unknown => 0,
        Remote::Ranges(ranges) => cut(local, at, ranges, remote_at, most, own, peer),
        Remote::Shape(shape) => cut(local, at, shape, remote_at, most, own, peer),
    }
}
