//! Reads settings and gathers what is wrong with them.

use std::ffi::OsString;

use super::{Environment, Origin, Problem, Setting, Value, Variable, Warning};

/// Start of the names that are this project's alone.
const OWN_PREFIX: &str = "UCCL_TCPX_";
/// Most edits between an unknown name and the one that is suggested for it.
const SUGGESTION_DISTANCE: usize = 5;

/// Reads one setting after the other from an environment.
pub(super) struct Reader<'a> {
    environment: &'a dyn Environment,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(environment: &'a dyn Environment) -> Self {
        Self { environment, problems: Vec::new() }
    }

    /// The setting known under `names`, the first of which wins; `None` after noting a problem.
    pub(super) fn setting<T: Value>(
        &mut self,
        names: &[&'static str],
        default: &'static str,
    ) -> Option<Setting<T>> {
        let mut set = names.iter().filter_map(|&name| Some((name, self.text(name)?)));
        let first = set.next();
        let second = set.next();
        let Some((variable, value)) = first else {
            return self.parse(names.first()?, default.into(), default, Origin::Default);
        };
        if let Some((second, second_value)) = second
            && second_value != value
        {
            let (first, first_value) = (variable, value);
            self.problems.push(Problem::Conflict { first, first_value, second, second_value });
            return None;
        }
        self.parse(variable, value, default, Origin::User(variable))
    }

    /// Adds problems found elsewhere.
    pub(super) fn extend(&mut self, problems: Vec<Problem>) {
        self.problems.extend(problems);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Variables that start like ours and that `known` does not hold, in the order of their names.
    pub(super) fn unknown_variables(&self, known: &[Variable]) -> Vec<Warning> {
        let known: Vec<&'static str> = known.iter().flat_map(names).collect();
        let mut unknown: Vec<String> = self
            .environment
            .names()
            .iter()
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| name.starts_with(OWN_PREFIX) && !known.contains(&name.as_str()))
            .collect();
        unknown.sort();
        let warning = |name: String| Warning::UnknownVariable { nearest: nearest(&name, &known), name };
        unknown.into_iter().map(warning).collect()
    }

    /// Text of a variable that is set to something.
    fn text(&self, name: &str) -> Option<OsString> {
        self.environment.variable(name).filter(|value| !value.is_empty())
    }

    fn parse<T: Value>(
        &mut self,
        variable: &'static str,
        value: OsString,
        default: &'static str,
        origin: Origin,
    ) -> Option<Setting<T>> {
        let parsed = T::parse(&value).map(|value| Setting { value, origin });
        if parsed.is_none() {
            self.problems.push(Problem::BadValue { variable, value, range: T::range(), default });
        }
        parsed
    }
}

/// All names of a variable.
fn names(variable: &Variable) -> impl Iterator<Item = &'static str> + use<> {
    std::iter::once(variable.name).chain(variable.aliases.iter().copied())
}

/// The known name of ours with the fewest edits, if they are few.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let stem = |name: &'static str| name.strip_prefix(OWN_PREFIX);
    let wanted = name.strip_prefix(OWN_PREFIX)?;
    let ranked = known.iter().filter_map(|&name| Some((edits(wanted, stem(name)?), name)));
    let (distance, name) = ranked.min()?;
    let bound = SUGGESTION_DISTANCE.min(wanted.len() / 2);
    (distance <= bound).then_some(name)
}

/// Insertions, deletions and replacements that turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
