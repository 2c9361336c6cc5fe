//! Both ends as processes of this machine.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::server::READY;
use crate::failure::{Failure, PEER_LOST, SAID};

const LOOPBACK: &str = "127.0.0.1";
/// Variables that choose the soft plugin's NICs. Where the user has set one, it decides.
pub(crate) const CHOOSE_NICS: [&str; 2] = ["TCPX_SOFT_ADDRESSES", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME"];
const POLL: Duration = Duration::from_millis(10);
/// How long a process may go on after the other has failed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the server may take to say that it listens. It only has to load its plugin.
const START: Duration = Duration::from_secs(60);

/// Starts a server and a client with the arguments of this process and waits for both.
pub(super) fn both() -> Result<(), Failure> {
    let mut server = start("server", &["--listen", LOOPBACK], Stdio::piped())?;
    if !says_ready(server.stdout.take()) {
        return Err(match wait_for(&mut server, GRACE) {
            Ended::ByUs => Failure::new(format!(
                "the server did not listen within {} s, so it was ended; see whether its plugin can be loaded",
                START.as_secs()
            )),
            ended @ (Ended::Itself(_) | Ended::Unknown) => why(ended, "server"),
        });
    }
    let client = start("client", &["--peer", LOOPBACK], Stdio::inherit());
    let mut client = match client {
        Ok(client) => client,
        Err(failure) => {
            end(&mut server);
            return Err(failure);
        }
    };
    let (server, client) = watch(&mut server, &mut client);
    verdict([(server, "server"), (client, "client")])
}

/// This program's file.
pub(crate) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::new(format!("finding the program's own file: {error}")))
}

fn start(role: &str, more: &[&str], stdout: Stdio) -> Result<Child, Failure> {
    let mut command = Command::new(program()?);
    command.args(std::env::args_os().skip(1)).args(["--child", "--role", role]).args(more).stdout(stdout);
    if CHOOSE_NICS.iter().all(|name| std::env::var_os(name).is_none()) {
        command.env(CHOOSE_NICS[0], LOOPBACK);
    }
    command.stdin(Stdio::null());
    command.spawn().map_err(|error| Failure::new(format!("starting the {role}: {error}")))
}

/// Whether the server says that it listens before it ends.
fn says_ready(stdout: Option<ChildStdout>) -> bool {
    let Some(stdout) = stdout else { return false };
    let (said, hears) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if line == READY {
                let _ = said.send(());
            }
        }
    });
    hears.recv_timeout(START).is_ok()
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// On its own, or by somebody else.
    Itself(ExitStatus),
    /// This process ended it, so how it ended says nothing.
    ByUs,
    Unknown,
}

impl Ended {
    fn well(self) -> bool {
        matches!(self, Self::Itself(status) if status.success())
    }

    fn has_code(self, code: u8) -> bool {
        matches!(self, Self::Itself(status) if status.code() == Some(code.into()))
    }
}

/// Waits for both. When one has said why it failed, the other is ended at once; otherwise it gets a while to
/// end by itself, since it may have more to say.
fn watch(server: &mut Child, client: &mut Child) -> (Ended, Ended) {
    let grace = |first: Ended| if first.has_code(SAID) { Duration::ZERO } else { GRACE };
    loop {
        match (status(server), status(client)) {
            (Some(one), Some(other)) => return (one, other),
            (Some(one), None) => return (one, wait_for(client, grace(one))),
            (None, Some(other)) => return (wait_for(server, grace(other)), other),
            (None, None) => thread::sleep(POLL),
        }
    }
}

/// What is left to say about how both ended.
fn verdict(ends: [(Ended, &str); 2]) -> Result<(), Failure> {
    for (ended, name) in ends {
        if !ended.well() && !ended.has_code(PEER_LOST) && !matches!(ended, Ended::ByUs) {
            return Err(why(ended, name));
        }
    }
    for (ended, name) in ends {
        if ended.has_code(PEER_LOST) {
            return Err(Failure::new(format!("the {name} lost its peer, which says nothing about why")));
        }
    }
    for (ended, name) in ends {
        if matches!(ended, Ended::ByUs) {
            return Err(why(ended, name));
        }
    }
    Ok(())
}

fn status(child: &mut Child) -> Option<Ended> {
    match child.try_wait() {
        Ok(status) => status.map(Ended::Itself),
        Err(_) => Some(Ended::Unknown),
    }
}

/// How it ended; after `time` it is ended.
fn wait_for(child: &mut Child, time: Duration) -> Ended {
    let deadline = Instant::now() + time;
    loop {
        if let Some(ended) = status(child) {
            return ended;
        }
        if Instant::now() >= deadline {
            end(child);
            return Ended::ByUs;
        }
        thread::sleep(POLL);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A process that ended with exit code 1 has said why; one that was ended has not.
fn why(ended: Ended, name: &str) -> Failure {
    match ended {
        Ended::Itself(_) if ended.has_code(SAID) => Failure::said(),
        Ended::Itself(status) => Failure::new(format!("the {name} ended without a word ({status})")),
        Ended::ByUs => Failure::new(format!(
            "the {name} went on for {} s after the other end was done, so it was ended",
            GRACE.as_secs()
        )),
        Ended::Unknown => Failure::new(format!("the {name} cannot be waited for")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ended, GRACE, verdict, watch};
    use std::process::{Child, Command};
    use std::time::Instant;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().expect("a shell")
    }

    fn both(server: &str, client: &str) -> (Ended, Ended) {
        watch(&mut shell(server), &mut shell(client))
    }

    fn text((server, client): (Ended, Ended)) -> String {
        verdict([(server, "server"), (client, "client")]).expect_err("a failure").to_string()
    }

    #[test]
    fn who_has_said_why_is_the_only_one_heard() {
        let begin = Instant::now();
        for (server, client) in [("exec sleep 60", "exit 1"), ("exit 1", "exec sleep 60")] {
            assert_eq!(text(both(server, client)), "");
        }
        assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
    }

    #[test]
    fn who_lost_its_peer_leaves_the_word_to_the_other() {
        assert_eq!(text(both("exit 4", "sleep 0.2; exit 1")), "");
        let text = text(both("kill -KILL $$", "sleep 0.2; exit 4"));
        assert!(text.contains("the server ended without a word"), "{text}");
    }

    #[test]
    fn who_does_not_end_after_a_success_is_named() {
        let text = text(both("exec sleep 60", "exit 0"));
        assert!(text.contains("the server went on"), "{text}");
    }
}
