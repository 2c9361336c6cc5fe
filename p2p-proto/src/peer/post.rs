//! Messages on their way to the transport and back.

use std::time::Duration;

use super::Peer;
use super::line::{Offered, Posted, Token};
use super::words::{Happened, Landing, Outcome, Post, Side};
use crate::frame::Verdict;
use crate::id::RailIndex;
use crate::transfer::Part;

impl Side {
    /// Which way the message with this token of a [`Post`] goes.
    pub const fn of_token(token: u64) -> Self {
        Token::of(token).side
    }
}

impl Peer {
    /// The next message for one side of a rail; the same one until it is [`posted`](Self::posted). `None`: there is
    /// nothing, or the window is full.
    pub fn next_post(&mut self, rail: RailIndex, side: Side) -> Option<Post<'_>> {
        let lines = self.rails.get_mut(usize::from(rail.0)).filter(|lines| !lines.lost)?;
        let line = lines.line_mut(side);
        let queued = *line.queue.front()?;
        let token = line.next_token(rail, side)?;
        // What was announced is always sent. What is received counts only while its transfer is open.
        let entry = queued.handle.and_then(|handle| self.table.get(handle));
        let entry = entry.filter(|entry| side == Side::Send || entry.state.is_open());
        self.parts.clear();
        if let Some(entry) = entry {
            entry.local.parts(&mut queued.at.clone(), queued.length, &mut self.parts);
        }
        line.offered = Some(Offered { token, handle: queued.handle.filter(|_| entry.is_some()) });
        let scratch = if entry.is_some() { 0 } else { queued.length };
        Some(Post { token: token.to_number(), parts: &self.parts, scratch })
    }

    /// The message that [`next_post`](Self::next_post) named last for this side of a rail is with the transport. Said at
    /// once: nothing else of this link is called in between.
    pub fn posted(&mut self, now: Duration, rail: RailIndex, side: Side) {
        self.at(now);
        let Some(lines) = self.rails.get_mut(usize::from(rail.0)) else { return };
        let line = lines.line_mut(side);
        let (Some(offered), Some(front)) = (line.offered.take(), line.queue.front()) else { return };
        let posted = Posted { handle: offered.handle, length: front.length, since: self.now };
        line.post(offered.token, posted);
        self.flying += u64::from(posted.length);
        if side == Side::Recv
            && let Some(entry) = posted.handle.and_then(|handle| self.table.get_mut(handle))
        {
            entry.messages += 1;
        }
    }

    /// Bytes that the message with this token has to have; `None` if it is not with the transport. One that ends with
    /// another length has [`Failed`](Landing::Failed).
    pub fn length_of(&self, token: u64) -> Option<u32> {
        let token = Token::of(token);
        self.rails.get(usize::from(token.rail.0))?.line(token.side).length(token)
    }

    /// A message has ended. One that is not with the transport changes nothing.
    pub fn ended(&mut self, now: Duration, token: u64, landing: Landing) {
        self.at(now);
        let token = Token::of(token);
        let Some(lines) = self.rails.get_mut(usize::from(token.rail.0)) else { return };
        let line = lines.line_mut(token.side);
        let Some(posted) = line.take(token) else { return };
        self.flying -= u64::from(posted.length);
        let landing = if line.disordered { Landing::Lost } else { landing };
        line.disordered |= landing == Landing::Failed;
        match token.side {
            Side::Send => self.striper.ended(self.now, token.rail, posted.length),
            Side::Recv => self.unlanded -= 1,
        }
        match landing {
            Landing::Done => {
                if token.side == Side::Recv {
                    self.alive.heard();
                }
                self.moved(posted);
            }
            Landing::Lost => {
                self.not_moved(posted, Outcome::RailLost(token.rail), Verdict::RailLost(token.rail));
                self.break_rail(token.rail);
            }
            Landing::Failed => {
                self.not_moved(posted, Outcome::MemoryGone { here: true }, Verdict::MemoryGone);
                if !self.over && self.rails.get(usize::from(token.rail.0)).is_some_and(|rail| !rail.lost) {
                    self.happened.push_back(Happened::RailBroken(token.rail));
                }
                self.break_rail(token.rail);
            }
        }
    }

    fn moved(&mut self, posted: Posted) {
        let Some(handle) = posted.handle else { return };
        let Some(entry) = self.table.get_mut(handle) else { return };
        entry.messages -= 1;
        entry.moved += u64::from(posted.length);
        if entry.part == Part::Receiver && entry.moved == entry.total {
            self.landed(handle);
        }
        self.settle(handle);
    }

    fn not_moved(&mut self, posted: Posted, outcome: Outcome, verdict: Verdict) {
        let Some(handle) = posted.handle else { return };
        let Some(entry) = self.table.get_mut(handle) else { return };
        entry.messages -= 1;
        if self.over {
            self.settle(handle);
        } else {
            self.fail(handle, outcome, verdict);
        }
    }
}
