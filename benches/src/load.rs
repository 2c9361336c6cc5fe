//! What else runs on the machine.
//!
//! A transfer that shares its cores with other programs measures the scheduler, and two measurements are
//! disturbed differently. Such rounds are told apart, not averaged.

use std::time::Duration;
use std::{fs, io, thread};

const SAMPLES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// Threads of other programs that are ready to run, on average over about 20 ms. The caller's own threads
/// have to be asleep meanwhile.
///
/// # Errors
///
/// The system does not tell (`/proc/loadavg`).
pub fn others() -> io::Result<f64> {
    let mut runnable = 0;
    for _ in 0..SAMPLES {
        let text = fs::read_to_string("/proc/loadavg")?;
        // One of them is the thread that reads.
        runnable += parse(&text).ok_or_else(|| io::Error::other("/proc/loadavg has another form"))? - 1;
        thread::sleep(PAUSE);
    }
    Ok(f64::from(runnable) / f64::from(SAMPLES))
}

/// The runnable threads in `0.20 0.18 0.12 1/80 11206`, at least 1.
fn parse(text: &str) -> Option<u32> {
    let (runnable, _) = text.split_whitespace().nth(3)?.split_once('/')?;
    Some(runnable.parse::<u32>().ok()?.max(1))
}

#[cfg(test)]
mod tests {
    use super::{others, parse};

    #[test]
    fn the_fourth_word_counts_threads() {
        assert_eq!(parse("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(parse("0.20 0.18 0.12 0/80 11206\n"), Some(1));
        assert_eq!(parse("0.20 0.18"), None);
        assert_eq!(parse("0.20 0.18 0.12 x/80 11206"), None);
    }

    #[test]
    fn this_machine_tells() {
        assert!(others().expect("/proc/loadavg") >= 0.0);
    }
}
