//! What a message costs in a simulation: both ends submit, the world moves it, both ends poll.
//!
//! `simulated_message N` moves N messages of 1 KiB and fails if one of them allocates. It prints nothing and
//! measures nothing else; `cargo xtask deep` counts its instructions.

use std::error::Error;
use std::process::ExitCode;

#[path = "pair/mod.rs"]
mod pair;

use p2p_transport_mock::Settings;

const WARM_UP: u64 = 1000;

fn main() -> ExitCode {
    let messages = std::env::args().nth(1).and_then(|argument| argument.parse().ok());
    let Some(messages) = messages else {
        eprintln!("usage: simulated_message MESSAGES");
        return ExitCode::FAILURE;
    };
    match run(messages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulated_message: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(messages: u64) -> Result<(), Box<dyn Error>> {
    let mut pair = pair::Pair::new(Settings::plugin())?;
    let mut well = true;
    let mut all = |pair: &mut pair::Pair, messages: u64| {
        for _ in 0..messages {
            well &= pair.message(1024);
        }
    };
    all(&mut pair, WARM_UP);
    let measured = allocation_counter::measure(|| all(&mut pair, messages));
    if !well {
        return Err("a message did not arrive".into());
    }
    if measured.count_total > 0 {
        return Err(format!("{} allocations in {messages} messages", measured.count_total).into());
    }
    Ok(())
}
