//! Bytes of each NIC: as the endpoint counts them, and as the kernel does.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2p_endpoint::counters::RailCounters;
use p2p_endpoint::endpoint::Endpoint;
use serde::{Deserialize, Serialize};

/// Where the kernel shows its interfaces.
const INTERFACES: &str = "/sys/class/net";
/// The interface of what stays on this machine.
const LOOPBACK: &str = "lo";
/// What the driver of Google's NICs calls packets that went straight into GPU memory.
const DEVMEM: &str = "rx_devmem_pkts";
/// Least share of an endpoint's bytes that the kernel has to have counted.
const AGREES: f64 = 0.97;

/// Bytes both ways.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Bytes {
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Bytes {
    pub(super) const fn both(self) -> u64 {
        self.sent + self.received
    }

    const fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }

    const fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
        }
    }
}

/// What one end moved while it was looked at.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Moved {
    /// As the endpoint counted, by the NIC's name.
    pub(super) nics: BTreeMap<String, Bytes>,
    /// As the kernel counted, by interface: those of the NICs, and the loopback.
    pub(super) interfaces: BTreeMap<String, Bytes>,
    /// Packets that went straight into GPU memory, of interfaces that count them.
    pub(super) devmem_packets: BTreeMap<String, u64>,
}

impl Moved {
    pub(super) fn add(&mut self, other: &Self) {
        for (name, bytes) in &other.nics {
            self.nics.entry(name.clone()).or_default().add(*bytes);
        }
        for (name, bytes) in &other.interfaces {
            self.interfaces.entry(name.clone()).or_default().add(*bytes);
        }
    }

    /// Counts packets into GPU memory since there were so many.
    pub(super) fn count_devmem(&mut self, before: &BTreeMap<String, u64>) {
        let since = |(name, packets): (String, u64)| {
            let before = before.get(&name).copied().unwrap_or(0);
            (name, packets.saturating_sub(before))
        };
        let now = devmem_packets(self.interfaces.keys().map(String::as_str));
        self.devmem_packets = now.into_iter().map(since).collect();
    }

    /// Each NIC's share of the bytes of all.
    pub(super) fn shares(&self) -> Vec<(&str, Bytes, f64)> {
        let all: u64 = self.nics.values().map(|bytes| bytes.both()).sum();
        let share = |bytes: &Bytes| bytes.both() as f64 / all.max(1) as f64;
        self.nics.iter().map(|(name, bytes)| (name.as_str(), *bytes, share(bytes))).collect()
    }

    /// Largest share over the smallest; `None` with fewer than two NICs.
    pub(super) fn balance(&self) -> Option<f64> {
        let bytes = || self.nics.values().map(|bytes| bytes.both() as f64);
        let (least, most) = (bytes().fold(f64::INFINITY, f64::min), bytes().fold(0.0, f64::max));
        (self.nics.len() > 1 && most > 0.0).then_some(most / least.max(1.0))
    }

    /// What the kernel's counters say of the endpoint's, in a sentence.
    pub(super) fn cross_check(&self) -> String {
        let mut wanted: BTreeMap<&str, Bytes> = BTreeMap::new();
        for (name, bytes) in &self.nics {
            let Some(interface) = interface_of(name, |name| self.interfaces.contains_key(name)) else {
                return format!(
                    "the kernel has no interface of NIC {name}, so that nothing is cross-checked"
                );
            };
            wanted.entry(interface).or_default().add(*bytes);
        }
        let said: Vec<String> = wanted.iter().map(|(name, bytes)| self.of_interface(name, *bytes)).collect();
        said.join("; ")
    }

    fn of_interface(&self, name: &str, wanted: Bytes) -> String {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        let counted = self.interfaces.get(name).copied().unwrap_or_default();
        let enough = |counted: Bytes| counted.both() as f64 >= AGREES * wanted.both() as f64;
        let (there, ours) = (gigabytes(counted.both()), gigabytes(wanted.both()));
        if name == LOOPBACK {
            let loopback = "which stands for every NIC and counts both ends, once sent and once received";
            let verdict = if enough(counted) { "agrees" } else { "COUNTED LESS: the bytes went another way" };
            return format!("{verdict}: {there:.2} GB on {name}, {loopback}; {ours:.2} GB by the endpoint");
        }
        if enough(counted) {
            return format!(
                "agrees: {there:.2} GB on {name}, headers included; {ours:.2} GB by the endpoint"
            );
        }
        let through = self.interfaces.get(LOOPBACK).copied().unwrap_or_default();
        if enough(through) {
            return format!(
                "{name} did not carry them: the kernel keeps what stays on this machine on {LOOPBACK} \
                 ({:.2} GB there, {there:.2} GB on {name}, {ours:.2} GB by the endpoint)",
                gigabytes(through.both())
            );
        }
        format!(
            "COUNTED LESS: {there:.2} GB on {name}, {ours:.2} GB by the endpoint: the bytes went another way"
        )
    }
}

/// Between two looks whether counters stand still.
const LOOK: Duration = Duration::from_millis(5);
const MOST_LOOKS: u32 = 100;

/// The counters of one endpoint and of the kernel at a moment.
pub(super) struct Meter {
    nics: BTreeMap<String, Bytes>,
    interfaces: BTreeMap<String, Bytes>,
}

impl Meter {
    pub(super) fn start(endpoint: &Endpoint) -> Self {
        let nics = of_endpoint(endpoint);
        let mut interfaces = BTreeMap::new();
        let there = |name: &str| Path::new(INTERFACES).join(name).exists();
        let named = nics.keys().filter_map(|nic| interface_of(nic, there));
        for name in named.chain([LOOPBACK]) {
            if let Some(bytes) = of_kernel(Path::new(INTERFACES), name) {
                interfaces.insert(name.to_owned(), bytes);
            }
        }
        Self { nics, interfaces }
    }

    /// What moved since the start. A peer may say that all has come before the transport here says that the last of it
    /// has gone, which is when it is counted: that is waited for, for a while.
    pub(super) fn read(&self, endpoint: &Endpoint) -> Moved {
        let mut nics = of_endpoint(endpoint);
        for _ in 0..MOST_LOOKS {
            std::thread::sleep(LOOK);
            let before = std::mem::replace(&mut nics, of_endpoint(endpoint));
            if before == nics {
                break;
            }
        }
        let now = Self::start(endpoint);
        let since = |now: BTreeMap<String, Bytes>, before: &BTreeMap<String, Bytes>| {
            let since = |(name, bytes): (String, Bytes)| {
                let bytes = bytes.since(before.get(&name).copied().unwrap_or_default());
                (name, bytes)
            };
            now.into_iter().map(since).collect()
        };
        Moved {
            nics: since(now.nics, &self.nics),
            interfaces: since(now.interfaces, &self.interfaces),
            devmem_packets: BTreeMap::new(),
        }
    }

    /// The interfaces that it looks at.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.interfaces.keys().map(String::as_str)
    }
}

/// Bytes of each NIC of an endpoint so far, by name.
pub(super) fn of_endpoint(endpoint: &Endpoint) -> BTreeMap<String, Bytes> {
    let of = |RailCounters { nic, messages }: RailCounters| {
        (nic, Bytes { sent: messages.sent.bytes, received: messages.received.bytes })
    };
    let mut nics: BTreeMap<String, Bytes> = BTreeMap::new();
    for (name, bytes) in endpoint.counters().by_nic.into_iter().map(of) {
        nics.entry(name).or_default().add(bytes);
    }
    nics
}

/// The interface of a NIC. The soft plugin puts an address behind its name.
fn interface_of(nic: &str, there: impl Fn(&str) -> bool) -> Option<&str> {
    let cut = nic.rmatch_indices('-').map(|(at, _)| &nic[..at]);
    std::iter::once(nic).chain(cut).find(|name| !name.is_empty() && !name.contains('/') && there(name))
}

fn of_kernel(root: &Path, interface: &str) -> Option<Bytes> {
    let read = |name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(root.join(interface).join("statistics").join(name)).ok()?;
        text.trim().parse().ok()
    };
    Some(Bytes { sent: read("tx_bytes")?, received: read("rx_bytes")? })
}

/// Packets that went straight into GPU memory so far, where the driver counts them and `ethtool` is there to ask.
pub(super) fn devmem_packets<'a>(interfaces: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let of = |name: &str| -> Option<u64> {
        let mut command = Command::new("ethtool");
        command.args(["-S", name]).stdin(Stdio::null()).stderr(Stdio::null());
        devmem_of(&String::from_utf8_lossy(&command.output().ok()?.stdout))
    };
    interfaces
        .filter(|name| *name != LOOPBACK)
        .filter_map(|name| Some((name.to_owned(), of(name)?)))
        .collect()
}

fn devmem_of(text: &str) -> Option<u64> {
    let counter = text.lines().filter_map(|line| line.trim().split_once(':'));
    counter.filter(|(name, _)| *name == DEVMEM).find_map(|(_, number)| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Moved, devmem_of, interface_of, of_kernel};

    fn moved(nics: &[(&str, u64)], interfaces: &[(&str, u64)]) -> Moved {
        let map = |list: &[(&str, u64)]| {
            list.iter().map(|(name, sent)| ((*name).to_owned(), Bytes { sent: *sent, received: 0 })).collect()
        };
        Moved { nics: map(nics), interfaces: map(interfaces), ..Moved::default() }
    }

    #[test]
    fn the_interface_of_a_nic_is_found_behind_an_address() {
        let there = |name: &str| ["lo", "eth1", "br-lan"].contains(&name);
        assert_eq!(interface_of("eth1", there), Some("eth1"));
        assert_eq!(interface_of("lo-127.0.0.2", there), Some("lo"));
        assert_eq!(interface_of("br-lan-10.0.0.1", there), Some("br-lan"));
        assert_eq!(interface_of("../eth1", there), None);
        assert_eq!(interface_of("mock0", there), None);
    }

    #[test]
    fn shares_and_balance_are_of_all_bytes() {
        let moved = moved(&[("eth1", 300), ("eth2", 100)], &[]);
        let shares: Vec<f64> = moved.shares().iter().map(|(.., share)| *share).collect();
        assert_eq!(shares, [0.75, 0.25]);
        assert_eq!(moved.balance(), Some(3.0));
        assert_eq!(Moved::default().balance(), None);
    }

    #[test]
    fn the_kernel_agrees_or_says_where_the_bytes_went() {
        let gigabyte = 1_000_000_000;
        let check = |eth: u64, lo: u64| {
            moved(&[("eth1", 10 * gigabyte)], &[("eth1", eth * gigabyte), ("lo", lo * gigabyte)])
                .cross_check()
        };
        assert!(check(11, 0).starts_with("agrees: 11.00 GB on eth1"), "{}", check(11, 0));
        assert!(check(0, 20).contains("eth1 did not carry them"), "{}", check(0, 20));
        assert!(check(9, 0).starts_with("COUNTED LESS"), "{}", check(9, 0));
        let loopback = moved(&[("lo-127.0.0.1", 5), ("lo-127.0.0.2", 5)], &[("lo", 20)]).cross_check();
        assert!(loopback.starts_with("agrees") && loopback.contains("stands for every NIC"), "{loopback}");
        let none = moved(&[("mock0", 5)], &[("lo", 20)]).cross_check();
        assert!(none.contains("no interface of NIC mock0"), "{none}");
    }

    #[test]
    fn counters_are_read_where_the_kernel_shows_them() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("eth1/statistics");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join("tx_bytes"), "17\n").expect("written");
        assert_eq!(of_kernel(root.path(), "eth1"), None);
        std::fs::write(folder.join("rx_bytes"), "4\n").expect("written");
        assert_eq!(of_kernel(root.path(), "eth1"), Some(Bytes { sent: 17, received: 4 }));
    }

    #[test]
    fn packets_into_gpu_memory_are_one_counter_of_many() {
        let text =
            "NIC statistics:\n     rx_packets: 9\n     rx_devmem_pkts: 83018\n     rx_devmem_pkts_q0: 7\n";
        assert_eq!(devmem_of(text), Some(83_018));
        assert_eq!(devmem_of("NIC statistics:\n     rx_packets: 9\n"), None);
    }
}
