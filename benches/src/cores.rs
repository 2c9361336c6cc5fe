//! The cores this process may run on, and keeping a thread on one of them.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Numbers of the cores the calling thread may run on, in rising order.
///
/// # Errors
///
/// The system's error.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Keeps the calling thread on `core` until the guard is dropped.
///
/// # Errors
///
/// The machine has no such core, or does not let this process use it.
pub fn pin(core: usize) -> io::Result<Pinned> {
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no core {core}")));
    }
    set.set(core);
    sched_setaffinity(None, &set)?;
    Ok(Pinned { before, _of_this_thread: std::marker::PhantomData })
}

/// A thread that stays on one core. Dropping the guard gives the thread its former cores back.
#[must_use = "the thread is released when this is dropped"]
pub struct Pinned {
    before: CpuSet,
    /// Dropped elsewhere, it would release another thread.
    _of_this_thread: std::marker::PhantomData<*const ()>,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").finish_non_exhaustive()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Cores may have been taken away meanwhile; the thread then stays where it is.
        let _ = sched_setaffinity(None, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::{allowed, pin};

    #[test]
    fn a_pinned_thread_gets_its_cores_back() {
        let before = allowed().expect("affinity is readable");
        let last = *before.last().expect("it runs somewhere");
        let pinned = pin(last).expect("an allowed core");
        assert_eq!(allowed().expect("readable"), [last]);
        drop(pinned);
        assert_eq!(allowed().expect("readable"), before);
    }

    #[test]
    fn an_impossible_core_is_an_error() {
        assert!(pin(usize::MAX).is_err());
    }
}
