//! Verbs in memory: what the specification says about queue pairs, with any order that it allows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_memory::{HostView, Memory, Part};

use crate::verbs::{
    Access, AsyncEvent, Cq, Errno, Fabric, Mr, Remote, SendWr, SgeList, Status, Verbs, Wc, Work,
};

const EINVAL: Errno = Errno(22);
const ENOMEM: Errno = Errno(12);
/// Tries until a peer that does not answer is given up: `retry_cnt`.
const TRIES: u32 = 40;

struct Region {
    node: u64,
    part: Part,
    access: Access,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Init,
    Ready,
    Error,
    Gone,
}

struct Pair {
    node: u64,
    cq: usize,
    state: State,
    peer: usize,
    sends: VecDeque<(SendWr, u32)>,
    recvs: VecDeque<(u64, SgeList)>,
    depth: (usize, usize),
}

struct Queue {
    wcs: VecDeque<Wc>,
    depth: usize,
    node: u64,
}

struct World {
    fabric: Fabric,
    random: u64,
    regions: Vec<Option<Region>>,
    pairs: Vec<Pair>,
    queues: Vec<Option<Queue>>,
    dead: Vec<u64>,
    alarms: Vec<(u64, AsyncEvent)>,
    refusing: Option<u64>,
    work: u64,
    scratch: Vec<u8>,
}

/// All nodes; each has a device.
#[derive(Clone)]
pub(crate) struct SoftFabric(Arc<Mutex<World>>);

/// The device of one node.
pub(crate) struct SoftVerbs {
    fabric: SoftFabric,
    node: u64,
}

impl SoftFabric {
    pub(crate) fn new(fabric: Fabric, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            fabric,
            random: seed | 1,
            regions: Vec::new(),
            pairs: Vec::new(),
            queues: Vec::new(),
            dead: Vec::new(),
            alarms: Vec::new(),
            refusing: None,
            work: 0,
            scratch: Vec::new(),
        })))
    }

    pub(crate) fn device(&self, node: u64) -> SoftVerbs {
        SoftVerbs { fabric: self.clone(), node }
    }

    /// The node answers nothing any more.
    pub(crate) fn kill(&self, node: u64) {
        self.world().dead.push(node);
    }

    /// Each queue pair fails, as after a port went down.
    pub(crate) fn cut(&self) {
        let mut world = self.world();
        for pair in 0..world.pairs.len() {
            if world.pairs[pair].state == State::Ready {
                world.fail(pair);
            }
        }
    }

    /// The next registration of the node fails.
    pub(crate) fn refuse(&self, node: u64) {
        self.world().refusing = Some(node);
    }

    /// Verbs called and messages moved.
    pub(crate) fn work(&self) -> u64 {
        self.world().work
    }

    pub(crate) fn raise(&self, node: u64, event: AsyncEvent) {
        self.world().alarms.push((node, event));
    }

    /// Registered regions, over all nodes.
    pub(crate) fn registered(&self) -> usize {
        self.world().regions.iter().flatten().count()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Verdict {
    /// No receive is posted, or nobody answers yet.
    Later,
    Done(Status),
}

impl World {
    fn next(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn complete(&mut self, pair: usize, wc: Wc) {
        let cq = self.pairs[pair].cq;
        let Some(queue) = self.queues[cq].as_mut() else { return };
        if queue.wcs.len() == queue.depth {
            self.alarms.push((queue.node, AsyncEvent::CqOverflow));
        } else {
            queue.wcs.push_back(wc);
        }
    }

    fn fail(&mut self, pair: usize) {
        if self.pairs[pair].state == State::Gone {
            return;
        }
        self.pairs[pair].state = State::Error;
        let flushed = |id| Wc { id, status: Status::Flushed, len: 0, imm: None };
        while let Some((wr, _)) = self.pairs[pair].sends.pop_front() {
            self.complete(pair, flushed(wr.id));
        }
        while let Some((id, _)) = self.pairs[pair].recvs.pop_front() {
            self.complete(pair, flushed(id));
        }
    }

    /// Tries a work request somewhere. Of a reliable connection it is the oldest.
    fn step(&mut self) {
        if self.pairs.is_empty() {
            return;
        }
        let pair = self.next(self.pairs.len());
        let waiting = self.pairs[pair].sends.len();
        if waiting == 0
            || self.pairs[pair].state != State::Ready
            || self.dead.contains(&self.pairs[pair].node)
        {
            return;
        }
        let at = if self.fabric == Fabric::Srd { self.next(waiting) } else { 0 };
        let (wr, tries) = self.pairs[pair].sends[at];
        match self.execute(pair, &wr, tries) {
            Verdict::Later => self.pairs[pair].sends[at].1 += 1,
            Verdict::Done(status) => {
                self.pairs[pair].sends.remove(at);
                self.complete(pair, Wc { id: wr.id, status, len: wr.local.bytes() as u32, imm: None });
                if status != Status::Success {
                    self.fail(pair);
                }
            }
        }
    }

    fn execute(&mut self, pair: usize, wr: &SendWr, tries: u32) -> Verdict {
        let (node, peer) = (self.pairs[pair].node, self.pairs[pair].peer);
        let there = self.pairs[peer].node;
        let silent = self.pairs[peer].state != State::Ready || self.dead.contains(&there);
        if silent {
            let given_up = tries >= TRIES && self.pairs[peer].state != State::Init;
            return if given_up { Verdict::Done(Status::RetryExceeded) } else { Verdict::Later };
        }
        let len = wr.local.bytes();
        match wr.work {
            Work::Send => {
                let Some((id, into)) = self.pairs[peer].recvs.pop_front() else { return Verdict::Later };
                if len > into.bytes() {
                    self.complete(peer, Wc { id, status: Status::LocalLength, len: 0, imm: None });
                    self.fail(peer);
                    return Verdict::Done(Status::RemoteInvalid);
                }
                self.gather(node, &wr.local);
                self.scatter(there, &into);
                self.complete(peer, Wc { id, status: Status::Success, len: len as u32, imm: None });
            }
            Work::Write { to, imm } => {
                if len > 0 && self.remote(there, to, len, true).is_none() {
                    self.fail(peer);
                    return Verdict::Done(Status::RemoteAccess);
                }
                if imm.is_some() && self.pairs[peer].recvs.is_empty() {
                    return Verdict::Later;
                }
                self.gather(node, &wr.local);
                if len > 0
                    && let Some((part, offset)) = self.remote(there, to, len, true)
                {
                    copy_in(part, offset, &self.scratch);
                }
                if let Some((id, _)) = imm.and_then(|_| self.pairs[peer].recvs.pop_front()) {
                    self.complete(peer, Wc { id, status: Status::Success, len: len as u32, imm });
                }
            }
            Work::Read { from } => {
                self.scratch.resize(len, 0);
                if len > 0 {
                    let mut scratch = std::mem::take(&mut self.scratch);
                    let found = self.remote(there, from, len, false);
                    let fine = found.map(|(part, offset)| copy_out(part, offset, &mut scratch)).is_some();
                    self.scratch = scratch;
                    if !fine {
                        self.fail(peer);
                        return Verdict::Done(Status::RemoteAccess);
                    }
                }
                self.scatter(node, &wr.local);
            }
        }
        Verdict::Done(Status::Success)
    }

    fn region(&self, node: u64, key: u32) -> Option<&Region> {
        let region = self.regions.get(key as usize)?.as_ref()?;
        (region.node == node).then_some(region)
    }

    fn remote(&self, node: u64, at: Remote, len: usize, write: bool) -> Option<(&Part, usize)> {
        let region = self.region(node, at.rkey)?;
        let allowed = if write { region.access.remote_write } else { region.access.remote_read };
        let (base, size) = region.part.span();
        let offset = (at.addr as usize).checked_sub(base.addr().get())?;
        (allowed && offset.checked_add(len)? <= size).then_some((&region.part, offset))
    }

    fn gather(&mut self, node: u64, from: &SgeList) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(from.bytes(), 0);
        let mut done = 0;
        for sge in from.as_slice() {
            let region = self.region(node, sge.lkey).expect("a posted request names registered memory");
            let offset = sge.addr as usize - region.part.span().0.addr().get();
            copy_out(&region.part, offset, &mut scratch[done..][..sge.len as usize]);
            done += sge.len as usize;
        }
        self.scratch = scratch;
    }

    fn scatter(&self, node: u64, into: &SgeList) {
        let mut rest = self.scratch.as_slice();
        for sge in into.as_slice() {
            let (now, later) = rest.split_at(rest.len().min(sge.len as usize));
            let region = self.region(node, sge.lkey).expect("a posted request names registered memory");
            let offset = sge.addr as usize - region.part.span().0.addr().get();
            copy_in(&region.part, offset, now);
            rest = later;
        }
    }
}

fn copy_in(part: &Part, offset: usize, bytes: &[u8]) {
    HostView::of(part).expect("of the host").copy_in(offset, bytes).expect("checked");
}

fn copy_out(part: &Part, offset: usize, bytes: &mut [u8]) {
    HostView::of(part).expect("of the host").copy_out(offset, bytes).expect("checked");
}

impl Verbs for SoftVerbs {
    fn fabric(&self) -> Fabric {
        self.fabric.world().fabric
    }

    fn gid(&self) -> u64 {
        self.node
    }

    fn reg_mr(&mut self, memory: Part, access: Access) -> Result<Mr, Errno> {
        let mut world = self.fabric.world();
        if world.refusing == Some(self.node) {
            world.refusing = None;
            return Err(ENOMEM);
        }
        let key = world.regions.len() as u32;
        let addr = memory.span().0.addr().get() as u64;
        world.regions.push(Some(Region { node: self.node, part: memory, access }));
        Ok(Mr { lkey: key, rkey: key, addr })
    }

    fn dereg_mr(&mut self, lkey: u32) -> Result<(), Errno> {
        let mut world = self.fabric.world();
        let region = world.regions.get_mut(lkey as usize).and_then(Option::take);
        region.map(drop).ok_or(EINVAL)
    }

    fn create_cq(&mut self, depth: usize) -> Result<Cq, Errno> {
        let mut world = self.fabric.world();
        world.queues.push(Some(Queue { wcs: VecDeque::with_capacity(depth), depth, node: self.node }));
        Ok(Cq(world.queues.len() - 1))
    }

    fn destroy_cq(&mut self, cq: Cq) {
        self.fabric.world().queues[cq.0] = None;
    }

    fn create_qp(&mut self, cq: Cq, sends: usize, recvs: usize) -> Result<u32, Errno> {
        let mut world = self.fabric.world();
        world.pairs.push(Pair {
            node: self.node,
            cq: cq.0,
            state: State::Init,
            peer: 0,
            sends: VecDeque::with_capacity(sends),
            recvs: VecDeque::with_capacity(recvs),
            depth: (sends, recvs),
        });
        Ok((world.pairs.len() - 1) as u32)
    }

    fn connect_qp(&mut self, qp: u32, gid: u64, peer: u32, _psn: u32) -> Result<(), Errno> {
        let mut world = self.fabric.world();
        if world.pairs.get(peer as usize).is_none_or(|pair| pair.node != gid) {
            return Err(EINVAL);
        }
        let pair = &mut world.pairs[qp as usize];
        (pair.peer, pair.state) = (peer as usize, State::Ready);
        Ok(())
    }

    fn fail_qp(&mut self, qp: u32) {
        self.fabric.world().fail(qp as usize);
    }

    fn destroy_qp(&mut self, qp: u32) {
        let mut world = self.fabric.world();
        let pair = &mut world.pairs[qp as usize];
        pair.state = State::Gone;
        pair.sends.clear();
        pair.recvs.clear();
    }

    fn post_send(&mut self, qp: u32, wr: SendWr) -> Result<(), Errno> {
        let mut world = self.fabric.world();
        world.work += 1;
        let pair = &mut world.pairs[qp as usize];
        if pair.sends.len() == pair.depth.0 {
            return Err(ENOMEM);
        }
        pair.sends.push_back((wr, 0));
        if pair.state == State::Error {
            world.fail(qp as usize);
        }
        Ok(())
    }

    fn post_recv(&mut self, qp: u32, id: u64, into: SgeList) -> Result<(), Errno> {
        let mut world = self.fabric.world();
        world.work += 1;
        let pair = &mut world.pairs[qp as usize];
        if pair.recvs.len() == pair.depth.1 {
            return Err(ENOMEM);
        }
        pair.recvs.push_back((id, into));
        if pair.state == State::Error {
            world.fail(qp as usize);
        }
        Ok(())
    }

    fn poll_cq(&mut self, cq: Cq, into: &mut Vec<Wc>, room: usize) {
        let mut world = self.fabric.world();
        world.work += 1;
        for _ in 0..8 {
            world.step();
        }
        let Some(queue) = world.queues[cq.0].as_mut() else { return };
        let count = room.min(queue.wcs.len());
        into.extend(queue.wcs.drain(..count));
    }

    fn async_event(&mut self) -> Option<AsyncEvent> {
        let mut world = self.fabric.world();
        let at = world.alarms.iter().position(|(node, _)| *node == self.node)?;
        Some(world.alarms.remove(at).1)
    }
}
