//! Notifications of both ends.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::Peer;
use super::entry::Role;
use super::words::{Breach, Happened};
use crate::frame::{Frame, Kind, LONGEST_NOTIFICATION, LONGEST_PIECE};
use crate::id::TransferId;
use crate::transfer::State;

/// What holding a notification costs beside its bytes.
const OVERHEAD: usize = 64;
/// Writes of the peer that failed here and are remembered: more than it has under way at once.
const REMEMBERED: usize = 1 << 14;

#[derive(Debug, Default)]
pub(super) struct Notices {
    /// To be said. Of the first one, what is left of it.
    queue: VecDeque<(Option<TransferId>, Bytes)>,
    unsaid: usize,
    /// Cost of those of this end whose write is not over.
    waiting: usize,
    /// What has come of the one that is not whole, and the write that it waits for.
    part: Option<(Option<TransferId>, BytesMut)>,
    /// Of the peer, for writes that are not over here.
    held: VecDeque<(TransferId, Bytes)>,
    held_cost: usize,
    /// Cost of those that the caller has not taken.
    unread: usize,
    /// Bytes of those that the caller has taken, and keeps for somebody else.
    pub(super) kept: usize,
    /// The latest writes of the peer that did not land, so that what it said after them is not heard.
    failed: VecDeque<TransferId>,
}

fn cost(bytes: &Bytes) -> usize {
    bytes.len() + OVERHEAD
}

impl Notices {
    pub(super) fn admits(&self, bytes: &Bytes, cap: usize) -> bool {
        self.unsaid + self.waiting + cost(bytes) <= cap
    }

    /// Of this end, for a write that is not over. Returns what it costs until then.
    pub(super) fn wait(&mut self, bytes: &Bytes) -> usize {
        self.waiting += cost(bytes);
        cost(bytes)
    }

    /// The write is over for which so much waited.
    pub(super) const fn waited(&mut self, cost: usize) {
        self.waiting -= cost;
    }

    pub(super) fn push(&mut self, after: Option<TransferId>, bytes: Bytes) {
        self.unsaid += cost(&bytes);
        self.queue.push_back((after, bytes));
    }

    /// The next frame to say.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let (after, rest) = self.queue.front_mut()?;
        let after = *after;
        let bytes = rest.split_to(rest.len().min(LONGEST_PIECE));
        let more = rest.has_remaining();
        self.unsaid -= bytes.len();
        if !more {
            self.unsaid -= OVERHEAD;
            self.queue.pop_front();
        }
        Some(Frame::Notify { after, more, bytes })
    }

    pub(super) fn is_said(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) const fn unread(&self) -> usize {
        self.unread.saturating_add(self.kept)
    }

    /// The caller has taken one, or that a counter goes up.
    pub(super) const fn taken(&mut self, bytes: usize) {
        self.unread -= bytes + OVERHEAD;
    }

    /// A write of the peer did not land.
    pub(super) fn failed(&mut self, write: TransferId) {
        if self.failed.len() == REMEMBERED {
            self.failed.pop_front();
        }
        self.failed.push_back(write);
    }

    /// A part of one has come: the whole, if this was the last part.
    fn add(&mut self, after: Option<TransferId>, more: bool, bytes: Bytes) -> Result<Option<Bytes>, Breach> {
        let Some((first_after, mut whole)) = self.part.take() else {
            if more {
                self.part = Some((after, BytesMut::from(bytes)));
                return Ok(None);
            }
            return Ok(Some(bytes));
        };
        if first_after != after {
            return Err(Breach::new("the parts of one notification wait for different writes"));
        }
        if whole.len() + bytes.len() > LONGEST_NOTIFICATION {
            return Err(Breach::new("a notification that is longer than the longest"));
        }
        whole.extend_from_slice(&bytes);
        if more {
            self.part = Some((after, whole));
            return Ok(None);
        }
        Ok(Some(whole.freeze()))
    }
}

impl Peer {
    pub(super) fn hear_notice(
        &mut self,
        after: Option<TransferId>,
        more: bool,
        bytes: Bytes,
    ) -> Result<(), Breach> {
        if let Some(write) = after
            && !self.table.theirs.was_given(write)
        {
            return Err(Breach::new("a notification waits for a write that has not begun"));
        }
        let Some(bytes) = self.notices.add(after, more, bytes)? else { return Ok(()) };
        let Some(write) = after else {
            self.deliver(bytes);
            return Ok(());
        };
        let live = self.table.theirs.find(write).and_then(|handle| self.table.get_mut(handle));
        let Some(entry) = live else {
            if !self.notices.failed.contains(&write) {
                self.deliver(bytes);
            }
            return Ok(());
        };
        if entry.role != Role::Peers(Kind::Write) {
            return Err(Breach::new("a notification waits for a transfer that is no write"));
        }
        match entry.state {
            State::Asking | State::Moving | State::Announced => {
                entry.held_notices += cost(&bytes);
                self.notices.held_cost += cost(&bytes);
                if self.notices.held_cost > self.caps.held as usize * 4 {
                    return Err(Breach::new("more notifications wait for writes than are held"));
                }
                self.notices.held.push_back((write, bytes));
            }
            State::Landed | State::Finished => self.deliver(bytes),
            State::Refused | State::Failed | State::Abandoned => {}
        }
        Ok(())
    }

    /// A write of the peer is over, and notifications wait for it.
    pub(super) fn release_notices(&mut self, write: TransferId, landed: bool) {
        let mut held = std::mem::take(&mut self.notices.held);
        held.retain(|(after, bytes)| {
            if *after != write {
                return true;
            }
            self.notices.held_cost -= cost(bytes);
            if landed {
                self.deliver(bytes.clone());
            }
            false
        });
        self.notices.held = held;
    }

    /// A write of the peer has landed that wants a counter to go up.
    pub(super) fn count(&mut self, counter: u32) {
        self.notices.unread += OVERHEAD;
        self.happened.push_back(Happened::Counted(counter));
    }

    fn deliver(&mut self, bytes: Bytes) {
        self.notices.unread += cost(&bytes);
        self.happened.push_back(Happened::Notified(bytes));
    }
}
