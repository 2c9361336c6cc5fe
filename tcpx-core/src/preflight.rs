//! What is known to crash, hang or fail a net plugin, found before the plugin runs.
//!
//! Google's plugin ends the process for many a setting or file that it cannot use, and a few settings
//! make it hang without a word. [`check`] looks at the settings and at files below one root folder and
//! returns [`Findings`]: refusals (start nothing), notes (odd, yet it runs) and assignments (safe values
//! for what the user left unset). [`check_file`] looks at a plugin's file before it is loaded.
//!
//! The module decides nothing by itself: [`Findings::refused`] turns refusals into an error, and
//! [`apply()`] writes the assignments into the environment. Nothing here opens a device or a socket.

#![deny(unsafe_code)]

mod apply;
mod file;
mod findings;
mod interfaces;
mod process;
mod rxdm;
#[cfg(test)]
mod tests;
mod values;

use std::path::Path;

use crate::config::Config;
use crate::topology::{Nic, Tree};

pub use apply::apply;
pub use file::check_file;
pub use findings::{Assignment, Check, Findings, Note, Refusal, Refused, Subject};

/// What a plugin is, as far as the preflight cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Nature {
    /// Google's GPUDirect-TCPX plugin.
    Tcpx,
    /// The embedded soft plugin, which checks its own settings.
    Soft,
    /// A plugin about which nothing is known.
    Other,
}

impl Nature {
    /// The nature of a plugin with the table name `name`, loaded from `path`.
    ///
    /// `has_extension` says whether it has the extension table, which only the soft plugin has.
    pub fn of(name: &str, path: Option<&Path>, has_extension: bool) -> Self {
        let file = path.and_then(Path::file_name).map(|file| file.to_string_lossy());
        if has_extension {
            Self::Soft
        } else if name.contains("GPUDirectTCPX") || file.is_some_and(|file| file == "libnccl-net-tcpx.so") {
            Self::Tcpx
        } else {
            Self::Other
        }
    }
}

/// The interfaces of `tree` that Google's plugin takes for data under these settings: those chosen by
/// `NCCL_GPUDIRECTTCPX_SOCKET_IFNAME`, or by its own order of preference.
pub fn data_nics<'a>(config: &Config, tree: &'a Tree) -> Vec<&'a Nic> {
    interfaces::data_nics(config, tree)
}

/// Checks the settings and the machine for a plugin of this nature.
///
/// `root` is the folder under which `proc`, `sys` and the rxdm sockets are found: `/` in production.
/// Only [`Nature::Tcpx`] has anything to find.
pub fn check(config: &Config, nature: Nature, root: &Path) -> Findings {
    let mut findings = Findings::default();
    match nature {
        Nature::Soft | Nature::Other => {}
        Nature::Tcpx => {
            values::check(config, root, &mut findings);
            process::check(root, &mut findings);
            match Tree::read(root) {
                Ok(tree) => {
                    interfaces::check(config, &tree, root, &mut findings);
                    rxdm::check(config, &tree, root, &mut findings);
                }
                Err(error) => findings.refuse(
                    Check::TreeUnreadable,
                    Subject::File(error.path.clone()),
                    error.to_string(),
                    "make the folder readable to this process",
                ),
            }
        }
    }
    findings
}
