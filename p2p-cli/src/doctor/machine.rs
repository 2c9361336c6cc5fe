//! The machine that is looked at: this one, or a folder that stands for another one's `/`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use p2p_transport_tcpx::{Choice, usual_places};
use tcpx_core::config::{Config, FixedEnvironment, Problem};
use tcpx_core::preflight::{self, Check, Findings, Nature};
use tcpx_core::topology::{ReadError, Tree};

use super::elf;
use super::start::Started;
use crate::failure::Failure;

/// Longest file that is read; those of the kernel are far shorter.
const LONGEST: u64 = 1 << 20;

/// What every check may ask.
pub(super) struct Machine {
    root: PathBuf,
    /// Settings; the default where a value is bad.
    pub(super) config: Config,
    /// Bad values.
    pub(super) problems: Vec<Problem>,
    plugin: OnceLock<Chosen>,
    /// How the plugin started in a process of its own.
    pub(super) started: OnceLock<Started>,
}

/// Which net plugin the settings lead to.
pub(super) struct Chosen {
    pub(super) choice: Choice,
    /// Its file, as on the machine; `None` for the soft plugin.
    pub(super) file: Option<PathBuf>,
    pub(super) nature: Nature,
}

impl Machine {
    pub(super) fn new(root: Option<PathBuf>) -> Result<Self, Failure> {
        let root = root.unwrap_or_else(|| PathBuf::from("/"));
        if !root.is_dir() {
            return Err(Failure::new(format!(
                "--root {}: it is no folder; name one that holds sys and proc of a machine",
                root.display()
            )));
        }
        let (config, problems) = settings()?;
        Ok(Self { root, config, problems, plugin: OnceLock::new(), started: OnceLock::new() })
    }

    /// Whether it is the machine that this process runs on.
    pub(super) fn is_this_one(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a path of the machine lies; one without a slash before it counts from this process's folder.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        path.strip_prefix("/").map_or_else(|_| path.to_path_buf(), |path| self.root.join(path))
    }

    /// Text of a file, without white space around it. The error names the file.
    pub(super) fn text(&self, path: &str) -> Result<String, String> {
        let mut text = String::new();
        let read = File::open(self.at(path)).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        read.map_err(|error: io::Error| format!("{path} cannot be read ({error})"))?;
        Ok(text.trim().to_owned())
    }

    /// The number that a file holds.
    pub(super) fn number(&self, path: &str) -> Result<u64, String> {
        let text = self.text(path)?;
        text.parse().map_err(|_| format!("{path} says {text:?}, which is no number"))
    }

    /// The plugin that the settings choose on this machine.
    pub(super) fn plugin(&self) -> &Chosen {
        self.plugin.get_or_init(|| {
            let choice = Choice::of_below(&self.config, &self.root);
            let file = choice.file_below(&self.root);
            let nature = file.as_deref().map_or(Nature::Soft, |file| self.nature(file));
            Chosen { choice, file, nature }
        })
    }

    pub(super) fn nature_of_plugin(&self) -> Nature {
        self.plugin().nature
    }

    /// Whether Google's plugin is used, with its daemon, its NICs and its GPUs.
    pub(super) fn uses_tcpx(&self) -> bool {
        self.plugin().nature == Nature::Tcpx
    }

    /// What a plugin's file is, without loading it: by its symbols, its name and its place.
    fn nature(&self, file: &Path) -> Nature {
        let has_extension =
            elf::exports(&self.at(file)).is_ok_and(|names| names.iter().any(|name| elf::is_soft(name)));
        match Nature::of("", Some(file), has_extension) {
            Nature::Other if usual_places().iter().any(|place| place == file) => Nature::Tcpx,
            nature @ (Nature::Tcpx | Nature::Soft | Nature::Other) => nature,
        }
    }

    pub(super) fn tree(&self) -> Result<Tree, ReadError> {
        Tree::read(&self.root)
    }

    /// What the preflight of the chosen plugin has to say. Whether this process ignores a broken pipe does not
    /// matter: opening the plugin sees to it.
    pub(super) fn findings(&self) -> Findings {
        let mut findings = preflight::check(&self.config, self.plugin().nature, &self.root);
        findings.refusals.retain(|refusal| refusal.check != Check::BrokenPipe);
        findings
    }
}

/// The settings of this process, with the default for each bad value, and what is bad.
fn settings() -> Result<(Config, Vec<Problem>), Failure> {
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    let mut variables: BTreeMap<String, OsString> = variables.collect();
    let mut problems = Vec::new();
    loop {
        let environment: FixedEnvironment = variables.clone().into_iter().collect();
        let error = match Config::from_environment(&environment) {
            Ok(config) => return Ok((config, problems)),
            Err(error) => error,
        };
        let before = variables.len();
        for problem in &error.problems {
            for name in names(problem) {
                variables.remove(name);
            }
        }
        problems.extend(error.problems);
        if variables.len() == before {
            // A default contradicts another variable: all defaults never contradict each other.
            variables.clear();
            if before == 0 {
                return Err(Failure::new("the defaults of the variables cannot be used"));
            }
        }
    }
}

/// The variables that a problem is about.
pub(super) fn names(problem: &Problem) -> Vec<&'static str> {
    match problem {
        Problem::BadValue { variable, .. } => vec![variable],
        Problem::Conflict { first, second, .. } => vec![first, second],
        _ => Vec::new(),
    }
}
