//! Licences, sources and versions of what the workspace depends on, as `deny.toml` wants them.
//!
//! `cargo deny` does it where it is installed. Elsewhere the same file is read here and the rules that
//! matter are checked on `cargo metadata`; security advisories need `cargo deny`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cargo_metadata::{Metadata, MetadataCommand};

use crate::step::{Failure, Steps};
use crate::workspace::{Workspace, program};

const RULES: &str = "deny.toml";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks the dependencies as a step.
///
/// # Errors
///
/// Something that `deny.toml` does not allow.
pub(crate) fn step(steps: &mut Steps, workspace: &Workspace) -> Result<(), Failure> {
    let mend = "choose another dependency, or allow it in deny.toml with the reason beside it";
    if program("cargo-deny").is_some() {
        let mut deny = workspace.cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]);
        return steps.command("deny", &mut deny, mend);
    }
    let shown = "cargo-deny is not installed, reading deny.toml here (no advisories)";
    steps.timed("deny", shown, mend, || {
        let text = fs::read_to_string(workspace.root.join(RULES)).map_err(|e| format!("{RULES}: {e}"))?;
        let rules = Rules::parse(&text)?;
        let found = rules.violations(&packages(&workspace.root)?);
        if found.is_empty() { Ok(()) } else { Err(format!("\n  {}", found.join("\n  "))) }
    })
}

/// One package of the dependency graph, as far as the rules look at it.
struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// Registry or repository; none for a folder of the workspace.
    source: Option<String>,
    /// Dependencies that accept any version.
    wildcards: Vec<String>,
}

fn packages(root: &Path) -> Result<Vec<Package>, String> {
    let mut command = MetadataCommand::new();
    // Packages of other platforms are neither built nor shipped.
    let options = ["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned);
    command.manifest_path(root.join("Cargo.toml")).other_options(options);
    let metadata = command.exec().map_err(|error| format!("cargo metadata: {error}"))?;
    Ok(of_metadata(metadata))
}

fn of_metadata(metadata: Metadata) -> Vec<Package> {
    let one = |package: cargo_metadata::Package| Package {
        name: package.name.to_string(),
        version: package.version.to_string(),
        licence: package.license,
        source: package.source.map(|source| source.repr),
        wildcards: package
            .dependencies
            .into_iter()
            .filter(|dependency| dependency.path.is_none() && dependency.req.to_string() == "*")
            .map(|dependency| dependency.name)
            .collect(),
    };
    metadata.packages.into_iter().map(one).collect()
}

/// What `deny.toml` says, as far as it is checked here.
struct Rules {
    licences: Vec<String>,
    /// Packages that may have more than one version.
    duplicates: Vec<String>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| format!("{RULES}: {error}"))?;
        let list = |section: &str, key: &str| -> Result<Vec<toml::Value>, String> {
            let value = table.get(section).and_then(|section| section.get(key));
            let list = value.and_then(toml::Value::as_array);
            list.cloned().ok_or_else(|| format!("{RULES}: {section}.{key} has to be a list"))
        };
        let licences = list("licenses", "allow")?;
        let skips = list("bans", "skip")?;
        Ok(Self {
            licences: licences.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect(),
            duplicates: skips.iter().filter_map(skipped_name).collect(),
        })
    }

    fn violations(&self, packages: &[Package]) -> Vec<String> {
        let mut found = Vec::new();
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for package in packages {
            let name = &package.name;
            versions.entry(name).or_default().push(&package.version);
            match &package.licence {
                None => found.push(format!("licence: {name} names none")),
                Some(licence) if !self.allows(licence) => {
                    found.push(format!("licence: {name} has `{licence}`, which deny.toml does not allow"));
                }
                Some(_) => {}
            }
            if let Some(source) = package.source.as_deref().filter(|source| *source != CRATES_IO) {
                found.push(format!("source: {name} comes from {source}; only crates.io is allowed"));
            }
            if package.source.is_none() {
                let wild = package.wildcards.iter();
                found.extend(wild.map(|of| format!("wildcard: {name} accepts any version of {of}")));
            }
        }
        for (name, versions) in versions {
            if versions.len() > 1 && !self.duplicates.iter().any(|skip| skip == name) {
                found.push(format!("duplicate: {name} is there as {}", versions.join(" and ")));
            }
        }
        found
    }

    /// Whether an SPDX expression can be satisfied with allowed licences.
    fn allows(&self, expression: &str) -> bool {
        // Some old packages write `/` for OR.
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut at = 0;
        self.any_of(&words, &mut at) == Some(true) && at == words.len()
    }

    fn any_of(&self, words: &[&str], at: &mut usize) -> Option<bool> {
        let mut allowed = self.all_of(words, at)?;
        while words.get(*at) == Some(&"OR") {
            *at += 1;
            allowed |= self.all_of(words, at)?;
        }
        Some(allowed)
    }

    fn all_of(&self, words: &[&str], at: &mut usize) -> Option<bool> {
        let mut allowed = self.single(words, at)?;
        while words.get(*at) == Some(&"AND") {
            *at += 1;
            allowed &= self.single(words, at)?;
        }
        Some(allowed)
    }

    fn single(&self, words: &[&str], at: &mut usize) -> Option<bool> {
        let word = *words.get(*at)?;
        *at += 1;
        if word == "(" {
            let allowed = self.any_of(words, at)?;
            let closed = words.get(*at) == Some(&")");
            *at += 1;
            return closed.then_some(allowed);
        }
        let mut licence = word.to_owned();
        if words.get(*at) == Some(&"WITH") {
            licence = format!("{licence} WITH {}", words.get(*at + 1)?);
            *at += 2;
        }
        Some(self.licences.contains(&licence))
    }
}

/// Name of an entry of `bans.skip`: a string `name@version` or a table with `crate`.
fn skipped_name(entry: &toml::Value) -> Option<String> {
    let text = entry.as_str().or_else(|| entry.get("crate").and_then(toml::Value::as_str))?;
    Some(text.split('@').next().unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let text = r#"
            [licenses]
            allow = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
            [bans]
            skip = [{ crate = "twice@1", reason = "why" }, "thrice"]
        "#;
        Rules::parse(text).expect("the text above is well formed")
    }

    fn package(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: Some("MIT".to_owned()),
            source: Some(CRATES_IO.to_owned()),
            wildcards: Vec::new(),
        }
    }

    #[test]
    fn licence_expressions_are_read_with_their_precedence() {
        for (expression, allowed) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("MIT/Apache-2.0", true),
            ("MIT OR GPL-3.0 AND BSL-1.0", true),
            ("(MIT OR GPL-3.0) AND BSL-1.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0 WITH LLVM-exception", false),
            ("MIT AND", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ] {
            assert_eq!(rules().allows(expression), allowed, "{expression}");
        }
    }

    #[test]
    fn a_clean_graph_has_no_violation() {
        assert!(rules().violations(&[package("one"), package("two")]).is_empty());
    }

    #[test]
    fn each_rule_names_what_breaks_it() {
        let no_licence = Package { licence: None, ..package("bare") };
        let copyleft = Package { licence: Some("AGPL-3.0".to_owned()), ..package("left") };
        let git = Package { source: Some("git+https://example.org/x".to_owned()), ..package("fork") };
        let ours = Package { source: None, wildcards: vec!["loose".to_owned()], ..package("ours") };
        let later = Package { version: "2.0.0".to_owned(), ..package("one") };
        for (bad, rule) in [
            (vec![no_licence], "licence: bare"),
            (vec![copyleft], "licence: left"),
            (vec![git], "source: fork"),
            (vec![ours], "wildcard: ours"),
            (vec![package("one"), later], "duplicate: one is there as 1.0.0 and 2.0.0"),
        ] {
            let found = rules().violations(&bad);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(rule), "{found:?}");
        }
    }

    #[test]
    fn a_named_duplicate_is_let_through() {
        for name in ["twice", "thrice"] {
            let later = Package { version: "2.0.0".to_owned(), ..package(name) };
            assert!(rules().violations(&[package(name), later]).is_empty());
        }
    }
}
