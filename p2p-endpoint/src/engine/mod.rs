//! An endpoint that somebody drives: links, memory and transfers over any transport and any control streams.
//!
//! It belongs to one thread at a time, never waits, and reads no clock: [`Engine::poll`] does what can be done and
//! says how long its caller may sleep. So it runs in a thread, in a waiting caller, and in a simulation.

mod ending;
mod event;
mod link;
mod memory;
mod moving;
mod opening;
mod ready;
mod stalls;
mod talk;
mod tally;
mod tokens;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use p2p_memory::Memory;
use p2p_proto::frame::MOST_RAILS;
use p2p_proto::hello::Facts;
use p2p_proto::id::{EndpointId, Epoch, TransferId};
use p2p_proto::list::List;
use p2p_proto::peer::{Outcome, Rejected, Waiting};
use p2p_transport::{
    ConnId, Control, ControlEvent, DoorId, Error, ErrorKind, Events, Next, Now, Rail, Slab, StreamId,
    Transport,
};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use event::{Event, LinkId, OpToken, Options, TransferKind};
pub use stalls::Stall;

use crate::counters::{Links, Messages, Traffic};
use crate::exports::{Access, ExportTable, Item};
use crate::registry::MrId;
use event::RailOf;
use link::{Link, Phase};
use memory::Memories;
use talk::Talk;
use tokens::Started;

/// Events taken from the transport in one poll.
const EVENTS: usize = 64;
/// Events taken from the control streams in one poll.
const CONTROL_EVENTS: usize = 64;
/// Time between two looks at the deadlines of links.
const TICK: Duration = Duration::from_millis(20);
/// Bytes with the transport beside which an answer may be waited for awake. Whoever spins beside more of them takes the
/// cores that move them.
const MOST_BESIDE: u64 = 64 << 10;
/// Links whose peer has not shown who it is, at most: the oldest makes room.
const MOST_STRANGERS: usize = 512;

/// A part of registered memory of this end: the registration, offset and length in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// The registration.
    pub mr: MrId,
    /// First byte, counted from the beginning of the registration.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// What a transfer does, and with which memory of the peer.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Puts the parts into the items, one after another.
    Write {
        /// Where to; as many bytes as there are in the parts.
        into: &'a [Item],
        /// A counter of the peer that goes up when all is visible there.
        counter: Option<u32>,
    },
    /// Gets the items into the parts, one after another.
    Read {
        /// Where from; as many bytes as there are in the parts.
        from: &'a [Item],
    },
    /// Sends the parts as one message, to the peer's next receive.
    Send,
    /// Receives one message of at most so many bytes as the parts have.
    Recv,
}

/// See the module documentation.
pub struct Engine {
    transport: Box<dyn Transport>,
    control: Box<dyn Control>,
    options: Options,
    facts: Facts,
    random: Box<dyn FnMut() -> u64 + Send>,
    door: DoorId,
    /// Where this end's memory goes, in the order in which links use them.
    rails: Vec<Rail>,
    links: Slab<LinkId, Link>,
    /// By position of the connection.
    rails_of: Vec<Option<RailOf>>,
    /// By position of the stream.
    links_of: Vec<Option<(StreamId, LinkId)>>,
    memories: Memories,
    exports: ExportTable,
    events: Events,
    heard: Vec<ControlEvent>,
    /// Links that have something to do.
    queue: VecDeque<LinkId>,
    turn: VecDeque<LinkId>,
    /// Links that peers have opened.
    incoming: usize,
    /// Incoming links that have not shown who they are, oldest first.
    strangers: VecDeque<LinkId>,
    out: VecDeque<Event>,
    /// Why the last link at each position ended.
    reasons: Vec<Option<(LinkId, Error)>>,
    now: Now,
    next_tick: Now,
    /// When somebody looked for stalls last.
    looked: Now,
    /// What all links have done, those that are gone as well.
    traffic: Traffic,
    links_tally: Links,
    /// By position of the rail, all links together.
    messages: Vec<Messages>,
    /// On links that are up.
    talk: Talk,
    /// Bytes of all links that are with the transport, as of each link's last turn.
    flying: u64,
    scratch: moving::Scratch,
}

impl Engine {
    /// An endpoint over this transport, at whose door peers may knock from here on.
    ///
    /// `random` gives numbers that nobody can guess: what opens memory is made of them.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) if no NIC serves the memory, or what the system says of the door.
    pub fn new(
        transport: Box<dyn Transport>,
        mut control: Box<dyn Control>,
        options: Options,
        mut random: Box<dyn FnMut() -> u64 + Send>,
    ) -> Result<Self, Error> {
        let rails = match options.rails.as_slice() {
            [] => transport.rails(options.device)?,
            chosen => chosen.to_vec(),
        };
        if rails.is_empty() || rails.len() > MOST_RAILS {
            let text = format!("{} NICs serve this memory; 1 to {} are possible", rails.len(), MOST_RAILS);
            return Err(Error::new(ErrorKind::Unsupported, "open", text));
        }
        let door = opening::listen(control.as_mut(), options.door, options.port_retries)?;
        let (high, low, epoch) = (random(), random(), random());
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high.to_le_bytes());
        id[8..].copy_from_slice(&low.to_le_bytes());
        let facts = Facts {
            endpoint: EndpointId(id),
            epoch: Epoch(epoch),
            device: options.device,
            name: options.name.clone(),
            rails: rails.iter().map(|rail| opening::facts_of(rail, transport.nics())).collect(),
        };
        let exports = ExportTable::new(Epoch(epoch));
        Ok(Self {
            memories: Memories::new(rails.iter().map(|rail| rail.nic)),
            messages: vec![Messages::default(); rails.len()],
            transport,
            control,
            options,
            facts,
            random,
            door,
            rails,
            links: Slab::new(),
            rails_of: Vec::new(),
            links_of: Vec::new(),
            exports,
            events: Events::with_capacity(EVENTS),
            heard: Vec::with_capacity(CONTROL_EVENTS),
            queue: VecDeque::new(),
            turn: VecDeque::new(),
            incoming: 0,
            strangers: VecDeque::new(),
            out: VecDeque::new(),
            reasons: Vec::new(),
            now: Now::default(),
            next_tick: Now::default(),
            looked: Now::default(),
            traffic: Traffic::default(),
            links_tally: Links::default(),
            talk: Talk::new(),
            flying: 0,
            scratch: moving::Scratch::default(),
        })
    }

    /// What peers learn of this endpoint.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Addresses of this host that peers can reach, best first; see [`Options::host`].
    pub fn host(&self) -> &[IpAddr] {
        &self.options.host
    }

    /// Where peers knock, with the real port.
    pub fn door(&self) -> Option<SocketAddr> {
        self.control.local(self.door)
    }

    /// Starts to connect to the endpoint whose door is there: `Connected` or `Closed` follows, within the bound of
    /// the options.
    ///
    /// # Errors
    ///
    /// [`Exhausted`](ErrorKind::Exhausted) if there are too many links, or what the system refused at once.
    pub fn connect(&mut self, to: SocketAddr) -> Result<LinkId, Error> {
        let opened = self.links.len() - self.incoming;
        if opened >= self.options.most_links {
            let text = format!("this end has opened {opened} links already; close some");
            return Err(Error::new(ErrorKind::Exhausted, "connect", text));
        }
        let stream = self.control.connect(to)?;
        Ok(self.add_link(false, stream))
    }

    /// Ends a link. What is under way on it ends first; `Closed` follows.
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) for a stale id.
    pub fn close(&mut self, link: LinkId) -> Result<(), Error> {
        let found = self.links.get_mut(link).ok_or_else(|| Error::stale("close", "link"))?;
        if let Phase::Up(peer) = &mut found.phase {
            peer.goodbye(CLOSED_THERE);
        }
        self.end(link, None);
        Ok(())
    }

    /// Ends every link.
    pub fn close_all(&mut self) {
        for index in 0..self.links.positions() {
            if let Some(link) = self.links.id_at(index) {
                // It lives: it was found a moment ago.
                let _ = self.close(link);
            }
        }
    }

    /// Whether no link is left, not even one that ends.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether a link is up: it was reported so, and has not begun to end.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.links.get(link).is_some_and(|link| matches!(link.phase, Phase::Up(_)))
    }

    /// Why a link ended or never came up; `None` while it lives, if this end closed it, and once its place is used
    /// again.
    pub fn why(&self, link: LinkId) -> Option<&Error> {
        if let Some(found) = self.links.get(link) {
            return found.reason.as_ref();
        }
        let (of, error) = self.reasons.get(p2p_transport::Id::index(link))?.as_ref()?;
        (*of == link).then_some(error)
    }

    /// What a link waits for that is not up yet, in words; `None` if it is up or over.
    pub fn missing(&self, link: LinkId) -> Option<String> {
        let found = self.links.get(link)?;
        matches!(found.phase, Phase::Greeting(_) | Phase::Railing).then(|| opening::missing(found))
    }

    /// What the peer of a link said of itself; `None` before it did, and for a stale id.
    pub fn peer(&self, link: LinkId) -> Option<&Facts> {
        self.links.get(link)?.peer.as_ref()
    }

    /// The address of the peer's end of the control stream.
    pub fn peer_address(&self, link: LinkId) -> Option<SocketAddr> {
        let stream = self.links.get(link)?.stream?;
        self.control.ends(stream).map(|(_, peer)| peer)
    }

    /// What carries each rail of a link, in lines for people.
    pub fn describe(&self, link: LinkId) -> Vec<String> {
        let Some(found) = self.links.get(link) else { return Vec::new() };
        let nic = |own: usize| {
            let nic = self.rails[own].nic;
            self.transport.nics().iter().find(|one| one.id == nic).map_or("?", |one| one.name.as_str())
        };
        let line = |rail: &link::RailHere| {
            let carries = self.transport.describe(rail.conn);
            format!("{}: {}", nic(rail.own), carries.unwrap_or_else(|| "as the backend has it".to_owned()))
        };
        found.rails.iter().map(line).collect()
    }

    /// Registers memory on every NIC of the endpoint's rails. The same span, or one inside of a live registration,
    /// shares what is there.
    ///
    /// # Errors
    ///
    /// What the transport refused; nothing is registered then. [`Exhausted`](ErrorKind::Exhausted) for memory that a transport
    /// has not let go of since a link was lost.
    pub fn reg(&mut self, memory: Box<dyn Memory>) -> Result<MrId, Error> {
        self.memories.reg(self.transport.as_mut(), memory, self.exports.held_back())
    }

    /// Takes a registration back: no new transfer may use it, and what peers were given to it opens nothing any
    /// more. Its memory is dropped when nothing uses it any more.
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) for an unknown registration.
    pub fn dereg(&mut self, mr: MrId) -> Result<(), Error> {
        self.take_memory_back(mr)
    }

    /// Registered memory that nothing uses any more, for the caller to drop where code that runs then may call this
    /// engine's owner back. What is not taken is dropped by the next poll.
    pub fn take_gone(&mut self) -> Vec<Box<dyn Memory>> {
        self.memories.take_gone()
    }

    /// Opens a part of registered memory to peers, and returns what to hand to them.
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) for an unknown registration or a part outside of it.
    pub fn advertise(&mut self, part: Part, access: Access) -> Result<Item, Error> {
        self.open_part(part, access)
    }

    /// Starts a transfer of these parts. `Ended` follows, with this token.
    ///
    /// # Errors
    ///
    /// [`Misuse`](ErrorKind::Misuse) for a link that is not up, unknown registrations, parts outside of them, items
    /// of another life of the peer, or lengths that differ; [`Exhausted`](ErrorKind::Exhausted) if the link holds as
    /// many transfers as it can: wait for one to end.
    pub fn start(
        &mut self,
        link: LinkId,
        token: OpToken,
        parts: &[Part],
        request: Request<'_>,
    ) -> Result<TransferId, Error> {
        let local = self.local_list(parts)?;
        let remote = self.remote_list(link, &request)?;
        let (kind, bytes) = (tally::kind_of(&request), local.total());
        let peer = self.up(link, "start")?;
        let started = match (&request, remote) {
            (Request::Write { counter, .. }, Some(remote)) => peer.write(local, remote, *counter),
            (Request::Read { .. }, Some(remote)) => peer.read(local, remote),
            (Request::Recv, _) => peer.recv(local),
            (Request::Send, _) | (Request::Write { .. } | Request::Read { .. }, None) => peer.send(local),
        };
        let transfer = started.map_err(rejected)?;
        if let Some(found) = self.links.get_mut(link) {
            found.tokens.put(transfer, Started::new(token, kind, bytes));
        }
        self.talk.may_look_short(false);
        self.enqueue(link);
        Ok(transfer)
    }

    /// Sends a notification, which is delivered in the order of notifications; with `after`, when the write that was
    /// started last has landed.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start); also a notification that is too long.
    pub fn notify(&mut self, link: LinkId, after: Option<TransferId>, bytes: Bytes) -> Result<(), Error> {
        let length = bytes.len() as u64;
        self.up(link, "notify")?.notify(after, bytes).map_err(rejected)?;
        self.count(link, |traffic| traffic.notifications_sent.add(length));
        self.enqueue(link);
        Ok(())
    }

    /// So many bytes of a link's notifications are kept by whoever took them, and count as if they had not been taken:
    /// beyond the cap the peer is left to wait. True if it is.
    pub fn keeps(&mut self, link: LinkId, bytes: usize) -> bool {
        let Some(Link { phase: Phase::Up(peer), .. }) = self.links.get_mut(link) else { return false };
        peer.keeps(bytes);
        let rests = !peer.wants_control();
        self.enqueue(link);
        rests
    }

    /// The next event, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.out.pop_front()
    }

    /// What a transfer waits for, if it is under way.
    pub fn waits_for(&self, link: LinkId, transfer: TransferId) -> Option<Waiting> {
        match &self.links.get(link)?.phase {
            Phase::Up(peer) => peer.waits_for(transfer),
            Phase::Greeting(_) | Phase::Railing | Phase::Ending(_) => None,
        }
    }

    /// Does what can be done. `now` never goes back. Says how long the caller may sleep if neither descriptor becomes
    /// readable.
    pub fn poll(&mut self, now: Now) -> Next {
        drop(self.take_gone());
        self.at(now);
        if let Some(next) = self.look_short() {
            return next;
        }
        let now = self.now;
        let control = self.look_at_control(now);
        let next = self.look_at_transport(now);
        if now >= self.next_tick {
            self.tick(now);
        }
        self.work_queued();
        self.let_memory_go();
        if !self.queue.is_empty() || !self.out.is_empty() || !self.heard.is_empty() {
            return Next::Again;
        }
        let mut until = control;
        if !self.links.is_empty() {
            until = Some(until.map_or(self.next_tick, |until| until.min(self.next_tick)));
        }
        let earlier = |one: Option<Now>| match (one, until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let is_idle = matches!(next, Next::Idle(_));
        let spins = self.talk.goes_on(now) && (is_idle || self.flying <= MOST_BESIDE);
        self.talk.may_look_short(spins && is_idle);
        match next {
            Next::Again | Next::Spin => next,
            Next::Wait(_) if spins => Next::Spin,
            Next::Wait(wait) => Next::Wait(earlier(wait)),
            Next::Idle(_) if spins => Next::Spin,
            Next::Idle(idle) => Next::Idle(earlier(idle)),
        }
    }

    /// It is so late: what is asked for from here on counts its time from then. `now` never goes back.
    pub fn at(&mut self, now: Now) {
        self.now = self.now.max(now);
    }

    /// Lets what was asked for since the last poll begin, without looking at anything that came: cheaper than a poll,
    /// which still has to follow.
    pub fn begin(&mut self) {
        self.work_queued();
    }

    /// Gives each link that is queued its turn.
    fn work_queued(&mut self) {
        core::mem::swap(&mut self.queue, &mut self.turn);
        while let Some(link) = self.turn.pop_front() {
            if let Some(found) = self.links.get_mut(link) {
                found.queued = false;
                self.work(link);
            }
        }
    }

    /// Becomes readable when the transport may have moved; `None` where only polling shows it.
    pub fn transport_fd(&self) -> Option<BorrowedFd<'_>> {
        self.transport.wait_fd()
    }

    /// Becomes readable when a peer says something; `None` where only polling shows it.
    pub fn control_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.wait_fd()
    }

    /// The protocol's end of a link that is up.
    fn up(&mut self, link: LinkId, during: &'static str) -> Result<&mut p2p_proto::peer::Peer, Error> {
        let found = self.links.get_mut(link).ok_or_else(|| Error::stale(during, "link"))?;
        match &mut found.phase {
            Phase::Up(peer) => Ok(peer),
            Phase::Greeting(_) | Phase::Railing => {
                Err(Error::misuse(during, "the link is not up yet: wait until it is connected"))
            }
            Phase::Ending(_) => {
                let why = found.reason.as_ref().map_or("it was closed here", Error::text);
                Err(Error::new(ErrorKind::Conn, during, format!("the link is over: {why}")))
            }
        }
    }

    /// Gives a link a turn in this poll or the next.
    fn enqueue(&mut self, link: LinkId) {
        if let Some(found) = self.links.get_mut(link)
            && !found.queued
        {
            found.queued = true;
            self.queue.push_back(link);
        }
    }

    /// Looks at deadlines, and lets links say that they live.
    fn tick(&mut self, now: Now) {
        self.next_tick = now.after(TICK);
        self.look_for_stalls(now);
        for index in 0..self.links.positions() {
            let Some(id) = self.links.id_at(index) else { continue };
            let Some(link) = self.links.get_mut(id) else { continue };
            if link.tells_at.is_some_and(|at| now >= at) {
                link.tell_lost_rails();
            }
            let late = link.deadline.is_some_and(|deadline| now >= deadline);
            match (&link.phase, late) {
                (Phase::Greeting(_) | Phase::Railing, true) => {
                    let text = opening::too_late(link);
                    self.end(id, Some(Error::new(ErrorKind::Conn, "connect", text)));
                }
                (Phase::Ending(_), true) => self.give_up(id),
                (Phase::Up(_), true) => self.rails_are_gone(id),
                (Phase::Up(_), false) => self.enqueue(id),
                (Phase::Greeting(_) | Phase::Railing | Phase::Ending(_), false) => {}
            }
        }
    }

    fn look_at_transport(&mut self, now: Now) -> Next {
        let mut events = core::mem::replace(&mut self.events, Events::with_capacity(0));
        let next = self.transport.poll(now, &mut events);
        let full = events.room() == 0;
        for event in events.drain() {
            self.transport_said(event);
        }
        self.events = events;
        if full { Next::Again } else { next }
    }

    fn look_at_control(&mut self, now: Now) -> Option<Now> {
        let heard = &mut self.heard;
        let until = self.control.poll(now, CONTROL_EVENTS, &mut |event| heard.push(event));
        let mut heard = core::mem::take(&mut self.heard);
        for event in heard.drain(..) {
            self.control_said(event);
        }
        // Doors at which more stand than were let in: the next poll goes on with them.
        heard.append(&mut self.heard);
        self.heard = heard;
        if self.heard.is_empty() { until } else { Some(now) }
    }

    /// The link and rail of a connection.
    fn rail_of(&self, conn: ConnId) -> Option<RailOf> {
        self.rails_of.get(conn.index()).copied().flatten().filter(|rail| rail.conn == conn)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("endpoint", &self.facts.endpoint)
            .field("door", &self.door())
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

/// What the protocol did not take.
fn rejected(rejected: Rejected) -> Error {
    let kind = if rejected == Rejected::Full { ErrorKind::Exhausted } else { ErrorKind::Misuse };
    Error::new(kind, "start", rejected.to_string())
}

/// A list of ranges that the protocol takes.
type Local = List<p2p_proto::list::LocalRange>;

/// What an end says that closes a link for no other reason than that it is done.
const CLOSED_THERE: &str = "it was closed there";

/// How operations end whose link is lost.
const LOST: Outcome = Outcome::LinkLost;
