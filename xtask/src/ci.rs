//! `cargo xtask ci`: what has to pass before a change is taken.

use clap::ValueEnum;

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;
use crate::{dependencies, programs, sim, suite, tidy};

/// Arguments of the short bench: enough for one verified and one timed pass of a small and a large size.
const SHORT_BENCH: [&str; 2] = ["--seconds", "10"];

/// One step of `ci`, in the order they run: cheap ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Formatting
    Fmt,
    /// Rules the compiler does not know
    Tidy,
    /// Licences, sources and versions of dependencies
    Deny,
    /// Lints of all targets
    Clippy,
    /// Documentation, private items included
    Docs,
    /// All tests
    Test,
    /// Two minutes of the simulated network
    Sim,
    /// A short bench that verifies every byte
    Bench,
}

/// Runs all steps but those in `without`.
///
/// # Errors
///
/// The first step that fails.
pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, without: &[Step]) -> Result<(), Failure> {
    for &step in Step::value_variants() {
        if without.contains(&step) {
            println!("==> {step:?} is left out, as asked");
        } else {
            one(steps, workspace, step)?;
        }
    }
    Ok(())
}

fn one(steps: &mut Steps, workspace: &Workspace, step: Step) -> Result<(), Failure> {
    match step {
        Step::Fmt => {
            steps.command("fmt", &mut workspace.cargo(&["fmt", "--all", "--check"]), "run `cargo fmt --all`")
        }
        Step::Tidy => tidy::step(steps, workspace),
        Step::Deny => dependencies::step(steps, workspace),
        Step::Clippy => {
            let arguments =
                ["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
            steps.command("clippy", &mut workspace.cargo(&arguments), "mend what clippy names")
        }
        Step::Docs => {
            let arguments = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"];
            let mut docs = workspace.cargo(&arguments);
            docs.env("RUSTDOCFLAGS", "-D warnings");
            steps.command("docs", &mut docs, "mend the comment rustdoc names")
        }
        Step::Test => suite::run(steps, workspace, &[]),
        Step::Sim => {
            sim::run(steps, workspace, &sim::SHORT.map(str::to_owned))?;
            sim::endpoints(steps, workspace, &sim::SHORT_ENDPOINTS.map(str::to_owned))
        }
        Step::Bench => programs::bench(steps, workspace, &SHORT_BENCH.map(str::to_owned)),
    }
}
