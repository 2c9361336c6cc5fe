//! One process of a run, from its endpoints to the report: the phases in order, then the passes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use p2p_endpoint::exports::Item;
use serde::{Deserialize, Serialize};
use tcpx_core::config::Config;

use super::data::{Mine, Order, PairDone, SILENCE, Way};
use super::gpus::Gpus;
use super::launcher::{Rank, Rendezvous};
use super::layout::{Asked, Layout, Node, Present};
use super::nics::Nics;
use super::report::{ListenedAgain, Pass, Phase, Report};
use super::system::{self, Carried, Use};
use super::tally::{nics_of_hosts, pass_of};
use super::voice::Voice;
use super::world::World;
use super::{Shape, table};
use crate::bench;
use crate::bench::bootstrap::Door;
use crate::failure::Failure;

/// Messages of each pair in a timed pass at most.
const MOST_MESSAGES: u64 = 100_000;

/// Which process this is.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) shape: Shape,
    pub(super) rank: Rank,
    pub(super) voice: Voice,
}

/// Which host a member is of. An orchestrator is all there is of its host.
fn node(member: &Member) -> Node {
    let Rank { rank, node, .. } = member.rank;
    match (member.shape, node) {
        (Shape::Orchestrator, _) => Node::Number(rank),
        (Shape::PerGpu, Some(node)) => Node::Number(node),
        (Shape::PerGpu, None) => Node::Machine(system::machine()),
    }
}

/// Goes through the whole run, and returns what all processes came to.
pub(super) fn member(member: &Member, options: &bench::Options, config: &Config) -> Result<Report, Failure> {
    let channels = super::channels(member.shape, options);
    let own = match member.shape {
        Shape::Orchestrator => options.shape.gpus.clone(),
        Shape::PerGpu => vec![super::gpu_of(&options.shape.gpus, member.rank.local_rank)?],
    };
    let nics = Nics::open(options, config)?;
    let gpus = Gpus::new(nics, config.clone(), member.shape, channels, options.listen);
    let asked = Asked {
        shape: member.shape,
        channels,
        sizes: options.sizes.clone(),
        seconds: options.seconds,
        setup_only: options.shape.setup_only,
    };
    let patience = Duration::from_secs(config.connect_timeout_seconds.value.get());
    let mut session =
        Session { gpus, own, asked, patience, voice: member.voice, phases: Vec::new(), number: 0 };
    session.run(member, options.listen)
}

struct Session {
    gpus: Gpus,
    /// Numbers of this process's GPUs.
    own: Vec<u8>,
    asked: Asked,
    patience: Duration,
    voice: Voice,
    phases: Vec<Phase>,
    /// Passes so far.
    number: u64,
}

/// What a process did in a phase, and how long it took.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Step {
    count: u64,
    nanoseconds: u64,
}

impl Step {
    fn since(begin: Instant, count: usize) -> Self {
        Self { count: count as u64, nanoseconds: begin.elapsed().as_nanos() as u64 }
    }
}

impl Session {
    fn run(&mut self, member: &Member, listen: Option<IpAddr>) -> Result<Report, Failure> {
        let begin = Instant::now();
        self.gpus.listen(&self.own)?;
        let listened = Step::since(begin, self.own.len());
        let again = self.listen_again()?;
        let begin = Instant::now();
        let mut world = join(member, listen, self.patience)?;
        // Before anybody waits for long: who listens is known to all.
        let steps = world.gather("listening", Ok((listened, again)), self.patience)?;
        let again = steps.iter().fold(ListenedAgain::default(), |sum, (_, again)| sum.and(again));
        let steps: Vec<Step> = steps.into_iter().map(|(step, _)| step).collect();
        self.passed("listen", "endpoints", &steps)?;
        let layout = self.bootstrap(&mut world, member, begin)?;
        self.accept(&mut world, &layout)?;
        let items = self.register(&mut world, &layout)?;
        let mut passes = Vec::new();
        if !self.asked.setup_only {
            passes = self.passes(&mut world, &layout, &items)?;
        }
        let used = world.gather("ending", Ok(Use::now()), self.patience)?;
        self.gpus.close(&layout, world.rank());
        let memory =
            if self.gpus.nics().has_gpus() { "host buffers" } else { "host buffers in place of GPUs" };
        Ok(Report {
            shape: member.shape,
            plugin: self.gpus.nics().describe(),
            memory: memory.to_owned(),
            hosts: layout.hosts.len(),
            processes: used.len(),
            endpoints: layout.gpus.len(),
            pairs: layout.pairs.len(),
            channels: layout.channels(),
            nics: nics_of_hosts(&layout),
            setup_only: self.asked.setup_only,
            phases: std::mem::take(&mut self.phases),
            listened_again: again,
            passes,
            used,
        })
    }

    /// What listens already goes on listening: nothing is opened, and nothing is left behind.
    fn listen_again(&mut self) -> Result<ListenedAgain, Failure> {
        let before = Use::now();
        let opened = self.gpus.listen(&self.own)?;
        let after = Use::now();
        Ok(ListenedAgain {
            opened,
            descriptors: after.descriptors.saturating_sub(before.descriptors),
            threads: after.threads.saturating_sub(before.threads),
        })
    }

    /// Tells what all have done in a phase.
    fn passed(&mut self, name: &str, what: &str, steps: &[Step]) -> Result<(), Failure> {
        let longest = steps.iter().map(|step| step.nanoseconds).max().unwrap_or(0);
        let phase = Phase {
            name: name.to_owned(),
            count: steps.iter().map(|step| step.count).sum(),
            what: what.to_owned(),
            milliseconds: longest as f64 / 1e6,
        };
        self.voice.phase(&phase)?;
        self.phases.push(phase);
        Ok(())
    }

    /// Everybody learns where everybody's endpoints are.
    fn bootstrap(&mut self, world: &mut World, member: &Member, begin: Instant) -> Result<Layout, Failure> {
        let reached_at = if self.gpus.is_reached_as_told() { None } else { world.reached_at() };
        let present =
            Present { node: node(member), asked: self.asked.clone(), gpus: self.gpus.present(), reached_at };
        let all = world.gather("exchanging handles", Ok(present), self.patience)?;
        // All find the same, so that one of them says what is wrong.
        let layout = Layout::new(&all).map_err(|failure| {
            if world.rank() == 0 { failure } else { Failure::peer(failure.to_string()) }
        })?;
        let step = Step::since(begin, self.own.len());
        let steps = world.gather("exchanging handles", Ok(step), self.patience)?;
        self.passed("bootstrap", "handles exchanged", &steps)?;
        Ok(layout)
    }

    /// All links come up.
    fn accept(&mut self, world: &mut World, layout: &Layout) -> Result<(), Failure> {
        let begin = Instant::now();
        let linked = self.gpus.link(layout, world.rank(), world.first_at(), self.patience);
        let step = linked.map(|count| Step::since(begin, count));
        // Those who connect and those who accept begin together, and may each take as long as that.
        let mut steps = world.gather("connecting", step, self.patience * 2)?;
        // Each link has two ends.
        let ends: u64 = steps.iter().map(|step| step.count).sum();
        let channels = layout.channels();
        if ends != 2 * layout.pairs.len() as u64 {
            return Err(Failure::peer(format!("{} pairs have {ends} ends of links", layout.pairs.len())));
        }
        steps.iter_mut().for_each(|step| step.count = 0);
        steps[0].count = channels;
        self.passed("accept", &format!("channels of {} links", layout.pairs.len()), &steps)
    }

    /// All memory is registered, and everybody learns what opens it, by the position of its GPU.
    fn register(&mut self, world: &mut World, layout: &Layout) -> Result<BTreeMap<usize, Item>, Failure> {
        let begin = Instant::now();
        let registered = self.gpus.register(layout, world.rank());
        let own = registered.map(|items| (Step::since(begin, items.len()), items));
        let all = world.gather("registering", own, self.patience * 2)?;
        let steps: Vec<Step> = all.iter().map(|(step, _)| *step).collect();
        let mut items = BTreeMap::new();
        for (rank, (_, of_rank)) in (0_u32..).zip(all) {
            for (gpu, bytes) in of_rank {
                let is_it = |placed: &super::layout::Placed| placed.rank == rank && placed.of.gpu == gpu;
                let at = layout.gpus.iter().position(is_it);
                let at = at.ok_or_else(|| Failure::peer(format!("rank {rank} has no GPU {gpu}")))?;
                items.insert(at, Item::from_bytes(&bytes).map_err(|error| Failure::peer(error.to_string()))?);
            }
        }
        let bytes: usize = layout.gpus.iter().map(|placed| placed.memory).sum();
        let what = format!("regions registered, {} together", table::human(bytes as u64));
        self.passed("register", &what, &steps)?;
        Ok(items)
    }

    /// Each way once with every byte checked, and once timed.
    fn passes(
        &mut self,
        world: &mut World,
        layout: &Layout,
        items: &BTreeMap<usize, Item>,
    ) -> Result<Vec<Pass>, Failure> {
        self.voice.moving("touching all memory".to_owned())?;
        let touched = Mine { gpus: &self.gpus, layout, rank: world.rank(), items }.touch();
        world.gather("touching memory", touched, self.patience + SILENCE)?;
        let mut passes = Vec::new();
        for way in [Way::Write, Way::Read] {
            self.voice.moving(format!("{} of all {} pairs, verified", way.name(), layout.pairs.len()))?;
            let verified = self.pass(world, layout, items, way, true, 1)?;
            let each = self.asked.seconds as f64 / 2.0;
            // All have the same figures, and come to the same number.
            let messages = (each / verified.seconds.max(1e-6)) as u64;
            let whole = verified.failed().next().is_none();
            passes.push(verified);
            if whole {
                let messages = messages.clamp(1, MOST_MESSAGES);
                self.voice.moving(format!("{} of all pairs, timed, {messages} messages each", way.name()))?;
                passes.push(self.pass(world, layout, items, way, false, messages)?);
            }
        }
        Ok(passes)
    }

    fn pass(
        &mut self,
        world: &mut World,
        layout: &Layout,
        items: &BTreeMap<usize, Item>,
        way: Way,
        verified: bool,
        messages: u64,
    ) -> Result<Pass, Failure> {
        self.number += 1;
        let order = Order { way, verified, messages, number: self.number };
        let mine = Mine { gpus: &self.gpus, layout, rank: world.rank(), items };
        let prepared = if verified { mine.prepare(&order) } else { Ok(()) };
        let (nics, kernel) = (mine.by_nic(), system::interfaces());
        let long = self.patience + Duration::from_secs(self.asked.seconds * 4) + SILENCE * 2;
        world.gather("preparing", prepared, long)?;
        let ran = mine.run(&order);
        let done: Vec<PairDone> = world.gather("moving", ran, long)?.into_iter().flatten().collect();
        let mut whole = vec![false; layout.pairs.len()];
        let mut at_least = 0;
        for one in &done {
            let pair = layout.pairs.get(one.pair).ok_or_else(|| Failure::peer("there is no such pair"))?;
            whole[one.pair] = one.failed == 0;
            let ends = [pair.from, pair.to].map(|end| layout.gpus[end].rank);
            let here = ends.iter().filter(|rank| **rank == world.rank()).count() as u64;
            at_least += one.messages * pair.bytes as u64 * here;
        }
        let moved = mine.carried(&nics, at_least);
        let kernel = system::interfaces().into_iter().map(|(name, now)| {
            let before = kernel.get(&name).copied().unwrap_or_default();
            (name, now.since(before))
        });
        let kernel: BTreeMap<String, Carried> = kernel.collect();
        let checked = if verified { mine.check(&order, |pair| whole[pair]) } else { Ok(()) };
        let all = world.gather("checking", checked.map(|()| (moved, kernel)), long)?;
        Ok(pass_of(layout, &order, &done, &all))
    }
}

/// Finds the others.
fn join(member: &Member, listen: Option<IpAddr>, patience: Duration) -> Result<World, Failure> {
    let Rank { rank, world, rendezvous: Rendezvous { host, port }, .. } = &member.rank;
    if *world > super::world::MOST_RANKS {
        return Err(Failure::new(format!(
            "{world} processes: at most {} can be measured at once",
            super::world::MOST_RANKS
        )));
    }
    if *rank > 0 {
        return World::follow(host, *port, *rank, *world, patience);
    }
    let door = Door::open(listen, *port)?;
    if member.voice == Voice::Person {
        crate::output::print(&format!(
            "waiting for {} other process{} on port {port}\n",
            world - 1,
            if *world == 2 { "" } else { "es" }
        ))?;
    }
    World::lead(&door, *world, patience)
}
