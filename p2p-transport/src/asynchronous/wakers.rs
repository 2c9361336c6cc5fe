//! Those who wait for something that happens to all of them at once.

use std::collections::VecDeque;
use std::task::Waker;

/// Wakers of futures, each under a ticket of its own, with which its future leaves when it is dropped: a waker
/// keeps a task alive.
///
/// What is returned here is to be dropped or woken without a lock: either may run anything.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    /// In the order of their tickets.
    entries: VecDeque<(u64, Waker)>,
    last: u64,
}

impl Wakers {
    /// From here on `waker` is the one that is woken for this ticket. A future without a ticket, or one that was
    /// woken, gets a new one. Returns the waker from before.
    pub(super) fn keep(&mut self, ticket: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let known = self.find(*ticket).and_then(|at| self.entries.get_mut(at));
        if let Some((_, known)) = known {
            return if known.will_wake(waker) { None } else { Some(std::mem::replace(known, waker.clone())) };
        }
        self.last += 1;
        self.entries.push_back((self.last, waker.clone()));
        *ticket = Some(self.last);
        None
    }

    /// Ends a wait.
    pub(super) fn leave(&mut self, ticket: &mut Option<u64>) -> Option<Waker> {
        let at = self.find(ticket.take())?;
        self.entries.remove(at).map(|(_, waker)| waker)
    }

    /// The newest ticket.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Takes out the one that has waited longest, if its ticket is not newer than this one.
    pub(super) fn pop(&mut self, until: u64) -> Option<Waker> {
        let (_, waker) = self.entries.pop_front_if(|(ticket, _)| *ticket <= until)?;
        Some(waker)
    }

    /// Wakes all of them.
    pub(super) fn wake_all(self) {
        self.entries.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn find(&self, ticket: Option<u64>) -> Option<usize> {
        self.entries.binary_search_by_key(&ticket?, |(ticket, _)| *ticket).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    use super::Wakers;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn each_wait_has_one_waker_until_it_leaves_or_is_woken() {
        let tasks = [(); 3].map(|()| Arc::new(Task));
        let wakers = tasks.clone().map(Waker::from);
        let kept = |at: usize| Arc::strong_count(&tasks[at]) - 2;
        let mut all = Wakers::default();
        let (mut one, mut other) = (None, None);
        drop(all.keep(&mut one, &wakers[0]));
        drop(all.keep(&mut other, &wakers[1]));
        drop(all.keep(&mut one, &wakers[0]));
        assert_eq!((kept(0), kept(1)), (1, 1));
        drop(all.keep(&mut one, &wakers[2]));
        assert_eq!((kept(0), kept(1), kept(2)), (0, 1, 1), "the task has changed");
        drop(all.leave(&mut one));
        drop(all.leave(&mut one));
        assert_eq!((kept(1), kept(2)), (1, 0));
        // Whoever comes back comes behind.
        let until = all.last();
        drop(all.keep(&mut one, &wakers[0]));
        assert!(all.pop(until).is_some_and(|waker| waker.will_wake(&wakers[1])));
        assert!(all.pop(until).is_none());
        drop(all.leave(&mut other));
        assert_eq!((kept(0), kept(1)), (1, 0), "one who was woken has no place any more");
        drop(all.keep(&mut other, &wakers[1]));
        assert!(all.pop(all.last()).is_some_and(|waker| waker.will_wake(&wakers[0])));
        assert!(all.pop(all.last()).is_some_and(|waker| waker.will_wake(&wakers[1])));
    }
}
