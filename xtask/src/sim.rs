//! `cargo xtask sim`: the simulation of `p2p-transport-mock`, and that of whole endpoints, over many seeds.

use std::process::Command;

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;

/// Arguments of the run in `ci`: two minutes of it.
pub(crate) const SHORT: [&str; 2] = ["--minutes", "2"];
/// Arguments of the run of endpoints in `ci`.
pub(crate) const SHORT_ENDPOINTS: [&str; 2] = ["--minutes", "1"];
/// Arguments of the run in `deep`.
pub(crate) const LONG: [&str; 2] = ["--seeds", "100000"];

/// Builds the runner in release and starts it with `arguments`.
///
/// # Errors
///
/// The build failed, the run found something, or a kind of fault never struck.
pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let build = ["build", "--release", "--locked", "--package", "p2p-transport-mock", "--example", "sim"];
    steps.command("build", &mut workspace.cargo(&build), "mend what the compiler names")?;
    let mut sim = Command::new(workspace.target.join("release/examples/sim"));
    sim.args(arguments);
    steps.command(
        "sim",
        &mut sim,
        "the line `to do it again` replays a failing seed; its findings say what broke",
    )
}

/// As [`run`], for whole endpoints.
///
/// # Errors
///
/// The build failed, or the run found something.
pub(crate) fn endpoints(
    steps: &mut Steps,
    workspace: &Workspace,
    arguments: &[String],
) -> Result<(), Failure> {
    let build = ["build", "--release", "--locked", "--package", "p2p-endpoint", "--example", "simulate"];
    steps.command("build", &mut workspace.cargo(&build), "mend what the compiler names")?;
    let mut simulate = Command::new(workspace.target.join("release/examples/simulate"));
    simulate.args(arguments);
    steps.command(
        "sim of endpoints",
        &mut simulate,
        "the line `to do it again` replays a failing seed; its findings say what broke",
    )
}

/// The arguments as the runner takes them.
pub(crate) fn words(seeds: Option<u64>, minutes: Option<f64>, seed: Option<u64>) -> Vec<String> {
    let named = [
        ("--seeds", seeds.map(|number| number.to_string())),
        ("--minutes", minutes.map(|number| number.to_string())),
        ("--seed", seed.map(|number| number.to_string())),
    ];
    named.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?])).flatten().collect()
}
