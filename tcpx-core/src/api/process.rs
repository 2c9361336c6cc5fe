//! What concerns the whole process: loading a library, its settings, signals.

use std::path::Path;

use tcpx_sys::{LoadError, Plugin, Version};

use crate::preflight::{self, Findings, Refused};

/// Loads the newest table of the plugin in this file.
pub(crate) fn load(path: &Path) -> Result<Plugin, LoadError> {
    // SAFETY: whoever names the plugin's file to this process trusts it with the process; that is stated
    // where the file is named (`Source::File`).
    unsafe { tcpx_sys::load(path, &Version::NEWEST_FIRST) }
}

/// Sets what the user left unset, for a plugin that is not initialised yet.
pub(crate) fn apply(findings: &Findings) -> Result<(), Refused> {
    // SAFETY: called before the plugin's `init`, under the lock of the list of plugins, so that no thread
    // of a plugin that needs variables runs yet. Other C code that reads the environment at this moment
    // would be the caller's; `Plugin::open` says that it belongs to the start of the process.
    unsafe { preflight::apply(findings) }
}

/// A plugin writes to sockets whose peer may be gone, which by default ends the process. Ignores the
/// signal unless the program does something else about it. Returns whether it had to.
pub(crate) fn ignore_broken_pipes() -> bool {
    // SAFETY: all zeros is a valid `sigaction`.
    let mut old: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: asks only; the result's place is valid for the call.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, core::ptr::null(), &raw mut old) };
    if asked != 0 || old.sa_sigaction != libc::SIG_DFL {
        return false;
    }
    old.sa_sigaction = libc::SIG_IGN;
    // SAFETY: the structure was filled by the system; only the handler was changed, to a constant.
    unsafe { libc::sigaction(libc::SIGPIPE, &raw const old, core::ptr::null_mut()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::ignore_broken_pipes;

    /// Rust's start-up ignores the signal already, so the default is restored first.
    #[test]
    fn a_default_sigpipe_is_ignored_and_anything_else_is_left_alone() {
        // SAFETY: sets a constant disposition; no other test of this process depends on it.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        assert!(ignore_broken_pipes());
        assert!(!ignore_broken_pipes());
    }
}
