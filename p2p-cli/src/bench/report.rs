//! Everything that a run measured, as text and as JSON.

use std::fmt;

use benches::statistics::median;
use serde::Serialize;

use super::about::About;
use super::comparison::{Beside, Comparison, Verdict};
use super::figures::Entry;
use super::live::Timeline;
use super::nics;
use super::plan::{COMPARED, LONG, SETTLED};
use super::sizes::{AtSize, WayAtSize};
use super::text::{counted, human, time};

/// Changes whenever a figure gets another name or meaning.
pub(super) const FORMAT: u32 = 2;
/// Differences between the two ends' rates up to which nothing but words between them explains them.
const ALIKE: f64 = 0.02;

/// Everything of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    /// [`FORMAT`].
    pub(super) format: u32,
    pub(super) about: About,
    pub(super) plugin: String,
    pub(super) nics: usize,
    pub(super) sockets: Option<String>,
    pub(super) congestion: String,
    pub(super) same_host: bool,
    /// Messages of which every byte was checked.
    pub(super) verified: u64,
    /// Endpoints over sizes.
    pub(super) sizes: Vec<AtSize>,
    /// The connections below them, over sizes and channels.
    pub(super) entries: Vec<Entry>,
    pub(super) compared_channels: usize,
    /// GB/s of each layout of plain TCP, the fastest first.
    pub(super) qualification: Vec<(String, f64)>,
    pub(super) finalists: Vec<String>,
    pub(super) comparisons: Vec<Comparison>,
    /// What the comparisons say.
    pub(super) verdict: Option<Verdict>,
    /// Whether enough rounds were of one state to say it.
    pub(super) settled: bool,
    /// What the NICs moved while endpoints were measured over sizes, at each end.
    pub(super) client_nics: nics::Moved,
    pub(super) server_nics: nics::Moved,
    /// What the client's NICs moved, over time.
    pub(super) timeline: Timeline,
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
        Verdict::of(&self.comparisons, self.finalists.len()).is_some_and(|verdict| verdict.rounds >= SETTLED)
    }

    /// Draws the conclusions, when everything is measured.
    pub(super) fn conclude(&mut self) {
        self.format = FORMAT;
        self.verdict = Verdict::of(&self.comparisons, self.finalists.len());
        self.settled = self.settled();
    }

    /// The last line of a run.
    pub(super) fn ratio_line(&self) -> String {
        let unsettled = if self.settled { "" } else { " unsettled" };
        match &self.verdict {
            Some(verdict) => format!("ratio {:.3}{unsettled}", verdict.write.ratio),
            None => "ratio 0 unsettled".to_owned(),
        }
    }

    /// The layout of plain TCP that is compared with.
    pub(super) fn baseline(&self) -> &str {
        let found = self.verdict.as_ref().and_then(|verdict| self.finalists.get(verdict.baseline));
        found.map_or("", String::as_str)
    }

    /// Which clocks the two ends count by.
    pub(super) fn clocks(&self) -> &'static str {
        if self.same_host {
            "durations only, each end by the monotonic clock of this machine"
        } else {
            "durations only, each end by the monotonic clock of its own machine, which are never compared"
        }
    }

    /// Both ends' rates at the size that counts, and why they differ, one line for each way.
    pub(super) fn both_ends(&self) -> Vec<String> {
        let Some(at) = self.sizes.iter().find(|at| at.size == COMPARED).or_else(|| self.sizes.last()) else {
            return Vec::new();
        };
        let line = |name: &str, way: &WayAtSize| {
            format!(
                "{name} of {}: client {:.2} GB/s, server {:.2} GB/s: {}",
                human(at.size),
                way.gigabytes_per_second,
                way.server_gigabytes_per_second,
                cause(name, way)
            )
        };
        vec![line("write", &at.write), line("read", &at.read)]
    }
}

/// Why the two ends' rates of one way differ.
fn cause(name: &str, way: &WayAtSize) -> String {
    let longer = way.server_longer_microseconds;
    let share = longer / way.pass_microseconds.max(1e-9);
    let words = if name == "write" {
        "the server's clock starts when it says that it is ready, a trip before the client's, and stops when it has the \
         last byte; the client's stops a trip later, when it knows"
    } else {
        "the server's clock starts when it says that it is ready, a trip before the client's, and stops when it hears \
         that the client has the last byte, a trip after the client's"
    };
    let less = if longer < 0.0 { "less" } else { "more" };
    let size = format!("{} {less} of {}", time(longer.abs()), time(way.pass_microseconds));
    if share.abs() <= ALIKE {
        return format!("the server counts {size}; {words}");
    }
    format!(
        "the server counts {size}, more than two trips take on a quiet machine: one end was kept from its core, or woken \
         late; {words}"
    )
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
        for (name, text) in self.about.lines() {
            writeln!(f, "{name}: {text}")?;
        }
        self.write_sizes(f)?;
        self.write_entries(f)?;
        self.write_ends(f)?;
        self.write_verdict(f)
    }
}

impl Report {
    fn write_sizes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds = self.sizes.iter().map(|at| at.rounds).min().unwrap_or(0);
        let rounds = counted(rounds, "round");
        writeln!(
            f,
            "\nbetween endpoints, medians of {rounds}; plain TCP in the same rounds, its fastest layout of each size"
        )?;
        writeln!(
            f,
            "{:>6} {:>9} | {:>10} {:>6} {:>10} {:>10} {:>10} | {:>9} {:>6} {:>10} {:>10} {:>10} | {:>9} | {:>13} {:>6}",
            "size",
            "in flight",
            "write GB/s",
            "ratio",
            "p50 us",
            "p90 us",
            "p99 us",
            "read GB/s",
            "ratio",
            "p50 us",
            "p90 us",
            "p99 us",
            "TCP GB/s",
            "CPU s/GB near",
            "far"
        )?;
        for at in &self.sizes {
            let [w50, w90, w99] = at.write.latency.all();
            let [r50, r90, r99] = at.read.latency.all();
            writeln!(
                f,
                "{:>6} {:>9} | {:>10.3} {:>6.2} {w50:>10.1} {w90:>10.1} {w99:>10.1} | {:>9.3} {:>6.2} {r50:>10.1} \
                 {r90:>10.1} {r99:>10.1} | {:>9.3} | {:>13.3} {:>6.3}",
                human(at.size),
                at.in_flight,
                at.write.gigabytes_per_second,
                at.write_ratio,
                at.read.gigabytes_per_second,
                at.read_ratio,
                at.plain_gigabytes_per_second,
                at.write.client_cpu_seconds_per_gigabyte,
                at.write.server_cpu_seconds_per_gigabyte,
            )?;
        }
        Ok(())
    }

    fn write_entries(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmessages over the connections below, by number of channels")?;
        let head = [
            "channels",
            "size",
            "in flight",
            "send GB/s",
            "recv GB/s",
            "p50 us",
            "p90 us",
            "p99 us",
            "CPU s/GB send",
            "recv",
        ];
        let [a, b, c, d, e, p, q, r, g, h] = head;
        writeln!(f, "{a:>8} {b:>6} {c:>9} {d:>9} {e:>9} {p:>10} {q:>10} {r:>10} {g:>13} {h:>6}")?;
        for entry in &self.entries {
            let [p50, p90, p99] = entry.latency.all();
            writeln!(
                f,
                "{:>8} {:>6} {:>9} {:>9.2} {:>9.2} {p50:>10.1} {p90:>10.1} {p99:>10.1} {:>13.3} {:>6.3}",
                entry.channels,
                human(entry.size),
                entry.in_flight,
                entry.sender_gigabytes_per_second,
                entry.receiver_gigabytes_per_second,
                entry.sender_cpu_seconds_per_gigabyte,
                entry.receiver_cpu_seconds_per_gigabyte,
            )?;
        }
        let gaps: Vec<f64> = self
            .entries
            .iter()
            .map(|entry| entry.receiver_gigabytes_per_second / entry.sender_gigabytes_per_second)
            .collect();
        if let Some(gap) = median(&gaps) {
            writeln!(
                f,
                "recv is {gap:.3} of send in the middle: the sender counts until the last acknowledgement is here, the \
                 receiver from its word that it is ready, which travels first, until that acknowledgement has left"
            )?;
        }
        Ok(())
    }

    fn write_ends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nboth ends ({})", self.clocks())?;
        for line in self.both_ends() {
            writeln!(f, "{line}")?;
        }
        for (end, moved) in [("client", &self.client_nics), ("server", &self.server_nics)] {
            for (nic, bytes, share) in moved.shares() {
                writeln!(
                    f,
                    "{end}, NIC {nic}: sent {:.2} GB, received {:.2} GB, {:.1} % of this end's bytes",
                    bytes.sent as f64 / 1e9,
                    bytes.received as f64 / 1e9,
                    share * 100.0
                )?;
            }
            if let Some(balance) = moved.balance() {
                writeln!(f, "{end}: the busiest NIC moved {balance:.2} times what the idlest moved")?;
            }
            writeln!(f, "{end}, kernel's counters: {}", moved.cross_check())?;
            for (interface, packets) in &moved.devmem_packets {
                writeln!(
                    f,
                    "{end}, {interface}: {packets} packets straight into GPU memory (rx_devmem_pkts)"
                )?;
            }
        }
        Ok(())
    }

    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (layout, speed) in &self.qualification {
            writeln!(f, "plain TCP, {layout}: up to {speed:.2} GB/s")?;
        }
        let Some(verdict) = &self.verdict else { return Ok(()) };
        writeln!(f, "\ncompared: {}; medians at {}", verdict.which(), human(COMPARED))?;
        if verdict.disturbed > 0 {
            let disturbed = counted(verdict.disturbed, "round");
            writeln!(f, "disturbed by other programs: {disturbed}, which say little about a ratio")?;
        }
        let (long, plain_long) = (human(LONG), verdict.plain_long);
        writeln!(
            f,
            "plain TCP, {}: {:.2} GB/s, with {long} {plain_long:.2} GB/s",
            self.baseline(),
            verdict.plain
        )?;
        let beside = |Beside { gigabytes_per_second, ratio, spread }: Beside| {
            format!("{gigabytes_per_second:.2} GB/s, ratio {ratio:.3}, spread {spread:.2}")
        };
        writeln!(f, "write between endpoints: {}", beside(verdict.write))?;
        writeln!(f, "read between endpoints: {}", beside(verdict.read))?;
        writeln!(f, "write of {long} between endpoints: {}", beside(verdict.long_write))?;
        writeln!(f, "write of 4096 pages of 16K between endpoints: {:.3} of contiguous", verdict.vector)?;
        writeln!(
            f,
            "messages over {}{}: {}",
            counted(self.compared_channels, "channel"),
            if self.nics > 1 { format!(" on each of {} NICs", self.nics) } else { String::new() },
            beside(verdict.messages)
        )?;
        if let Some(scattered) = verdict.scattered {
            writeln!(f, "messages in slices of 16K all over the region: {scattered:.3} of contiguous")?;
        }
        if let Some(other) = verdict.other_program {
            let Beside { gigabytes_per_second, ratio, spread } = other;
            writeln!(
                f,
                "iperf3: {gigabytes_per_second:.2} GB/s; write over iperf3: ratio {ratio:.3}, spread {spread:.2}"
            )?;
        }
        let cpu = verdict.cpu_seconds_per_gigabyte;
        let plain_cpu = verdict.plain_cpu_seconds_per_gigabyte;
        writeln!(
            f,
            "CPU: {cpu:.3} s/GB at the client of a write, {plain_cpu:.3} s/GB at both ends of plain TCP"
        )?;
        let pings = &verdict.to_and_fro;
        let ([p50, p90, p99], [plain50, plain90, plain99]) = (pings.messages.all(), pings.plain.all());
        writeln!(
            f,
            "64 bytes to and fro: p50 {p50:.2} us, p90 {p90:.2} us, p99 {p99:.2} us; plain TCP {plain50:.2} us, \
             {plain90:.2} us, {plain99:.2} us; ratio {:.2}",
            p50 / plain50
        )?;
        let [p50, p90, p99] = pings.notifications.all();
        writeln!(
            f,
            "notification of 64 bytes to and fro: p50 {p50:.2} us, p90 {p90:.2} us, p99 {p99:.2} us; ratio {:.2}",
            p50 / plain50
        )
    }
}

#[cfg(test)]
pub(super) mod examples {
    //! Reports as a run would make them.

    use super::super::comparison::{Comparison, EndpointRound, Pings, PlainRound};
    use super::super::figures::{Condition, Entry, Moved, Percentiles};
    use super::super::live::{Sample, Timeline};
    use super::super::nics::{self, Bytes};
    use super::super::plan::COMPARED;
    use super::super::sizes::{AtSize, WayAtSize};
    use super::Report;
    use benches::distance::{Distance, State};

    fn percentiles(middle: f64) -> Percentiles {
        Percentiles {
            p50_microseconds: middle,
            p90_microseconds: middle * 2.0,
            p99_microseconds: middle * 3.0,
        }
    }

    fn entry(speed: f64) -> Entry {
        Entry {
            size: COMPARED,
            channels: 1,
            in_flight: 3,
            messages: 16,
            sender_gigabytes_per_second: speed,
            receiver_gigabytes_per_second: speed,
            latency: percentiles(1.0),
            sender_cpu_seconds_per_gigabyte: 0.1,
            receiver_cpu_seconds_per_gigabyte: 0.1,
        }
    }

    fn moved(gigabytes_per_second: f64) -> Moved {
        Moved { gigabytes_per_second, latency: percentiles(1.0), cpu_seconds_per_gigabyte: 0.1 }
    }

    /// A round; `None` if the cores' distance changed in it.
    pub(in super::super) fn comparison(
        state: Option<State>,
        others: f64,
        product: f64,
        plain: [f64; 2],
    ) -> Comparison {
        let condition = |state| Condition { distance: Distance { nanoseconds: None, state }, others };
        let conditions = match state {
            Some(state) => [condition(state), condition(state)],
            None => [condition(State::Near), condition(State::Far)],
        };
        let plain = PlainRound {
            gigabytes_per_second: plain.to_vec(),
            long_gigabytes_per_second: plain.to_vec(),
            cpu_seconds_per_gigabyte: vec![0.2; 2],
        };
        let endpoint = EndpointRound {
            write: moved(product),
            read: moved(product),
            vector: moved(product / 2.0),
            long_write: moved(product * 0.8),
        };
        let [messages, notifications, plain_pings] = [6.0, 7.0, 5.0].map(percentiles);
        let pings = Pings { messages, notifications, plain: plain_pings };
        Comparison::new(conditions, entry(product), Some(entry(product / 2.0)), plain, endpoint, pings, None)
    }

    pub(in super::super) fn way(gigabytes_per_second: f64, server_longer: f64) -> WayAtSize {
        WayAtSize {
            gigabytes_per_second,
            server_gigabytes_per_second: gigabytes_per_second * 1.01,
            spread: 0.1,
            latency: percentiles(1e3 / gigabytes_per_second),
            client_cpu_seconds_per_gigabyte: 0.12,
            server_cpu_seconds_per_gigabyte: 0.14,
            server_longer_microseconds: server_longer,
            pass_microseconds: 10_000.0,
        }
    }

    pub(in super::super) fn report(comparisons: Vec<Comparison>) -> Report {
        let at = |size: usize, speed: f64| AtSize {
            size,
            in_flight: 2,
            messages: 16,
            rounds: 5,
            write: way(speed, -50.0),
            read: way(speed * 0.9, 50.0),
            plain_layout: "one".to_owned(),
            plain_gigabytes_per_second: speed * 1.1,
            write_ratio: 0.91,
            read_ratio: 0.82,
        };
        let nics = nics::Moved {
            nics: [("lo-127.0.0.1", 3), ("lo-127.0.0.2", 1)]
                .map(|(name, sent)| (name.to_owned(), Bytes { sent: sent * 1_000_000_000, received: 0 }))
                .into(),
            interfaces: [("lo".to_owned(), Bytes { sent: 5_000_000_000, received: 5_000_000_000 })].into(),
            devmem_packets: [("eth1".to_owned(), 7)].into(),
        };
        let samples = (0..8).map(|at| Sample {
            seconds: 30.0 + f64::from(at) / 4.0,
            gigabytes_per_second: vec![3.0 + f64::from(at) / 10.0, 1.0],
        });
        let mut report = Report {
            plugin: "TCPX_Soft v11 on lo".to_owned(),
            nics: 2,
            same_host: true,
            finalists: vec!["one".to_owned(), "other".to_owned()],
            comparisons,
            entries: vec![entry(8.0)],
            compared_channels: 1,
            sizes: vec![at(256, 0.01), at(65_536, 2.0), at(COMPARED, 7.0)],
            client_nics: nics.clone(),
            server_nics: nics,
            timeline: Timeline {
                nics: vec!["lo-127.0.0.1".to_owned(), "lo-127.0.0.2".to_owned()],
                samples: samples.collect(),
            },
            ..Report::default()
        };
        report.conclude();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::cause;
    use super::examples::{comparison, report, way};
    use benches::distance::State::{Far, Near};

    #[test]
    fn only_quiet_rounds_of_one_state_are_compared() {
        let mut rounds = vec![comparison(Some(Near), 0.0, 9.0, [9.0, 10.0]); 5];
        rounds.push(comparison(Some(Far), 0.0, 2.0, [4.0, 4.0]));
        rounds.extend(vec![comparison(None, 0.0, 1.0, [4.0, 4.0]); 7]);
        rounds.extend(vec![comparison(Some(Near), 2.0, 20.0, [4.0, 4.0]); 7]);
        let report = report(rounds);
        assert_eq!(report.ratio_line(), "ratio 0.900");
        let text = report.to_string();
        for part in [
            "5 of 20 rounds, cores near",
            "disturbed by other programs: 7 rounds",
            "plain TCP, other: 10.00",
            "write of 256M between endpoints: 7.20 GB/s, ratio 0.720,",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn one_of_a_thing_is_not_called_several() {
        let mut report = report(vec![comparison(Some(Near), 3.0, 9.0, [9.0, 10.0])]);
        let text = report.to_string();
        assert!(text.contains("messages over 1 channel on") && text.contains(": 1 round,"), "{text}");
        assert!(text.contains("compared: 1 round, none of which was quiet;"), "{text}");
        report.compared_channels = 4;
        assert!(report.to_string().contains("messages over 4 channels on"), "{report}");
    }

    #[test]
    fn too_few_rounds_are_unsettled() {
        let four = vec![comparison(Some(Near), 0.0, 9.0, [9.0, 10.0]); 4];
        assert_eq!(report(four).ratio_line(), "ratio 0.900 unsettled");
        let disturbed = vec![comparison(Some(Near), 3.0, 9.0, [9.0, 10.0]); 9];
        assert_eq!(report(disturbed).ratio_line(), "ratio 0.900 unsettled");
        assert_eq!(report(Vec::new()).ratio_line(), "ratio 0 unsettled");
    }

    #[test]
    fn why_the_ends_differ_is_said_in_words() {
        let quiet = cause("write", &way(7.0, -50.0));
        assert!(quiet.starts_with("the server counts 50.0 us less of 10.00 ms"), "{quiet}");
        assert!(!quiet.contains("kept from its core"), "{quiet}");
        let late = cause("read", &way(7.0, 900.0));
        assert!(late.contains("900.0 us more of 10.00 ms") && late.contains("kept from its core"), "{late}");
        let text = report(Vec::new()).to_string();
        assert!(text.contains("write of 64M: client 7.00 GB/s, server 7.07 GB/s"), "{text}");
    }

    #[test]
    fn nics_and_their_balance_are_shown_at_both_ends() {
        let text = report(Vec::new()).to_string();
        for end in ["client", "server"] {
            for part in [
                format!("{end}, NIC lo-127.0.0.1: sent 3.00 GB, received 0.00 GB, 75.0 %"),
                format!("{end}: the busiest NIC moved 3.00 times"),
                format!("{end}, kernel's counters: agrees: 10.00 GB on lo"),
                format!("{end}, eth1: 7 packets straight into GPU memory"),
            ] {
                assert!(text.contains(&part), "{part}: {text}");
            }
        }
    }
}
