//! What a transfer waits for, for whoever wonders why it does not end.

use std::fmt;
use std::time::Duration;

use super::Peer;
use super::entry::{Entry, Remote, Role};
use super::words::Side;
use crate::frame::Kind;
use crate::id::{RailIndex, TransferId};
use crate::transfer::{Part, State};

/// What a transfer waits for: the one thing that has to happen next.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waiting {
    /// A receive: no send of the peer has met it.
    PeerSends {
        /// Receives that are met before it.
        before: usize,
    },
    /// A send: the peer has not said where to. It has posted no receive for it.
    PeerReceives,
    /// A read: the peer has announced nothing of the rest.
    PeerAnnounces {
        /// Bytes that were announced.
        announced: u64,
        /// Of so many.
        total: u64,
    },
    /// Chunks wait until a rail has room.
    Window {
        /// A rail that is full, if one is.
        full: Option<RailIndex>,
        /// Bytes that are not announced.
        uncut: u64,
    },
    /// Messages are announced and not handed to the transport.
    Post {
        /// The rail of the first one.
        rail: RailIndex,
        /// Which way.
        side: Side,
        /// Messages of the transfer that wait there.
        messages: usize,
        /// Whether the window of the rail is full.
        full: bool,
    },
    /// Messages are with the transport.
    Transport {
        /// The rail of the oldest one.
        rail: RailIndex,
        /// Which way.
        side: Side,
        /// Messages of the transfer that are with the transport.
        messages: usize,
        /// When the oldest was handed over.
        since: Duration,
    },
    /// Everything was sent; the peer has not said that it has landed.
    PeerAnswers {
        /// Time without a sign of life of the peer.
        silent: Duration,
    },
    /// The control stream does not drain.
    Control {
        /// Bytes that wait to be sent.
        bytes: usize,
    },
    /// The control stream is not read, because the peer has announced too much or notifications are not taken.
    Reading {
        /// Messages that are announced and have not landed.
        unlanded: usize,
        /// Bytes of notifications that are not taken, about.
        unread: usize,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerSends { before } => write!(f, "the peer has not sent; {before} receives are before it"),
            Self::PeerReceives => f.write_str("the peer has posted no receive for it"),
            Self::PeerAnnounces { announced, total } => {
                write!(f, "the peer has announced {announced} of {total} bytes")
            }
            Self::Window { full: Some(rail), uncut } => {
                write!(f, "the window of rail {} is full; {uncut} bytes wait", rail.0)
            }
            Self::Window { full: None, uncut } => write!(f, "{uncut} bytes wait for their turn on a rail"),
            Self::Post { rail, side, messages, full } => {
                let why = if *full { "its window is full" } else { "the transport was not given them" };
                write!(f, "{messages} messages wait on rail {} ({side:?}): {why}", rail.0)
            }
            Self::Transport { rail, side, messages, since } => write!(
                f,
                "{messages} messages are with the transport, on rail {} ({side:?}) since {since:?}",
                rail.0
            ),
            Self::PeerAnswers { silent } => {
                write!(f, "everything was sent, and the peer has not answered; it was silent for {silent:?}")
            }
            Self::Control { bytes } => write!(f, "{bytes} bytes of the control stream are not sent"),
            Self::Reading { unlanded, unread } => write!(
                f,
                "the control stream rests: {unlanded} messages have not landed, {unread} bytes are not read"
            ),
        }
    }
}

impl Peer {
    /// What a transfer of this end waits for; `None` if it is over. For a person who looks into a stall: it takes time.
    pub fn waits_for(&self, transfer: TransferId) -> Option<Waiting> {
        let handle = self.table.ours.find(transfer)?;
        let entry = self.table.get(handle)?;
        if entry.role == Role::Recv {
            let before = self.recvs.iter().take_while(|waiting| **waiting != handle).count();
            return Some(self.stream().unwrap_or(Waiting::PeerSends { before }));
        }
        let waiting = self.with_transport(handle).or_else(|| self.to_post(handle));
        Some(waiting.or_else(|| self.stream()).unwrap_or_else(|| self.for_peer(entry)))
    }

    /// Time without a sign of life of the peer, while this end listened.
    pub const fn silent(&self) -> Duration {
        self.alive.silent
    }

    fn with_transport(&self, handle: super::Handle) -> Option<Waiting> {
        let mut messages = 0;
        let mut oldest: Option<(Duration, RailIndex, Side)> = None;
        for (rail, side, line) in self.lines() {
            for posted in line.posted().filter(|posted| posted.handle == Some(handle)) {
                messages += 1;
                if oldest.is_none_or(|(since, ..)| posted.since < since) {
                    oldest = Some((posted.since, rail, side));
                }
            }
        }
        oldest.map(|(since, rail, side)| Waiting::Transport { rail, side, messages, since })
    }

    fn to_post(&self, handle: super::Handle) -> Option<Waiting> {
        self.lines().find_map(|(rail, side, line)| {
            let messages = line.queue.iter().filter(|queued| queued.handle == Some(handle)).count();
            (messages > 0).then(|| Waiting::Post { rail, side, messages, full: !line.has_room() })
        })
    }

    /// Whether the control stream is what everything waits for.
    fn stream(&self) -> Option<Waiting> {
        if !self.wants_control() && !self.over {
            return Some(Waiting::Reading { unlanded: self.unlanded, unread: self.notices.unread() });
        }
        let bytes = self.output.len();
        (bytes > 0).then_some(Waiting::Control { bytes })
    }

    fn for_peer(&self, entry: &Entry) -> Waiting {
        let silent = self.alive.silent;
        match (entry.part, entry.state) {
            (Part::Sender, State::Asking) => match entry.remote {
                Remote::Unknown => Waiting::PeerReceives,
                Remote::Ranges(_) | Remote::Shape(_) => Waiting::PeerAnswers { silent },
            },
            (Part::Sender, State::Moving) => {
                let full = (0..).zip(&self.rails).find(|(_, rail)| !rail.lost && !rail.send.has_room());
                let full = full.map(|(index, _)| RailIndex(index));
                Waiting::Window { full, uncut: entry.total - entry.cut() }
            }
            (Part::Receiver, State::Asking | State::Moving | State::Announced) => match entry.role {
                Role::Own(Kind::Read) | Role::Peers(_) => {
                    Waiting::PeerAnnounces { announced: entry.covered.bytes(), total: entry.total }
                }
                Role::Own(Kind::Write | Kind::Send) | Role::Recv => Waiting::PeerAnswers { silent },
            },
            (_, State::Announced | State::Landed | State::Finished)
            | (_, State::Refused | State::Failed | State::Abandoned) => Waiting::PeerAnswers { silent },
        }
    }

    fn lines(&self) -> impl Iterator<Item = (RailIndex, Side, &super::line::Line)> {
        (0..).zip(&self.rails).flat_map(|(index, rail)| {
            [Side::Send, Side::Recv].map(|side| (RailIndex(index), side, rail.line(side)))
        })
    }
}
