//! How two endpoints get to know each other, before they say anything else on the control stream.
//!
//! ```text
//! connecting                                     accepting
//!     Hello: versions, facts, nonce           ->
//!                                             <- Challenge: version, facts, nonce, seal
//!     Proof: seal                             ->    it makes the rails
//!                                             <- Welcome: an address for each rail, seal
//! ```
//!
//! Either end may say `Refused` instead of its next message. A seal covers the message at whose end it stands and
//! every byte that either end has said before: both nonces, and which end says it. So it is worth nothing in
//! another handshake or in the other direction, and a byte that somebody changes on the way breaks the next seal.
//! What comes after the handshake is not sealed: the secret decides who may speak, and does not replace a private
//! network.
//!
//! An endpoint may meet itself.

mod handshake;
mod intake;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

use crate::id::{EndpointId, Epoch};

pub use handshake::Handshake;

/// Versions of the protocol that this end speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };
/// Longest name of an endpoint, in bytes; a longer one is cut.
pub const LONGEST_NAME: usize = 256;
/// Longest name of a NIC, in bytes; a longer one is cut.
pub const LONGEST_NIC: usize = 64;
/// Longest address of a rail, in bytes.
pub const LONGEST_ADDRESS: usize = 4096;
/// No end says more than this in a handshake, in bytes.
pub const LONGEST_HANDSHAKE: usize = 1 << 20;

/// Versions of the protocol, from the oldest to the newest that an end speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Versions {
    /// The oldest.
    pub min: u16,
    /// The newest.
    pub max: u16,
}

impl Versions {
    /// The newest version that both speak.
    #[must_use]
    pub fn agree(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { min, max } if min == max => write!(f, "version {min}"),
            Self { min, max } => write!(f, "versions {min} to {max}"),
        }
    }
}

/// What an endpoint says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// Who it is.
    pub endpoint: EndpointId,
    /// Which life of it.
    pub epoch: Epoch,
    /// Its GPU, by the number that its machine gives it; `None` for the host.
    pub device: Option<u16>,
    /// Host and process, for people. At most [`LONGEST_NAME`]; longer ones are cut.
    pub name: String,
    /// NICs that it can use, from 1 to [`MOST_RAILS`](crate::frame::MOST_RAILS). Those beyond are not said, and
    /// the peer refuses an endpoint without any.
    pub rails: Vec<RailFacts>,
}

/// What an endpoint says about a NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RailFacts {
    /// Its name. At most [`LONGEST_NIC`]; longer ones are cut.
    pub nic: String,
    /// Its speed in megabits per second; 0 if it is not known.
    pub megabits: u32,
    /// Channels of a connection on it.
    pub channels: u16,
}

/// What shows that an end knows the secret, without saying it.
pub trait Seal {
    /// A code over these bytes, one part after another, that nobody can make or check without the secret. Where
    /// one part ends and the next begins does not matter.
    fn seal(&self, parts: &[&[u8]]) -> [u8; 32];

    /// Whether there is a secret.
    fn is_secret(&self) -> bool;
}

/// No secret: anybody may speak.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSecret;

impl Seal for NoSecret {
    fn seal(&self, _parts: &[&[u8]]) -> [u8; 32] {
        [0; 32]
    }

    fn is_secret(&self) -> bool {
        false
    }
}

/// What bytes of the peer brought about.
#[must_use]
#[derive(Clone, Eq, PartialEq)]
pub enum Step {
    /// Nothing but perhaps more [`output`](Handshake::output).
    More,
    /// The accepting end knows its peer: it makes rails, and says where by [`rails`](Handshake::rails).
    MakeRails {
        /// The connecting end.
        peer: Facts,
    },
    /// The connecting end knows its peer, and the handshake is over: it connects the rails.
    Connect {
        /// The accepting end.
        peer: Facts,
        /// One for each rail, 1 to [`MOST_RAILS`](crate::frame::MOST_RAILS) of them.
        addresses: Vec<Bytes>,
    },
}

impl fmt::Debug for Step {
    /// Without the addresses: whoever knows one may connect there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::More => f.write_str("More"),
            Self::MakeRails { peer } => f.debug_struct("MakeRails").field("peer", peer).finish(),
            Self::Connect { peer, addresses } => f
                .debug_struct("Connect")
                .field("peer", peer)
                .field("rails", &addresses.len())
                .finish_non_exhaustive(),
        }
    }
}

/// Why two ends do not come together. After it, what [`output`](Handshake::output) still has is sent, and the
/// stream is closed.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HelloError {
    /// What speaks there is no endpoint.
    #[error("its first bytes are not those of an endpoint: something else connected, or listens there")]
    Stranger,
    /// No version is spoken by both.
    #[error("it speaks {peer} of the protocol, and this end {own}: run the same release at both ends")]
    Version {
        /// What this end speaks.
        own: Versions,
        /// What the other end speaks.
        peer: Versions,
    },
    /// The ends have different secrets, or somebody between them has changed what they said.
    #[error(
        "its seal is wrong: the two ends have different secrets, or something between them changes bytes"
    )]
    WrongSecret,
    /// One end has a secret, and the other has none.
    #[error("{}: give both ends the same secret, or neither", one_secret(*here))]
    OneSecret {
        /// Whether it is this end that has one.
        here: bool,
    },
    /// The other end does not want to.
    #[error("the other end refuses: {0}")]
    Refused(String),
    /// A message came when it was not due.
    #[error("its {message:?} message came out of order")]
    Order {
        /// Name of the message.
        message: &'static str,
    },
    /// A message has a value that it cannot have.
    #[error("its {message:?} message breaks a rule: {rule}")]
    Rule {
        /// Name of the message.
        message: &'static str,
        /// What is wrong.
        rule: &'static str,
    },
    /// This end did something that it must not.
    #[error("this end uses the handshake wrongly: {0}")]
    Misuse(&'static str),
}

fn one_secret(here: bool) -> &'static str {
    if here {
        "this end has a secret, and the other has none"
    } else {
        "the other end has a secret, and this has none"
    }
}
