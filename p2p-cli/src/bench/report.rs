//! What was measured, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use benches::distance::{Distance, State};
use benches::raw_tcp::Round;
use benches::statistics::{Latencies, cpu_seconds_per_gigabyte, median, spread};
use serde::Serialize;

use super::client::{counted, human};
use super::endpoints::Moved;
use super::plan::{COMPARED, QUIET, SETTLED};

/// Stands for the state of rounds in which the cores' distance changed or other programs ran.
const RESTLESS: &str = "restless";

/// One size over one number of channels.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Entry {
    pub(super) size: usize,
    pub(super) channels: usize,
    pub(super) in_flight: u64,
    pub(super) messages: u64,
    pub(super) sender_gigabytes_per_second: f64,
    pub(super) receiver_gigabytes_per_second: f64,
    pub(super) p50_microseconds: f64,
    pub(super) p99_microseconds: f64,
    pub(super) sender_cpu_seconds_per_gigabyte: f64,
    pub(super) receiver_cpu_seconds_per_gigabyte: f64,
}

/// How the machine was at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub(super) distance: Distance,
    /// Threads of other programs ready to run, on average.
    pub(super) others: f64,
}

/// What endpoints came to in one round, with two transfers of 64 MiB under way.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EndpointRound {
    pub(super) write: Moved,
    pub(super) read: Moved,
    /// Writes of 4,096 pages each.
    pub(super) vector: Moved,
}

/// One round of the product and of plain TCP.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    /// Of the cores, if it was the same before and after.
    state: Option<&'static str>,
    nanoseconds_before: Option<f64>,
    nanoseconds_after: Option<f64>,
    /// Threads of other programs ready to run, before or after, whichever is more.
    others: f64,
    product: Entry,
    /// GB/s of each finalist.
    plain: Vec<f64>,
    plain_cpu_seconds_per_gigabyte: Vec<f64>,
    scattered: Option<Entry>,
    endpoint: EndpointRound,
    notification_p50_microseconds: f64,
    notification_p99_microseconds: f64,
    ping_pong_p50_microseconds: f64,
    ping_pong_p99_microseconds: f64,
    plain_ping_pong_p50_microseconds: f64,
    plain_ping_pong_p99_microseconds: f64,
}

impl Comparison {
    pub(super) fn new(
        before: Condition,
        after: Condition,
        product: Entry,
        plain: &[Round],
        scattered: Option<Entry>,
        endpoint: EndpointRound,
        [ours, theirs, notified]: [&Latencies; 3],
    ) -> Self {
        let microseconds = |latencies: &Latencies, percent| latencies.percentile(percent).as_secs_f64() * 1e6;
        Self {
            state: same_state(before.distance, after.distance),
            nanoseconds_before: before.distance.nanoseconds,
            nanoseconds_after: after.distance.nanoseconds,
            others: before.others.max(after.others),
            product,
            plain: plain.iter().map(Round::gigabytes_per_second).collect(),
            plain_cpu_seconds_per_gigabyte: plain
                .iter()
                .map(|round| cpu_seconds_per_gigabyte(round.sender_cpu + round.receiver_cpu, round.bytes))
                .collect(),
            scattered,
            endpoint,
            notification_p50_microseconds: microseconds(notified, 50.0),
            notification_p99_microseconds: microseconds(notified, 99.0),
            ping_pong_p50_microseconds: microseconds(ours, 50.0),
            ping_pong_p99_microseconds: microseconds(ours, 99.0),
            plain_ping_pong_p50_microseconds: microseconds(theirs, 50.0),
            plain_ping_pong_p99_microseconds: microseconds(theirs, 99.0),
        }
    }
}

/// Everything of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) plugin: String,
    pub(super) nics: usize,
    pub(super) sockets: Option<String>,
    pub(super) congestion: String,
    pub(super) same_host: bool,
    /// Messages of which every byte was checked.
    pub(super) verified: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) compared_channels: usize,
    /// GB/s of each layout of plain TCP, the fastest first.
    pub(super) qualification: Vec<(String, f64)>,
    pub(super) finalists: Vec<String>,
    pub(super) comparisons: Vec<Comparison>,
}

/// What the rounds of one state say together.
#[derive(Clone, Debug)]
struct Verdict {
    state: &'static str,
    rounds: usize,
    all: usize,
    disturbed: usize,
    baseline: usize,
    product: f64,
    plain: f64,
    ratio: f64,
    spread: f64,
    scattered: Option<f64>,
    endpoint: EndpointVerdict,
    ping_pong: [f64; 4],
}

/// Medians of the endpoints: GB/s, ratios to plain TCP of the same round and their spread.
#[derive(Clone, Copy, Debug)]
struct EndpointVerdict {
    write: [f64; 3],
    read: [f64; 3],
    /// Of contiguous writes of the same round.
    vector: f64,
    /// Microseconds to and fro.
    notification: [f64; 2],
}

impl Report {
    /// The number of channels that moved messages of `size` fastest.
    pub(super) fn best_channels(&self, size: usize) -> Option<usize> {
        let of_size = self.entries.iter().filter(|entry| entry.size == size);
        let speed = |entry: &&Entry| entry.sender_gigabytes_per_second;
        of_size.max_by(|one, other| speed(one).total_cmp(&speed(other))).map(|entry| entry.channels)
    }

    /// Whether enough rounds were of one state.
    pub(super) fn settled(&self) -> bool {
        self.verdict().is_some_and(|verdict| verdict.rounds >= SETTLED)
    }

    /// The last line of a run.
    pub(super) fn ratio_line(&self) -> String {
        match self.verdict() {
            Some(verdict) if verdict.rounds >= SETTLED => format!("ratio {:.3}", verdict.endpoint.write[1]),
            Some(verdict) => format!("ratio {:.3} unsettled", verdict.endpoint.write[1]),
            None => "ratio 0 unsettled".to_owned(),
        }
    }

    fn verdict(&self) -> Option<Verdict> {
        let mut by_state: BTreeMap<&'static str, Vec<&Comparison>> = BTreeMap::new();
        for round in &self.comparisons {
            let state = round.state.filter(|_| round.others <= QUIET).unwrap_or(RESTLESS);
            by_state.entry(state).or_default().push(round);
        }
        // Restless rounds are compared with nothing, unless there are no others.
        let steady = by_state.iter().filter(|(state, _)| **state != RESTLESS);
        let (state, rounds) = steady
            .max_by_key(|(_, rounds)| rounds.len())
            .or_else(|| by_state.iter().next())
            .map(|(state, rounds)| (*state, rounds.as_slice()))?;
        let each = |value: &dyn Fn(&Comparison) -> f64| -> Vec<f64> {
            rounds.iter().map(|round| value(round)).collect()
        };
        let of_layout = |layout: usize| median(&each(&|round| round.plain[layout])).unwrap_or(0.0);
        let baseline =
            (0..self.finalists.len()).max_by(|one, other| of_layout(*one).total_cmp(&of_layout(*other)))?;
        let ratios = each(&|round| round.product.sender_gigabytes_per_second / round.plain[baseline]);
        let scattered: Vec<f64> = rounds
            .iter()
            .filter_map(|round| {
                let scattered = round.scattered.as_ref()?.sender_gigabytes_per_second;
                Some(scattered / round.product.sender_gigabytes_per_second)
            })
            .collect();
        let beside = |moved: &dyn Fn(&Comparison) -> &Moved| -> Option<[f64; 3]> {
            let speeds = each(&|round| moved(round).gigabytes_per_second);
            let ratios = each(&|round| moved(round).gigabytes_per_second / round.plain[baseline]);
            Some([median(&speeds)?, median(&ratios)?, spread(&ratios)?])
        };
        let vectors = each(&|round| {
            round.endpoint.vector.gigabytes_per_second / round.endpoint.write.gigabytes_per_second
        });
        let endpoint = EndpointVerdict {
            write: beside(&|round| &round.endpoint.write)?,
            read: beside(&|round| &round.endpoint.read)?,
            vector: median(&vectors)?,
            notification: [
                median(&each(&|round| round.notification_p50_microseconds))?,
                median(&each(&|round| round.notification_p99_microseconds))?,
            ],
        };
        Some(Verdict {
            endpoint,
            state,
            rounds: if state == RESTLESS { 0 } else { rounds.len() },
            all: self.comparisons.len(),
            disturbed: self.comparisons.iter().filter(|round| round.others > QUIET).count(),
            baseline,
            product: median(&each(&|round| round.product.sender_gigabytes_per_second))?,
            plain: of_layout(baseline),
            ratio: median(&ratios)?,
            spread: spread(&ratios)?,
            scattered: median(&scattered),
            ping_pong: [
                median(&each(&|round| round.ping_pong_p50_microseconds))?,
                median(&each(&|round| round.ping_pong_p99_microseconds))?,
                median(&each(&|round| round.plain_ping_pong_p50_microseconds))?,
                median(&each(&|round| round.plain_ping_pong_p99_microseconds))?,
            ],
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, congestion control {}", self.plugin, self.congestion)?;
        if let Some(sockets) = &self.sockets {
            writeln!(f, "{sockets}")?;
        }
        if !self.same_host {
            writeln!(f, "two machines: the distance of cores is the client's only")?;
        }
        writeln!(f, "verified: every byte of {} messages, each with its own seed", self.verified)?;
        writeln!(f)?;
        let head = [
            "channels",
            "size",
            "in flight",
            "send GB/s",
            "recv GB/s",
            "p50 us",
            "p99 us",
            "CPU s/GB send",
            "recv",
        ];
        let [a, b, c, d, e, p, q, g, h] = head;
        writeln!(f, "{a:>8} {b:>6} {c:>9} {d:>9} {e:>9} {p:>10} {q:>10} {g:>13} {h:>6}")?;
        for entry in &self.entries {
            writeln!(
                f,
                "{:>8} {:>6} {:>9} {:>9.2} {:>9.2} {:>10.1} {:>10.1} {:>13.3} {:>6.3}",
                entry.channels,
                human(entry.size),
                entry.in_flight,
                entry.sender_gigabytes_per_second,
                entry.receiver_gigabytes_per_second,
                entry.p50_microseconds,
                entry.p99_microseconds,
                entry.sender_cpu_seconds_per_gigabyte,
                entry.receiver_cpu_seconds_per_gigabyte,
            )?;
        }
        writeln!(f)?;
        for (layout, speed) in &self.qualification {
            writeln!(f, "plain TCP, {layout}: up to {speed:.2} GB/s")?;
        }
        let Some(verdict) = self.verdict() else { return Ok(()) };
        let Verdict {
            state,
            rounds,
            all,
            disturbed,
            baseline,
            product,
            plain,
            ratio,
            spread,
            scattered,
            endpoint,
            ping_pong,
        } = verdict;
        writeln!(f)?;
        let (all, medians) = (counted(all, "round"), human(COMPARED));
        writeln!(f, "compared: {rounds} of {all}, cores {state}; medians at {medians}")?;
        if disturbed > 0 {
            let disturbed = counted(disturbed, "round");
            writeln!(f, "disturbed by other programs: {disturbed}, which say little about a ratio")?;
        }
        writeln!(f, "plain TCP, {}: {plain:.2} GB/s", self.finalists[baseline])?;
        for (name, [speed, ratio, spread]) in [("write", endpoint.write), ("read", endpoint.read)] {
            writeln!(f, "{name} between endpoints: {speed:.2} GB/s, ratio {ratio:.3}, spread {spread:.2}")?;
        }
        writeln!(f, "write of 4096 pages of 16K between endpoints: {:.3} of contiguous", endpoint.vector)?;
        writeln!(
            f,
            "messages over {}{}: {product:.2} GB/s, ratio {ratio:.3}, spread {spread:.2}",
            counted(self.compared_channels, "channel"),
            if self.nics > 1 { format!(" on each of {} NICs", self.nics) } else { String::new() }
        )?;
        if let Some(scattered) = scattered {
            writeln!(f, "messages in slices of 16K all over the region: {scattered:.3} of contiguous")?;
        }
        let [p50, p99, plain50, plain99] = ping_pong;
        writeln!(
            f,
            "64 bytes to and fro: p50 {p50:.2} us, p99 {p99:.2} us; plain TCP {plain50:.2} us, {plain99:.2} us; ratio {:.2}",
            p50 / plain50
        )?;
        let [p50, p99] = endpoint.notification;
        writeln!(
            f,
            "notification of 64 bytes to and fro: p50 {p50:.2} us, p99 {p99:.2} us; ratio {:.2}",
            p50 / plain50
        )
    }
}

/// Plain TCP under several congestion controls.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Calibrated {
    names: Vec<String>,
    /// For each layout and congestion control, GB/s and CPU s/GB of each round.
    layouts: BTreeMap<String, Vec<Vec<(f64, f64)>>>,
    /// Distance of cores before and after each round, in nanoseconds, and the state if it was the same.
    distances: Vec<(Option<f64>, Option<f64>, Option<&'static str>)>,
}

impl Calibrated {
    pub(super) const fn rounds(&self) -> usize {
        self.distances.len()
    }

    pub(super) fn add(&mut self, layout: String, name: &str, index: usize, round: &Round) {
        if self.names.len() <= index {
            self.names.push(name.to_owned());
        }
        let of_layout = self.layouts.entry(layout).or_default();
        of_layout.resize(of_layout.len().max(index + 1), Vec::new());
        let cpu = cpu_seconds_per_gigabyte(round.sender_cpu + round.receiver_cpu, round.bytes);
        of_layout[index].push((round.gigabytes_per_second(), cpu));
    }

    pub(super) fn end_round(&mut self, before: Distance, after: Distance) {
        let state = same_state(before, after);
        self.distances.push((before.nanoseconds, after.nanoseconds, state));
    }
}

impl fmt::Display for Calibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plain TCP, one 64 MiB buffer, each message acknowledged; median GB/s (CPU s/GB)")?;
        let states: Vec<&'static str> =
            self.distances.iter().map(|(_, _, state)| state.unwrap_or("changing")).collect();
        let mut known = states.clone();
        known.sort_unstable();
        known.dedup();
        for state in known {
            let rounds = states.iter().filter(|one| **one == state).count();
            writeln!(f, "\ncores {state}, {}", counted(rounds, "round"))?;
            writeln!(
                f,
                "{:44}{}",
                "",
                self.names.iter().map(|name| format!("{name:>16}")).collect::<String>()
            )?;
            for (layout, by_name) in &self.layouts {
                write!(f, "{layout:44}")?;
                for rounds in by_name {
                    let of_state = rounds.iter().zip(&states).filter(|(_, one)| **one == state);
                    let (speeds, cpus): (Vec<f64>, Vec<f64>) = of_state.map(|(round, _)| *round).unzip();
                    let cell = format!(
                        "{:.1} ({:.2})",
                        median(&speeds).unwrap_or(0.0),
                        median(&cpus).unwrap_or(0.0)
                    );
                    write!(f, "{cell:>16}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn same_state(before: Distance, after: Distance) -> Option<&'static str> {
    (before.state == after.state).then(|| name(before.state))
}

const fn name(state: State) -> &'static str {
    match state {
        State::Near => "near",
        State::Far => "far",
        State::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(speed: f64) -> Entry {
        Entry {
            size: COMPARED,
            channels: 1,
            in_flight: 3,
            messages: 16,
            sender_gigabytes_per_second: speed,
            receiver_gigabytes_per_second: speed,
            p50_microseconds: 1.0,
            p99_microseconds: 1.0,
            sender_cpu_seconds_per_gigabyte: 0.1,
            receiver_cpu_seconds_per_gigabyte: 0.1,
        }
    }

    fn moved(speed: f64) -> Moved {
        Moved {
            gigabytes_per_second: speed,
            p50_microseconds: 1.0,
            p99_microseconds: 1.0,
            cpu_seconds_per_gigabyte: 0.1,
        }
    }

    fn comparison(state: Option<&'static str>, others: f64, product: f64, plain: [f64; 2]) -> Comparison {
        Comparison {
            state,
            nanoseconds_before: None,
            nanoseconds_after: None,
            others,
            product: entry(product),
            plain: plain.to_vec(),
            plain_cpu_seconds_per_gigabyte: vec![0.1; 2],
            scattered: Some(entry(product / 2.0)),
            endpoint: EndpointRound {
                write: moved(product),
                read: moved(product),
                vector: moved(product / 2.0),
            },
            notification_p50_microseconds: 7.0,
            notification_p99_microseconds: 9.0,
            ping_pong_p50_microseconds: 6.0,
            ping_pong_p99_microseconds: 8.0,
            plain_ping_pong_p50_microseconds: 5.0,
            plain_ping_pong_p99_microseconds: 7.0,
        }
    }

    fn report(comparisons: Vec<Comparison>) -> Report {
        let finalists = vec!["one".to_owned(), "other".to_owned()];
        Report { finalists, comparisons, entries: vec![entry(8.0)], ..Report::default() }
    }

    #[test]
    fn only_quiet_rounds_of_one_state_are_compared() {
        let mut rounds = vec![comparison(Some("near"), 0.0, 9.0, [9.0, 10.0]); 5];
        rounds.push(comparison(Some("far"), 0.0, 2.0, [4.0, 4.0]));
        rounds.extend(vec![comparison(None, 0.0, 1.0, [4.0, 4.0]); 7]);
        rounds.extend(vec![comparison(Some("near"), 2.0, 20.0, [4.0, 4.0]); 7]);
        let report = report(rounds);
        assert_eq!(report.ratio_line(), "ratio 0.900");
        let text = report.to_string();
        assert!(text.contains("5 of 20 rounds, cores near"), "{text}");
        assert!(
            text.contains("disturbed by other programs: 7 rounds")
                && text.contains("plain TCP, other: 10.00"),
            "{text}"
        );
    }

    #[test]
    fn one_of_a_thing_is_not_called_several() {
        let mut report = report(vec![comparison(Some("near"), 3.0, 9.0, [9.0, 10.0])]);
        report.compared_channels = 1;
        let text = report.to_string();
        assert!(text.contains("messages over 1 channel:") && text.contains(": 1 round,"), "{text}");
        report.compared_channels = 4;
        assert!(report.to_string().contains("messages over 4 channels:"), "{report}");
    }

    #[test]
    fn too_few_rounds_are_unsettled() {
        let four = vec![comparison(Some("near"), 0.0, 9.0, [9.0, 10.0]); 4];
        assert_eq!(report(four).ratio_line(), "ratio 0.900 unsettled");
        let disturbed = vec![comparison(Some("near"), 3.0, 9.0, [9.0, 10.0]); 9];
        assert_eq!(report(disturbed).ratio_line(), "ratio 0.900 unsettled");
        assert_eq!(report(Vec::new()).ratio_line(), "ratio 0 unsettled");
    }
}
