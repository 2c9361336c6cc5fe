//! The instruction gate: how many instructions one cycle of the hot paths takes.
//!
//! Wall time on a shared machine says little; instructions under callgrind hardly vary. Two runs of
//! different length are subtracted, so that start-up and warm-up cancel out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::step::{Failure, Steps};
use crate::workspace::{Workspace, program};

/// Where the numbers are kept.
const KEPT: &str = "benches/instructions.toml";
const CYCLES: u64 = 20_000;
/// Allowed change against a kept number.
const TOLERANCE: f64 = 0.03;

/// A program that runs as many cycles as its argument says.
struct Counted {
    package: &'static str,
    example: &'static str,
    /// What one cycle is.
    cycle: &'static str,
}

/// From the floor upwards.
const COUNTED: [Counted; 4] = [
    Counted {
        package: "tcpx-core",
        example: "window_cycle",
        cycle: "post, test and release of one request against a null table",
    },
    Counted {
        package: "p2p-transport-tcpx",
        example: "submit_poll",
        cycle: "submit and poll of one operation over a null table",
    },
    Counted {
        package: "p2p-transport-mock",
        example: "simulated_message",
        cycle: "one message of 1 KiB in a simulation, with submits and polls of both ends",
    },
    Counted {
        package: "p2p-proto",
        example: "vector_of_pages",
        cycle: "a page in the lists of both ends, said, cut and named, once scattered and once merged",
    },
];

/// Builds the examples, counts, and compares with the kept numbers or, with `record`, replaces them.
///
/// # Errors
///
/// Valgrind is missing, a run failed, or a count is off by more than the tolerance.
pub(crate) fn step(steps: &mut Steps, workspace: &Workspace, record: bool) -> Result<(), Failure> {
    if program("valgrind").is_none() {
        return Err(Failure::new("instructions: valgrind is not installed", "apt-get install valgrind"));
    }
    let mut found = Numbers::new();
    for Counted { package, example, .. } in COUNTED {
        // One package at a time: features that another one asks for would change the code.
        let arguments = ["build", "--release", "--locked", "--package", package, "--example", example];
        steps.command("build", &mut workspace.cargo(&arguments), "mend what the compiler names")?;
        let file = workspace.target.join("release/examples").join(example);
        let shown = format!("callgrind, {} against {CYCLES} cycles of {example}", 2 * CYCLES);
        let mend = "run that example by hand with a number; it says what is wrong";
        steps.timed("instructions", &shown, mend, || {
            let short = count(&file, CYCLES, &workspace.target)?;
            let long = count(&file, 2 * CYCLES, &workspace.target)?;
            found.insert(example.to_owned(), per_cycle(short, long, CYCLES)?);
            Ok(())
        })?;
    }
    let mend = "find what the hot path does more (callgrind_annotate on target/callgrind.*.out), or, where the \
                change is wanted, run `cargo xtask deep --only instructions --record` and commit the numbers";
    steps.timed("instructions", KEPT, mend, || {
        let file = workspace.root.join(KEPT);
        if record {
            return fs::write(&file, kept_text(&found)).map_err(|error| format!("{KEPT}: {error}"));
        }
        let kept = kept_numbers(&fs::read_to_string(&file).map_err(|error| format!("{KEPT}: {error}"))?)?;
        compare(&found, &kept)
    })
}

/// Instructions per cycle, by example.
type Numbers = BTreeMap<String, f64>;

/// Instructions of one whole run.
fn count(example: &Path, cycles: u64, target: &Path) -> Result<u64, String> {
    let name = example.file_name().unwrap_or_default().to_string_lossy();
    let output = target.join(format!("callgrind.{name}.{cycles}.out"));
    let run = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(example)
        .arg(cycles.to_string())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind cannot be started: {error}"))?;
    if !run.status.success() {
        return Err(format!("{name} {cycles}: {}", String::from_utf8_lossy(&run.stderr)));
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

/// Says all differences; an error if one of them is too large.
fn compare(found: &Numbers, kept: &Numbers) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (example, found) in found {
        let Some(kept) = kept.get(example) else {
            wrong.push(format!("{example}: nothing is kept in {KEPT}"));
            continue;
        };
        let change = found / kept - 1.0;
        let text = format!(
            "{example}: {found:.2} instructions per cycle, {kept:.2} kept in {KEPT}: {:+.1} %, {} % are allowed",
            change * 100.0,
            TOLERANCE * 100.0
        );
        println!("    {text}");
        if change.abs() > TOLERANCE {
            wrong.push(text);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn kept_numbers(text: &str) -> Result<Numbers, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| format!("{KEPT}: {error}"))?;
    let entries = table.iter().map(|(example, entry)| {
        let number = entry.get("instructions_per_cycle").and_then(toml::Value::as_float);
        number.filter(|number| *number > 0.0).map(|number| (example.clone(), number)).ok_or_else(|| {
            format!("{KEPT}: {example}.instructions_per_cycle has to be a positive decimal number")
        })
    });
    entries.collect()
}

fn kept_text(found: &Numbers) -> String {
    let mut text = format!(
        "# Instructions counted with callgrind, release profile, x86-64, rustc {}.\n\
         # Compared by `cargo xtask deep`, replaced by `cargo xtask deep --only instructions --record`.\n",
        compiler()
    );
    for Counted { example, cycle, .. } in COUNTED {
        if let Some(number) = found.get(example) {
            let _ = write!(
                text,
                "\n# One cycle is {cycle}.\n[{example}]\ninstructions_per_cycle = {number:.2}\n"
            );
        }
    }
    text
}

fn compiler() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(numbers: &[(&str, f64)]) -> Numbers {
        numbers.iter().map(|(example, number)| ((*example).to_owned(), *number)).collect()
    }

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
        let kept = numbers(&[("window_cycle", 100.0), ("submit_poll", 200.0)]);
        let with = |one, other| compare(&numbers(&[("window_cycle", one), ("submit_poll", other)]), &kept);
        assert!(with(102.9, 200.0).is_ok());
        assert!(with(97.1, 194.2).is_ok());
        let text = with(100.0, 208.0).expect_err("four percent");
        assert!(text.contains("submit_poll") && !text.contains("window_cycle"), "{text}");
        assert!(with(96.0, 200.0).is_err());
    }

    #[test]
    fn a_count_that_nothing_is_kept_for_is_an_error() {
        let text = compare(&numbers(&[("submit_poll", 1.0)]), &Numbers::new()).expect_err("nothing kept");
        assert!(text.contains("submit_poll"), "{text}");
    }

    #[test]
    fn the_kept_file_reads_back() {
        let found = numbers(&[("window_cycle", 123.456), ("submit_poll", 7.0)]);
        let kept = numbers(&[("window_cycle", 123.46), ("submit_poll", 7.0)]);
        assert_eq!(kept_numbers(&kept_text(&found)), Ok(kept));
        assert!(kept_numbers("[window_cycle]\n").is_err());
        assert!(kept_numbers("[window_cycle]\ninstructions_per_cycle = 0.0\n").is_err());
    }
}
