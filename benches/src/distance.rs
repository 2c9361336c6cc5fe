//! How far apart two cores are: the time a cache line takes to the other core and back.
//!
//! On a shared machine this changes under a running benchmark by a factor of six, every few tens of
//! seconds, and what crosses cores changes with it. Two figures are comparable only when the distance was
//! the same around both, so a round is measured between two probes and belongs to a [`State`].
//!
//! States have hysteresis, so that a distance near a border does not flip from probe to probe: *near* is
//! entered at up to 160 ns and left above 200 ns, *far* is entered from 260 ns on and left below 220 ns;
//! what lies between, without a history on either side, is *other*.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::cores;

/// Round trips of one batch. Short enough that most batches see no other thread on their cores.
const BATCH: u32 = 500;
/// Batches wanted; the fastest counts, since everything else that runs can only slow one down.
const BATCHES: usize = 20;
/// When to be content with fewer batches.
const LIMIT: Duration = Duration::from_millis(300);

const NEAR_ENTERED: f64 = 160.0;
const NEAR_LEFT: f64 = 200.0;
const FAR_ENTERED: f64 = 260.0;
const FAR_LEFT: f64 = 220.0;

/// How far apart the cores are, as a class.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Two cores of one die: a line takes 50 to 120 ns.
    Near,
    /// Cores that share no cache: a line takes about 350 ns.
    Far,
    /// Something between, or only one core.
    Other,
}

impl State {
    /// The class of a distance of `nanoseconds`, after `before`.
    pub fn of(nanoseconds: f64, before: Option<Self>) -> Self {
        let near = if before == Some(Self::Near) { NEAR_LEFT } else { NEAR_ENTERED };
        let far = if before == Some(Self::Far) { FAR_LEFT } else { FAR_ENTERED };
        if nanoseconds <= near {
            Self::Near
        } else if nanoseconds >= far {
            Self::Far
        } else {
            Self::Other
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Other => "other",
        })
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Nanoseconds of one round trip; `None` on a machine with one core.
    pub nanoseconds: Option<f64>,
    /// Its class.
    pub state: State,
}

impl std::fmt::Display for Distance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.nanoseconds {
            Some(nanoseconds) => write!(f, "{} ({nanoseconds:.0} ns)", self.state),
            None => write!(f, "one core"),
        }
    }
}

/// Measures one pair of cores again and again and remembers the state for the next classification.
#[derive(Debug)]
pub struct Probe {
    cores: Option<(usize, usize)>,
    state: Option<State>,
}

impl Probe {
    /// A probe of the first two cores this process may use.
    ///
    /// # Errors
    ///
    /// The system does not tell which cores these are.
    pub fn new() -> io::Result<Self> {
        let allowed = cores::allowed()?;
        let cores = allowed.first().copied().zip(allowed.get(1).copied());
        Ok(Self { cores, state: None })
    }

    /// Measures. It takes about 10 ms on idle cores and at most about a second on busy ones.
    ///
    /// # Errors
    ///
    /// A thread cannot be started or pinned.
    pub fn measure(&mut self) -> io::Result<Distance> {
        let Some((here, there)) = self.cores else {
            return Ok(Distance { nanoseconds: None, state: State::Other });
        };
        let nanoseconds = round_trip(here, there)?;
        let state = State::of(nanoseconds, self.state);
        self.state = Some(state);
        Ok(Distance { nanoseconds: Some(nanoseconds), state })
    }
}

/// A cache line of its own.
#[repr(align(128))]
struct Line(AtomicU32);

fn round_trip(here: usize, there: usize) -> io::Result<f64> {
    let line = Line(AtomicU32::new(0));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echo = std::thread::Builder::new().name("distance".into()).spawn_scoped(scope, || {
            let pinned = cores::pin(there);
            if pinned.is_ok() {
                echo(&line.0, &over);
            }
            over.store(true, Ordering::Relaxed);
            pinned.map(drop)
        })?;
        let best = cores::pin(here).map(|_pinned| call(&line.0, &over));
        over.store(true, Ordering::Relaxed);
        let echoed = echo.join().unwrap_or_else(|_| Err(io::Error::other("the probe's echo ended early")));
        let best = best?;
        echoed.map(|()| best.as_nanos() as f64 / f64::from(BATCH))
    })
}

/// Answers each odd value with the even one after it.
fn echo(line: &AtomicU32, over: &AtomicBool) {
    loop {
        let value = line.load(Ordering::Acquire);
        if value % 2 == 1 {
            line.store(value.wrapping_add(1), Ordering::Release);
        } else if over.load(Ordering::Relaxed) {
            return;
        } else {
            std::hint::spin_loop();
        }
    }
}

/// The fastest batch.
fn call(line: &AtomicU32, over: &AtomicBool) -> Duration {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    let mut value = 0u32;
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            line.store(value.wrapping_add(1), Ordering::Release);
            value = value.wrapping_add(2);
            while line.load(Ordering::Acquire) != value {
                if over.load(Ordering::Relaxed) {
                    return best;
                }
                std::hint::spin_loop();
            }
        }
        best = best.min(start.elapsed());
        if begin.elapsed() > LIMIT {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{Probe, State};

    #[test]
    fn borders_depend_on_the_state_before() {
        assert_eq!(State::of(54.0, None), State::Near);
        assert_eq!(State::of(120.0, None), State::Near);
        assert_eq!(State::of(350.0, None), State::Far);
        assert_eq!(State::of(180.0, None), State::Other);
        assert_eq!(State::of(180.0, Some(State::Near)), State::Near);
        assert_eq!(State::of(201.0, Some(State::Near)), State::Other);
        assert_eq!(State::of(240.0, None), State::Other);
        assert_eq!(State::of(240.0, Some(State::Far)), State::Far);
        assert_eq!(State::of(219.0, Some(State::Far)), State::Other);
        assert_eq!(State::of(54.0, Some(State::Far)), State::Near);
        assert_eq!(State::of(350.0, Some(State::Near)), State::Far);
    }

    #[test]
    fn a_probe_measures_something_on_two_cores() {
        let mut probe = Probe::new().expect("affinity is readable");
        let distance = probe.measure().expect("threads can be pinned");
        match distance.nanoseconds {
            Some(nanoseconds) => assert!(nanoseconds > 0.0, "{distance}"),
            None => assert_eq!(distance.state, State::Other),
        }
    }
}
