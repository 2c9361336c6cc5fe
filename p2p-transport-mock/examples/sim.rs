//! Runs the simulation over many seeds, on all cores: `cargo xtask sim` builds and starts it.
//!
//! It ends with 1 if anything was found, or if a kind of fault never struck in 10,000 seeds. A run never
//! depends on another one or on the clock; only when to stop does.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use p2p_transport_mock::sim::{self, Options, Outcome};
use p2p_transport_mock::{FaultKind, Strikes};

/// From so many seeds on, each kind of fault must have struck.
const ENOUGH: u64 = 10_000;
/// Findings that are printed.
const SHOWN: usize = 5;

struct Arguments {
    seeds: u64,
    first: u64,
    limit: Option<Duration>,
}

#[derive(Default)]
struct Total {
    runs: u64,
    steps: u64,
    arrived: u64,
    took: Duration,
    strikes: Strikes,
    failed: Vec<Outcome>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!(
                "sim: {text}\nusage: sim [--seeds N] [--seed FIRST] [--minutes M]\n\
                 1000 seeds from 1, and without limit where only minutes are given"
            );
            return ExitCode::from(2);
        }
    };
    let begin = Instant::now();
    let total = all(&arguments, begin);
    if report(&arguments, &total, begin.elapsed()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { seeds: 1000, first: 1, limit: None };
    let mut seeds = None;
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let bad = |error: &dyn std::fmt::Display| format!("{word} {value}: {error}");
        match word.as_str() {
            "--seeds" => seeds = Some(value.parse().map_err(|error| bad(&error))?),
            "--seed" => arguments.first = value.parse().map_err(|error| bad(&error))?,
            "--minutes" => {
                let minutes: f64 = value.parse().map_err(|error| bad(&error))?;
                let limit = Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| bad(&error))?;
                arguments.limit = Some(limit);
            }
            _ => return Err(format!("{word} is unknown")),
        }
    }
    if seeds == Some(0) {
        return Err("--seeds 0: that runs nothing".to_owned());
    }
    // With minutes alone, they decide.
    let unlimited = if arguments.limit.is_some() { u64::MAX } else { arguments.seeds };
    arguments.seeds = seeds.unwrap_or(unlimited);
    Ok(arguments)
}

/// Seeds are handed out one by one, so that each core has work until the end.
fn all(arguments: &Arguments, begin: Instant) -> Total {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut total = Total::default();
    thread::scope(|scope| {
        let work = || {
            let mut mine = Total::default();
            while !stop.load(Relaxed) {
                let number = next.fetch_add(1, Relaxed);
                if number >= arguments.seeds {
                    break;
                }
                mine.add(sim::run(arguments.first.wrapping_add(number), &Options::default()));
                let late = arguments.limit.is_some_and(|limit| begin.elapsed() > limit);
                if late || mine.failed.len() >= SHOWN {
                    stop.store(true, Relaxed);
                }
            }
            mine
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(mine) => total.merge(mine),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    total.failed.sort_by_key(|outcome| outcome.seed);
    total
}

impl Total {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.steps += outcome.steps;
        self.arrived += outcome.arrived;
        self.took += outcome.took;
        self.strikes.add(&outcome.strikes);
        if !outcome.findings.is_empty() {
            self.failed.push(outcome);
        }
    }

    fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.arrived += other.arrived;
        self.took += other.took;
        self.strikes.add(&other.strikes);
        self.failed.extend(other.failed);
    }
}

/// Prints what there is to say; whether all is well.
fn report(arguments: &Arguments, total: &Total, elapsed: Duration) -> bool {
    let mut well = total.failed.is_empty();
    let rate = total.runs as f64 / elapsed.as_secs_f64().max(1e-9);
    println!(
        "sim: {} runs from seed {}, {} steps, {} messages, {:.3} s of virtual time, in {:.1} s ({rate:.0} runs/s)",
        total.runs,
        arguments.first,
        total.steps,
        total.arrived,
        total.took.as_secs_f64(),
        elapsed.as_secs_f64(),
    );
    for kind in FaultKind::ALL {
        let count = total.strikes.of(kind);
        println!("sim: {kind:?} struck {count} times");
        if count == 0 && total.runs >= ENOUGH {
            println!("sim: {kind:?} never struck: the simulation does not exercise it any more");
            well = false;
        }
    }
    for outcome in total.failed.iter().take(SHOWN) {
        for finding in &outcome.findings {
            println!("sim: seed {}: {finding}", outcome.seed);
        }
        println!("sim: to do it again: {}", outcome.replay());
    }
    println!("sim: {} findings", total.failed.len());
    well
}
