//! Endpoints over message sizes, beside plain TCP, in rounds.

use std::time::{Duration, Instant};

use benches::raw_tcp::Sender;
use benches::statistics::{cpu_seconds_per_gigabyte, gigabytes_per_second, median, spread};
use serde::Serialize;

use super::endpoints::Way;
use super::figures::{Moved, Percentiles};
use super::live::Live;
use super::placement::Placement;
use super::plan::{self, IN_FLIGHT, Plan, SIZE_ROUNDS};
use super::session::Session;
use super::text::human;
use super::words::{Command, Pass, Shape};
use crate::failure::Failure;

/// Things measured in turn at each size.
const TURNS: u32 = 3;
/// Share of a size's time in which its fastest plain TCP is chosen.
const QUALIFICATION: f64 = 0.1;
/// Bytes of a round in which it is, and messages at most.
const QUALIFIED: usize = 16 << 20;
const MOST_QUALIFIED: u64 = 1000;

/// One way of one size, as medians of rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct WayAtSize {
    /// By the client's clock.
    pub(super) gigabytes_per_second: f64,
    /// By the server's clock.
    pub(super) server_gigabytes_per_second: f64,
    /// Of the client's rates.
    pub(super) spread: f64,
    #[serde(flatten)]
    pub(super) latency: Percentiles,
    pub(super) client_cpu_seconds_per_gigabyte: f64,
    pub(super) server_cpu_seconds_per_gigabyte: f64,
    /// Microseconds of a pass that the server counts beyond the client.
    pub(super) server_longer_microseconds: f64,
    /// Of one pass, by the client's clock.
    pub(super) pass_microseconds: f64,
}

/// Endpoints and plain TCP at one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AtSize {
    pub(super) size: usize,
    pub(super) in_flight: u64,
    /// Of one pass.
    pub(super) messages: u64,
    pub(super) rounds: usize,
    pub(super) write: WayAtSize,
    pub(super) read: WayAtSize,
    /// The layout of plain TCP that was fastest at this size.
    pub(super) plain_layout: String,
    pub(super) plain_gigabytes_per_second: f64,
    /// Medians of the rounds' ratios to plain TCP.
    pub(super) write_ratio: f64,
    pub(super) read_ratio: f64,
}

/// What both ends saw of one pass.
struct Observed {
    moved: Moved,
    time: Duration,
    server_time: Duration,
    server_cpu: Duration,
}

/// What is collected for one size, round by round.
struct Rounds {
    size: usize,
    layout: usize,
    messages: u64,
    write: Vec<Observed>,
    read: Vec<Observed>,
    plain: Vec<f64>,
}

impl Session {
    /// Writes, reads and plain TCP of every size in turn, round after round, until the plan's time for sizes is over.
    pub(super) fn sizes(
        &mut self,
        sizes: &[usize],
        plan: &Plan,
        began: Instant,
        live: &Live,
        raw: &mut Sender,
    ) -> Result<Vec<AtSize>, Failure> {
        live.phase("endpoints and plain TCP over sizes");
        let until = began + plan.sizes.max(began.elapsed() + plan.whole / 20);
        let left = until.saturating_duration_since(Instant::now());
        let of_size = left / sizes.len().max(1) as u32;
        let each = of_size / (TURNS * plan::SIZE_ROUNDS_WANTED);
        let mut all = Vec::with_capacity(sizes.len());
        for size in sizes {
            live.step(&format!("choosing the fastest plain TCP of {}", human(*size)));
            let layouts = raw.layouts().len() as u32;
            let time = of_size.mul_f64(QUALIFICATION) / layouts.max(1);
            let under_way = in_flight(*size);
            let several = ((QUALIFIED / size) as u64).clamp(under_way as u64 + 1, MOST_QUALIFIED);
            let ranked = self.raw(false, raw, |raw| raw.qualify_with(*size, several, under_way, time))?;
            let layout = ranked.first().map_or(0, |(layout, _)| *layout);
            let few = self.observed(Way::Write, *size, 2 * plan::endpoint_in_flight(*size))?;
            let messages = plan::timed_messages(2 * plan::endpoint_in_flight(*size), few.time, each);
            all.push(Rounds { size: *size, layout, messages, write: vec![], read: vec![], plain: vec![] });
        }
        for round in 0..SIZE_ROUNDS {
            if round > 0 && Instant::now() >= until {
                break;
            }
            for (index, of_size) in all.iter_mut().enumerate() {
                live.step(&format!("{}, round {}", human(of_size.size), round + 1));
                let Rounds { size, layout, messages, write, read, plain } = of_size;
                // Nobody is always first.
                for turn in 0..TURNS {
                    match (turn as usize + round + index) % TURNS as usize {
                        0 => write.push(self.observed(Way::Write, *size, *messages)?),
                        1 => read.push(self.observed(Way::Read, *size, *messages)?),
                        _ => {
                            let found = self.raw(false, raw, |raw| {
                                raw.round_with(*layout, *messages, *size, in_flight(*size))
                            })?;
                            plain.push(found.gigabytes_per_second());
                        }
                    }
                }
            }
        }
        let layouts = raw.layouts();
        Ok(all.into_iter().filter_map(|rounds| rounds.summary(&layouts[..])).collect())
    }

    /// A pass that the server watches.
    fn observed(&mut self, way: Way, size: usize, messages: u64) -> Result<Observed, Failure> {
        let pass: Pass = self.endpoint_pass(size, messages);
        let placement = Placement::new(self.region.len(), size, Shape::Contiguous);
        let before = self.meter();
        self.ask(&Command::Observe)?;
        let (moved, time) = self.active.run_observed(way, &pass, &placement)?;
        let (server_time, server_cpu) = self.await_passed()?;
        self.moved.add(&before.read(self.active.endpoint()));
        Ok(Observed { moved, time, server_time, server_cpu })
    }
}

/// Messages of plain TCP under way: not fewer than the endpoint's.
fn in_flight(size: usize) -> usize {
    plan::endpoint_in_flight(size).max(IN_FLIGHT) as usize
}

impl Rounds {
    fn summary(self, layouts: &[benches::raw_tcp::Layout]) -> Option<AtSize> {
        let bytes = self.size as u64 * self.messages;
        let ratio = |rounds: &[Observed]| {
            let pairs = rounds.iter().zip(&self.plain);
            let ratios: Vec<f64> = pairs.map(|(one, plain)| one.moved.gigabytes_per_second / plain).collect();
            median(&ratios)
        };
        Some(AtSize {
            size: self.size,
            in_flight: plan::endpoint_in_flight(self.size),
            messages: self.messages,
            rounds: self.write.len(),
            write: WayAtSize::of(&self.write, bytes)?,
            read: WayAtSize::of(&self.read, bytes)?,
            plain_layout: layouts.get(self.layout)?.to_string(),
            plain_gigabytes_per_second: median(&self.plain)?,
            write_ratio: ratio(&self.write)?,
            read_ratio: ratio(&self.read)?,
        })
    }
}

impl WayAtSize {
    fn of(rounds: &[Observed], bytes: u64) -> Option<Self> {
        let each = |value: &dyn Fn(&Observed) -> f64| -> Vec<f64> { rounds.iter().map(value).collect() };
        let rates = each(&|one| one.moved.gigabytes_per_second);
        let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
        Some(Self {
            gigabytes_per_second: median(&rates)?,
            server_gigabytes_per_second: median(&each(&|one| gigabytes_per_second(bytes, one.server_time)))?,
            spread: spread(&rates)?,
            latency: Percentiles::medians(rounds.iter().map(|one| &one.moved.latency)),
            client_cpu_seconds_per_gigabyte: median(&each(&|one| one.moved.cpu_seconds_per_gigabyte))?,
            server_cpu_seconds_per_gigabyte: median(&each(&|one| {
                cpu_seconds_per_gigabyte(one.server_cpu, bytes)
            }))?,
            server_longer_microseconds: median(&each(&|one| {
                microseconds(one.server_time) - microseconds(one.time)
            }))?,
            pass_microseconds: median(&each(&|one| microseconds(one.time)))?,
        })
    }
}
