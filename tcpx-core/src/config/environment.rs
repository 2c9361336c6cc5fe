//! Where variables come from.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A source of environment variables.
pub trait Environment {
    /// Value of the variable, if it is set.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// Names of all variables that are set.
    fn names(&self) -> Vec<OsString>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<OsString> {
        std::env::vars_os().map(|(name, _)| name).collect()
    }
}

/// A fixed set of variables, for tests and for callers that bring their own settings.
#[derive(Clone, Debug, Default)]
pub struct FixedEnvironment(BTreeMap<String, OsString>);

impl Environment for FixedEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<OsString> {
        self.0.keys().map(OsString::from).collect()
    }
}

impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for FixedEnvironment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
