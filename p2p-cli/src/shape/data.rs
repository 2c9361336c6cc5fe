//! All pairs move bytes at once: each has a few messages under way until it has moved its number.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use p2p_endpoint::endpoint::{OpId, Status};
use p2p_endpoint::engine::{LinkId, Part, Request};
use p2p_endpoint::exports::Item;
use p2p_proto::peer::Outcome;
use serde::{Deserialize, Serialize};

use super::content::{self, Place};
use super::gpus::{Gpu, Gpus, Registered};
use super::layout::{Layout, Pair, Placed};
use crate::failure::Failure;

/// Messages of a pair under way at once, in a timed pass.
const IN_FLIGHT: u64 = 2;
/// How long nothing at all may end.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// How long one look for an end waits.
const LOOK: Duration = Duration::from_millis(1);
/// How long the counters may lag behind the ends of transfers.
const SETTLE: Duration = Duration::from_secs(2);

/// Which way bytes go, as the first GPU of a pair sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Write,
    Read,
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// What every pair does in a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) way: Way,
    pub(super) verified: bool,
    pub(super) messages: u64,
    /// Part of the seeds.
    pub(super) number: u64,
}

/// What a pair came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct PairDone {
    pub(super) pair: usize,
    pub(super) messages: u64,
    pub(super) failed: u64,
    pub(super) reason: Option<String>,
    /// From the start of the pass to its last end.
    pub(super) nanoseconds: u64,
}

/// Bytes of messages by NIC, sent and received, of all endpoints of a process.
pub(super) type ByNic = BTreeMap<String, (u64, u64)>;

/// What this process's part of a run is: what it has, and what it knows.
pub(super) struct Mine<'a> {
    pub(super) gpus: &'a Gpus,
    pub(super) layout: &'a Layout,
    pub(super) rank: u32,
    /// What opens the memory of a GPU, by its position in the layout.
    pub(super) items: &'a BTreeMap<usize, Item>,
}

impl Mine<'_> {
    fn own(&self, placed: &Placed) -> Result<Option<(&Gpu, &Registered)>, Failure> {
        if placed.rank != self.rank {
            return Ok(None);
        }
        let gpu = self.gpus.get(placed.of.gpu)?;
        let memory = gpu.memory.as_ref().ok_or_else(|| Failure::new("memory is not registered"))?;
        Ok(Some((gpu, memory)))
    }

    /// Calls `from` and `to` for each pair that begins, or ends, in this process.
    fn each(
        &self,
        mut from: impl FnMut(usize, &Pair, &Registered) -> Result<(), Failure>,
        mut to: impl FnMut(usize, &Pair, &Registered) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        for (number, pair) in self.layout.pairs.iter().enumerate() {
            if let Some((_, memory)) = self.own(&self.layout.gpus[pair.from])? {
                from(number, pair, memory)?;
            }
            if let Some((_, memory)) = self.own(&self.layout.gpus[pair.to])? {
                to(number, pair, memory)?;
            }
        }
        Ok(())
    }

    /// Touches all memory, so that no page of it is first used while time is taken.
    pub(super) fn touch(&self) -> Result<(), Failure> {
        let all = |number, pair: &Pair, memory: &Registered, offset| {
            let bytes = pair.places * pair.stride();
            content::fill(&memory.region, Place { offset, bytes }, content::seed(0, number))
        };
        self.each(
            |number, pair, memory| all(number, pair, memory, pair.from_offset),
            |number, pair, memory| all(number, pair, memory, pair.to_offset),
        )
    }

    /// Writes what is to be moved, and makes wrong what is to be overwritten.
    pub(super) fn prepare(&self, order: &Order) -> Result<(), Failure> {
        let seed = |pair| content::seed(order.number, pair);
        let source = |pair, memory: &Registered, place| content::fill(&memory.region, place, seed(pair));
        let target = |pair, memory: &Registered, place| content::poison(&memory.region, place, seed(pair));
        self.each(
            |number, pair, memory| match order.way {
                Way::Write => source(number, memory, pair.at_from()),
                Way::Read => target(number, memory, pair.at_from()),
            },
            |number, pair, memory| match order.way {
                Way::Write => target(number, memory, pair.at_to()),
                Way::Read => source(number, memory, pair.at_to()),
            },
        )
    }

    /// Checks every byte that came here, of pairs that moved all they had to.
    pub(super) fn check(&self, order: &Order, is_whole: impl Fn(usize) -> bool) -> Result<(), Failure> {
        let check = |number: usize, pair: &Pair, memory: &Registered, place| {
            let (from, to) = (&self.layout.gpus[pair.from], &self.layout.gpus[pair.to]);
            let what = format!("a {} of {} at {}", order.way.name(), from.name(), to.name());
            let seed = content::seed(order.number, number);
            if is_whole(number) { content::check(&memory.region, place, seed, &what) } else { Ok(()) }
        };
        self.each(
            |number, pair, memory| match order.way {
                Way::Read => check(number, pair, memory, pair.at_from()),
                Way::Write => Ok(()),
            },
            |number, pair, memory| match order.way {
                Way::Write => check(number, pair, memory, pair.at_to()),
                Way::Read => Ok(()),
            },
        )
    }

    /// Moves the bytes of all pairs that begin here.
    pub(super) fn run(&self, order: &Order) -> Result<Vec<PairDone>, Failure> {
        let begin = Instant::now();
        let mut movers = Vec::new();
        for (number, pair) in self.layout.pairs.iter().enumerate() {
            let Some((gpu, memory)) = self.own(&self.layout.gpus[pair.from])? else { continue };
            movers.push(self.mover(number, pair, gpu, memory)?);
        }
        let mut moved_at = Instant::now();
        while movers.iter().any(|mover| !mover.is_over(order)) {
            let mut moved = false;
            for mover in &mut movers {
                moved |= mover.step(order, begin, Duration::ZERO);
            }
            if !moved && let Some(waiting) = movers.iter_mut().find(|mover| !mover.under_way.is_empty()) {
                moved = waiting.step(order, begin, LOOK);
            }
            if moved {
                moved_at = Instant::now();
            } else if moved_at.elapsed() > SILENCE {
                return Err(stuck(&movers));
            }
        }
        movers.iter_mut().for_each(Mover::explain);
        Ok(movers.into_iter().map(|mover| mover.done).collect())
    }

    fn mover<'a>(
        &self,
        number: usize,
        pair: &Pair,
        gpu: &'a Gpu,
        memory: &Registered,
    ) -> Result<Mover<'a>, Failure> {
        let missing = |what| Failure::new(format!("pair {number} has no {what}"));
        let link = *gpu.links.get(&number).ok_or_else(|| missing("link"))?;
        let whole = self.items.get(&pair.to).ok_or_else(|| missing("memory to reach"))?;
        let narrow = |place: usize| {
            let offset = pair.to_offset + place * pair.stride();
            let far = whole.narrow(whole.address() + offset as u64, pair.bytes as u64);
            let offset = (pair.from_offset + place * pair.stride()) as u64;
            far.map(|far| (Part { mr: memory.mr, offset, len: pair.bytes as u64 }, far))
        };
        let places: Result<Vec<_>, _> = (0..pair.places).map(narrow).collect();
        let done = PairDone { pair: number, messages: 0, failed: 0, reason: None, nanoseconds: 0 };
        Ok(Mover {
            gpu,
            link,
            places: places.map_err(|error| Failure::peer(error.to_string()))?,
            rails: self.layout.rails(pair).iter().map(|rail| format!("{}-{}", rail.from, rail.to)).collect(),
            under_way: VecDeque::new(),
            started: 0,
            done,
        })
    }

    /// What the NICs have carried for the endpoints of this process.
    pub(super) fn by_nic(&self) -> ByNic {
        let mut all = ByNic::new();
        for (_, gpu) in self.gpus.iter() {
            for nic in gpu.endpoint.counters().by_nic {
                let sum = all.entry(nic.nic).or_default();
                sum.0 += nic.messages.sent.bytes;
                sum.1 += nic.messages.received.bytes;
            }
        }
        all
    }

    /// What they have carried since `before`, once the counters stand still. A transfer is over when its peer says that
    /// it has all; that the last messages are sent is known a moment later.
    pub(super) fn carried(&self, before: &ByNic, at_least: u64) -> ByNic {
        let begin = Instant::now();
        loop {
            let now = self.by_nic();
            let since = |(nic, (sent, received)): (&String, &(u64, u64))| {
                let (before_sent, before_received) = before.get(nic).copied().unwrap_or_default();
                (nic.clone(), (sent - before_sent, received - before_received))
            };
            let moved: ByNic = now.iter().map(since).collect();
            let sum: u64 = moved.values().map(|(sent, received)| sent + received).sum();
            if sum >= at_least || begin.elapsed() > SETTLE {
                return moved;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Pair {
    const fn at_from(&self) -> Place {
        Place { offset: self.from_offset, bytes: self.bytes }
    }

    const fn at_to(&self) -> Place {
        Place { offset: self.to_offset, bytes: self.bytes }
    }
}

/// A pair at work.
struct Mover<'a> {
    gpu: &'a Gpu,
    link: LinkId,
    /// Where messages lie here, and at the peer. They rotate over all of them, so that no cache holds them.
    places: Vec<(Part, Item)>,
    /// NICs of each rail, for people.
    rails: Vec<String>,
    under_way: VecDeque<OpId>,
    started: u64,
    done: PairDone,
}

impl Mover<'_> {
    fn is_over(&self, order: &Order) -> bool {
        self.under_way.is_empty() && self.started >= order.messages
    }

    /// Takes note of what has ended, for which the oldest message is waited for so long, and starts what there is room
    /// for. True if anything ended or began.
    fn step(&mut self, order: &Order, begin: Instant, mut time: Duration) -> bool {
        let mut moved = false;
        while let Some(&id) = self.under_way.front() {
            let status = if time.is_zero() {
                self.gpu.endpoint.poll(id)
            } else {
                self.gpu.endpoint.wait(id, std::mem::take(&mut time))
            };
            let ended = match status {
                Status::Pending => break,
                Status::Ended(outcome) => Some(outcome),
                Status::Unknown => None,
            };
            self.under_way.pop_front();
            moved = true;
            self.done.nanoseconds = begin.elapsed().as_nanos() as u64;
            match ended {
                Some(Outcome::Done { .. }) => self.done.messages += 1,
                other => self.has_failed(1, other),
            }
        }
        let most = if order.verified { 1 } else { IN_FLIGHT };
        while self.started < order.messages && (self.under_way.len() as u64) < most {
            let (near, far) = self.places[(self.started % self.places.len() as u64) as usize];
            let far = [far];
            let request = match order.way {
                Way::Write => Request::Write { into: &far, counter: None },
                Way::Read => Request::Read { from: &far },
            };
            moved = true;
            if let Ok(id) = self.gpu.endpoint.start(self.link, &[near], request) {
                self.under_way.push_back(id);
                self.started += 1;
            } else {
                // The link is over, and with it all that this pair had to do.
                self.has_failed(order.messages - self.started, None);
                self.started = order.messages;
            }
        }
        moved
    }

    fn has_failed(&mut self, messages: u64, outcome: Option<Outcome>) {
        self.done.failed += messages;
        if self.done.reason.is_some() {
            return;
        }
        let why = self.gpu.endpoint.why(self.link).map(|error| error.text().to_owned());
        self.done.reason = Some(match (outcome, why) {
            (Some(Outcome::RailLost(rail)), _) => {
                let rail = usize::from(rail.0);
                let name = self.rails.get(rail).map_or("?", String::as_str);
                format!("rail {rail} of its link ({name}) was lost")
            }
            (_, Some(why)) => why,
            (Some(outcome), None) => format!("its link is up, and a transfer ended {outcome:?}"),
            (None, None) => "its link is over".to_owned(),
        });
    }

    /// Why a link ended may be known only after its first message failed.
    fn explain(&mut self) {
        let why = self.gpu.endpoint.why(self.link);
        if let (Some(reason), Some(why)) = (&mut self.done.reason, why)
            && reason != why.text()
        {
            *reason = format!("{reason}: {}", why.text());
        }
    }
}

fn stuck(movers: &[Mover<'_>]) -> Failure {
    let stalls = movers.iter().filter(|mover| !mover.under_way.is_empty());
    let stall = stalls.flat_map(|mover| mover.gpu.endpoint.stalls()).next();
    let waits = stall.map_or_else(String::new, |stall| format!(": {stall}"));
    Failure::new(format!("no transfer has ended for {} s{waits}", SILENCE.as_secs()))
}

#[cfg(test)]
mod tests;
