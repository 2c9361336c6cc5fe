//! Where a thread sleeps that drives an endpoint, and how it is woken.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// One for the progress thread and one for whoever waits and drives, so that neither takes a wake-up that the other
/// waits for.
pub(super) struct Bed {
    /// It sleeps, or is about to.
    asleep: AtomicBool,
    wake: OwnedFd,
}

impl Bed {
    pub(super) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: AtomicBool::new(false), wake })
    }

    /// From here on it is woken. Whoever goes to bed looks once more at what they would be woken for, and then either
    /// [sleeps](Self::sleep) or [rises](Self::rise).
    pub(super) fn lie_down(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// Sleeps until it is woken, one of these is readable, or the time is over.
    pub(super) fn sleep(&self, others: [Option<&OwnedFd>; 2], time: Duration) {
        let [one, other] = others.map(|file| file.unwrap_or(&self.wake));
        let mut files = [&self.wake, one, other].map(|file| PollFd::new(file, PollFlags::IN));
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        // Whether it slept, was woken or was interrupted: what follows is a round.
        let _ = poll(&mut files, Some(&time));
        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
    }

    pub(super) fn rise(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    pub(super) fn wake_up(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // A full counter means that it is awake already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_wake_up_of_another() {
        let beds = [Bed::new().expect("a descriptor"), Bed::new().expect("a descriptor")];
        beds.iter().for_each(Bed::lie_down);
        beds.iter().for_each(Bed::wake_up);
        for bed in &beds {
            assert!(!bed.asleep.load(Ordering::SeqCst));
            let mut count = [0; 8];
            assert_eq!(rustix::io::read(&bed.wake, &mut count), Ok(8));
            assert_eq!(u64::from_ne_bytes(count), 1);
            bed.wake_up();
            assert!(rustix::io::read(&bed.wake, &mut count).is_err(), "nobody sleeps there");
        }
    }

    #[test]
    fn who_is_woken_before_the_sleep_does_not_sleep() {
        let bed = Bed::new().expect("a descriptor");
        bed.lie_down();
        bed.wake_up();
        let begin = std::time::Instant::now();
        bed.sleep([None, None], Duration::from_secs(20));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
}
