//! What a sweep found: a table, the best setting, and whether it is any better than the defaults.

use std::fmt;

use benches::statistics::median;
use serde::Serialize;

use super::about::About;
use super::report::FORMAT;
use super::text::{counted, human, time};
use super::trial::{Setting, Tried};
use crate::report::{Block, Figure, Page, Section, Table};

/// Rounds of a setting below which nothing can be said of it.
const FEW: usize = 3;

/// One setting, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub(super) setting: Setting,
    /// Median of the rounds.
    pub(super) gigabytes_per_second: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
    /// Median of the rounds' ratios to the defaults in the same round.
    pub(super) of_defaults: f64,
    pub(super) p50_microseconds: f64,
    pub(super) rounds: Vec<f64>,
}

/// Everything of a sweep.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Swept {
    pub(super) format: u32,
    pub(super) about: About,
    /// The defaults first.
    pub(super) rows: Vec<Row>,
    /// Which row is the fastest.
    pub(super) best: usize,
    /// Whether it is no further from the defaults than rounds of one setting are from each other.
    pub(super) within_the_spread: bool,
}

impl Swept {
    /// From the figures of each setting, by round. The first setting is the defaults.
    pub(super) fn of(about: About, settings: &[Setting], rounds: &[Vec<Tried>]) -> Option<Self> {
        let speeds = |at: usize| -> Vec<f64> {
            rounds.iter().filter_map(|round| Some(round.get(at)?.gigabytes_per_second)).collect()
        };
        let defaults = speeds(0);
        let row = |(at, setting): (usize, &Setting)| -> Option<Row> {
            let own = speeds(at);
            let ratios: Vec<f64> = own.iter().zip(&defaults).map(|(own, default)| own / default).collect();
            let p50: Vec<f64> =
                rounds.iter().filter_map(|round| Some(round.get(at)?.latency.p50_microseconds)).collect();
            Some(Row {
                setting: *setting,
                gigabytes_per_second: median(&own)?,
                lowest: own.iter().copied().fold(f64::INFINITY, f64::min),
                highest: own.iter().copied().fold(0.0, f64::max),
                of_defaults: median(&ratios)?,
                p50_microseconds: median(&p50)?,
                rounds: own,
            })
        };
        let rows: Vec<Row> = settings.iter().enumerate().map(row).collect::<Option<_>>()?;
        // Of the same rounds, since the machine changes from one to the next.
        let speed = |at: &usize| rows[*at].of_defaults;
        // The defaults win a tie.
        let best = (0..rows.len()).rev().max_by(|one, other| speed(one).total_cmp(&speed(other)))?;
        let within = best == 0 || rounds.len() < FEW || rows[best].lowest <= rows[0].highest;
        Some(Self { format: FORMAT, about, rows, best, within_the_spread: within })
    }

    /// What to do, in words.
    pub(super) fn advice(&self) -> String {
        let (best, defaults) = (&self.rows[self.best], &self.rows[0]);
        let rounds = best.rounds.len();
        if self.best == 0 {
            return "best: the defaults; set nothing".to_owned();
        }
        let typed = best.setting.typed();
        let better = (best.of_defaults - 1.0) * 100.0;
        if rounds < FEW {
            return format!(
                "best: {typed}, {better:+.1} % beside the defaults, of {} alone, which says nothing; give more --seconds",
                counted(rounds, "round")
            );
        }
        if self.within_the_spread {
            return format!(
                "best: {typed}, but within the spread: {better:+.1} % beside the defaults, while its slowest round \
                 ({:.2} GB/s) is no faster than the fastest of the defaults ({:.2} GB/s); leave the defaults, or measure \
                 longer on a quieter machine",
                best.lowest, defaults.highest
            );
        }
        format!(
            "best: {typed}, {better:+.1} % beside the defaults, in each of {} faster than the defaults ever were; set \
             these variables at both ends",
            counted(rounds, "round")
        )
    }

    fn head() -> [&'static str; 9] {
        ["channels", "chunk", "window", "GB/s", "lowest", "highest", "of defaults", "p50", "rounds"]
    }

    fn cells(row: &Row) -> [String; 9] {
        let or_default = |value: Option<String>| value.unwrap_or_else(|| "default".to_owned());
        [
            or_default(row.setting.channels.map(|channels| channels.to_string())),
            or_default(row.setting.chunk_bytes.map(|bytes| human(bytes as usize))),
            or_default(row.setting.window.map(|(send, recv)| format!("{send}/{recv}"))),
            format!("{:.2}", row.gigabytes_per_second),
            format!("{:.2}", row.lowest),
            format!("{:.2}", row.highest),
            format!("{:.3}", row.of_defaults),
            time(row.p50_microseconds),
            row.rounds.len().to_string(),
        ]
    }

    /// The same, to be read in a browser.
    pub(super) fn page(&self) -> Page {
        let best = &self.rows[self.best];
        let table = Table {
            caption: "Writes of 64 MiB between endpoints, two under way; each figure is a median of rounds in which all \
                      settings take turns, in processes of their own."
                .to_owned(),
            head: Self::head().map(str::to_owned).to_vec(),
            rows: self.rows.iter().map(|row| Self::cells(row).to_vec()).collect(),
        };
        let facts = self.about.lines().into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let section = |title: &str, blocks| Section { title: title.to_owned(), blocks };
        Page {
            title: "p2p bench --sweep".to_owned(),
            lead: format!("{}.", self.advice()),
            figures: vec![
                Figure {
                    name: "defaults".to_owned(),
                    value: format!("{:.2} GB/s", self.rows[0].gigabytes_per_second),
                    note: format!("{:.2} to {:.2}", self.rows[0].lowest, self.rows[0].highest),
                },
                Figure {
                    name: "fastest".to_owned(),
                    value: format!("{:.2} GB/s", best.gigabytes_per_second),
                    note: format!("{:.2} to {:.2}", best.lowest, best.highest),
                },
            ],
            sections: vec![
                section("Settings", vec![Block::Table(table)]),
                section("Where, when and how", vec![Block::Facts(facts)]),
            ],
        }
    }
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, text) in self.about.lines() {
            writeln!(f, "{name}: {text}")?;
        }
        writeln!(
            f,
            "\nwrites of 64M between endpoints, two under way; each setting in processes of its own, in turn\n"
        )?;
        let line = |f: &mut fmt::Formatter<'_>, cells: [String; 9]| {
            let [a, b, c, d, e, g, h, i, j] = cells;
            writeln!(f, "{a:>8} {b:>8} {c:>8} {d:>7} {e:>7} {g:>7} {h:>11} {i:>9} {j:>6}")
        };
        line(f, Self::head().map(str::to_owned))?;
        self.rows.iter().try_for_each(|row| line(f, Self::cells(row)))?;
        writeln!(f, "\n{}", self.advice())
    }
}

#[cfg(test)]
mod tests {
    use super::{About, Setting, Swept, Tried};
    use crate::bench::figures::Percentiles;

    fn swept(rounds: &[&[f64]]) -> Swept {
        let channels = |channels| Setting { channels, soft: true, ..Setting::default() };
        let settings = [None, Some(2), Some(4)].map(channels);
        let tried = |speed: &f64| Tried {
            gigabytes_per_second: *speed,
            latency: Percentiles { p50_microseconds: 1e3 / speed, ..Percentiles::default() },
        };
        let rounds: Vec<Vec<Tried>> = rounds.iter().map(|round| round.iter().map(tried).collect()).collect();
        Swept::of(About::default(), &settings, &rounds).expect("rounds")
    }

    #[test]
    fn the_best_setting_is_named_with_its_variables() {
        let swept = swept(&[&[5.0, 7.0, 4.0], &[5.2, 7.1, 4.0], &[5.1, 6.9, 4.0]]);
        assert_eq!((swept.best, swept.within_the_spread), (1, false));
        let advice = swept.advice();
        assert!(advice.starts_with("best: UCCL_TCPX_NUM_CHANNELS=2, +36.5 % beside"), "{advice}");
        assert!(advice.contains("set these variables at both ends"), "{advice}");
        let text = swept.to_string();
        assert!(text.contains(" default  default    5.10    5.00    5.20"), "{text}");
        assert_eq!(text.matches("\n").count(), swept.about.lines().len() + 3 + 1 + 3 + 2, "{text}");
    }

    #[test]
    fn a_difference_within_the_spread_is_called_that() {
        // The median is better, but one round is not better than the best of the defaults.
        let swept = swept(&[&[5.0, 6.0, 4.0], &[5.9, 6.1, 4.0], &[5.1, 5.8, 4.0]]);
        assert_eq!((swept.best, swept.within_the_spread), (1, true));
        let advice = swept.advice();
        assert!(advice.contains("within the spread") && advice.contains("(5.80 GB/s)"), "{advice}");
        assert!(advice.contains("(5.90 GB/s)") && !advice.contains("set these"), "{advice}");
    }

    #[test]
    fn defaults_that_are_best_stay_and_two_rounds_say_nothing() {
        let best = swept(&[&[8.0, 8.0, 4.0], &[8.0, 8.0, 4.0], &[8.0, 8.0, 4.0]]);
        assert_eq!((best.best, best.advice().as_str()), (0, "best: the defaults; set nothing"));
        let few = swept(&[&[5.0, 9.0, 4.0], &[5.0, 9.0, 4.0]]);
        assert!(few.within_the_spread && few.advice().contains("of 2 rounds alone"), "{}", few.advice());
    }

    #[test]
    fn the_page_shows_every_setting() {
        let html = swept(&[&[5.0, 7.0, 4.0]]).page().to_html();
        assert_eq!(html.matches("<tr><td>").count(), 3);
        assert!(html.contains("<td>2</td><td>default</td>"), "{html}");
    }
}
