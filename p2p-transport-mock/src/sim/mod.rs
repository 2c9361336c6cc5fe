//! A random workload in a random world, whose every byte and event is checked.
//!
//! Some processes connect, send, receive, cancel, retire, close and come back, in any order, while a script of
//! faults runs. They share one memory of what was done, so that each outcome can be judged. In the end the
//! faults are switched off, and everything must come to its end within a bound of virtual time.

mod act;
mod bed;
mod judge;
mod people;
mod talk;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2p_transport::{Control, Now};

use self::bed::{Bed, BedState};
use self::people::{ConnState, Pair, Person, Way, Work};
use self::talk::Talker;
use crate::planted::Planted;
use crate::{NicModel, Personality, Random, Script, SendDone, Settings, Strikes, World};

/// What a run is like, where it is not left to its seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The personality; the seed's choice if there is none.
    pub personality: Option<Personality>,
    /// The faults; the seed's choice if there are none.
    pub script: Option<Script>,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Events that happened.
    pub steps: u64,
    /// Messages and one-sided transfers that arrived.
    pub arrived: u64,
    /// Virtual time that it took.
    pub took: Duration,
    /// One number for everything that happened.
    pub trace: u64,
    /// How often faults struck.
    pub strikes: Strikes,
    /// What was wrong, in words.
    pub findings: Vec<String>,
    /// What was not left to the seed.
    pub options: Options,
}

impl Outcome {
    /// What does the same again: a command, or the options that a test has to give to [`run`] where the seed
    /// alone did not decide.
    pub fn replay(&self) -> String {
        let Options { personality, script } = &self.options;
        if personality.is_none() && script.is_none() {
            return format!("cargo xtask sim --seeds 1 --seed {}", self.seed);
        }
        format!("the seed alone does not do it: sim::run({}, &{:?})", self.seed, self.options)
    }
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Outcome {
    run_planted(seed, options, None)
}

pub(crate) fn run_planted(seed: u64, options: &Options, bug: Option<Planted>) -> Outcome {
    let mut sim = Sim::new(seed, options, bug);
    let actions = sim.random.between(40, 160);
    for _ in 0..actions {
        sim.act();
        for _ in 0..sim.random.below(6) {
            sim.step();
            if !sim.findings.is_empty() {
                break;
            }
        }
        sim.poll_some();
        if !sim.findings.is_empty() {
            break;
        }
    }
    sim.world.calm();
    if sim.findings.is_empty() {
        sim.settle("messages that have a partner", Sim::balance);
    }
    if sim.findings.is_empty() {
        sim.close_all();
        sim.settle("connections and regions", Sim::all_closed);
    }
    if sim.findings.is_empty() {
        sim.judge_ends();
    }
    sim.outcome(seed, options.clone())
}

/// How long, in virtual time, everything may take once no fault strikes any more.
const BOUND: Duration = Duration::from_millis(500);
/// As many steps are more than any such end takes.
const STEPS: u64 = 200_000;

pub(crate) struct Sim {
    world: World,
    random: Random,
    people: Vec<Person>,
    pairs: Vec<Pair>,
    next_uid: u64,
    uniform: bool,
    findings: Vec<String>,
}

impl Sim {
    fn new(seed: u64, options: &Options, bug: Option<Planted>) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let settings = settings(&mut random, options.personality);
        let uniform = !settings.checks_length;
        let world = World::new(seed, settings);
        world.plant(bug);
        let script = options
            .script
            .clone()
            .unwrap_or_else(|| Script::swarm(&mut random, 40, Duration::from_millis(1)));
        let mut people = Vec::new();
        for _ in 0..random.between(2, 4) {
            let nics: Vec<NicModel> = (0..random.between(1, 4)).map(|_| nic(&mut random)).collect();
            let node = world.add_node(&nics);
            let mut control = node.control();
            let Ok(door) = control.listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))) else { continue };
            people.push(Person {
                transport: node.transport(),
                nics: nics.len() as u16,
                beds: Vec::new(),
                conns: Vec::new(),
                talker: Talker { control, door, talks: Vec::new() },
                stale: Vec::new(),
            });
        }
        world.script(script);
        let (pairs, findings) = (Vec::new(), Vec::new());
        Self { world, random, people, pairs, next_uid: 1, uniform, findings }
    }

    fn uid(&mut self) -> u64 {
        self.next_uid += 1;
        self.next_uid
    }

    fn find(&mut self, text: impl Into<String>) {
        self.findings.push(text.into());
    }

    fn step(&mut self) -> bool {
        let stepped = self.world.step();
        self.findings.extend(self.world.take_findings());
        for person in &self.people {
            for bed in person.beds.iter().filter(|bed| bed.state != BedState::Gone) {
                if bed.memory.owners() != 2 {
                    self.findings.push(format!("{:?} was freed while it was registered", bed.region));
                    return stepped;
                }
            }
        }
        stepped
    }

    /// Everything goes on until `done` says so.
    fn settle(&mut self, what: &str, done: fn(&mut Self) -> bool) {
        let end = self.world.now().after(BOUND);
        let last = self.world.steps() + STEPS;
        loop {
            self.poll_all();
            let finished = done(self);
            if !self.findings.is_empty() || finished && !self.poll_all() {
                return;
            }
            let moved = self.step();
            if !self.findings.is_empty() {
                return;
            }
            if self.world.now() > end
                || self.world.steps() > last
                || !moved && !self.poll_all() && !done(self)
            {
                let state = self.unfinished();
                self.find(format!("liveness: {what} did not come to an end: {state}"));
                return;
            }
        }
    }

    /// Sends and receives without a partner get one; true once nothing is pending.
    fn balance(&mut self) -> bool {
        let mut idle = true;
        for pair in 0..self.pairs.len() {
            for side in 0..2 {
                idle &= self.balance_way(pair, side);
            }
        }
        let connecting = |conn: &people::Conn| conn.state == ConnState::Pending;
        idle && !self.people.iter().flat_map(|person| &person.conns).any(connecting)
    }

    fn balance_way(&mut self, pair: usize, side: usize) -> bool {
        let ends = self.pairs[pair].ends;
        let states = ends.map(|(person, conn)| {
            let conn = &self.people[person].conns[conn];
            (conn.state, conn.closed_by_me, conn.pending.is_empty())
        });
        if states.iter().any(|(state, closed, _)| *state == ConnState::Closed || *closed) {
            return states.iter().all(|(state, ..)| *state == ConnState::Closed);
        }
        if states.iter().any(|(state, ..)| *state == ConnState::Pending) {
            return false;
        }
        let way = &self.pairs[pair].ways[side];
        let (sends, recvs) = (Way::counted(&way.sends), Way::counted(&way.recvs));
        if sends > recvs {
            self.submit(ends[1 - side], &[Work::Recv], false);
        } else if recvs > sends {
            self.submit(ends[side], &[Work::Send], false);
        }
        sends == recvs && states.iter().all(|(.., empty)| *empty)
    }

    fn close_all(&mut self) {
        for pair in 0..self.pairs.len() {
            let side = self.random.index(2);
            let (person, conn) = self.pairs[pair].ends[side];
            self.close(person, conn);
        }
        for person in 0..self.people.len() {
            for bed in 0..self.people[person].beds.len() {
                self.retire(person, bed);
            }
        }
    }

    fn all_closed(&mut self) -> bool {
        let open = |person: &Person| {
            person.conns.iter().any(|conn| conn.state != ConnState::Closed)
                || person.beds.iter().any(|bed| bed.state != BedState::Gone)
        };
        !self.people.iter().any(open) && self.unheard().is_none()
    }

    fn unfinished(&self) -> String {
        let mut text = self.unheard().unwrap_or_default();
        for (number, person) in self.people.iter().enumerate() {
            for conn in person.conns.iter().filter(|conn| conn.state != ConnState::Closed) {
                let works: Vec<Work> = conn.pending.iter().map(|pending| pending.work).collect();
                let (pair, side, closed) = (conn.pair, conn.side, conn.closed_by_me);
                let (id, state) = (conn.id, conn.state);
                text += &format!(
                    "{number}: {id:?} of pair {pair}, side {side}, {state:?}, closed {closed}, {works:?}; "
                );
            }
            for bed in person.beds.iter().filter(|bed| bed.state == BedState::Retiring) {
                text += &format!("{number}: {:?} retires; ", bed.region);
            }
        }
        text
    }

    fn outcome(mut self, seed: u64, options: Options) -> Outcome {
        let world = self.world.clone();
        self.findings.extend(world.findings());
        let failed = !self.findings.is_empty();
        let memories: Vec<_> =
            self.people.iter().flat_map(|person| &person.beds).map(|bed| bed.memory.clone()).collect();
        self.people.clear();
        if !failed && memories.iter().any(|memory| memory.owners() != 1) {
            self.findings.push("a dropped transport kept memory".to_owned());
        }
        let Now(took) = world.now();
        Outcome {
            seed,
            steps: world.steps(),
            arrived: world.arrived(),
            took,
            trace: world.trace(),
            strikes: world.strikes(),
            findings: self.findings,
            options,
        }
    }
}

fn nic(random: &mut Random) -> NicModel {
    NicModel {
        bytes_per_second: [1_000_000_000, 5_000_000_000, 25_000_000_000][random.index(3)],
        latency: Duration::from_nanos(random.between(0, 20_000)),
    }
}

/// A legal kind of backend.
fn settings(random: &mut Random, personality: Option<Personality>) -> Settings {
    let seeded = if random.one_in(2) { Personality::Plugin } else { Personality::Rdma };
    let mut settings = match personality.unwrap_or(seeded) {
        Personality::Plugin => Settings::plugin(),
        Personality::Rdma => Settings::rdma(),
    };
    if settings.personality == Personality::Rdma {
        (settings.sends_per_channel, settings.recvs_per_channel) = (20, 24);
        settings.one_sided_ops = 8;
        settings.shuffle = Duration::from_nanos(random.between(0, 20_000));
    }
    settings.max_message = bed::LONGEST;
    settings.checks_length = !random.one_in(4);
    settings.eager_bytes = [0, 700, 64 << 10][random.index(3)];
    settings.send_done = if random.one_in(2) { SendDone::Sent } else { SendDone::Acknowledged };
    settings.posted_is_started = random.one_in(4);
    settings.segment = random.between(50, 500) as u32;
    settings.unpack = Duration::from_nanos(random.between(0, 3_000));
    settings.control_buffer = random.between(50, 1000) as usize;
    settings
}

/// A new bed's place in a list.
fn place(beds: &mut Vec<Bed>, bed: Bed) -> usize {
    beds.push(bed);
    beds.len() - 1
}

#[cfg(test)]
mod tests;
