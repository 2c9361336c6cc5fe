//! Every environment variable the crates read is described in the README or in `docs`, and none is
//! described that nobody reads.

use std::collections::BTreeMap;

use super::Finding;
use super::source::shipped_lines;

const FAMILIES: [&str; 4] = ["TCPX_SOFT_", "UCCL_TCPX_", "UCCL_P2P_", "NCCL_"];
/// Described because NCCL reads them when it loads the soft plugin.
const READ_BY_NCCL: [&str; 2] = ["NCCL_NET", "NCCL_NET_PLUGIN"];
/// The one source that is about variables without reading any.
const NOT_READ_IN: &str = "xtask/";

/// What was seen so far: name and where it was seen first.
#[derive(Default)]
pub(super) struct Variables {
    read: BTreeMap<String, String>,
    described: BTreeMap<String, String>,
}

impl Variables {
    /// Takes note of the names in one file.
    pub(super) fn look_into(&mut self, path: &str, text: &str, code: &str) {
        if path == "README.md" || (path.starts_with("docs/") && path.ends_with(".md")) {
            note(&mut self.described, path, text.lines());
        } else if path.ends_with(".rs") && path.contains("/src/") && !path.starts_with(NOT_READ_IN) {
            let shipped = text.lines().take(shipped_lines(path, code));
            note(&mut self.read, path, shipped.filter(|line| !line.trim_start().starts_with("//")));
        }
    }

    /// Names that stand on one side only.
    pub(super) fn findings(self) -> Vec<Finding> {
        let rule = "variables";
        let missing = self.read.iter().filter(|(name, _)| !self.described.contains_key(*name));
        let missing = missing.map(|(name, at)| {
            Finding::error(rule, at, format!("{name} is described neither in README.md nor in docs"))
        });
        let known = |name: &str| self.read.contains_key(name) || READ_BY_NCCL.contains(&name);
        let unread = self.described.iter().filter(|(name, _)| !known(name));
        let unread = unread.map(|(name, at)| Finding::error(rule, at, format!("{name} is read nowhere")));
        missing.chain(unread).collect()
    }
}

/// Only whole names that are quoted: as a string in the sources, as code in the documents.
fn note<'a>(into: &mut BTreeMap<String, String>, path: &str, lines: impl Iterator<Item = &'a str>) {
    for (number, line) in (1..).zip(lines) {
        for word in line.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')) {
            let whole = FAMILIES.iter().any(|family| word.starts_with(family)) && !word.ends_with('_');
            let quoted = [format!("\"{word}\""), format!("`{word}`"), format!("`{word}=")];
            if whole && quoted.iter().any(|form| line.contains(form)) {
                into.entry(word.to_owned()).or_insert_with(|| format!("{path}:{number}"));
            }
        }
    }
}
