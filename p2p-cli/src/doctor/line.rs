//! What one check has to say.

use serde::Serialize;

/// How well a subject is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// Not tried, with the reason.
    Skip,
    /// It works, but not as well as it could, or not for long.
    Warn,
    /// It will not work.
    Fail,
}

impl Status {
    /// The word for it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Skip => "SKIP",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// A line of the report: a subject, how well it is, and what to do where it is not.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) status: Status,
    pub(super) subject: String,
    pub(super) found: String,
    /// What to type or set.
    pub(super) mend: Option<String>,
}

impl Line {
    pub(super) fn ok(subject: impl Into<String>, found: impl AsRef<str>) -> Self {
        Self::new(Status::Ok, subject, found, None)
    }

    pub(super) fn skip(subject: impl Into<String>, why: impl AsRef<str>) -> Self {
        Self::new(Status::Skip, subject, why, None)
    }

    pub(super) fn warn(subject: impl Into<String>, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        Self::new(Status::Warn, subject, found, Some(mend.as_ref()))
    }

    pub(super) fn fail(subject: impl Into<String>, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        Self::new(Status::Fail, subject, found, Some(mend.as_ref()))
    }

    fn new(status: Status, subject: impl Into<String>, found: impl AsRef<str>, mend: Option<&str>) -> Self {
        Self { status, subject: subject.into(), found: plain(found.as_ref()), mend: mend.map(plain) }
    }
}

/// Something that is wrong with a subject.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) status: Status,
    pub(super) found: String,
    pub(super) mend: String,
}

impl Fault {
    pub(super) fn warn(found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { status: Status::Warn, found: found.into(), mend: mend.into() }
    }

    pub(super) fn fail(found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { status: Status::Fail, found: found.into(), mend: mend.into() }
    }
}

/// One line about a subject: what was found, and all that is wrong with it.
pub(super) fn judged(subject: impl Into<String>, found: &str, faults: Vec<Fault>) -> Line {
    let Some(status) = faults.iter().map(|fault| fault.status).max() else {
        return Line::ok(subject, found);
    };
    let mut texts: Vec<&str> = if found.is_empty() { Vec::new() } else { vec![found] };
    texts.extend(faults.iter().map(|fault| fault.found.as_str()));
    let mut mends: Vec<&str> = faults.iter().map(|fault| fault.mend.as_str()).collect();
    mends.dedup();
    Line::new(status, subject, texts.join("; "), Some(&mends.join("; ")))
}

/// Text that moves no cursor: what a file or a plugin says may hold anything.
fn plain(text: &str) -> String {
    let shown = text.trim().chars().map(|character| if character.is_control() { ' ' } else { character });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_fault_gives_the_status_and_all_are_told() {
        let faults = || vec![Fault::warn("slow", "hurry"), Fault::fail("broken", "mend it")];
        let line = judged("thing", "seen", faults());
        assert_eq!((line.status, line.found.as_str()), (Status::Fail, "seen; slow; broken"));
        assert_eq!(line.mend.as_deref(), Some("hurry; mend it"));
        assert_eq!(judged("thing", "", faults()[..1].to_vec()).found, "slow");
        assert_eq!(judged("thing", "seen", Vec::new()), Line::ok("thing", "seen"));
    }

    #[test]
    fn what_a_plugin_says_moves_no_cursor() {
        assert_eq!(Line::ok("a", "x\u{1b}[2Jy\nz\r\n").found, "x [2Jy z");
    }
}
