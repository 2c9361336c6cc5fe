//! What an endpoint has done, in plain numbers, and as text for Prometheus.
//!
//! A snapshot is taken under the engine's lock, so that all its numbers are of one moment. It never counts what a peer
//! does one-sidedly as a transfer of this end; such bytes show where messages are counted, by link, rail and NIC.

mod prometheus;

use p2p_proto::peer::Outcome;

use crate::engine::{LinkId, TransferKind};

/// How many of something, and their bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Tally {
    pub(crate) const fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }

    const fn add_all(&mut self, other: &Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

/// What the transfers and notifications of an endpoint, or of one link, have done.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Writes of this end that are done.
    pub written: Tally,
    /// Reads of this end that are done.
    pub read: Tally,
    /// Messages that this end has sent, and that the peer has received whole.
    pub sent: Tally,
    /// Messages that this end has received.
    pub received: Tally,
    /// Transfers of this end that were refused.
    pub refused: u64,
    /// Transfers of this end that ended otherwise: a rail, memory or the link was lost.
    pub failed: u64,
    /// Notifications that were taken to be sent.
    pub notifications_sent: Tally,
    /// Notifications that came.
    pub notifications_received: Tally,
    /// Writes of peers with a counter that have landed here.
    pub counted: u64,
    /// Stalls that were logged.
    pub stalls: u64,
}

impl Traffic {
    /// Transfers of this kind that are done.
    pub const fn of(&self, kind: TransferKind) -> &Tally {
        match kind {
            TransferKind::Write => &self.written,
            TransferKind::Read => &self.read,
            TransferKind::Send => &self.sent,
            TransferKind::Recv => &self.received,
        }
    }

    pub(crate) const fn ended(&mut self, kind: TransferKind, outcome: Outcome) {
        let tally = match kind {
            TransferKind::Write => &mut self.written,
            TransferKind::Read => &mut self.read,
            TransferKind::Send => &mut self.sent,
            TransferKind::Recv => &mut self.received,
        };
        match outcome {
            Outcome::Done { bytes } => tally.add(bytes),
            Outcome::Refused(_) => self.refused += 1,
            Outcome::RailLost(_) | Outcome::MemoryGone { .. } | Outcome::LinkLost | Outcome::Abandoned => {
                self.failed += 1
            }
        }
    }
}

/// What has become of the links of an endpoint.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Links {
    /// Links that this end opened and that came up.
    pub connected: u64,
    /// Links that peers opened and that came up.
    pub accepted: u64,
    /// Links that were up and were lost, or ended by the peer.
    pub lost: u64,
    /// Links that were up and were closed at this end.
    pub closed: u64,
    /// Links that did not come up: refused by one of the two, or too late.
    pub refused: u64,
    /// Streams to the door that were turned away before they showed who they are.
    pub strangers: u64,
}

impl Links {
    /// Links that are up.
    pub const fn up(&self) -> u64 {
        (self.connected + self.accepted).saturating_sub(self.lost + self.closed)
    }

    pub(crate) const fn came_up(&mut self, incoming: bool) {
        if incoming {
            self.accepted += 1;
        } else {
            self.connected += 1;
        }
    }

    /// One is over. `known`: the peer has shown who it is.
    pub(crate) const fn ended(&mut self, incoming: bool, was_up: bool, known: bool, has_reason: bool) {
        match (was_up, has_reason) {
            (true, true) => self.lost += 1,
            (true, false) => self.closed += 1,
            (false, _) if incoming && !known => self.strangers += 1,
            (false, true) => self.refused += 1,
            // This end thought better of it.
            (false, false) => {}
        }
    }
}

/// Messages on rails, of both ends' transfers. Words on the control stream are not counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Messages {
    /// That the transport has sent.
    pub sent: Tally,
    /// That have arrived, those included that nobody wanted any more.
    pub received: Tally,
}

impl Messages {
    pub(crate) const fn add(&mut self, other: &Self) {
        self.sent.add_all(&other.sent);
        self.received.add_all(&other.received);
    }
}

/// A rail of a link, or a NIC of an endpoint with the rails of all links.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RailCounters {
    /// Name of the NIC.
    pub nic: String,
    /// What has moved over it.
    pub messages: Messages,
}

/// A link that is up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LinkCounters {
    /// Which.
    pub link: LinkId,
    /// What the peer calls itself.
    pub peer: String,
    /// Transfers of this end that have not ended.
    pub under_way: u64,
    /// What has moved.
    pub traffic: Traffic,
    /// Its rails, in order.
    pub rails: Vec<RailCounters>,
}

/// An endpoint at one moment.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointCounters {
    /// What it calls itself.
    pub endpoint: String,
    /// What all links have moved, those that are gone as well.
    pub traffic: Traffic,
    /// What became of its links.
    pub links: Links,
    /// Links that are up.
    pub by_link: Vec<LinkCounters>,
    /// NICs that its rails use, with all links, those that are gone as well.
    pub by_nic: Vec<RailCounters>,
}
