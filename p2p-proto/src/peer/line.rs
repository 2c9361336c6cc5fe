//! One direction of a rail: what is announced on it, and what is with the transport.

use std::collections::VecDeque;
use std::time::Duration;

use super::table::Handle;
use super::words::Side;
use crate::frame::Chunk;
use crate::id::RailIndex;
use crate::list::Cursor;
use crate::stripe::RailLimits;

/// A rail of the link.
#[derive(Debug)]
pub(super) struct Rail {
    pub(super) limits: RailLimits,
    /// Nothing is cut for it or posted on it any more.
    pub(super) lost: bool,
    pub(super) send: Line,
    pub(super) recv: Line,
    /// Chunks that stand in the queue of sends, and that the peer has to be told of.
    pub(super) unsaid: Vec<Chunk>,
}

impl Rail {
    pub(super) fn new(limits: RailLimits) -> Self {
        let line = |window: u16| Line { window: window.max(1), ..Line::default() };
        Self {
            send: line(limits.max_sends),
            recv: line(limits.max_recvs),
            unsaid: Vec::new(),
            lost: false,
            limits,
        }
    }

    pub(super) const fn line(&self, side: Side) -> &Line {
        match side {
            Side::Send => &self.send,
            Side::Recv => &self.recv,
        }
    }

    pub(super) const fn line_mut(&mut self, side: Side) -> &mut Line {
        match side {
            Side::Send => &mut self.send,
            Side::Recv => &mut self.recv,
        }
    }
}

/// One direction of a rail.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Messages of it that were ever announced.
    pub(super) announced: u64,
    /// Announced, and not with the transport, in order.
    pub(super) queue: VecDeque<Queued>,
    places: Vec<Place>,
    free: Vec<u16>,
    window: u16,
    /// A message of it failed: those behind it have met the wrong ones, whatever the transport says of them.
    pub(super) disordered: bool,
    /// What the caller was offered and has not said [`posted`](super::Peer::posted) for.
    pub(super) offered: Option<Offered>,
}

/// A message that is announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    /// Its transfer; of a receive, `None` if nobody wants it any more.
    pub(super) handle: Option<Handle>,
    pub(super) length: u32,
    /// Where it begins in the transfer's memory here.
    pub(super) at: Cursor,
}

/// The front of the queue, as it was offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    pub(super) token: Token,
    /// `None`: into scratch.
    pub(super) handle: Option<Handle>,
}

/// A message that is with the transport.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posted {
    /// `None`: into scratch.
    pub(super) handle: Option<Handle>,
    pub(super) length: u32,
    pub(super) since: Duration,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    posted: Option<Posted>,
}

impl Line {
    /// Messages that are with the transport.
    pub(super) const fn in_flight(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) const fn window(&self) -> usize {
        self.window as usize
    }

    pub(super) const fn has_room(&self) -> bool {
        self.in_flight() < self.window()
    }

    /// The token of the next message; `None` where the window is full.
    pub(super) fn next_token(&mut self, rail: RailIndex, side: Side) -> Option<Token> {
        if !self.has_room() {
            return None;
        }
        if self.free.is_empty() {
            self.free.push(self.places.len() as u16);
            self.places.push(Place { generation: 0, posted: None });
        }
        let place = *self.free.last()?;
        let generation = self.places.get(usize::from(place))?.generation;
        Some(Token { rail, side, place, generation })
    }

    /// The front of the queue is with the transport, under this token, which is the next one.
    pub(super) fn post(&mut self, token: Token, posted: Posted) {
        self.queue.pop_front();
        self.free.pop();
        if let Some(place) = self.places.get_mut(usize::from(token.place)) {
            place.posted = Some(posted);
        }
    }

    /// Bytes of the message of this token; `None` if it is not with the transport.
    pub(super) fn length(&self, token: Token) -> Option<u32> {
        let place = self.places.get(usize::from(token.place))?;
        place.posted.filter(|_| place.generation == token.generation).map(|posted| posted.length)
    }

    /// The message of this token is with the transport no more; `None` if it was not.
    pub(super) fn take(&mut self, token: Token) -> Option<Posted> {
        let place = self.places.get_mut(usize::from(token.place))?;
        if place.generation != token.generation {
            return None;
        }
        let posted = place.posted.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(token.place);
        Some(posted)
    }

    /// Tokens of all messages that are with the transport.
    pub(super) fn tokens(&self, rail: RailIndex, side: Side) -> Vec<Token> {
        let places = (0..).zip(&self.places).filter(|(_, place)| place.posted.is_some());
        places
            .map(|(index, place)| Token { rail, side, place: index, generation: place.generation })
            .collect()
    }

    /// All messages that are with the transport.
    pub(super) fn posted(&self) -> impl Iterator<Item = &Posted> {
        self.places.iter().filter_map(|place| place.posted.as_ref())
    }
}

/// Names a message that is with the transport, and none after it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) rail: RailIndex,
    pub(super) side: Side,
    place: u16,
    generation: u32,
}

impl Token {
    pub(super) fn to_number(self) -> u64 {
        let side = u64::from(self.side == Side::Recv);
        u64::from(self.rail.0) << 56 | side << 55 | u64::from(self.place) << 32 | u64::from(self.generation)
    }

    pub(super) const fn of(number: u64) -> Self {
        let side = if number >> 55 & 1 == 0 { Side::Send } else { Side::Recv };
        Self {
            rail: RailIndex((number >> 56) as u8),
            side,
            place: (number >> 32) as u16,
            generation: number as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_numbers() {
        for side in [Side::Send, Side::Recv] {
            let token = Token { rail: RailIndex(63), side, place: u16::MAX, generation: u32::MAX };
            assert_eq!(Token::of(token.to_number()), token);
        }
    }

    #[test]
    fn a_stale_token_finds_nothing() {
        let mut line = Line { window: 2, ..Line::default() };
        let posted = Posted { handle: None, length: 7, since: Duration::ZERO };
        let first = line.next_token(RailIndex(1), Side::Send).unwrap();
        line.post(first, posted);
        let second = line.next_token(RailIndex(1), Side::Send).unwrap();
        assert_ne!(first, second);
        line.post(second, posted);
        assert_eq!(line.next_token(RailIndex(1), Side::Send), None, "the window is full");
        assert!(line.take(first).is_some());
        assert!(line.take(first).is_none(), "it ended before");
        let third = line.next_token(RailIndex(1), Side::Send).unwrap();
        line.post(third, posted);
        assert!(line.take(first).is_none(), "its place belongs to another one");
        assert_eq!(line.in_flight(), 2);
    }
}
