//! The connections between the two ends: messages from the client to the server, and acknowledgements and small
//! answers back on the same connections.
//!
//! For each number of channels that is measured there is one group of connections, one on each rail. Messages
//! take turns over the rails; what goes back uses the first one.

use std::thread;
use std::time::Duration;

use p2p_memory::SharedHost;
use p2p_transport::{
    Accepted, Address, ConnId, Error, Event, Events, ListenerId, Next, Now, Op, OpFault, Outcome, Rail,
    RegionId, Slice, Stop, Token, Transport,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::back::{BACK_BYTES, BACK_MEMORY, BACK_SLOTS, BackSlot, BackSlots};
use super::net::{Clock, Net};
use super::placement::Range;
use crate::failure::{Doing, Failure};

/// How long nothing may move before a pass is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// Channels of a connection at most.
pub(super) const MOST_CHANNELS: u16 = 16;
/// Rails of a run at most.
pub(super) const MOST_NICS: usize = 16;
/// Longest sleep between two looks at the clock.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// The same where nothing wakes.
const BLIND_SLEEP: Duration = Duration::from_micros(200);
/// Polls of somebody who does not sleep between two looks for silence.
const POLLS: u32 = 1 << 14;

/// Work on a link that goes on step by step, so that one thread can do that of both ends.
pub(super) trait Work {
    /// Submits what can be.
    fn submit(&mut self, _: &mut Link) -> Result<(), Failure> {
        Ok(())
    }
    /// The message with this number ended well, with the length that the transport knows.
    fn message_ended(&mut self, _: &mut Link, _number: u64, _len: u32) -> Result<(), Failure> {
        Ok(())
    }
    /// The same of a message back, of the group that works; its place is free from here on.
    fn back_ended(&mut self, _: &mut Link, _slot: BackSlot, _len: u32) -> Result<(), Failure> {
        Ok(())
    }
    /// Whether nothing is left to do.
    fn is_over(&self, link: &Link) -> bool;
}

/// Connections of one number of channels.
#[derive(Debug)]
struct Group {
    channels: u16,
    conns: Vec<ConnId>,
    backs: BackSlots,
}

/// Everything open.
pub(super) struct Link {
    transport: Box<dyn Transport>,
    clock: Clock,
    rails: Vec<Rail>,
    groups: Vec<Group>,
    listeners: Vec<(u16, Vec<ListenerId>)>,
    /// The memory of messages, by rail.
    regions: Vec<RegionId>,
    back_region: RegionId,
    back_memory: SharedHost,
    /// Connections that are open.
    open: usize,
    closing: bool,
    events: Events,
    slices: Vec<Slice>,
}

impl Link {
    /// Registers `region` on every rail, and memory for messages back of as many groups as there will be.
    pub(super) fn new(net: Net, region: &SharedHost, groups: usize) -> Result<Self, Failure> {
        let Net { mut transport, clock, rails, .. } = net;
        let mut register = |rail: &Rail, memory: &SharedHost| {
            let registered = transport.register(rail.nic, Box::new(memory.clone()));
            registered.map_err(|refused| refused.error).doing("registering memory")
        };
        let regions = rails.iter().map(|rail| register(rail, region)).collect::<Result<Vec<_>, _>>()?;
        let back_memory =
            SharedHost::new(BACK_MEMORY * groups.max(1)).map_err(|error| Failure::new(error.to_string()))?;
        let first = rails.first().ok_or_else(|| Failure::new("there is no NIC"))?;
        let back_region = register(first, &back_memory)?;
        Ok(Self {
            transport,
            clock,
            rails,
            groups: Vec::with_capacity(groups),
            listeners: Vec::new(),
            regions,
            back_region,
            back_memory,
            open: 0,
            closing: false,
            events: Events::with_capacity(64),
            slices: Vec::new(),
        })
    }

    /// Listens for a group of each number of channels; returns the addresses, by group and rail.
    pub(super) fn listen(&mut self, channels: &[u16]) -> Result<Vec<Vec<Vec<u8>>>, Failure> {
        let mut addresses = Vec::new();
        for &channels in channels {
            let mut of_group = Vec::new();
            let mut listeners = Vec::new();
            for rail in &self.rails {
                let (listener, address) =
                    self.transport.listen(Rail { channels, ..*rail }).doing("listening")?;
                listeners.push(listener);
                of_group.push(address.as_bytes().to_vec());
            }
            self.listeners.push((channels, listeners));
            addresses.push(of_group);
        }
        Ok(addresses)
    }

    /// Waits for the peer at every address that was handed out.
    pub(super) fn accept(&mut self) -> Result<(), Failure> {
        for (channels, listeners) in std::mem::take(&mut self.listeners) {
            let accept = |listener| self.transport.accept(listener);
            let conns = listeners.into_iter().map(accept).collect::<Result<Vec<_>, _>>();
            self.add_group(channels, conns.doing("accepting")?);
        }
        Ok(())
    }

    /// Connects a group of each number of channels to the peer's addresses.
    pub(super) fn connect(&mut self, channels: &[u16], addresses: &[Vec<Vec<u8>>]) -> Result<(), Failure> {
        let strange = || Failure::peer("the other end sent other addresses than it was asked for");
        if addresses.len() != channels.len() {
            return Err(strange());
        }
        for (&channels, of_group) in channels.iter().zip(addresses) {
            if of_group.len() != self.rails.len() {
                return Err(strange());
            }
            let mut conns = Vec::new();
            for (rail, bytes) in self.rails.iter().zip(of_group) {
                let address = Address::new(bytes).map_err(|error| Failure::peer(error.to_string()))?;
                let rail = Rail { channels, ..*rail };
                conns.push(self.transport.connect(rail, &address).doing("connecting")?);
            }
            self.add_group(channels, conns);
        }
        Ok(())
    }

    fn add_group(&mut self, channels: u16, conns: Vec<ConnId>) {
        self.groups.push(Group { channels, conns, backs: BackSlots::default() });
    }

    /// Receives acknowledgements and answers from here on, in every group.
    pub(super) fn receive_back(&mut self) -> Result<(), Failure> {
        for group in 0..self.groups.len() {
            // As many as the window of receives holds.
            self.recv_back(group)?;
            for _ in 1..BACK_SLOTS {
                if !self.try_recv_back(group)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Rails, over which messages take turns.
    pub(super) const fn rails(&self) -> usize {
        self.rails.len()
    }

    /// What carries the first connection, in a line.
    pub(super) fn describe(&self) -> Option<String> {
        self.transport.describe(*self.groups.first()?.conns.first()?)
    }

    /// Channels of the group that has the fewest.
    pub(super) fn least_channels(&self) -> usize {
        self.groups.iter().map(|group| usize::from(group.channels)).min().unwrap_or(1)
    }

    /// The group with this number of channels.
    pub(super) fn group(&self, channels: usize) -> Option<usize> {
        self.groups.iter().position(|group| usize::from(group.channels) == channels)
    }

    /// Longest message that every connection carries.
    pub(super) fn max_message(&self) -> usize {
        self.limit(|limits| limits.max_message as usize)
    }

    /// Slices that every connection takes for a message.
    pub(super) fn max_slices(&self) -> usize {
        self.limit(|limits| usize::from(limits.max_slices))
    }

    fn limit(&self, of: impl Fn(&p2p_transport::Limits) -> usize) -> usize {
        let conns = self.groups.iter().flat_map(|group| &group.conns);
        conns.filter_map(|conn| self.transport.limits(*conn)).map(of).min().unwrap_or(0)
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now().0
    }

    /// Sends a message that lies in these ranges over a rail. False if there is no room.
    pub(super) fn send(
        &mut self,
        group: usize,
        rail: usize,
        number: u64,
        ranges: impl Iterator<Item = Range>,
    ) -> Result<bool, Failure> {
        let conn = self.cut(group, rail, ranges);
        let accepted = self.transport.send(conn, Token(number), &self.slices);
        self.accepted(conn, accepted)
    }

    /// Receives a message into these ranges over a rail. False if there is no room.
    pub(super) fn recv(
        &mut self,
        group: usize,
        rail: usize,
        number: u64,
        ranges: impl Iterator<Item = Range>,
    ) -> Result<bool, Failure> {
        let conn = self.cut(group, rail, ranges);
        let accepted = self.transport.recv(conn, Token(number), &self.slices);
        self.accepted(conn, accepted)
    }

    fn cut(&mut self, group: usize, rail: usize, ranges: impl Iterator<Item = Range>) -> ConnId {
        let region = self.regions[rail];
        let slice = |(offset, length)| Slice { region, offset: offset as u64, len: length as u32 };
        self.slices.clear();
        self.slices.extend(ranges.map(slice));
        self.groups[group].conns[rail]
    }

    /// Sends `bytes` back, if there is room.
    pub(super) fn send_back(&mut self, group: usize, bytes: &[u8]) -> Result<bool, Failure> {
        let Some(slot) = self.groups[group].backs.take(group) else { return Ok(false) };
        self.back_memory.copy_in(slot.offset(), bytes).map_err(|error| Failure::new(error.to_string()))?;
        let from = [self.back_slice(slot, bytes.len())];
        self.submit_back(slot, Op::Send { token: slot.to_token(), from: &from })
    }

    /// Receives the next message back, for which there is room: one has ended, or none was received yet.
    pub(super) fn recv_back(&mut self, group: usize) -> Result<(), Failure> {
        if self.try_recv_back(group)? {
            return Ok(());
        }
        Err(Failure::new("a connection takes no receive of a message back"))
    }

    fn try_recv_back(&mut self, group: usize) -> Result<bool, Failure> {
        let Some(slot) = self.groups[group].backs.take(group) else { return Ok(false) };
        let into = [self.back_slice(slot, BACK_BYTES)];
        self.submit_back(slot, Op::Recv { token: slot.to_token(), into: &into })
    }

    const fn back_slice(&self, slot: BackSlot, len: usize) -> Slice {
        Slice { region: self.back_region, offset: slot.offset() as u64, len: len as u32 }
    }

    fn submit_back(&mut self, slot: BackSlot, op: Op<'_>) -> Result<bool, Failure> {
        let conn = self.groups[slot.group].conns[0];
        let accepted = self.transport.submit(conn, &[op]);
        let posted = self.accepted(conn, accepted)?;
        if !posted {
            self.groups[slot.group].backs.give(slot);
        }
        Ok(posted)
    }

    /// Whether no message back of a group is under way.
    pub(super) fn backs_are_over(&self, group: usize) -> bool {
        self.groups[group].backs.is_empty()
    }

    /// Reads what arrived in this place, before another message is received there.
    pub(super) fn read_back(&self, slot: BackSlot, bytes: &mut [u8]) -> Result<(), Failure> {
        let read = self.back_memory.copy_out(slot.offset(), bytes);
        read.map_err(|error| Failure::new(error.to_string()))
    }

    /// Checks the length with which a message of `size` bytes arrived where there was room for `posted`.
    pub(super) fn whole(&self, len: u32, size: usize, posted: usize) -> Result<(), Failure> {
        let len = len as usize;
        // A transport that does not check lengths says what was posted.
        if len == size || (len == posted && !self.checks_length()) {
            return Ok(());
        }
        Err(Failure::new(format!("WRONG DATA: {len} bytes arrived of a message of {size}")))
    }

    fn checks_length(&self) -> bool {
        let first = self.groups.first().and_then(|group| group.conns.first());
        first.and_then(|conn| self.transport.limits(*conn)).is_none_or(|limits| limits.checks_length)
    }

    fn accepted(&self, conn: ConnId, accepted: Accepted) -> Result<bool, Failure> {
        match accepted.stopped {
            None => Ok(true),
            Some(Stop::Busy) => Ok(false),
            Some(Stop::Closed) => Err(self.lost(conn)),
        }
    }

    fn lost(&self, conn: ConnId) -> Failure {
        let why = self.transport.why(conn);
        Failure::peer(why.map_or_else(|| "the connection is closed".to_owned(), Error::to_string))
    }

    /// Does work until it is over, asleep while nothing moves.
    pub(super) fn drive(&mut self, work: &mut impl Work) -> Result<(), Failure> {
        loop {
            work.submit(self)?;
            if work.is_over(self) {
                return Ok(());
            }
            self.wait(work)?;
        }
    }

    /// Does work until it is over, without ever sleeping.
    pub(super) fn drive_awake(&mut self, work: &mut impl Work) -> Result<(), Failure> {
        let mut begin = self.now();
        let mut polls = 0_u32;
        loop {
            work.submit(self)?;
            if work.is_over(self) {
                return Ok(());
            }
            let (_, moved) = self.poll(work)?;
            polls += 1;
            if moved {
                polls = 0;
                begin = self.now();
            } else if polls.is_multiple_of(POLLS) && self.now() - begin > SILENCE {
                return Err(silent());
            }
        }
    }

    /// Sleeps until something moved. An error if nothing does for [`SILENCE`].
    fn wait(&mut self, work: &mut impl Work) -> Result<(), Failure> {
        let begin = self.now();
        loop {
            let (next, moved) = self.poll(work)?;
            if moved {
                return Ok(());
            }
            match next {
                Next::Again => {}
                Next::Spin => thread::yield_now(),
                Next::Wait(until) | Next::Idle(until) => self.sleep(until)?,
            }
            if self.now() - begin > SILENCE {
                return Err(silent());
            }
        }
    }

    /// Polls once, and says whether there was an event.
    pub(super) fn poll(&mut self, work: &mut impl Work) -> Result<(Next, bool), Failure> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        let next = self.transport.poll(self.clock.now(), &mut events);
        let moved = !events.as_slice().is_empty();
        for event in events.drain() {
            self.take(work, event)?;
        }
        self.events = events;
        Ok((next, moved))
    }

    fn take(&mut self, work: &mut impl Work, event: Event) -> Result<(), Failure> {
        match event {
            Event::Connected(_) => self.open += 1,
            Event::Completed { .. } | Event::Closed(_) if self.closing => {
                self.open -= usize::from(matches!(event, Event::Closed(_)));
            }
            Event::Closed(conn) => return Err(self.lost(conn)),
            Event::Completed { conn, token, outcome } => match outcome {
                Outcome::Done { len } => {
                    let Some(slot) = BackSlot::of(token) else {
                        return work.message_ended(self, token.0, len);
                    };
                    self.groups[slot.group].backs.give(slot);
                    return work.back_ended(self, slot, len);
                }
                Outcome::ConnLost => return Err(self.lost(conn)),
                Outcome::Failed(OpFault::Truncated) => {
                    return Err(Failure::new("WRONG DATA: a message is longer than was agreed"));
                }
                Outcome::Failed(fault) => return Err(Failure::new(fault.to_string())),
                Outcome::Cancelled => return Err(Failure::new("an operation was withdrawn by nobody")),
                _ => return Err(Failure::new("an operation ended in an unknown way")),
            },
            // Nothing is retired, and nothing is written one-sidedly.
            Event::Retired(_) | Event::Notified { .. } | _ => {}
        }
        Ok(())
    }

    fn sleep(&self, until: Option<Now>) -> Result<(), Failure> {
        let left = until.map_or(LONGEST_SLEEP, |until| until.0.saturating_sub(self.now()));
        let left = left.min(LONGEST_SLEEP);
        let Some(file) = self.transport.wait_fd() else {
            thread::sleep(left.min(BLIND_SLEEP));
            return Ok(());
        };
        let time = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Failure::new(format!("sleeping: {error}"))),
        }
    }

    /// Begins to close all connections; [`Closing`] waits for the end.
    pub(super) fn close(&mut self) {
        self.closing = true;
        for conn in self.groups.iter().flat_map(|group| &group.conns) {
            // One that the other end has closed already is closed as well.
            let _ = self.transport.close(*conn);
        }
    }
}

/// Waits until every connection is open.
pub(super) struct Opening;

impl Work for Opening {
    fn is_over(&self, link: &Link) -> bool {
        link.open == link.groups.len() * link.rails.len()
    }
}

/// Waits until every connection is closed.
pub(super) struct Closing;

impl Work for Closing {
    fn is_over(&self, link: &Link) -> bool {
        link.open == 0
    }
}

fn silent() -> Failure {
    let text =
        format!("nothing moved for {} s: the other end is stopped or its host is gone", SILENCE.as_secs());
    Failure::peer(text)
}
