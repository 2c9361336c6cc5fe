//! Starting `p2p bench` and waiting for its end.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a run may take that ends by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A port that nothing uses: below those the system gives away, and another one for each call.
pub(crate) fn free_port() -> u16 {
    free_ports(12_000, 1)
}

/// The first of so many ports in a row that nothing uses: from `from` on, and others for each call.
pub(crate) fn free_ports(from: u16, count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = from + (std::process::id() % 1000) as u16 * 16;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    std::iter::repeat_with(|| first + NEXT.fetch_add(count, Ordering::Relaxed) % 1000)
        .take(1000 / usize::from(count))
        .find(|port| (*port..port + count).all(is_free))
        .unwrap()
}

/// Where the choice of a plugin is left open, a warning says which was found.
pub(crate) const CHOICE: &str = "UCCL_P2P_TRANSPORT";

/// With the soft plugin, unless the caller removes that choice.
pub(crate) fn p2p(port: u16, arguments: &[&str]) -> Command {
    let mut command = bench(Command::new(env!("CARGO_BIN_EXE_p2p")), arguments, &[]);
    command.env("UCCL_TCPX_BOOTSTRAP_PORT_BASE", port.to_string());
    command
}

/// The bench over the soft plugin, started by a command that is given its arguments last: nothing in the environment says
/// anything else of it, nor has a variable whose name begins so.
pub(crate) fn bench(mut command: Command, arguments: &[&str], families: &[&str]) -> Command {
    let own = ["UCCL_", "NCCL_", "TCPX_"];
    for (name, _) in std::env::vars() {
        if own.iter().chain(families).any(|family| name.starts_with(family)) {
            command.env_remove(name);
        }
    }
    command.arg("bench").args(arguments).env(CHOICE, "tcp");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits, and ends what does not end by itself.
pub(crate) fn finish(child: Child) -> Output {
    finish_within(child, PATIENCE)
}

/// As [`finish`], for so long.
pub(crate) fn finish_within(mut child: Child, patience: Duration) -> Output {
    let deadline = Instant::now() + patience;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
            panic!("did not end: {}{}", said[0], said[1]);
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}
