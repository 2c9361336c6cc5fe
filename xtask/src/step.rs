//! Steps: what runs, how long it took, what to do when it fails.

use std::fmt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

/// Why a chore ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    mend: String,
}

impl Failure {
    /// `what` went wrong, and the words for what to do about it.
    pub(crate) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  what to do: {}", self.what, self.mend)
    }
}

/// The steps run so far.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Runs a command with this program's own output, as a step.
    ///
    /// # Errors
    ///
    /// A command that cannot be started or does not end with exit code 0; `mend` says what to do then.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command, mend: &str) -> Result<(), Failure> {
        let shown = shown(command);
        self.timed(name, &shown, mend, || {
            let status = command.status().map_err(|error| format!("{shown} cannot be started: {error}"))?;
            if status.success() { Ok(()) } else { Err(ended(status)) }
        })
    }

    /// Runs a check of this program itself, as a step. An error is the text of what was found.
    ///
    /// # Errors
    ///
    /// The check's own error, with `mend` as what to do.
    pub(crate) fn timed(
        &mut self,
        name: &str,
        shown: &str,
        mend: &str,
        work: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), Failure> {
        println!("==> {name}: {shown}");
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        match result {
            Ok(()) => {
                println!("==> {name}: done in {:.1} s", took.as_secs_f64());
                self.done.push((name.to_owned(), took));
                Ok(())
            }
            Err(why) => {
                Err(Failure::new(format!("{name} failed after {:.1} s: {why}", took.as_secs_f64()), mend))
            }
        }
    }

    /// Prints each step's time once more; nothing when there was only one.
    pub(crate) fn summary(&self) {
        if self.done.len() < 2 {
            return;
        }
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        let parts: Vec<String> =
            self.done.iter().map(|(name, took)| format!("{name} {:.1}", took.as_secs_f64())).collect();
        println!(
            "==> all {} steps passed in {:.1} s: {}",
            parts.len(),
            total.as_secs_f64(),
            parts.join(", ")
        );
    }
}

/// The command as one would type it, with the variables it sets.
fn shown(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quoted(&value.to_string_lossy())));
        }
    }
    let program = command.get_program().to_string_lossy();
    words.push(program.rsplit('/').next().unwrap_or_default().to_owned());
    words.extend(command.get_args().map(|argument| quoted(&argument.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains([' ', '*', '"', '$']) { format!("'{word}'") } else { word.to_owned() }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended without an exit code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_ends_the_chore_and_says_what_to_do() {
        let mut steps = Steps::default();
        let failure = steps
            .command("probe", Command::new("sh").args(["-c", "exit 7"]), "look at the probe")
            .expect_err("exit code 7 is a failure");
        let text = failure.to_string();
        assert!(text.contains("probe failed") && text.contains("exit code 7"), "{text}");
        assert!(text.contains("what to do: look at the probe"), "{text}");
        assert!(steps.done.is_empty());
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let failure = Steps::default()
            .command("probe", &mut Command::new("no-such-program-here"), "install it")
            .expect_err("there is no such program");
        assert!(failure.to_string().contains("no-such-program-here"));
    }

    #[test]
    fn a_death_by_signal_is_told_from_an_exit_code() {
        let failure = Steps::default()
            .command("probe", Command::new("sh").args(["-c", "kill -9 $$"]), "")
            .expect_err("killed");
        assert!(failure.to_string().contains("signal 9"), "{failure}");
    }

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--no-deps"]);
        assert_eq!(shown(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }
}
