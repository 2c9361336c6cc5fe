//! Everything that a run measured, as text.

use std::fmt;

use benches::statistics::median;

use super::comparison::Beside;
use super::plan::{COMPARED, LONG};
use super::report::Report;
use super::text::{counted, human};

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
