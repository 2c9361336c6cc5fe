//! Building and starting the programs of the workspace.

use std::fs;
use std::process::Command;

use crate::step::{Failure, Steps};
use crate::workspace::Workspace;

/// File name under which NCCL finds the soft plugin as `NCCL_NET_PLUGIN=tcpx-soft`.
const PLUGIN_FILE: &str = "libnccl-net-tcpx-soft.so";

/// Builds `p2p` in release and starts `p2p bench` with `arguments`.
///
/// # Errors
///
/// The build or the bench failed.
pub(crate) fn bench(steps: &mut Steps, workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let mend = "the last line of the bench says what happened, to whom and what to do";
    p2p(steps, workspace, "bench", arguments, mend)
}

/// Builds `p2p` in release and starts `p2p doctor` with `arguments`.
///
/// # Errors
///
/// The build failed, or the doctor found a FAIL.
pub(crate) fn doctor(steps: &mut Steps, workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let mend = "do what stands below each FAIL; docs/troubleshooting.md says more";
    p2p(steps, workspace, "doctor", arguments, mend)
}

fn p2p(
    steps: &mut Steps,
    workspace: &Workspace,
    command: &'static str,
    arguments: &[String],
    mend: &str,
) -> Result<(), Failure> {
    steps.command(
        "build",
        &mut workspace.cargo(&["build", "--release", "--locked", "--package", "p2p-cli"]),
        "mend what the compiler names",
    )?;
    let mut p2p = Command::new(workspace.target.join("release/p2p"));
    p2p.arg(command).args(arguments);
    steps.command(command, &mut p2p, mend)
}

/// Builds the soft plugin in release and puts it beside the build under the name NCCL looks for.
///
/// # Errors
///
/// The build failed, or the file cannot be copied.
pub(crate) fn plugin(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    steps.command(
        "build",
        &mut workspace.cargo(&["build", "--release", "--locked", "--package", "tcpx-soft"]),
        "mend what the compiler names",
    )?;
    let from = workspace.target.join("release/libtcpx_soft.so");
    let to = workspace.target.join("release").join(PLUGIN_FILE);
    let shown = format!("copy to {}", to.display());
    steps.timed("plugin", &shown, "see whether the disk is full and the folder writable", || {
        fs::copy(&from, &to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
    })
}
