//! Rules of the source tree that the compiler does not know.
//!
//! [`crates`] holds the table of crates: who may use whom, and where `unsafe` may stand. [`source`]
//! looks into files. Every finding names its rule and its place.

mod crates;
mod lexer;
mod source;
#[cfg(test)]
mod tests;
mod variables;

use std::fmt;
use std::path::Path;

use crate::step::{Failure, Steps};
use crate::workspace::{Workspace, members};

/// Something that breaks a rule.
#[derive(Debug)]
struct Finding {
    rule: &'static str,
    /// File and line, or a crate.
    place: String,
    text: String,
    /// Whether it only asks for attention.
    warning: bool,
}

impl Finding {
    fn error(rule: &'static str, place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { rule, place: place.into(), text: text.into(), warning: false }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning: " } else { "" };
        write!(f, "{kind}{}: {}: {}", self.rule, self.place, self.text)
    }
}

/// Checks the whole tree as a step. Warnings are printed and do not fail.
///
/// # Errors
///
/// The findings that are no warnings, one to a line.
pub(crate) fn step(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mend = "mend the named places; a rule that is wrong is changed in xtask/src/tidy with its test";
    steps.timed("tidy", "rules of the source tree", mend, || {
        let findings = check(&workspace.root)?;
        let (warnings, errors): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.warning);
        for warning in warnings {
            println!("    {warning}");
        }
        let errors: Vec<String> = errors.iter().map(|finding| finding.to_string()).collect();
        if errors.is_empty() { Ok(()) } else { Err(format!("\n  {}", errors.join("\n  "))) }
    })
}

/// All findings in the workspace whose `Cargo.toml` lies in `root`.
fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let metadata = members(Some(root))?;
    let mut findings = crates::check(&metadata);
    let mut folders: Vec<String> =
        metadata.packages.iter().map(|package| relative(root, package.manifest_path.parent())).collect();
    folders.sort();
    findings.extend(source::check(root, &folders)?);
    Ok(findings)
}

/// A crate's folder, seen from the root.
fn relative(root: &Path, folder: Option<&cargo_metadata::camino::Utf8Path>) -> String {
    let folder = folder.map_or(root, |folder| folder.as_std_path());
    let canonical = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
    folder
        .strip_prefix(root)
        .or_else(|_| folder.strip_prefix(&canonical))
        .unwrap_or(folder)
        .display()
        .to_string()
}
