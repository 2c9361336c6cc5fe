//! What the two ends say to each other over the bootstrap stream.

use serde::{Deserialize, Serialize};

use super::nics;
use super::trial::Setting;

/// Changes whenever a word does, so that two programs that differ say so at once.
pub(super) const VERSION: u32 = 4;

/// The client's first word.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    /// Numbers of channels, each of which a group of connections has. Empty where there are none: for a calibration and
    /// for a sweep.
    pub(super) channels: Vec<u16>,
    /// Connections of a group, each on a NIC of its own.
    pub(super) nics: usize,
    /// Bytes that messages rotate over.
    pub(super) region: usize,
    pub(super) congestion: Option<String>,
    /// Names the running machine.
    pub(super) machine: String,
    /// The run's seed.
    pub(super) seed: u64,
    /// Who its endpoint is, so that the server takes no other for it.
    pub(super) endpoint: [u8; 16],
}

/// The server's answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Welcome {
    Come(Come),
    /// Why not.
    Refused(String),
}

/// What the client has to know of a server that takes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Come {
    /// To connect to, by group and NIC. None for a calibration and for a sweep.
    pub(super) addresses: Vec<Vec<Vec<u8>>>,
    /// Names the running machine.
    pub(super) machine: String,
    /// None either.
    pub(super) far: Option<Far>,
}

/// The server's endpoint.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Far {
    /// Of its door.
    pub(super) port: u16,
    /// What opens its region.
    pub(super) item: Vec<u8>,
}

/// How the messages of a pass lie in the region.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum Shape {
    /// Each message in one piece.
    Contiguous,
    /// Each in slices of this many bytes, all over the region.
    Scattered(usize),
}

/// Messages to move.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Pass {
    /// Bytes of a message.
    pub(super) size: usize,
    pub(super) shape: Shape,
    /// Channels of each connection used.
    pub(super) channels: usize,
    /// Connections used, over which messages take turns.
    pub(super) nics: usize,
    pub(super) messages: u64,
    /// Messages sent and not acknowledged at most.
    pub(super) in_flight: u64,
    /// Whether every message is written anew, poisoned and checked, or only what lies there at the end.
    pub(super) verified: bool,
    /// Number of the pass, part of the seeds.
    pub(super) number: u64,
}

/// What the client asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Command {
    /// Receive.
    Pass(Pass),
    /// Answer small messages.
    PingPong { messages: u64 },
    /// Write the messages of a pass, for the client's endpoint to read.
    Fill(Pass),
    /// Poison their places, for the client's endpoint to write.
    Poison(Pass),
    /// Check what lies there.
    Check(Pass),
    /// Answer notifications of the client's endpoint.
    Notifications { count: u64 },
    /// Watch a pass of the client's endpoint, until it notifies that it has ended.
    Observe,
    /// Say what the NICs moved in all passes that were watched.
    Nics,
    /// Open the plain TCP baseline.
    OpenRaw { congestion: Option<String>, working_set: usize, in_flight: usize, same_host: bool },
    /// Serve it; on the server's core where pinned.
    Raw { pinned: bool },
    /// Start an iperf3 that serves one client.
    Iperf3,
    /// Start a process with these settings that serves one client.
    Trial(Setting),
    /// It is over.
    End,
}

/// What the server says after a command.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Answer {
    /// Ready to receive.
    Ready,
    /// A pass went well.
    Passed { nanoseconds: u64, cpu_nanoseconds: u64 },
    /// What the NICs moved.
    Nics(nics::Moved),
    /// A process waits there for its client.
    Listening { port: u16 },
    /// It did not; the run is over.
    Failed(String),
}
