//! Two transports, what was asked of them, and what they reported.

use std::any::{Any, TypeId};
use std::fmt::Arguments;
use std::ptr::NonNull;

use p2p_transport::{
    Accepted, ConnId, Event, Events, Limits, Memory, MemoryKind, Next, Now, Op, Outcome, RegionId, Slice,
    Stop, Token, Transport,
};

use crate::random::Random;
use crate::{Bounds, Harness, HarnessFault, Law, Probe};

/// Fails the law unless a condition holds; the rest says what was expected and what came.
macro_rules! require {
    ($rig:expr, $holds:expr, $($text:tt)+) => {
        if !$holds {
            $rig.fail(format_args!($($text)+))
        }
    };
}
pub(crate) use require;

mod time;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Send,
    Recv,
}

/// An accepted operation.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) end: usize,
    pub(crate) conn: ConnId,
    pub(crate) token: u64,
    pub(crate) side: Side,
    pub(crate) slices: Vec<Slice>,
    /// Whether its slices were all in live regions. One that ends `BadSlice` uses nothing, whenever it is
    /// reported.
    uses: bool,
    pub(crate) outcome: Option<Outcome>,
}

/// Registered memory, and how the test sees it.
pub(crate) struct Buffer {
    pub(crate) end: usize,
    pub(crate) region: RegionId,
    pub(crate) probe: Box<dyn Probe>,
    pub(crate) length: usize,
    identity: Identity,
    retiring: bool,
    pub(crate) retired: bool,
}

/// By what an owner is recognised.
#[derive(Debug, Eq, PartialEq)]
struct Identity {
    base: NonNull<u8>,
    length: usize,
    kind: MemoryKind,
    owner: TypeId,
}

impl Identity {
    fn of(memory: &dyn Memory) -> Self {
        let (base, length) = memory.span();
        let owner: &dyn Any = memory;
        Self { base, length, kind: memory.kind(), owner: owner.type_id() }
    }
}

impl Buffer {
    pub(crate) fn slice(&self, offset: usize, length: usize) -> Slice {
        Slice { region: self.region, offset: offset as u64, len: length as u32 }
    }

    pub(crate) fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.probe.read(offset, &mut bytes);
        bytes
    }
}

/// One end: `None` once it was dropped.
pub(crate) struct End {
    transport: Option<Box<dyn Transport>>,
    events: Events,
    /// Everything it reported, in order.
    pub(crate) log: Vec<Event>,
    /// Connections that may have events.
    open: Vec<ConnId>,
    pub(crate) next: Next,
}

pub(crate) struct Rig<'h> {
    pub(crate) harness: &'h mut dyn Harness,
    law: Law,
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) bounds: Bounds,
    pub(crate) now: Now,
    pub(crate) ends: [End; 2],
    conns: [Option<ConnId>; 2],
    pub(crate) works: Vec<Work>,
    pub(crate) buffers: Vec<Buffer>,
    next_token: u64,
    /// Parts of the law that the harness cannot do, and why.
    left_out: Vec<String>,
}

impl<'h> Rig<'h> {
    pub(crate) fn new(law: Law, harness: &'h mut dyn Harness, seed: u64) -> Self {
        let ends = harness.ends(seed).map(|transport| End {
            transport: Some(transport),
            events: Events::with_capacity(32),
            log: Vec::new(),
            open: Vec::new(),
            next: Next::Again,
        });
        let bounds = harness.bounds();
        let now = harness.step();
        Self {
            harness,
            law,
            seed,
            random: Random::new(seed),
            bounds,
            now,
            ends,
            conns: [None; 2],
            works: Vec::new(),
            buffers: Vec::new(),
            next_token: 1000,
            left_out: Vec::new(),
        }
    }

    /// Two new transports with nothing done yet; whatever the old ones reported is forgotten.
    pub(crate) fn renew(&mut self) {
        for end in 0..2 {
            self.drop_end(end);
        }
        self.buffers.clear();
        self.works.clear();
        for (end, transport) in self.harness.ends(self.seed).into_iter().enumerate() {
            self.ends[end].transport = Some(transport);
            self.ends[end].log.clear();
            self.ends[end].open.clear();
        }
        self.conns = [None; 2];
        self.now = self.harness.step();
    }

    #[track_caller]
    pub(crate) fn fail(&self, text: Arguments<'_>) -> ! {
        let (number, words, seed) = (self.law.number(), self.law.words(), self.seed);
        panic!(
            "law {number:02} broken ({words}): {text}; seed {seed}: {}={seed} replays it",
            crate::SEED_VARIABLE
        )
    }

    #[track_caller]
    pub(crate) fn transport(&mut self, end: usize) -> &mut dyn Transport {
        match &mut self.ends[end].transport {
            Some(transport) => &mut **transport,
            None => panic!("transport {end} was dropped by the test"),
        }
    }

    pub(crate) fn is_alive(&self, end: usize) -> bool {
        self.ends[end].transport.is_some()
    }

    /// Room for this many events in each poll from here on.
    pub(crate) fn room(&mut self, room: usize) {
        for end in &mut self.ends {
            end.events = Events::with_capacity(room);
        }
    }

    // Connections.

    /// Connects the two ends.
    #[track_caller]
    pub(crate) fn connect(&mut self) {
        self.start_connecting();
        self.until_connected();
    }

    /// Waits for what [`start_connecting`](Self::start_connecting) began.
    #[track_caller]
    pub(crate) fn until_connected(&mut self) {
        let bound = self.bounds.connect;
        self.until_with("both ends are Connected", bound, |rig| {
            rig.turn();
            for end in 0..2 {
                let closed = rig.is_closed(end) && !rig.is_connected(end);
                let conn = rig.conn(end);
                let why = if closed { rig.transport(end).why(conn).map(ToString::to_string) } else { None };
                require!(rig, !closed, "end {end}: expected Connected, and Closed came because of {why:?}");
            }
            rig.is_connected(0) && rig.is_connected(1)
        });
    }

    /// Listens, accepts and connects, and does not wait for it.
    #[track_caller]
    pub(crate) fn start_connecting(&mut self) {
        let rails = [self.harness.rail(0), self.harness.rail(1)];
        let (listener, address) = match self.transport(0).listen(rails[0]) {
            Ok(listening) => listening,
            Err(error) => self.fail(format_args!("expected listen to work, and it said: {error}")),
        };
        let conns = [self.transport(0).accept(listener), self.transport(1).connect(rails[1], &address)];
        for (end, conn) in conns.into_iter().enumerate() {
            match conn {
                Ok(conn) => self.adopt(end, conn),
                Err(error) => self.fail(format_args!("expected end {end} to start connecting: {error}")),
            }
        }
    }

    /// From here on `conn` is the connection of this end.
    pub(crate) fn adopt(&mut self, end: usize, conn: ConnId) {
        self.conns[end] = Some(conn);
        self.ends[end].open.push(conn);
    }

    #[track_caller]
    pub(crate) fn conn(&self, end: usize) -> ConnId {
        self.conns[end].expect("the test connected")
    }

    pub(crate) fn is_connected(&self, end: usize) -> bool {
        self.conns[end].is_some_and(|conn| self.ends[end].log.contains(&Event::Connected(conn)))
    }

    pub(crate) fn is_closed(&self, end: usize) -> bool {
        self.conns[end].is_some_and(|conn| self.ends[end].log.contains(&Event::Closed(conn)))
    }

    #[track_caller]
    pub(crate) fn limits(&mut self, end: usize) -> Limits {
        let conn = self.conn(end);
        match self.transport(end).limits(conn).copied() {
            Some(limits) => limits,
            None => {
                self.fail(format_args!("expected limits of a connected connection at end {end}, none came"))
            }
        }
    }

    /// A number of operations that fits every window, at most `most`.
    pub(crate) fn depth(&mut self, most: usize) -> usize {
        let both = [self.limits(0), self.limits(1)];
        both.iter()
            .map(|limits| usize::from(limits.max_sends.min(limits.max_recvs)))
            .min()
            .unwrap_or(1)
            .min(most)
    }

    /// A message length that every connection takes, at most `most`.
    pub(crate) fn longest(&mut self, most: usize) -> usize {
        let limit =
            self.limits(0).max_message.min(self.limits(1).max_message).min(self.bounds.largest_message);
        (limit as usize).min(most)
    }

    #[track_caller]
    pub(crate) fn close(&mut self, end: usize) {
        let conn = self.conn(end);
        if let Err(error) = self.transport(end).close(conn) {
            self.fail(format_args!("expected close of a live connection to work: {error}"));
        }
    }

    // Memory.

    /// Registers at least `length` bytes, and returns the index of the buffer.
    #[track_caller]
    pub(crate) fn buffer(&mut self, end: usize, length: usize) -> usize {
        let kind = self.harness.kind();
        let align = self.transport(end).region_align(kind).max(1);
        let length = length.max(1).next_multiple_of(align);
        let (memory, probe) = self.harness.memory(length);
        let identity = Identity::of(&*memory);
        let nic = self.harness.rail(end).nic;
        let region = match self.transport(end).register(nic, memory) {
            Ok(region) => region,
            Err(refused) => {
                self.fail(format_args!("expected memory of {length} bytes to register: {refused}"))
            }
        };
        self.buffers.push(Buffer { end, region, probe, length, identity, retiring: false, retired: false });
        self.buffers.len() - 1
    }

    #[track_caller]
    pub(crate) fn retire(&mut self, buffer: usize) {
        let (end, region) = (self.buffers[buffer].end, self.buffers[buffer].region);
        if let Err(error) = self.transport(end).retire(region) {
            self.fail(format_args!("expected a live region to retire: {error}"));
        }
        self.buffers[buffer].retiring = true;
    }

    /// Takes the owner back, checks that it is the one that was registered, and drops it.
    #[track_caller]
    pub(crate) fn reclaim(&mut self, buffer: usize) {
        let (end, region) = (self.buffers[buffer].end, self.buffers[buffer].region);
        let Some(memory) = self.transport(end).reclaim(region) else {
            self.fail(format_args!(
                "expected reclaim to return the owner after Retired, and it returned none"
            ));
        };
        let (came, held) = (Identity::of(&*memory), &self.buffers[buffer].identity);
        require!(self, came == *held, "expected reclaim to return the owner {held:?}, and {came:?} came");
        drop(memory);
        let held = self.buffers[buffer].probe.held();
        require!(
            self,
            held == 0,
            "expected no owner after the reclaimed one was dropped, and {held} are left"
        );
    }

    // Operations.

    /// Submits one operation on the connection of `end`; its index in `works` if it was taken.
    #[track_caller]
    pub(crate) fn post(&mut self, end: usize, side: Side, slices: &[Slice]) -> Option<usize> {
        self.next_token += 1;
        self.post_as(end, side, self.next_token, slices)
    }

    /// As [`post`](Self::post), with a token.
    #[track_caller]
    pub(crate) fn post_as(&mut self, end: usize, side: Side, token: u64, slices: &[Slice]) -> Option<usize> {
        let (accepted, first) = self.batch(end, &[(side, token, slices.to_vec())]);
        (accepted.count == 1).then_some(first)
    }

    /// As [`post`](Self::post), of what must be taken.
    #[track_caller]
    pub(crate) fn must_post(&mut self, end: usize, side: Side, slices: &[Slice]) -> usize {
        match self.post(end, side, slices) {
            Some(work) => work,
            None => {
                self.fail(format_args!("expected a {side:?} to be taken with room in the window, it was not"))
            }
        }
    }

    /// Submits a batch; what it answered, and the index of the first accepted operation.
    #[track_caller]
    pub(crate) fn batch(&mut self, end: usize, batch: &[(Side, u64, Vec<Slice>)]) -> (Accepted, usize) {
        let conn = self.conn(end);
        let operations: Vec<Op<'_>> = batch
            .iter()
            .map(|(side, token, slices)| match side {
                Side::Send => Op::Send { token: Token(*token), from: slices },
                Side::Recv => Op::Recv { token: Token(*token), into: slices },
            })
            .collect();
        let accepted = self.transport(end).submit(conn, &operations);
        require!(
            self,
            accepted.count <= batch.len() && (accepted.count == batch.len()) == accepted.stopped.is_none(),
            "expected a prefix of {} operations, with a reason if it is shorter, and {accepted:?} came",
            batch.len()
        );
        let first = self.works.len();
        for (side, token, slices) in &batch[..accepted.count] {
            let (side, token, slices) = (*side, *token, slices.clone());
            let uses = slices.iter().all(|slice| self.is_live(end, slice));
            self.works.push(Work { end, conn, token, side, slices, uses, outcome: None });
        }
        (accepted, first)
    }

    /// Whether a slice lies in a region that was not asked to retire.
    fn is_live(&self, end: usize, slice: &Slice) -> bool {
        let live = |buffer: &&Buffer| {
            buffer.end == end && buffer.region == slice.region && !buffer.retiring && !buffer.retired
        };
        let inside = |buffer: &Buffer| {
            slice.offset.checked_add(slice.len.into()).is_some_and(|last| last <= buffer.length as u64)
        };
        self.buffers.iter().find(live).is_some_and(inside)
    }

    /// Tokens begin anew, for two runs that have to be the same.
    pub(crate) const fn restart_tokens(&mut self) {
        self.next_token = 1000;
    }

    pub(crate) fn has_descriptor(&self, end: usize) -> bool {
        self.ends[end].transport.as_ref().is_some_and(|transport| transport.wait_fd().is_some())
    }

    /// A new token.
    pub(crate) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn pending(&self, end: usize) -> usize {
        self.works.iter().filter(|work| work.end == end && work.outcome.is_none()).count()
    }

    pub(crate) fn outcome(&self, work: usize) -> Option<Outcome> {
        self.works[work].outcome
    }

    #[track_caller]
    pub(crate) fn require_outcome(&self, work: usize, expected: Outcome) {
        let (came, of) = (self.works[work].outcome, &self.works[work]);
        require!(self, came == Some(expected), "expected {expected:?} for operation {of:?}");
    }

    /// Withdraws an operation, and says what the transport answered.
    pub(crate) fn cancel(&mut self, work: usize) -> bool {
        let (end, conn, token) = (self.works[work].end, self.works[work].conn, self.works[work].token);
        self.transport(end).cancel(conn, Token(token))
    }

    /// Sends one message of these bytes from one end to the other and checks that it arrives.
    #[track_caller]
    pub(crate) fn prove_alive(&mut self, from: usize) {
        let number = self.token();
        let length = self.longest(100);
        let bytes = crate::random::pattern(self.seed, number, length);
        let (source, target) = (self.buffer(from, length), self.buffer(1 - from, length));
        self.buffers[source].probe.write(0, &bytes);
        let slices = [self.buffers[source].slice(0, length), self.buffers[target].slice(0, length)];
        let recv = self.must_post(1 - from, Side::Recv, &slices[1..]);
        let send = self.must_post(from, Side::Send, &slices[..1]);
        self.until_done(&[recv, send]);
        for work in [recv, send] {
            self.require_outcome(work, Outcome::Done { len: length as u32 });
        }
        let came = self.buffers[target].bytes(0, length);
        require!(self, came == bytes, "expected the connection to go on, and a message of it came wrong");
    }

    /// Makes something bad happen. If the harness cannot, `part` of the law is left out.
    pub(crate) fn inject(&mut self, fault: HarnessFault, part: &str) -> bool {
        let can = self.harness.inject(fault);
        if !can {
            self.leave_out(part, format_args!("the harness cannot inject {}", name_of(fault)));
        }
        can
    }

    /// This part of the law is not checked; said once.
    pub(crate) fn leave_out(&mut self, part: &str, why: Arguments<'_>) {
        let text = format!("not checked: {part}, because {why}");
        if !self.left_out.contains(&text) {
            self.left_out.push(text);
        }
    }

    /// What was left out.
    pub(crate) fn into_left_out(self) -> Vec<String> {
        self.left_out
    }

    /// Drops a transport without any goodbye of the test's, and, where the harness can, of its own.
    pub(crate) fn kill(&mut self, end: usize) {
        let _ = self.harness.inject(HarnessFault::KillPeer { end });
        self.drop_end(end);
    }

    pub(crate) fn drop_end(&mut self, end: usize) {
        drop(self.ends[end].transport.take());
    }

    #[track_caller]
    pub(crate) fn require_stop(&self, accepted: Accepted, stop: Stop) {
        let expected = Accepted::prefix(0, stop);
        require!(self, accepted == expected, "expected {expected:?}, and {accepted:?} came");
    }
}

/// The kind of a fault, whichever end it is for.
const fn name_of(fault: HarnessFault) -> &'static str {
    match fault {
        HarnessFault::KillPeer { .. } => "KillPeer",
        HarnessFault::CutLink => "CutLink",
        HarnessFault::FailRegistration { .. } => "FailRegistration",
    }
}
