//! Both ends in a simulated network, in virtual time.

use std::fmt;
use std::time::{Duration, Instant};

use benches::statistics::{Latencies, gigabytes_per_second};
use p2p_memory::SharedHost;
use p2p_transport_mock::{NicModel, Settings, World};
use serde::Serialize;

use super::Options;

use super::content::Content;
use super::figures::Percentiles;
use super::link::{Link, Opening, Work};
use super::live::Live;
use super::net::Net;
use super::ping_pong::{Answering, Calling};
use super::placement::Placement;
use super::plan::{self, IN_FLIGHT, Lanes, PINGS};
use super::session::groups;
use super::text::{counted, human};
use super::transfer::{Receiving, Sending};
use super::words::{Pass, Shape};
use crate::failure::Failure;
use crate::output::{self, Kept};

/// Same seed, same figures.
const SEED: u64 = 1;
/// Bytes of a pass at most, unless its messages are larger.
const MOST_BYTES: usize = 64 << 20;
/// Windows that a pass fills, so that its begin and end say little.
const WINDOWS: u64 = 20;
/// Least bytes that messages rotate over.
const LEAST_REGION: usize = 128 << 20;

/// Moves verified messages through the simulation and prints what they took there.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let json = options.json.as_deref().map(Kept::new).transpose()?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let simulated = Pair::open(options, Settings::plugin())?.measure(options, || Instant::now() < until)?;
    json.map_or(Ok(()), |json| json.write(&simulated))?;
    output::print(&simulated.to_string())
}

/// Two ends, and the world between them.
struct Pair {
    world: World,
    nics: usize,
    regions: [SharedHost; 2],
    links: [Link; 2],
    contents: [Content; 2],
}

impl Pair {
    fn open(options: &Options, mut settings: Settings) -> Result<Self, Failure> {
        let nics = options.nics.map_or(1, usize::from);
        // As the soft plugin, which cuts messages itself.
        settings.max_message = 1 << 30;
        let world = World::new(SEED, settings);
        let nodes = [0, 1].map(|_| world.add_node(&vec![NicModel::FAST; nics]));
        let largest = options.sizes.iter().copied().max().unwrap_or(1);
        let size = LEAST_REGION.max(largest * (IN_FLIGHT as usize + 1));
        let memory = || SharedHost::new(size).map_err(|error| Failure::new(error.to_string()));
        let regions = [memory()?, memory()?];
        let groups = groups(options);
        let open = |end: usize| Link::new(Net::simulated(&world, &nodes[end]), &regions[end], groups.len());
        let (mut client, mut server) = (open(0)?, open(1)?);
        let addresses = server.listen(&groups)?;
        server.accept()?;
        client.connect(&groups, &addresses)?;
        let contents = [0, 1].map(|end| Content::new(regions[end].clone(), SEED));
        let mut pair = Self { world, nics, regions, links: [client, server], contents };
        drive(&pair.world, &mut pair.links, &mut Opening, &mut Opening)?;
        pair.links[0].receive_back()?;
        Ok(pair)
    }

    /// Measures one combination after another while there is time, and at least one.
    fn measure(
        &mut self,
        options: &Options,
        mut is_time: impl FnMut() -> bool,
    ) -> Result<Simulated, Failure> {
        let NicModel { bytes_per_second, latency } = NicModel::FAST;
        let mut simulated = Simulated {
            simulation: true,
            nics: self.nics,
            nic_bytes_per_second: bytes_per_second,
            latency_nanoseconds: latency.as_nanos() as u64,
            verified: 0,
            left_out: 0,
            entries: Vec::new(),
            ping_pong: Percentiles::default(),
        };
        let live = Live::new(options.quiet, Duration::from_secs(options.seconds));
        live.phase("simulating");
        for &channels in &options.channels {
            for &size in &options.sizes {
                if !simulated.entries.is_empty() && !is_time() {
                    simulated.left_out += 1;
                    continue;
                }
                let over = counted(channels.into(), "channel");
                live.step(&format!("{} over {over}", human(size)));
                let entry = self.pass(size, channels.into(), simulated.entries.len() as u64 + 1)?;
                simulated.verified += entry.messages;
                simulated.entries.push(entry);
            }
        }
        live.finish();
        simulated.ping_pong = Percentiles::of(&self.ping_pong()?);
        let findings = self.world.findings();
        match findings.first() {
            None => Ok(simulated),
            Some(first) => Err(Failure::new(format!("the simulation broke its own rules: {first}"))),
        }
    }

    /// A verified pass. Writing and checking takes no time in the world.
    fn pass(&mut self, size: usize, channels: usize, number: u64) -> Result<Figures, Failure> {
        let lanes = Lanes { channels, nics: self.nics };
        let slots = (self.regions[0].len() / size) as u64;
        let in_flight = plan::in_flight(size, lanes).min(slots);
        let messages = (WINDOWS * in_flight).min((MOST_BYTES / size) as u64).max(IN_FLIGHT + 1);
        let pass = plan::pass(size, lanes, messages, true, number);
        let pass = Pass { in_flight, ..pass };
        let placement = Placement::new(self.regions[0].len(), size, Shape::Contiguous);
        let Self { world, links, contents: [ours, theirs], .. } = self;
        let mut receiving = Receiving::new(&mut links[1], theirs, &pass, &placement)?;
        let mut sending = Sending::new(&links[0], ours, &pass, &placement)?;
        drive(world, links, &mut sending, &mut receiving)?;
        let seen = sending.seen();
        Ok(Figures {
            size,
            channels,
            in_flight,
            messages,
            gigabytes_per_second: gigabytes_per_second(size as u64 * messages, seen.time),
            latency: Percentiles::of(&seen.latencies),
        })
    }

    fn ping_pong(&mut self) -> Result<Latencies, Failure> {
        let Self { world, links, regions: [ours, theirs], .. } = self;
        let mut answering = Answering::new(&mut links[1], theirs, PINGS)?;
        let mut calling = Calling::new(ours, PINGS);
        drive(world, links, &mut calling, &mut answering)?;
        Ok(calling.latencies())
    }
}

/// Does the work of both ends, and lets time pass when neither can go on.
fn drive(
    world: &World,
    [client, server]: &mut [Link; 2],
    ours: &mut impl Work,
    theirs: &mut impl Work,
) -> Result<(), Failure> {
    loop {
        ours.submit(client)?;
        theirs.submit(server)?;
        if ours.is_over(client) && theirs.is_over(server) {
            return Ok(());
        }
        let moved = client.poll(ours)?.1 | server.poll(theirs)?.1;
        if !moved && !world.step() {
            return Err(Failure::new("the simulation stands still while messages are under way"));
        }
    }
}

/// What one size over one number of channels took in the simulation.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    size: usize,
    channels: usize,
    in_flight: u64,
    messages: u64,
    gigabytes_per_second: f64,
    #[serde(flatten)]
    latency: Percentiles,
}

/// Everything of a run.
#[derive(Clone, Debug, Serialize)]
struct Simulated {
    /// Always true, so that nobody takes these figures for a machine's.
    simulation: bool,
    nics: usize,
    nic_bytes_per_second: u64,
    latency_nanoseconds: u64,
    /// Messages of which every byte was checked.
    verified: u64,
    /// Combinations of sizes and channels for which there was no time.
    left_out: usize,
    entries: Vec<Figures>,
    ping_pong: Percentiles,
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "simulation: all figures are of a model in virtual time, none is of this machine")?;
        writeln!(
            f,
            "model: NICs of {1:.1} GB/s each way and {2:.1} us, {0} at each end; windows of a net plugin",
            self.nics,
            self.nic_bytes_per_second as f64 / 1e9,
            self.latency_nanoseconds as f64 / 1e3
        )?;
        writeln!(f, "verified: every byte of {} messages, each with its own seed", self.verified)?;
        writeln!(f)?;
        let [a, b, c, d, p, q, r] = ["channels", "size", "in flight", "GB/s", "p50 us", "p90 us", "p99 us"];
        writeln!(f, "{a:>8} {b:>6} {c:>9} {d:>9} {p:>10} {q:>10} {r:>10}")?;
        for entry in &self.entries {
            writeln!(
                f,
                "{:>8} {:>6} {:>9} {:>9.2} {:>10.1} {:>10.1} {:>10.1}",
                entry.channels,
                human(entry.size),
                entry.in_flight,
                entry.gigabytes_per_second,
                entry.latency.p50_microseconds,
                entry.latency.p90_microseconds,
                entry.latency.p99_microseconds,
            )?;
        }
        if self.left_out > 0 {
            let left_out = counted(self.left_out, "combination");
            writeln!(f, "left out: {left_out} of size and channels; --seconds allows more time")?;
        }
        writeln!(f)?;
        let [p50, _, p99] = self.ping_pong.all();
        writeln!(f, "64 bytes to and fro: p50 {p50:.2} us, p99 {p99:.2} us")?;
        writeln!(f, "no ratio: plain TCP is not simulated")
    }
}

#[cfg(test)]
mod tests {
    use super::{Pair, Settings};
    use crate::bench::Options;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(more: &[&str]) -> Options {
        Line::try_parse_from([&["p2p", "--backend", "mock"], more].concat()).expect("good").options
    }

    #[test]
    fn what_there_is_no_time_for_is_left_out_and_said_so() {
        let options = options(&["--sizes", "4K,64K", "--channels", "1,2"]);
        let run = |mut left: i32| {
            let is_time = || {
                left -= 1;
                left >= 0
            };
            Pair::open(&options, Settings::plugin())
                .expect("a world")
                .measure(&options, is_time)
                .expect("every byte")
        };
        let whole = run(3);
        assert_eq!((whole.entries.len(), whole.left_out), (4, 0));
        assert!(!whole.to_string().contains("left out"), "{whole}");
        for (time, measured) in [(0, 1), (2, 3)] {
            let part = run(time);
            assert_eq!((part.entries.len(), part.left_out), (measured, 4 - measured));
            let said = format!("left out: {} combination", 4 - measured);
            assert!(part.to_string().contains(&said), "{part}");
            let speeds = |run: &super::Simulated| -> Vec<f64> {
                run.entries.iter().map(|entry| entry.gigabytes_per_second).collect()
            };
            assert_eq!(speeds(&part), speeds(&whole)[..measured], "time changes no figure");
        }
    }

    #[test]
    fn completions_in_any_order_confuse_nobody() {
        let options = options(&["--sizes", "4K,1M", "--channels", "2,4"]);
        for settings in [Settings::plugin(), Settings::rdma()] {
            let mut pair = Pair::open(&options, settings).expect("a world");
            assert!(pair.measure(&options, || true).expect("every byte").verified > 0);
        }
    }

    #[test]
    fn nics_add_up_and_two_runs_say_the_same() {
        let run = |nics: &str| {
            let options = options(&["--sizes", "64K,4M", "--channels", "2", "--nics", nics]);
            let mut pair = Pair::open(&options, Settings::plugin()).expect("a world");
            let simulated = pair.measure(&options, || true).expect("every byte");
            (simulated.entries[1].gigabytes_per_second, simulated.to_string())
        };
        let (one, four) = (run("1"), run("4"));
        assert!((20.0..25.0).contains(&one.0), "{}", one.1);
        assert!(four.0 > 3.0 * one.0, "{}{}", one.1, four.1);
        assert_eq!(run("4"), four);
    }
}
