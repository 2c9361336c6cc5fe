//! Connections: how they begin, and how they end.

use std::collections::VecDeque;

use p2p_transport::{Address, ConnId, Error, ErrorKind, Limits, ListenerId, Outcome, Rail};

use crate::audit::Ledger;
use crate::lane::{Kind, Lane};
use crate::planted::Planted;
use crate::state::{
    AddressState, AddressUse, CODE_BROKEN, CODE_CLOSED, CODE_REFUSED, Carried, Link, Place, Report, Side,
    SideState, State, What, nanos,
};

/// What an address begins with: a name and a version.
const MAGIC: [u8; 8] = *b"p2pmock\x01";
const ADDRESS: usize = 20;

/// Longest wait between `close` and the end of its operations, in nanoseconds.
const FLUSH: u64 = 2000;
/// How long a connection whose time is over waits for what is becoming visible, in nanoseconds.
const MOMENT: u64 = 10_000;

impl State {
    fn check_rail(&self, end: usize, rail: Rail, during: &'static str) -> Result<usize, Error> {
        if rail.device.is_some() {
            let text = "a simulated NIC serves host memory only: leave the device out";
            return Err(Error::new(ErrorKind::Unsupported, during, text));
        }
        if rail.channels == 0 {
            return Err(Error::misuse(during, "a connection has at least one channel"));
        }
        self.nic(end, rail.nic).ok_or_else(|| {
            Error::misuse(during, format!("there is no NIC {}: see Transport::nics", rail.nic.0))
        })
    }

    pub(crate) fn listen(&mut self, end: usize, rail: Rail) -> Result<(ListenerId, Address), Error> {
        self.check_rail(end, rail, "listen")?;
        let index = self.addresses.len();
        let nonce = self.random.next() as u32;
        let id = self.ends[end].listeners.insert(index);
        let state = AddressUse::Listening(id);
        self.addresses.push(AddressState { end, rail, nonce, state, knocked: None });
        let mut bytes = [0; ADDRESS];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        bytes[16..].copy_from_slice(&nonce.to_le_bytes());
        let address = Address::new(&bytes).map_err(|error| Error::misuse("listen", error.to_string()))?;
        Ok((id, address))
    }

    pub(crate) fn unlisten(&mut self, end: usize, listener: ListenerId) -> Result<(), Error> {
        let index = self.ends[end].listeners.remove(listener);
        let index = index.ok_or_else(|| Error::stale("unlisten", "listener"))?;
        self.give_up_address(index);
        Ok(())
    }

    fn give_up_address(&mut self, index: usize) {
        self.addresses[index].state = AddressUse::Used;
        if let Some(link) = self.addresses[index].knocked.take() {
            self.after(0, What::Refused { link });
        }
    }

    /// All listeners of a transport are stale from here on; true if there were any.
    pub(crate) fn forget_listeners(&mut self, end: usize) -> bool {
        let all: Vec<(ListenerId, usize)> =
            self.ends[end].listeners.iter().map(|(id, index)| (id, *index)).collect();
        for &(id, index) in &all {
            self.ends[end].listeners.remove(id);
            self.give_up_address(index);
        }
        let waiting: Vec<(ConnId, usize)> = self.ends[end]
            .conns
            .iter()
            .filter_map(|(id, (place, _))| match *place {
                Place::Waiting { address } => Some((id, address)),
                Place::Linked { .. } => None,
            })
            .collect();
        for &(conn, address) in &waiting {
            if self.addresses[address].state == AddressUse::Accepting(conn) {
                self.addresses[address].state = AddressUse::Used;
                self.fail_waiting(end, conn, Some(broken("accept", "this node began again")));
            }
        }
        !all.is_empty() || !waiting.is_empty()
    }

    pub(crate) fn accept(&mut self, end: usize, listener: ListenerId) -> Result<ConnId, Error> {
        let index = self.ends[end].listeners.remove(listener);
        let address = index.ok_or_else(|| Error::stale("accept", "listener"))?;
        let conn = self.ends[end].conns.insert((Place::Waiting { address }, None));
        self.addresses[address].state = AddressUse::Accepting(conn);
        if let Some(link) = self.addresses[address].knocked.take() {
            self.after(0, What::Knock { link });
        }
        self.after(nanos(self.settings.connect_bound), What::Deadline { end, conn });
        Ok(conn)
    }

    pub(crate) fn connect(&mut self, end: usize, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        let nic = self.check_rail(end, rail, "connect")?;
        let address = parse(peer).filter(|(index, _)| *index < self.addresses.len());
        let Some((address, nonce)) = address else {
            let text = "these bytes are no address of this simulated network and version";
            return Err(Error::misuse("connect", text));
        };
        if self.addresses[address].nonce != nonce {
            return Err(Error::misuse("connect", "an address of another world"));
        }
        let link = self.links.len();
        let conn = self.ends[end].conns.insert((Place::Linked { link, side: 0 }, None));
        let side = self.side(end, nic, rail.channels, conn);
        let audit = [Ledger::default(), Ledger::default()];
        self.links.push(Link { sides: vec![side], address, dead: false, audit });
        let latency = self.latency(self.ends[end].node, nic);
        self.after(latency, What::Knock { link });
        self.after(nanos(self.settings.connect_bound), What::Deadline { end, conn });
        Ok(conn)
    }

    fn side(&self, end: usize, nic: usize, channels: u16, conn: ConnId) -> Side {
        Side {
            end,
            node: self.ends[end].node,
            nic,
            channels,
            conn,
            state: SideState::Connecting,
            limits: Limits::new(0, 0, 0),
            lanes: [Lane::new(0, true), Lane::new(0, true), Lane::new(0, false)],
            inbound: VecDeque::new(),
            undelivered: 0,
            unmatched: 0,
            unmatched_bytes: 0,
            in_flows: false,
            sending: None,
            answers: VecDeque::new(),
            turn: 0,
            last_arrival: 0,
            last_visible: [0; 2],
            last_finish: 0,
            closed_by_owner: false,
        }
    }

    /// Somebody is at an address.
    pub(crate) fn knock(&mut self, link: usize) {
        if self.links[link].dead || self.links[link].sides[0].state != SideState::Connecting {
            return;
        }
        let address = self.links[link].address;
        match self.addresses[address].state {
            AddressUse::Listening(_) if self.addresses[address].knocked.is_none() => {
                self.addresses[address].knocked = Some(link);
            }
            AddressUse::Accepting(conn) => {
                self.addresses[address].state = AddressUse::Used;
                self.join(link, conn);
            }
            AddressUse::Listening(_) | AddressUse::Used => {
                if matches!(self.addresses[address].state, AddressUse::Used) {
                    self.strikes.count(crate::FaultKind::StaleKey);
                }
                let (node, nic) = self.place(link, 0);
                let latency = self.latency(node, nic);
                self.after(latency, What::Refused { link });
            }
        }
    }

    fn join(&mut self, link: usize, conn: ConnId) {
        let (end, rail) = {
            let address = &self.addresses[self.links[link].address];
            (address.end, address.rail)
        };
        let nic = usize::from(rail.nic.0);
        let channels = rail.channels.min(self.links[link].sides[0].channels);
        if let Some((place, _)) = self.ends[end].conns.get_mut(conn) {
            *place = Place::Linked { link, side: 1 };
        }
        let side = self.side(end, nic, rail.channels, conn);
        self.links[link].sides.push(side);
        let settings = &self.settings;
        let sends = settings.sends_per_channel.saturating_mul(channels);
        let recvs = settings.recvs_per_channel.saturating_mul(channels);
        let mut limits = Limits::new(settings.max_message, sends, recvs);
        limits.max_slices = settings.max_slices;
        limits.fifo = !self.rdma();
        limits.checks_length = settings.checks_length;
        let one_sided = settings.one_sided_ops;
        let fifo = limits.fifo;
        for side in &mut self.links[link].sides {
            side.limits = limits;
            side.lanes = [Lane::new(sends, fifo), Lane::new(recvs, fifo), Lane::new(one_sided, false)];
        }
        let (node, nic) = self.place(link, 1);
        let latency = self.latency(node, nic);
        self.after(0, What::Established { link, side: 1 });
        self.after(latency, What::Established { link, side: 0 });
    }

    pub(crate) fn established(&mut self, link: usize, side: usize) {
        let dead = self.links[link].dead;
        let place = &mut self.links[link].sides[side];
        if dead || place.state != SideState::Connecting {
            return;
        }
        place.state = SideState::Open;
        let (end, conn) = (place.end, place.conn);
        self.report(end, Report::Connected { conn, link, side });
    }

    pub(crate) fn deadline(&mut self, end: usize, conn: ConnId) {
        let Some(&(place, _)) = self.ends[end].conns.get(conn) else { return };
        let text = "nobody came within the bound: see whether the peer lives and uses this address";
        match place {
            Place::Waiting { address } => {
                if self.addresses[address].state == AddressUse::Accepting(conn) {
                    self.addresses[address].state = AddressUse::Used;
                    self.fail_waiting(end, conn, Some(refused_error("accept", text)));
                }
            }
            Place::Linked { link, side } => {
                if self.links[link].sides[side].state == SideState::Connecting {
                    self.closed(link, side, Some(refused_error("connect", text)));
                    self.kill(link);
                    self.links[link].dead = true;
                }
            }
        }
    }

    pub(crate) fn refused(&mut self, link: usize) {
        if self.links[link].sides[0].state == SideState::Connecting {
            let text = "nobody listens at this address any more: ask the peer for a new one";
            self.closed(link, 0, Some(refused_error("connect", text)));
        }
    }

    /// A connection that never got a peer ends.
    fn fail_waiting(&mut self, end: usize, conn: ConnId, why: Option<Error>) {
        if let Some((_, known)) = self.ends[end].conns.get_mut(conn) {
            *known = why;
            self.report(end, Report::Closed { conn });
        }
    }

    /// The owner closes.
    pub(crate) fn close(&mut self, end: usize, conn: ConnId) -> Result<(), Error> {
        let place = self.ends[end].conns.get(conn).map(|(place, _)| *place);
        match place.ok_or_else(|| Error::stale("close", "connection"))? {
            Place::Waiting { address } => {
                if self.addresses[address].state == AddressUse::Accepting(conn) {
                    self.addresses[address].state = AddressUse::Used;
                    self.fail_waiting(end, conn, None);
                }
            }
            Place::Linked { link, side } => self.close_side(link, side),
        }
        Ok(())
    }

    pub(crate) fn close_side(&mut self, link: usize, side: usize) {
        match self.links[link].sides[side].state {
            SideState::Connecting => {
                self.links[link].sides[side].closed_by_owner = true;
                self.links[link].dead = true;
                self.closed(link, side, None);
                if self.links[link].sides.len() == 2 {
                    let (node, nic) = self.place(link, side);
                    let latency = self.latency(node, nic);
                    self.after(latency, What::Lost { link, side: 1 - side });
                }
            }
            SideState::Open | SideState::PeerClosed => {
                let place = &mut self.links[link].sides[side];
                place.closed_by_owner = true;
                // Of a peer that closed before, it is known already.
                place.state = SideState::Closing;
                let wait = self.random.between(0, FLUSH);
                self.after(wait, What::Flush { link, side });
                self.after(nanos(self.settings.linger), What::Linger { link, side });
            }
            SideState::Closing | SideState::Flushed | SideState::Closed => {}
        }
    }

    /// All operations of a side that closed end.
    pub(crate) fn flush(&mut self, link: usize, side: usize) {
        if self.links[link].sides[side].state != SideState::Closing {
            return;
        }
        self.flush_lanes(link, side, &Kind::ALL);
        self.links[link].sides[side].state = SideState::Flushed;
        let all = self.is_planted(Planted::LostAfterClose);
        // What was sent to it is not received any more; of what it sent, only what was reported is delivered.
        self.drop_messages(link, |message| message.from != side || !message.done || all);
        let (node, nic) = self.place(link, side);
        let latency = self.latency(node, nic);
        self.after(latency, What::Fin { link, side: 1 - side });
        self.try_finish(link);
    }

    /// A side hears that its peer closed.
    pub(crate) fn fin(&mut self, link: usize, side: usize) {
        if self.links[link].dead {
            // The word was lost with the rest; what is lost is noticed.
            return;
        }
        match self.links[link].sides[side].state {
            SideState::Open => {
                self.links[link].sides[side].state = SideState::PeerClosed;
                self.blame(link, side, closed_error());
                self.flush_lanes(link, side, &[Kind::Send, Kind::OneSided]);
                self.try_finish(link);
            }
            SideState::Connecting => {
                self.closed(link, side, Some(closed_error()));
                self.try_finish(link);
            }
            SideState::Closing | SideState::Flushed | SideState::PeerClosed | SideState::Closed => {}
        }
    }

    /// Ends a connection that is closing once all that was promised is delivered.
    pub(crate) fn try_finish(&mut self, link: usize) {
        if self.links[link].sides.len() < 2 || self.links[link].dead {
            return;
        }
        for side in 0..2 {
            let (mine, peer) = (&self.links[link].sides[side], &self.links[link].sides[1 - side]);
            if mine.state != SideState::Flushed {
                continue;
            }
            let gone = matches!(peer.state, SideState::Flushed | SideState::Closed);
            let knows = peer.state == SideState::PeerClosed && mine.undelivered == 0;
            if gone {
                self.closed(link, side, None);
            } else if knows {
                self.closed(link, 1 - side, Some(closed_error()));
                let (node, nic) = self.place(link, 1 - side);
                let latency = self.latency(node, nic);
                self.after(latency, What::Bye { link, side });
            }
        }
    }

    /// The peer had its time.
    pub(crate) fn linger(&mut self, link: usize, side: usize) {
        // Of one that broke meanwhile, both sides hear by themselves.
        if self.links[link].sides[side].state == SideState::Closed || self.links[link].dead {
            return;
        }
        // A receive that was posted within the bound gets its message, if that arrives or becomes visible a
        // moment later.
        let promised = self.messages.iter().any(|message| {
            let ours = message.live && message.link == link && message.from == side && message.done;
            ours && (message.met.is_some() || !message.landed)
        });
        if promised {
            self.after(MOMENT, What::Linger { link, side });
            return;
        }
        self.links[link].dead = true;
        self.drop_messages(link, |_| true);
        for side in [side, 1 - side] {
            let closed = self.links[link].sides[side].closed_by_owner;
            self.closed(link, side, (!closed).then(closed_error));
        }
    }

    /// A connection breaks. False if it was broken or ended before.
    pub(crate) fn kill(&mut self, link: usize) -> bool {
        let lives = |side: &Side| side.state != SideState::Closed;
        if self.links[link].dead || !self.links[link].sides.iter().any(lives) {
            return false;
        }
        self.links[link].dead = true;
        self.drop_messages(link, |_| true);
        for side in 0..self.links[link].sides.len() {
            let wait = self.random.between(0, nanos(self.settings.death_bound));
            self.after(wait, What::Lost { link, side });
        }
        true
    }

    /// A side notices that its connection is broken.
    pub(crate) fn lost(&mut self, link: usize, side: usize) {
        let closed = self.links[link].sides[side].closed_by_owner;
        let text = "the connection broke: connect again";
        self.closed(link, side, (!closed).then(|| broken("poll", text)));
        self.try_finish(link);
    }

    fn blame(&mut self, link: usize, side: usize, why: Error) {
        let place = &self.links[link].sides[side];
        let (end, conn) = (place.end, place.conn);
        if let Some((_, known)) = self.ends[end].conns.get_mut(conn) {
            // The last one counts: a connection that was being closed may break.
            *known = Some(why);
        }
    }

    /// The last report of a side.
    pub(crate) fn closed(&mut self, link: usize, side: usize, why: Option<Error>) {
        if self.links[link].sides[side].state == SideState::Closed {
            return;
        }
        let by_owner = self.links[link].sides[side].closed_by_owner;
        if let Some(why) = why.filter(|_| !by_owner) {
            self.blame(link, side, why);
        }
        let early = self.strikes_planted(Planted::ClosedEarly, 2);
        let (end, conn) = (self.links[link].sides[side].end, self.links[link].sides[side].conn);
        if early {
            self.report(end, Report::Closed { conn });
        }
        self.flush_lanes(link, side, &Kind::ALL);
        self.drop_messages(link, |message| message.from != side || !message.done);
        self.links[link].sides[side].state = SideState::Closed;
        self.links[link].sides[side].inbound.clear();
        if !early && !self.strikes_planted(Planted::ClosedLost, 20) {
            self.report(end, Report::Closed { conn });
        }
    }

    fn flush_lanes(&mut self, link: usize, side: usize, kinds: &[Kind]) {
        for &kind in kinds {
            for slot in self.links[link].sides[side].lanes[kind as usize].unfinished() {
                let lane = &mut self.links[link].sides[side].lanes[kind as usize];
                let serial = lane.slot(slot).map_or(0, |slot| slot.serial);
                self.finish(link, side, kind, slot, serial, Outcome::ConnLost);
            }
            self.links[link].sides[side].lanes[kind as usize].queue.clear();
        }
    }

    fn drop_messages(&mut self, link: usize, which: impl Fn(&crate::state::Message) -> bool) {
        for index in 0..self.messages.len() {
            let message = &self.messages[index];
            if message.live && message.link == link && which(message) {
                let (from, two_sided) = (message.from, message.carried == Carried::Send);
                if let Some(side) = self.links[link].sides.get_mut(1 - from).filter(|_| two_sided) {
                    side.inbound.retain(|known| *known as usize != index);
                }
                self.free_message(index as u32);
            }
        }
    }

    /// A transport is dropped: as if it had closed everything, and nobody hears of it here any more.
    pub(crate) fn drop_end(&mut self, end: usize) {
        self.forget_listeners(end);
        let places: Vec<Place> = self.ends[end].conns.iter().map(|(_, (place, _))| *place).collect();
        for place in places {
            if let Place::Linked { link, side } = place {
                self.close_side(link, side);
                self.flush(link, side);
            }
        }
        let end = &mut self.ends[end];
        end.dropped = true;
        end.reports.clear();
        end.exports.clear();
        end.regions = p2p_transport::Regions::new();
    }
}

fn parse(address: &Address) -> Option<(usize, u32)> {
    let bytes: &[u8; ADDRESS] = address.as_bytes().try_into().ok()?;
    let (magic, rest) = bytes.split_first_chunk::<8>()?;
    let (index, nonce) = rest.split_first_chunk::<8>()?;
    let nonce = u32::from_le_bytes(nonce.try_into().ok()?);
    (*magic == MAGIC).then_some((usize::try_from(u64::from_le_bytes(*index)).ok()?, nonce))
}

fn closed_error() -> Error {
    Error::new(
        ErrorKind::Conn,
        "poll",
        "the peer closed the connection: connect again if there is more to do",
    )
    .with_code(CODE_CLOSED)
}

fn broken(during: &'static str, text: &str) -> Error {
    Error::new(ErrorKind::Conn, during, text).with_code(CODE_BROKEN)
}

fn refused_error(during: &'static str, text: &str) -> Error {
    Error::new(ErrorKind::Conn, during, text).with_code(CODE_REFUSED)
}
