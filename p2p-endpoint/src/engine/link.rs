//! One link: a control stream and the rails that came up over it.

use std::collections::VecDeque;

use bytes::BytesMut;
use p2p_proto::hello::{Facts, Handshake};
use p2p_proto::id::TransferId;
use p2p_proto::peer::Peer;
use p2p_transport::{ConnId, Error, Now, StreamId};

use super::event::OpToken;

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
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RailState {
    Opening,
    Up,
    Closed,
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
    pub(super) rails: Vec<RailHere>,
    /// Slices that the peer takes, by rail; empty until it has said so.
    pub(super) peer_slices: Vec<u16>,
    /// Bytes that came and were not taken in.
    pub(super) came: BytesMut,
    /// Bytes to say before those of the protocol.
    pub(super) said: BytesMut,
    pub(super) tokens: Tokens,
    pub(super) reason: Option<Error>,
    /// `Connected` or `Accepted` was reported, so that the end is to be reported as well.
    pub(super) was_up: bool,
    /// The rail that was lost last, and how that is told, while the peer's last words are awaited.
    pub(super) last_rail: Option<(usize, String)>,
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
            rails: Vec::new(),
            peer_slices: Vec::new(),
            came: BytesMut::new(),
            said: BytesMut::new(),
            tokens: Tokens::default(),
            reason: None,
            was_up: false,
            last_rail: None,
            queued: false,
        }
    }

    /// The peer in words.
    pub(super) fn name(&self) -> &str {
        self.peer.as_ref().map_or("a peer that has not said its name", |facts| facts.name.as_str())
    }

    pub(super) fn rails_are(&self, state: RailState) -> bool {
        self.rails.iter().all(|rail| rail.state == state)
    }
}

/// What callers call the transfers of this end. Transfers are numbered one after another, so that a place is
/// found by counting.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    first: u64,
    names: VecDeque<Option<OpToken>>,
}

impl Tokens {
    pub(super) fn put(&mut self, transfer: TransferId, token: OpToken) {
        if self.names.is_empty() {
            self.first = transfer.0;
        }
        let place = (transfer.0 - self.first) as usize;
        while self.names.len() <= place {
            self.names.push_back(None);
        }
        self.names[place] = Some(token);
    }

    /// The name of a transfer that has ended; it has none from here on.
    pub(super) fn take(&mut self, transfer: TransferId) -> Option<OpToken> {
        let place = transfer.0.checked_sub(self.first)?;
        let token = self.names.get_mut(usize::try_from(place).ok()?)?.take();
        while let Some(None) = self.names.front() {
            self.names.pop_front();
            self.first += 1;
        }
        token
    }

    /// Whether a transfer is called so.
    pub(super) fn has(&self, token: OpToken) -> bool {
        self.names.contains(&Some(token))
    }

    /// Takes the oldest name that is left.
    pub(super) fn pop(&mut self) -> Option<OpToken> {
        while let Some(name) = self.names.pop_front() {
            self.first += 1;
            if let Some(token) = name {
                return Some(token);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{OpToken, Tokens};
    use p2p_proto::id::TransferId;

    #[test]
    fn each_transfer_has_its_name_whatever_ends_first() {
        let mut tokens = Tokens::default();
        for number in [7, 8, 10] {
            tokens.put(TransferId(number), OpToken(100 + number));
        }
        assert_eq!(tokens.take(TransferId(8)), Some(OpToken(108)));
        assert_eq!(tokens.take(TransferId(8)), None);
        assert_eq!(tokens.take(TransferId(6)), None);
        assert_eq!(tokens.take(TransferId(9)), None);
        assert_eq!(tokens.take(TransferId(7)), Some(OpToken(107)));
        assert_eq!(tokens.take(TransferId(7)), None);
        tokens.put(TransferId(11), OpToken(111));
        assert_eq!(
            (tokens.pop(), tokens.pop(), tokens.pop()),
            (Some(OpToken(110)), Some(OpToken(111)), None)
        );
        tokens.put(TransferId(20), OpToken(1));
        assert_eq!(tokens.take(TransferId(20)), Some(OpToken(1)));
    }
}
