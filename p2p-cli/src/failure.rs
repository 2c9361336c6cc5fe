//! Why the program ends without a result.

use std::fmt::Display;
use std::io;

use p2p_transport::ErrorKind;

/// Exit code of a failure that the program has said itself.
pub(crate) const SAID: u8 = 1;
/// Exit code of a process that another one started and whose peer was lost: the peer has more to say.
pub(crate) const PEER_LOST: u8 = 4;

/// One clear line.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    text: String,
    /// Whether all there is to say is that the other process is gone.
    peer_lost: bool,
}

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), peer_lost: false }
    }

    /// The other process is gone, or does not keep to what is agreed.
    pub(crate) fn peer(text: impl Into<String>) -> Self {
        Self { text: text.into(), peer_lost: true }
    }

    /// Another process has said it.
    pub(crate) fn said() -> Self {
        Self::new("")
    }

    pub(crate) fn is_said(&self) -> bool {
        self.text.is_empty()
    }

    pub(crate) const fn is_peer_lost(&self) -> bool {
        self.peer_lost
    }

    pub(crate) fn exit_code(&self, child: bool) -> u8 {
        if child && self.peer_lost { PEER_LOST } else { SAID }
    }
}

/// Says what was being done when an error came up.
pub(crate) trait Doing<T> {
    /// `doing` begins with a verb in -ing.
    fn doing(self, doing: impl Display) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let gone = [
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::ConnectionReset,
                io::ErrorKind::BrokenPipe,
                io::ErrorKind::TimedOut,
                io::ErrorKind::WouldBlock,
            ];
            if gone.contains(&error.kind()) {
                // What a read with a time limit says when it is over tells nobody anything.
                let is_silent = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
                let how = if is_silent { "has said nothing for too long" } else { "ended" };
                Failure::peer(format!("the other process {how} while {doing} ({error}); see what it said"))
            } else {
                Failure::new(format!("{doing}: {error}"))
            }
        })
    }
}

impl<T> Doing<T> for Result<T, p2p_transport::Error> {
    fn doing(self, doing: impl Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let text = format!("{doing}: {}", error.text());
            if error.kind() == ErrorKind::Conn { Failure::peer(text) } else { Failure::new(text) }
        })
    }
}
