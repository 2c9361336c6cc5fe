//! What an engine has reported of links, notifications and counters, until somebody asks.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use p2p_transport::{Error, ErrorKind};

use super::remote::Remote;
use crate::engine::{Engine, Event, LinkId};

/// What the engine has reported of links and notifications, until somebody asks.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Links that came from peers and were not taken.
    pub(super) accepted: VecDeque<LinkId>,
    /// Links that somebody opens and waits for, and what became of them.
    pub(super) opening: BTreeMap<LinkId, Option<Result<(), Error>>>,
    /// Peers that were added, by their metadata.
    pub(super) remotes: BTreeMap<Vec<u8>, Remote>,
    pub(super) notifications: VecDeque<(LinkId, Bytes)>,
    /// What is kept of each link: of those that are up, and of the latest that ended.
    kept: BTreeMap<LinkId, Kept>,
    /// Links of `kept` that ended, oldest first.
    ended: VecDeque<LinkId>,
    pub(super) stops: Stops,
}

/// Who waits for peers, and is told to leave.
#[derive(Debug, Default)]
pub(super) struct Stops {
    waiting: usize,
    /// How often those who waited were told.
    times: u64,
    /// Nobody waited when it was said: the next one who comes leaves.
    is_left: bool,
}

impl Stops {
    /// Somebody begins to wait. `None`: they leave at once.
    pub(super) fn enter(&mut self) -> Option<u64> {
        if std::mem::take(&mut self.is_left) {
            return None;
        }
        self.waiting += 1;
        Some(self.times)
    }

    /// Whoever [came in](Self::enter) then leaves, with a peer or without one. A word that was for them, and that they
    /// did not need, is for the next one.
    pub(super) const fn leave(&mut self, since: u64, has_peer: bool) {
        self.waiting -= 1;
        self.is_left |= has_peer && self.waiting == 0 && self.has_come(since);
    }

    /// Whether whoever [came in](Self::enter) then was told to leave.
    pub(super) const fn has_come(&self, since: u64) -> bool {
        self.times != since
    }

    pub(super) const fn say(&mut self) {
        self.times += 1;
        self.is_left = self.waiting == 0;
    }
}

/// What is kept of one link until somebody asks.
#[derive(Debug, Default)]
struct Kept {
    /// How often each counter went up.
    counters: BTreeMap<u32, u64>,
    /// What its notifications that nobody has asked for take, in bytes.
    unread: usize,
    /// The engine rests, and is told when they take no more than this.
    wakes_at: Option<usize>,
}

/// Ends of links that are remembered.
const MOST_ENDS: usize = 1024;
/// Bytes of notifications of links that ended, until somebody asks for them.
const MOST_LEFT: usize = 64 << 20;
/// Different counters of one link: a peer that names more is no friend.
const MOST_COUNTERS: usize = 4096;
/// What keeping a notification takes beside its bytes.
const OVERHEAD: usize = 64;

impl Reports {
    /// Keeps what the engine reports.
    pub(super) fn take(&mut self, engine: &mut Engine, event: Event) {
        match event {
            Event::Connected(link) => {
                if let Some(opening) = self.opening.get_mut(&link) {
                    *opening = Some(Ok(()));
                }
            }
            Event::Accepted(link) => self.accepted.push_back(link),
            Event::Closed(link) => {
                self.accepted.retain(|one| *one != link);
                self.remotes.retain(|_, remote| !remote.is(link));
                self.link_ended(link);
                if let Some(opening) = self.opening.get_mut(&link) {
                    let closed = || Error::new(ErrorKind::Conn, "connect", "it was closed here");
                    *opening = Some(Err(engine.why(link).cloned().unwrap_or_else(closed)));
                }
            }
            Event::Notified { link, bytes } => {
                let kept = self.kept.entry(link).or_default();
                kept.unread += bytes.len() + OVERHEAD;
                if engine.keeps(link, kept.unread) && kept.wakes_at.is_none() {
                    kept.wakes_at = Some(kept.unread / 2);
                }
                self.notifications.push_back((link, bytes));
            }
            Event::Counted { link, counter } => {
                let counters = &mut self.kept.entry(link).or_default().counters;
                *counters.entry(counter).or_insert(0) += 1;
                if counters.len() > MOST_COUNTERS {
                    tracing::warn!(
                        ?link,
                        "a peer names more than {MOST_COUNTERS} counters: its link is closed"
                    );
                    let _ = engine.close(link);
                }
            }
            Event::Ended { .. } => {}
        }
    }

    /// The next notification, and whether the engine is to be told that there is room again.
    pub(super) fn next_notification(&mut self) -> Option<(LinkId, Bytes, Option<usize>)> {
        let (link, bytes) = self.notifications.pop_front()?;
        let mut room = None;
        if let Some(kept) = self.kept.get_mut(&link) {
            kept.unread = kept.unread.saturating_sub(bytes.len() + OVERHEAD);
            if kept.wakes_at.is_some_and(|at| kept.unread <= at) {
                kept.wakes_at = None;
                room = Some(kept.unread);
            }
        }
        Some((link, bytes, room))
    }

    /// How often a counter of a link went up.
    pub(super) fn counter(&self, link: LinkId, counter: u32) -> u64 {
        self.kept.get(&link).and_then(|kept| kept.counters.get(&counter)).copied().unwrap_or(0)
    }

    /// A link ended. The oldest of those are forgotten, with their notifications, when too much is kept of them.
    fn link_ended(&mut self, link: LinkId) {
        self.ended.push_back(link);
        let unread = |reports: &Self, link| reports.kept.get(link).map_or(0, |kept| kept.unread);
        let mut left: usize = self.ended.iter().map(|link| unread(self, link)).sum();
        while self.ended.len() > MOST_ENDS || left > MOST_LEFT {
            let Some(oldest) = self.ended.pop_front() else { return };
            let lost = self.kept.remove(&oldest).map_or(0, |kept| kept.unread);
            if lost > 0 {
                tracing::warn!(link = ?oldest, "{lost} bytes of notifications of a link that ended were never asked for");
                self.notifications.retain(|(of, _)| *of != oldest);
                left -= lost;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_transport::Id;

    fn link(number: u32) -> LinkId {
        LinkId::of(number, std::num::NonZeroU32::MIN)
    }

    fn notify(reports: &mut Reports, of: LinkId, length: usize) {
        reports.kept.entry(of).or_default().unread += length + OVERHEAD;
        reports.notifications.push_back((of, Bytes::from(vec![0; length])));
    }

    #[test]
    fn what_is_kept_of_links_that_ended_is_bounded() {
        let mut reports = Reports::default();
        notify(&mut reports, link(0), 100);
        for number in 1..=65 {
            notify(&mut reports, link(number), 1 << 20);
            reports.link_ended(link(number));
        }
        let left: Vec<LinkId> = reports.notifications.iter().map(|(of, _)| *of).collect();
        let expected: Vec<LinkId> = [0].into_iter().chain(3..=65).map(link).collect();
        assert_eq!(left, expected, "the oldest that ended go, and those of a link that is up stay");
        for number in 100..100 + MOST_ENDS as u32 {
            reports.kept.entry(link(number)).or_default().counters.insert(1, 1);
            reports.link_ended(link(number));
        }
        assert_eq!((reports.kept.len(), reports.notifications.len()), (MOST_ENDS + 1, 1));
        assert_eq!((reports.counter(link(100), 1), reports.counter(link(3), 1)), (1, 0));
    }

    #[test]
    fn the_engine_is_told_once_when_half_is_read() {
        let mut reports = Reports::default();
        for _ in 0..4 {
            notify(&mut reports, link(0), 1000);
        }
        reports.kept.entry(link(0)).or_default().wakes_at = Some(2 * (1000 + OVERHEAD));
        let rooms: Vec<Option<usize>> =
            std::iter::from_fn(|| reports.next_notification()).map(|(.., room)| room).collect();
        assert_eq!(rooms, [None, Some(2 * (1000 + OVERHEAD)), None, None]);
    }
}
