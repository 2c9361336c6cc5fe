//! The instruction gate: how many instructions one cycle of the window's bookkeeping takes.
//!
//! Wall time on a shared machine says little; instructions under callgrind hardly vary. Two runs of
//! different length are subtracted, so that start-up and warm-up cancel out.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::{Failure, Steps};
use crate::workspace::{Workspace, program};

/// Where the number is kept.
const KEPT: &str = "benches/instructions.toml";
const CYCLES: u64 = 20_000;
/// Allowed change against the kept number.
const TOLERANCE: f64 = 0.03;

/// Builds `window_cycle`, counts, and compares with the kept number or, with `record`, replaces it.
///
/// # Errors
///
/// Valgrind is missing, a run failed, or the count is off by more than the tolerance.
pub(crate) fn step(steps: &mut Steps, workspace: &Workspace, record: bool) -> Result<(), Failure> {
    if program("valgrind").is_none() {
        return Err(Failure::new("instructions: valgrind is not installed", "apt-get install valgrind"));
    }
    let arguments = ["build", "--release", "--locked", "--package", "tcpx-core", "--example", "window_cycle"];
    steps.command("build", &mut workspace.cargo(&arguments), "mend what the compiler names")?;
    let example = workspace.target.join("release/examples/window_cycle");
    let shown = format!("callgrind, {} against {CYCLES} cycles of window_cycle", 2 * CYCLES);
    let mend = "find what the hot path does more (callgrind_annotate on target/callgrind.*.out), or, where the \
                change is wanted, run `cargo xtask deep --only instructions --record` and commit the number";
    steps.timed("instructions", &shown, mend, || {
        let short = count(&example, CYCLES, &workspace.target)?;
        let long = count(&example, 2 * CYCLES, &workspace.target)?;
        let found = per_cycle(short, long, CYCLES)?;
        println!("    {found:.2} instructions per cycle of post, test and release");
        let file = workspace.root.join(KEPT);
        if record {
            return fs::write(&file, kept_text(found)).map_err(|error| format!("{KEPT}: {error}"));
        }
        let kept = kept_number(&fs::read_to_string(&file).map_err(|error| format!("{KEPT}: {error}"))?)?;
        compare(found, kept)
    })
}

/// Instructions of one whole run.
fn count(example: &Path, cycles: u64, target: &Path) -> Result<u64, String> {
    let output = target.join(format!("callgrind.{cycles}.out"));
    let run = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(example)
        .arg(cycles.to_string())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}"))?;
    if !run.status.success() {
        return Err(format!("window_cycle {cycles}: {}", String::from_utf8_lossy(&run.stderr)));
    }
    let profile = fs::read_to_string(&output).map_err(|error| format!("{}: {error}", output.display()))?;
    total(&profile).ok_or_else(|| format!("{}: no line `totals:`", output.display()))
}

fn total(profile: &str) -> Option<u64> {
    let line = profile.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn per_cycle(short: u64, long: u64, cycles: u64) -> Result<f64, String> {
    let more = long.checked_sub(short).filter(|more| *more >= cycles);
    let more = more.ok_or_else(|| {
        format!("{short} instructions for {cycles} cycles, {long} for twice as many: the cycles were not run")
    })?;
    Ok(more as f64 / cycles as f64)
}

fn compare(found: f64, kept: f64) -> Result<(), String> {
    let change = found / kept - 1.0;
    let text = format!(
        "{found:.2} instructions per cycle, {kept:.2} kept in {KEPT}: {:+.1} %, {} % are allowed",
        change * 100.0,
        TOLERANCE * 100.0
    );
    if change.abs() <= TOLERANCE {
        println!("    {text}");
        Ok(())
    } else {
        Err(text)
    }
}

fn kept_number(text: &str) -> Result<f64, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| format!("{KEPT}: {error}"))?;
    let number = table.get("window_cycle").and_then(|entry| entry.get("instructions_per_cycle"));
    number.and_then(toml::Value::as_float).filter(|number| *number > 0.0).ok_or_else(|| {
        format!("{KEPT}: window_cycle.instructions_per_cycle has to be a positive decimal number")
    })
}

fn kept_text(found: f64) -> String {
    format!(
        "# Instructions counted with callgrind, release profile, x86-64, rustc {}.\n\
         # Compared by `cargo xtask deep`, replaced by `cargo xtask deep --only instructions --record`.\n\n\
         # One cycle is post, test and release of one request against a null table.\n\
         [window_cycle]\n\
         instructions_per_cycle = {found:.2}\n",
        compiler()
    )
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_the_profile() {
        assert_eq!(total("version: 1\nsummary: 7\nfn=(1) main\n1 3\ntotals: 123456\n"), Some(123_456));
        assert_eq!(total("version: 1\n"), None);
    }

    #[test]
    fn what_both_runs_share_cancels_out() {
        assert_eq!(per_cycle(1_000_000 + 500 * 40, 1_000_000 + 1000 * 40, 500), Ok(40.0));
    }

    #[test]
    fn a_run_that_ignores_its_argument_is_refused() {
        assert!(per_cycle(1_000_000, 1_000_003, 500).is_err());
        assert!(per_cycle(1_000_000, 900_000, 500).is_err());
    }

    #[test]
    fn three_percent_either_way_pass_and_four_do_not() {
        assert!(compare(102.9, 100.0).is_ok());
        assert!(compare(97.1, 100.0).is_ok());
        assert!(compare(104.0, 100.0).is_err());
        assert!(compare(96.0, 100.0).is_err());
    }

    #[test]
    fn the_kept_file_reads_back() {
        assert_eq!(kept_number(&kept_text(123.456)), Ok(123.46));
        assert!(kept_number("[window_cycle]\n").is_err());
        assert!(kept_number("[window_cycle]\ninstructions_per_cycle = 0.0\n").is_err());
    }
}
