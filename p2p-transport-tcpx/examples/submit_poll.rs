//! What the transport itself costs: cycles of submit and poll over a plugin that does nothing.
//!
//! `submit_poll N` runs N cycles, half of them sends and half receives, and fails if one of them allocates. It
//! prints nothing and measures nothing else; `cargo xtask deep` counts its instructions.

use std::error::Error;
use std::process::ExitCode;

#[path = "null/pair.rs"]
mod pair;

const WARM_UP: u64 = 1000;

fn main() -> ExitCode {
    let cycles = std::env::args().nth(1).and_then(|argument| argument.parse().ok());
    let Some(cycles) = cycles else {
        eprintln!("usage: submit_poll CYCLES");
        return ExitCode::FAILURE;
    };
    match run(cycles) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("submit_poll: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cycles: u64) -> Result<(), Box<dyn Error>> {
    let mut end = pair::End::new(1)?;
    let mut well = true;
    let mut all = |end: &mut pair::End, cycles: u64| {
        for cycle in 0..cycles {
            well &= end.one(cycle);
        }
    };
    all(&mut end, WARM_UP);
    let measured = allocation_counter::measure(|| all(&mut end, cycles));
    if !well {
        return Err("an operation did not end well".into());
    }
    if measured.count_total > 0 {
        return Err(format!("{} allocations in {cycles} cycles", measured.count_total).into());
    }
    Ok(())
}
