//! Network namespaces joined by a pair of virtual interfaces, for tests that run a part of themselves in
//! each.

use std::env;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// Name of a file in which skipped tests leave their reason.
const SKIPS: &str = "P2P_TEST_SKIPS";

/// Options of `unshare` with which a namespace and interfaces can be made here; why not, where they cannot.
pub(crate) fn options() -> Result<Vec<&'static str>, String> {
    let mut why = String::new();
    for options in [vec!["--net"], vec!["--user", "--map-root-user", "--net"]] {
        let mut probe = Command::new("unshare");
        probe.args(&options).args(["--", "ip", "link", "add", "tcpx0", "type", "veth", "peer", "tcpx1"]);
        match probe.env("PATH", path()).output() {
            Ok(output) if output.status.success() => return Ok(options),
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => why = format!("unshare: {error}"),
        }
    }
    Err(format!("no network namespaces with virtual interfaces here: {why}"))
}

/// Says that a test is skipped, and why, also where the test harness swallows it.
pub(crate) fn skip(test: &str, why: &str) {
    eprintln!("{test} is skipped: {why}");
    if let Some(file) = env::var_os(SKIPS) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file).expect("list of skips");
        writeln!(file, "{test}: {why}").expect("list of skips");
    }
}

/// `ip` lies in a folder that ordinary users do not search.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

/// The command that runs `test` of this program again, in a namespace of its own, where the soft plugin uses
/// `interface`.
pub(crate) fn start(test: &str, options: &[&str], interface: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(options).arg("--").arg(env::current_exe().expect("this program"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env("PATH", path());
    command.env("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", format!("={interface}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives this namespace's interface its address.
pub(crate) fn set_up((interface, address): (&str, &str)) {
    ip("link set lo up");
    ip(&format!("address add {address} dev {interface}"));
    ip(&format!("link set {interface} up"));
}
