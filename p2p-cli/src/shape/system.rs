//! What the system says of this process and of the interfaces of its host.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

/// What a process uses of its system.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Use {
    /// Threads, all of them.
    pub(crate) threads: usize,
    /// Open descriptors.
    pub(crate) descriptors: usize,
}

impl Use {
    /// Of this process, at this moment.
    pub(super) fn now() -> Self {
        let entries = |folder| fs::read_dir(folder).map_or(0, Iterator::count);
        // The list of descriptors is read through one of them.
        Self { threads: entries("/proc/self/task"), descriptors: entries("/proc/self/fd").saturating_sub(1) }
    }
}

/// Bytes that an interface has carried, by the kernel's own count, with all headers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Carried {
    /// Sent.
    pub(crate) sent: u64,
    /// Received.
    pub(crate) received: u64,
}

impl Carried {
    /// Since `before`.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.wrapping_sub(before.sent),
            received: self.received.wrapping_sub(before.received),
        }
    }
}

/// What all interfaces have carried, by name. Loopback is left out: everybody uses it.
pub(super) fn interfaces() -> BTreeMap<String, Carried> {
    parse(&fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, Carried> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let (received, sent) = (*numbers.first()?, *numbers.get(8)?);
        Some((name.trim().to_owned(), Carried { sent, received }))
    };
    text.lines().filter_map(line).filter(|(name, _)| name != "lo").collect()
}

/// Tells machines apart, also those that are made from one image.
pub(super) fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{} {}", rustix::system::uname().nodename().to_string_lossy(), boot.trim())
}

#[cfg(test)]
mod tests {
    use super::{Carried, Use, parse};

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                    lo:       5       0    0    0    0     0          0         0        6       0    0    0\n  \
                    eth1:1234567 10    0    0    0     0          0         0       90       1    0    0\n";
        let found = parse(text);
        assert_eq!(found.len(), 1, "loopback and headings are none: {found:?}");
        assert_eq!(found["eth1"], Carried { sent: 90, received: 1_234_567 });
        let later = Carried { sent: 190, received: 1_234_567 };
        assert_eq!(later.since(found["eth1"]), Carried { sent: 100, received: 0 });
    }

    #[test]
    fn this_process_has_threads_and_descriptors() {
        let here = Use::now();
        assert!(here.threads >= 1 && here.descriptors >= 3, "{here:?}");
    }
}
