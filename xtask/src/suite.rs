//! `cargo xtask test`: every test that a machine without a GPU can run.

use std::fs;
use std::path::Path;

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;

/// Tests that skip themselves append `name: reason` to the file this variable names, because the test
/// harness swallows what a passing test prints.
pub(crate) const SKIPS: &str = "P2P_TEST_SKIPS";

/// Builds the soft plugin's shared library, which a test loads into a fresh process, then runs the tests
/// and the documentation's examples.
///
/// # Errors
///
/// A build or a test failed.
pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    println!("==> not run anywhere but on A3-high: README.md, \"What needs hardware\"");
    steps.command(
        "plugin",
        &mut workspace.cargo(&["build", "--locked", "--package", "tcpx-soft"]),
        "mend what the compiler names",
    )?;
    let skips = workspace.target.join("skipped-tests.txt");
    // A list from an earlier run would be shown as this run's.
    drop(fs::remove_file(&skips));
    let mut test = workspace.cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]);
    test.env(SKIPS, &skips).args(arguments);
    let result = steps.command(
        "test",
        &mut test,
        "run the named test alone: cargo xtask test <its name>; a random test prints the seed that repeats it",
    );
    // Arguments choose tests of the workspace.
    let result =
        if arguments.is_empty() { result.and_then(|()| consumer(steps, workspace, &skips)) } else { result };
    print_skipped(&fs::read_to_string(&skips).unwrap_or_default());
    result
}

/// A program of somebody else's: outside of the workspace, with a lock file of its own, and warnings refused.
fn consumer(steps: &mut Steps, workspace: &Workspace, skips: &Path) -> Result<(), Failure> {
    let mut test = workspace.cargo(&["test", "--locked", "--manifest-path", "tests/consumer/Cargo.toml"]);
    test.env("CARGO_TARGET_DIR", workspace.target.join("consumer"))
        .env("RUSTFLAGS", "-D warnings")
        .env(SKIPS, skips);
    let cure = "mend tests/consumer; after a change of dependencies: \
                cargo update --workspace --manifest-path tests/consumer/Cargo.toml";
    steps.command("consumer", &mut test, cure)
}

fn print_skipped(skipped: &str) {
    let mut lines: Vec<&str> = skipped.lines().filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines.dedup();
    for line in lines {
        println!("==> skipped by the test itself: {line}");
    }
}
