//! What a transport is made with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_transport::{Error, Rail};
use tcpx_core::Unpack;
use tcpx_core::config::{Config, ControlAddress};

/// Makes the executors that put received pages in place, where a plugin delivers scattered ones.
///
/// Comms are made, and memory is registered, inside `poll` and `register`: whoever drives a transport for GPU
/// memory makes the device of its rails current in that thread first.
///
/// Without one, the calling thread copies (`tcpx_core::CpuUnpack`), which reaches host memory only.
pub trait Unpackers: Send + Sync {
    /// The executor for one receiving channel of a connection on this rail; `None` for the calling thread.
    ///
    /// # Errors
    ///
    /// The connection is not made then.
    fn unpacker(&self, rail: Rail) -> Result<Option<Box<dyn Unpack>>, Error>;
}

/// What a transport is made with.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Instant that [`Now`](p2p_transport::Now) counts from. Whoever polls passes the time since then, on the
    /// same clock.
    pub origin: Instant,
    /// Time after which a peer whose host does not answer is dead, and that closing a connection may take.
    /// The kernel counts it in whole seconds, of which it needs two.
    pub peer_timeout: Duration,
    /// Time in which an accept or connect ends.
    pub connect_timeout: Duration,
    /// Time after which a connection is given up when operations are under way and none ends. `None`, the
    /// default: never, because a receive may wait for a peer that has nothing to send.
    pub silence_limit: Option<Duration>,
    /// Bytes registered at once, if fewer than the plugin takes; at least two pages.
    pub registration_limit: Option<usize>,
    /// Addresses to give to peers for the exchange stream, instead of those of this host's interfaces.
    pub exchange_at: Vec<IpAddr>,
    /// Who puts scattered pages in place.
    pub unpackers: Option<Arc<dyn Unpackers>>,
}

impl Options {
    /// What a process's variables ask for, counting time from `origin`.
    pub fn of(config: &Config, origin: Instant) -> Self {
        Self {
            origin,
            peer_timeout: Duration::from_secs(config.peer_timeout_seconds.value.get()),
            connect_timeout: Duration::from_secs(config.connect_timeout_seconds.value.get()),
            silence_limit: config.silence_seconds.value.map(|seconds| Duration::from_secs(seconds.get())),
            registration_limit: None,
            exchange_at: match config.control_ip.value {
                ControlAddress::Auto => Vec::new(),
                ControlAddress::Fixed(ip) => vec![ip],
            },
            unpackers: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("peer_timeout", &self.peer_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("silence_limit", &self.silence_limit)
            .field("registration_limit", &self.registration_limit)
            .field("exchange_at", &self.exchange_at)
            .finish_non_exhaustive()
    }
}
