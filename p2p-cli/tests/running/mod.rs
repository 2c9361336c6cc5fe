//! Starting `p2p bench` and waiting for its end.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a run may take that ends by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// A port that nothing uses: below those the system gives away, and another one for each call.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + (std::process::id() % 1000) as u16 * 16;
    std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 1000)
        .take(1000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// Where the choice of a plugin is left open, a warning says which was found.
#[allow(dead_code, reason = "not every test leaves it open")]
pub(crate) const CHOICE: &str = "UCCL_P2P_TRANSPORT";

/// With the soft plugin, unless the caller removes that choice.
pub(crate) fn p2p(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
    for (name, _) in std::env::vars() {
        if ["UCCL_", "NCCL_", "TCPX_"].iter().any(|family| name.starts_with(family)) {
            command.env_remove(name);
        }
    }
    command.arg("bench").args(arguments).env("UCCL_TCPX_BOOTSTRAP_PORT_BASE", port.to_string());
    command.env(CHOICE, "tcp");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits, and ends what does not end by itself.
pub(crate) fn finish(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("did not end: {}", String::from_utf8_lossy(&output.stderr));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}
