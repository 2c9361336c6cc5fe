//! The figures of single passes.

use benches::distance::{Distance, State};
use benches::statistics::Latencies;
use serde::{Deserialize, Serialize};

/// How long messages took, in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50_microseconds: f64,
    pub(super) p90_microseconds: f64,
    pub(super) p99_microseconds: f64,
}

impl Percentiles {
    pub(super) fn of(latencies: &Latencies) -> Self {
        let microseconds = |percent| latencies.percentile(percent).as_secs_f64() * 1e6;
        Self {
            p50_microseconds: microseconds(50.0),
            p90_microseconds: microseconds(90.0),
            p99_microseconds: microseconds(99.0),
        }
    }

    pub(super) const fn all(&self) -> [f64; 3] {
        [self.p50_microseconds, self.p90_microseconds, self.p99_microseconds]
    }

    /// Each the median of its like; zeros of none.
    pub(super) fn medians<'a>(of: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let median = |which: fn(&Self) -> f64| {
            let values: Vec<f64> = of.clone().map(which).collect();
            benches::statistics::median(&values).unwrap_or(0.0)
        };
        Self {
            p50_microseconds: median(|one| one.p50_microseconds),
            p90_microseconds: median(|one| one.p90_microseconds),
            p99_microseconds: median(|one| one.p99_microseconds),
        }
    }
}

/// Messages of one size over one number of channels.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) size: usize,
    pub(super) channels: usize,
    pub(super) in_flight: u64,
    pub(super) messages: u64,
    pub(super) sender_gigabytes_per_second: f64,
    pub(super) receiver_gigabytes_per_second: f64,
    #[serde(flatten)]
    pub(super) latency: Percentiles,
    pub(super) sender_cpu_seconds_per_gigabyte: f64,
    pub(super) receiver_cpu_seconds_per_gigabyte: f64,
}

/// What one pass of an endpoint came to, as the client saw it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Moved {
    pub(super) gigabytes_per_second: f64,
    #[serde(flatten)]
    pub(super) latency: Percentiles,
    pub(super) cpu_seconds_per_gigabyte: f64,
}

/// How the machine was at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub(super) distance: Distance,
    /// Threads of other programs ready to run, on average.
    pub(super) others: f64,
}

/// The state of the cores, if it was the same before and after.
pub(super) fn same_state(before: Distance, after: Distance) -> Option<&'static str> {
    (before.state == after.state).then_some(match before.state {
        State::Near => "near",
        State::Far => "far",
        State::Other => "other",
    })
}
