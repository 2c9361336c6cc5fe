//! Control streams of a world.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use p2p_transport::{Control, ControlEvent, DoorId, Error, ErrorKind, Now, Received, Slab, StreamId};

use crate::World;
use crate::fault::FaultKind;
use crate::planted::Planted;
use crate::state::{CODE_BROKEN, CODE_REFUSED, Nanos, State, What, nanos};

/// Time a control byte takes, in nanoseconds, apart from faults: a slower network than the data's.
const LATENCY: Nanos = 20_000;
/// Longest further wait of a piece, in nanoseconds.
const SPREAD: u64 = 10_000;
/// First port that the system chooses.
const FIRST_PORT: u16 = 40_000;
/// Ports that the system chooses from.
const PORTS: u16 = 20_000;

/// All control streams, and who has them.
#[derive(Default)]
pub(crate) struct Streams {
    owners: Vec<Owner>,
    streams: Vec<Stream>,
    next_port: u16,
}

impl Streams {
    /// The next port of the system's choice.
    const fn port(&mut self) -> u16 {
        let port = FIRST_PORT + self.next_port;
        self.next_port = (self.next_port + 1) % PORTS;
        port
    }

    fn has_door(&self, at: SocketAddr) -> bool {
        self.owners.iter().flat_map(|owner| owner.doors.iter()).any(|(_, door)| door.at == at)
    }
}

struct Owner {
    node: usize,
    doors: Slab<DoorId, Door>,
    ids: Slab<StreamId, (usize, usize)>,
    events: VecDeque<(Nanos, ControlEvent, Option<Error>)>,
}

struct Door {
    at: SocketAddr,
    came: VecDeque<usize>,
}

struct Stream {
    /// Owner of each end; that of the second is known when its door is found.
    owners: [Option<usize>; 2],
    ids: [Option<StreamId>; 2],
    ends: [SocketAddr; 2],
    nodes: [Option<usize>; 2],
    open: [bool; 2],
    /// A side that has been told.
    broken: [bool; 2],
    dead: bool,
    /// What each side sent.
    pipes: [Pipe; 2],
}

#[derive(Default)]
struct Pipe {
    flying: VecDeque<u8>,
    ready: VecDeque<u8>,
    last: Nanos,
    /// The sender wants to know when there is room.
    wants: bool,
    /// The sender closed, and the receiver has reached the end.
    ended: bool,
}

impl Pipe {
    fn len(&self) -> usize {
        self.flying.len() + self.ready.len()
    }
}

const fn ip_of(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, (node >> 16) as u8, (node >> 8) as u8, node as u8))
}

impl State {
    fn tell(&mut self, owner: Option<usize>, event: ControlEvent, why: Option<Error>) {
        let now = self.now;
        let Some(owner) = owner.and_then(|owner| self.streams.owners.get_mut(owner)) else { return };
        if !owner.events.iter().any(|(_, queued, _)| *queued == event) {
            owner.events.push_back((now, event, why));
        }
    }

    fn tell_side(&mut self, stream: usize, side: usize, event: fn(StreamId) -> ControlEvent) {
        let known = &self.streams.streams[stream];
        if let (Some(id), true) = (known.ids[side], known.open[side]) {
            let owner = known.owners[side];
            self.tell(owner, event(id), None);
        }
    }

    pub(crate) fn stream_knock(&mut self, stream: usize) {
        let known = &self.streams.streams[stream];
        if known.dead || !known.open[0] {
            return;
        }
        let to = known.ends[1];
        let found = self.streams.owners.iter().enumerate().find_map(|(owner, had)| {
            let door = had.doors.iter().find(|(_, door)| door.at == to)?.0;
            Some((owner, had.node, door))
        });
        let Some((owner, node, door)) = found else {
            self.after(LATENCY, What::StreamBroken { stream, side: 0 });
            return;
        };
        let known = &mut self.streams.streams[stream];
        (known.owners[1], known.nodes[1]) = (Some(owner), Some(node));
        if let Some(door) = self.streams.owners[owner].doors.get_mut(door) {
            door.came.push_back(stream);
        }
        self.tell(Some(owner), ControlEvent::Knocked(door), None);
        self.after(LATENCY, What::StreamOpened { stream });
    }

    pub(crate) fn stream_opened(&mut self, stream: usize) {
        let known = &mut self.streams.streams[stream];
        if !known.dead && known.ids[0].is_some() {
            known.open[0] = true;
            self.tell_side(stream, 0, ControlEvent::Opened);
        }
    }

    /// Bytes that `side` sent arrive at its peer.
    pub(crate) fn stream_bytes(&mut self, stream: usize, side: usize, bytes: usize, data: u64) {
        if data < self.arrived {
            self.strikes.count(FaultKind::LateControl);
        }
        let lost = self.strikes_planted(Planted::ControlLost, 40);
        let known = &mut self.streams.streams[stream];
        if known.dead {
            return;
        }
        let pipe = &mut known.pipes[side];
        let bytes = bytes.min(pipe.flying.len());
        let mut moved: VecDeque<u8> = pipe.flying.drain(..bytes).collect();
        if lost {
            moved.pop_back();
        }
        let listens = known.open[1 - side] || known.ids[1 - side].is_none();
        if listens {
            known.pipes[side].ready.append(&mut moved);
            self.tell_side(stream, 1 - side, ControlEvent::Readable);
        }
        self.room_again(stream, side);
    }

    fn room_again(&mut self, stream: usize, side: usize) {
        let most = self.settings.control_buffer;
        let pipe = &mut self.streams.streams[stream].pipes[side];
        if pipe.wants && pipe.len() < most {
            pipe.wants = false;
            self.tell_side(stream, side, ControlEvent::Writable);
        }
    }

    pub(crate) fn stream_end(&mut self, stream: usize, side: usize) {
        self.streams.streams[stream].pipes[side].ended = true;
        self.tell_side(stream, 1 - side, ControlEvent::Readable);
    }

    pub(crate) fn stream_broken(&mut self, stream: usize, side: usize) {
        let known = &mut self.streams.streams[stream];
        if std::mem::replace(&mut known.broken[side], true) {
            return;
        }
        let refused = known.owners[1].is_none();
        let to = known.ends[1];
        if let Some(id) = known.ids[side] {
            let owner = known.owners[side];
            known.open[side] = false;
            known.dead |= refused;
            let error = if refused {
                Error::new(ErrorKind::Conn, "connect", format!("nobody listens at {to}"))
                    .with_code(CODE_REFUSED)
            } else {
                Error::new(ErrorKind::Conn, "poll", "the control stream broke: open a new one")
                    .with_code(CODE_BROKEN)
            };
            self.tell(owner, ControlEvent::Broken(id), Some(error));
        }
    }

    /// A stream breaks; both ends hear of it, each in its own time.
    pub(crate) fn kill_stream(&mut self, stream: usize) {
        let count = self.streams.streams.len();
        if count > 0 && self.break_stream(stream % count) {
            self.strikes.count(FaultKind::ControlDeath);
        }
    }

    fn break_stream(&mut self, stream: usize) -> bool {
        let known = &mut self.streams.streams[stream];
        if known.dead || known.owners[1].is_none() || known.ids.iter().all(Option::is_none) {
            return false;
        }
        known.dead = true;
        known.open = [false; 2];
        for side in 0..2 {
            let wait = self.random.between(0, nanos(self.settings.death_bound));
            self.after(wait, What::StreamBroken { stream, side });
        }
        true
    }

    /// All streams and doors of a node are gone; true if there were any.
    pub(crate) fn kill_streams_of(&mut self, node: usize) -> bool {
        let mut any = false;
        for stream in 0..self.streams.streams.len() {
            if self.streams.streams[stream].nodes.contains(&Some(node)) {
                any |= self.break_stream(stream);
            }
        }
        for owner in self.streams.owners.iter_mut().filter(|owner| owner.node == node) {
            let doors: Vec<DoorId> = owner.doors.iter().map(|(id, _)| id).collect();
            any |= !doors.is_empty();
            for door in doors {
                owner.doors.remove(door);
            }
        }
        any
    }

    /// Bytes leave, in one piece or cut, each piece in its own time and none before an earlier one.
    fn stream_send(&mut self, stream: usize, side: usize, bytes: &[u8]) -> usize {
        let most = self.settings.control_buffer;
        let known = &mut self.streams.streams[stream];
        if known.dead || !known.open[side] {
            return 0;
        }
        let pipe = &mut known.pipes[side];
        let taken = bytes.len().min(most.saturating_sub(pipe.len()));
        pipe.wants |= taken < bytes.len();
        pipe.flying.extend(&bytes[..taken]);
        let node = known.nodes[side].unwrap_or(0);
        let (split, late) = (self.nodes[node].split_control, self.nodes[node].late_control);
        let split = split.until > self.now;
        let mut left = taken;
        while left > 0 {
            let piece = if split { 1 } else { self.random.between(1, left as u64 * 2) as usize };
            let piece = piece.min(left);
            left -= piece;
            if split && left > 0 {
                self.strikes.count(FaultKind::SplitControl);
            }
            let mut wait = LATENCY + self.random.between(0, SPREAD);
            let mut data = u64::MAX;
            if late.until > self.now && late.measure > 0 {
                wait += self.random.between(1, late.measure);
                data = self.arrived;
            }
            let now = self.now;
            let pipe = &mut self.streams.streams[stream].pipes[side];
            pipe.last = pipe.last.max(now.saturating_add(wait));
            let at = pipe.last;
            self.at(at, What::StreamBytes { stream, side, bytes: piece, data });
        }
        taken
    }

    fn stream_close(&mut self, stream: usize, side: usize) {
        let known = &mut self.streams.streams[stream];
        (known.ids[side], known.open[side]) = (None, false);
        known.pipes[1 - side].ready.clear();
        let at = known.pipes[side].last;
        self.at(at, What::StreamEnd { stream, side });
        if self.streams.streams[stream].owners[1].is_none() {
            self.streams.streams[stream].dead = true;
        }
    }
}

/// Control streams in a simulated world. Dropping it closes its streams and doors.
#[derive(Debug)]
pub struct MockControl {
    world: World,
    owner: usize,
    node: usize,
    whys: Vec<(StreamId, Error)>,
}

impl MockControl {
    pub(crate) fn new(world: World, node: usize) -> Self {
        let mut state = world.state();
        let (doors, ids, events) = (Slab::new(), Slab::new(), VecDeque::new());
        state.streams.owners.push(Owner { node, doors, ids, events });
        let owner = state.streams.owners.len() - 1;
        drop(state);
        Self { world, owner, node, whys: Vec::new() }
    }

    fn side(&self, state: &State, stream: StreamId) -> Option<(usize, usize)> {
        state.streams.owners[self.owner].ids.get(stream).copied()
    }
}

impl Control for MockControl {
    fn listen(&mut self, at: SocketAddr) -> Result<DoorId, Error> {
        let ours = at.ip().is_unspecified() || at.ip().is_loopback() || at.ip() == ip_of(self.node);
        if !ours {
            return Err(Error::misuse("listen", format!("{at} is no address of this node")));
        }
        let mut state = self.world.state();
        let streams = &mut state.streams;
        let own = ip_of(self.node);
        // Which port is asked for, or the next one that has no door.
        let tries = if at.port() == 0 { PORTS } else { 1 };
        let mut free = None;
        for _ in 0..tries {
            let port = if at.port() == 0 { streams.port() } else { at.port() };
            let at = SocketAddr::new(own, port);
            if !streams.has_door(at) {
                free = Some(at);
                break;
            }
        }
        let Some(at) = free else {
            let text = if at.port() == 0 {
                format!("no port of {own} is free")
            } else {
                format!("{own}:{} is in use", at.port())
            };
            return Err(Error::new(ErrorKind::Exhausted, "listen", text));
        };
        Ok(streams.owners[self.owner].doors.insert(Door { at, came: VecDeque::new() }))
    }

    fn local(&self, door: DoorId) -> Option<SocketAddr> {
        self.world.state().streams.owners[self.owner].doors.get(door).map(|door| door.at)
    }

    fn accept(&mut self, door: DoorId) -> Option<StreamId> {
        let mut state = self.world.state();
        let streams = &mut state.streams;
        let owner = &mut streams.owners[self.owner];
        let stream = owner.doors.get_mut(door)?.came.pop_front()?;
        let id = owner.ids.insert((stream, 1));
        let known = &mut streams.streams[stream];
        known.ids[1] = Some(id);
        known.open[1] = !known.dead;
        let (early, told) = (!known.pipes[0].ready.is_empty() || known.pipes[0].ended, known.broken[1]);
        if early {
            state.tell_side(stream, 1, ControlEvent::Readable);
        }
        if told {
            state.streams.streams[stream].broken[1] = false;
            state.stream_broken(stream, 1);
        }
        Some(id)
    }

    fn shut(&mut self, door: DoorId) {
        let mut state = self.world.state();
        if let Some(door) = state.streams.owners[self.owner].doors.remove(door) {
            for stream in door.came {
                state.break_stream(stream);
            }
        }
    }

    fn connect(&mut self, to: SocketAddr) -> Result<StreamId, Error> {
        if to.port() == 0 {
            return Err(Error::misuse("connect", format!("{to} has no port")));
        }
        let own = to.ip().is_unspecified() || to.ip().is_loopback();
        let to = SocketAddr::new(if own { ip_of(self.node) } else { to.ip() }, to.port());
        let mut state = self.world.state();
        let streams = &mut state.streams;
        let stream = streams.streams.len();
        let id = streams.owners[self.owner].ids.insert((stream, 0));
        let from = SocketAddr::new(ip_of(self.node), streams.port());
        streams.streams.push(Stream {
            owners: [Some(self.owner), None],
            ids: [Some(id), None],
            ends: [from, to],
            nodes: [Some(self.node), None],
            open: [true, false],
            broken: [false; 2],
            dead: false,
            pipes: Default::default(),
        });
        state.after(LATENCY, What::StreamKnock { stream });
        Ok(id)
    }

    fn ends(&self, stream: StreamId) -> Option<(SocketAddr, SocketAddr)> {
        let state = self.world.state();
        let (stream, side) = self.side(&state, stream)?;
        let known = &state.streams.streams[stream];
        let open = known.open[side] && known.owners[1].is_some() && !known.dead;
        open.then_some((known.ends[side], known.ends[1 - side]))
    }

    fn send(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let mut state = self.world.state();
        let Some((stream, side)) = self.side(&state, stream) else { return 0 };
        if state.streams.streams[stream].owners[1].is_none() {
            return 0;
        }
        state.stream_send(stream, side, bytes)
    }

    fn receive(&mut self, stream: StreamId, into: &mut [u8]) -> Received {
        let mut state = self.world.state();
        let Some((stream, side)) = self.side(&state, stream) else { return Received::Ended };
        let known = &mut state.streams.streams[stream];
        let pipe = &mut known.pipes[1 - side];
        let count = pipe.ready.len().min(into.len());
        if count == 0 || known.broken[side] {
            let over = pipe.ended || known.broken[side];
            return if over { Received::Ended } else { Received::Nothing };
        }
        for (byte, read) in into.iter_mut().zip(pipe.ready.drain(..count)) {
            *byte = read;
        }
        state.room_again(stream, 1 - side);
        Received::Bytes(count)
    }

    fn why(&self, stream: StreamId) -> Option<&Error> {
        self.whys.iter().find(|(known, _)| *known == stream).map(|(_, why)| why)
    }

    fn close(&mut self, stream: StreamId) {
        let mut state = self.world.state();
        if let Some((index, side)) = state.streams.owners[self.owner].ids.remove(stream) {
            state.stream_close(index, side);
            let concerns = |event: &ControlEvent| match *event {
                ControlEvent::Opened(id)
                | ControlEvent::Readable(id)
                | ControlEvent::Writable(id)
                | ControlEvent::Broken(id) => id == stream,
                ControlEvent::Knocked(_) | _ => false,
            };
            state.streams.owners[self.owner].events.retain(|(_, event, _)| !concerns(event));
            drop(state);
            self.whys.retain(|(known, _)| *known != stream);
        }
    }

    fn poll(&mut self, now: Now, room: usize, sink: &mut dyn FnMut(ControlEvent)) -> Option<Now> {
        let mut state = self.world.state();
        let until = nanos(now.0);
        let mut told = 0;
        let events = &mut state.streams.owners[self.owner].events;
        while events.front().is_some_and(|(at, ..)| *at <= until) {
            if told == room {
                return Some(now);
            }
            let Some((_, event, why)) = events.pop_front() else { break };
            if let (ControlEvent::Broken(stream), Some(why)) = (event, why) {
                self.whys.push((stream, why));
            }
            told += 1;
            sink(event);
        }
        let later = events.front().map(|(at, ..)| *at);
        let next = [later, state.next_time()].into_iter().flatten().min();
        next.map(|at| Now(std::time::Duration::from_nanos(at)))
    }
}

impl Drop for MockControl {
    fn drop(&mut self) {
        let ids: Vec<StreamId> =
            self.world.state().streams.owners[self.owner].ids.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.close(id);
        }
        let doors: Vec<DoorId> =
            self.world.state().streams.owners[self.owner].doors.iter().map(|(id, _)| id).collect();
        for door in doors {
            self.shut(door);
        }
    }
}
