//! One link: a control stream and the rails that came up over it.

use std::net::SocketAddr;

use bytes::BytesMut;
use p2p_proto::hello::{Facts, Handshake};
use p2p_proto::id::LocalRegion;
use p2p_proto::peer::Peer;
use p2p_transport::{ConnId, Error, Now, StreamId};

use super::ready::Takes;
use super::tokens::Tokens;
use crate::counters::{Messages, Traffic};

/// Where a link stands.
pub(super) enum Phase {
    /// The two ends get to know each other.
    Greeting(Box<Handshake>),
    /// Rails are being made; the peer's word that its own are up is awaited.
    Railing,
    /// Bytes move.
    Up(Box<Peer>),
    /// It is over; its rails and its stream are being closed. What was posted on a rail still ends there, and until
    /// then the memory is in use.
    Ending(Option<Box<Peer>>),
}

/// A rail at this end.
#[derive(Clone, Copy, Debug)]
pub(super) struct RailHere {
    pub(super) conn: ConnId,
    /// Position among the rails of the endpoint.
    pub(super) own: usize,
    pub(super) state: RailState,
    /// What has moved over it.
    pub(super) messages: Messages,
}

impl RailHere {
    pub(super) fn opening(conn: ConnId, own: usize) -> Self {
        Self { conn, own, state: RailState::Opening, messages: Messages::default() }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RailState {
    Opening,
    Up,
    Closed,
}

/// A peer in words.
pub(super) fn name_of(peer: Option<&Facts>) -> &str {
    peer.map_or("a peer that has not said its name", |facts| facts.name.as_str())
}

/// See the module documentation.
pub(super) struct Link {
    /// The peer came to this end.
    pub(super) incoming: bool,
    pub(super) phase: Phase,
    pub(super) stream: Option<StreamId>,
    /// When it has to be up, or over.
    pub(super) deadline: Option<Now>,
    pub(super) peer: Option<Facts>,
    /// Of the peer's end of the stream, once the link was up: it is told when the stream is gone, too.
    pub(super) address: Option<SocketAddr>,
    pub(super) rails: Vec<RailHere>,
    /// What the peer takes, by rail; empty until it has said so.
    pub(super) peer_takes: Vec<Takes>,
    /// There may be bytes to read on the stream.
    pub(super) readable: bool,
    /// Bytes that came and were not taken in.
    pub(super) came: BytesMut,
    /// Bytes to say before those of the protocol.
    pub(super) said: BytesMut,
    pub(super) tokens: Tokens,
    pub(super) reason: Option<Error>,
    /// `Connected` or `Accepted` was reported, so that the end is to be reported as well.
    pub(super) was_up: bool,
    /// The peer said that it is done.
    pub(super) was_closed_there: bool,
    /// Rails that were lost while others are up, and why, until that is logged at this time.
    pub(super) untold: Vec<(usize, String)>,
    pub(super) tells_at: Option<Now>,
    /// The rail that was lost last, and how that is told, while the peer's last words are awaited.
    pub(super) last_rail: Option<(usize, String)>,
    /// What its transfers have moved.
    pub(super) traffic: Traffic,
    /// Its end was reported, if it is to be.
    pub(super) concluded: bool,
    /// Bytes of it that the engine counts as with the transport.
    pub(super) flying: u64,
    /// It waits for its turn in this poll.
    pub(super) queued: bool,
}

impl Link {
    pub(super) fn new(incoming: bool, stream: StreamId, handshake: Handshake) -> Self {
        Self {
            incoming,
            phase: Phase::Greeting(Box::new(handshake)),
            stream: Some(stream),
            deadline: None,
            peer: None,
            address: None,
            rails: Vec::new(),
            peer_takes: Vec::new(),
            readable: true,
            came: BytesMut::new(),
            said: BytesMut::new(),
            tokens: Tokens::default(),
            reason: None,
            was_up: false,
            was_closed_there: false,
            untold: Vec::new(),
            tells_at: None,
            last_rail: None,
            traffic: Traffic::default(),
            concluded: false,
            flying: 0,
            queued: false,
        }
    }

    /// The peer in words.
    pub(super) fn name(&self) -> &str {
        name_of(self.peer.as_ref())
    }

    /// Whether no transfer of either end uses memory over it.
    pub(super) fn is_quiet(&self) -> bool {
        match &self.phase {
            Phase::Up(peer) | Phase::Ending(Some(peer)) => peer.is_quiet(),
            Phase::Greeting(_) | Phase::Railing | Phase::Ending(None) => true,
        }
    }

    /// Whether it ends, and its time for that is over.
    pub(super) const fn is_late(&self) -> bool {
        matches!(self.phase, Phase::Ending(_)) && self.deadline.is_none()
    }

    /// Memory that its transfers of either end use.
    pub(super) fn held(&self) -> Vec<LocalRegion> {
        match &self.phase {
            Phase::Up(peer) | Phase::Ending(Some(peer)) => peer.held(),
            Phase::Greeting(_) | Phase::Railing | Phase::Ending(None) => Vec::new(),
        }
    }

    /// Whether the peer may go on speaking.
    pub(super) fn hears(&self) -> bool {
        matches!(&self.phase, Phase::Up(peer) if peer.wants_control())
    }

    pub(super) fn rails_are(&self, state: RailState) -> bool {
        self.rails.iter().all(|rail| rail.state == state)
    }
}
