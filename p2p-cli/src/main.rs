//! The program `p2p`: measures transfers between two processes.
//!
//! It is a user of the library like any other: it never contains what a library user would need too.

#![forbid(unsafe_code)]

mod bench;
mod failure;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

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
    tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(std::io::stderr).init();
    match bench::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code(options.is_child());
            if code == failure::SAID && !failure.is_said() {
                eprintln!("p2p bench: {failure}");
            }
            ExitCode::from(code)
        }
    }
}
