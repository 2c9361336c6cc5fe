//! `p2p bench --shape`: bytes between all GPUs of two hosts, in the two ways in which jobs are deployed.
//!
//! *Orchestrator*: one process per host owns all GPUs, and GPU n here is linked with GPU n there over all NICs that it
//! may use. *Per GPU*: one process per GPU on the one NIC of that GPU, linked with every GPU of the other hosts.

mod children;
mod content;
mod data;
mod gpus;
mod launcher;
mod layout;
mod nics;
mod report;
mod session;
mod system;
mod table;
mod tally;
mod voice;
mod world;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tcpx_core::config::Config;

use crate::bench;
use crate::failure::Failure;
use crate::output::{self, Kept};
use launcher::{BasePort, Hand, Rank};
use report::Report;
use session::Member;
use voice::Voice;

/// How the processes of a job own its GPUs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Choice {
    /// One process per host owns all GPUs; each is linked with the one of its number, over all NICs it may use
    Orchestrator,
    /// One process per GPU, each on the NIC of its GPU; every GPU is linked with every one of the other hosts
    PerGpu,
    /// One after the other, side by side
    Both,
}

/// One of the two shapes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// One process per host.
    Orchestrator,
    /// One process per GPU.
    PerGpu,
}

impl Shape {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Orchestrator => "orchestrator",
            Self::PerGpu => "per-gpu",
        }
    }
}

/// What a user can choose of the shapes.
#[derive(Args, Clone, Debug)]
#[group(id = "shapes")]
pub(crate) struct Options {
    /// Moves bytes between the GPUs of two hosts, in one of the ways in which jobs are deployed; --sizes are those of
    /// the pairs, in turn
    #[arg(long, value_enum)]
    pub(crate) shape: Option<Choice>,
    /// GPUs of each host; where there are none, host buffers stand for them
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "0,1,2,3,4,5,6,7",
        requires = "shape"
    )]
    pub(crate) gpus: Vec<u8>,
    /// Ends when all memory is registered: nothing is moved
    #[arg(long, requires = "shape")]
    pub(crate) setup_only: bool,
    /// Which process of --shape per-gpu this is, from 0, where no torchrun, srun or mpirun says so; the others find
    /// rank 0 at --peer
    #[arg(long, value_name = "N", requires = "shape")]
    pub(crate) rank: Option<u32>,
    /// How many processes there are; the first half stands for one host, the second for the other
    #[arg(long, value_name = "N", requires = "shape")]
    pub(crate) world: Option<u32>,
    /// Tells the process that started it what it comes to
    #[arg(long, hide = true)]
    pub(crate) speaks: bool,
}

impl Options {
    /// Whether this process says again what another one has said that was started with it.
    pub(crate) fn is_started_follower(&self) -> bool {
        self.shape.is_some() && self.rank.is_some_and(|rank| rank > 0)
    }
}

/// Runs what was asked for: as one of several processes, or with all of them started from here.
pub(crate) fn run(choice: Choice, options: &bench::Options) -> Result<(), Failure> {
    check(options)?;
    let shapes: &[Shape] = match choice {
        Choice::Orchestrator => &[Shape::Orchestrator],
        Choice::PerGpu => &[Shape::PerGpu],
        Choice::Both => &[Shape::Orchestrator, Shape::PerGpu],
    };
    let config = Config::from_process().map_err(|error| Failure::new(error.to_string()))?;
    let json = options.json.as_deref().map(Kept::new).transpose()?;
    let reports = if let Some(rank) = launched(options, &config)? {
        let &[shape] = shapes else {
            return Err(Failure::new(
                "--shape both starts its processes itself: choose one of the shapes, or start it without a launcher",
            ));
        };
        let Some(report) = launched_member(shape, rank, options, &config)? else { return Ok(()) };
        vec![report]
    } else {
        let mut reports = Vec::new();
        for &shape in shapes {
            let started = children::run(shape, options, &config)?;
            if let Some(report) = started {
                output::print(&table::shape(&report))?;
                reports.push(report);
            }
        }
        reports
    };
    // The server's side of two hosts leaves the figures to the client's.
    if reports.is_empty() {
        return Ok(());
    }
    json.map_or(Ok(()), |json| json.write(&Kinds { shapes: &reports }))?;
    if reports.len() > 1 {
        output::print(&table::side_by_side(&reports))?;
    }
    reports.iter().find_map(Report::failure).map_or(Ok(()), |text| Err(Failure::new(text)))
}

/// What is kept with `--json`.
#[derive(Debug, Serialize)]
struct Kinds<'a> {
    /// One for each shape, in the order in which they ran.
    shapes: &'a [Report],
}

/// Which of several processes this one is, if it is one.
fn launched(options: &bench::Options, config: &Config) -> Result<Option<Rank>, Failure> {
    if options.role.is_some() && options.shape.rank.is_none() && options.shape.world.is_none() {
        return Ok(None);
    }
    if options.role.is_some() {
        return Err(Failure::new("--rank and --world do not go with --role: leave one of the two ways out"));
    }
    let hand = Hand { rank: options.shape.rank, world: options.shape.world, peer: options.peer.as_deref() };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let base = BasePort { port: base_port(config), is_chosen: config.bootstrap_port_base.is_from_user() };
    launcher::rank(hand, &variables, base).map_err(|error| Failure::new(error.to_string()))
}

/// Where rank 0 waits, unless a launcher says another port.
fn base_port(config: &Config) -> u16 {
    config.bootstrap_port_base.value.of(config.local_device.value).get()
}

/// Goes through the run as this rank. The report is of the one that speaks; the others leave it to that one.
fn launched_member(
    shape: Shape,
    rank: Rank,
    options: &bench::Options,
    config: &Config,
) -> Result<Option<Report>, Failure> {
    let is_child = options.is_child();
    if is_child {
        // The parent may end without a chance to say so.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
    let speaks = !is_child && rank.rank == 0;
    let voice = match (is_child && options.shape.speaks, speaks && !options.quiet) {
        (true, _) => Voice::Parent,
        (false, true) => Voice::Person,
        (false, false) => Voice::Silent,
    };
    let report = session::member(&Member { shape, rank, voice }, options, config)?;
    voice.report(&report)?;
    if !speaks {
        return Ok(None);
    }
    output::print(&table::shape(&report))?;
    Ok(Some(report))
}

/// Channels of each link: the first number is that of the first shape, the second that of the other.
fn channels(shape: Shape, options: &bench::Options) -> u8 {
    let both = options.shape.shape == Some(Choice::Both);
    let at = usize::from(both && shape == Shape::PerGpu).min(options.channels.len().saturating_sub(1));
    options.channels.get(at).copied().unwrap_or(1)
}

/// The GPU of a process that is the n-th of its host.
fn gpu_of(gpus: &[u8], local_rank: u32) -> Result<u8, Failure> {
    gpus.get(local_rank as usize).copied().ok_or_else(|| {
        Failure::new(format!(
            "this is process {local_rank} of its host, counted from 0, and --gpus names {} of them: start one process \
             for each GPU",
            gpus.len()
        ))
    })
}

/// Whether nothing is asked for that a shape does not have.
fn check(options: &bench::Options) -> Result<(), Failure> {
    let (role, listen, peer) = (options.role, options.listen.is_some(), options.peer.is_some());
    let by_hand = options.shape.rank.is_some();
    let wrong = [
        (options.backend == bench::Backend::Mock, "--backend mock", "its processes are real ones"),
        (options.calibrate, "--calibrate", "it measures no plain TCP"),
        (!options.sweep.is_empty(), "--sweep", "run it with other --channels instead"),
        (options.compare.is_some(), "--compare", "its links are compared with what their NICs should carry"),
        (options.report.is_some(), "--report", "--json keeps its figures"),
        (options.congestion.is_some(), "--congestion", "set TCPX_SOFT_CONGESTION for all processes"),
        (listen && role != Some(bench::Role::Server) && !by_hand, "--listen", "it is for --role server"),
        (peer && role == Some(bench::Role::Server), "--peer", "the server waits for the client"),
    ];
    if let Some((_, name, why)) = wrong.into_iter().find(|(given, ..)| *given) {
        return Err(Failure::new(format!("{name} does not go with this --shape: {why}; leave it out")));
    }
    let gpus = &options.shape.gpus;
    let mut sorted = gpus.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != gpus.len() {
        return Err(Failure::new("--gpus names a GPU twice: name each once"));
    }
    Ok(())
}
