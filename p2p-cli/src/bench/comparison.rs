//! Rounds of the product beside plain TCP, and what they say together.

use std::collections::BTreeMap;

use benches::raw_tcp::Round;
use benches::statistics::{Latencies, cpu_seconds_per_gigabyte, median, spread};
use serde::Serialize;

use super::figures::{Condition, Entry, Moved, Percentiles, same_state};
use super::plan::QUIET;
use super::text::counted;

/// Stands for the state of rounds in which the cores' distance changed or other programs ran.
const RESTLESS: &str = "restless";

/// What endpoints came to in one round, with two transfers under way.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EndpointRound {
    /// Of 64 MiB.
    pub(super) write: Moved,
    /// Of 64 MiB.
    pub(super) read: Moved,
    /// Writes of 64 MiB in 4,096 pages each.
    pub(super) vector: Moved,
    /// Of 256 MiB.
    pub(super) long_write: Moved,
}

/// Plain TCP in one round, by finalist.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct PlainRound {
    pub(super) gigabytes_per_second: Vec<f64>,
    /// With messages of 256 MiB.
    pub(super) long_gigabytes_per_second: Vec<f64>,
    /// Of both ends.
    pub(super) cpu_seconds_per_gigabyte: Vec<f64>,
}

impl PlainRound {
    pub(super) fn add(&mut self, round: &Round, long: &Round) {
        self.gigabytes_per_second.push(round.gigabytes_per_second());
        self.long_gigabytes_per_second.push(long.gigabytes_per_second());
        let cpu = cpu_seconds_per_gigabyte(round.sender_cpu + round.receiver_cpu, round.bytes);
        self.cpu_seconds_per_gigabyte.push(cpu);
    }
}

/// Small messages to and fro in one round.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Pings {
    pub(super) messages: Percentiles,
    pub(super) notifications: Percentiles,
    pub(super) plain: Percentiles,
}

impl Pings {
    pub(super) fn of(messages: &Latencies, notifications: &Latencies, plain: &Latencies) -> Self {
        let [messages, notifications, plain] = [messages, notifications, plain].map(Percentiles::of);
        Self { messages, notifications, plain }
    }
}

/// One round of the product and of plain TCP.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    /// Of the cores, if it was the same before and after.
    pub(super) state: Option<&'static str>,
    nanoseconds_before: Option<f64>,
    nanoseconds_after: Option<f64>,
    /// Threads of other programs ready to run, before or after, whichever is more.
    pub(super) others: f64,
    pub(super) messages: Entry,
    pub(super) scattered: Option<Entry>,
    pub(super) plain: PlainRound,
    pub(super) endpoint: EndpointRound,
    pub(super) to_and_fro: Pings,
    /// GB/s of the other program, where one was asked for.
    beside: Option<f64>,
}

impl Comparison {
    /// A round between two looks at the machine.
    pub(super) fn new(
        [before, after]: [Condition; 2],
        messages: Entry,
        scattered: Option<Entry>,
        plain: PlainRound,
        endpoint: EndpointRound,
        to_and_fro: Pings,
        beside: Option<f64>,
    ) -> Self {
        Self {
            state: same_state(before.distance, after.distance),
            nanoseconds_before: before.distance.nanoseconds,
            nanoseconds_after: after.distance.nanoseconds,
            others: before.others.max(after.others),
            messages,
            scattered,
            plain,
            endpoint,
            to_and_fro,
            beside,
        }
    }

    /// Whether other programs ran.
    pub(super) fn is_disturbed(&self) -> bool {
        self.others > QUIET
    }
}

/// Speeds of several rounds, beside plain TCP of the same round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Beside {
    /// Median GB/s.
    pub(super) gigabytes_per_second: f64,
    /// Median of the rounds' ratios to plain TCP.
    pub(super) ratio: f64,
    /// Of those ratios.
    pub(super) spread: f64,
}

/// What the rounds of one state say together; everything is a median.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) state: &'static str,
    /// That count.
    pub(super) rounds: usize,
    pub(super) all_rounds: usize,
    pub(super) disturbed: usize,
    /// Which finalist plain TCP is.
    #[serde(skip)]
    pub(super) baseline: usize,
    /// GB/s of plain TCP, with 64 MiB and with 256 MiB.
    pub(super) plain: f64,
    pub(super) plain_long: f64,
    pub(super) write: Beside,
    pub(super) read: Beside,
    pub(super) long_write: Beside,
    pub(super) messages: Beside,
    /// Of contiguous writes of the same round.
    pub(super) vector: f64,
    /// Of contiguous messages of the same round.
    pub(super) scattered: Option<f64>,
    pub(super) to_and_fro: Pings,
    /// Of the client, for writes.
    pub(super) cpu_seconds_per_gigabyte: f64,
    /// Of both ends of plain TCP.
    pub(super) plain_cpu_seconds_per_gigabyte: f64,
    /// The other program's GB/s, and the ratio of writes to it.
    pub(super) other_program: Option<Beside>,
}

impl Verdict {
    /// Of these rounds, with so many layouts of plain TCP in each. `None` of none.
    pub(super) fn of(comparisons: &[Comparison], finalists: usize) -> Option<Self> {
        let mut by_state: BTreeMap<&'static str, Vec<&Comparison>> = BTreeMap::new();
        for round in comparisons {
            let state = round.state.filter(|_| !round.is_disturbed()).unwrap_or(RESTLESS);
            by_state.entry(state).or_default().push(round);
        }
        // Restless rounds are compared with nothing, unless there are no others.
        let steady = by_state.iter().filter(|(state, _)| **state != RESTLESS);
        let (state, rounds) = steady
            .max_by_key(|(_, rounds)| rounds.len())
            .or_else(|| by_state.iter().next())
            .map(|(state, rounds)| (*state, Rounds(rounds)))?;
        let of_layout = |layout: usize| rounds.median(|round| round.plain.gigabytes_per_second[layout]);
        let baseline = (0..finalists).max_by(|one, other| {
            of_layout(*one).unwrap_or(0.0).total_cmp(&of_layout(*other).unwrap_or(0.0))
        })?;
        let plain = |round: &Comparison| round.plain.gigabytes_per_second[baseline];
        let plain_long = |round: &Comparison| round.plain.long_gigabytes_per_second[baseline];
        let write = |round: &Comparison| round.endpoint.write.gigabytes_per_second;
        let messages = |round: &Comparison| round.messages.sender_gigabytes_per_second;
        let pings = |which: fn(&Pings) -> &Percentiles| {
            Percentiles::medians(rounds.0.iter().map(|round| which(&round.to_and_fro)))
        };
        Some(Self {
            state,
            rounds: if state == RESTLESS { 0 } else { rounds.0.len() },
            all_rounds: comparisons.len(),
            disturbed: comparisons.iter().filter(|round| round.is_disturbed()).count(),
            baseline,
            plain: rounds.median(plain)?,
            plain_long: rounds.median(plain_long)?,
            write: rounds.beside(write, plain)?,
            read: rounds.beside(|round| round.endpoint.read.gigabytes_per_second, plain)?,
            long_write: rounds.beside(|round| round.endpoint.long_write.gigabytes_per_second, plain_long)?,
            messages: rounds.beside(messages, plain)?,
            vector: rounds.median(|round| round.endpoint.vector.gigabytes_per_second / write(round))?,
            scattered: {
                let shares: Vec<f64> = rounds
                    .0
                    .iter()
                    .filter_map(|round| {
                        Some(round.scattered.as_ref()?.sender_gigabytes_per_second / messages(round))
                    })
                    .collect();
                median(&shares)
            },
            to_and_fro: Pings {
                messages: pings(|one| &one.messages),
                notifications: pings(|one| &one.notifications),
                plain: pings(|one| &one.plain),
            },
            cpu_seconds_per_gigabyte: rounds.median(|round| round.endpoint.write.cpu_seconds_per_gigabyte)?,
            plain_cpu_seconds_per_gigabyte: rounds
                .median(|round| round.plain.cpu_seconds_per_gigabyte[baseline])?,
            other_program: rounds.over_other(write),
        })
    }
}

impl Verdict {
    /// Which rounds the medians are of.
    pub(super) fn which(&self) -> String {
        let all = counted(self.all_rounds, "round");
        match self.rounds {
            0 => format!("{all}, none of which was quiet"),
            rounds => format!("{rounds} of {all}, cores {}", self.state),
        }
    }
}

/// Rounds of one state.
struct Rounds<'a>(&'a [&'a Comparison]);

impl Rounds<'_> {
    /// Writes over the other program, where there is one.
    fn over_other(&self, write: impl Fn(&Comparison) -> f64) -> Option<Beside> {
        let (speeds, ratios): (Vec<f64>, Vec<f64>) =
            self.0.iter().filter_map(|round| round.beside.map(|other| (other, write(round) / other))).unzip();
        Some(Beside {
            gigabytes_per_second: median(&speeds)?,
            ratio: median(&ratios)?,
            spread: spread(&ratios)?,
        })
    }

    fn each(&self, value: impl Fn(&Comparison) -> f64) -> Vec<f64> {
        self.0.iter().map(|round| value(round)).collect()
    }

    fn median(&self, value: impl Fn(&Comparison) -> f64) -> Option<f64> {
        median(&self.each(value))
    }

    fn beside(
        &self,
        value: impl Fn(&Comparison) -> f64,
        plain: impl Fn(&Comparison) -> f64,
    ) -> Option<Beside> {
        let ratios = self.each(|round| value(round) / plain(round));
        Some(Beside {
            gigabytes_per_second: self.median(value)?,
            ratio: median(&ratios)?,
            spread: spread(&ratios)?,
        })
    }
}
