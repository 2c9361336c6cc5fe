//! What can be wrong with the environment, and what is merely odd.

use std::ffi::OsString;

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[error("{} of the environment variables cannot be used: {}", problems.len(), list(problems))]
pub struct ConfigError {
    /// The problems, in the order of the table of variables; at least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A value outside its range.
    #[error("{variable}={value:?} is not allowed: set it to {range}, or unset it{}", default_note(default))]
    BadValue {
        /// Name under which the value was found.
        variable: &'static str,
        /// The value.
        value: OsString,
        /// Values that are allowed, in words.
        range: String,
        /// What applies when the variable is unset; empty for nothing.
        default: &'static str,
    },
    /// Two names of one setting have different values.
    #[error(
        "{first}={first_value:?} and {second}={second_value:?} are two names of one setting and differ: \
         unset one of them"
    )]
    Conflict {
        /// The name that would win.
        first: &'static str,
        /// Its value.
        first_value: OsString,
        /// The other name.
        second: &'static str,
        /// Its value.
        second_value: OsString,
    },
}

/// Something odd that does not stop anything.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// A variable whose name looks like ours and which nothing reads.
    #[error("{name} is not a known variable and is ignored{}", suggestion(*nearest))]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The known name most like it, if any is.
        nearest: Option<&'static str>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

fn default_note(default: &str) -> String {
    if default.is_empty() { String::new() } else { format!(" for the default {default}") }
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"))
}
