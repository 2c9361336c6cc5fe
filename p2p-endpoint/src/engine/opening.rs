//! From a stream to a link: both ends say who they are, rails are made, and each says that its own are up.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use p2p_proto::hello::{Facts, Handshake, HelloError, RailFacts, Step};
use p2p_proto::peer::Peer;
use p2p_proto::stripe::RailLimits;
use p2p_transport::{
    Address, ConnId, Control, ControlEvent, DoorId, Error, ErrorKind, Event as TransportEvent, Nic, Rail,
    Received, StreamId,
};

use super::event::{Event, LinkId, RailOf};
use super::link::{Link, Phase, RailHere, RailState};
use super::moving::{flush, send};
use super::ready::Takes;
use super::{Engine, MOST_STRANGERS, ready};

/// Streams taken from a door at once; the next poll takes the next ones.
const MOST_VISITORS: usize = 64;
/// Bytes of a peer that are kept while its link comes up.
const MOST_EARLY: usize = 256 << 10;
/// Longest message on a rail, in bytes, at both ends: memory for what is received and thrown away is as long.
pub(super) const LONGEST_CHUNK: u32 = 16 << 20;
/// Bytes read from a stream at once.
pub(super) const READ: usize = 64 << 10;

/// What peers learn about a rail.
pub(super) fn facts_of(rail: &Rail, nics: &[Nic]) -> RailFacts {
    let nic = nics.iter().find(|nic| nic.id == rail.nic);
    RailFacts {
        nic: nic.map_or_else(String::new, |nic| nic.name.clone()),
        megabits: nic.map_or(0, |nic| nic.megabits),
        channels: rail.channels,
    }
}

/// Why a link is given up that did not come up in time.
pub(super) fn too_late(link: &Link) -> String {
    format!("{} (UCCL_TCPX_CONNECT_TIMEOUT_SECONDS bounds it)", missing(link))
}

/// What a link waits for that is not up.
pub(super) fn missing(link: &Link) -> String {
    if let Phase::Greeting(_) = link.phase {
        return match link.incoming {
            true => "somebody connected and did not say who it is in time".to_owned(),
            false => {
                "the peer's port does not answer as an endpoint: is its process alive, or stopped, or is it \
                      something else?"
                    .to_owned()
            }
        };
    }
    if link.rails_are(RailState::Up) {
        return format!("the rails are up here, and {} did not say so in time: look at its log", link.name());
    }
    let missing = link.rails.iter().filter(|rail| rail.state != RailState::Up).count();
    format!("{missing} of {} rails to {} did not come up in time", link.rails.len(), link.name())
}

pub(super) fn lost(text: impl Into<Box<str>>) -> Error {
    Error::new(ErrorKind::Conn, "connect", text)
}

/// A door at this port, or, if it is taken, at one of so many that follow. One of all addresses is of IPv4 alone where the
/// host has nothing else.
pub(super) fn listen(control: &mut dyn Control, at: SocketAddr, retries: u16) -> Result<DoorId, Error> {
    let mut listen = |port| {
        let door = control.listen(SocketAddr::new(at.ip(), port));
        match at.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => door.or_else(|refused| {
                let is_taken = refused.kind() == ErrorKind::Exhausted;
                let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
                if is_taken { Err(refused) } else { control.listen(all) }
            }),
            IpAddr::V6(_) | IpAddr::V4(_) => door,
        }
    };
    let is_taken = |door: &Result<DoorId, Error>| {
        door.as_ref().is_err_and(|refused| refused.kind() == ErrorKind::Exhausted)
    };
    let mut door = listen(at.port());
    let retries = if at.port() == 0 { 0 } else { retries };
    for port in (at.port()..=u16::MAX).skip(1).take(retries.into()) {
        if !is_taken(&door) {
            return door;
        }
        door = listen(port);
    }
    if retries > 0 && is_taken(&door) {
        return door.map_err(|last| {
            let text = format!(
                "{}; so it is with all ports from {} on (UCCL_TCPX_PORT_RETRIES says how many are tried)",
                last.text(),
                at.port()
            );
            Error::new(last.kind(), "listen", text).with_source(last)
        });
    }
    door
}

impl Engine {
    pub(super) fn add_link(&mut self, incoming: bool, stream: StreamId) -> LinkId {
        let mut nonce = [0; 32];
        for part in nonce.chunks_exact_mut(8) {
            part.copy_from_slice(&(self.random)().to_le_bytes());
        }
        let (facts, seal) = (self.facts.clone(), Box::new(self.options.secret.clone()));
        let handshake = match incoming {
            true => Handshake::accepting(facts, nonce, seal),
            false => Handshake::connecting(facts, nonce, seal),
        };
        let mut link = Link::new(incoming, stream, handshake);
        link.deadline = Some(self.now.after(self.options.connect_timeout));
        let id = self.links.insert(link);
        self.incoming += usize::from(incoming);
        self.reasons.resize(self.links.positions(), None);
        if self.links_of.len() <= stream.index() {
            self.links_of.resize(stream.index() + 1, None);
        }
        self.links_of[stream.index()] = Some((stream, id));
        self.enqueue(id);
        id
    }

    pub(super) fn control_said(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Knocked(door) => self.let_in(door),
            ControlEvent::Opened(stream)
            | ControlEvent::Readable(stream)
            | ControlEvent::Writable(stream) => {
                let Some(id) = self.link_of(stream) else { return };
                if let Some(link) = self.links.get_mut(id) {
                    link.readable |= !matches!(event, ControlEvent::Writable(_));
                }
                self.enqueue(id);
            }
            ControlEvent::Broken(stream) => self.stream_broke(stream),
            _ => {}
        }
    }

    pub(super) fn link_of(&self, stream: StreamId) -> Option<LinkId> {
        self.links_of
            .get(stream.index())
            .copied()
            .flatten()
            .filter(|(of, _)| *of == stream)
            .map(|(_, link)| link)
    }

    fn let_in(&mut self, door: DoorId) {
        for _ in 0..MOST_VISITORS {
            let Some(stream) = self.control.accept(door) else { return };
            if self.incoming >= self.options.most_links + MOST_STRANGERS {
                self.links_tally.strangers += 1;
                self.control.close(stream);
                continue;
            }
            let link = self.add_link(true, stream);
            self.strangers.push_back(link);
            // Whoever does not say who it is makes room for who may.
            while self.strangers.len() > MOST_STRANGERS {
                let Some(oldest) = self.strangers.pop_front() else { break };
                self.end(oldest, Some(lost("too many connect at once and do not say who they are")));
            }
        }
        // There may be more.
        self.heard.push(ControlEvent::Knocked(door));
    }

    /// Gives a link its turn.
    pub(super) fn work(&mut self, id: LinkId) {
        let Some(link) = self.links.get(id) else { return };
        let worked = match link.phase {
            Phase::Greeting(_) => self.greet(id),
            Phase::Railing => self.await_ready(id),
            Phase::Up(_) => self.move_bytes(id),
            Phase::Ending(_) => {
                self.see_off(id);
                Ok(())
            }
        };
        if let Err(error) = worked {
            self.end(id, Some(error));
        }
    }

    fn greet(&mut self, id: LinkId) -> Result<(), Error> {
        let Self { links, control, scratch, .. } = self;
        let Some(link) = links.get_mut(id) else { return Ok(()) };
        let (Some(stream), Phase::Greeting(handshake)) = (link.stream, &mut link.phase) else {
            return Ok(());
        };
        let step = loop {
            handshake.sent(send(control.as_mut(), stream, handshake.output()));
            match control.receive(stream, scratch.bytes(READ)) {
                Received::Bytes(count) => match handshake.receive(&scratch.bytes(READ)[..count]) {
                    Ok(Step::More) => {}
                    Ok(step) => break step,
                    Err(error) => {
                        let secret = matches!(error, HelloError::WrongSecret | HelloError::OneSecret { .. });
                        let hint = if secret { " (UCCL_P2P_SECRET)" } else { "" };
                        let text = format!("{error}{hint}");
                        handshake.refuse(&text);
                        return Err(lost(text).with_source(error));
                    }
                },
                Received::Nothing => return Ok(()),
                Received::Ended => {
                    let why = control
                        .why(stream)
                        .map_or("the peer ended the stream before it said who it is", Error::text);
                    return Err(lost(why));
                }
            }
        };
        self.strangers.retain(|stranger| *stranger != id);
        let known = self.incoming - self.strangers.len();
        if known > self.options.most_links && self.links.get(id).is_some_and(|link| link.incoming) {
            let text = format!("this end has {} links of peers, and takes no more", known - 1);
            if let Some(Link { phase: Phase::Greeting(handshake), .. }) = self.links.get_mut(id) {
                handshake.refuse(&text);
            }
            return Err(lost(text));
        }
        match step {
            Step::More => Ok(()),
            Step::MakeRails { peer } => self.offer_rails(id, peer),
            Step::Connect { peer, addresses } => self.connect_rails(id, peer, addresses),
        }
    }

    /// The accepting end makes a place for each rail, and tells where.
    fn offer_rails(&mut self, id: LinkId, peer: Facts) -> Result<(), Error> {
        let count = self.rails.len().max(peer.rails.len());
        let (mut rails, mut addresses) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut refused = None;
        for index in 0..count {
            let own = index % self.rails.len();
            let made = self.transport.listen(self.rails[own]);
            match made.and_then(|(listener, address)| Ok((self.transport.accept(listener)?, address))) {
                Ok((conn, address)) => {
                    rails.push(RailHere::opening(conn, own));
                    addresses.push(Bytes::copy_from_slice(address.as_bytes()));
                }
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let Some(link) = self.links.get_mut(id) else { return Ok(()) };
        link.peer = Some(peer);
        let Phase::Greeting(handshake) = &mut link.phase else { return Ok(()) };
        if let Some(error) = &refused {
            handshake.refuse(error.text());
        } else if let Err(error) = handshake.rails(addresses) {
            refused = Some(lost(error.to_string()).with_source(error));
        }
        // Those that were made are the link's also then, which closes them when it ends.
        self.await_rails(id, rails);
        refused.map_or(Ok(()), Err)
    }

    /// The connecting end connects each rail to the address it was told.
    fn connect_rails(&mut self, id: LinkId, peer: Facts, addresses: Vec<Bytes>) -> Result<(), Error> {
        let count = self.rails.len().max(peer.rails.len());
        let Some(link) = self.links.get_mut(id) else { return Ok(()) };
        link.peer = Some(peer);
        if addresses.len() != count {
            let text = format!(
                "the peer has {} addresses for {count} rails: run the same release at both ends",
                addresses.len()
            );
            return Err(lost(text));
        }
        let mut rails = Vec::with_capacity(count);
        let mut refused = None;
        for (index, bytes) in addresses.iter().enumerate() {
            let own = index % self.rails.len();
            let address = Address::new(bytes).map_err(|error| lost(error.to_string()));
            match address.and_then(|address| self.transport.connect(self.rails[own], &address)) {
                Ok(conn) => rails.push(RailHere::opening(conn, own)),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        self.await_rails(id, rails);
        refused.map_or(Ok(()), Err)
    }

    fn await_rails(&mut self, id: LinkId, rails: Vec<RailHere>) {
        for (rail, here) in rails.iter().enumerate() {
            let index = here.conn.index();
            if self.rails_of.len() <= index {
                self.rails_of.resize(index + 1, None);
            }
            self.rails_of[index] = Some(RailOf { conn: here.conn, link: id, rail });
        }
        let Some(link) = self.links.get_mut(id) else { return };
        link.rails = rails;
        if let Phase::Greeting(handshake) = &mut link.phase {
            link.said.extend_from_slice(handshake.output());
            link.came = handshake.leftover();
        }
        link.phase = Phase::Railing;
        self.enqueue(id);
    }

    /// What the transport says of connections, regions and operations.
    pub(super) fn transport_said(&mut self, event: TransportEvent) {
        match event {
            TransportEvent::Completed { conn, token, outcome } => {
                let Some(RailOf { link, rail, .. }) = self.rail_of(conn) else { return };
                self.count_message(link, rail, token.0, outcome);
                self.ended(link, token.0, outcome);
            }
            TransportEvent::Connected(conn) => self.rail_is_up(conn),
            TransportEvent::Closed(conn) => self.rail_is_closed(conn),
            TransportEvent::Retired(region) => self.memories.retired(self.transport.as_mut(), region),
            // Nobody here writes one-sidedly.
            TransportEvent::Notified { .. } | _ => {}
        }
    }

    fn rail_is_up(&mut self, conn: ConnId) {
        let Some(RailOf { link: id, rail, .. }) = self.rail_of(conn) else { return };
        let Self { links, transport, .. } = self;
        let Some(link) = links.get_mut(id) else { return };
        link.rails[rail].state = RailState::Up;
        if matches!(link.phase, Phase::Railing) && link.rails_are(RailState::Up) {
            let takes = |rail: &RailHere| {
                let limits = transport.limits(rail.conn);
                let (slices, message) =
                    limits.map_or((1, 1), |limits| (limits.max_slices, limits.max_message));
                Takes { slices: slices.max(1), message: message.clamp(1, LONGEST_CHUNK) }
            };
            let takes: Vec<Takes> = link.rails.iter().map(takes).collect();
            ready::say(&takes, &mut link.said);
        }
        self.enqueue(id);
    }

    /// Waits for the peer's word that its rails are up.
    fn await_ready(&mut self, id: LinkId) -> Result<(), Error> {
        let Self { links, control, scratch, .. } = self;
        let Some(link) = links.get_mut(id) else { return Ok(()) };
        let Some(stream) = link.stream else { return Ok(()) };
        flush(control.as_mut(), stream, &mut link.said);
        let mut ended = false;
        while link.came.len() < MOST_EARLY {
            match control.receive(stream, scratch.bytes(READ)) {
                Received::Bytes(count) => link.came.extend_from_slice(&scratch.bytes(READ)[..count]),
                Received::Nothing => break,
                Received::Ended => {
                    ended = true;
                    break;
                }
            }
        }
        if link.peer_takes.is_empty() {
            let heard = ready::hear(&mut link.came, link.rails.len());
            let name = link.peer.as_ref().map_or("the peer", |facts| facts.name.as_str());
            let strange = |why| {
                lost(format!(
                    "{name} says a wrong word about its rails ({why}): run the same release at both ends"
                ))
            };
            link.peer_takes = heard.map_err(strange)?.unwrap_or_default();
        }
        if !link.peer_takes.is_empty() && link.rails_are(RailState::Up) {
            return self.comes_up(id);
        }
        if ended {
            return Err(lost(format!(
                "{} ended the stream before the link was up: look at its log",
                link.name()
            )));
        }
        Ok(())
    }

    fn comes_up(&mut self, id: LinkId) -> Result<(), Error> {
        let Self { links, transport, options, rails, out, exports, now, .. } = self;
        let Some(link) = links.get_mut(id) else { return Ok(()) };
        let limits = |((here, takes), there): ((&RailHere, &Takes), u32)| {
            let limits = transport.limits(here.conn)?;
            let nic = transport.nics().iter().find(|nic| nic.id == rails[here.own].nic);
            Some(RailLimits {
                max_message: limits.max_message.min(takes.message).min(LONGEST_CHUNK),
                max_slices: limits.max_slices,
                max_sends: limits.max_sends,
                max_recvs: limits.max_recvs,
                peer_slices: takes.slices,
                megabits: slower(nic.map_or(0, |nic| nic.megabits), there),
            })
        };
        let there = link.peer.iter().flat_map(|peer| peer.rails.iter().cycle().map(|rail| rail.megabits));
        let rails_here = link.rails.iter().zip(&link.peer_takes).zip(there);
        let limits: Option<Vec<RailLimits>> = rails_here.map(limits).collect();
        let Some(limits) = limits else { return Err(lost("a rail was lost while the link came up")) };
        let mut peer = Box::new(Peer::new(limits, options.caps));
        let came = core::mem::take(&mut link.came);
        let opened = peer.receive(now.0, &came, exports);
        link.phase = Phase::Up(peer);
        link.deadline = None;
        link.was_up = true;
        let came = if link.incoming { Event::Accepted(id) } else { Event::Connected(id) };
        out.push_back(came);
        self.links_tally.came_up(link.incoming);
        self.tell_up(id);
        self.enqueue(id);
        opened.map_err(|breach| lost(breach.to_string()))
    }
}

/// The speed of the slower end; 0 is an unknown one.
fn slower(here: u32, there: u32) -> u32 {
    if here == 0 || there == 0 { here.max(there) } else { here.min(there) }
}
