//! What both ends share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use p2p_conformance::HarnessFault;
use p2p_memory::HostView;
use p2p_transport::{
    ConnId, Error, ErrorKind, Event, Limits, ListenerId, OpFault, Outcome, RegionId, Regions, Slab, Slice,
    Token,
};

use super::Bug;

/// Slices that an operation can hold.
const MOST: usize = 4;
const SEGMENT: usize = 4096;
/// Microseconds.
const CONNECT: u64 = 300;
const HANGUP: u64 = 2;
/// Runs of all worlds, which no world should know of.
static RUNS: AtomicU64 = AtomicU64::new(0);

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) bug: Bug,
    pub(crate) limits: Limits,
    pub(crate) ends: [End; 2],
    pub(crate) work: u64,
    pub(crate) next_address: u64,
    pub(crate) fail_registration: [bool; 2],
    random: u64,
}

pub(crate) struct End {
    pub(crate) alive: bool,
    pub(crate) regions: Regions<()>,
    pub(crate) region_ids: Vec<RegionId>,
    pub(crate) listeners: Slab<ListenerId, u64>,
    pub(crate) conns: Slab<ConnId, Conn>,
    pub(crate) queue: VecDeque<Report>,
    pub(crate) reasons: Vec<(ConnId, Error)>,
}

pub(crate) enum Report {
    Plain(Event),
    Ended { conn: ConnId, send: bool, op: Oper, outcome: Outcome },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Waits for whoever connects to this address.
    Accepting(u64),
    Connecting(u64),
    Up,
    /// `Closed` is queued.
    Ended,
}

pub(crate) struct Conn {
    pub(crate) state: State,
    pub(crate) since: u64,
    pub(crate) peer: Option<ConnId>,
    pub(crate) sends: VecDeque<Oper>,
    pub(crate) recvs: VecDeque<Oper>,
    /// Complete messages, and when they are reported.
    pub(crate) arriving: VecDeque<(u64, Oper, u32)>,
    pub(crate) used: [usize; 2],
    pub(crate) was_full: bool,
    pub(crate) hangup: Option<u64>,
    pub(crate) closed_here: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct Oper {
    pub(crate) token: Token,
    slices: [Option<Slice>; MOST],
    pub(crate) len: u32,
    pub(crate) done: usize,
    pub(crate) reported: bool,
    pub(crate) swallows: bool,
}

impl Oper {
    pub(crate) fn new(token: Token, slices: &[Slice], len: u32) -> Self {
        let mut held = [None; MOST];
        for (to, slice) in held.iter_mut().zip(slices) {
            *to = Some(*slice);
        }
        Self { token, slices: held, len, done: 0, reported: false, swallows: false }
    }

    pub(crate) fn slices(&self) -> impl Iterator<Item = Slice> {
        self.slices.into_iter().flatten()
    }

    /// Where byte `at` of the message lies: offset in its region, bytes from there to the slice's end.
    fn place(&self, at: usize, empty_ends: bool) -> Option<(Slice, usize, usize)> {
        let mut left = at;
        for slice in self.slices() {
            if slice.len == 0 && empty_ends {
                return None;
            }
            if left < slice.len as usize {
                return Some((slice, slice.offset as usize + left, slice.len as usize - left));
            }
            left -= slice.len as usize;
        }
        None
    }
}

impl World {
    pub(crate) fn new(seed: u64, bug: Bug, limits: Limits) -> Self {
        let runs = RUNS.fetch_add(1, Relaxed);
        let random = if bug == Bug::NotSeeded { runs } else { seed };
        let end = || End {
            alive: true,
            regions: Regions::new(),
            region_ids: Vec::new(),
            listeners: Slab::new(),
            conns: Slab::new(),
            queue: VecDeque::with_capacity(2000),
            reasons: Vec::new(),
        };
        let ends = [end(), end()];
        Self { now: 0, bug, limits, ends, work: 0, next_address: 1, fail_registration: [false; 2], random }
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    pub(crate) fn inject(&mut self, fault: HarnessFault) -> bool {
        match fault {
            HarnessFault::CutLink => {
                let at = Some(self.now + HANGUP);
                for end in &mut self.ends {
                    end.conns.iter_mut().for_each(|(_, conn)| conn.hangup = at);
                }
                true
            }
            HarnessFault::FailRegistration { end } => {
                self.fail_registration[end] = true;
                true
            }
            // The suite drops it right afterwards, which says nothing to anybody.
            HarnessFault::KillPeer { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn add_conn(&mut self, end: usize, state: State) -> ConnId {
        let (sends, recvs) = (usize::from(self.limits.max_sends) + 2, usize::from(self.limits.max_recvs) + 2);
        self.ends[end].conns.insert(Conn {
            state,
            since: self.now,
            peer: None,
            sends: VecDeque::with_capacity(sends),
            recvs: VecDeque::with_capacity(recvs),
            arriving: VecDeque::with_capacity(recvs),
            used: [0; 2],
            was_full: false,
            hangup: None,
            closed_here: false,
        })
    }

    pub(crate) fn progress(&mut self, end: usize) {
        for index in 0..self.ends[end].conns.positions() {
            let Some(id) = self.ends[end].conns.id_at(index) else { continue };
            let Some(conn) = self.ends[end].conns.get(id) else { continue };
            match conn.state {
                State::Accepting(_) => self.wait(end, id),
                State::Connecting(address) => self.meet(end, id, address),
                State::Up => self.advance(end, id),
                State::Ended => {}
            }
        }
    }

    fn wait(&mut self, end: usize, id: ConnId) {
        let bug = self.bug;
        let Some(conn) = self.ends[end].conns.get(id) else { return };
        if self.now > conn.since + CONNECT && bug != Bug::WaitsForEver {
            self.end(end, id, Some("nobody came"));
        }
    }

    fn meet(&mut self, end: usize, id: ConnId, address: u64) {
        let other = 1 - end;
        let waiting = self.ends[other].conns.iter();
        let found =
            waiting.filter(|(_, conn)| conn.state == State::Accepting(address)).map(|(id, _)| id).next();
        let listened = self.ends[other].listeners.iter().any(|(_, at)| *at == address);
        let Some(conn) = self.ends[end].conns.get(id) else { return };
        let late = self.now > conn.since + CONNECT;
        match found {
            Some(peer) if self.now > conn.since + 5 => {
                for (end, id, peer) in [(end, id, peer), (other, peer, id)] {
                    if let Some(conn) = self.ends[end].conns.get_mut(id) {
                        (conn.state, conn.peer) = (State::Up, Some(peer));
                    }
                    self.ends[end].queue.push_back(Report::Plain(Event::Connected(id)));
                }
            }
            None if !listened || late => self.end(end, id, Some("nobody listens there")),
            _ => {}
        }
    }

    /// Moves what can be moved on one connection.
    fn advance(&mut self, end: usize, id: ConnId) {
        let mut budget = if self.has(Bug::PollsAll) { usize::MAX } else { 4 };
        while budget > 0 && self.segment(end, id) {
            budget = budget.saturating_sub(1);
        }
        self.deliver(end, id, false);
        let Some(conn) = self.ends[end].conns.get(id) else { return };
        if conn.hangup.is_some_and(|at| self.now >= at) {
            let idle = conn.sends.is_empty() && conn.recvs.is_empty();
            let peer_lives = self.ends[1 - end].alive;
            let unseen =
                idle && ((self.has(Bug::IdleDeath) && !peer_lives) || self.has(Bug::NoClosedWhenIdle));
            if !unseen {
                self.end(end, id, Some("the peer closed the connection, or is gone"));
            }
        }
    }

    /// Reports receives whose time has come.
    fn deliver(&mut self, end: usize, id: ConnId, all: bool) {
        let now = self.now;
        let fifo = self.limits.fifo && self.bug != Bug::ShortFirst;
        while let Some(conn) = self.ends[end].conns.get_mut(id) {
            let due = |(at, _, _): &(u64, Oper, u32)| all || *at <= now;
            let index = if fifo {
                conn.arriving.front().is_some_and(due).then_some(0)
            } else {
                conn.arriving.iter().position(due)
            };
            let Some((_, op, len)) = index.and_then(|index| conn.arriving.remove(index)) else { break };
            self.finish(end, id, false, op, Outcome::Done { len });
        }
    }

    pub(crate) fn finish(&mut self, end: usize, conn: ConnId, send: bool, op: Oper, outcome: Outcome) {
        self.work += 1;
        if self.has(Bug::LosesEmpty) && send && op.len == 0 && op.slices().next().is_some() {
            return;
        }
        self.ends[end].queue.push_back(Report::Ended { conn, send, op, outcome });
        if self.has(Bug::CompletesTwice) && self.work.is_multiple_of(16) {
            let again = Event::Completed { conn, token: op.token, outcome };
            self.ends[end].queue.push_back(Report::Plain(again));
        }
    }

    /// Moves one segment of the oldest send to the oldest receive of the peer.
    fn segment(&mut self, end: usize, id: ConnId) -> bool {
        let other = 1 - end;
        let bug = self.bug;
        let checks = self.limits.checks_length;
        let Some(peer) = self.ends[end].conns.get(id).and_then(|conn| conn.peer) else { return false };
        let [first, second] = &mut self.ends;
        let (from, to) = if end == 0 { (first, second) } else { (second, first) };
        let (Some(conn), Some(there)) = (from.conns.get_mut(id), to.conns.get_mut(peer)) else {
            return false;
        };
        if there.state != State::Up || (bug == Bug::SendsFirst && !there.sends.is_empty()) {
            return false;
        }
        if bug == Bug::NewestFirst && there.recvs.len() > 1 && there.recvs.iter().all(|recv| recv.done == 0) {
            let last = there.recvs.len() - 1;
            there.recvs.swap(0, last);
        }
        let (Some(send), Some(recv)) = (conn.sends.front_mut(), there.recvs.front_mut()) else {
            return false;
        };
        self.work += 1;
        if recv.swallows {
            let send = *send;
            conn.sends.pop_front();
            there.recvs.pop_front();
            self.finish(end, id, true, send, Outcome::Done { len: send.len });
            return true;
        }
        if send.len > recv.len && checks && bug != Bug::TruncatesSilently && bug != Bug::Overruns {
            let (mut sent, recv) = (*send, *recv);
            there.recvs.pop_front();
            if bug == Bug::TruncatedKeeps && sent.len > 1 {
                sent.len = recv.len.min(sent.len - 1);
                *send = sent;
            } else {
                conn.sends.pop_front();
                self.finish(end, id, true, sent, Outcome::Done { len: sent.len });
            }
            self.finish(other, peer, false, recv, Outcome::Failed(OpFault::Truncated));
            return true;
        }
        let total = if bug == Bug::Overruns { send.len } else { send.len.min(recv.len) } as usize;
        let last = send.done + SEGMENT >= total;
        let mut copied = false;
        if !(bug == Bug::DoneBeforeLast && last && total > SEGMENT) {
            let step = SEGMENT.min(total - send.done);
            copy(bug, from, to, id, peer, step);
            copied = true;
        }
        let Some(conn) = self.ends[end].conns.get_mut(id) else { return false };
        let Some(send) = conn.sends.front_mut() else { return false };
        send.done = (send.done + SEGMENT).min(total.max(1));
        let (sent, early) = (*send, bug == Bug::SendDoneEarly && !last && !send.reported);
        if early {
            send.reported = true;
        }
        if last {
            conn.sends.pop_front();
        }
        if early {
            self.finish(end, id, true, sent, Outcome::Done { len: sent.len });
        }
        let jitter = if self.limits.fifo && bug != Bug::NotSeeded && bug != Bug::ShortFirst {
            3
        } else {
            1 + self.draw(8)
        };
        let at = self.now + jitter;
        let Some(there) = self.ends[other].conns.get_mut(peer) else { return false };
        let Some(recv) = there.recvs.front_mut() else { return false };
        recv.done = sent.done.max(1);
        if last {
            let recv = *recv;
            there.recvs.pop_front();
            let len = if checks { total as u32 } else { recv.len };
            let at = if copied { at } else { self.now };
            there.arriving.push_back((at, recv, len));
            if bug == Bug::ReadySource {
                self.ends[end].regions.release(&sent.slices().collect::<Vec<_>>(), Regions::ready);
            }
            if bug == Bug::ClearsSource {
                clear(&self.ends[end], sent);
            }
            if !sent.reported {
                self.finish(end, id, true, sent, Outcome::Done { len: sent.len });
            }
            return true;
        }
        true
    }

    /// Ends a connection: what is complete is reported, all else is lost.
    pub(crate) fn end(&mut self, end: usize, id: ConnId, reason: Option<&str>) {
        let bug = self.bug;
        let forgetful = self.ends[end].conns.get_mut(id).filter(|_| bug == Bug::LastMessageLost);
        if let Some(conn) = forgetful {
            while let Some((_, op, _)) = conn.arriving.pop_back() {
                conn.recvs.push_front(op);
            }
        }
        self.deliver(end, id, true);
        let now = self.now;
        let Some(conn) = self.ends[end].conns.get_mut(id) else { return };
        let dead = reason.is_some() && bug == Bug::DeathSpares;
        let peer = conn.peer;
        conn.state = State::Ended;
        let mut lost = 0;
        while let Some((send, op)) = self.ends[end].conns.get_mut(id).and_then(pop) {
            lost += 1;
            let spared = dead && !send;
            if !(op.reported || op.swallows || spared) {
                self.finish(end, id, send, op, Outcome::ConnLost);
            }
        }
        let queue = &mut self.ends[end].queue;
        let closed = Report::Plain(Event::Closed(id));
        if !(dead && lost > 0) {
            if bug == Bug::ClosedBeforeLast && lost > 1 {
                queue.insert(queue.len() - 1, closed);
            } else {
                queue.push_back(closed);
            }
        }
        let reason = reason.or((bug == Bug::WhyAtCloser).then_some("closed here"));
        if let Some(reason) = reason.filter(|_| bug != Bug::NoReason) {
            self.ends[end].reasons.push((id, Error::new(ErrorKind::Conn, "poll", reason)));
        }
        if let Some(peer) = peer.and_then(|peer| self.ends[1 - end].conns.get_mut(peer)) {
            peer.hangup.get_or_insert(now + HANGUP);
        }
    }

    /// An end goes away.
    pub(crate) fn leave(&mut self, end: usize) {
        let now = self.now;
        let connecting =
            self.ends[end].conns.iter().any(|(_, conn)| matches!(conn.state, State::Connecting(_)));
        let used =
            self.ends[end].conns.iter().any(|(_, conn)| !conn.recvs.is_empty() || !conn.sends.is_empty());
        let peers: Vec<ConnId> = self.ends[end].conns.iter().filter_map(|(_, conn)| conn.peer).collect();
        for peer in peers {
            if let Some(conn) = self.ends[1 - end].conns.get_mut(peer) {
                conn.hangup.get_or_insert(now + HANGUP);
                if self.bug == Bug::WritesOn {
                    conn.hangup = Some(now + 100);
                }
            }
        }
        self.ends[end].alive = false;
        let leaks = (self.has(Bug::LeaksUsed) && used) || (self.has(Bug::LeaksConnecting) && connecting);
        let this = &mut self.ends[end];
        if leaks {
            let regions: Vec<RegionId> = this.regions.iter().map(|(id, ())| id).collect();
            for region in regions {
                this.regions.leak(region);
            }
        }
        if self.bug == Bug::WritesOn && used {
            return;
        }
        let this = &mut self.ends[end];
        this.regions = Regions::new();
        this.conns = Slab::new();
        this.listeners = Slab::new();
    }
}

fn pop(conn: &mut Conn) -> Option<(bool, Oper)> {
    let recv = conn.recvs.pop_front().map(|op| (false, op));
    recv.or_else(|| conn.sends.pop_front().map(|op| (true, op)))
}

fn clear(end: &End, op: Oper) {
    for slice in op.slices() {
        if let Some(view) = end.regions.memory(slice.region).and_then(HostView::of) {
            let _ = view.copy_in(slice.offset as usize, &vec![0; slice.len as usize]);
        }
    }
}

/// Copies `step` bytes of the message at the head of `id` to the receive at the head of `peer`.
fn copy(bug: Bug, from: &End, to: &End, id: ConnId, peer: ConnId, step: usize) {
    let (Some(conn), Some(there)) = (from.conns.get(id), to.conns.get(peer)) else { return };
    let (Some(send), Some(recv)) = (conn.sends.front(), there.recvs.front()) else { return };
    let mut done = 0;
    while done < step {
        let at = send.done + done;
        let Some((source, out, left)) = send.place(at, bug == Bug::EmptySliceEnds) else { return };
        let past = || recv.slices().last().map(|slice| (slice, slice.offset as usize + at, step - done));
        let place = recv.place(at, bug == Bug::EmptySliceEnds);
        let Some((target, into, space)) = place.or_else(|| if bug == Bug::Overruns { past() } else { None })
        else {
            return;
        };
        let length = left.min(space).min(step - done);
        let views = (from.regions.memory(source.region), to.regions.memory(target.region));
        let (Some(read), Some(write)) = (views.0.and_then(HostView::of), views.1.and_then(HostView::of))
        else {
            return;
        };
        let out = if bug == Bug::ScatterRestarts && into == target.offset as usize {
            send.slices().next().map_or(out, |slice| slice.offset as usize)
        } else {
            out
        };
        let whole = if bug == Bug::RoundsUp { length.next_multiple_of(8) } else { length };
        if read.copy_to(out, &write, into, whole).is_err() {
            let _ = read.copy_to(out, &write, into, length);
        }
        if bug == Bug::FillsGaps && length == space {
            let _ = write.copy_in(into + length, &[0]);
        }
        done += length;
    }
}
