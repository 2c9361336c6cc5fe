//! `cargo xtask deep`: what is too slow, or needs too much, for every change.

use clap::ValueEnum;

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;
use crate::{instructions, suite};

/// Crates with `unsafe`, tested under the address sanitizer.
const SANITIZED: [&str; 4] = ["p2p-memory", "tcpx-sys", "tcpx-core", "tcpx-soft"];
/// A test asks for more memory than there is and expects to be refused.
const SANITIZER_OPTIONS: &str = "detect_leaks=1:detect_stack_use_after_return=1:allocator_may_return_null=1";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Random cases per property; 256 is what an ordinary run has.
const CASES: &str = "8192";
/// Open and close rounds of the tests that look for leaks; 100 is what an ordinary run has.
const ROUNDS: &str = "2000";

/// One part of `deep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Tests of the crates with `unsafe` under the address sanitizer, leaks included
    Sanitizer,
    /// Models of the places where threads meet, in every order loom finds
    Loom,
    /// Random tests with many more cases, leak tests with many more rounds
    Random,
    /// Instructions per window cycle against the kept number
    Instructions,
}

/// Runs the parts in `only`, or all of them where it is empty.
///
/// # Errors
///
/// The first part that fails.
pub(crate) fn run(
    steps: &mut Steps,
    workspace: &Workspace,
    only: &[Part],
    record: bool,
) -> Result<(), Failure> {
    for &part in Part::value_variants() {
        if only.is_empty() || only.contains(&part) {
            match part {
                Part::Sanitizer => sanitizer(steps, workspace)?,
                Part::Loom => loom(steps, workspace)?,
                Part::Random => random(steps, workspace)?,
                Part::Instructions => instructions::step(steps, workspace, record)?,
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
    let leaks = workspace.root.join("xtask/known-leaks.txt");
    let mut test = workspace.cargo(&arguments);
    test.env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address -Cdebuginfo=1")
        .env("ASAN_OPTIONS", SANITIZER_OPTIONS)
        .env("LSAN_OPTIONS", format!("print_suppressions=0:suppressions={}", leaks.display()))
        .env("CARGO_TARGET_DIR", workspace.target.join("sanitizer"));
    let mend = "read the sanitizer's report: its first frame of this workspace is where to look";
    steps.command("sanitizer", &mut test, mend)
}

/// Models are compiled with loom's atomics, so they need a build of their own.
fn loom(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mut test =
        workspace.cargo(&["test", "--release", "--locked", "--package", "tcpx-soft", "--lib", "models::"]);
    test.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", workspace.target.join("loom"));
    let mend = "read loom's last interleaving; LOOM_LOG=trace shows each step of it";
    steps.command("loom", &mut test, mend)
}

fn random(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mut test =
        workspace.cargo(&["test", "--locked", "--workspace", "--lib", "--tests", "--no-fail-fast"]);
    test.env("PROPTEST_CASES", CASES)
        .env("P2P_TEST_ROUNDS", ROUNDS)
        .env(suite::SKIPS, workspace.target.join("skipped-tests.txt"));
    let mend = "the failing test prints its seed; make the case it shrinks to a named test";
    steps.command("random", &mut test, mend)
}
