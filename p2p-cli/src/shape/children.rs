//! All processes of this host, started and watched by one that the user started.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use tcpx_core::config::Config;

use super::Shape;
use super::report::Report;
use super::voice::{Line, Voice};
use crate::bench;
use crate::bench::Role;
use crate::bench::spawn::{CHOOSE_NICS, program};
use crate::failure::{Failure, PEER_LOST, SAID};

const LOOPBACK: &str = "127.0.0.1";
/// NICs of a machine that stands for two hosts, where the user names none: as many as an A3-high machine has.
const USUAL_NICS: u8 = 4;
const POLL: Duration = Duration::from_millis(10);
/// How long the others may go on after one has failed without a word, or after one is done.
const GRACE: Duration = Duration::from_secs(15);

/// Starts the processes of a shape on this host: all of them, or with `--role` this host's. Returns what they came to,
/// unless that is told on the other host.
pub(super) fn run(
    shape: Shape,
    options: &bench::Options,
    config: &Config,
) -> Result<Option<Report>, Failure> {
    let each = match shape {
        Shape::Orchestrator => 1,
        Shape::PerGpu => options.shape.gpus.len() as u32,
    };
    let world = 2 * each;
    let (ranks, speaker) = match options.role {
        None => (0..world, Some(0)),
        Some(Role::Server) => (0..each, None),
        Some(Role::Client) => (each..world, Some(each)),
    };
    let voice = if options.quiet { Voice::Silent } else { Voice::Person };
    if options.role == Some(Role::Server) && !options.quiet {
        crate::output::print(&format!(
            "{}: waiting for a client on port {}\n",
            shape.name(),
            super::base_port(config)
        ))?;
    }
    let mut children = Children::default();
    let mut words = None;
    for rank in ranks {
        let mut command = command(shape, options, rank, world, speaker == Some(rank))?;
        let mut child =
            command.spawn().map_err(|error| Failure::new(format!("starting rank {rank}: {error}")))?;
        words = words.or_else(|| child.stdout.take().map(hear));
        children.all.push((rank, child, None));
    }
    let report = children.watch(words.as_ref(), voice)?;
    if speaker.is_some() && report.is_none() {
        return Err(Failure::new("the processes ended well and told nothing"));
    }
    Ok(report)
}

/// The command of one process.
fn command(
    shape: Shape,
    options: &bench::Options,
    rank: u32,
    world: u32,
    speaks: bool,
) -> Result<Command, Failure> {
    let list = |numbers: &[u8]| numbers.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
    let sizes: Vec<String> = options.sizes.iter().map(usize::to_string).collect();
    let mut command = Command::new(program()?);
    command.args(["bench", "--child", "--shape", shape.name()]);
    command.args(["--rank", &rank.to_string(), "--world", &world.to_string()]);
    command.args(["--gpus", &list(&options.shape.gpus)]);
    command.args(["--channels", &super::channels(shape, options).to_string()]);
    command.args(["--sizes", &sizes.join(","), "--seconds", &options.seconds.to_string()]);
    if let Some(nics) = options.nics {
        command.args(["--nics", &nics.to_string()]);
    }
    if let Some(plugin) = &options.plugin {
        command.arg("--plugin").arg(plugin);
    }
    if options.shape.setup_only {
        command.arg("--setup-only");
    }
    if speaks {
        command.arg("--speaks");
    }
    let peer = options.peer.as_deref().unwrap_or(LOOPBACK);
    match options.role {
        None => {
            command.args(["--peer", LOOPBACK, "--listen", LOOPBACK]);
            if CHOOSE_NICS.iter().all(|name| std::env::var_os(name).is_none()) {
                let nics = options.nics.unwrap_or(USUAL_NICS);
                let addresses: Vec<String> = (1..=nics).map(|nic| format!("127.0.0.{nic}")).collect();
                command.env(CHOOSE_NICS[0], addresses.join(","));
            }
        }
        Some(_) => {
            command.args(["--peer", peer]);
            if let Some(listen) = options.listen {
                command.args(["--listen", &listen.to_string()]);
            }
        }
    }
    command.stdin(Stdio::null()).stdout(if speaks { Stdio::piped() } else { Stdio::null() });
    Ok(command)
}

/// What the process that speaks says, line by line.
fn hear(stdout: ChildStdout) -> Receiver<Line> {
    let (said, hears) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str(&line) else { continue };
            if said.send(line).is_err() {
                return;
            }
        }
    });
    hears
}

/// Processes by rank, and how each ended. Those that run are ended with this.
#[derive(Debug, Default)]
struct Children {
    all: Vec<(u32, Child, Option<Ended>)>,
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug)]
enum Ended {
    Itself(ExitStatus),
    /// This process ended it, so how it ended says nothing.
    ByUs,
}

impl Ended {
    fn well(self) -> bool {
        matches!(self, Self::Itself(status) if status.success())
    }

    fn has_code(self, code: u8) -> bool {
        matches!(self, Self::Itself(status) if status.code() == Some(code.into()))
    }
}

impl Children {
    /// Passes on what is said until all have ended. When one has said why it failed, the others are ended at once;
    /// otherwise they get a while to end by themselves, since they may have more to say.
    fn watch(&mut self, words: Option<&Receiver<Line>>, voice: Voice) -> Result<Option<Report>, Failure> {
        let mut report = None;
        let mut limit: Option<Instant> = None;
        loop {
            let silent = pass_on(words, voice, &mut report)?;
            self.look()?;
            let ended: Vec<Ended> = self.all.iter().filter_map(|(_, _, ended)| *ended).collect();
            if ended.len() == self.all.len() && silent {
                break;
            }
            if ended.iter().any(|ended| ended.has_code(SAID)) {
                limit = Some(Instant::now());
            } else if !ended.is_empty() {
                limit = limit.or_else(|| Some(Instant::now() + GRACE));
            }
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                self.end();
            }
            thread::sleep(POLL);
        }
        self.verdict()?;
        Ok(report)
    }

    fn look(&mut self) -> Result<(), Failure> {
        for (rank, child, ended) in &mut self.all {
            if ended.is_none() {
                let status = child
                    .try_wait()
                    .map_err(|error| Failure::new(format!("rank {rank} cannot be waited for: {error}")))?;
                *ended = status.map(Ended::Itself);
            }
        }
        Ok(())
    }

    fn end(&mut self) {
        for (_, child, ended) in self.all.iter_mut().filter(|(_, _, ended)| ended.is_none()) {
            // It may have ended at this moment.
            let _ = child.kill();
            let _ = child.wait();
            *ended = Some(Ended::ByUs);
        }
    }

    /// What is left to say about how they ended.
    fn verdict(&self) -> Result<(), Failure> {
        let ended = || self.all.iter().filter_map(|(rank, _, ended)| Some((rank, (*ended)?)));
        if ended().any(|(_, ended)| ended.has_code(SAID)) {
            return Err(Failure::said());
        }
        for (rank, ended) in ended() {
            if let Ended::Itself(status) = ended
                && !ended.well()
                && !ended.has_code(PEER_LOST)
            {
                return Err(Failure::new(format!("rank {rank} ended without a word ({status})")));
            }
        }
        match ended().find(|(_, ended)| !ended.well()) {
            None => Ok(()),
            Some((rank, Ended::Itself(_))) => {
                Err(Failure::new(format!("rank {rank} lost the others; see what the other host says")))
            }
            Some((rank, Ended::ByUs)) => Err(Failure::new(format!(
                "rank {rank} went on for {} s after another one was done, so it was ended",
                GRACE.as_secs()
            ))),
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end();
    }
}

/// Passes on what was said so far. True if no more can come.
fn pass_on(
    words: Option<&Receiver<Line>>,
    voice: Voice,
    report: &mut Option<Report>,
) -> Result<bool, Failure> {
    let Some(words) = words else { return Ok(true) };
    loop {
        match words.try_recv() {
            Ok(Line::Phase(phase)) => voice.phase(&phase)?,
            Ok(Line::Moving { text }) => voice.moving(text)?,
            Ok(Line::Report(told)) => *report = Some(*told),
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => return Ok(true),
        }
    }
}
