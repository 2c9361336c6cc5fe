//! What an engine counts and says of its links, for people and their monitoring.

use std::net::SocketAddr;

use p2p_proto::peer::{self, Side};
use p2p_transport::{Error, Outcome};

use super::event::{LinkId, TransferKind};
use super::link::{Link, Phase};
use super::tokens::Started;
use super::{Engine, Request};
use crate::counters::{EndpointCounters, LinkCounters, Messages, RailCounters, Traffic};

pub(super) const fn kind_of(request: &Request<'_>) -> TransferKind {
    match request {
        Request::Write { .. } => TransferKind::Write,
        Request::Read { .. } => TransferKind::Read,
        Request::Send => TransferKind::Send,
        Request::Recv => TransferKind::Recv,
    }
}

impl Link {
    /// A transfer of this end is over.
    pub(super) fn has_ended(&mut self, started: &Started, outcome: peer::Outcome, all: &mut Traffic) {
        for traffic in [&mut self.traffic, all] {
            traffic.ended(started.kind, outcome);
        }
        if started.watch.told.is_some() {
            let (kind, token) = (started.kind.name(), started.token.0);
            tracing::info!(link = %self.name(), token, "the {kind} that stood still has ended: {outcome:?}");
        }
    }

    /// Logs which rails were lost.
    pub(super) fn tell_lost_rails(&mut self) {
        self.tells_at = None;
        for (rail, why) in std::mem::take(&mut self.untold) {
            tracing::warn!(link = %self.name(), rail, "a rail is lost: {why}");
        }
    }

    /// Logs the end of a link. `address` is that of the peer's end of the control stream.
    pub(super) fn tell_end(&self, address: Option<SocketAddr>, reason: Option<&Error>) {
        let name = self.name();
        let address = address.map_or_else(|| "an address that is gone".to_owned(), |at| at.to_string());
        match (reason, self.was_up) {
            (Some(reason), true) if self.was_closed_there => {
                tracing::info!(link = %name, %address, "the link is over: {}", reason.text());
            }
            (Some(reason), true) => {
                tracing::warn!(link = %name, %address, "the link is over: {}", reason.text());
            }
            (Some(reason), false) => {
                tracing::warn!(link = %name, %address, "a link did not come up: {}", reason.text());
            }
            (None, _) => tracing::info!(link = %name, %address, "the link was closed at this end"),
        }
    }
}

impl Engine {
    /// What it has done so far.
    pub fn counters(&self) -> EndpointCounters {
        let nic = |own: usize| {
            let nic = self.rails.get(own).map(|rail| rail.nic);
            let found = self.transport.nics().iter().find(|one| Some(one.id) == nic);
            found.map_or_else(|| "?".to_owned(), |nic| nic.name.clone())
        };
        let mut nics: Vec<RailCounters> = Vec::new();
        for (own, messages) in self.messages.iter().enumerate() {
            let name = nic(own);
            match nics.iter_mut().find(|known| known.nic == name) {
                Some(known) => known.messages.add(messages),
                None => nics.push(RailCounters { nic: name, messages: *messages }),
            }
        }
        let up = self.links.iter().filter(|(_, link)| matches!(link.phase, Phase::Up(_)));
        let links = up.map(|(id, link)| LinkCounters {
            link: id,
            peer: link.name().to_owned(),
            under_way: link.tokens.iter().count() as u64,
            traffic: link.traffic,
            rails: link
                .rails
                .iter()
                .map(|rail| RailCounters { nic: nic(rail.own), messages: rail.messages })
                .collect(),
        });
        EndpointCounters {
            endpoint: self.facts.name.clone(),
            traffic: self.traffic,
            links: self.links_tally,
            by_link: links.collect(),
            by_nic: nics,
        }
    }

    /// Counts something of a link, and of the endpoint.
    pub(super) fn count(&mut self, id: LinkId, count: impl Fn(&mut Traffic)) {
        count(&mut self.traffic);
        if let Some(link) = self.links.get_mut(id) {
            count(&mut link.traffic);
        }
    }

    /// Counts a message on a rail that arrived, or was sent.
    pub(super) fn count_message(&mut self, id: LinkId, rail: usize, token: u64, outcome: Outcome) {
        let Outcome::Done { len } = outcome else { return };
        let Some(here) = self.links.get_mut(id).and_then(|link| link.rails.get_mut(rail)) else { return };
        for messages in [Some(&mut here.messages), self.messages.get_mut(here.own)].into_iter().flatten() {
            count_in(messages, Side::of_token(token), len);
        }
    }

    /// Logs that a link is up, and what carries it: a transport that was not meant shows here.
    pub(super) fn tell_up(&mut self, id: LinkId) {
        let address = self.peer_address(id);
        let carried = self.describe(id).join("; ");
        let Some(link) = self.links.get_mut(id) else { return };
        link.address = address;
        let address = address.map_or_else(|| "?".to_owned(), |address| address.to_string());
        let endpoint = link.peer.as_ref().map(|facts| facts.endpoint);
        let way = if link.incoming { "accepted" } else { "connected" };
        let rails = link.rails.len();
        tracing::info!(link = %link.name(), %address, ?endpoint, rails, %carried, "link is up ({way})");
    }
}

fn count_in(messages: &mut Messages, side: Side, bytes: u32) {
    match side {
        Side::Send => messages.sent.add(bytes.into()),
        Side::Recv => messages.received.add(bytes.into()),
    }
}
