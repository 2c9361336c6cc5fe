//! Fixed facts about NICs and connections.

use crate::NicId;

/// A NIC of a backend.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nic {
    /// Its number.
    pub id: NicId,
    /// Its name, as the operating system or the plugin has it.
    pub name: String,
    /// Its speed in megabits per second; 0 if unknown.
    pub megabits: u32,
    /// The NUMA node it lies at, if known: threads that drive it belong there.
    pub numa_node: Option<u16>,
}

impl Nic {
    /// A NIC of unknown speed and place.
    pub fn new(id: NicId, name: impl Into<String>) -> Self {
        Self { id, name: name.into(), megabits: 0, numa_node: None }
    }
}

/// Where a connection lies at this end: one NIC, the memory it serves, and its channels there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Rail {
    /// The NIC.
    pub nic: NicId,
    /// The CUDA device whose memory the connection moves; `None` for host memory only.
    pub device: Option<u16>,
    /// Channels wanted, at least 1. A connection has as many as the end that wants fewer. Nobody above a
    /// backend names a channel.
    pub channels: u16,
}

/// Fixed facts about a connection, read once after `Connected`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Longest message, in bytes, which is also the largest chunk that an upper layer should cut.
    pub max_message: u32,
    /// Sends that the connection holds at once: exactly so many are accepted while none has completed
    /// (law 13).
    pub max_sends: u16,
    /// Receives that the connection holds at once (law 13).
    pub max_recvs: u16,
    /// Slices that one operation may name, at least 1 (law 14).
    pub max_slices: u16,
    /// Whether the sends of a connection that start complete in the order in which they were submitted, and so
    /// the receives (law 3), truncated ones among them. Those that never start (cancelled, or failed for
    /// their slices) complete at any time. Matching is by order in any case.
    pub fifo: bool,
    /// Whether a receive learns the true length and refuses a longer message (law 15). Where false, both ends
    /// must agree on each length beforehand.
    pub checks_length: bool,
}

impl Limits {
    /// In order, with checked lengths and one slice for each operation; change what differs.
    pub const fn new(max_message: u32, max_sends: u16, max_recvs: u16) -> Self {
        Self { max_message, max_sends, max_recvs, max_slices: 1, fifo: true, checks_length: true }
    }
}
