//! Sleeping until a comm may have moved.
//!
//! A waiter is an epoll descriptor that holds an event descriptor, which the lanes signal, and the
//! control sockets of the comms attached to it, all edge-triggered. Arming takes the edges seen so far;
//! an edge after that makes the descriptor readable. The owner arms, tests all its comms once more, and
//! sleeps only if none moved.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Waiter {
    epoll: OwnedFd,
    event: OwnedFd,
    armed: AtomicBool,
}

impl Waiter {
    pub(crate) fn open() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &event, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        Ok(Arc::new(Self { epoll, event, armed: AtomicBool::new(false) }))
    }

    /// The descriptor to sleep on.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Watches a control socket until it is closed.
    pub(crate) fn watch(&self, control: BorrowedFd<'_>) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, control, EventData::new_u64(1), edges)?)
    }

    /// Takes the edges seen so far and asks for the next.
    pub(crate) fn arm(&self) -> io::Result<()> {
        let mut events = [const { core::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        // What does not fit stays readable and costs one more round of the owner, nothing else.
        let taken = epoll::wait(&self.epoll, &mut events, Some(&NO_WAIT));
        // Only now: a signal in between would disarm, its edge would be taken here, and the owner would sleep
        // through the next one. What moved before this store is seen by the owner's round of tests.
        self.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        taken?;
        Ok(())
    }

    /// Says that something moved. Called by lanes; a system call only if the owner may be asleep.
    pub(crate) fn signal(&self) {
        // What moved is written before the flag is read, as the owner reads what moved after writing it.
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::SeqCst) && self.armed.swap(false, Ordering::SeqCst) {
            // A full counter means that a signal is there already.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::sync::atomic::AtomicU64;

    fn readable(waiter: &Waiter) -> bool {
        poll(&mut [PollFd::new(waiter, PollFlags::IN)], Some(&NO_WAIT)).expect("poll") == 1
    }

    #[test]
    fn a_signal_after_arming_is_seen_and_one_before_is_taken() {
        let waiter = Waiter::open().expect("descriptors");
        waiter.signal();
        assert!(!readable(&waiter), "nobody armed it");
        waiter.arm().expect("arm");
        assert!(!readable(&waiter));
        waiter.signal();
        assert!(readable(&waiter));
        waiter.arm().expect("arm");
        assert!(!readable(&waiter), "arming takes what was signalled");
        waiter.signal();
        waiter.signal();
        assert!(readable(&waiter));
    }

    /// The owner cares only about every second signal, as it asks only about the oldest request of a comm.
    #[test]
    fn a_signal_that_moved_nothing_does_not_swallow_the_next() {
        const ROUNDS: u64 = 20_000;
        let waiter = Waiter::open().expect("descriptors");
        let (moved, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    for step in 0..2 {
                        moved.store(2 * round + step + 1, Ordering::SeqCst);
                        waiter.signal();
                        for _ in 0..round % 64 {
                            std::hint::spin_loop();
                        }
                    }
                    while seen.load(Ordering::SeqCst) <= round {
                        std::thread::yield_now();
                    }
                }
            });
            for round in 0..ROUNDS {
                let arrived = || moved.load(Ordering::SeqCst) == 2 * round + 2;
                while !arrived() {
                    waiter.arm().expect("arm");
                    if arrived() {
                        break;
                    }
                    let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
                    let woken = poll(&mut [PollFd::new(&*waiter, PollFlags::IN)], Some(&limit));
                    let lost = woken.expect("poll") == 0;
                    // Let the other thread end before failing.
                    if lost {
                        seen.store(u64::MAX, Ordering::SeqCst);
                    }
                    assert!(!lost, "round {round}: asleep for 5 s beside a signal");
                }
                seen.store(round + 1, Ordering::SeqCst);
            }
        });
    }

    #[test]
    fn bytes_on_a_watched_socket_are_an_edge() {
        use std::io::Write;
        let (mut far, near) = std::os::unix::net::UnixStream::pair().expect("pair");
        let waiter = Waiter::open().expect("descriptors");
        waiter.watch(near.as_fd()).expect("watch");
        waiter.arm().expect("arm");
        assert!(!readable(&waiter), "the edge of a writable socket is taken by arming");
        far.write_all(b"x").expect("write");
        assert!(readable(&waiter));
        waiter.arm().expect("arm");
        assert!(!readable(&waiter), "unread bytes are no new edge");
        far.write_all(b"y").expect("write");
        assert!(readable(&waiter));
    }
}
