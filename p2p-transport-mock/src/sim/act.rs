//! What the processes of a workload do.

use p2p_memory::{Memory, SharedHost};
use p2p_transport::{
    Control, ErrorKind, NicId, OneSidedOp, Op, OpFault, Rail, RegisterError, RemoteSlice, Slice, Stop, Token,
    Transport,
};

use super::bed::{BLOCK, BLOCKS, Bed, BedState, LONGEST};
use super::people::{Conn, ConnState, Fate, Item, Pair, Pending, Remote, Way, Work};
use super::{Sim, place};
use crate::FaultKind;

impl Sim {
    pub(super) fn act(&mut self) {
        let person = self.random.index(self.people.len());
        match self.random.below(32) {
            0..=13 => self.traffic(person),
            14 | 15 => self.cancel(person),
            16 => {
                let bed = self.random.index(self.people[person].beds.len());
                self.retire(person, bed);
            }
            17..=19 => self.join(person),
            20 => {
                let conn = self.random.index(self.people[person].conns.len());
                self.close(person, conn);
            }
            21 => self.stale(person),
            22 => {
                let uid = self.uid();
                let other = self.random.index(self.people.len());
                let door = self.people[other].talker.door;
                if let Some(to) = self.people[other].talker.control.local(door) {
                    self.people[person].talker.begin(to, uid);
                }
            }
            23..=26 => {
                let Self { people, random, .. } = self;
                people[person].talker.act(random);
            }
            _ => self.remote(person),
        }
    }

    fn some_conn(&mut self, person: usize) -> Option<usize> {
        let conns = &self.people[person].conns;
        let open: Vec<usize> =
            (0..conns.len()).filter(|conn| conns[*conn].state == ConnState::Connected).collect();
        open.get(self.random.index(open.len())).copied()
    }

    fn traffic(&mut self, person: usize) {
        let Some(conn) = self.some_conn(person) else { return self.join(person) };
        let most = if self.random.one_in(5) { 20 } else { 4 };
        let count = self.random.between(1, most);
        let mostly = if self.random.one_in(2) { Work::Send } else { Work::Recv };
        let works: Vec<Work> = (0..count)
            .map(|_| match (self.random.one_in(5), mostly) {
                (true, Work::Send) => Work::Recv,
                (true, _) => Work::Send,
                (false, mostly) => mostly,
            })
            .collect();
        self.submit((person, conn), &works, true);
    }

    /// A new connection between this process and another, or itself.
    fn join(&mut self, person: usize) {
        let mut peer = self.random.index(self.people.len());
        if peer == person {
            peer = (peer + 1) % self.people.len();
        }
        let open = |conn: &&Conn| conn.state != ConnState::Closed;
        if self.people[person].conns.iter().filter(open).count() > 4 {
            return;
        }
        let nics = [person, peer].map(|who| self.people[who].nics);
        let nics = nics.map(|count| self.random.below(u64::from(count)) as u16);
        let channels = [0; 2].map(|_| self.random.between(1, 2) as u16);
        let rails = [0, 1].map(|end| Rail { nic: NicId(nics[end]), device: None, channels: channels[end] });
        let (listener, address) = match self.people[peer].transport.listen(rails[1]) {
            Ok(listening) => listening,
            Err(error) => return self.find(format!("listen: {error}")),
        };
        let first = match self.people[person].transport.connect(rails[0], &address) {
            Ok(conn) => conn,
            Err(error) => return self.find(format!("connect: {error}")),
        };
        // Sometimes the peer comes late, and sometimes it has begun again meanwhile.
        for _ in 0..self.random.below(6) {
            self.step();
        }
        let second = match self.people[peer].transport.accept(listener) {
            Ok(conn) => Some(conn),
            Err(error) if error.kind() == ErrorKind::Misuse && self.restarts() > 0 => None,
            Err(error) => return self.find(format!("accept: {error}")),
        };
        let Some(second) = second else {
            self.forsaken(person, first);
            return;
        };
        let pair = self.pairs.len();
        let mut ends = [(person, 0), (peer, 0)];
        for (side, id) in [first, second].into_iter().enumerate() {
            let conns = &mut self.people[ends[side].0].conns;
            ends[side].1 = conns.len();
            conns.push(Conn::new(id, nics[side], pair, side));
        }
        let uniform = self.uniform.then(|| self.random.between(0, u64::from(LONGEST)) as u32);
        self.pairs.push(Pair {
            ends,
            ways: [Way::default(), Way::default()],
            told: Default::default(),
            uniform,
        });
    }

    /// A connection whose peer never came: it must close by itself, which is not followed any further.
    fn forsaken(&mut self, person: usize, first: p2p_transport::ConnId) {
        let pair = self.pairs.len();
        let conns = &mut self.people[person].conns;
        let index = conns.len();
        conns.push(Conn::new(first, 0, pair, 0));
        let ends = [(person, index), (person, index)];
        self.pairs.push(Pair {
            ends,
            ways: [Way::default(), Way::default()],
            told: Default::default(),
            uniform: None,
        });
    }

    fn restarts(&self) -> u64 {
        self.world.strikes().of(FaultKind::Restart)
    }

    /// A live bed on this NIC, and a block of it.
    pub(super) fn block(&mut self, person: usize, nic: u16) -> Option<(usize, usize)> {
        let usable = |bed: &Bed| bed.nic == nic && bed.state == BedState::Live && !bed.free.is_empty();
        let found = self.people[person].beds.iter().position(usable);
        let bed = match found {
            Some(bed) => bed,
            None => self.register(person, nic)?,
        };
        let beds = &mut self.people[person].beds;
        let free = beds[bed].free.len();
        let at = self.random.index(free);
        let block = beds[bed].free.swap_remove(at);
        beds[bed].clear(block);
        Some((bed, block))
    }

    fn register(&mut self, person: usize, nic: u16) -> Option<usize> {
        let memory = SharedHost::new(BLOCK * BLOCKS).ok()?;
        let before = self.world.strikes().of(FaultKind::RefusedRegistration);
        match self.people[person].transport.register(NicId(nic), Box::new(memory.clone())) {
            Ok(region) => Some(place(&mut self.people[person].beds, Bed::new(region, nic, memory))),
            Err(RegisterError { error, memory: back }) => {
                let refused = self.world.strikes().of(FaultKind::RefusedRegistration) > before;
                if !refused || error.kind() != ErrorKind::Exhausted || back.span() != memory.span() {
                    self.find(format!("register: {error}"));
                }
                None
            }
        }
    }

    /// Submits a batch, and remembers what was taken.
    pub(super) fn submit(&mut self, (person, conn): (usize, usize), works: &[Work], bad: bool) {
        let mut batch: Vec<(Pending, Item)> = Vec::new();
        let known = &self.people[person].conns[conn];
        let (id, nic, pair, side) = (known.id, known.nic, known.pair, known.side);
        for &work in works {
            let uid = self.uid();
            let token = Token(uid);
            let made = if bad && self.random.one_in(25) { self.bad(person, nic) } else { None };
            let (block, slices, fault) = if let Some((slices, fault)) = made {
                (None, slices, Some(fault))
            } else {
                let Some((bed, block)) = self.block(person, nic) else { break };
                let len = self.length(pair, work);
                let slices = self.people[person].beds[bed].slices(block, len, &mut self.random);
                if work == Work::Send {
                    self.people[person].beds[bed].fill(&slices, uid);
                }
                (Some((bed, block)), slices, None)
            };
            let len = slices.iter().map(|slice| slice.len).fold(0, u32::wrapping_add);
            let fate = if fault.is_some() { Fate::Gone } else { Fate::Open };
            let pending =
                Pending { token, work, position: 0, block, slices, fault, withdrawn: false, remote: None };
            batch.push((pending, Item { uid, len, fate }));
        }
        let ops: Vec<Op<'_>> = batch
            .iter()
            .map(|(pending, _)| match pending.work {
                Work::Send => Op::Send { token: pending.token, from: &pending.slices },
                Work::Recv | Work::Write | Work::Read => {
                    Op::Recv { token: pending.token, into: &pending.slices }
                }
            })
            .collect();
        let short = self.world.strikes().of(FaultKind::ShortAcceptance);
        let accepted = self.people[person].transport.submit(id, &ops);
        let short = self.world.strikes().of(FaultKind::ShortAcceptance) > short;
        if accepted.count > batch.len() || (accepted.count == batch.len()) != accepted.stopped.is_none() {
            return self.find(format!("of {} operations, {accepted:?}", batch.len()));
        }
        let next = batch.get(accepted.count).map(|(pending, _)| pending.work);
        for (index, (mut pending, item)) in batch.into_iter().enumerate() {
            if index >= accepted.count {
                if let Some((bed, block)) = pending.block {
                    self.people[person].beds[bed].free.push(block);
                }
                continue;
            }
            let pair = &mut self.pairs[pair];
            let items = match pending.work {
                Work::Send => &mut pair.ways[side].sends,
                Work::Recv | Work::Write | Work::Read => &mut pair.ways[1 - side].recvs,
            };
            pending.position = items.len();
            items.push(item);
            self.people[person].conns[conn].pending.push(pending);
        }
        self.judge_window(person, conn, next, accepted.stopped, short);
    }

    fn judge_window(
        &mut self,
        person: usize,
        conn: usize,
        next: Option<Work>,
        stopped: Option<Stop>,
        short: bool,
    ) {
        let known = &self.people[person].conns[conn];
        let Some(limits) = known.limits else { return };
        let full = |work: Work, window: u16| {
            let count = known.pending.iter().filter(|pending| pending.work == work).count();
            (count, usize::from(window))
        };
        let (sends, recvs) = (full(Work::Send, limits.max_sends), full(Work::Recv, limits.max_recvs));
        if sends.0 > sends.1 || recvs.0 > recvs.1 {
            return self.find(format!("windows of {limits:?}: {} sends, {} receives", sends.0, recvs.0));
        }
        let room = match next {
            Some(Work::Send) => sends.0 < sends.1,
            Some(_) => recvs.0 < recvs.1,
            None => false,
        };
        if stopped == Some(Stop::Busy) && room && !short {
            self.find(format!("Busy with {} sends and {} receives of {limits:?}", sends.0, recvs.0));
        }
    }

    fn length(&mut self, pair: usize, work: Work) -> u32 {
        if let Some(uniform) = self.pairs[pair].uniform {
            return uniform;
        }
        match work {
            Work::Recv if !self.random.one_in(40) => LONGEST,
            _ if self.random.one_in(10) => [0, LONGEST][self.random.index(2)],
            Work::Send | Work::Recv | Work::Write | Work::Read => {
                self.random.between(0, u64::from(LONGEST)) as u32
            }
        }
    }

    /// Slices that are not legal, and how that ends.
    fn bad(&mut self, person: usize, nic: u16) -> Option<(Vec<Slice>, OpFault)> {
        let known = &self.people[person];
        let bed = known.beds.iter().find(|bed| bed.nic == nic && bed.state == BedState::Live)?;
        let slice = |region, offset: u64, len| vec![Slice { region, offset, len }];
        let end = (BLOCK * BLOCKS) as u64;
        let region = bed.region;
        let bad = match self.random.below(7) {
            0 => (slice(known.stale.last().copied()?, 0, 1), OpFault::BadSlice),
            1 => (slice(region, end - 10, 11), OpFault::BadSlice),
            2 => (slice(region, u64::MAX, 2), OpFault::BadSlice),
            3 => (Vec::new(), OpFault::SliceCount),
            4 => (slice(region, 0, 1).repeat(17), OpFault::SliceCount),
            5 => (slice(region, 0, LONGEST + 1), OpFault::TooLong),
            _ => {
                let other = |bed: &&Bed| bed.nic != nic || bed.state == BedState::Retiring;
                (slice(known.beds.iter().find(other)?.region, 0, 1), OpFault::BadSlice)
            }
        };
        Some(bad)
    }

    fn cancel(&mut self, person: usize) {
        let Some(conn) = self.some_conn(person) else { return };
        let known = &self.people[person].conns[conn];
        let at = self.random.index(known.pending.len());
        let Some(pending) = known.pending.get(at) else { return };
        let (id, token, position, work) = (known.id, pending.token, pending.position, pending.work);
        let (pair, side, again) = (known.pair, known.side, pending.withdrawn || pending.fault.is_some());
        if !self.people[person].transport.cancel(id, token) {
            return;
        }
        if again {
            return self.find(format!("{token:?} was cancelled after its end"));
        }
        self.people[person].conns[conn].pending[at].withdrawn = true;
        match work {
            Work::Send => self.pairs[pair].ways[side].sends[position].fate = Fate::Gone,
            Work::Recv => self.pairs[pair].ways[1 - side].recvs[position].fate = Fate::Gone,
            Work::Write | Work::Read => {}
        }
    }

    pub(super) fn retire(&mut self, person: usize, bed: usize) {
        let known = &mut self.people[person];
        let Some(bed) = known.beds.get_mut(bed).filter(|bed| bed.state == BedState::Live) else { return };
        bed.state = BedState::Retiring;
        let region = bed.region;
        let (first, again) = (known.transport.retire(region), known.transport.retire(region));
        if first.is_err() || again.is_ok() || known.transport.reclaim(region).is_some() {
            self.find(format!("{region:?} is not retired once, to be reclaimed later"));
        }
    }

    pub(super) fn close(&mut self, person: usize, conn: usize) {
        let known = &mut self.people[person];
        let Some(conn) = known.conns.get_mut(conn).filter(|conn| conn.state != ConnState::Closed) else {
            return;
        };
        conn.closed_by_me = true;
        if let Err(error) = known.transport.close(conn.id) {
            self.find(format!("close: {error}"));
        }
    }

    /// Ids of what is gone are refused.
    fn stale(&mut self, person: usize) {
        let known = &mut self.people[person];
        let closed = |conn: &&Conn| conn.state == ConnState::Closed;
        if let Some(id) = known.conns.iter().find(closed).map(|conn| conn.id) {
            let live = known.beds.iter().find(|bed| bed.state == BedState::Live);
            let slices = [live.map(|bed| Slice { region: bed.region, offset: 0, len: 0 })];
            let slices: Vec<Slice> = slices.into_iter().flatten().collect();
            let accepted = known.transport.submit(id, &[Op::Recv { token: Token(0), into: &slices }]);
            let cancelled = known.transport.cancel(id, Token(0));
            let refused = known.transport.close(id).is_err() && known.transport.limits(id).is_none();
            if accepted.count != 0 || accepted.stopped != Some(Stop::Closed) || cancelled || !refused {
                self.find(format!("{id:?} is stale, and {accepted:?}"));
                return;
            }
        }
        let known = &mut self.people[person];
        if let Some(&region) = known.stale.last()
            && (known.transport.retire(region).is_ok() || known.transport.reclaim(region).is_some())
        {
            self.find(format!("{region:?} is stale and was retired again"));
        }
    }

    /// A one-sided operation on an exported block of the peer.
    fn remote(&mut self, person: usize) {
        let Some(conn) = self.some_conn(person) else { return };
        let known = &self.people[person].conns[conn];
        let (id, nic, pair, side) = (known.id, known.nic, known.pair, known.side);
        let (peer, other) = self.pairs[pair].ends[1 - side];
        let target = &self.people[peer].conns[other];
        let (target_id, target_nic) = (target.id, target.nic);
        if target.state != ConnState::Connected || self.people[person].transport.one_sided().is_none() {
            return;
        }
        let Some((bed, block)) = self.block(peer, target_nic) else { return };
        let len = self.random.between(0, u64::from(LONGEST)) as u32;
        let region = self.people[peer].beds[bed].region;
        let gap = self.random.between(0, 50);
        let local = Slice { region, offset: (block * BLOCK) as u64 + gap, len };
        let export = match self.people[peer].transport.one_sided() {
            Some(one_sided) => one_sided.export(target_id, local),
            None => return,
        };
        let Ok(slice) = export else { return self.find("a good slice is not exported") };
        let uid = self.uid();
        let stale = self.random.one_in(12);
        if stale {
            self.retire(peer, bed);
        }
        let notify = self.random.one_in(2);
        let remote = Remote { person: peer, bed, block, local, slice, uid, stale, notify };
        self.submit_remote((person, conn), id, nic, remote);
    }

    fn submit_remote(&mut self, at: (usize, usize), id: p2p_transport::ConnId, nic: u16, mut remote: Remote) {
        let (person, conn) = at;
        let Some((bed, block)) = self.block(person, nic) else { return };
        let len = remote.local.len;
        let own = &self.people[person].beds[bed];
        let slice =
            Slice { region: own.region, offset: (block * BLOCK) as u64 + self.random.between(0, 50), len };
        let token = Token(remote.uid);
        let work = if self.random.one_in(2) { Work::Write } else { Work::Read };
        // Ranges that reach outside are refused.
        let outside = self.random.one_in(15);
        let mut to = remote.slice;
        if outside {
            to = RemoteSlice { addr: to.addr + 1, ..to };
            remote.stale = true;
        }
        let wrong = self.random.one_in(25);
        if wrong {
            to.len += 1;
        }
        let op = if work == Work::Write {
            own.fill(&[slice], remote.uid);
            let notify = remote.notify.then_some(remote.uid as u32);
            OneSidedOp::Write { token, from: slice, to, notify }
        } else {
            let target = &self.people[remote.person].beds[remote.bed];
            if target.state != BedState::Gone {
                target.fill(&[remote.local], remote.uid);
            }
            OneSidedOp::Read { token, from: to, into: slice }
        };
        let Some(one_sided) = self.people[person].transport.one_sided() else { return };
        if one_sided.submit(id, &[op]).count == 0 {
            return;
        }
        let fault = wrong.then_some(OpFault::TooLong);
        let known = &mut self.people[person].conns[conn];
        let (pair, side) = (known.pair, known.side);
        known.pending.push(Pending {
            token,
            work,
            position: 0,
            block: Some((bed, block)),
            slices: vec![slice],
            fault,
            withdrawn: false,
            remote: Some(remote),
        });
        if work == Work::Write && remote.notify {
            self.pairs[pair].told[1 - side].push((remote.uid as u32, remote));
        }
    }
}
