//! What a world is like.

use std::time::Duration;

/// How completions and operations behave.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Personality {
    /// As a net plugin: two-sided only, everything in order.
    Plugin,
    /// As RDMA hardware: one-sided operations as well, and completions in any order.
    Rdma,
}

/// When a send is reported as done.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SendDone {
    /// When its last byte has left the NIC.
    Sent,
    /// When the peer has said that its last byte is visible there.
    Acknowledged,
}

/// Fixed facts about a world. Begin with [`plugin`](Self::plugin) or [`rdma`](Self::rdma), and change what
/// differs.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Settings {
    /// How completions and operations behave.
    pub personality: Personality,
    /// Longest message, and longest one-sided operation, in bytes.
    pub max_message: u32,
    /// Slices that one operation may name.
    pub max_slices: u16,
    /// Sends that a connection holds for each of its channels.
    pub sends_per_channel: u16,
    /// Receives that a connection holds for each of its channels.
    pub recvs_per_channel: u16,
    /// One-sided operations that a connection holds, whatever its channels.
    pub one_sided_ops: u16,
    /// Whether a receive learns the true length. Where not, and the two lengths differ, the shorter is
    /// written and [`World::findings`](crate::World::findings) tells.
    pub checks_length: bool,
    /// Bytes of a direction that may be under way without a receive for them. 0: a message waits until its
    /// receive is posted.
    pub eager_bytes: u64,
    /// When a send is reported as done.
    pub send_done: SendDone,
    /// Whether a receive counts as started when it is posted, so that it cannot be cancelled.
    pub posted_is_started: bool,
    /// Longest piece of a message that has a NIC to itself, in bytes.
    pub segment: u32,
    /// How far completions may overtake each other where they need not be in order.
    pub shuffle: Duration,
    /// Longest time from the last byte's arrival until it is visible.
    pub unpack: Duration,
    /// Longest time from `connect` or `accept` to the end of the attempt.
    pub connect_bound: Duration,
    /// How long a closed connection stays for messages that were reported as done.
    pub linger: Duration,
    /// Longest time until an end knows that its connection is dead.
    pub death_bound: Duration,
    /// Bytes that a direction of a control stream holds, unread ones included.
    pub control_buffer: usize,
    /// What base and length of a region must be a multiple of, in bytes.
    pub region_align: usize,
}

impl Settings {
    /// A net plugin over TCP: in order, windows of 12 sends and 16 receives for each channel.
    pub const fn plugin() -> Self {
        Self {
            personality: Personality::Plugin,
            max_message: 4 << 20,
            max_slices: 16,
            sends_per_channel: 12,
            recvs_per_channel: 16,
            one_sided_ops: 0,
            checks_length: true,
            eager_bytes: 256 << 10,
            send_done: SendDone::Sent,
            posted_is_started: false,
            segment: 64 << 10,
            shuffle: Duration::ZERO,
            unpack: Duration::from_micros(2),
            connect_bound: Duration::from_millis(100),
            linger: Duration::from_millis(50),
            death_bound: Duration::from_millis(5),
            control_buffer: 64 << 10,
            region_align: 1,
        }
    }

    /// RDMA hardware: native one-sided operations, large windows, completions in any order.
    pub const fn rdma() -> Self {
        Self {
            personality: Personality::Rdma,
            max_message: 1 << 30,
            sends_per_channel: 256,
            recvs_per_channel: 256,
            one_sided_ops: 256,
            eager_bytes: 0,
            send_done: SendDone::Acknowledged,
            shuffle: Duration::from_micros(20),
            unpack: Duration::from_nanos(500),
            ..Self::plugin()
        }
    }
}

/// How fast a NIC is. A message is cut into segments; each occupies the sender's NIC for its bytes, travels,
/// and then occupies the receiver's NIC for its bytes. So one connection gets the speed of the slower NIC, one
/// NIC's speed is shared by all that use it, and several NICs add up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NicModel {
    /// Bytes that pass in a second, each way.
    pub bytes_per_second: u64,
    /// From the last byte's leaving to its arrival at the peer's NIC.
    pub latency: Duration,
}

impl NicModel {
    /// 200 Gb/s and 10 us.
    pub const FAST: Self = Self { bytes_per_second: 25_000_000_000, latency: Duration::from_micros(10) };
}

impl Default for NicModel {
    fn default() -> Self {
        Self::FAST
    }
}
