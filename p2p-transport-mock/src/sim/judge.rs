//! Whether what was reported is right.

use p2p_memory::{Memory, SharedHost};
use p2p_transport::{ConnId, Event, Events, OpFault, Outcome, RegionId, Token, Transport};

use super::Sim;
use super::bed::BedState;
use super::people::{ConnState, Fate, Pending, Way, Work};
use crate::state::CODE_CLOSED;

impl Sim {
    pub(super) fn poll_some(&mut self) {
        for person in 0..self.people.len() {
            if self.random.one_in(2) {
                self.poll(person);
            }
        }
    }

    /// True if anything was reported.
    pub(super) fn poll_all(&mut self) -> bool {
        let mut any = false;
        for person in 0..self.people.len() {
            while self.poll(person) && self.findings.is_empty() {
                any = true;
            }
        }
        any
    }

    fn poll(&mut self, person: usize) -> bool {
        let now = self.world.now();
        let room = self.random.between(1, 8) as usize;
        let mut events = Events::with_capacity(room);
        let _ = self.people[person].transport.poll(now, &mut events);
        let Self { people, random, findings, .. } = self;
        people[person].talker.poll(now, random, findings);
        let events: Vec<Event> = events.drain().collect();
        for &event in &events {
            self.judge(person, event, &events);
        }
        !events.is_empty()
    }

    fn judge(&mut self, person: usize, event: Event, batch: &[Event]) {
        match event {
            Event::Connected(id) => {
                let limits = self.people[person].transport.limits(id).copied();
                match self.conn(person, id) {
                    Some(conn) if self.people[person].conns[conn].state == ConnState::Pending => {
                        let known = &mut self.people[person].conns[conn];
                        (known.state, known.limits) = (ConnState::Connected, limits);
                        // One that is closed already has none any more.
                        if limits.is_none() && !batch.contains(&Event::Closed(id)) {
                            self.find("a connection has no limits");
                        }
                    }
                    _ => self.find(format!("{event:?} of a connection that does not wait")),
                }
            }
            Event::Closed(id) => self.judge_closed(person, id),
            Event::Completed { conn, token, outcome } => self.judge_completed(person, conn, token, outcome),
            Event::Retired(region) => self.judge_retired(person, region),
            Event::Notified { conn, value } => self.judge_notified(person, conn, value),
            _ => self.find(format!("{event:?} is unknown here")),
        }
    }

    /// The connection that lives under this id.
    fn conn(&self, person: usize, id: ConnId) -> Option<usize> {
        let conns = &self.people[person].conns;
        conns.iter().position(|conn| conn.id == id && conn.state != ConnState::Closed)
    }

    fn judge_closed(&mut self, person: usize, id: ConnId) {
        let Some(conn) = self.conn(person, id) else {
            return self.find(format!("{id:?} is closed, and was not open"));
        };
        let known = &mut self.people[person];
        let why = known.transport.why(id);
        let limits = known.transport.limits(id).is_some();
        let conn = &mut known.conns[conn];
        conn.state = ConnState::Closed;
        conn.code = why.and_then(p2p_transport::Error::code);
        let left = conn.pending.len();
        let unexplained = why.is_none() && !conn.closed_by_me;
        if left > 0 {
            self.find(format!("{id:?} is closed with {left} operations pending"));
        } else if unexplained || limits {
            self.find(format!("{id:?} is closed: no reason {unexplained}, limits {limits}"));
        }
    }

    fn judge_completed(&mut self, person: usize, id: ConnId, token: Token, outcome: Outcome) {
        let Some(conn) = self.conn(person, id) else {
            return self.find(format!("{token:?} completed on {id:?}, which is not open"));
        };
        let known = &mut self.people[person].conns[conn];
        let Some(at) = known.pending.iter().position(|pending| pending.token == token) else {
            return self.find(format!("{token:?} completed with {outcome:?}, and is not pending"));
        };
        let pending = known.pending.remove(at);
        let (pair, side) = (known.pair, known.side);
        let two_sided = matches!(pending.work, Work::Send | Work::Recv);
        let fifo = known.limits.is_some_and(|limits| limits.fifo);
        let ran = pending.fault.is_none() && !pending.withdrawn;
        if fifo && ran && two_sided && known.pending[..at].iter().any(|other| other.work == pending.work) {
            return self.find(format!("{token:?} overtook another {:?}", pending.work));
        }
        let ending = known.closed_by_me || self.people[person].transport.why(id).is_some();
        let verdict = match (pending.fault, pending.withdrawn, outcome) {
            (Some(fault), _, Outcome::Failed(seen)) if fault == seen => Ok(()),
            (None, true, Outcome::Cancelled) => Ok(()),
            (Some(_), ..) | (_, true, _) => Err("it was refused, or withdrawn".to_owned()),
            (None, false, Outcome::ConnLost) if ending => {
                self.fate(&pending, pair, side, Fate::Lost);
                self.untouched(person, &pending)
            }
            (None, false, outcome) => match pending.work {
                Work::Send => self.judge_send(&pending, pair, side, outcome),
                Work::Recv => self.judge_recv(person, &pending, pair, side, outcome),
                Work::Write | Work::Read => self.judge_remote(person, &pending, outcome),
            },
        };
        if let Err(why) = verdict {
            self.find(format!("{:?} {token:?} ended {outcome:?}: {why}", pending.work));
        }
        self.free(person, &pending, outcome);
    }

    /// Nothing but the slices has changed.
    fn untouched(&self, person: usize, pending: &Pending) -> Result<(), String> {
        match pending.block {
            Some((bed, block)) if pending.work != Work::Send => {
                self.people[person].beds[bed].holds(block, &pending.slices, None)
            }
            _ => Ok(()),
        }
    }

    fn fate(&mut self, pending: &Pending, pair: usize, side: usize, fate: Fate) {
        let ways = &mut self.pairs[pair].ways;
        match pending.work {
            Work::Send => ways[side].sends[pending.position].fate = fate,
            Work::Recv => ways[1 - side].recvs[pending.position].fate = fate,
            Work::Write | Work::Read => {}
        }
    }

    fn judge_send(
        &mut self,
        pending: &Pending,
        pair: usize,
        side: usize,
        outcome: Outcome,
    ) -> Result<(), String> {
        let len: u32 = pending.slices.iter().map(|slice| slice.len).sum();
        self.fate(pending, pair, side, Fate::Done);
        if outcome == (Outcome::Done { len }) { Ok(()) } else { Err(format!("it has {len} bytes")) }
    }

    fn judge_recv(
        &mut self,
        person: usize,
        pending: &Pending,
        pair: usize,
        side: usize,
        outcome: Outcome,
    ) -> Result<(), String> {
        self.fate(pending, pair, side, Fate::Done);
        let way = &self.pairs[pair].ways[1 - side];
        let Some(sent) = way.met(pending.position) else { return Err("nothing was sent to it".to_owned()) };
        let room: u32 = pending.slices.iter().map(|slice| slice.len).sum();
        let Some((bed, block)) = pending.block else { return Err("it was bad".to_owned()) };
        let bed = &self.people[person].beds[bed];
        match outcome {
            Outcome::Done { len } if len == sent.len && sent.len <= room => {
                bed.holds(block, &pending.slices, Some((sent.uid, len as usize)))
            }
            Outcome::Failed(OpFault::Truncated) if sent.len > room => bed.holds(block, &pending.slices, None),
            Outcome::Done { .. } | Outcome::Cancelled | Outcome::ConnLost | Outcome::Failed(_) | _ => {
                Err(format!("{} bytes were sent to its {room}", sent.len))
            }
        }
    }

    fn judge_remote(&self, person: usize, pending: &Pending, outcome: Outcome) -> Result<(), String> {
        let Some(remote) = pending.remote else { return Err("it has no other end".to_owned()) };
        let target = &self.people[remote.person].beds[remote.bed];
        let there = target.state != BedState::Gone;
        let len = remote.local.len;
        match (outcome, pending.work) {
            (Outcome::Done { len: seen }, _) if seen != len || remote.stale => {
                Err(format!("it has {len} bytes, stale: {}", remote.stale))
            }
            (Outcome::Done { .. }, Work::Write) if there => {
                target.holds(remote.block, &[remote.local], Some((remote.uid, len as usize)))
            }
            (Outcome::Done { .. }, Work::Read) => {
                let Some((bed, block)) = pending.block else { return Ok(()) };
                let own = &self.people[person].beds[bed];
                own.holds(block, &pending.slices, Some((remote.uid, len as usize)))
            }
            (Outcome::Done { .. }, _) => Ok(()),
            (Outcome::Failed(OpFault::Remote), _) if remote.stale || target.state != BedState::Live => {
                if there && pending.work == Work::Write {
                    target.holds(remote.block, &[], None)
                } else {
                    Ok(())
                }
            }
            _ => Err(format!("stale: {}, its target: {:?}", remote.stale, target.state)),
        }
    }

    /// Blocks of an operation that has ended may be used again, and are, so that late writes show.
    fn free(&mut self, person: usize, pending: &Pending, outcome: Outcome) {
        if let Some((bed, block)) = pending.block {
            let bed = &mut self.people[person].beds[bed];
            if bed.state != BedState::Gone {
                // What the transport still reads is wrong from here on.
                bed.clear(block);
            }
            bed.free.push(block);
        }
        if let (Some(remote), Outcome::Failed(_)) = (pending.remote, outcome) {
            self.people[remote.person].beds[remote.bed].free.push(remote.block);
        }
    }

    fn judge_notified(&mut self, person: usize, id: ConnId, value: u32) {
        let Some(conn) = self.conn(person, id) else {
            return self.find(format!("{value} notified on {id:?}, which is not open"));
        };
        let known = &self.people[person].conns[conn];
        let told = &mut self.pairs[known.pair].told[known.side];
        let Some(at) = told.iter().position(|(promised, _)| *promised == value) else {
            return self.find(format!("{value} was notified, and is not promised"));
        };
        let (_, remote) = told.swap_remove(at);
        let target = &self.people[remote.person].beds[remote.bed];
        let len = remote.local.len as usize;
        if target.state != BedState::Gone
            && let Err(why) = target.holds(remote.block, &[remote.local], Some((remote.uid, len)))
        {
            self.find(format!("{value} was notified before its bytes: {why}"));
        }
    }

    fn judge_retired(&mut self, person: usize, region: RegionId) {
        let known = &mut self.people[person];
        let retiring = |bed: &super::Bed| bed.region == region && bed.state == BedState::Retiring;
        let Some(bed) = known.beds.iter().position(retiring) else {
            return self.find(format!("{region:?} is retired, and was not retiring"));
        };
        let uses = |pending: &Pending| pending.slices.iter().any(|slice| slice.region == region);
        let used = known
            .conns
            .iter()
            .flat_map(|conn| &conn.pending)
            .any(|pending| uses(pending) && pending.fault.is_none());
        known.beds[bed].state = BedState::Gone;
        known.stale.push(region);
        let back = known
            .transport
            .reclaim(region)
            .and_then(|memory| memory.into_any().downcast::<SharedHost>().ok());
        let span = known.beds[bed].memory.span();
        let same = back.is_some_and(|memory| memory.span() == span);
        let again = known.transport.reclaim(region).is_some();
        if used || !same || again {
            self.find(format!("{region:?} is retired: used {used}, same owner {same}, twice {again}"));
        }
    }

    /// What can only be said when everything has ended.
    pub(super) fn judge_ends(&mut self) {
        let mut findings = Vec::new();
        for (number, pair) in self.pairs.iter().enumerate() {
            for side in 0..2 {
                let (person, conn) = pair.ends[1 - side];
                let receiver = &self.people[person].conns[conn];
                if receiver.code != Some(CODE_CLOSED) || receiver.closed_by_me {
                    continue;
                }
                let way = &pair.ways[side];
                let posted = Way::counted(&way.recvs);
                let (sent, received) = (Way::done(&way.sends), Way::done(&way.recvs));
                if received < sent.min(posted) {
                    findings
                        .push(format!("pair {number}: {sent} sends done, {received} of {posted} received"));
                }
            }
        }
        self.findings.extend(findings);
    }

    /// A control stream of which not all has arrived.
    pub(super) fn unheard(&self) -> Option<String> {
        let talks = || self.people.iter().flat_map(|person| &person.talker.talks);
        talks().filter(|talk| !talk.broken).find_map(|from| {
            let (uid, connector) = from.key()?;
            let to = talks().find(|talk| talk.key() == Some((uid, !connector)))?;
            let over = to.closed || to.broken;
            let whole = to.heard == from.sent && (to.ended || !from.closed);
            (!over && !whole).then(|| format!("of {} control bytes, {} arrived", from.sent, to.heard))
        })
    }
}
