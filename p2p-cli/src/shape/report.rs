//! What a shape came to, as it is kept with `--json`. Sizes are in bytes, speeds of bytes in 10^9 bytes per second,
//! those of NICs in 10^9 bits per second. Bytes are those of messages, without headers, unless a field says otherwise.

use serde::{Deserialize, Serialize};

use super::Shape;
use super::system::{Carried, Use};

/// One run of one shape.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    /// Which.
    pub(crate) shape: Shape,
    /// The net plugin and its version.
    pub(crate) plugin: String,
    /// What memory was moved: `host buffers`, or `host buffers in place of GPU memory`.
    pub(crate) memory: String,
    /// Hosts. Where one machine stands for two, two.
    pub(crate) hosts: usize,
    /// Processes of all hosts.
    pub(crate) processes: usize,
    /// Endpoints of all hosts: one for each GPU.
    pub(crate) endpoints: usize,
    /// Pairs of GPUs with a link between them.
    pub(crate) pairs: usize,
    /// Channels of all links.
    pub(crate) channels: u64,
    /// NICs of each host that links use, in the order of hosts.
    pub(crate) nics: Vec<Vec<String>>,
    /// Whether it ended after the registration.
    pub(crate) setup_only: bool,
    /// In the order in which they were gone through.
    pub(crate) phases: Vec<Phase>,
    /// What the second call of listen did, which finds everything listening.
    pub(crate) listened_again: ListenedAgain,
    /// In the order in which they were made. None with `setup_only`.
    pub(crate) passes: Vec<Pass>,
    /// What each process used at its end, by rank.
    pub(crate) used: Vec<Use>,
}

/// A phase of the setup.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Phase {
    /// `listen`, `bootstrap`, `accept` or `register`.
    pub(crate) name: String,
    /// How many of something there are after it, in all processes.
    pub(crate) count: u64,
    /// What was counted.
    pub(crate) what: String,
    /// Of the process that took longest.
    pub(crate) milliseconds: f64,
}

/// What listening again did, in all processes together.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ListenedAgain {
    /// Endpoints that it opened.
    pub(crate) opened: usize,
    /// Descriptors more than before it.
    pub(crate) descriptors: usize,
    /// Threads more than before it.
    pub(crate) threads: usize,
}

impl ListenedAgain {
    pub(super) const fn and(self, other: &Self) -> Self {
        Self {
            opened: self.opened + other.opened,
            descriptors: self.descriptors + other.descriptors,
            threads: self.threads + other.threads,
        }
    }
}

/// All pairs at once, one way.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Pass {
    /// `write` or `read`, by the first GPU of each pair.
    pub(crate) way: String,
    /// Whether every byte was checked; otherwise it was timed.
    pub(crate) verified: bool,
    /// Messages of each pair.
    pub(crate) messages: u64,
    /// Of messages that have arrived.
    pub(crate) bytes: u64,
    /// From the common start to the end of the last pair.
    pub(crate) seconds: f64,
    /// All pairs together.
    pub(crate) gigabytes_per_second: f64,
    /// Each pair.
    pub(crate) by_pair: Vec<PairMoved>,
    /// Each NIC.
    pub(crate) by_nic: Vec<NicMoved>,
}

impl Pass {
    /// Pairs of which a message failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &PairMoved> {
        self.by_pair.iter().filter(|pair| pair.failed > 0)
    }
}

/// What one pair moved.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct PairMoved {
    /// Whose GPU started it, such as `host 0 GPU 3`.
    pub(crate) from: String,
    /// The other GPU.
    pub(crate) to: String,
    /// NICs of its link at both ends, such as `eth1-eth1`, one for each rail.
    pub(crate) rails: Vec<String>,
    /// Bytes of a message.
    pub(crate) size: usize,
    /// Messages that arrived.
    pub(crate) messages: u64,
    /// Until the last of them.
    pub(crate) seconds: f64,
    /// While it was at it.
    pub(crate) gigabytes_per_second: f64,
    /// Messages that failed, or could not be started any more.
    pub(crate) failed: u64,
    /// Why the first of them failed.
    pub(crate) reason: Option<String>,
}

/// What one NIC carried for all links.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct NicMoved {
    /// Number of its host.
    pub(crate) host: usize,
    /// Its name.
    pub(crate) nic: String,
    /// Of messages, both ways.
    pub(crate) bytes: u64,
    /// Part of what all NICs of its host carried, 0 to 1.
    pub(crate) share: f64,
    /// The same if every link spreads its bytes by the speeds that its NICs say they have.
    pub(crate) expected_share: f64,
    /// Speed of these bytes.
    pub(crate) gigabits_per_second: f64,
    /// What the kernel counted meanwhile, with headers and all that others moved; `null` where the NIC is no
    /// interface of its own.
    pub(crate) kernel: Option<Carried>,
}

impl Report {
    /// The fastest timed pass of this way, in 10^9 bytes per second.
    pub(crate) fn speed(&self, way: &str) -> Option<f64> {
        let timed = self.passes.iter().filter(|pass| pass.way == way && !pass.verified);
        timed.map(|pass| pass.gigabytes_per_second).next()
    }

    /// Messages whose every byte was checked.
    pub(crate) fn verified(&self) -> u64 {
        let verified = self.passes.iter().filter(|pass| pass.verified);
        verified.flat_map(|pass| &pass.by_pair).map(|pair| pair.messages).sum()
    }

    /// Why a run that came to its end is none to rely on, in a line.
    pub(crate) fn failure(&self) -> Option<String> {
        let pass = self.passes.iter().find(|pass| pass.failed().next().is_some())?;
        let first = pass.failed().next()?;
        let why = first.reason.as_deref().unwrap_or("no reason is known");
        let (failed, pairs, way) = (pass.failed().count(), pass.by_pair.len(), &pass.way);
        Some(format!("{failed} of {pairs} pairs failed to {way}: {} to {}: {why}", first.from, first.to))
    }
}
