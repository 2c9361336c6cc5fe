//! `cargo xtask deep`: what is too slow, or needs too much, for every change.

use clap::ValueEnum;

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;
use crate::{instructions, planted, sim, suite};

/// Crates with `unsafe`, tested under the address sanitizer.
const SANITIZED: [&str; 4] = ["p2p-memory", "tcpx-sys", "tcpx-core", "tcpx-soft"];
/// A test asks for more memory than there is and expects to be refused. Leaks are not looked for: names and
/// tables live as long as the process on purpose, and `tcpx-soft/tests/resources.rs` counts what matters.
const SANITIZER_OPTIONS: &str = "detect_leaks=0:detect_stack_use_after_return=1:allocator_may_return_null=1";
/// Tests that cannot run so: resident memory includes what the sanitizer keeps back, and an instrumented
/// shared library cannot be loaded.
const NOT_SANITIZED: [&str; 6] = [
    "nothing_is_left_after_a_hundred_rounds",
    "ten_thousand_messages_leave_no_memory_behind",
    "a_hundred_connections_leave_nothing_behind",
    "_of_the_library_moves_messages",
    "the_library_stays_mapped_when_it_is_closed",
    "the_newest_wanted_version_wins",
];
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Random cases per property that needs no socket; 256 is what an ordinary run has.
const CASES: &str = "50000";
/// Random cases of the others. Each leaves sockets behind that the kernel keeps for a minute, so that many more
/// would use up the ports of the machine.
const CASES_WITH_SOCKETS: &str = "512";

/// Targets of `fuzz/`.
const FUZZED: [&str; 7] = [
    "exchange_word",
    "exchange_hello",
    "exchange_address",
    "proto_frame",
    "proto_hello",
    "proto_peer",
    "endpoint_door",
];
/// Processes killed in each of five phases.
const KILLS: &str = "40";
/// Time for each of them.
const FUZZ_SECONDS: u64 = 60;

/// One part of `deep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Tests of the crates with `unsafe` under the address sanitizer
    Sanitizer,
    /// Models of the places where threads meet, in every order loom finds
    Loom,
    /// Random tests with many more cases
    Random,
    /// The simulated network over 100,000 seeds
    Simulation,
    /// Instructions per window cycle against the kept number
    Instructions,
    /// Fuzz targets of the decoders and of what listens
    Fuzz,
    /// 200 processes killed in every phase of a link
    Kills,
    /// Bugs put into a copy of the workspace: each has to be found
    Planted,
}

/// Runs the parts in `only`, or all of them where it is empty. `bug` names the one that is planted, if not all are.
///
/// # Errors
///
/// The first part that fails.
pub(crate) fn run(
    steps: &mut Steps,
    workspace: &Workspace,
    only: &[Part],
    bug: Option<&str>,
    record: bool,
) -> Result<(), Failure> {
    for &part in Part::value_variants() {
        if only.is_empty() || only.contains(&part) {
            match part {
                Part::Sanitizer => sanitizer(steps, workspace)?,
                Part::Loom => loom(steps, workspace)?,
                Part::Random => random(steps, workspace)?,
                Part::Simulation => {
                    sim::run(steps, workspace, &sim::LONG.map(str::to_owned))?;
                    sim::endpoints(steps, workspace, &sim::LONG.map(str::to_owned))?;
                }
                Part::Instructions => instructions::step(steps, workspace, record)?,
                Part::Fuzz => fuzz(steps, workspace)?,
                Part::Kills => kills(steps, workspace)?,
                Part::Planted => planted::run(steps, workspace, bug)?,
            }
        }
    }
    Ok(())
}

/// The sanitizer is a compiler feature that stable Rust hides behind `RUSTC_BOOTSTRAP`. Naming the target
/// keeps build scripts and procedural macros uninstrumented; the standard library stays as shipped.
fn sanitizer(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mut arguments = vec!["test", "--locked", "--target", TARGET, "--lib", "--tests", "--no-fail-fast"];
    for name in SANITIZED {
        arguments.extend(["--package", name]);
    }
    arguments.push("--");
    for name in NOT_SANITIZED {
        arguments.extend(["--skip", name]);
    }
    let mut test = workspace.cargo(&arguments);
    test.env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address -Cdebuginfo=1")
        .env("ASAN_OPTIONS", SANITIZER_OPTIONS)
        .env("CARGO_TARGET_DIR", workspace.target.join("sanitizer"));
    let mend = "read the sanitizer's report: its first frame of this workspace is where to look";
    steps.command("sanitizer", &mut test, mend)
}

/// Models are compiled with loom's atomics, so they need a build of their own.
fn loom(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let packages = ["--package", "tcpx-soft", "--package", "p2p-transport"];
    let mut test = workspace.cargo(&["test", "--release", "--locked"]);
    test.args(packages).args(["--lib", "models::"]);
    test.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", workspace.target.join("loom"));
    let mend = "read loom's last interleaving; LOOM_LOG=trace shows each step of it";
    steps.command("loom", &mut test, mend)
}

fn kills(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mut test = workspace.cargo(&["test", "--locked", "--package", "p2p-endpoint", "--test", "processes"]);
    test.env("P2P_KILLS", KILLS).env(suite::SKIPS, workspace.target.join("skipped-tests.txt"));
    steps.command("kills", &mut test, "the test names the phase and the moment of the kill")
}

/// The fuzzer is a compiler feature that stable Rust hides behind `RUSTC_BOOTSTRAP`. What it finds stays in
/// `fuzz/artifacts`; what it learns is not kept.
fn fuzz(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mend = "install the fuzzer's driver: cargo install cargo-fuzz --locked";
    steps.command("fuzz driver", &mut workspace.cargo(&["fuzz", "--version"]), mend)?;
    let seconds = format!("-max_total_time={FUZZ_SECONDS}");
    for target in FUZZED {
        let learnt = workspace.target.join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&learnt)
            .map_err(|error| Failure::new(format!("{}: {error}", learnt.display()), "make room there"))?;
        let kept = format!("fuzz/corpus/{target}");
        let mut run = workspace.cargo(&["fuzz", "run", target]);
        run.arg(&learnt).arg(kept).args(["--", &seconds]).env("RUSTC_BOOTSTRAP", "1");
        run.env_remove("CARGO_TARGET_DIR");
        let mend = "the input is in fuzz/artifacts: put it into fuzz/corpus, where every test run replays it";
        steps.command(&format!("fuzz {target}"), &mut run, mend)?;
    }
    Ok(())
}

fn random(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mend = "the failing test prints its seed; make the case it shrinks to a named test";
    let common = ["test", "--locked", "--workspace", "--no-fail-fast"];
    // The simulation has a part of its own.
    let without_sockets: &[&str] =
        &["--lib", "--test", "topology", "--test", "memory", "--exclude", "p2p-transport-mock"];
    let runs: [(&str, &str, &[&str]); 2] =
        [("random", CASES, without_sockets), ("random sockets", CASES_WITH_SOCKETS, &["--tests"])];
    for (name, cases, targets) in runs {
        let mut test = workspace.cargo(&common);
        test.args(targets).env("PROPTEST_CASES", cases);
        test.env(suite::SKIPS, workspace.target.join("skipped-tests.txt"));
        steps.command(name, &mut test, mend)?;
    }
    Ok(())
}
