//! Counters in Prometheus' text format.

use std::fmt::{Display, Write};

use p2p_transport::Id;

use super::{EndpointCounters, LinkCounters, RailCounters, Tally, Traffic};
use crate::engine::TransferKind;

impl EndpointCounters {
    /// As text in Prometheus' exposition format, version 0.0.4. Every series has the label `endpoint`; names begin with
    /// `p2p_endpoint_`. What is said by link has the labels `link` and `peer`, and is gone when the link is.
    pub fn to_prometheus(&self) -> String {
        let mut page = Page { text: String::new(), endpoint: &self.endpoint };
        page.traffic(self);
        page.links(self);
        page.by_link(&self.by_link);
        page.by_rail(&self.by_link);
        page.by_nic(&self.by_nic);
        page.text
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

/// A transfer or a notification is one, and has bytes.
type Column = (&'static str, fn(&Tally) -> u64);
const COUNT: fn(&Tally) -> u64 = |tally| tally.count;
const BYTES: fn(&Tally) -> u64 = |tally| tally.bytes;

struct Page<'a> {
    text: String,
    endpoint: &'a str,
}

impl Page<'_> {
    fn traffic(&mut self, all: &EndpointCounters) {
        let traffic = &all.traffic;
        let columns: [Column; 2] = [("transfers_total", COUNT), ("transfer_bytes_total", BYTES)];
        for ((name, column), help) in columns
            .into_iter()
            .zip(["Transfers of this end that are done.", "Bytes of transfers of this end that are done."])
        {
            self.family(name, COUNTER, help);
            for kind in TransferKind::ALL {
                self.line(name, &[("kind", kind.name())], column(traffic.of(kind)));
            }
        }
        let way = |traffic: &Traffic| {
            [("sent", traffic.notifications_sent), ("received", traffic.notifications_received)]
        };
        let columns: [Column; 2] = [("notifications_total", COUNT), ("notification_bytes_total", BYTES)];
        for ((name, column), help) in columns.into_iter().zip(["Notifications.", "Bytes of notifications."]) {
            self.family(name, COUNTER, help);
            for (direction, tally) in way(traffic) {
                self.line(name, &[("direction", direction)], column(&tally));
            }
        }
        self.one("transfers_refused_total", "Transfers of this end that were refused.", traffic.refused);
        let help = "Transfers of this end that ended because a rail, memory or the link was lost.";
        self.one("transfers_failed_total", help, traffic.failed);
        self.one("counted_total", "Writes of peers with a counter that have landed.", traffic.counted);
        self.one("stalls_total", "Stalls that were logged.", traffic.stalls);
    }

    fn links(&mut self, all: &EndpointCounters) {
        let links = &all.links;
        self.family("links_opened_total", COUNTER, "Links that came up.");
        self.line("links_opened_total", &[("by", "this end")], links.connected);
        self.line("links_opened_total", &[("by", "peer")], links.accepted);
        self.one("links_lost_total", "Links that were lost, or ended by the peer.", links.lost);
        self.one("links_closed_total", "Links that were closed at this end.", links.closed);
        self.one("links_refused_total", "Links that did not come up.", links.refused);
        let help = "Streams that were turned away before they showed who they are.";
        self.one("strangers_total", help, links.strangers);
        self.family("links_up", GAUGE, "Links that are up.");
        self.line("links_up", &[], links.up());
    }

    fn by_link(&mut self, links: &[LinkCounters]) {
        type Value = fn(&LinkCounters) -> u64;
        let families: [(&str, &str, &str, Value); 4] = [
            ("link_transfers_under_way", GAUGE, "Transfers of this end that have not ended.", |link| {
                link.under_way
            }),
            ("link_transfers_refused_total", COUNTER, "Transfers of this end that were refused.", |link| {
                link.traffic.refused
            }),
            ("link_transfers_failed_total", COUNTER, "Transfers of this end that failed.", |link| {
                link.traffic.failed
            }),
            ("link_stalls_total", COUNTER, "Stalls that were logged.", |link| link.traffic.stalls),
        ];
        for (name, kind, help, value) in families {
            self.family(name, kind, help);
            for link in links {
                let number = number(link);
                self.line(name, &[("link", &number), ("peer", &link.peer)], value(link));
            }
        }
        let columns: [Column; 2] = [("link_transfers_total", COUNT), ("link_transfer_bytes_total", BYTES)];
        for ((name, column), help) in columns
            .into_iter()
            .zip(["Transfers of this end that are done.", "Bytes of transfers of this end that are done."])
        {
            self.family(name, COUNTER, help);
            for link in links {
                let number = number(link);
                for kind in TransferKind::ALL {
                    let labels = [("link", number.as_str()), ("peer", &link.peer), ("kind", kind.name())];
                    self.line(name, &labels, column(link.traffic.of(kind)));
                }
            }
        }
    }

    fn by_rail(&mut self, links: &[LinkCounters]) {
        let columns: [Column; 2] = [("rail_messages_total", COUNT), ("rail_bytes_total", BYTES)];
        for ((name, column), help) in columns
            .into_iter()
            .zip(["Messages on a rail of a link.", "Bytes of messages on a rail of a link."])
        {
            self.family(name, COUNTER, help);
            for link in links {
                let number = number(link);
                for (index, rail) in link.rails.iter().enumerate() {
                    let index = index.to_string();
                    let of = [("link", number.as_str()), ("peer", &link.peer), ("rail", &index)];
                    self.both_ways(name, &of, rail, column);
                }
            }
        }
    }

    fn by_nic(&mut self, nics: &[RailCounters]) {
        let columns: [Column; 2] = [("nic_messages_total", COUNT), ("nic_bytes_total", BYTES)];
        for ((name, column), help) in
            columns.into_iter().zip(["Messages over a NIC.", "Bytes of messages over a NIC."])
        {
            self.family(name, COUNTER, help);
            for nic in nics {
                self.both_ways(name, &[], nic, column);
            }
        }
    }

    fn both_ways(&mut self, name: &str, of: &[(&str, &str)], rail: &RailCounters, column: fn(&Tally) -> u64) {
        for (direction, tally) in [("sent", &rail.messages.sent), ("received", &rail.messages.received)] {
            let own = [("nic", rail.nic.as_str()), ("direction", direction)];
            let labels: Vec<_> = of.iter().copied().chain(own).collect();
            self.line(name, &labels, column(tally));
        }
    }

    fn one(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, COUNTER, help);
        self.line(name, &[], value);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP p2p_endpoint_{name} {help}\n# TYPE p2p_endpoint_{name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.put(format_args!("p2p_endpoint_{name}{{endpoint=\"{}\"", Escaped(self.endpoint)));
        for (label, value) in labels {
            self.put(format_args!(",{label}=\"{}\"", Escaped(value)));
        }
        self.put(format_args!("}} {value}\n"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = self.text.write_fmt(text);
    }
}

/// Tells links with the same peer apart.
fn number(link: &LinkCounters) -> String {
    format!("{}.{}", link.link.index(), link.link.generation())
}

/// The value of a label: backslash, quote and end of line are escaped, which is all that the format asks for.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Escaped;

    #[test]
    fn a_label_stays_on_its_line_and_between_its_quotes() {
        assert_eq!(Escaped("a\\b\"c\nd{e}\u{e9}").to_string(), "a\\\\b\\\"c\\nd{e}\u{e9}");
    }
}
