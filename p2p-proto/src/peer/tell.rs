//! What this end has to say that may be long: a piece at a time, as the control stream drains.

use super::entry::Remote;
use super::{Handle, Peer};
use crate::frame::Frame;
use crate::transfer::Part;
use crate::wire::{RANGES_PER_FRAME, REPEATS_PER_FRAME};

/// What a transfer of which something is said is left with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Left {
    More,
    Nothing,
}

impl Peer {
    /// Says ranges and shapes up to half of what may wait, so that chunks find room behind long lists; then
    /// notifications.
    pub(super) fn tell(&mut self) {
        if let Some(number) = self.output.pong.take() {
            self.output.say(&Frame::Pong { number });
        }
        let most = self.caps.control as usize;
        while self.output.len() < most.div_ceil(2) {
            let Some(handle) = self.telling.pop_front() else { break };
            // Behind the others: a short list does not wait for a long one.
            if self.tell_one(handle) == Left::More {
                self.telling.push_back(handle);
            }
        }
        while self.output.len() < most {
            let Some(frame) = self.notices.next() else { break };
            self.output.say(&frame);
        }
    }

    fn tell_one(&mut self, handle: Handle) -> Left {
        let Some(entry) = self.table.get_mut(handle).filter(|entry| entry.state.is_open()) else {
            return Left::Nothing;
        };
        let transfer = entry.number;
        if let Remote::Ranges(ranges) = &entry.remote
            && entry.ranges_said < ranges.len()
        {
            let runs = ranges.runs(entry.ranges_said, RANGES_PER_FRAME);
            entry.ranges_said = (entry.ranges_said + RANGES_PER_FRAME).min(ranges.len());
            let said: u64 = runs.iter().flat_map(|run| &run.ranges).map(|(_, length)| length).sum();
            entry.open_to += said;
            let all = entry.ranges_said == ranges.len();
            self.output.say(&Frame::Ranges { transfer, runs });
            return match entry.part {
                Part::Sender => {
                    self.line_up(handle);
                    if all { Left::Nothing } else { Left::More }
                }
                Part::Receiver => Left::More,
            };
        }
        let parts = entry.shape.repeats(entry.repeats_said, REPEATS_PER_FRAME).to_vec();
        entry.repeats_said += parts.len();
        let left = entry.shape.repeats(entry.repeats_said, 1).len();
        let owner = entry.owner();
        if !parts.is_empty() {
            self.output.say(&Frame::Shape { owner, transfer, parts });
        }
        if left > 0 {
            return Left::More;
        }
        debug_assert!(entry.shape.total() == entry.total, "the shape has all bytes");
        self.ready(handle);
        Left::Nothing
    }
}
