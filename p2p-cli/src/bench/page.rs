//! The page that shows a run.

use super::plan::{COMPARED, LONG};
use super::report::Report;
use super::sizes::{AtSize, WayAtSize};
use super::text::{counted, human, time};
use crate::report::{Axis, Bars, Block, Chart, Drawing, Figure, Line, Lines, Page, Scale, Section, Table};

/// Least gigabytes per second of a bar over time: in others plain TCP had its turn.
const IDLE: f64 = 0.001;

impl Report {
    /// Everything of a run, to be read in a browser.
    pub(super) fn page(&self) -> Page {
        let sections = [
            ("Over message size", self.over_size()),
            ("Beside plain TCP, round by round", self.rounds()),
            ("NICs", self.of_nics()),
            ("Both ends", self.ends()),
            ("Messages over the connections below", vec![Block::Table(self.channels())]),
            ("Where, when and how", vec![Block::Facts(self.facts())]),
        ];
        Page {
            title: "p2p bench".to_owned(),
            lead: format!(
                "Verified bytes between two processes, over {}, beside the fastest plain TCP of this machine.",
                self.plugin
            ),
            figures: self.figures(),
            sections: sections
                .map(|(title, blocks)| Section { title: title.to_owned(), blocks })
                .into_iter()
                .collect(),
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let Some(verdict) = &self.verdict else { return Vec::new() };
        let figure = |name: &str, value: String, note: String| Figure { name: name.to_owned(), value, note };
        let rate = |value: f64| format!("{value:.2} GB/s");
        let ratio = |value: f64| format!("{value:.3} of plain TCP");
        let [p50, _, p99] = verdict.to_and_fro.notifications.all();
        vec![
            figure("write of 64M", rate(verdict.write.gigabytes_per_second), ratio(verdict.write.ratio)),
            figure("read of 64M", rate(verdict.read.gigabytes_per_second), ratio(verdict.read.ratio)),
            figure(
                "write of 256M",
                rate(verdict.long_write.gigabytes_per_second),
                ratio(verdict.long_write.ratio),
            ),
            figure(
                "write of 4,096 pages",
                format!("{:.3}", verdict.vector),
                "of a contiguous write".to_owned(),
            ),
            figure("notification, to and fro", format!("{p50:.1} us"), format!("p99 {p99:.1} us")),
            figure("verified", self.verified.to_string(), "messages, every byte".to_owned()),
        ]
    }

    fn over_size(&self) -> Vec<Block> {
        let sizes: Vec<f64> = self.sizes.iter().map(|at| at.size as f64).collect();
        let line = |name: &str, value: &dyn Fn(&AtSize) -> f64| Line {
            name: name.to_owned(),
            points: self.sizes.iter().map(|at| (at.size as f64, value(at))).collect(),
        };
        let chart = |title: &str, note: &str, y: Axis, lines: Vec<Line>| Chart {
            title: title.to_owned(),
            note: note.to_owned(),
            drawing: Drawing::Lines(Lines { x: size_axis(&sizes), y, lines, reference: None }),
        };
        let throughput = chart(
            "Throughput",
            "Both axes are logarithmic. Plain TCP is its fastest layout at each size, with at least as much under way.",
            axis("GB/s", Scale::Log, short),
            vec![
                line("write", &|at| at.write.gigabytes_per_second),
                line("read", &|at| at.read.gigabytes_per_second),
                line("plain TCP", &|at| at.plain_gigabytes_per_second),
            ],
        );
        let latency = |title: &str, way: fn(&AtSize) -> &WayAtSize| {
            let of = |which: usize| move |at: &AtSize| way(at).latency.all()[which];
            chart(
                title,
                "From submission until the end is known, with as many under way as the table says.",
                axis("latency", Scale::Log, round_time),
                vec![line("p50", &of(0)), line("p90", &of(1)), line("p99", &of(2))],
            )
        };
        vec![
            Block::Charts(vec![
                throughput,
                latency("Latency of writes", |at| &at.write),
                latency("Latency of reads", |at| &at.read),
            ]),
            Block::Table(self.size_table()),
            Block::Table(self.plain_table()),
        ]
    }

    fn size_table(&self) -> Table {
        let head = [
            "size",
            "under way",
            "write GB/s",
            "of TCP",
            "p50",
            "p90",
            "p99",
            "read GB/s",
            "of TCP",
            "p50",
            "p90",
            "p99",
        ];
        let row = |at: &AtSize| {
            let mut row = vec![human(at.size), at.in_flight.to_string()];
            for (way, ratio) in [(&at.write, at.write_ratio), (&at.read, at.read_ratio)] {
                row.push(format!("{:.3}", way.gigabytes_per_second));
                row.push(format!("{ratio:.2}"));
                row.extend(way.latency.all().map(time));
            }
            row
        };
        let rounds = self.sizes.iter().map(|at| at.rounds).min().unwrap_or(0);
        Table {
            caption: format!(
                "Medians of {}, in which write, read and plain TCP take turns.",
                counted(rounds, "round")
            ),
            head: head.map(str::to_owned).to_vec(),
            rows: self.sizes.iter().map(row).collect(),
        }
    }

    fn plain_table(&self) -> Table {
        let head = [
            "size",
            "plain TCP GB/s",
            "its fastest layout",
            "CPU s/GB of a write: client",
            "server",
            "of a read: client",
            "server",
        ];
        let row = |at: &AtSize| {
            let mut row = vec![
                human(at.size),
                format!("{:.3}", at.plain_gigabytes_per_second),
                at.plain_layout.clone(),
            ];
            for way in [&at.write, &at.read] {
                row.push(format!("{:.3}", way.client_cpu_seconds_per_gigabyte));
                row.push(format!("{:.3}", way.server_cpu_seconds_per_gigabyte));
            }
            row
        };
        Table {
            caption: "CPU time of each end's process for each gigabyte.".to_owned(),
            head: head.map(str::to_owned).to_vec(),
            rows: self.sizes.iter().map(row).collect(),
        }
    }

    fn rounds(&self) -> Vec<Block> {
        let Some(verdict) = &self.verdict else {
            return vec![Block::Text("There was no time for a round.".to_owned())];
        };
        let baseline = verdict.baseline;
        let ratios = |name: &str, long: bool, value: &dyn Fn(&super::comparison::Comparison) -> f64| Line {
            name: name.to_owned(),
            points: (1..)
                .zip(&self.comparisons)
                .map(|(number, round)| {
                    let plain = if long {
                        &round.plain.long_gigabytes_per_second
                    } else {
                        &round.plain.gigabytes_per_second
                    };
                    (f64::from(number), value(round) / plain.get(baseline).copied().unwrap_or(f64::NAN))
                })
                .collect(),
        };
        let chart = Chart {
            title: "Ratio to plain TCP".to_owned(),
            note: "Each point is one round; what counts is the median of the rounds in which the machine was quiet."
                .to_owned(),
            drawing: Drawing::Lines(Lines {
                x: Axis {
                    marks: (1..=self.comparisons.len()).map(|number| number as f64).collect(),
                    ..axis("round", Scale::Linear, |value| format!("{value:.0}"))
                },
                y: axis("of plain TCP", Scale::Linear, |value| format!("{value:.1}")),
                lines: vec![
                    ratios("write of 64M", false, &|round| round.endpoint.write.gigabytes_per_second),
                    ratios("read of 64M", false, &|round| round.endpoint.read.gigabytes_per_second),
                    ratios("write of 256M", true, &|round| round.endpoint.long_write.gigabytes_per_second),
                ],
                reference: Some(1.0),
            }),
        };
        let row = |name: &str, beside: super::comparison::Beside, plain: f64| {
            vec![
                name.to_owned(),
                format!("{:.2}", beside.gigabytes_per_second),
                format!("{plain:.2}"),
                format!("{:.3}", beside.ratio),
                format!("{:.2}", beside.spread),
            ]
        };
        let (plain, long) = (verdict.plain, verdict.plain_long);
        let mut rows = vec![
            row(&format!("write of {}", human(COMPARED)), verdict.write, plain),
            row(&format!("read of {}", human(COMPARED)), verdict.read, plain),
            row(&format!("write of {}", human(LONG)), verdict.long_write, long),
            row(
                &format!("messages over {}", counted(self.compared_channels, "channel")),
                verdict.messages,
                plain,
            ),
        ];
        if let Some(other) = verdict.other_program {
            let mut beside = row("write of 64M, beside iperf3", other, other.gigabytes_per_second);
            beside[1] = format!("{:.2}", verdict.write.gigabytes_per_second);
            rows.push(beside);
        }
        let table = Table {
            caption: format!(
                "Medians of {}; plain TCP is {}. The spread is of the ratios, largest less smallest, over the median.",
                verdict.which(),
                self.baseline()
            ),
            head: ["", "GB/s", "other GB/s", "ratio", "spread"].map(str::to_owned).to_vec(),
            rows,
        };
        let mut blocks = vec![Block::Charts(vec![chart]), Block::Table(table)];
        if !self.settled {
            let text =
                "Unsettled: too few rounds were alike, because the machine changed or other programs ran.";
            blocks.insert(0, Block::Text(text.to_owned()));
        }
        blocks
    }

    fn of_nics(&self) -> Vec<Block> {
        let busy = |rates: &[f64]| rates.iter().sum::<f64>() > IDLE;
        let samples = self.timeline.samples.iter().filter(|sample| busy(&sample.gigabytes_per_second));
        let bars: Vec<(f64, Vec<f64>)> =
            samples.map(|sample| (sample.seconds, sample.gigabytes_per_second.clone())).collect();
        let mut rows = Vec::new();
        let mut blocks = Vec::new();
        for (end, moved) in [("client", &self.client_nics), ("server", &self.server_nics)] {
            for (nic, bytes, share) in moved.shares() {
                rows.push(vec![
                    nic.to_owned(),
                    end.to_owned(),
                    format!("{:.2}", bytes.sent as f64 / 1e9),
                    format!("{:.2}", bytes.received as f64 / 1e9),
                    format!("{:.1} %", share * 100.0),
                ]);
            }
        }
        blocks.push(Block::Charts(vec![Chart {
            title: "Bytes of each NIC over time".to_owned(),
            note: "Between endpoints, at the client, both ways, in quarters of a second; gaps are the turns of plain TCP."
                .to_owned(),
            drawing: Drawing::Bars(Bars {
                x: axis("seconds since the start", Scale::Range, |value| format!("{value:.0}")),
                y: axis("GB/s", Scale::Linear, short),
                names: self.timeline.nics.clone(),
                bars,
                width: super::live::SAMPLE.as_secs_f64(),
            }),
        }]));
        blocks.push(Block::Table(Table {
            caption: "As the endpoints count, while sizes were measured.".to_owned(),
            head: ["NIC", "end", "sent GB", "received GB", "share"].map(str::to_owned).to_vec(),
            rows,
        }));
        for (end, moved) in [("Client", &self.client_nics), ("Server", &self.server_nics)] {
            blocks.push(Block::Text(format!("{end}, the kernel's own counters: {}.", moved.cross_check())));
            for (interface, packets) in &moved.devmem_packets {
                blocks.push(Block::Text(format!(
                    "{end}, {interface}: {packets} packets went straight into GPU memory."
                )));
            }
        }
        blocks
    }

    fn ends(&self) -> Vec<Block> {
        let mut blocks = vec![Block::Text(format!("Clocks: {}.", self.clocks()))];
        blocks.extend(self.both_ends().into_iter().map(|line| Block::Text(format!("{line}."))));
        blocks
    }

    fn channels(&self) -> Table {
        let head = [
            "channels",
            "size",
            "under way",
            "send GB/s",
            "receive GB/s",
            "p50",
            "p90",
            "p99",
            "CPU s/GB send",
            "receive",
        ];
        let row = |entry: &super::figures::Entry| {
            let mut row = vec![
                entry.channels.to_string(),
                human(entry.size),
                entry.in_flight.to_string(),
                format!("{:.2}", entry.sender_gigabytes_per_second),
                format!("{:.2}", entry.receiver_gigabytes_per_second),
            ];
            row.extend(entry.latency.all().map(time));
            row.push(format!("{:.3}", entry.sender_cpu_seconds_per_gigabyte));
            row.push(format!("{:.3}", entry.receiver_cpu_seconds_per_gigabyte));
            row
        };
        Table {
            caption: "Two-sided messages over the transport that endpoints stand on.".to_owned(),
            head: head.map(str::to_owned).to_vec(),
            rows: self.entries.iter().map(row).collect(),
        }
    }

    fn facts(&self) -> Vec<(String, String)> {
        let mut facts: Vec<(String, String)> =
            self.about.lines().into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        facts.push(("transport".to_owned(), self.plugin.clone()));
        if let Some(sockets) = &self.sockets {
            facts.push(("sockets".to_owned(), sockets.clone()));
        }
        facts.push(("congestion control".to_owned(), self.congestion.clone()));
        let machines = if self.same_host { "both ends on this machine" } else { "two machines" };
        facts.push(("machines".to_owned(), machines.to_owned()));
        facts
    }
}

fn axis(label: &str, scale: Scale, write: fn(f64) -> String) -> Axis {
    Axis { label: label.to_owned(), scale, write, marks: Vec::new() }
}

fn size_axis(sizes: &[f64]) -> Axis {
    let marks = sizes.to_vec();
    Axis { marks, ..axis("message size in bytes", Scale::Log, |value| human(value as usize)) }
}

/// A time beside an axis.
fn round_time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{} us", short(us)),
        us if us < 1e6 => format!("{} ms", short(us / 1e3)),
        us => format!("{} s", short(us / 1e6)),
    }
}

/// A number without zeros at its end.
fn short(value: f64) -> String {
    let digits = format!("{value:.6}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::examples::{comparison, report};
    use super::{round_time, short};
    use benches::distance::State::Near;

    #[test]
    fn numbers_are_short() {
        assert_eq!([10.0, 1000.0, 2e6].map(round_time), ["10 us", "1 ms", "2 s"]);
        assert_eq!([0.0001, 0.5, 10.0, 100.0, 0.0].map(short), ["0.0001", "0.5", "10", "100", "0"]);
    }

    #[test]
    fn a_page_has_every_size_way_and_nic_of_its_report() {
        let mut report = report(vec![comparison(Some(Near), 0.0, 9.0, [9.0, 10.0]); 5]);
        report.about.command = vec!["p2p".to_owned(), "<b>\"&'".to_owned()];
        let html = report.page().to_html();
        for part in [
            "<td>256</td>",
            "<td>64K</td>",
            "<td>64M</td>",
            "write: 64M, 7<",
            "read: 64M, 6.3<",
            "plain TCP: 64M, 7.7<",
            "p99: 256, ",
            "lo-127.0.0.2",
            "p2p &lt;b&gt;&quot;&amp;&#39;",
            "0.900 of plain TCP",
            "Medians of 5 of 5 rounds, cores near;",
        ] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<b>") && !html.contains("Unsettled"));
        assert!(!html.contains("NaN") && !html.contains("http"), "nothing is loaded");
    }

    #[test]
    fn a_page_without_rounds_says_so() {
        let html = report(Vec::new()).page().to_html();
        assert!(html.contains("no time for a round"));
    }
}
