//! One connection: its queue pairs, its completion queue, and the operations on them.

#[path = "link/completions.rs"]
mod completions;

use std::collections::VecDeque;

use p2p_memory::SharedHost;
use p2p_transport::{
    ConnId, Error, ErrorKind, Event, Limits, OneSidedLimits, OneSidedOp, Op, OpFault, Outcome, Regions,
    Slice, StreamId, Token,
};

use crate::backend::Registered;
use crate::verbs::{Cq, Errno, Fabric, MAX_SGE, Mr, Remote, SendWr, Sge, SgeList, Verbs, Work};
use crate::wire::{Advert, Hello, Imm, Piece};

pub(crate) const MAX_MESSAGE: u32 = 1 << 20;
const SENDS: u16 = 8;
const RECVS: u16 = 8;
const ONE_SIDED: u16 = 16;
/// Notifications that a peer may be ahead; more wait at the peer, as receiver-not-ready.
const NOTES: usize = 8;
/// Writes of one message where each has one local and one remote slice.
const WRITES: usize = 2 * MAX_SGE - 1;
/// Receives posted on an unordered fabric: an advert for each receive of the peer, and the writes of ours.
const BOUNCES: usize = RECVS as usize + RECVS as usize * WRITES;
const PLACES: usize = (SENDS + RECVS + ONE_SIDED) as usize;

const NOTE: u64 = 1 << 32;
const BOUNCE: u64 = 2 << 32;

#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Kind {
    Send,
    Recv,
    OneSided,
}

#[derive(Clone, Copy)]
struct Slot {
    token: Token,
    kind: Kind,
    slices: [Option<Slice>; MAX_SGE],
    len: u32,
    /// Work requests that have not completed.
    open: u32,
    /// Writes of the message that are still to come, once one has told; of a receive without order.
    missing: Option<i32>,
    arrived: i32,
    fault: Option<OpFault>,
    lost: bool,
}

impl Slot {
    fn slices(&self) -> impl Iterator<Item = Slice> {
        self.slices.into_iter().flatten()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Waits for whoever knows its listener.
    Listening,
    /// The peer's hello has to come.
    Greeting,
    /// This end accepted; the peer has to say that it is ready as well.
    Greeted,
    Open,
    /// Queue pairs are in the error state; their work requests are flushed.
    Draining,
}

pub(crate) struct Link {
    pub(crate) id: ConnId,
    pub(crate) stage: Stage,
    pub(crate) stream: Option<StreamId>,
    pub(crate) inbox: Vec<u8>,
    pub(crate) outbox: Vec<u8>,
    pub(crate) deadline: Option<p2p_transport::Now>,
    pub(crate) why: Option<Error>,
    /// Whether `Connected` was reported.
    pub(crate) connected: bool,
    pub(crate) limits: Limits,
    pub(crate) one_sided: OneSidedLimits,
    pub(crate) ready: VecDeque<Event>,
    /// Places of the completions in `ready`, in the same order.
    done: VecDeque<u16>,
    fabric: Fabric,
    cq: Option<Cq>,
    pairs: Vec<u32>,
    posted: u32,
    held: [u16; 3],
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    next: [u32; 2],
    waiting: VecDeque<u16>,
    adverts: Vec<Advert>,
    bounce: Option<(SharedHost, Mr)>,
}

pub(crate) type Memories = Regions<Registered>;

impl Link {
    pub(crate) fn new(id: ConnId, fabric: Fabric, stage: Stage) -> Self {
        let mut limits = Limits::new(MAX_MESSAGE, SENDS, RECVS);
        limits.max_slices = MAX_SGE as u16;
        limits.fifo = false;
        Self {
            id,
            stage,
            stream: None,
            inbox: Vec::new(),
            outbox: Vec::new(),
            deadline: None,
            why: None,
            connected: false,
            limits,
            one_sided: OneSidedLimits::new(MAX_MESSAGE, ONE_SIDED),
            ready: VecDeque::with_capacity(PLACES + NOTES),
            done: VecDeque::with_capacity(PLACES),
            fabric,
            cq: None,
            pairs: Vec::new(),
            posted: 0,
            held: [0; 3],
            slots: vec![None; PLACES],
            free: (0..PLACES as u16).collect(),
            next: [0; 2],
            waiting: VecDeque::with_capacity(usize::from(SENDS)),
            adverts: Vec::with_capacity(usize::from(RECVS)),
            bounce: None,
        }
    }

    /// Makes queue pairs and one completion queue that holds all their completions at once.
    pub(crate) fn create(&mut self, verbs: &mut dyn Verbs, channels: usize) -> Result<Hello, Errno> {
        let channels = if self.fabric == Fabric::Srd { 1 } else { channels };
        let (sends, recvs) = match self.fabric {
            Fabric::Rc => (usize::from(SENDS), usize::from(RECVS)),
            Fabric::Srd => (usize::from(RECVS) + usize::from(SENDS) * WRITES, BOUNCES),
        };
        let side = usize::from(ONE_SIDED) + NOTES;
        let cq = verbs.create_cq(channels * (sends + recvs) + side)?;
        self.cq = Some(cq);
        for _ in 0..channels {
            self.pairs.push(verbs.create_qp(cq, sends, recvs)?);
        }
        self.pairs.push(verbs.create_qp(cq, usize::from(ONE_SIDED), NOTES)?);
        let mut hello = Hello { gid: verbs.gid(), channels: channels as u32, ..Hello::default() };
        hello.pairs[..self.pairs.len()].copy_from_slice(&self.pairs);
        Ok(hello)
    }

    /// Brings the queue pairs up, as many as both ends have, and posts the backend's own receives.
    pub(crate) fn join(&mut self, verbs: &mut dyn Verbs, peer: &Hello) -> Result<(), Errno> {
        let theirs = peer.channels as usize;
        let side = self.pairs.pop().unwrap_or_default();
        for extra in self.pairs.split_off(theirs.min(self.pairs.len())) {
            verbs.destroy_qp(extra);
        }
        self.pairs.push(side);
        for _ in 0..NOTES {
            verbs.post_recv(side, NOTE, SgeList::default())?;
            self.posted += 1;
        }
        if self.fabric == Fabric::Srd {
            self.post_bounces(verbs)?;
        }
        let last = self.pairs.len() - 1;
        for (index, &pair) in self.pairs.iter().enumerate() {
            let other = if index == last { theirs } else { index };
            verbs.connect_qp(pair, peer.gid, peer.pairs[other], 0)?;
        }
        Ok(())
    }

    fn post_bounces(&mut self, verbs: &mut dyn Verbs) -> Result<(), Errno> {
        let host = SharedHost::new(Advert::BYTES * (BOUNCES + PLACES)).map_err(|_| Errno(12))?;
        let whole = p2p_memory::Shared::new(Box::new(host.clone()));
        let part = whole.part(0, whole.len()).map_err(|_| Errno(22))?;
        let access = crate::verbs::Access { remote_write: false, remote_read: false };
        let mr = verbs.reg_mr(part, access)?;
        self.bounce = Some((host, mr));
        for index in 0..BOUNCES {
            self.post_bounce(verbs, index)?;
        }
        Ok(())
    }

    fn bounce_list(&self, index: usize) -> SgeList {
        let mut list = SgeList::default();
        if let Some((_, mr)) = &self.bounce {
            let addr = mr.addr + (index * Advert::BYTES) as u64;
            list.push(Sge { addr, len: Advert::BYTES as u32, lkey: mr.lkey });
        }
        list
    }

    fn post_bounce(&mut self, verbs: &mut dyn Verbs, index: usize) -> Result<(), Errno> {
        verbs.post_recv(self.pairs[0], BOUNCE | index as u64, self.bounce_list(index))?;
        self.posted += 1;
        Ok(())
    }

    const fn limit(&self, kind: Kind) -> u16 {
        match kind {
            Kind::Send => self.limits.max_sends,
            Kind::Recv => self.limits.max_recvs,
            Kind::OneSided => self.one_sided.max_ops,
        }
    }

    /// False if there is no room. Otherwise the operation is taken, whatever becomes of it.
    pub(crate) fn take(&mut self, verbs: &mut dyn Verbs, memories: &mut Memories, op: &Op<'_>) -> bool {
        let kind = if matches!(op, Op::Send { .. }) { Kind::Send } else { Kind::Recv };
        if self.held[kind as usize] == self.limit(kind) {
            return false;
        }
        let nic = crate::backend::NIC;
        let (most, longest) = (self.limits.max_slices, self.limits.max_message);
        match memories.hold(nic, op.slices(), most, longest) {
            Err(fault) => self.refuse(kind, op.token(), fault),
            Ok(len) => {
                let slot = self.place(kind, op.token(), op.slices(), len);
                let started = match (self.fabric, kind) {
                    (Fabric::Rc, _) => self.start_in_order(verbs, memories, slot),
                    (Fabric::Srd, Kind::Recv) => self.advertise(verbs, memories, slot),
                    (Fabric::Srd, _) => {
                        self.waiting.push_back(slot);
                        self.write_waiting(verbs, memories)
                    }
                };
                self.check("submit", started, verbs);
            }
        }
        true
    }

    pub(crate) fn take_one_sided(
        &mut self,
        verbs: &mut dyn Verbs,
        memories: &mut Memories,
        op: &OneSidedOp,
    ) -> bool {
        let kind = Kind::OneSided;
        if self.held[kind as usize] == self.limit(kind) {
            return false;
        }
        let (local, remote) = (op.local(), op.remote());
        if local.len != remote.len {
            self.refuse(kind, op.token(), OpFault::TooLong);
            return true;
        }
        match memories.hold(crate::backend::NIC, &[local], 1, self.one_sided.max_len) {
            Err(fault) => self.refuse(kind, op.token(), fault),
            Ok(len) => {
                let slot = self.place(kind, op.token(), &[local], len);
                let at = Remote { addr: remote.addr, rkey: remote.key as u32 };
                let work = match *op {
                    OneSidedOp::Write { notify, .. } => Work::Write { to: at, imm: notify },
                    OneSidedOp::Read { .. } => Work::Read { from: at },
                };
                let list = list_of(memories, [local].into_iter());
                let side = self.pairs[self.pairs.len() - 1];
                let posted = self.post(verbs, side, slot, work, list);
                self.check("submit", posted, verbs);
            }
        }
        true
    }

    fn refuse(&mut self, kind: Kind, token: Token, fault: OpFault) {
        // It keeps its place in the window until its event is taken, so that `ready` is bounded.
        self.held[kind as usize] += 1;
        let slot = self.place_of(kind, token);
        self.slots[usize::from(slot)].as_mut().expect("placed").fault = Some(fault);
        self.finish(slot, None);
    }

    fn place_of(&mut self, kind: Kind, token: Token) -> u16 {
        let slot = self.free.pop().expect("as many places as the windows together");
        self.slots[usize::from(slot)] = Some(Slot {
            token,
            kind,
            slices: [None; MAX_SGE],
            len: 0,
            open: 0,
            missing: None,
            arrived: 0,
            fault: None,
            lost: false,
        });
        slot
    }

    fn place(&mut self, kind: Kind, token: Token, slices: &[Slice], len: u32) -> u16 {
        self.held[kind as usize] += 1;
        let place = self.place_of(kind, token);
        let slot = self.slots[usize::from(place)].as_mut().expect("placed");
        slot.len = len;
        for (to, from) in slot.slices.iter_mut().zip(slices) {
            *to = Some(*from);
        }
        place
    }

    fn slot(&mut self, slot: u16) -> &mut Slot {
        self.slots[usize::from(slot)].as_mut().expect("a place in use")
    }

    fn post(
        &mut self,
        verbs: &mut dyn Verbs,
        pair: u32,
        slot: u16,
        work: Work,
        local: SgeList,
    ) -> Result<(), Errno> {
        verbs.post_send(pair, SendWr { id: u64::from(slot), work, local })?;
        self.posted += 1;
        self.slot(slot).open += 1;
        Ok(())
    }

    /// The k-th message of a direction uses queue pair k mod n at both ends, which matches in order itself.
    fn start_in_order(&mut self, verbs: &mut dyn Verbs, memories: &Memories, slot: u16) -> Result<(), Errno> {
        let found = *self.slot(slot);
        let list = list_of(memories, found.slices());
        let turn = &mut self.next[found.kind as usize];
        let pair = self.pairs[*turn as usize % (self.pairs.len() - 1)];
        *turn = turn.wrapping_add(1);
        if found.kind == Kind::Send {
            return self.post(verbs, pair, slot, Work::Send, list);
        }
        verbs.post_recv(pair, u64::from(slot), list)?;
        self.posted += 1;
        self.slot(slot).open += 1;
        Ok(())
    }

    /// Tells the sender where the next message belongs: an unordered fabric matches nothing itself.
    fn advertise(&mut self, verbs: &mut dyn Verbs, memories: &Memories, slot: u16) -> Result<(), Errno> {
        let found = *self.slot(slot);
        let sequence = self.next[1];
        self.next[1] = sequence.wrapping_add(1);
        let mut advert = Advert { sequence, slot, ..Advert::default() };
        for slice in found.slices().filter(|slice| slice.len > 0) {
            let Some(mr) = memories.value(slice.region).map(|registered| registered.mr) else { continue };
            advert.pieces[usize::from(advert.count)] =
                Piece { addr: mr.addr + slice.offset, rkey: mr.rkey, len: slice.len };
            advert.count += 1;
        }
        let at = BOUNCES + usize::from(slot);
        if let Some((host, _)) = &self.bounce {
            host.copy_in(at * Advert::BYTES, &advert.encode()).map_err(|_| Errno(22))?;
        }
        self.post(verbs, self.pairs[0], slot, Work::Send, self.bounce_list(at))
    }

    /// Writes the waiting messages whose receives are known, in order.
    fn write_waiting(&mut self, verbs: &mut dyn Verbs, memories: &Memories) -> Result<(), Errno> {
        while let Some(&slot) = self.waiting.front() {
            let turn = self.next[0];
            let Some(at) = self.adverts.iter().position(|advert| advert.sequence == turn) else { break };
            let advert = self.adverts.swap_remove(at);
            self.waiting.pop_front();
            self.next[0] = turn.wrapping_add(1);
            self.write(verbs, memories, slot, &advert)?;
        }
        Ok(())
    }

    fn write(
        &mut self,
        verbs: &mut dyn Verbs,
        memories: &Memories,
        slot: u16,
        advert: &Advert,
    ) -> Result<(), Errno> {
        let found = *self.slot(slot);
        let pieces = &advert.pieces[..usize::from(advert.count)];
        let room: u64 = pieces.iter().map(|piece| u64::from(piece.len)).sum();
        let too_long = u64::from(found.len) > room;
        let pair = self.pairs[0];
        let mut imm = Imm { slot: advert.slot, writes: 1, too_long };
        let nowhere = Remote { addr: 0, rkey: 0 };
        if too_long || found.len == 0 {
            let work = Work::Write { to: nowhere, imm: Some(imm.bits()) };
            return self.post(verbs, pair, slot, work, SgeList::default());
        }
        let steps = || Cuts {
            from: list_of(memories, found.slices()),
            pieces: advert.pieces,
            at: (0, 0),
            done: (0, 0),
        };
        imm.writes = steps().count() as u8;
        for (local, to) in steps() {
            let mut list = SgeList::default();
            list.push(local);
            self.post(verbs, pair, slot, Work::Write { to, imm: Some(imm.bits()) }, list)?;
        }
        Ok(())
    }

    /// The oldest event of this connection, if there is one, and the end of what it stands for.
    pub(crate) fn deliver(&mut self, unused: &mut dyn FnMut(&[Slice])) -> Option<Event> {
        let event = self.ready.pop_front()?;
        if let Event::Completed { .. } = event {
            let place = self.done.pop_front().expect("one for each completion");
            let slot = self.slots[usize::from(place)].take().expect("finished");
            for slice in slot.slices() {
                unused(&[slice]);
            }
            self.held[slot.kind as usize] -= 1;
            self.free.push(place);
        }
        self.connected |= matches!(event, Event::Connected(_));
        Some(event)
    }

    /// Withdraws a message that has no receive to go to yet; verbs withdraw nothing.
    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        let slots = &self.slots;
        let is = |place: &u16| slots[usize::from(*place)].is_some_and(|slot| slot.token == token);
        let Some(at) = self.waiting.iter().rposition(is) else { return false };
        let place = self.waiting.remove(at).expect("found");
        self.finish(place, Some(Outcome::Cancelled));
        true
    }

    fn check(&mut self, during: &'static str, result: Result<(), Errno>, verbs: &mut dyn Verbs) {
        if let Err(errno) = result {
            let error = Error::new(ErrorKind::Conn, during, "a verb failed").with_code(errno.0);
            self.lose(verbs, error);
        }
    }

    pub(crate) fn lose(&mut self, verbs: &mut dyn Verbs, why: Error) {
        if self.stage != Stage::Draining {
            self.why = Some(why);
            self.drain(verbs);
        }
    }

    pub(crate) fn drain(&mut self, verbs: &mut dyn Verbs) {
        self.stage = Stage::Draining;
        for &pair in &self.pairs {
            verbs.fail_qp(pair);
        }
    }

    /// Whether the hardware is done with a draining connection. What then has no outcome is lost; not before,
    /// because completions of before the flush may still be in the queue.
    pub(crate) fn drained(&mut self) -> bool {
        if self.posted > 0 {
            return false;
        }
        self.waiting.clear();
        for place in 0..PLACES as u16 {
            let unfinished = self.slots[usize::from(place)].is_some() && !self.done.contains(&place);
            if unfinished {
                self.slot(place).lost = true;
                self.finish(place, Some(Outcome::ConnLost));
            }
        }
        self.ready.is_empty()
    }

    pub(crate) fn destroy(&mut self, verbs: &mut dyn Verbs) {
        for pair in self.pairs.drain(..) {
            verbs.destroy_qp(pair);
        }
        if let Some(cq) = self.cq.take() {
            verbs.destroy_cq(cq);
        }
        if let Some((_, mr)) = self.bounce.take() {
            let _ = verbs.dereg_mr(mr.lkey);
        }
    }

    pub(crate) const fn queue(&self) -> Option<Cq> {
        self.cq
    }
}

fn list_of(memories: &Memories, slices: impl Iterator<Item = Slice>) -> SgeList {
    let mut list = SgeList::default();
    // Some devices read a length of 0 as 2 GiB: an empty slice is left out.
    for slice in slices.filter(|slice| slice.len > 0) {
        if let Some(mr) = memories.value(slice.region).map(|registered| registered.mr) {
            list.push(Sge { addr: mr.addr + slice.offset, len: slice.len, lkey: mr.lkey });
        }
    }
    list
}

/// Local and remote pieces, cut so that each write has one of both.
struct Cuts {
    from: SgeList,
    pieces: [Piece; MAX_SGE],
    at: (usize, usize),
    done: (u32, u32),
}

impl Iterator for Cuts {
    type Item = (Sge, Remote);

    fn next(&mut self) -> Option<Self::Item> {
        let local = *self.from.as_slice().get(self.at.0)?;
        let piece = *self.pieces.get(self.at.1)?;
        let len = (local.len - self.done.0).min(piece.len - self.done.1);
        let from = Sge { addr: local.addr + u64::from(self.done.0), len, lkey: local.lkey };
        let to = Remote { addr: piece.addr + u64::from(self.done.1), rkey: piece.rkey };
        self.done = (self.done.0 + len, self.done.1 + len);
        if self.done.0 == local.len {
            (self.at.0, self.done.0) = (self.at.0 + 1, 0);
        }
        if self.done.1 == piece.len {
            (self.at.1, self.done.1) = (self.at.1 + 1, 0);
        }
        Some((from, to))
    }
}
