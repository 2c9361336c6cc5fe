//! Memory that the caller takes back.

use super::Peer;
use super::words::Outcome;
use crate::frame::Verdict;
use crate::id::LocalRegion;

impl Peer {
    /// The caller takes a region back: transfers that use it end [`Outcome::MemoryGone`] here and at the peer. What was
    /// announced of them is still sent, or received and thrown away, because the order on the rails holds; until then
    /// the link [holds](Self::holds) the region.
    pub fn release(&mut self, region: LocalRegion) {
        for handle in self.table.handles() {
            if self.table.get(handle).is_some_and(|entry| entry.uses(region)) {
                self.fail(handle, Outcome::MemoryGone { here: true }, Verdict::MemoryGone);
            }
        }
    }

    /// Whether a transfer that is not quiet yet uses a region: its memory may still be read or written.
    pub fn holds(&self, region: LocalRegion) -> bool {
        let mut entries = self.table.handles().into_iter().filter_map(|handle| self.table.get(handle));
        entries.any(|entry| entry.uses(region))
    }

    /// The regions that it [holds](Self::holds), each once.
    pub fn held(&self) -> Vec<LocalRegion> {
        let entries = self.table.handles().into_iter().filter_map(|handle| self.table.get(handle));
        let mut held: Vec<LocalRegion> =
            entries.flat_map(|entry| entry.local.ranges()).map(|range| range.region).collect();
        held.sort_unstable_by_key(|region| region.0);
        held.dedup();
        held
    }

    /// Whether no transfer is left: with a link that is over, no message of one is with the transport any more.
    pub const fn is_quiet(&self) -> bool {
        self.table.len() == 0
    }
}
