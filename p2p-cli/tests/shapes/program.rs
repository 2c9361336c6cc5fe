//! The program, started and waited for, and what it keeps with `--json`.

use std::process::{Child, Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::running;

/// How long a run may take that ends by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Addresses that stand for four NICs.
pub(crate) const FOUR_NICS: &str = "127.0.0.1,127.0.0.2,127.0.0.3,127.0.0.4";

/// A port that nothing uses, and nothing uses the next.
pub(crate) fn free_port() -> u16 {
    running::free_ports(11_000, 2)
}

/// The bench over the soft plugin, in an environment that says nothing else of it and of launchers.
pub(crate) fn bench(arguments: &[&str]) -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_p2p")), arguments)
}

/// The same, started by another command that is given its file and arguments last.
pub(crate) fn clean(command: Command, arguments: &[&str]) -> Command {
    let launchers = [
        "SLURM_",
        "OMPI_",
        "PMI_",
        "MPI_",
        "TORCHELASTIC_",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
    ];
    let mut command = running::bench(command, arguments, &launchers);
    // Many processes on few cores, beside other tests: nobody is dead who says nothing for a while.
    command.env("UCCL_P2P_PEER_TIMEOUT_SECONDS", "30");
    command
}

/// Waits, and ends what does not end by itself.
pub(crate) fn finish(child: Child) -> Output {
    running::finish_within(child, PATIENCE)
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
