//! Work that may panic or hang, done side by side within a time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Something to do, and how long it may take.
pub(super) struct Task<T> {
    pub(super) limit: Duration,
    pub(super) work: Box<dyn FnOnce() -> T + Send>,
}

/// How a task came to its end.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Ended<T> {
    /// With this result.
    Well(T),
    /// It panicked with this message, or could not be started.
    Badly(String),
    /// It is still under way, and is left behind.
    Late(Duration),
}

/// Starts all tasks at once and waits for each as long as it may take. Results are in the order of the tasks.
pub(super) fn all<T: Send + 'static>(tasks: Vec<Task<T>>) -> Vec<Ended<T>> {
    let begin = Instant::now();
    let started: Vec<_> = tasks.into_iter().map(start).collect();
    started
        .into_iter()
        .map(|(limit, result)| {
            let left = limit.saturating_sub(begin.elapsed());
            match result.recv_timeout(left) {
                Ok(ended) => ended,
                Err(mpsc::RecvTimeoutError::Timeout) => Ended::Late(limit),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    Ended::Badly("no thread can be started for it".to_owned())
                }
            }
        })
        .collect()
}

fn start<T: Send + 'static>(task: Task<T>) -> (Duration, mpsc::Receiver<Ended<T>>) {
    let Task { limit, work } = task;
    let (ended, result) = mpsc::channel();
    // Where no thread can be started the sender is dropped, and the receiver learns of it.
    let _ = thread::Builder::new().spawn(move || {
        // What the work has changed halfway is not looked at again.
        let outcome = catch_unwind(AssertUnwindSafe(work));
        let _ = ended.send(outcome.map_or_else(|panic| Ended::Badly(message(&*panic)), Ended::Well));
    });
    (limit, result)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(60);

    fn task<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
        Task { limit, work: Box::new(work) }
    }

    #[test]
    fn a_panic_and_a_hang_cost_the_others_nothing() {
        let begin = Instant::now();
        let hangs = || {
            thread::sleep(2 * LONG);
            2
        };
        let number = std::hint::black_box(0);
        let panics = move || if number == 0 { panic!("at number {number}") } else { number };
        let tasks = vec![
            task(LONG, || 1),
            task(SHORT, hangs),
            task(LONG, panics),
            task(LONG, || 4),
            task(SHORT, hangs),
        ];
        let (badly, late) = (Ended::Badly("at number 0".to_owned()), || Ended::Late(SHORT));
        assert_eq!(all(tasks), [Ended::Well(1), late(), badly, Ended::Well(4), late()]);
        assert!(begin.elapsed() < LONG, "side by side");
    }
}
