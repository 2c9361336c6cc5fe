//! What is printed: a line for each phase, a table for each shape, and both side by side.

use std::fmt::Write as _;

use super::report::{NicMoved, Pass, Phase, Report};

/// Pairs that are shown one by one at most.
const MOST_PAIRS: usize = 16;
const WIDTH: usize = 24;

/// A phase in a line.
pub(super) fn phase(phase: &Phase) -> String {
    let Phase { name, count, what, milliseconds } = phase;
    format!("{name:<10} {count:>5} {what}, {milliseconds:.0} ms\n")
}

/// What is being moved, in a line.
pub(super) fn moving(text: &str) -> String {
    format!("{:<10} {text}\n", "data")
}

/// A shape in a table.
pub(super) fn shape(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    line(format!(
        "{}: {} hosts, {} processes, {} endpoints, {} pairs, {} channels; {}; {}",
        report.shape.name(),
        report.hosts,
        report.processes,
        report.endpoints,
        report.pairs,
        report.channels,
        report.plugin,
        report.memory
    ));
    for (host, nics) in report.nics.iter().enumerate() {
        line(format!("  host {host} uses {}: {}", counted(nics.len(), "NIC"), nics.join(", ")));
    }
    let threads = report.used.iter().map(|used| used.threads).max().unwrap_or(0);
    let descriptors = report.used.iter().map(|used| used.descriptors).max().unwrap_or(0);
    line(format!("  a process has at most {threads} threads and {descriptors} descriptors"));
    if report.setup_only {
        line("  setup only: nothing was moved".to_owned());
    }
    for pass in &report.passes {
        line(pass_text(pass));
    }
    text
}

fn pass_text(pass: &Pass) -> String {
    let kind = if pass.verified { "verified" } else { "timed" };
    let mut text = format!(
        "  {} {kind}: {} in {:.2} s, {:.3} GB/s together, {} per pair",
        pass.way,
        human(pass.bytes),
        pass.seconds,
        pass.gigabytes_per_second,
        counted(pass.messages as usize, "message")
    );
    if pass.verified {
        text.push_str(", every byte as it should be");
    }
    for pair in pass.failed() {
        let why = pair.reason.as_deref().unwrap_or("no reason is known");
        let _ = write!(
            text,
            "\n    FAILED {} to {} ({}): {} of {}: {why}",
            pair.from,
            pair.to,
            pair.rails.join(" "),
            pair.failed,
            counted((pair.failed + pair.messages) as usize, "message")
        );
    }
    if pass.verified {
        return text;
    }
    for nic in &pass.by_nic {
        let _ = write!(text, "\n{}", nic_text(nic));
    }
    if pass.by_pair.len() <= MOST_PAIRS {
        for pair in pass.by_pair.iter().filter(|pair| pair.failed == 0) {
            let (from, to, speed) = (&pair.from, &pair.to, pair.gigabytes_per_second);
            let _ = write!(text, "\n    {from} to {to}: {} each, {speed:.3} GB/s", human(pair.size as u64));
        }
    } else {
        let mut speeds: Vec<f64> = pass.by_pair.iter().map(|pair| pair.gigabytes_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (speeds.first(), speeds.last()) {
            let _ = write!(
                text,
                "\n    {} pairs: {least:.3} to {most:.3} GB/s, median {:.3}",
                speeds.len(),
                speeds[speeds.len() / 2]
            );
        }
    }
    text
}

fn nic_text(nic: &NicMoved) -> String {
    let mut text = format!(
        "    host {} {}: {}, {:.1} % of its host ({:.1} % expected), {:.2} Gbit/s",
        nic.host,
        nic.nic,
        human(nic.bytes),
        nic.share * 100.0,
        nic.expected_share * 100.0,
        nic.gigabits_per_second
    );
    if let Some(kernel) = nic.kernel {
        let (sent, received) = (human(kernel.sent), human(kernel.received));
        let _ = write!(text, "; the kernel counts {sent} sent, {received} received");
    }
    text
}

/// What stands in a row for a shape.
type Cell = fn(&Report) -> String;

/// Several shapes side by side.
pub(super) fn side_by_side(reports: &[Report]) -> String {
    let rows: [(&str, Cell); 11] = [
        ("processes", |report| report.processes.to_string()),
        ("pairs", |report| report.pairs.to_string()),
        ("channels", |report| report.channels.to_string()),
        ("setup, ms", |report| {
            format!("{:.0}", report.phases.iter().map(|phase| phase.milliseconds).sum::<f64>())
        }),
        ("threads of a process", |report| most(report, |used| used.threads)),
        ("descriptors of a process", |report| most(report, |used| used.descriptors)),
        ("write, GB/s", |report| speed(report, "write")),
        ("read, GB/s", |report| speed(report, "read")),
        ("NICs of a host", |report| report.nics.iter().map(Vec::len).max().unwrap_or(0).to_string()),
        ("least and most of a NIC", shares),
        ("messages verified", |report| report.verified().to_string()),
    ];
    let mut text = format!("{:<WIDTH$}", "");
    let cells = |text: &mut String, cells: Vec<String>| {
        for cell in cells {
            let _ = write!(text, "  {cell:>18}");
        }
        text.push('\n');
    };
    cells(&mut text, reports.iter().map(|report| report.shape.name().to_owned()).collect());
    for (name, cell) in rows {
        let _ = write!(text, "{name:<WIDTH$}");
        cells(&mut text, reports.iter().map(cell).collect());
    }
    text
}

fn most(report: &Report, of: fn(&super::system::Use) -> usize) -> String {
    report.used.iter().map(of).max().unwrap_or(0).to_string()
}

fn speed(report: &Report, way: &str) -> String {
    report.speed(way).map_or_else(|| "-".to_owned(), |speed| format!("{speed:.3}"))
}

/// Of the first host, in the first timed pass.
fn shares(report: &Report) -> String {
    let Some(pass) = report.passes.iter().find(|pass| !pass.verified) else { return "-".to_owned() };
    let shares = || pass.by_nic.iter().filter(|nic| nic.host == 0).map(|nic| nic.share * 100.0);
    let (least, most) = (shares().fold(f64::INFINITY, f64::min), shares().fold(0.0, f64::max));
    format!("{least:.1} % to {most:.1} %")
}

fn counted(number: usize, name: &str) -> String {
    format!("{number} {name}{}", if number == 1 { "" } else { "s" })
}

/// Bytes with a unit of 1024.
pub(super) fn human(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut at = 0;
    while value >= 1024.0 && at + 1 < units.len() {
        value /= 1024.0;
        at += 1;
    }
    let digits = usize::from(at > 0 && value.fract() > 0.05 && value < 100.0);
    format!("{value:.digits$} {}", units[at])
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_are_shown_with_their_unit() {
        for (bytes, text) in
            [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (8 << 20, "8 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
