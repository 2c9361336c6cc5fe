//! Where the workspace is and how to start cargo in it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand};

use crate::step::Failure;

/// The workspace that this program was started in.
pub(crate) struct Workspace {
    /// Folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Asks cargo where the workspace of the current folder is.
    ///
    /// # Errors
    ///
    /// Cargo cannot read the workspace.
    pub(crate) fn find() -> Result<Self, Failure> {
        let metadata = members(None).map_err(|why| {
            Failure::new(why, "start `cargo xtask` in the repository, and mend the Cargo.toml it names")
        })?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// A cargo command in the workspace root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root).args(arguments);
        // What `cargo run` says about this program is not true of the commands it starts.
        for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
            command.env_remove(name);
        }
        command
    }
}

/// The workspace's own packages, without what they depend on. `root` is a folder with a `Cargo.toml`.
///
/// # Errors
///
/// Cargo's own words.
pub(crate) fn members(root: Option<&Path>) -> Result<Metadata, String> {
    let mut command = MetadataCommand::new();
    command.no_deps();
    if let Some(root) = root {
        command.manifest_path(root.join("Cargo.toml"));
    }
    command.exec().map_err(|error| format!("cargo metadata: {error}"))
}

fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Finds a program by the folders of `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|file| file.is_file())
}
