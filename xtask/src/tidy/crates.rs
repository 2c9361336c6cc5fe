//! The table of crates, held against `cargo metadata`.

use cargo_metadata::{DependencyKind, Metadata, Package, TargetKind};
use std::fs;

use super::Finding;
use super::lexer::{code_only, has_word};

/// Where a crate may contain `unsafe`.
#[derive(Clone, Copy)]
pub(super) enum Unsafe {
    /// In every file.
    Anywhere,
    /// In files whose path in the repository starts with one of these.
    Only(&'static [&'static str]),
    /// In none; the crate says `#![forbid(unsafe_code)]`.
    Nowhere,
}

/// One crate of the workspace.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Crates of the workspace it may depend on.
    may_use: &'static [&'static str],
    /// Further ones that its tests, examples and benches may use.
    may_test_with: &'static [&'static str],
    pub(super) unsafe_code: Unsafe,
}

/// Read from the floor upwards; a crate that is not here may not exist.
pub(super) const TABLE: &[Row] = &[
    Row { name: "p2p-memory", may_use: &[], may_test_with: &[], unsafe_code: Unsafe::Anywhere },
    Row {
        name: "p2p-transport",
        may_use: &["p2p-memory"],
        may_test_with: &["p2p-transport-mock", "p2p-conformance"],
        unsafe_code: Unsafe::Nowhere,
    },
    Row {
        name: "p2p-conformance",
        may_use: &["p2p-transport", "p2p-memory"],
        may_test_with: &[],
        unsafe_code: Unsafe::Nowhere,
    },
    Row {
        name: "p2p-transport-mock",
        may_use: &["p2p-transport", "p2p-memory"],
        may_test_with: &["p2p-conformance"],
        unsafe_code: Unsafe::Nowhere,
    },
    Row { name: "tcpx-sys", may_use: &[], may_test_with: &[], unsafe_code: Unsafe::Anywhere },
    Row { name: "tcpx-soft", may_use: &["tcpx-sys"], may_test_with: &[], unsafe_code: Unsafe::Anywhere },
    Row {
        name: "tcpx-core",
        may_use: &["tcpx-sys", "p2p-memory"],
        may_test_with: &["tcpx-soft"],
        unsafe_code: Unsafe::Only(&[
            "tcpx-core/src/api",
            "tcpx-core/src/preflight/apply.rs",
            "tcpx-core/tests/",
            "tcpx-core/examples/",
        ]),
    },
    Row {
        name: "p2p-transport-tcpx",
        may_use: &["p2p-transport", "tcpx-core", "tcpx-soft", "p2p-memory"],
        may_test_with: &["p2p-conformance", "tcpx-sys"],
        unsafe_code: Unsafe::Nowhere,
    },
    Row { name: "p2p-proto", may_use: &[], may_test_with: &[], unsafe_code: Unsafe::Nowhere },
    Row {
        name: "p2p-endpoint",
        may_use: &["p2p-proto", "p2p-transport", "p2p-transport-tcpx", "tcpx-core", "p2p-memory"],
        may_test_with: &["p2p-transport-mock", "tcpx-soft"],
        unsafe_code: Unsafe::Nowhere,
    },
    Row { name: "benches", may_use: &[], may_test_with: &[], unsafe_code: Unsafe::Nowhere },
    Row {
        name: "p2p-cli",
        may_use: &[
            "p2p-transport",
            "p2p-transport-tcpx",
            "p2p-transport-mock",
            "p2p-endpoint",
            "p2p-proto",
            "tcpx-core",
            "tcpx-soft",
            "p2p-memory",
            "benches",
        ],
        may_test_with: &[],
        unsafe_code: Unsafe::Nowhere,
    },
    Row { name: "xtask", may_use: &[], may_test_with: &[], unsafe_code: Unsafe::Nowhere },
];

/// The row of the crate in whose folder a file lies. Folders are named like their crates.
pub(super) fn row_of(path: &str) -> Option<&'static Row> {
    let folder = path.split('/').next()?;
    TABLE.iter().find(|row| row.name == folder)
}

/// Checks dependencies between the crates and each crate's root file.
pub(super) fn check(metadata: &Metadata) -> Vec<Finding> {
    let ours: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        let Some(row) = TABLE.iter().find(|row| row.name == package.name.as_str()) else {
            let text = "is not in the table of crates (xtask/src/tidy/crates.rs, docs/DESIGN.md)";
            findings.push(Finding::error("crates", package.name.as_str(), text));
            continue;
        };
        findings.extend(dependencies(package, row, &ours));
        findings.extend(lints(package));
        findings.extend(roots(package, row));
    }
    findings
}

fn dependencies(package: &Package, row: &Row, ours: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for dependency in package.dependencies.iter().filter(|d| ours.contains(&d.name.as_str())) {
        let name = dependency.name.as_str();
        let in_tests = dependency.kind == DependencyKind::Development && row.may_test_with.contains(&name);
        if !row.may_use.contains(&name) && !in_tests {
            let text = format!("may not depend on {name} ({})", dependency.kind);
            findings.push(Finding::error("crates", row.name, text));
        }
    }
    findings
}

/// A crate that does not take the workspace's lints is checked by none of them, silently.
fn lints(package: &Package) -> Option<Finding> {
    let text = fs::read_to_string(&package.manifest_path).unwrap_or_default();
    let manifest: toml::Table = toml::from_str(&text).unwrap_or_default();
    let inherits =
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    let missing = "has to take the workspace's lints: [lints] workspace = true";
    (inherits != Some(true)).then(|| Finding::error("lints", package.name.as_str(), missing))
}

/// Every library and program says in its header what it never does, and forbids `unsafe` where the table
/// has none.
fn roots(package: &Package, row: &Row) -> Vec<Finding> {
    let shipped = |kind: &TargetKind| {
        matches!(kind, TargetKind::Lib | TargetKind::RLib | TargetKind::CDyLib | TargetKind::Bin)
    };
    let mut findings = Vec::new();
    for target in package.targets.iter().filter(|target| target.kind.iter().any(shipped)) {
        let place = format!("{} ({})", row.name, target.name);
        let source = fs::read_to_string(&target.src_path).unwrap_or_default();
        if !header(&source).split(['.', ':', ';']).any(|sentence| has_word(sentence, "never")) {
            let text =
                "its header (the //! lines) has no sentence with the word `never`: say what it never does";
            findings.push(Finding::error("header", place.as_str(), text));
        }
        let forbids = code_only(&source).replace(' ', "").contains("#![forbid(unsafe_code)]");
        if matches!(row.unsafe_code, Unsafe::Nowhere) && !forbids {
            findings.push(Finding::error("forbid", place, "has to say #![forbid(unsafe_code)]"));
        }
    }
    findings
}

fn header(source: &str) -> String {
    let lines = source.lines().take_while(|line| line.starts_with("//!"));
    lines.map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>().join(" ")
}
