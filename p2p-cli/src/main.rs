//! The program `p2p`: measures transfers between two processes, and says what a machine lacks for them.
//!
//! It is a user of the library like any other: it never contains what a library user would need too.

#![forbid(unsafe_code)]

mod bench;
mod doctor;
mod failure;
mod output;
mod report;
mod shape;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use failure::Failure;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Either asks for the net plugin's own lines; the library chooses which.
const PLUGIN_LINES: &str = "NCCL_DEBUG";
const DEBUG: &str = "UCCL_TCPX_DEBUG";
/// What to show instead, by target and level.
const LOG: &str = "RUST_LOG";
/// What the choice of a plugin says.
const CHOICE: &str = "p2p_transport_tcpx::select";

/// Point-to-point transfers over NCCL net plugins
#[derive(Debug, Parser)]
#[command(name = "p2p", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Moves verified messages between two processes and compares with plain TCP
    Bench(Box<bench::Options>),
    /// Says what this machine has for transfers, what it lacks, and what to do about it
    ///
    /// Each line is OK, WARN or FAIL (SKIP: not tried), a subject, and what was found; below a WARN or FAIL stands what
    /// to type or set. The exit code is 1 if there is a FAIL. docs/troubleshooting.md has a section for each line.
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Bench(options) => bench(&options),
        Command::Doctor(options) => doctor(&options),
    }
}

fn bench(options: &bench::Options) -> ExitCode {
    show_log(options.has_spokesman() || options.shape.is_started_follower());
    match bench::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ended("bench", &failure, options.is_child()),
    }
}

fn doctor(options: &doctor::Options) -> ExitCode {
    show_log(false);
    match doctor::run(options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(failure::SAID),
        Err(failure) => ended("doctor", &failure, false),
    }
}

/// Says why a command came to no result, unless that was said.
fn ended(command: &str, failure: &Failure, is_child: bool) -> ExitCode {
    let code = failure.exit_code(is_child);
    if code == failure::SAID && !failure.is_said() {
        // Nobody may read it, and then there is nobody to say so to.
        let _ = writeln!(std::io::stderr(), "p2p {command}: {failure}");
    }
    ExitCode::from(code)
}

/// Warnings of this program go to standard error; lines of the net plugin only where they were asked for,
/// since an error says in one line what they lead to. Of two ends started together, the client alone says that
/// another plugin than the usual one was chosen. `UCCL_TCPX_DEBUG=1` shows what the library does, and `RUST_LOG`
/// whatever it names.
fn show_log(repeats: bool) {
    let debug = std::env::var_os(DEBUG).is_some_and(|value| value == "1");
    let asked = debug || std::env::var_os(PLUGIN_LINES).is_some();
    let plugin = if asked { LevelFilter::TRACE } else { LevelFilter::OFF };
    let choice = if repeats { LevelFilter::OFF } else { LevelFilter::WARN };
    let usual = Targets::new()
        .with_default(if debug { LevelFilter::DEBUG } else { LevelFilter::WARN })
        .with_target(tcpx_core::LOG_TARGET, plugin)
        .with_target(CHOICE, choice);
    let wanted = std::env::var(LOG).ok().filter(|text| !text.is_empty());
    let (filter, wrong) = match wanted.map(|text| text.parse::<Targets>().map_err(|error| (text, error))) {
        Some(Ok(wanted)) => (wanted, None),
        Some(Err(wrong)) => (usual, Some(wrong)),
        None => (usual, None),
    };
    tracing_subscriber::registry()
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal()),
        )
        .with(filter)
        .init();
    if let Some((text, error)) = wrong {
        tracing::warn!(
            "{LOG}={text:?} is not used: {error}; write it as info, or as p2p_endpoint=debug,warn"
        );
    }
}
