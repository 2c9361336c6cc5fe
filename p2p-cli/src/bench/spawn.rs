//! Both ends as processes of this machine.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::server::READY;
use crate::failure::{Failure, PEER_LOST};

const LOOPBACK: &str = "127.0.0.1";
/// Variables that choose the soft plugin's NICs. Where the user has set one, it decides.
const CHOOSE_NICS: [&str; 2] = ["TCPX_SOFT_ADDRESSES", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME"];
const POLL: Duration = Duration::from_millis(10);
/// How long a process may go on after the other has failed.
const GRACE: Duration = Duration::from_secs(5);
/// How long the server may take to say that it listens. It only has to load its plugin.
const START: Duration = Duration::from_secs(60);

/// Starts a server and a client with the arguments of this process and waits for both.
pub(super) fn both() -> Result<(), Failure> {
    let mut server = start("server", &["--listen", LOOPBACK], Stdio::piped())?;
    if !says_ready(server.stdout.take()) {
        let status = wait_for(&mut server, GRACE);
        return Err(said(status, "server"));
    }
    let client = start("client", &["--peer", LOOPBACK], Stdio::inherit());
    let mut client = match client {
        Ok(client) => client,
        Err(failure) => {
            end(&mut server);
            return Err(failure);
        }
    };
    let (server_status, client_status) = watch(&mut server, &mut client);
    for (status, name) in [(server_status, "server"), (client_status, "client")] {
        if !status.is_some_and(|status| status.success()) && !lost_its_peer(status) {
            return Err(said(status, name));
        }
    }
    for (status, name) in [(server_status, "server"), (client_status, "client")] {
        if lost_its_peer(status) {
            return Err(Failure::new(format!("the {name} lost its peer, which says nothing about why")));
        }
    }
    Ok(())
}

/// This program's file.
pub(super) fn program() -> Result<PathBuf, Failure> {
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

/// Waits for both. When one fails, the other gets a while to end by itself.
fn watch(server: &mut Child, client: &mut Child) -> (Option<ExitStatus>, Option<ExitStatus>) {
    loop {
        let (one, other) = (status(server), status(client));
        match (one, other) {
            (Some(_), Some(_)) => return (one, other),
            (Some(_), None) => return (one, wait_for(client, GRACE)),
            (None, Some(_)) => return (wait_for(server, GRACE), other),
            (None, None) => thread::sleep(POLL),
        }
    }
}

fn status(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten()
}

/// How it ended; after `time` it is ended.
fn wait_for(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + time;
    loop {
        if let Some(status) = status(child) {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return end(child);
        }
        thread::sleep(POLL);
    }
}

fn end(child: &mut Child) -> Option<ExitStatus> {
    let _ = child.kill();
    child.wait().ok()
}

fn lost_its_peer(status: Option<ExitStatus>) -> bool {
    status.and_then(|status| status.code()) == Some(PEER_LOST.into())
}

/// A process that ended with exit code 1 has said why; one that was ended has not.
fn said(status: Option<ExitStatus>, name: &str) -> Failure {
    match status {
        Some(status) if status.code() == Some(1) => Failure::said(),
        Some(status) => Failure::new(format!("the {name} ended without a word ({status})")),
        None => Failure::new(format!("the {name} cannot be waited for")),
    }
}
