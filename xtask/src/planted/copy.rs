//! A copy of the source tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Makes `to` the same as the tree `from`, without what was built and without hidden folders but cargo's own. What is the
/// same already is not touched, so that cargo builds only what differs.
pub(super) fn tree(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |at: &Path, error: std::io::Error| format!("{}: {error}", at.display());
    fs::create_dir_all(to).map_err(|error| failed(to, error))?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from).map_err(|error| failed(from, error))? {
        let path = entry.map_err(|error| failed(from, error))?.path();
        let Some(name) = path.file_name() else { continue };
        let hidden = name.to_string_lossy().starts_with('.') && name != ".cargo";
        if hidden || name == "target" || path.is_symlink() {
            continue;
        }
        names.insert(name.to_owned());
        let there = to.join(name);
        if path.is_dir() {
            tree(&path, &there)?;
            continue;
        }
        let bytes = fs::read(&path).map_err(|error| failed(&path, error))?;
        if fs::read(&there).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::write(&there, bytes).map_err(|error| failed(&there, error))?;
    }
    for entry in fs::read_dir(to).map_err(|error| failed(to, error))? {
        let path = entry.map_err(|error| failed(to, error))?.path();
        if path.file_name().is_some_and(|name| names.contains(name)) {
            continue;
        }
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(|error| failed(&path, error))?;
    }
    Ok(())
}
