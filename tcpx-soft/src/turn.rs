//! Who sends next to a peer of this machine.
//!
//! There the kernel copies what one end sends into pages that the other end copies it from, and both copies are
//! fast while those pages are in a cache. Sockets of a lane that all send at once each have a send buffer of them
//! under way, which no cache holds where sockets are many: 128 of them lose a seventh of their speed. So a lane
//! lets one of them at a time send what is long, for a [`TURN`], and keeps the turn for it while its buffer is full:
//! the peer's lane empties that one next. A socket whose peer does not is passed over.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes of a turn: most chunks whole. Of 2 MiB, all chunks that are under way end at about the same time, and there
/// is less to do until they are followed up, which costs a twentieth; of 64 MiB it is a twentieth as well.
pub(crate) const TURN: usize = 8 << 20;
/// What is no longer is sent without a turn.
pub(crate) const SHORT: usize = 256 << 10;
/// How long others wait for a socket that can send nothing.
const PATIENCE: Duration = Duration::from_millis(1);
/// How long they wait for one that can send a little now and then.
const LONGEST: Duration = Duration::from_millis(10);

/// The turns of a lane's sockets, which are told apart by their keys.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    holder: Option<Holder>,
    waiting: VecDeque<usize>,
}

#[derive(Debug)]
struct Holder {
    key: usize,
    left: usize,
    /// Since when it can send nothing.
    blocked: Option<Instant>,
    /// When it could send nothing for the first time in this turn.
    first_blocked: Option<Instant>,
}

impl Turns {
    /// Whether it is the turn of `key`, which becomes so if it is nobody's. If not, it waits, and must not ask again
    /// before it is its turn.
    pub(crate) fn take(&mut self, key: usize) -> bool {
        match &self.holder {
            Some(holder) if holder.key == key => true,
            Some(_) => {
                self.waiting.push_back(key);
                false
            }
            None => {
                self.give(key);
                true
            }
        }
    }

    /// `key` has sent so much. Whose turn it is now, if that has changed; its own if nobody waits.
    #[must_use]
    pub(crate) fn sent(&mut self, key: usize, bytes: usize) -> Option<usize> {
        let holder = self.holder.as_mut().filter(|holder| holder.key == key)?;
        holder.blocked = None;
        holder.left = holder.left.saturating_sub(bytes);
        if holder.left == 0 { self.end(key) } else { None }
    }

    /// `key` can send nothing.
    pub(crate) fn blocked(&mut self, key: usize, now: Instant) {
        if let Some(holder) = self.holder.as_mut().filter(|holder| holder.key == key) {
            holder.blocked = Some(now);
            holder.first_blocked.get_or_insert(now);
        }
    }

    /// `key` has nothing more to send, or is no more. Whose turn it is now, if that has changed.
    #[must_use]
    pub(crate) fn end(&mut self, key: usize) -> Option<usize> {
        if self.holder.as_ref().is_none_or(|holder| holder.key != key) {
            self.waiting.retain(|&other| other != key);
            return None;
        }
        self.holder = None;
        let next = self.waiting.pop_front()?;
        self.give(next);
        Some(next)
    }

    /// When those who wait have waited long enough for one that can send nothing.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let Holder { blocked, first_blocked, .. } = self.holder.as_ref()?;
        let deadline = ((*blocked)? + PATIENCE).min((*first_blocked)? + LONGEST);
        (!self.waiting.is_empty()).then_some(deadline)
    }

    /// Who has kept the others waiting for too long.
    pub(crate) fn overdue(&self) -> Option<usize> {
        let deadline = self.deadline()?;
        self.holder.as_ref().filter(|_| Instant::now() >= deadline).map(|holder| holder.key)
    }

    fn give(&mut self, key: usize) {
        self.holder = Some(Holder { key, left: TURN, blocked: None, first_blocked: None });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn turns_go_round_and_the_last_one_keeps_its() {
        let mut turns = Turns::default();
        assert!(turns.take(3) && turns.take(3));
        assert!(!turns.take(5) && !turns.take(7));
        assert_eq!(turns.sent(3, TURN - 1), None);
        assert!(turns.take(3), "there is a byte left");
        assert_eq!(turns.sent(3, 1), Some(5));
        assert!(!turns.take(3), "it is behind the others");
        assert_eq!(turns.sent(3, TURN), None, "what is sent out of turn is nobody's");
        assert_eq!(turns.sent(5, TURN), Some(7));
        assert_eq!(turns.end(7), Some(3));
        assert_eq!(turns.sent(3, TURN), None);
        assert!(turns.take(9), "it was nobody's");
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let mut turns = Turns::default();
        assert!(turns.take(1));
        assert!(!turns.take(2) && !turns.take(3));
        assert_eq!(turns.end(2), None);
        assert_eq!(turns.end(1), Some(3));
        assert_eq!(turns.end(3), None);
    }

    #[test]
    fn who_can_send_nothing_is_waited_for_until_a_deadline_if_anybody_waits() {
        let mut turns = Turns::default();
        assert!(turns.take(1));
        let long_ago = Instant::now() - 2 * PATIENCE;
        turns.blocked(1, long_ago);
        assert_eq!((turns.deadline(), turns.overdue()), (None, None));
        assert!(!turns.take(2));
        turns.blocked(2, long_ago);
        assert_eq!((turns.deadline(), turns.overdue()), (Some(long_ago + PATIENCE), Some(1)));
        assert_eq!(turns.sent(1, 1), None);
        assert_eq!(turns.deadline(), None, "it sends again");
        let mut turns = Turns::default();
        assert!(turns.take(1) && !turns.take(2));
        turns.blocked(1, Instant::now() + Duration::from_secs(60));
        assert_eq!(turns.overdue(), None, "its time is not over");
    }

    #[test]
    fn who_sends_a_little_now_and_then_is_not_waited_for_either() {
        let mut turns = Turns::default();
        assert!(turns.take(1) && !turns.take(2));
        let (now, mut late) = (Instant::now(), false);
        for milliseconds in 0..20 {
            let blocked = now + Duration::from_millis(milliseconds);
            turns.blocked(1, blocked);
            let deadline = turns.deadline().expect("others wait");
            assert_eq!(deadline, (blocked + PATIENCE).min(now + LONGEST));
            late |= deadline < blocked;
            assert_eq!(turns.sent(1, 100), None);
        }
        assert!(late);
        assert_eq!(turns.end(1), Some(2));
        turns.blocked(2, now + LONGEST);
        assert!(!turns.take(1));
        assert_eq!(turns.deadline(), Some(now + LONGEST + PATIENCE), "another turn, another time");
    }
}
