//! The program, started and waited for, and what it keeps with `--json`.

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a run may take that ends by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Addresses that stand for four NICs.
pub(crate) const FOUR_NICS: &str = "127.0.0.1,127.0.0.2,127.0.0.3,127.0.0.4";

/// A port that nothing uses, and nothing uses the next: below those the system gives away, and others for each call.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 11_000 + (std::process::id() % 1000) as u16 * 16;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    std::iter::repeat_with(|| first + NEXT.fetch_add(2, Ordering::Relaxed) % 1000)
        .take(500)
        .find(|port| is_free(*port) && is_free(port + 1))
        .unwrap()
}

/// The bench over the soft plugin, in an environment that says nothing else of it and of launchers.
pub(crate) fn bench(arguments: &[&str]) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_p2p")), arguments)
}

/// The same, started by another command that is given its file and arguments last.
pub(crate) fn clean(mut command: Command, arguments: &[&str]) -> Command {
    let families = ["UCCL_", "NCCL_", "TCPX_", "SLURM_", "OMPI_", "PMI_", "MPI_", "TORCHELASTIC_"];
    let launchers =
        ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"];
    for (name, _) in std::env::vars() {
        if families.iter().any(|family| name.starts_with(family)) || launchers.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.arg("bench").args(arguments).env("UCCL_P2P_TRANSPORT", "tcp");
    // Many processes on few cores, beside other tests: nobody is dead who says nothing for a while.
    command.env("UCCL_P2P_PEER_TIMEOUT_SECONDS", "30");
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
            panic!("did not end: {}{}", text(&output.stdout), text(&output.stderr));
        }
        thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a run said that went well.
#[track_caller]
pub(crate) fn good(output: &Output) -> String {
    let (said, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {said}{errors}", output.status);
    said
}

/// A run that fails says one line, which has all of `parts`, and ends with exit code 1.
#[track_caller]
pub(crate) fn says(output: &Output, parts: &[&str]) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "{errors}");
    for part in parts {
        assert!(errors.contains(part), "{part:?} is missing: {errors}");
    }
}

/// What a file kept with `--json` has of each shape.
pub(crate) fn kept(file: &std::path::Path) -> Vec<Value> {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    all["shapes"].as_array().unwrap().clone()
}

/// The passes of a shape.
pub(crate) fn passes(shape: &Value) -> &Vec<Value> {
    shape["passes"].as_array().unwrap()
}

/// Every pair has moved all its messages in every pass, and each way was verified.
#[track_caller]
pub(crate) fn all_moved(shape: &Value, pairs: usize) {
    let passes = passes(shape);
    let verified: Vec<&Value> = passes.iter().filter(|pass| pass["verified"] == true).collect();
    assert_eq!(verified.len(), 2, "a write and a read");
    for pass in passes {
        let by_pair = pass["by_pair"].as_array().unwrap();
        assert_eq!(by_pair.len(), pairs);
        let mut bytes = 0;
        for pair in by_pair {
            assert_eq!(pair["messages"], pass["messages"], "{pair}");
            assert_eq!(pair["failed"], 0, "{pair}");
            bytes += pair["messages"].as_u64().unwrap() * pair["size"].as_u64().unwrap();
        }
        assert_eq!(pass["bytes"], bytes);
    }
}

/// Most threads of any process of a shape.
pub(crate) fn threads(shape: &Value) -> u64 {
    let used = shape["used"].as_array().unwrap();
    used.iter().map(|used| used["threads"].as_u64().unwrap()).max().unwrap()
}
