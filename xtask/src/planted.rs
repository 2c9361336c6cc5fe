//! `cargo xtask deep --only planted`: bugs that are put into a copy of the workspace, one at a time, each of which has
//! to be found.
//!
//! A bug is a patch in `tests/planted`; what its first lines say, `tests/planted/README.md` explains. The copy and its
//! build lie in `target/planted` and stay there, so that each bug costs what it changes.

mod copy;
mod patch;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use self::patch::Patch;
use crate::step::{Failure, Steps};
use crate::workspace::Workspace;

/// Where the patches lie, seen from the root.
const FOLDER: &str = "tests/planted";
/// Longest run of a test, or of the simulation, with one bug. A bug that hangs is to be found by a test's own bound.
const LONGEST_RUN: Duration = Duration::from_secs(600);
/// Last lines of a program that are shown.
const SHOWN: usize = 30;

/// What a program that was started has said and how it ended.
struct Ended {
    /// `None`: it was stopped, because it took too long.
    status: Option<ExitStatus>,
    said: String,
}

impl Ended {
    fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    fn last_lines(&self) -> String {
        let lines: Vec<&str> = self.said.lines().collect();
        lines[lines.len().saturating_sub(SHOWN)..].join("\n    ")
    }
}

/// The copy, and how to start cargo in it.
struct Bench {
    workspace: Workspace,
    log: PathBuf,
}

/// Plants every bug in turn, or only that of the patch with this name.
///
/// # Errors
///
/// A patch that does not apply or build any more, a bug that is not found, or something that is found without one.
pub(crate) fn run(steps: &mut Steps, workspace: &Workspace, only: Option<&str>) -> Result<(), Failure> {
    let mend = "tests/planted/README.md says how to make a patch anew";
    let mut patches = patch::all(&workspace.root.join(FOLDER)).map_err(|why| Failure::new(why, mend))?;
    if let Some(only) = only {
        patches.retain(|patch| patch.name == only);
        if patches.is_empty() {
            return Err(Failure::new(format!("{FOLDER} has no {only}.patch"), "name one that it has"));
        }
    }
    let root = workspace.target.join("planted/tree");
    steps.timed("copy", &root.display().to_string(), "make room there", || {
        copy::tree(&workspace.root, &root)
    })?;
    let bench = Bench {
        log: workspace.target.join("planted/log.txt"),
        workspace: Workspace { root, target: workspace.target.join("planted/build") },
    };
    steps.timed("no bug", "everything that finds one, without any", "first mend what it names", || {
        bench.finds_nothing(&patches)
    })?;
    let (mut found, mut missed) = (Vec::new(), Vec::new());
    for patch in &patches {
        let alone =
            format!("`--bug {}` plants it alone, and leaves what was said in target/planted", patch.name);
        let judged = steps.timed(&patch.name, &patch.bug, &alone, || {
            let how = bench.plant(patch)?;
            println!("    found {how}");
            found.push(format!("{}: {how}", patch.name));
            Ok(())
        });
        // The others are planted as well, so that one run says all.
        if let Err(failure) = judged {
            println!("    NOT FOUND: {failure}");
            missed.push(patch.name.as_str());
        }
    }
    println!("==> {} of {} bugs that were planted were found:", found.len(), patches.len());
    found.iter().for_each(|line| println!("    {line}"));
    if missed.is_empty() {
        return Ok(());
    }
    let text = format!("not found, or not planted: {}", missed.join(", "));
    let mend = "the lines NOT FOUND say why: the patch has to be made anew (tests/planted/README.md), the bug is none any \
                more, or its test finds less than before";
    Err(Failure::new(text, mend))
}

impl Bench {
    /// Every test that is to find a bug passes without one, and the seeds find nothing.
    fn finds_nothing(&self, patches: &[Patch]) -> Result<(), String> {
        let tests: BTreeSet<&[String]> = patches.iter().filter_map(|patch| patch.test.as_deref()).collect();
        for test in tests {
            self.build(test)?;
            let ended = self.test(test)?;
            if !ended.is_success() {
                return Err(format!("{} fails without a bug:\n    {}", test.join(" "), ended.last_lines()));
            }
        }
        let Some(seeds) = patches.iter().filter_map(|patch| patch.seeds).max() else { return Ok(()) };
        match self.seeds(seeds)? {
            None => Ok(()),
            Some(seed) => Err(format!("seed {seed} finds something without a bug")),
        }
    }

    /// Puts a bug in, says how it was found, and takes it out again.
    fn plant(&self, patch: &Patch) -> Result<String, String> {
        let before = patch.apply(&self.workspace.root)?.put()?;
        let judged = self.judge(patch);
        before.put()?;
        judged
    }

    /// How the bug that is planted was found.
    fn judge(&self, patch: &Patch) -> Result<String, String> {
        let mut how = Vec::new();
        if let Some(test) = &patch.test {
            self.build(test)?;
            let ended = self.test(test)?;
            if ended.status.is_none() {
                return Err(format!("{} hangs instead of failing", test.join(" ")));
            }
            if ended.is_success() {
                return Err(format!("{} passes with the bug", test.join(" ")));
            }
            how.push(format!("by {}", test.last().map_or("", String::as_str)));
        }
        if let Some(seeds) = patch.seeds {
            match self.seeds(seeds)? {
                Some(seed) => how.push(format!("after {seed} seeds (stated: {seeds})")),
                None => return Err(format!("{seeds} seeds do not find it")),
            }
        }
        Ok(how.join(", and "))
    }

    fn build(&self, test: &[String]) -> Result<(), String> {
        let (_, target) = test.split_last().ok_or("a test has a name")?;
        let mut build = self.workspace.cargo(&["test", "--locked", "--no-run"]);
        self.must(build.args(target))
    }

    fn test(&self, test: &[String]) -> Result<Ended, String> {
        let (name, target) = test.split_last().ok_or("a test has a name")?;
        let mut run = self.workspace.cargo(&["test", "--locked"]);
        let ended = self.start(run.args(target).args(["--", "--exact", name]))?;
        if !ended.said.contains("running 1 test\n") {
            return Err(format!("there is no test {}:\n    {}", test.join(" "), ended.last_lines()));
        }
        Ok(ended)
    }

    /// Runs the simulation of endpoints, and returns the first seed that finds something.
    fn seeds(&self, seeds: u64) -> Result<Option<u64>, String> {
        let example = ["--locked", "--package", "p2p-endpoint", "--example", "simulate"];
        self.must(self.workspace.cargo(&["build"]).args(example))?;
        let mut run = Command::new(self.workspace.target.join("debug/examples/simulate"));
        let ended =
            self.start(run.args(["--seeds", &seeds.to_string(), "--seed", "1", "--failures", "1"]))?;
        if ended.is_success() {
            return Ok(None);
        }
        let seed = ended.said.lines().find_map(|line| line.split_once("--seed ")?.1.parse().ok());
        seed.map(Some)
            .ok_or_else(|| format!("the simulation names no seed that failed:\n    {}", ended.last_lines()))
    }

    /// Starts what must succeed.
    fn must(&self, command: &mut Command) -> Result<(), String> {
        let ended = self.start(command)?;
        if ended.is_success() {
            Ok(())
        } else {
            Err(format!("it does not build:\n    {}", ended.last_lines()))
        }
    }

    /// Starts a program in a group of its own, and waits for it.
    fn start(&self, command: &mut Command) -> Result<Ended, String> {
        let log = |error| format!("{}: {error}", self.log.display());
        let file = File::create(&self.log).map_err(log)?;
        let both = file.try_clone().map_err(log)?;
        command.env("CARGO_TARGET_DIR", &self.workspace.target).env("CARGO_INCREMENTAL", "1");
        let mut child = command
            .process_group(0)
            .stdout(file)
            .stderr(both)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", command.get_program().display()))?;
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                break Some(status);
            }
            if begin.elapsed() > LONGEST_RUN {
                // The test that cargo has started ends with it.
                let _ = Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).status();
                child.wait().map_err(|error| error.to_string())?;
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        Ok(Ended { status, said: read(&self.log)? })
    }
}

fn read(file: &Path) -> Result<String, String> {
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
