//! Checks on this process.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use super::file::below;
use super::{Check, Findings, Subject};

/// Bit of SIGPIPE in the signal masks of `/proc/self/status`.
const SIGPIPE: u64 = 1 << 12;

/// The plugin writes to sockets without asking the kernel to spare the signal.
pub(super) fn check(root: &Path, findings: &mut Findings) {
    let file = PathBuf::from("/proc/self/status");
    let Ok(status) = fs::read_to_string(below(root, &file)) else { return };
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    };
    let (Some(ignored), Some(caught)) = (mask("SigIgn:"), mask("SigCgt:")) else { return };
    if (ignored | caught) & SIGPIPE == 0 {
        findings.refuse(
            Check::BrokenPipe,
            Subject::File(file),
            "this process neither ignores nor handles SIGPIPE, and ends when a peer goes away",
            "ignore the signal before the plugin is opened: signal(SIGPIPE, SIG_IGN)",
        );
    }
}
