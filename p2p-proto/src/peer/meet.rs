//! Sends of the peer meet receives of this end.

use super::Peer;
use super::words::Outcome;
use crate::frame::{Refusal, Repeat, Verdict};
use crate::list::{List, LocalRange, Shape};

impl Peer {
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
}

/// How the first `total` bytes of a receive's memory are cut.
fn shape_of(local: &List<LocalRange>, total: u64) -> Shape {
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
