//! Faults that can be switched on by variables, so that callers can be tested against a plugin that
//! misbehaves in one stated way.

use std::time::Duration;

/// The faults of a process. All off by default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Faults {
    /// `connect` hands out no comm before this time has passed.
    pub(crate) connect_delay: Duration,
    /// `accept` hands out no comm before this time has passed.
    pub(crate) accept_delay: Duration,
    /// `accept` ends with an internal error, as it does when the receive daemon refuses.
    pub(crate) accept_fails: bool,
    /// Every n-th post succeeds without a request.
    pub(crate) null_request_every: Option<u64>,
    /// Data socket 0 of a send comm is shut down when it has carried this many bytes.
    pub(crate) data_socket_dies_at: Option<u64>,
    /// Data socket 0 is served no more when it has carried this many bytes, as if its thread had ended.
    pub(crate) lane_stalls_at: Option<u64>,
    /// Requests a comm holds at most, instead of 16.
    pub(crate) ring_size: Option<u32>,
    /// A send comm says nothing more after this many messages.
    pub(crate) silent_after: Option<u64>,
    /// A send comm announces, and sends, this many bytes more than were posted.
    pub(crate) oversize: u32,
    /// Bounce pages of each receive comm, instead of what its receives may need.
    pub(crate) pool_pages: Option<usize>,
    /// Bounce pages are overwritten when a receive is consumed.
    pub(crate) poison: bool,
    /// Bounce pages are handed out, and listed, in a random order from this seed.
    pub(crate) shuffle: Option<u64>,
    /// Longest fragment in a bounce page; shorter ones and odd places follow from the shuffle seed.
    pub(crate) fragment_bytes: Option<usize>,
}
