//! A script that runs: what was asked for, and what was promised.

use bytes::Bytes;
use p2p_proto::id::{RegionKey, TransferId};
use p2p_proto::list::{List, LocalRange, RemoteRange};
use p2p_proto::peer::{Caps, Outcome, Rejected};
use p2p_proto::stripe::RailLimits;

use crate::check::Partner;
use crate::memory::Memory;
use crate::random::Random;
use crate::script::{Act, What, Wrong};
use crate::world::{End, Promise, World};

/// What the caller was promised about a transfer.
pub(crate) struct Job {
    pub(crate) end: usize,
    pub(crate) transfer: TransferId,
    pub(crate) kind: JobKind,
    pub(crate) local: Vec<LocalRange>,
    /// At the other end; of a write or a read.
    pub(crate) remote: Vec<LocalRange>,
    pub(crate) wrong: Wrong,
    pub(crate) counter: Option<u32>,
    pub(crate) abandoned: bool,
    /// Memory of it was taken back.
    pub(crate) released: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum JobKind {
    Write,
    Read,
    Send,
    Recv,
}

/// Whose turn it was, what it said, and the write that it waits for.
pub(crate) struct Said {
    pub(crate) end: usize,
    pub(crate) bytes: Bytes,
    pub(crate) after: Option<TransferId>,
}

/// A script that runs.
pub(crate) struct Run {
    pub(crate) world: World,
    random: Random,
    pub(crate) jobs: Vec<Job>,
    pub(crate) said: Vec<Said>,
    /// Something was lost.
    pub(crate) faulty: bool,
}

impl Run {
    pub(crate) fn new(seed: u64, limits: [Vec<RailLimits>; 2], caps: [Caps; 2]) -> Self {
        Self {
            world: World::new(seed, limits, caps),
            random: Random::new(seed ^ 1),
            jobs: Vec::new(),
            said: Vec::new(),
            faulty: false,
        }
    }

    pub(crate) fn act(&mut self, act: &Act) {
        let end = act.end;
        match act.what {
            What::Write { total, pieces, counter, wrong, notices } => {
                let local = self.lay_out(end, total, pieces[0], true);
                let remote = self.lay_out(1 - end, total, pieces[1], false);
                let list = list_of(&local);
                let named = self.name(&remote, wrong);
                let begun = self.world.ends[end].peer.write(list, named, counter);
                let wrong = if total == 0 { Wrong::Nothing } else { wrong };
                let job = Job { counter, remote, wrong, ..Job::new(end, JobKind::Write, local) };
                let bytes = self.world.ends[end].memory.gather(&job.local);
                let promise = Promise { end: 1 - end, ranges: job.remote.clone(), bytes };
                if let Some(transfer) = self.begun(begun, job) {
                    for _ in 0..notices {
                        self.notify(end, Some(transfer), 20, Some(promise.clone()));
                    }
                }
            }
            What::Read { total, pieces, wrong } => {
                let local = self.lay_out(end, total, pieces[0], false);
                let remote = self.lay_out(1 - end, total, pieces[1], true);
                let list = list_of(&local);
                let named = self.name(&remote, wrong);
                let begun = self.world.ends[end].peer.read(list, named);
                let wrong = if total == 0 { Wrong::Nothing } else { wrong };
                self.begun(begun, Job { remote, wrong, ..Job::new(end, JobKind::Read, local) });
            }
            What::Send { total, pieces } => {
                let local = self.lay_out(end, total, pieces, true);
                let begun = self.world.ends[end].peer.send(list_of(&local));
                self.begun(begun, Job::new(end, JobKind::Send, local));
            }
            What::Recv { capacity, pieces } => {
                let local = self.lay_out(end, capacity, pieces, false);
                let begun = self.world.ends[end].peer.recv(list_of(&local));
                self.begun(begun, Job::new(end, JobKind::Recv, local));
            }
            What::Notify { length } => self.notify(end, None, length, None),
            What::Abandon { nth } => {
                // Sends and receives meet by their order, and what is withdrawn takes no place in it.
                let moves = |job: &&mut Job| matches!(job.kind, JobKind::Write | JobKind::Read);
                if let Some(job) = self.jobs.iter_mut().filter(moves).nth(nth) {
                    self.world.collect(job.end);
                    job.abandoned |=
                        self.world.ends[job.end].live.iter().any(|(live, _)| *live == job.transfer);
                    self.world.ends[job.end].peer.abandon(job.transfer);
                }
            }
            What::Release { nth, here } => {
                let moves = |job: &&mut Job| matches!(job.kind, JobKind::Write | JobKind::Read);
                let Some(job) = self.jobs.iter_mut().filter(moves).nth(nth) else { return };
                let (end, ranges) = if here { (job.end, &job.local) } else { (1 - job.end, &job.remote) };
                if let Some(range) = ranges.first() {
                    job.released = true;
                    self.world.release(end, range.region);
                }
            }
            What::LoseRail { rail } => {
                self.faulty = true;
                let rail = rail % self.world.ends[end].lost.len();
                self.world.lose_rail(end, rail);
            }
            What::LoseLink => {
                self.faulty = true;
                self.world.lose_stream(end);
            }
        }
    }

    fn lay_out(&mut self, end: usize, total: u64, pieces: usize, source: bool) -> Vec<LocalRange> {
        self.world.ends[end].memory.lay_out(&mut self.random, total, pieces, source)
    }

    /// Memory of the peer, or nearly so.
    fn name(&mut self, ranges: &[LocalRange], wrong: Wrong) -> List<RemoteRange> {
        let mut named = Memory::advertise(ranges);
        let nth = self.random.below(named.len() as u64) as usize;
        if let Some(range) = named.get_mut(nth) {
            match wrong {
                Wrong::Nothing => {}
                Wrong::Key => range.key = RegionKey { secret: range.key.secret + 1, ..range.key },
                Wrong::Range => range.offset += 1 << 20,
            }
        }
        List::of(named).expect("it breaks no limit")
    }

    fn begun(&mut self, begun: Result<TransferId, Rejected>, mut job: Job) -> Option<TransferId> {
        let over = self.world.ends[job.end].peer.is_over();
        let transfer = match begun {
            Ok(transfer) => transfer,
            Err(rejected) => {
                assert!(over && rejected == Rejected::Over, "{rejected}");
                return None;
            }
        };
        job.transfer = transfer;
        let regions = job.local.iter().map(|range| range.region).collect();
        self.world.ends[job.end].live.push((transfer, regions));
        self.jobs.push(job);
        Some(transfer)
    }

    fn notify(&mut self, end: usize, after: Option<TransferId>, length: usize, promise: Option<Promise>) {
        let number = self.said.len() as u32;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend((0..length).map(|index| (index as u32 ^ number) as u8));
        let bytes = Bytes::from(bytes);
        match self.world.ends[end].peer.notify(after, bytes.clone()) {
            Ok(()) => {
                if let Some(promise) = promise {
                    self.world.promises.insert(number, promise);
                }
                self.said.push(Said { end, bytes, after });
            }
            Err(rejected) => assert!(self.world.ends[end].peer.is_over(), "{rejected}"),
        }
    }

    /// Lets everything end, and looks at what has come of it.
    pub(crate) fn finish(mut self) {
        self.world.settle_faults();
        self.world.settle();
        let waiting: Vec<(usize, TransferId)> = (0..2)
            .flat_map(|end| self.world.ends[end].live.iter().map(move |(live, _)| (end, *live)))
            .collect();
        for (end, transfer) in waiting {
            let job = self
                .jobs
                .iter_mut()
                .find(|job| job.end == end && job.transfer == transfer)
                .expect("somebody began it");
            let waits = self.world.ends[end].peer.waits_for(transfer).expect("it is not over");
            assert!(
                matches!(job.kind, JobKind::Send | JobKind::Recv),
                "a {:?} does not end: {waits}",
                job.kind
            );
            job.abandoned = true;
            self.world.ends[end].peer.abandon(transfer);
        }
        self.world.settle();
        for end in 0..2 {
            let End { live, peer, memory, .. } = &self.world.ends[end];
            assert!(live.is_empty(), "these do not end: {live:?}");
            assert!(peer.is_over() || peer.is_idle(), "an end is not idle");
            assert!(memory.gone.iter().all(|region| !peer.holds(*region)), "memory is held for ever");
            memory.check();
        }
        self.check_outcomes();
        self.check_notices();
        self.check_counters();
        if !self.world.ends.iter().any(|end| end.peer.is_over()) {
            self.goes_on();
        }
    }

    /// What is left of the link works as before.
    fn goes_on(&mut self) {
        let before = self.jobs.len();
        self.faulty = false;
        for end in 0..2 {
            let what =
                What::Write { total: 3000, pieces: [3, 5], counter: None, wrong: Wrong::Nothing, notices: 0 };
            self.act(&Act { end, what, steps: 0 });
            let what = What::Read { total: 3000, pieces: [5, 3], wrong: Wrong::Nothing };
            self.act(&Act { end, what, steps: 0 });
        }
        self.world.settle();
        for job in &self.jobs[before..] {
            let outcome = self.world.outcome(job.end, job.transfer);
            assert_eq!(outcome, Some(Outcome::Done { bytes: 3000 }), "the link does not go on");
            self.check_bytes(job, Partner::Nobody);
        }
    }
}

impl Job {
    fn new(end: usize, kind: JobKind, local: Vec<LocalRange>) -> Self {
        Self {
            end,
            transfer: TransferId(0),
            kind,
            local,
            remote: Vec::new(),
            wrong: Wrong::Nothing,
            counter: None,
            abandoned: false,
            released: false,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.local.iter().map(|range| range.len).sum()
    }
}

fn list_of(ranges: &[LocalRange]) -> List<LocalRange> {
    List::of(ranges.iter().copied()).expect("it breaks no limit")
}
