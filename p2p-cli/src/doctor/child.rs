//! A process that does what may end, crash or hang this one, watched for a while.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// What precedes the result on its line of the child's standard output.
const RESULT: &str = "p2p-doctor-result ";
const POLL: Duration = Duration::from_millis(10);
/// How long output may come after the process has ended: only what it left behind still holds the pipe.
const REST: Duration = Duration::from_millis(300);
/// Bytes of output that are kept, the last ones.
const KEPT: usize = 64 << 10;
/// Characters of output that are shown, the last ones.
const SHOWN: usize = 400;

/// How a process came to its end.
#[derive(Debug)]
pub(super) enum Ended {
    /// On its own.
    Itself(ExitStatus),
    /// It took too long and was ended.
    Late(Duration),
    /// It was never started.
    Never(String),
}

/// What a process said, and how it ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The text of its result, if it came to one.
    pub(super) result: Option<String>,
    pub(super) ended: Ended,
    output: String,
}

impl Outcome {
    /// The end of what it said, as the end of a sentence.
    pub(super) fn said(&self) -> String {
        let lines: Vec<_> = self.output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let text = lines.join(" | ");
        if text.is_empty() {
            return "it said nothing".to_owned();
        }
        let from = text.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
        format!("it said: {}{}", if from > 0 { "..." } else { "" }, &text[from..])
    }

    /// How it ended, as the end of a sentence about it.
    pub(super) fn how(&self) -> String {
        match &self.ended {
            Ended::Itself(status) => format!("ended the process ({status})"),
            Ended::Late(limit) => format!("did not come back within {} s", limit.as_secs()),
            Ended::Never(why) => format!("could not be tried ({why})"),
        }
    }

    /// Whether the process ended as it should.
    pub(super) fn is_well(&self) -> bool {
        matches!(self.ended, Ended::Itself(status) if status.success())
    }
}

/// The line with which a child says its result.
pub(super) fn result_line(text: &str) -> String {
    // What a plugin wrote may lack the end of its line.
    format!("\n{RESULT}{text}\n")
}

/// Runs a command for as long as `limit` and ends it then, with all that it started.
pub(super) fn run(command: &mut Command, limit: Duration) -> Outcome {
    // A group of its own, so that what it starts is ended with it.
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            return Outcome { result: None, ended: Ended::Never(error.to_string()), output: String::new() };
        }
    };
    let heard = [Heard::of(child.stdout.take()), Heard::of(child.stderr.take())];
    let ended = watch(&mut child, limit);
    end(&mut child);
    let deadline = Instant::now() + REST;
    let texts = heard.map(|heard| heard.until(deadline));
    let result = texts[0].lines().find_map(|line| line.strip_prefix(RESULT)).map(str::to_owned);
    let output: Vec<_> =
        texts.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with(RESULT)).collect();
    Outcome { result, ended, output: output.join("\n") }
}

fn watch(child: &mut Child, limit: Duration) -> Ended {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ended::Itself(status),
            Err(error) => return Ended::Never(error.to_string()),
            Ok(None) if Instant::now() >= deadline => return Ended::Late(limit),
            Ok(None) => thread::sleep(POLL),
        }
    }
}

/// Ends the process and its group, and takes note of its end.
fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // None is left when all of it has ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// What comes out of a pipe, read by a thread of its own so that no writer is held up.
struct Heard {
    bytes: Arc<Mutex<Vec<u8>>>,
    over: mpsc::Receiver<()>,
}

impl Heard {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (ended, over) = mpsc::channel();
        let into = bytes.clone();
        // Without a thread nothing is heard, and the channel says that it is over.
        let _ = thread::Builder::new().spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut part) {
                let mut bytes = into.lock().unwrap_or_else(PoisonError::into_inner);
                bytes.extend_from_slice(&part[..length]);
                let excess = bytes.len().saturating_sub(KEPT);
                bytes.drain(..excess);
            }
            let _ = ended.send(());
        });
        Self { bytes, over }
    }

    fn until(self, deadline: Instant) -> String {
        let _ = self.over.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Outcome {
        run(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn a_result_is_told_from_other_words() {
        let outcome =
            shell("echo noise; echo worse >&2; printf 'p2p-doctor-result {}\\n'", Duration::from_secs(20));
        assert_eq!(outcome.result.as_deref(), Some("{}"));
        assert!(outcome.is_well());
        assert_eq!(outcome.said(), "it said: noise | worse");
    }

    #[test]
    fn who_hangs_is_ended_with_all_that_it_started() {
        let begin = Instant::now();
        // What is left behind holds the pipe open.
        let outcome = shell("sleep 60 & echo begun; wait", Duration::from_millis(200));
        assert!(matches!(outcome.ended, Ended::Late(_)), "{outcome:?}");
        assert_eq!((outcome.result.as_deref(), outcome.said().as_str()), (None, "it said: begun"));
        let outcome = shell("sleep 60 & exit 3", Duration::from_secs(20));
        assert_eq!(
            (outcome.how().as_str(), outcome.is_well()),
            ("ended the process (exit status: 3)", false)
        );
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; \
                      echo last";
        let said = shell(script, Duration::from_secs(20)).said();
        assert!(said.starts_with("it said: ...") && said.ends_with("| last"), "{said}");
        assert!(said.chars().count() < SHOWN + 20, "{said}");
    }

    #[test]
    fn what_cannot_be_started_is_said() {
        let outcome = run(&mut Command::new("/nonexistent/program"), Duration::from_secs(1));
        assert!(outcome.how().starts_with("could not be tried"), "{}", outcome.how());
    }
}
