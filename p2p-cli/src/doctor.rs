//! `p2p doctor`: what this machine has for transfers, what it lacks, and what to do about it.
//!
//! Every check says a line. Checks run side by side, each within its time; one that panics or hangs is a FAIL
//! line of its own and costs the others nothing. What may crash or hang the process runs in a child.

mod bounded;
mod child;
mod elf;
mod gpu;
mod limits;
mod line;
mod machine;
mod nics;
mod plugin;
mod ports;
mod probe;
mod show;
mod start;
mod system;
mod variables;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::output;
use bounded::{Ended, Task};
use line::{Line, Status};
use machine::Machine;
use probe::Probe;
use show::{COLUMNS, Layout};

/// How long a check that only reads files may take.
const READING: Duration = Duration::from_secs(5);
/// More than the children take, which have their own limits.
const STARTING: Duration = start::START_LIMIT.saturating_add(Duration::from_secs(1));
const MOVING: Duration = STARTING.saturating_add(start::TRANSFER_LIMIT);
/// For standard output instead of a file.
const STANDARD_OUTPUT: &str = "-";

/// What a user can choose.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Folder that stands for / of the machine to look at; nothing is then started or sent
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Writes the lines as JSON to this file; - is standard output, without the text
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Exit code 1 for a WARN, too
    #[arg(long)]
    strict: bool,
    /// Started by another p2p
    #[arg(long, hide = true, value_enum)]
    probe: Option<Probe>,
}

/// Looks at everything and says it. Whether nothing is wrong.
pub(crate) fn run(options: &Options) -> Result<bool, Failure> {
    if let Some(probe) = options.probe {
        let answer =
            serde_json::to_string(&probe::run(probe)).map_err(|error| Failure::new(error.to_string()))?;
        output::print(&child::result_line(&answer))?;
        return Ok(true);
    }
    let machine = Arc::new(Machine::new(options.root.clone())?);
    // What a check panics with is said in its line.
    std::panic::set_hook(Box::new(|_| {}));
    let lines = look(&machine);
    let _ = std::panic::take_hook();
    let is_well = !lines.iter().any(|line| match line.status {
        Status::Ok | Status::Skip => false,
        Status::Warn => options.strict,
        Status::Fail => true,
    });
    let standard = Path::new(STANDARD_OUTPUT);
    if options.json.as_deref() != Some(standard) {
        output::print(&show::text(&lines, layout()))?;
    }
    if let Some(path) = &options.json {
        let report = Report { root: machine.root(), strict: options.strict, well: is_well, lines: &lines };
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::new(error.to_string()))?;
        if path == standard {
            output::print(&format!("{text}\n"))?;
        } else {
            fs::write(path, format!("{text}\n"))
                .map_err(|error| Failure::new(format!("--json {}: {error}", path.display())))?;
        }
    }
    Ok(is_well)
}

/// The report as JSON.
#[derive(Serialize)]
struct Report<'a> {
    root: &'a Path,
    strict: bool,
    /// Whether the exit code is 0.
    well: bool,
    lines: &'a [Line],
}

/// One check: what it is about, how long it may take, and what it does.
type Check = (&'static str, Duration, fn(&Machine) -> Vec<Line>);

/// In the order of the report.
const CHECKS: [Check; 21] = [
    ("variables", READING, variables::check),
    ("transport", READING, plugin::transport),
    ("plugin file", READING, plugin::file),
    ("plugin settings", READING, plugin::settings),
    ("plugin start", STARTING, start::start),
    ("loopback transfer", MOVING, start::transfer),
    ("NVIDIA driver", READING, gpu::driver),
    ("rxdm", READING, gpu::rxdm),
    ("GPU/NIC map", READING, gpu::map),
    ("NICs", READING, nics::check),
    ("NUMA nodes", READING, nics::numa),
    ("cores", READING, system::cores),
    ("socket buffers", READING, limits::buffers),
    ("congestion control", READING, limits::congestion),
    ("locked memory", READING, limits::locked),
    ("open files", READING, limits::files),
    ("bootstrap port", READING, ports::bootstrap),
    ("control ports", READING, ports::control),
    ("ephemeral ports", READING, ports::ephemeral),
    ("kernel", READING, system::kernel),
    ("clock", READING, system::clock),
];

/// Runs all checks side by side.
fn look(machine: &Arc<Machine>) -> Vec<Line> {
    let tasks = CHECKS.iter().map(|&(_, limit, check)| {
        let machine = machine.clone();
        Task { limit, work: Box::new(move || check(&machine)) }
    });
    let ended = bounded::all(tasks.collect());
    let lines = CHECKS.iter().zip(ended).map(|(&(subject, ..), ended)| match ended {
        Ended::Well(lines) => lines,
        Ended::Badly(why) => vec![broken(subject, &format!("the check itself broke: {why}"))],
        Ended::Late(limit) => {
            vec![broken(subject, &format!("the check did not end within {} s", limit.as_secs()))]
        }
    });
    lines.flatten().collect()
}

fn broken(subject: &str, found: &str) -> Line {
    let mend =
        "see what is odd about the files that it reads (docs/troubleshooting.md names them), or report it";
    Line::fail(subject, found, mend)
}

fn layout() -> Layout {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_terminal = io::stdout().is_terminal();
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Layout {
        columns: is_terminal.then_some(COLUMNS),
        colours: is_terminal && !is_dumb && !is_set("NO_COLOR"),
    }
}
