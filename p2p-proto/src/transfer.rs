//! The states of one transfer at one end, and what each input does in each of them.
//!
//! Both ends of a transfer run this machine: one as the [`Part::Sender`] of the bytes, one as their
//! [`Part::Receiver`], whoever began it. What is illegal from the peer is a [`Step::Breach`] and ends the link;
//! what is late, because two words crossed on the way, changes nothing. The whole table lies in
//! `tests/transfer_table.txt`, so that a changed cell is seen in review.

use std::fmt;

/// What this end does with the bytes of a transfer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Part {
    /// It cuts chunks, announces them and sends them.
    Sender,
    /// It receives what is announced, and has the last word.
    Receiver,
}

impl Part {
    /// Both, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Sender, Self::Receiver];
}

/// Where a transfer stands at one end.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// The sender does not know yet where the bytes go to or come from: no chunk may be announced.
    Asking,
    /// Chunks are announced.
    Moving,
    /// Every byte is announced.
    Announced,
    /// Every byte is in place at the receiver, and this end knows.
    Landed,
    /// As `Landed`, and none of its messages is with the transport here.
    Finished,
    /// One of the two does not want it.
    Refused,
    /// Bytes or memory of it were lost.
    Failed,
    /// Given up by the caller before anything moved.
    Abandoned,
}

impl State {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Asking,
        Self::Moving,
        Self::Announced,
        Self::Landed,
        Self::Finished,
        Self::Refused,
        Self::Failed,
        Self::Abandoned,
    ];

    /// Whether bytes of it may still be announced or land.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Asking | Self::Moving | Self::Announced)
    }
}

/// What happens to a transfer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Input {
    /// Here: all that must be known before the first chunk has been said or heard.
    Ready,
    /// Here: the last byte is announced, by whoever sends.
    Covered,
    /// Here: the last byte has landed. Of the receiver only.
    Landed,
    /// Here: none of its messages is with the transport or waits to be sent.
    Quiet,
    /// Here: this end does not do what it was asked.
    Refuse,
    /// Here: a rail, memory or the link was lost.
    Lose,
    /// Here: the caller wants no answer any more.
    Abandon,
    /// The peer announces a chunk of it.
    PeerAnnounces,
    /// The peer says that every byte has landed.
    PeerLanded,
    /// The peer says that it does not want it.
    PeerRefused,
    /// The peer says that bytes or memory were lost.
    PeerLost,
}

impl Input {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Ready,
        Self::Covered,
        Self::Landed,
        Self::Quiet,
        Self::Refuse,
        Self::Lose,
        Self::Abandon,
        Self::PeerAnnounces,
        Self::PeerLanded,
        Self::PeerRefused,
        Self::PeerLost,
    ];
}

/// What an input does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// Nothing changes.
    Stay,
    /// The transfer goes to another state.
    To(State),
    /// The peer may not say this: the link ends.
    Breach,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stay => f.write_str("."),
            Self::To(state) => write!(f, "{state:?}"),
            Self::Breach => f.write_str("BREACH"),
        }
    }
}

/// What `input` does to a transfer in `state`.
pub const fn step(part: Part, state: State, input: Input) -> Step {
    use State::{Abandoned, Announced, Asking, Failed, Finished, Landed, Moving, Refused};

    match input {
        Input::Ready => match state {
            Asking => Step::To(Moving),
            Moving | Announced | Landed | Finished | Refused | Failed | Abandoned => Step::Stay,
        },
        Input::Covered => match state {
            Moving => Step::To(Announced),
            Asking | Announced | Landed | Finished | Refused | Failed | Abandoned => Step::Stay,
        },
        Input::Landed => match (part, state) {
            (Part::Receiver, Announced) => Step::To(Landed),
            (Part::Sender, _)
            | (Part::Receiver, Asking | Moving | Landed | Finished | Refused | Failed | Abandoned) => {
                Step::Stay
            }
        },
        Input::Quiet => match state {
            Landed => Step::To(Finished),
            Asking | Moving | Announced | Finished | Refused | Failed | Abandoned => Step::Stay,
        },
        Input::Refuse => ends(state, Refused),
        Input::Lose => ends(state, Failed),
        // What moves runs to its end: no smaller hammer than a rail stops it, and the peer counts on it.
        Input::Abandon => match state {
            Asking => Step::To(Abandoned),
            Moving | Announced | Landed | Finished | Refused | Failed | Abandoned => Step::Stay,
        },
        Input::PeerAnnounces => match (part, state) {
            (Part::Receiver, Moving | Refused | Failed | Abandoned) => Step::Stay,
            (Part::Receiver, Asking | Announced | Landed | Finished) | (Part::Sender, _) => Step::Breach,
        },
        Input::PeerLanded => match (part, state) {
            (Part::Sender, Announced) => Step::To(Landed),
            // This end gave it up while the word was on its way.
            (Part::Sender, Refused | Failed | Abandoned) => Step::Stay,
            (Part::Sender, Asking | Moving | Landed | Finished) | (Part::Receiver, _) => Step::Breach,
        },
        Input::PeerRefused => peer_ends(part, state, Refused),
        Input::PeerLost => peer_ends(part, state, Failed),
    }
}

/// This end gives up: possible until it knows that everything has landed.
const fn ends(state: State, to: State) -> Step {
    match state {
        State::Asking | State::Moving | State::Announced => Step::To(to),
        State::Landed | State::Finished | State::Refused | State::Failed | State::Abandoned => Step::Stay,
    }
}

/// The peer gives up: no receiver does after it has said that everything has landed, but the sender may not have
/// heard that yet.
const fn peer_ends(part: Part, state: State, to: State) -> Step {
    match (part, state) {
        (_, State::Asking | State::Moving | State::Announced) => Step::To(to),
        (_, State::Refused | State::Failed | State::Abandoned)
        | (Part::Receiver, State::Landed | State::Finished) => Step::Stay,
        (Part::Sender, State::Landed | State::Finished) => Step::Breach,
    }
}
