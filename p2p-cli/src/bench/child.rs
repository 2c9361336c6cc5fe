//! Processes that are waited for no longer than a bound.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// How a process ended. After `time` it is ended, which says nothing.
pub(super) fn end_within(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(POLL),
            Err(_) => break,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// What `find` makes of the first line of a process's standard output of which it makes anything, if that comes in time.
/// Further lines are read and forgotten.
pub(super) fn first_line<T: Send + 'static>(
    child: &mut Child,
    time: Duration,
    find: impl Fn(&str) -> Option<T> + Send + 'static,
) -> Option<T> {
    let out = child.stdout.take()?;
    let (said, hears) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if let Some(found) = find(&line) {
                let _ = said.send(found);
            }
        }
    });
    hears.recv_timeout(time).ok()
}

/// All of a process's standard output, and how it ended; after `time` it is ended.
pub(super) fn whole_output(child: &mut Child, time: Duration) -> (String, Option<ExitStatus>) {
    let out = child.stdout.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut out) = out {
            // What cannot be read is missing, and found missing by who wants it.
            let _ = out.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = end_within(child, time);
    (reader.join().unwrap_or_default(), status)
}

#[cfg(test)]
mod tests {
    use super::{end_within, first_line, whole_output};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell")
    }

    #[test]
    fn who_goes_on_is_ended() {
        let begin = Instant::now();
        let mut child = shell("exec sleep 60");
        assert!(end_within(&mut child, Duration::from_millis(50)).is_none());
        assert!(child.try_wait().expect("known").is_some() && begin.elapsed() < Duration::from_secs(30));
        assert_eq!(
            end_within(&mut shell("exit 3"), Duration::from_secs(30)).and_then(|end| end.code()),
            Some(3)
        );
    }

    #[test]
    fn the_first_line_that_means_something_is_found() {
        let number = |line: &str| line.strip_prefix("ready ").and_then(|port| port.parse::<u16>().ok());
        let patience = Duration::from_secs(30);
        let mut child = shell("echo hello; echo ready x; echo ready 7; echo ready 8; exec sleep 0.1");
        assert_eq!(first_line(&mut child, patience, number), Some(7));
        end_within(&mut child, patience);
        assert_eq!(first_line(&mut shell("echo nothing"), patience, number), None);
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let mut child = shell("head -c 300000 /dev/zero | tr '\\0' x");
        let (text, status) = whole_output(&mut child, Duration::from_secs(30));
        assert_eq!((text.len(), status.is_some_and(|status| status.success())), (300_000, true));
    }
}
