//! The project's chores, started as `cargo xtask <chore>`.
//!
//! Every chore is a list of steps. A step says what it runs when it starts and how long it took when it
//! ends; the first one that fails ends the run with exit code 1 and a line about what to do. This
//! program never contains library code: it starts other programs and reads the source tree.

#![forbid(unsafe_code)]

mod ci;
mod deep;
mod dependencies;
mod instructions;
mod planted;
mod programs;
mod sim;
mod step;
mod suite;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every test that a machine without a GPU can run
    Test {
        /// Arguments for `cargo test`, for instance a filter
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs what has to pass before a change is taken: fmt, clippy, docs, tidy, deny, tests, short bench
    Ci {
        /// Leaves a step out; may be given several times
        #[arg(long, value_name = "STEP", value_enum)]
        without: Vec<ci::Step>,
    },
    /// Runs what is too slow for `ci`: sanitizer, long random tests, the instruction count
    Deep {
        /// Runs only this part; may be given several times
        #[arg(long, value_name = "PART", value_enum)]
        only: Vec<deep::Part>,
        /// Of the part `planted`, plants only the bug of this patch
        #[arg(long, value_name = "PATCH")]
        bug: Option<String>,
        /// Writes the counted instructions into benches/instructions.toml instead of comparing them
        #[arg(long)]
        record: bool,
    },
    /// Checks the source tree against the rules that the compiler does not know
    Tidy,
    /// Checks the dependencies: licences, sources, versions
    Deny,
    /// Builds the program `p2p` in release and starts `p2p bench`, also for --help
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for `p2p bench`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Builds the program `p2p` in release and starts `p2p doctor`, also for --help
    #[command(disable_help_flag = true)]
    Doctor {
        /// Arguments for `p2p doctor`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the simulated network over many seeds and prints what it found
    Sim {
        /// Seeds to run: 1000 unless given, without limit where only minutes are given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        seeds: Option<u64>,
        /// Minutes after which no new seed is begun
        #[arg(long, value_name = "M")]
        minutes: Option<f64>,
        /// First seed: 1 unless given
        #[arg(long, value_name = "S")]
        seed: Option<u64>,
        /// Whole endpoints instead of the contract alone
        #[arg(long)]
        endpoints: bool,
    },
    /// Builds the soft plugin in release, as target/release/libnccl-net-tcpx-soft.so
    Plugin,
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    let mut steps = Steps::default();
    match chore {
        Chore::Test { arguments } => suite::run(&mut steps, &workspace, &arguments)?,
        Chore::Ci { without } => ci::run(&mut steps, &workspace, &without)?,
        Chore::Deep { only, bug, record } => {
            deep::run(&mut steps, &workspace, &only, bug.as_deref(), record)?
        }
        Chore::Tidy => tidy::step(&mut steps, &workspace)?,
        Chore::Deny => dependencies::step(&mut steps, &workspace)?,
        Chore::Bench { arguments } => programs::bench(&mut steps, &workspace, &arguments)?,
        Chore::Doctor { arguments } => programs::doctor(&mut steps, &workspace, &arguments)?,
        Chore::Sim { seeds, minutes, seed, endpoints } => {
            let run = if endpoints { sim::endpoints } else { sim::run };
            run(&mut steps, &workspace, &sim::words(seeds, minutes, seed))?
        }
        Chore::Plugin => programs::plugin(&mut steps, &workspace)?,
    }
    steps.summary();
    Ok(())
}
