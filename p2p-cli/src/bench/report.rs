//! Everything that a run measured, as text and as JSON.

use serde::Serialize;

use super::about::About;
use super::comparison::{Comparison, Verdict};
use super::figures::Entry;
use super::live::Timeline;
use super::nics;
use super::plan::{COMPARED, SETTLED};
use super::sizes::{AtSize, WayAtSize};
use super::text::{human, time};

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

#[cfg(test)]
mod tests {
    use super::super::examples::{comparison, report, way};
    use super::cause;
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
            "write of 256M between endpoints: 7.20 GB/s, ratio 1.440,",
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
