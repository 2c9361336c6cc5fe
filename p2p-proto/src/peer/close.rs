//! How transfers, rails and the link end.

use super::entry::{Remote, Role};
use super::line::Queued;
use super::words::{Breach, Happened, Loss, Outcome, Side};
use super::{Handle, Peer};
use crate::frame::{Frame, Kind, Verdict};
use crate::id::RailIndex;
use crate::list::Shape;
use crate::transfer::{Input, Part, State, Step, step};

impl Peer {
    /// Something happened to a transfer here. True if it changed its state.
    pub(super) fn apply(&mut self, handle: Handle, input: Input, outcome: Outcome) -> bool {
        let Some(entry) = self.table.get_mut(handle) else { return false };
        let Step::To(next) = step(entry.part, entry.state, input) else { return false };
        let before = entry.state;
        entry.state = next;
        if before.is_open() && !next.is_open() {
            if next != State::Landed {
                entry.outcome = outcome;
            }
            self.closed(handle, before);
        }
        true
    }

    /// The peer did or said something about a transfer. True if it changed its state.
    pub(super) fn apply_peer(
        &mut self,
        handle: Handle,
        input: Input,
        outcome: Outcome,
    ) -> Result<bool, Breach> {
        let Some(entry) = self.table.get(handle) else { return Ok(false) };
        match step(entry.part, entry.state, input) {
            Step::Stay => Ok(false),
            Step::To(_) => Ok(self.apply(handle, input, outcome)),
            Step::Breach => Err(Breach::said(format_args!(
                "{input:?} about transfer {} in state {:?}, as its {:?} here",
                entry.number.0, entry.state, entry.part
            ))),
        }
    }

    /// All is said and heard that the first chunk needs.
    pub(super) fn ready(&mut self, handle: Handle) {
        if !self.apply(handle, Input::Ready, Outcome::LinkLost) {
            return;
        }
        let Some(entry) = self.table.get_mut(handle) else { return };
        entry.shape = Shape::new();
        if entry.total == 0 {
            self.apply(handle, Input::Covered, Outcome::LinkLost);
            self.landed(handle);
            return;
        }
        if entry.part == Part::Sender {
            // The ranges of a write are opened as they are said.
            if entry.role != Role::Own(Kind::Write) {
                entry.open_to = entry.total;
            }
            self.uncut += entry.total;
            self.line_up(handle);
        }
    }

    /// Every byte is in place here: the last word about it.
    pub(super) fn landed(&mut self, handle: Handle) {
        if !self.apply(handle, Input::Landed, Outcome::LinkLost) {
            return;
        }
        if let Some(entry) = self.table.get(handle) {
            self.output.fin(entry.owner(), entry.number, Verdict::Landed);
        }
        self.settle(handle);
    }

    /// This end cannot go on with a transfer, and tells the peer.
    pub(super) fn fail(&mut self, handle: Handle, outcome: Outcome, verdict: Verdict) {
        let input = match verdict {
            Verdict::Refused(_) => Input::Refuse,
            Verdict::Landed | Verdict::RailLost(_) | Verdict::MemoryGone => Input::Lose,
        };
        let Some(entry) = self.table.get(handle) else { return };
        let (role, owner, number) = (entry.role, entry.owner(), entry.number);
        // Of a receive that nothing has met the peer knows nothing.
        if self.apply(handle, input, outcome) && role != Role::Recv {
            self.output.fin(owner, number, verdict);
        }
        self.settle(handle);
    }

    /// A transfer is not open any more: nobody waits for it, and it holds no more than its messages need.
    fn closed(&mut self, handle: Handle, before: State) {
        let Some(entry) = self.table.get_mut(handle) else { return };
        let (role, number, landed) = (entry.role, entry.number, entry.state == State::Landed);
        if entry.part == Part::Sender && before == State::Moving {
            self.uncut -= entry.total - entry.cut();
        }
        let held = std::mem::take(&mut entry.held_notices);
        self.peers_ranges -= u64::from(std::mem::take(&mut entry.held_ranges));
        entry.remote = Remote::Unknown;
        entry.shape = Shape::new();
        let counter = entry.counter;
        match role {
            Role::Own(Kind::Write) => self.notices.waited(held),
            Role::Own(Kind::Read | Kind::Send) => {}
            Role::Recv => self.recvs.retain(|waiting| *waiting != handle),
            Role::Peers(kind) => {
                self.peers_open -= 1;
                match kind {
                    Kind::Write => {
                        if let Some(counter) = counter.filter(|_| landed) {
                            self.count(counter);
                        }
                        if held > 0 {
                            self.release_notices(number, landed);
                        }
                        if !landed {
                            self.notices.failed(number);
                        }
                    }
                    Kind::Read => {}
                    // One that has met a receive does not wait here.
                    Kind::Send if before == State::Asking => self.sends.retain(|waiting| *waiting != handle),
                    Kind::Send => {}
                }
            }
        }
    }

    /// Reports and forgets a transfer that is over, once the transport is done with its memory.
    pub(super) fn settle(&mut self, handle: Handle) {
        let Some(entry) = self.table.get(handle) else { return };
        if entry.state.is_open() || entry.messages > 0 {
            return;
        }
        self.apply(handle, Input::Quiet, Outcome::LinkLost);
        let Some(entry) = self.table.remove(handle) else { return };
        if entry.is_peers() {
            self.table.theirs.remove(entry.number);
        }
        if let Some(transfer) = entry.report {
            self.table.ours.remove(transfer);
            self.own_live -= 1;
            let outcome = if entry.wanted { entry.outcome } else { Outcome::Abandoned };
            self.happened.push_back(Happened::Ended { transfer, outcome });
        }
    }

    /// Nothing is posted on a rail any more. Transfers with bytes that were announced on it and not posted fail; what is
    /// with the transport ends by itself.
    pub(super) fn break_rail(&mut self, rail: RailIndex) {
        let Some(lines) = self.rails.get_mut(usize::from(rail.0)) else { return };
        if lines.lost {
            return;
        }
        lines.lost = true;
        let sends = std::mem::take(&mut lines.send.queue);
        let recvs = std::mem::take(&mut lines.recv.queue);
        (lines.send.offered, lines.recv.offered) = (None, None);
        self.striper.lost(rail);
        self.unlanded -= recvs.len();
        let of = |queue: &std::collections::VecDeque<Queued>| -> Vec<Handle> {
            queue.iter().filter_map(|queued| queued.handle).collect()
        };
        let (sends, recvs) = (of(&sends), of(&recvs));
        for handle in &sends {
            if let Some(entry) = self.table.get_mut(*handle) {
                entry.messages -= 1;
            }
        }
        for handle in sends.into_iter().chain(recvs) {
            self.fail(handle, Outcome::RailLost(rail), Verdict::RailLost(rail));
        }
    }

    /// The transport has nothing of a rail any more: it is closed, and all of its messages have ended. Transfers with
    /// bytes on it fail at the end that receives, and the others go on over the other rails. Without any rail the link
    /// is lost.
    pub fn rail_lost(&mut self, now: std::time::Duration, rail: RailIndex) {
        self.at(now);
        self.break_rail(rail);
        for side in [Side::Send, Side::Recv] {
            let tokens = self.rails.get(usize::from(rail.0)).map(|lines| lines.line(side).tokens(rail, side));
            for token in tokens.unwrap_or_default() {
                self.ended(now, token.to_number(), super::Landing::Lost);
            }
        }
        if !self.over && self.rails.iter().all(|rail| rail.lost) {
            self.lose(Loss::NoRail);
        }
    }

    /// The control stream is lost, or the caller wants no more of this peer. Every transfer ends, those with messages
    /// that are with the transport when those have [`ended`](Self::ended).
    pub fn link_lost(&mut self) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let handles = self.table.handles();
        for handle in &handles {
            self.apply(*handle, Input::Lose, Outcome::LinkLost);
        }
        for rail in &mut self.rails {
            (rail.send.offered, rail.recv.offered) = (None, None);
            rail.unsaid.clear();
            rail.recv.queue.clear();
            for queued in rail.send.queue.drain(..) {
                if let Some(entry) = queued.handle.and_then(|handle| self.table.get_mut(handle)) {
                    entry.messages -= 1;
                }
            }
        }
        self.output.forget();
        self.row.clear();
        self.telling.clear();
        handles.into_iter().for_each(|handle| self.settle(handle));
    }

    /// Ends the link, for a reason that the peer hears if [`control`](Self::control) is still sent. All transfers end.
    pub fn goodbye(&mut self, why: &str) {
        if !self.over {
            let rest = self.output.take();
            self.link_lost();
            self.output.put(rest);
            self.output.say(&Frame::Goodbye { why: why.to_owned() });
        }
    }

    /// The link is lost for a reason that the caller hears.
    pub(super) fn lose(&mut self, why: Loss) {
        self.happened.push_back(Happened::Lost(why));
        self.link_lost();
    }
}
