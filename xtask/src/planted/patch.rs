//! Patches: unified diffs whose first lines say what the bug is and what finds it.
//!
//! Line numbers are not looked at: the lines that a hunk names have to stand in the file once, wherever that is.

use std::fs;
use std::path::{Path, PathBuf};

/// A bug, and what finds it.
#[derive(Debug)]
pub(super) struct Patch {
    /// Of its file, without the ending.
    pub(super) name: String,
    /// What is wrong with it, in a line.
    pub(super) bug: String,
    /// Arguments of `cargo test`, the last of which is the test's full name.
    pub(super) test: Option<Vec<String>>,
    /// So many seeds of the simulation of endpoints find it, from 1 on.
    pub(super) seeds: Option<u64>,
    hunks: Vec<Hunk>,
}

#[derive(Debug)]
struct Hunk {
    /// Seen from the root.
    file: String,
    old: String,
    new: String,
}

/// Files with what they are to contain.
pub(super) struct Files(Vec<(PathBuf, String)>);

impl Files {
    /// Writes them, and returns what they contained before.
    pub(super) fn put(self) -> Result<Self, String> {
        let mut before = Vec::new();
        for (path, text) in self.0 {
            before.push((path.clone(), read(&path)?));
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(Self(before))
    }

    #[cfg(test)]
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, text)| text.as_str())
    }
}

/// All patches of a folder, by name.
pub(super) fn all(folder: &Path) -> Result<Vec<Patch>, String> {
    let unreadable = |error| format!("{}: {error}", folder.display());
    let mut patches = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(name) = name.strip_suffix(".patch") {
            patches.push(Patch::of(name, &read(&path)?)?);
        }
    }
    patches.sort_by(|one, other| one.name.cmp(&other.name));
    if patches.is_empty() { Err(format!("{} has no patches", folder.display())) } else { Ok(patches) }
}

impl Patch {
    pub(super) fn of(name: &str, text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{name}.patch: {why}");
        let mut patch =
            Self { name: name.to_owned(), bug: String::new(), test: None, seeds: None, hunks: Vec::new() };
        let mut file = None;
        for line in text.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                file = Some(path.to_owned());
            } else if line.starts_with("--- ") {
                file = None;
            } else if line.starts_with("@@ ") {
                let file = file.clone().ok_or_else(|| wrong("a hunk before any file"))?;
                patch.hunks.push(Hunk { file, old: String::new(), new: String::new() });
            } else if let Some(hunk) = patch.hunks.last_mut() {
                hunk.take(line).map_err(wrong)?;
            } else if !patch.says(line)? && !line.is_empty() {
                return Err(wrong(&format!("it says {line:?} before the first file")));
            }
        }
        let what = [
            (patch.bug.is_empty(), "it does not say `Bug: ` and what is wrong"),
            (patch.test.is_none() && patch.seeds.is_none(), "it says neither `Test: ` nor `Seeds: `"),
            (patch.hunks.is_empty(), "it changes nothing"),
            (patch.hunks.iter().any(|hunk| hunk.old == hunk.new), "a hunk changes nothing"),
        ];
        match what.iter().find(|(is_so, _)| *is_so) {
            Some((_, why)) => Err(wrong(why)),
            None => Ok(patch),
        }
    }

    /// Takes a line of those before the first file; false if it is none of them.
    fn says(&mut self, line: &str) -> Result<bool, String> {
        match line.split_once(": ") {
            Some(("Bug", bug)) => self.bug = bug.to_owned(),
            Some(("Test", words)) => {
                self.test = Some(words.split_whitespace().map(str::to_owned).collect());
            }
            Some(("Seeds", count)) => {
                let count = count.trim().parse();
                self.seeds = Some(count.map_err(|error| format!("{}.patch: seeds: {error}", self.name))?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The files that it changes, with the bug in them.
    pub(super) fn apply(&self, root: &Path) -> Result<Files, String> {
        let mut files: Vec<(PathBuf, String)> = Vec::new();
        for (number, hunk) in (1..).zip(&self.hunks) {
            let path = root.join(&hunk.file);
            let at = match files.iter().position(|(known, _)| *known == path) {
                Some(at) => at,
                None => {
                    files.push((path.clone(), read(&path)?));
                    files.len() - 1
                }
            };
            files[at].1 = hunk.apply(&files[at].1).map_err(|times| {
                format!(
                    "{}.patch does not apply any more: the lines of hunk {number}, of {}, stand there {times} \
                     times and not once",
                    self.name, hunk.file
                )
            })?;
        }
        Ok(Files(files))
    }
}

impl Hunk {
    fn take(&mut self, line: &str) -> Result<(), &'static str> {
        let (sign, rest) = line.split_at_checked(1).unwrap_or((" ", ""));
        let texts: &mut [&mut String] = match sign {
            " " => &mut [&mut self.old, &mut self.new],
            "-" => &mut [&mut self.old],
            "+" => &mut [&mut self.new],
            _ => return Err("a line of a hunk begins with none of ` `, `-` and `+`"),
        };
        for text in texts {
            text.push_str(rest);
            text.push('\n');
        }
        Ok(())
    }

    /// How often its lines stand there, if not once.
    fn apply(&self, text: &str) -> Result<String, usize> {
        // Only whole lines count.
        let text = format!("\n{text}");
        let old = format!("\n{}", self.old);
        let mut places = text.match_indices(&old);
        match (places.next(), places.count()) {
            (Some((at, _)), 0) => {
                let changed = format!("{}\n{}{}", &text[..at], self.new, &text[at + old.len()..]);
                Ok(changed[1..].to_owned())
            }
            (None, _) => Err(0),
            (Some(_), more) => Err(1 + more),
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
