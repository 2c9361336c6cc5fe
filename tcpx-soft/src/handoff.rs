//! How a testing thread tells a lane that a socket has work, and how the lane falls asleep without
//! missing it.
//!
//! | field | set by | cleared by | means |
//! |---|---|---|---|
//! | `Link::busy` | the socket's one producer, when it queues work | the lane, when it found no work | the lane knows of the socket |
//! | `Link::next` | whoever set `busy` | the lane, by taking the whole inbox | place in the inbox |
//! | `Inbox::sleeping` | the lane, before it sleeps | whoever finds it set, who then must wake the lane | nobody has woken it |
//!
//! Both flags follow one rule: each side changes the flag with a swap, and only then looks at what the other
//! side publishes before *its* swap. Of two racing swaps the later one reads what the earlier one wrote,
//! and so sees everything published before it: at least one of the two parties sees the other. A plain
//! store would read nothing, and both could miss each other.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sync::{AtomicBool, AtomicPtr};

/// A socket's part.
#[derive(Debug)]
pub(crate) struct Link<T> {
    busy: AtomicBool,
    next: AtomicPtr<T>,
}

/// What can be linked.
pub(crate) trait Linked: Sized {
    fn link(&self) -> &Link<Self>;
}

impl<T> Link<T> {
    pub(crate) fn new() -> Self {
        Self { busy: AtomicBool::new(false), next: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The lane found no work. True if work came meanwhile that nobody will announce: it stays busy.
    pub(crate) fn release(&self, has_work: impl FnOnce() -> bool) -> bool {
        self.busy.swap(false, Ordering::AcqRel);
        has_work() && !self.busy.swap(true, Ordering::AcqRel)
    }
}

/// A lane's part: a stack of announced sockets that the lane takes whole.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    top: AtomicPtr<T>,
    sleeping: AtomicBool,
}

impl<T: Linked> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self { top: AtomicPtr::new(ptr::null_mut()), sleeping: AtomicBool::new(false) }
    }

    /// Tells the lane that `node` has work, which was queued before. True if the lane must be woken.
    #[must_use]
    pub(crate) fn announce(&self, node: &Arc<T>) -> bool {
        if node.link().busy.swap(true, Ordering::AcqRel) {
            return false;
        }
        let pointer = Arc::into_raw(node.clone()).cast_mut();
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            node.link().next.store(top, Ordering::Relaxed);
            match self.top.compare_exchange_weak(top, pointer, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => top = now,
            }
        }
        self.sleeping.swap(false, Ordering::AcqRel)
    }

    /// Hands every announced node to `take`.
    pub(crate) fn drain(&self, mut take: impl FnMut(Arc<T>)) {
        let mut pointer = self.top.swap(ptr::null_mut(), Ordering::AcqRel);
        while !pointer.is_null() {
            // SAFETY: every pointer in the inbox comes from `Arc::into_raw` in `announce`, once each, and the
            // swap gave this thread the whole stack.
            let node = unsafe { Arc::from_raw(pointer) };
            pointer = node.link().next.load(Ordering::Relaxed);
            take(node);
        }
    }

    /// The lane is about to sleep. False if it must not: there is news. `other_news` is what else could
    /// wake it, looked at after the flag is up.
    #[must_use]
    pub(crate) fn fall_asleep(&self, other_news: impl FnOnce() -> bool) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        if self.top.load(Ordering::Acquire).is_null() && !other_news() {
            return true;
        }
        self.wake_up();
        false
    }

    /// The lane is awake, whoever woke it.
    pub(crate) fn wake_up(&self) {
        self.sleeping.store(false, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::AtomicU32;
    use loom::sync::Notify;
    use loom::thread;

    /// A socket with a count of queued work.
    struct Node {
        link: Link<Node>,
        queued: AtomicU32,
    }

    impl Linked for Node {
        fn link(&self) -> &Link<Self> {
            &self.link
        }
    }

    struct Lane {
        inbox: Inbox<Node>,
        wake: Notify,
    }

    fn produce(lane: &Lane, node: &Arc<Node>, times: u32) {
        for _ in 0..times {
            node.queued.fetch_add(1, Ordering::Release);
            if lane.inbox.announce(node) {
                lane.wake.notify();
            }
        }
    }

    /// Works until `total` was done; a lost announcement leaves it asleep for ever, which loom reports.
    fn consume(lane: &Lane, total: u32) {
        let mut runnable: Vec<Arc<Node>> = Vec::new();
        let mut done = 0;
        while done < total {
            lane.inbox.drain(|node| runnable.push(node));
            if runnable.is_empty() {
                if lane.inbox.fall_asleep(|| false) {
                    lane.wake.wait();
                    lane.inbox.wake_up();
                }
                continue;
            }
            for node in std::mem::take(&mut runnable) {
                let found = node.queued.swap(0, Ordering::AcqRel);
                done += found;
                if found > 0 {
                    runnable.push(node);
                } else if node.link.release(|| node.queued.load(Ordering::Acquire) > 0) {
                    runnable.push(node);
                }
            }
        }
    }

    fn model(producers: &'static [u32]) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let lane = Arc::new(Lane { inbox: Inbox::new(), wake: Notify::new() });
            let threads: Vec<_> = producers
                .iter()
                .map(|&times| {
                    let lane = lane.clone();
                    thread::spawn(move || {
                        let node = Arc::new(Node { link: Link::new(), queued: AtomicU32::new(0) });
                        produce(&lane, &node, times);
                    })
                })
                .collect();
            consume(&lane, producers.iter().sum());
            for thread in threads {
                thread.join().unwrap();
            }
            lane.inbox.drain(drop);
        });
    }

    #[test]
    fn one_socket_is_never_forgotten() {
        model(&[2]);
    }

    #[test]
    fn two_sockets_do_not_hide_each_other() {
        model(&[1, 1]);
    }
}
