//! CPU time of this process.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// CPU time that all threads of this process have used so far, in the program and in the kernel.
///
/// Threads that have ended are counted. Work that the kernel does for the process on threads of its own
/// is not.
pub fn process() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::process;
    use std::hint::black_box;

    #[test]
    fn work_of_threads_that_ended_is_counted() {
        let before = process();
        let worker = std::thread::spawn(|| (0..20_000_000u64).fold(0, |sum, n| black_box(sum ^ n)));
        worker.join().expect("it only counts");
        assert!(process() > before);
    }
}
