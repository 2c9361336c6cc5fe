//! The program `p2p`: measures transfers between two processes.
//!
//! It is a user of the library like any other: it never contains what a library user would need too.

#![forbid(unsafe_code)]

mod bench;
mod failure;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Either asks for the net plugin's own lines; the library chooses which.
const PLUGIN_LINES: &str = "NCCL_DEBUG";
const DEBUG: &str = "UCCL_TCPX_DEBUG";
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
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let Arguments { command: Command::Bench(options) } = Arguments::parse();
    show_log(options.is_started_server());
    match bench::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code(options.is_child());
            if code == failure::SAID && !failure.is_said() {
                // Nobody may read it, and then there is nobody to say so to.
                let _ = writeln!(std::io::stderr(), "p2p bench: {failure}");
            }
            ExitCode::from(code)
        }
    }
}

/// Warnings of this program go to standard error; lines of the net plugin only where they were asked for,
/// since an error says in one line what they lead to. Of two ends started together, the client alone says that
/// another plugin than the usual one was chosen.
fn show_log(repeats: bool) {
    let asked =
        std::env::var_os(PLUGIN_LINES).is_some() || std::env::var_os(DEBUG).is_some_and(|value| value == "1");
    let plugin = if asked { LevelFilter::TRACE } else { LevelFilter::OFF };
    let choice = if repeats { LevelFilter::OFF } else { LevelFilter::WARN };
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target(tcpx_core::LOG_TARGET, plugin)
        .with_target(CHOICE, choice);
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(filter)
        .init();
}
