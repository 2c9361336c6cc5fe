//! What both ends are asked to do, what goes wrong meanwhile, and what must have come of it.

use std::collections::VecDeque;

use bytes::Bytes;
use p2p_proto::frame::Refusal;
use p2p_proto::id::{RegionKey, TransferId};
use p2p_proto::list::{List, LocalRange, RemoteRange};
use p2p_proto::peer::{Caps, Happened, Outcome, Rejected};
use p2p_proto::stripe::RailLimits;
use proptest::prelude::*;

use crate::memory::Memory;
use crate::random::Random;
use crate::world::{End, Promise, World};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Faults {
    None,
    Rails,
    Link,
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) rails: Vec<RailPlan>,
    /// Bytes of control that may wait.
    pub(crate) control: u32,
    /// Messages that may be announced and not landed.
    pub(crate) announced: u32,
    pub(crate) acts: Vec<Act>,
}

#[derive(Clone, Debug)]
pub(crate) struct RailPlan {
    pub(crate) max_message: u32,
    pub(crate) slices: [u16; 2],
    pub(crate) sends: [u16; 2],
    pub(crate) recvs: [u16; 2],
}

#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) end: usize,
    pub(crate) what: What,
    /// Small things that happen before the next one.
    pub(crate) steps: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Write { total: u64, pieces: [usize; 2], counter: Option<u32>, wrong: Wrong, notices: u8 },
    Read { total: u64, pieces: [usize; 2], wrong: Wrong },
    Send { total: u64, pieces: usize },
    Recv { capacity: u64, pieces: usize },
    Notify { length: usize },
    Abandon { nth: usize },
    LoseRail { rail: usize },
    LoseLink,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wrong {
    Nothing,
    Key,
    Range,
}

/// What the caller was promised about a transfer.
struct Job {
    end: usize,
    transfer: TransferId,
    kind: JobKind,
    local: Vec<LocalRange>,
    /// At the other end; of a write or a read.
    remote: Vec<LocalRange>,
    wrong: Wrong,
    counter: Option<u32>,
    abandoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum JobKind {
    Write,
    Read,
    Send,
    Recv,
}

/// Whose turn it was, what it said, and the write that it waits for.
struct Said {
    end: usize,
    bytes: Bytes,
    after: Option<TransferId>,
}

pub(crate) fn scripts(faults: Faults) -> impl Strategy<Value = Script> {
    let rails = prop::collection::vec(rail_plan(), 1..5);
    let acts = prop::collection::vec(act(faults), 1..24);
    let announced = prop_oneof![Just(0u32), 1u32..20, Just(4096)];
    let control = prop_oneof![Just(1u32), 100u32..2000, Just(256 << 10)];
    (any::<u64>(), rails, control, announced, acts)
        .prop_map(|(seed, rails, control, announced, acts)| Script { seed, rails, control, announced, acts })
}

fn rail_plan() -> impl Strategy<Value = RailPlan> {
    let pair = || [1u16..17, 1u16..17];
    let slices = prop_oneof![Just([1, 1]), [1u16..6, 1u16..6]];
    (prop_oneof![16u32..200, 200u32..5000], slices, pair(), pair())
        .prop_map(|(max_message, slices, sends, recvs)| RailPlan { max_message, slices, sends, recvs })
}

fn act(faults: Faults) -> impl Strategy<Value = Act> {
    let total = || prop_oneof![1 => Just(0u64), 4 => 1u64..300, 4 => 300u64..8000];
    let pieces = || prop_oneof![1usize..4, 4usize..30];
    let wrong = || prop_oneof![8 => Just(Wrong::Nothing), 1 => Just(Wrong::Key), 1 => Just(Wrong::Range)];
    let counter = prop::option::of(0u32..3);
    let write = (total(), [pieces(), pieces()], counter, wrong(), 0u8..3).prop_map(
        |(total, pieces, counter, wrong, notices)| What::Write { total, pieces, counter, wrong, notices },
    );
    let read = (total(), [pieces(), pieces()], wrong()).prop_map(|(total, pieces, wrong)| What::Read {
        total,
        pieces,
        wrong,
    });
    let send = (total(), pieces()).prop_map(|(total, pieces)| What::Send { total, pieces });
    let recv = (total(), pieces()).prop_map(|(capacity, pieces)| What::Recv { capacity, pieces });
    let notify = prop_oneof![0usize..50, Just(40_000usize)].prop_map(|length| What::Notify { length });
    let abandon = (0usize..8).prop_map(|nth| What::Abandon { nth });
    let fault = match faults {
        Faults::None => Just(What::Notify { length: 1 }).boxed(),
        Faults::Rails => (0usize..4).prop_map(|rail| What::LoseRail { rail }).boxed(),
        Faults::Link => Just(What::LoseLink).boxed(),
    };
    let what = prop_oneof![
        6 => write, 4 => read, 4 => send, 4 => recv, 2 => notify, 1 => abandon, 1 => fault
    ];
    (0usize..2, what, prop_oneof![Just(0u16), 1u16..60, 60u16..400]).prop_map(|(end, what, steps)| Act {
        end,
        what,
        steps,
    })
}

impl Script {
    pub(crate) fn run(&self) {
        let caps = Caps { control: self.control, announced: self.announced, ..Caps::default() };
        let limits = [0, 1].map(|end: usize| {
            let rail = |rail: &RailPlan| RailLimits {
                max_message: rail.max_message,
                max_slices: rail.slices[end],
                peer_slices: rail.slices[1 - end],
                max_sends: rail.sends[end],
                max_recvs: rail.recvs[end],
                megabits: 0,
            };
            self.rails.iter().map(rail).collect()
        });
        let mut run = Run {
            world: World::new(self.seed, limits, [caps; 2]),
            random: Random::new(self.seed ^ 1),
            jobs: Vec::new(),
            said: Vec::new(),
            faulty: false,
        };
        for act in &self.acts {
            run.act(act);
            (0..act.steps).for_each(|_| run.world.step());
        }
        run.finish();
    }
}

struct Run {
    world: World,
    random: Random,
    jobs: Vec<Job>,
    said: Vec<Said>,
    faulty: bool,
}

impl Run {
    fn act(&mut self, act: &Act) {
        let end = act.end;
        match act.what {
            What::Write { total, pieces, counter, wrong, notices } => {
                let local = self.lay_out(end, total, pieces[0], true);
                let remote = self.lay_out(1 - end, total, pieces[1], false);
                let list = List::of(local.iter().copied()).unwrap();
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
                let list = List::of(local.iter().copied()).unwrap();
                let named = self.name(&remote, wrong);
                let begun = self.world.ends[end].peer.read(list, named);
                let wrong = if total == 0 { Wrong::Nothing } else { wrong };
                self.begun(begun, Job { remote, wrong, ..Job::new(end, JobKind::Read, local) });
            }
            What::Send { total, pieces } => {
                let local = self.lay_out(end, total, pieces, true);
                let begun = self.world.ends[end].peer.send(List::of(local.iter().copied()).unwrap());
                self.begun(begun, Job::new(end, JobKind::Send, local));
            }
            What::Recv { capacity, pieces } => {
                let local = self.lay_out(end, capacity, pieces, false);
                let begun = self.world.ends[end].peer.recv(List::of(local.iter().copied()).unwrap());
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
        List::of(named).unwrap()
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
    fn finish(mut self) {
        self.world.settle_faults();
        self.world.settle();
        let waiting: Vec<(usize, TransferId)> = (0..2)
            .flat_map(|end| self.world.ends[end].live.iter().map(move |(live, _)| (end, *live)))
            .collect();
        for (end, transfer) in waiting {
            let job = self.jobs.iter_mut().find(|job| job.end == end && job.transfer == transfer).unwrap();
            let waits = self.world.ends[end].peer.waits_for(transfer).unwrap();
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
            memory.check();
        }
        self.check_outcomes();
        self.check_notices();
        self.check_counters();
        if !self.world.ends.iter().any(|end| end.peer.is_over()) {
            self.goes_on();
        }
    }

    fn check_outcomes(&self) {
        let partners = self.partners();
        for (index, job) in self.jobs.iter().enumerate() {
            let outcome = self.world.outcome(job.end, job.transfer).unwrap();
            let bytes = job.local.iter().map(|range| range.len).sum::<u64>();
            let expected = if job.abandoned {
                Some(Outcome::Abandoned)
            } else {
                match (job.kind, job.wrong) {
                    (JobKind::Write | JobKind::Read, Wrong::Nothing) => Some(Outcome::Done { bytes }),
                    (JobKind::Write | JobKind::Read, Wrong::Key) => {
                        Some(Outcome::Refused(Refusal::UnknownKey))
                    }
                    (JobKind::Write | JobKind::Read, Wrong::Range) => {
                        Some(Outcome::Refused(Refusal::OutOfRange))
                    }
                    (JobKind::Send, _) if partners[index] == Partner::TooLong => {
                        Some(Outcome::Refused(Refusal::TooLong))
                    }
                    (JobKind::Send, _) => Some(Outcome::Done { bytes }),
                    (JobKind::Recv, _) => match partners[index] {
                        Partner::Job(sender) => Some(Outcome::Done { bytes: self.jobs[sender].bytes() }),
                        Partner::TooLong | Partner::Nobody => None,
                    },
                }
            };
            let lost = matches!(outcome, Outcome::RailLost(_) | Outcome::LinkLost);
            assert!(
                Some(outcome) == expected || self.faulty && lost,
                "{:?} of end {} ended as {outcome:?}, not as {expected:?}",
                job.kind,
                job.end
            );
            if let Outcome::Done { .. } = outcome {
                self.check_bytes(job, partners[index]);
            }
        }
    }

    fn check_bytes(&self, job: &Job, partner: Partner) {
        let here = self.world.ends[job.end].memory.gather(&job.local);
        let other = match (job.kind, partner) {
            (JobKind::Write | JobKind::Read, _) => &job.remote,
            (JobKind::Send | JobKind::Recv, Partner::Job(partner)) => &self.jobs[partner].local,
            (JobKind::Send | JobKind::Recv, Partner::TooLong | Partner::Nobody) => {
                unreachable!("it met nobody")
            }
        };
        let there = self.world.ends[1 - job.end].memory.gather(other);
        let same = if job.kind == JobKind::Recv {
            here[..there.len()] == there[..] && here[there.len()..].iter().all(|byte| *byte == 0xee)
        } else if job.kind == JobKind::Send {
            there[..here.len()] == here[..]
        } else {
            here == there
        };
        assert!(same, "{:?} of end {} is done, and the bytes differ", job.kind, job.end);
    }

    /// Which send meets which receive, by their order alone.
    fn partners(&self) -> Vec<Partner> {
        let mut partners = vec![Partner::Nobody; self.jobs.len()];
        for end in 0..2 {
            let of = |end: usize, kind: JobKind| -> VecDeque<usize> {
                (0..self.jobs.len())
                    .filter(|job| self.jobs[*job].end == end && self.jobs[*job].kind == kind)
                    .collect()
            };
            let (mut sends, mut recvs) = (of(end, JobKind::Send), of(1 - end, JobKind::Recv));
            while let (Some(send), Some(recv)) = (sends.front().copied(), recvs.front().copied()) {
                sends.pop_front();
                if self.jobs[send].bytes() > self.jobs[recv].bytes() {
                    partners[send] = Partner::TooLong;
                } else {
                    recvs.pop_front();
                    partners[send] = Partner::Job(recv);
                    partners[recv] = Partner::Job(send);
                }
            }
        }
        partners
    }

    fn check_notices(&self) {
        for end in 0..2 {
            let heard: Vec<&Bytes> = self.world.ends[1 - end].happened.iter().filter_map(notified).collect();
            let said = || self.said.iter().filter(|said| said.end == end);
            for bytes in &heard {
                assert!(said().any(|said| said.bytes == **bytes), "a notification that nobody said");
                assert_eq!(heard.iter().filter(|other| *other == bytes).count(), 1, "it was heard twice");
            }
            let plain: Vec<&Bytes> =
                said().filter(|said| said.after.is_none()).map(|said| &said.bytes).collect();
            let mut plain_heard = heard.clone();
            plain_heard.retain(|bytes| plain.contains(bytes));
            assert!(plain.starts_with(&plain_heard), "notifications are out of order");
            assert!(self.faulty || plain == plain_heard, "a notification is missing");
            for said in said() {
                let Some(after) = said.after else { continue };
                let job = self.jobs.iter().find(|job| job.end == end && job.transfer == after).unwrap();
                let is_heard = heard.contains(&&said.bytes);
                if job.wrong != Wrong::Nothing {
                    assert!(!is_heard, "a notification after a write that was refused");
                } else if !self.faulty {
                    assert!(is_heard, "a notification after a write is missing");
                }
            }
        }
    }

    fn check_counters(&self) {
        for end in 0..2 {
            for counter in 0..3 {
                let counted = Happened::Counted(counter);
                let heard = self.world.ends[1 - end].happened.iter().filter(|what| **what == counted).count();
                let good = |job: &&Job| {
                    job.end == end && job.counter == Some(counter) && job.wrong == Wrong::Nothing
                };
                let good = self.jobs.iter().filter(good);
                let done = good.clone().filter(|job| {
                    matches!(
                        self.world.outcome(end, job.transfer),
                        Some(Outcome::Done { .. } | Outcome::Abandoned)
                    )
                });
                assert!(heard <= good.count());
                assert!(heard >= done.count() || self.faulty, "a counter was not raised");
            }
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

#[derive(Clone, Copy, Debug, PartialEq)]
enum Partner {
    Job(usize),
    /// Of a send: longer than the receive that it met.
    TooLong,
    Nobody,
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
        }
    }

    fn bytes(&self) -> u64 {
        self.local.iter().map(|range| range.len).sum()
    }
}

fn notified(happened: &Happened) -> Option<&Bytes> {
    match happened {
        Happened::Notified(bytes) => Some(bytes),
        Happened::Ended { .. }
        | Happened::Counted(_)
        | Happened::RailBroken(_)
        | Happened::Goodbye(_)
        | Happened::Lost(_) => None,
    }
}
