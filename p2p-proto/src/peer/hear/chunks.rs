//! Announcements, as they come.

use super::super::covered::Uncovered;
use super::super::line::Queued;
use super::super::words::{Breach, Outcome};
use super::super::{Handle, Peer};
use crate::frame::{Chunk, Verdict};
use crate::id::RailIndex;
use crate::list::{Cursor, cut};
use crate::stripe::RailLimits;
use crate::transfer::Input;

impl Peer {
    pub(super) fn hear_chunks(
        &mut self,
        rail: RailIndex,
        before: u64,
        chunks: &[Chunk],
    ) -> Result<(), Breach> {
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
}
