//! Where results go: standard output, and a file.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::failure::Failure;

/// Writes to standard output. Where nobody reads it any more, there is nobody to say so to.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::said()
        } else {
            Failure::new(format!("standard output cannot be written to: {error}; see where it leads"))
        }
    })
}

/// A file for results, which keeps what it has until there are new ones.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The option that names it.
    option: &'static str,
    /// As the user wrote it.
    asked: PathBuf,
    target: PathBuf,
    /// Written first and then renamed. A device or a pipe is written to itself.
    temporary: Option<PathBuf>,
}

impl Kept {
    /// The file that `--json` names. Checks now what would fail after everything is measured.
    pub(crate) fn new(asked: &Path) -> Result<Self, Failure> {
        Self::of("--json", asked)
    }

    /// As [`new`](Self::new), of another option.
    pub(crate) fn of(option: &'static str, asked: &Path) -> Result<Self, Failure> {
        let kept = Self::find(option, asked);
        kept.check().map_err(|error| kept.failure(&error))?;
        Ok(kept)
    }

    fn find(option: &'static str, asked: &Path) -> Self {
        // What a link leads to is replaced, not the link.
        let target = fs::canonicalize(asked).unwrap_or_else(|_| asked.to_owned());
        let special = fs::metadata(&target).is_ok_and(|about| !about.is_file() && !about.is_dir());
        let temporary = (!special).then(|| {
            let mut name = OsString::from(".");
            name.push(target.file_name().unwrap_or_default());
            name.push(format!(".{}", std::process::id()));
            target.with_file_name(name)
        });
        Self { option, asked: asked.to_owned(), target, temporary }
    }

    fn check(&self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let names_folder = self.asked.as_os_str().as_encoded_bytes().ends_with(b"/") || self.target.is_dir();
        if names_folder || self.target.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this names no file"));
        }
        if self.target.exists() {
            fs::OpenOptions::new().append(true).open(&self.target)?;
        }
        fs::File::create(temporary)?;
        fs::remove_file(temporary)
    }

    /// Replaces what the file had, by JSON.
    pub(crate) fn write(&self, results: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(results).map_err(|error| self.failure(&error.into()))?;
        self.write_text(&text)
    }

    /// Replaces what the file had.
    pub(crate) fn write_text(&self, text: &[u8]) -> Result<(), Failure> {
        let write = || {
            let Some(temporary) = &self.temporary else { return fs::write(&self.target, text) };
            let written = fs::write(temporary, text).and_then(|()| fs::rename(temporary, &self.target));
            written.inspect_err(|_| drop(fs::remove_file(temporary)))
        };
        write().map_err(|error| self.failure(&error))
    }

    /// As the user wrote it.
    pub(crate) fn name(&self) -> String {
        self.asked.display().to_string()
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure::new(format!(
            "{} {}: {error}; choose a file that can be written",
            self.option,
            self.asked.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::Kept;
    use std::fs;
    use std::path::Path;

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).expect("a folder").count()
    }

    #[test]
    fn a_file_keeps_what_it_has_until_there_are_results() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("out.json"), folder.path().join("link.json"));
        fs::write(&file, "old").expect("written");
        std::os::unix::fs::symlink("out.json", &link).expect("a link");
        let kept = Kept::new(&link).expect("it can be written");
        assert_eq!(fs::read_to_string(&file).expect("text"), "old");
        assert_eq!(names(folder.path()), 2);
        kept.write(&[1]).expect("written");
        assert_eq!(fs::read_to_string(&file).expect("text"), "[\n  1\n]");
        assert!(link.is_symlink());
        assert_eq!(names(folder.path()), 2);
    }

    #[test]
    fn what_cannot_be_written_is_known_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [
            folder.path().to_owned(),
            folder.path().join("none/out.json"),
            folder.path().join("none/"),
            "".into(),
        ] {
            let text = Kept::new(&path).expect_err("no file").to_string();
            assert!(text.contains(&format!("--json {}", path.display())), "{text}");
        }
        assert_eq!(names(folder.path()), 0);
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        Kept::new(Path::new("/dev/null")).expect("it is there").write(&[1]).expect("written");
        assert!(!fs::metadata("/dev/null").expect("still there").is_file());
    }
}
