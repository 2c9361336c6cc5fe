//! Runs whole endpoints in random worlds with faults over many seeds, on all cores: `cargo xtask sim --endpoints`
//! builds and starts it. It ends with 1 if anything was found. A run depends on nothing but its seed.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[path = "../tests/support/mod.rs"]
mod support;

use support::sim;

/// Findings that are printed.
const SHOWN: usize = 3;

#[derive(Default)]
struct Total {
    runs: u64,
    transfers: u64,
    done: u64,
    bytes: u64,
    failed: Vec<(u64, Vec<String>)>,
}

fn main() -> ExitCode {
    let (mut seeds, mut first, mut limit, mut failures) = (1000, 1, None, u64::MAX);
    let words: Vec<String> = std::env::args().skip(1).collect();
    for pair in words.chunks(2) {
        let number = |word: &String| word.parse::<f64>().ok().filter(|number| *number >= 0.0);
        match (pair[0].as_str(), pair.get(1).and_then(number)) {
            ("--seeds", Some(number)) => seeds = number as u64,
            ("--seed", Some(number)) => first = number as u64,
            ("--failures", Some(number)) => failures = number as u64,
            ("--minutes", Some(number)) => limit = Some(Duration::from_secs_f64(number * 60.0)),
            _ => {
                eprintln!("usage: simulate [--seeds N] [--seed FIRST] [--minutes M] [--failures STOP_AFTER]");
                return ExitCode::from(2);
            }
        }
    }
    if limit.is_some() && !words.iter().any(|word| word == "--seeds") {
        seeds = u64::MAX / 2;
    }
    let begin = Instant::now();
    let (next, total) = (AtomicU64::new(first), Mutex::new(Total::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let total = || total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let enough = total().failed.len() as u64 >= failures;
            if enough || seed >= first + seeds || limit.is_some_and(|limit| begin.elapsed() >= limit) {
                return;
            }
            let ran = sim::run(seed);
            let mut total = total();
            total.runs += 1;
            total.transfers += ran.transfers;
            total.done += ran.done;
            total.bytes += ran.bytes;
            if !ran.findings.is_empty() {
                total.failed.push((seed, ran.findings));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let Total { runs, transfers, done, bytes, mut failed } =
        total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!(
        "endpoints: {runs} runs from seed {first}, {transfers} transfers, {done} of them done, {bytes} bytes, in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    failed.sort_unstable();
    for (seed, findings) in failed.iter().take(SHOWN) {
        println!("to do it again: cargo xtask sim --endpoints --seeds 1 --seed {seed}");
        findings.iter().take(SHOWN).for_each(|finding| println!("  {finding}"));
    }
    println!("endpoints: {} findings", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
