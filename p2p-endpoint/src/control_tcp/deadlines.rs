//! What ends by itself after a time that is the same for all.

use std::collections::VecDeque;
use std::time::Duration;

use p2p_transport::Now;

/// Ids, oldest first, each of which is here until it is removed or its time is up.
#[derive(Debug)]
pub(super) struct Deadlines<I> {
    bound: Duration,
    /// Those whose time has not begun are the newest.
    entries: VecDeque<(I, Option<Now>)>,
}

impl<I: Copy + PartialEq> Deadlines<I> {
    pub(super) const fn new(bound: Duration) -> Self {
        Self { bound, entries: VecDeque::new() }
    }

    /// Its time begins at the next [`begin`](Self::begin).
    pub(super) fn push(&mut self, id: I) {
        self.entries.push_back((id, None));
    }

    pub(super) fn remove(&mut self, id: I) {
        self.entries.retain(|(known, _)| *known != id);
    }

    pub(super) fn pop_oldest(&mut self) -> Option<I> {
        self.entries.pop_front().map(|(id, _)| id)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The time of all that are here begins now, if it has not begun before.
    pub(super) fn begin(&mut self, now: Now) {
        let until = now.after(self.bound);
        for (_, at) in self.entries.iter_mut().rev().take_while(|(_, at)| at.is_none()) {
            *at = Some(until);
        }
    }

    /// Takes one whose time is up.
    pub(super) fn pop_expired(&mut self, now: Now) -> Option<I> {
        self.entries.front()?.1.filter(|until| *until <= now)?;
        self.pop_oldest()
    }

    /// When the first one's time is up.
    pub(super) fn next(&self) -> Option<Now> {
        self.entries.front()?.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_begins_with_the_poll_that_follows_and_ends_in_order() {
        let second = Duration::from_secs(1);
        let at = |seconds: u32| Now(second * seconds);
        let mut deadlines = Deadlines::new(second * 5);
        deadlines.push('a');
        assert_eq!((deadlines.next(), deadlines.pop_expired(at(100))), (None, None), "it has not begun");
        deadlines.begin(at(10));
        deadlines.push('b');
        deadlines.push('c');
        deadlines.begin(at(12));
        assert_eq!(deadlines.next(), Some(at(15)), "it began once");
        assert_eq!(deadlines.pop_expired(Now(second * 15 - Duration::from_nanos(1))), None);
        assert_eq!((deadlines.pop_expired(at(15)), deadlines.pop_expired(at(15))), (Some('a'), None));
        deadlines.remove('b');
        assert_eq!((deadlines.next(), deadlines.len()), (Some(at(17)), 1));
        assert_eq!((deadlines.pop_oldest(), deadlines.len(), deadlines.next()), (Some('c'), 0, None));
    }
}
