//! The variables that are set, and those that are wrong.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;

use tcpx_core::config::{Problem, Warning};
use tcpx_core::preflight::Nature;

use super::line::{Fault, Line, judged};
use super::machine::Machine;

const SUBJECT: &str = "variables";
/// Starts of the names that this project, its plugins and NCCL read.
const FAMILIES: [&str; 3] = ["UCCL_", "NCCL_", "TCPX_SOFT_"];
const SOFT: &str = "TCPX_SOFT_";
/// What a name holds whose value is nobody's business.
const SECRETS: [&str; 4] = ["SECRET", "TOKEN", "PASSWORD", "_KEY"];

/// All that are set of the families, with bad values and names that nobody reads.
pub(super) fn check(machine: &Machine) -> Vec<Line> {
    let mut faults: Vec<_> = machine.problems.iter().map(fault).collect();
    for warning in machine.config.warnings() {
        let text = warning.to_string();
        let (found, _) = text.split_once("; ").unwrap_or((&text, ""));
        let mend = match warning {
            Warning::UnknownVariable { name, nearest: Some(nearest) } => {
                format!("did you mean {nearest}? unset {name}, or correct it")
            }
            Warning::UnknownVariable { .. } | _ => "unset it".to_owned(),
        };
        faults.push(Fault::warn(found, mend));
    }
    faults.extend(soft(machine.nature_of_plugin() == Nature::Soft));
    vec![judged(SUBJECT, &set(), faults)]
}

fn fault(problem: &Problem) -> Fault {
    match problem {
        Problem::BadValue { variable, value, range, default } => {
            let unset =
                if default.is_empty() { String::new() } else { format!(" for the default {default}") };
            Fault::fail(
                format!("{variable}={} is not allowed", shown(variable, value)),
                format!("set {variable} to {range}, or unset it{unset}"),
            )
        }
        Problem::Conflict { first, second, .. } => Fault::fail(
            format!("{first} and {second} are two names of one setting and differ"),
            format!("unset {first} or {second}"),
        ),
        other => Fault::fail(other.to_string(), "correct or unset it"),
    }
}

/// What the soft plugin would refuse, and names that look like its own. Its names are those that it asks for.
fn soft(is_used: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let value = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    if let Err(text) = tcpx_soft::check_variables(&value) {
        let name = text.split(['=', ':', ' ']).next().unwrap_or_default();
        let mend = format!("correct or unset {name} (docs/VARIABLES.md)");
        faults.push(if is_used {
            Fault::fail(&text, mend)
        } else {
            Fault::warn(format!("{text} (not read here)"), mend)
        });
    }
    let known = RefCell::new(BTreeSet::new());
    let _ = tcpx_soft::check_variables(&|name| {
        known.borrow_mut().insert(name.to_owned());
        None
    });
    let known = known.into_inner();
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let unknown: BTreeSet<String> =
        names.filter(|name| name.starts_with(SOFT) && !known.contains(name)).collect();
    faults.extend(unknown.into_iter().map(|name| {
        Fault::warn(
            format!("{name} is not a known variable and is ignored"),
            format!("unset {name}, or correct it"),
        )
    }));
    faults
}

/// The variables of the families that are set, with their values.
fn set() -> String {
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    let ours = variables.filter(|(name, _)| FAMILIES.iter().any(|family| name.starts_with(family)));
    let mut ours: Vec<_> = ours.map(|(name, value)| format!("{name}={}", shown(&name, &value))).collect();
    ours.sort();
    if ours.is_empty() {
        return "none is set: the defaults apply".to_owned();
    }
    format!("{} set: {}", ours.len(), ours.join(" "))
}

fn shown(name: &str, value: &OsStr) -> String {
    if SECRETS.iter().any(|part| name.contains(part)) {
        return "(not shown)".to_owned();
    }
    let text = value.to_string_lossy();
    if text.is_empty() || text.contains(char::is_whitespace) {
        format!("{text:?}")
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::shown;
    use std::ffi::OsStr;

    #[test]
    fn secrets_are_not_shown() {
        for name in ["UCCL_P2P_SECRET", "UCCL_P2P_SECRET_FILE", "NCCL_TOKEN", "UCCL_API_KEY"] {
            assert_eq!(shown(name, OsStr::new("hush")), "(not shown)");
        }
        assert_eq!(shown("NCCL_DEBUG", OsStr::new("INFO")), "INFO");
        assert_eq!(shown("NCCL_DEBUG", OsStr::new("a b")), "\"a b\"");
    }
}
