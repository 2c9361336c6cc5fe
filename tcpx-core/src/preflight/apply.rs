//! The one place that writes the environment.

#![allow(
    unsafe_code,
    reason = "a plugin reads its settings with getenv, so they must be set in the environment"
)]

use super::{Findings, Refused};

/// Sets the variables of `findings.assignments` in the environment of this process, unless the findings
/// refuse.
///
/// # Errors
///
/// [`Refused`]; nothing is set then.
///
/// # Safety
///
/// No other thread may read or write the environment meanwhile except through `std::env`: C code that
/// calls `getenv` would read it while it is changed. The plugin's own threads do, so this is called once,
/// before the plugin's `init`, and never after it.
pub unsafe fn apply(findings: &Findings) -> Result<(), Refused> {
    findings.refused()?;
    for assignment in &findings.assignments {
        // SAFETY: the caller promises that no thread calls getenv or setenv outside std::env, whose
        // functions and this one exclude each other by std's own lock.
        unsafe { std::env::set_var(assignment.variable, &assignment.value) };
    }
    Ok(())
}
