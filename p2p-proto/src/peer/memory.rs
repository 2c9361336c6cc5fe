//! Memory that is taken away while transfers use it.

use super::Peer;
use super::words::Outcome;
use crate::frame::Verdict;
use crate::id::LocalRegion;

impl Peer {
    /// Memory here is about to be taken away: every transfer of either end that uses it fails. Messages of it that are
    /// with the transport, or that the peer was told of, still go; [`uses`](Self::uses) says when that is over.
    pub fn memory_gone(&mut self, region: LocalRegion) {
        for handle in self.table.handles() {
            let uses = |entry: &super::entry::Entry| entry.uses(region);
            if !self.table.get(handle).is_some_and(uses) {
                continue;
            }
            // Of a receive that nothing has met, the peer knows nothing.
            if self.recvs.contains(&handle) {
                self.apply(handle, crate::transfer::Input::Lose, Outcome::MemoryGone { here: true });
                self.settle(handle);
            } else {
                self.fail(handle, Outcome::MemoryGone { here: true }, Verdict::MemoryGone);
            }
        }
    }

    /// Whether a transfer of either end uses memory here, or messages with it are on their way. It looks through all
    /// transfers.
    pub fn uses(&self, region: LocalRegion) -> bool {
        self.table
            .handles()
            .into_iter()
            .any(|handle| self.table.get(handle).is_some_and(|entry| entry.uses(region)))
    }
}
