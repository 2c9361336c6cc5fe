//! What an engine reports, and what it is told when it is made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use p2p_proto::peer::{Caps, Outcome};
use p2p_transport::{ConnId, Id, Rail};
use tcpx_core::config::Affinity;

use crate::affinity::Wish;
use crate::secret::Secret;

/// A link to a peer. A stale id is refused and never names another link.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LinkId {
    index: u32,
    generation: std::num::NonZeroU32,
}

impl Id for LinkId {
    fn of(index: u32, generation: std::num::NonZeroU32) -> Self {
        Self { index, generation }
    }
    fn index(self) -> usize {
        self.index as usize
    }
    fn generation(self) -> std::num::NonZeroU32 {
        self.generation
    }
}

/// What the caller of an operation calls it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OpToken(pub u64);

/// What a transfer of this end does.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TransferKind {
    /// Puts memory of this end into memory of the peer.
    Write,
    /// Gets memory of the peer.
    Read,
    /// Sends a message.
    Send,
    /// Receives a message.
    Recv,
}

impl TransferKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Write, Self::Read, Self::Send, Self::Recv];

    /// Its name, in logs and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Send => "send",
            Self::Recv => "receive",
        }
    }
}

/// What [`Engine::poll`](super::Engine::poll) reports.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Event {
    /// A link is up, on both ends: memory can be reached and messages flow.
    Connected(LinkId),
    /// Somebody connected to this endpoint, and the link is up.
    Accepted(LinkId),
    /// A link is over; each of its operations has ended before, and the peer's transfers touch no memory of this end any
    /// more. [`Engine::why`](super::Engine::why) has the reason.
    ///
    /// A transport that does not let go of memory within [`Options::close_timeout`] is waited for no longer: that is
    /// logged as an error, and the memory is refused to new transfers until it has.
    Closed(LinkId),
    /// An operation ended: exactly one for each that was taken.
    Ended {
        /// Its link.
        link: LinkId,
        /// What the caller named it.
        token: OpToken,
        /// How it ended.
        outcome: Outcome,
    },
    /// A notification came.
    Notified {
        /// From whom.
        link: LinkId,
        /// What it says.
        bytes: Bytes,
    },
    /// A write of the peer that counts has landed.
    Counted {
        /// From whom.
        link: LinkId,
        /// The counter that it names.
        counter: u32,
    },
}

/// What an engine is made with.
#[derive(Debug)]
pub struct Options {
    /// Names the endpoint for people, in logs and errors of its peers.
    pub name: String,
    /// The CUDA device whose memory it moves; `None` for host memory.
    pub device: Option<u16>,
    /// The rails of its links; those that the transport names for the device, if empty.
    pub rails: Vec<Rail>,
    /// Where peers knock; port 0 lets the system choose one.
    pub door: SocketAddr,
    /// Following ports to try when that one is taken.
    pub port_retries: u16,
    /// Addresses of this host that peers can reach, best first: where they knock if the door has none of its own.
    pub host: Vec<IpAddr>,
    /// Where a progress thread shall run.
    pub affinity: Wish,
    /// Time that a link may take to come up.
    pub connect_timeout: Duration,
    /// Time that a link may take to end in peace.
    pub close_timeout: Duration,
    /// Time after which a transfer that waits for one and the same thing is logged as a stall; zero for never.
    pub stall_after: Duration,
    /// Bounds of a link: what it holds, and when its peer counts as silent.
    pub caps: Caps,
    /// What peers have to know, if anything.
    pub secret: Secret,
    /// Links at most that this end has opened, and as many that peers have: neither takes the others' places.
    pub most_links: usize,
}

impl Options {
    /// For host memory, knocked at anywhere, with the defaults of the variables.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            device: None,
            rails: Vec::new(),
            door: SocketAddr::from(([0, 0, 0, 0], 0)),
            port_retries: 0,
            host: Vec::new(),
            affinity: Wish { affinity: Affinity::Auto, taken: Vec::new() },
            connect_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            stall_after: Duration::from_secs(10),
            caps: Caps::default(),
            secret: Secret::none(),
            most_links: 4096,
        }
    }
}

/// Which rail of which link a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) struct RailOf {
    pub(super) conn: ConnId,
    pub(super) link: LinkId,
    pub(super) rail: usize,
}
