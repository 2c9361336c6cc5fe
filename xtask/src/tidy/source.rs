//! Rules that look into files.

use std::fs;
use std::path::{Path, PathBuf};

use super::Finding;
use super::crates::{Unsafe, row_of};
use super::lexer::{code_only, has_word};
use super::variables::Variables;

/// Files that decide without input or output: they get time and data from their caller. A path that
/// ends in `/` is a folder; one without `.rs` stands for the file and for the folder of that name.
const SANS_IO: [&str; 23] = [
    "p2p-conformance/src/",
    "p2p-endpoint/src/engine",
    "p2p-endpoint/src/exports",
    "p2p-endpoint/src/metadata",
    "p2p-endpoint/src/registry",
    "p2p-proto/src/",
    "p2p-transport/src/",
    "p2p-transport-mock/src/",
    "p2p-transport-tcpx/src/bits",
    "p2p-transport-tcpx/src/connection",
    "p2p-transport-tcpx/src/exchange/address",
    "p2p-transport-tcpx/src/exchange/wire",
    "p2p-transport-tcpx/src/operations",
    "p2p-transport-tcpx/src/progress",
    "p2p-transport-tcpx/src/regions",
    "p2p-transport-tcpx/src/register",
    "tcpx-core/src/window",
    "tcpx-core/src/unpack",
    "tcpx-core/src/config",
    "tcpx-core/src/topology",
    "tcpx-core/src/verdict",
    "tcpx-soft/src/wire",
    "tcpx-sys/src/",
];
/// What such a file must not use: clocks, sleeps, and maps whose order differs from run to run.
const CLOCKS_AND_ORDER: [&str; 5] = ["Instant::now", "SystemTime", "thread::sleep", "HashMap", "HashSet"];
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];
const LONGEST: usize = 600;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["utils", "util", "helpers", "misc", "common"];
/// Folders of the root that are no crates and hold text of ours.
const BESIDE_CRATES: [&str; 5] = ["docs", ".ci", ".cargo", "fuzz", "tests"];

/// Checks the files of the root itself, of the crates and of the folders beside them.
pub(super) fn check(root: &Path, crate_folders: &[String]) -> Result<Vec<Finding>, String> {
    let mut files = Vec::new();
    list(root, false, &mut files)?;
    for folder in crate_folders.iter().map(String::as_str).chain(BESIDE_CRATES) {
        let folder = root.join(folder);
        if folder.is_dir() {
            list(&folder, true, &mut files)?;
        }
    }
    files.sort();
    let mut findings = Vec::new();
    let mut variables = Variables::default();
    for file in files {
        // What is not text holds nothing that these rules look for.
        if let Ok(text) = fs::read_to_string(&file) {
            let path = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            let code = code_only(&text);
            findings.extend(check_text(&path, &text, &code));
            variables.look_into(&path, &text, &code);
        }
    }
    findings.extend(variables.findings());
    Ok(findings)
}

fn list(folder: &Path, deep: bool, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_file() {
            files.push(path);
        } else if deep && !path.ends_with("target") {
            list(&path, true, files)?;
        }
    }
    Ok(())
}

fn check_text(path: &str, text: &str, code: &str) -> Vec<Finding> {
    let mut findings = machine_paths(path, text);
    if !path.ends_with(".rs") {
        return findings;
    }
    let shipped = shipped_lines(path, code);
    findings.extend(unsafe_code(path, code));
    findings.extend(words("unfinished", path, code.lines(), &UNFINISHED, "is left to do"));
    findings.extend(words(
        "ignored",
        path,
        code.lines(),
        &["#[ignore"],
        "a test that never runs shows nothing",
    ));
    if SANS_IO.iter().any(|place| is_at(path, place)) {
        let text = "does not belong into a file without clock and input; let the caller give it";
        findings.extend(words("sans-io", path, code.lines().take(shipped), &CLOCKS_AND_ORDER, text));
    }
    if shipped > LONGEST {
        let text = format!("{shipped} lines without tests, more than {LONGEST}: split it by subject");
        findings.push(Finding { rule: "length", place: path.to_owned(), text, warning: true });
    }
    let stem = path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs")).unwrap_or_default();
    if EMPTY_NAMES.contains(&stem) {
        findings.push(Finding::error("name", path, "says nothing about what is inside"));
    }
    findings
}

fn is_at(path: &str, place: &str) -> bool {
    let Some(rest) = path.strip_prefix(place) else { return false };
    place.ends_with('/') || rest.starts_with('/') || rest == ".rs"
}

fn words<'a>(
    rule: &'static str,
    path: &str,
    lines: impl Iterator<Item = &'a str>,
    words: &[&str],
    text: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(lines) {
        for word in words.iter().filter(|word| has_word(line, word)) {
            findings.push(Finding::error(rule, format!("{path}:{number}"), format!("`{word}`: {text}")));
        }
    }
    findings
}

fn unsafe_code(path: &str, code: &str) -> Vec<Finding> {
    let allowed = match row_of(path).map(|row| row.unsafe_code) {
        Some(Unsafe::Anywhere) => true,
        Some(Unsafe::Only(places)) => places.iter().any(|place| path.starts_with(place)),
        Some(Unsafe::Nowhere) | None => false,
    };
    if allowed {
        return Vec::new();
    }
    words("unsafe", path, code.lines(), &["unsafe"], "stands only in the crates and files of tidy's table")
}

/// Lines before the test module at the file's end; none of a file that is all test.
pub(super) fn shipped_lines(path: &str, code: &str) -> usize {
    if path.contains("/tests/") || path.ends_with("/tests.rs") {
        return 0;
    }
    let lines: Vec<&str> = code.lines().collect();
    let test_module = |at: &usize| {
        let next = lines.get(at + 1).map_or("", |line| line.trim());
        lines[*at].trim() == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{')
    };
    (0..lines.len()).find(test_module).unwrap_or(lines.len())
}

/// Places that exist on one machine only. Written in halves, so that this file passes its own rule.
fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let places =
        [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/"), concat!("/wo", "rk/")];
    let begins = |line: &str, place: &str| {
        line.match_indices(place).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "_-.~/}".contains(c))
        })
    };
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for place in places.iter().filter(|place| begins(line, place)) {
            let text = format!("`{place}`: a path of one machine");
            findings.push(Finding::error("path", format!("{path}:{number}"), text));
        }
    }
    findings
}
