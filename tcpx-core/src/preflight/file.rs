//! Checks on the file of a plugin, before it is loaded.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Check, Findings, Subject};

const PLUGIN_PATH: &str = "UCCL_TCPX_PLUGIN_PATH";

/// Checks that the plugin's file exists, can be read and lies where code may be executed.
///
/// `root` is the folder that stands for `/`. A `path` without a slash is left to the dynamic linker's
/// search, and nothing is found about it.
pub fn check_file(path: &Path, root: &Path) -> Findings {
    let mut findings = Findings::default();
    if path.components().count() < 2 {
        return findings;
    }
    let real = below(root, path);
    let subject = || Subject::File(path.to_path_buf());
    match fs::metadata(&real) {
        Ok(entry) if entry.is_file() => {}
        Ok(_) => {
            let mend = format!("set {PLUGIN_PATH} to the plugin's file");
            findings.refuse(Check::PluginMissing, subject(), "it is no file", mend);
            return findings;
        }
        Err(error) => {
            let mend = format!(
                "install the plugin, set {PLUGIN_PATH} to its file, or choose the soft plugin, which needs no file, \
                 with UCCL_P2P_TRANSPORT=tcp"
            );
            findings.refuse(Check::PluginMissing, subject(), format!("it cannot be found ({error})"), mend);
            return findings;
        }
    }
    if let Err(error) = File::open(&real) {
        let consequence = format!("it cannot be read ({error})");
        findings.refuse(Check::PluginUnreadable, subject(), consequence, "make it readable to this user");
        return findings;
    }
    if let Some(mount) = noexec_mount(&real, root) {
        findings.refuse(
            Check::PluginNoexec,
            subject(),
            format!("{} is mounted noexec, so the file cannot be loaded", mount.display()),
            format!("copy it to a folder such as /usr/local/tcpx/lib64 and set {PLUGIN_PATH} to the copy"),
        );
    }
    findings
}

/// `path` below `root` instead of below `/`; a relative path is left as it is.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix("/").map_or_else(|_| path.to_path_buf(), |path| root.join(path))
}

/// The mount point that holds `file`, if nothing on it may be executed.
fn noexec_mount(file: &Path, root: &Path) -> Option<PathBuf> {
    let file = fs::canonicalize(file).ok()?;
    let inside = file.strip_prefix(fs::canonicalize(root).ok()?).ok()?;
    let file = Path::new("/").join(inside);
    let mounts = fs::read_to_string(root.join("proc/mounts")).ok()?;
    // The deepest mount point holds the file, and of several mounts on one point the last.
    let holding = mounts.lines().filter_map(mount).filter(|(point, _)| file.starts_with(point));
    let (point, options) = holding.max_by_key(|(point, _)| point.components().count())?;
    options.split(',').any(|option| option == "noexec").then_some(point)
}

/// Mount point and options of a line of `/proc/mounts`.
fn mount(line: &str) -> Option<(PathBuf, &str)> {
    let mut fields = line.split(' ');
    let point = unescape(fields.nth(1)?);
    Some((PathBuf::from(point), fields.nth(1)?))
}

/// Undoes the octal escapes of `/proc/mounts`.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character))
}
