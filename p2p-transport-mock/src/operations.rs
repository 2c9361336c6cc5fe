//! The data plane of a transport: what is taken, withdrawn and reported.

use p2p_transport::{
    Accepted, ConnId, Error, Event, Events, Limits, Next, NicId, Now, OneSidedOp, Op, OpFault, Outcome,
    RegionId, RemoteSlice, Slice, Stop, Token,
};

use crate::fault::FaultKind;
use crate::lane::{Kind, Phase};
use crate::planted::Planted;
use crate::state::{Export, Place, Report, SideState, State, nanos};
use crate::visible::base_of;

/// What a transport keeps of a report besides the event.
pub(crate) enum Kept {
    Limits(Limits),
    Why(Error),
    Nothing,
}

impl State {
    /// Link and side of a connection that has a peer.
    fn linked(&self, end: usize, conn: ConnId) -> Option<(usize, usize)> {
        let conns = &self.ends[end].conns;
        let stale = self.is_planted(Planted::StaleIdAccepted);
        let conn = if stale { conns.id_at(conn.index()).unwrap_or(conn) } else { conn };
        match conns.get(conn)?.0 {
            Place::Linked { link, side } => Some((link, side)),
            Place::Waiting { .. } => None,
        }
    }

    /// Whether one more operation of a kind is taken now.
    fn room(&mut self, link: usize, side: usize, kind: Kind) -> Result<(), Stop> {
        let place = &self.links[link].sides[side];
        match place.state {
            SideState::Connecting => return Err(Stop::Busy),
            SideState::Open => {}
            SideState::PeerClosed if kind == Kind::Recv => {}
            SideState::PeerClosed | SideState::Closing | SideState::Flushed | SideState::Closed => {
                return Err(Stop::Closed);
            }
        }
        let lane = &place.lanes[kind as usize];
        let extra = u16::from(self.is_planted(Planted::WindowTooLarge));
        if lane.pending >= lane.window + extra {
            return Err(Stop::Busy);
        }
        let short = self.nodes[place.node].short;
        if short.until > self.now && u64::from(lane.pending) >= short.measure {
            self.strikes.count(FaultKind::ShortAcceptance);
            return Err(Stop::Busy);
        }
        Ok(())
    }

    /// What is said of a batch for a connection that has no peer.
    fn unlinked(&self, end: usize, conn: ConnId, count: usize) -> Accepted {
        if count == 0 {
            return Accepted::all(0);
        }
        let known = self.ends[end].conns.get(conn).is_some();
        Accepted::prefix(0, if known { Stop::Busy } else { Stop::Closed })
    }

    pub(crate) fn submit(&mut self, end: usize, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        let Some((link, side)) = self.linked(end, conn) else { return self.unlinked(end, conn, ops.len()) };
        for (count, op) in ops.iter().enumerate() {
            let kind = if matches!(op, Op::Send { .. }) { Kind::Send } else { Kind::Recv };
            if let Err(stop) = self.room(link, side, kind) {
                if self.is_planted(Planted::SuffixTaken) && stop == Stop::Busy && ops.len() > count + 1 {
                    self.take(end, link, side, kind, *op);
                }
                if count > 0 {
                    self.kick(link, side);
                }
                return Accepted::prefix(count, stop);
            }
            self.take(end, link, side, kind, *op);
        }
        if !ops.is_empty() {
            self.kick(link, side);
        }
        Accepted::all(ops.len())
    }

    fn take(&mut self, end: usize, link: usize, side: usize, kind: Kind, op: Op<'_>) {
        self.work += 1;
        let place = &mut self.links[link].sides[side];
        let nic = NicId(place.nic as u16);
        let (max_slices, max_message) = (place.limits.max_slices, place.limits.max_message);
        let slices = op.slices();
        let held = self.ends[end].regions.hold(nic, slices, max_slices, max_message);
        let held = if held == Err(OpFault::BadSlice) && self.is_planted(Planted::RetiredAccepted) {
            let total = slices.iter().map(|slice| slice.len).sum();
            let there = |slice: &Slice| self.ends[end].regions.memory(slice.region).is_some();
            if slices.iter().all(there) { Ok(total) } else { held }
        } else {
            held
        };
        let place = &mut self.links[link].sides[side];
        let lane = &mut place.lanes[kind as usize];
        let index = lane.push(op.token(), held.err().map(Outcome::Failed), held.unwrap_or(0));
        let serial = lane.slot(index).map_or(0, |slot| slot.serial);
        self.audit_accepted(link, side, kind, serial);
        self.trace.add(self.now, serial, &(link, side, kind));
        let lane = &mut self.links[link].sides[side].lanes[kind as usize];
        if held.is_ok() {
            if let Some(slot) = lane.slot_mut(index) {
                slot.slices.extend_from_slice(slices);
            }
            if self.is_planted(Planted::UsersMiscounted) {
                // The planted bug: a user too many, until the operation is reported.
                let _ = self.ends[end].regions.hold(nic, &slices[..1], 1, max_message);
            }
        } else {
            self.hand_over(link, side, kind, index);
        }
        if kind == Kind::Recv {
            self.meet(link, side);
            self.kick(link, 1 - side);
        }
    }

    pub(crate) fn submit_one_sided(&mut self, end: usize, conn: ConnId, ops: &[OneSidedOp]) -> Accepted {
        let Some((link, side)) = self.linked(end, conn) else { return self.unlinked(end, conn, ops.len()) };
        for (count, op) in ops.iter().enumerate() {
            if let Err(stop) = self.room(link, side, Kind::OneSided) {
                if count > 0 {
                    self.kick(link, side);
                }
                return Accepted::prefix(count, stop);
            }
            let place = &mut self.links[link].sides[side];
            let (nic, most) = (NicId(place.nic as u16), place.limits.max_message);
            let held = if op.local().len == op.remote().len {
                self.ends[end].regions.hold(nic, &[op.local()], 1, most)
            } else {
                Err(OpFault::TooLong)
            };
            let lane = &mut place.lanes[Kind::OneSided as usize];
            let index = lane.push(op.token(), held.err().map(Outcome::Failed), held.unwrap_or(0));
            let Some(slot) = lane.slot_mut(index) else { continue };
            let serial = slot.serial;
            slot.one_sided = Some(*op);
            if held.is_ok() {
                slot.slices.push(op.local());
            } else {
                self.hand_over(link, side, Kind::OneSided, index);
            }
            self.audit_accepted(link, side, Kind::OneSided, serial);
            self.trace.add(self.now, serial, &(link, side, op));
        }
        if !ops.is_empty() {
            self.kick(link, side);
        }
        Accepted::all(ops.len())
    }

    pub(crate) fn export(&mut self, end: usize, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error> {
        let (link, side) = self.linked(end, conn).ok_or_else(|| Error::stale("export", "connection"))?;
        let nic = NicId(self.links[link].sides[side].nic as u16);
        let known = &mut self.ends[end];
        if known.regions.check(nic, slice).is_err() {
            let text = "the slice is outside its region, or the region is retired or of another NIC";
            return Err(Error::misuse("export", text));
        }
        let regions = &known.regions;
        let usable = |export: &Export| {
            let facts = regions.facts(export.slice.region);
            export.live && facts.is_some_and(|(nic, ..)| regions.check(nic, export.slice).is_ok())
        };
        let free = known.exports.iter().position(|export| !usable(export));
        let index = free.unwrap_or(known.exports.len());
        // The number of its place, and of how often that place was used.
        let uses = known.exports.get(index).map_or(1, |export| (export.key >> 16) + 1);
        let key = (index as u64 & 0xffff) | (uses & 0xffff) << 16;
        let export = Export { link, side, slice, key, live: true };
        if index < known.exports.len() {
            known.exports[index] = export;
        } else {
            known.exports.push(export);
        }
        Ok(RemoteSlice { addr: base_of(key), key, len: slice.len })
    }

    pub(crate) fn cancel(&mut self, end: usize, conn: ConnId, token: Token) -> bool {
        let Some((link, side)) = self.linked(end, conn) else { return false };
        self.work += 1;
        let mut newest = None;
        for kind in Kind::ALL {
            if kind == Kind::Recv && self.settings.posted_is_started {
                continue;
            }
            let lane = &self.links[link].sides[side].lanes[kind as usize];
            if let Some((_, at)) = lane.newest_waiting(token) {
                newest = Some((kind, at));
            }
        }
        let Some((kind, at)) = newest else {
            return self.is_planted(Planted::CancelStarted) && self.random.one_in(4);
        };
        let lane = &mut self.links[link].sides[side].lanes[kind as usize];
        let Some(&slot) = lane.queue.get(at) else { return false };
        let serial = lane.slot(slot).map_or(0, |slot| slot.serial);
        if self.is_planted(Planted::CancelReportsTwice) {
            let report = Report::Completed { link, side, kind, slot, serial };
            self.report(end, report);
        }
        let started = self.strikes_planted(Planted::CancelStarted, 4);
        let lane = &mut self.links[link].sides[side].lanes[kind as usize];
        if !started {
            lane.withdraw(at);
            self.finish(link, side, kind, slot, serial, Outcome::Cancelled);
        }
        self.kick(link, side);
        true
    }

    /// Two kinds may have the same token; the newest of them all is meant.
    pub(crate) fn poll(
        &mut self,
        end: usize,
        now: Now,
        events: &mut Events,
        mut keep: impl FnMut(ConnId, Kept),
    ) -> Next {
        let now = nanos(now.0);
        while events.room() > 0 {
            let due = self.ends[end].reports.front().is_some_and(|(at, _)| *at <= now);
            let Some((_, report)) = due.then(|| self.ends[end].reports.pop_front()).flatten() else { break };
            if let Some((event, kept)) = self.event(end, report) {
                self.trace.add(self.now, end as u64, &event);
                let conn = match event {
                    Event::Connected(conn) | Event::Closed(conn) => Some(conn),
                    Event::Completed { conn, .. } | Event::Notified { conn, .. } => Some(conn),
                    Event::Retired(_) | _ => None,
                };
                if let Some(conn) = conn {
                    keep(conn, kept);
                }
                // There is room: asked above.
                let _ = events.push(event);
            }
        }
        while events.room() > 0
            && let Some(region) = self.ends[end].regions.next_retired()
        {
            self.work += 1;
            self.audit_retired(end, region);
            self.trace.add(self.now, end as u64, &region);
            let _ = events.push(Event::Retired(region));
        }
        self.next(end, now)
    }

    fn next(&self, end: usize, now: u64) -> Next {
        let known = &self.ends[end];
        let due = known.reports.front().is_some_and(|(at, _)| *at <= now);
        if due || known.regions.has_retired() {
            return Next::Again;
        }
        let mine = |side: &&crate::state::Side| side.end == end && side.state != SideState::Closed;
        let mut sides = self.links.iter().flat_map(|link| &link.sides).filter(mine);
        let busy = |side: &crate::state::Side| {
            side.state != SideState::Open || side.lanes.iter().any(|lane| lane.pending > 0)
        };
        let waiting = known.conns.iter().any(|(_, (place, _))| matches!(place, Place::Waiting { .. }));
        let works = waiting || !known.reports.is_empty() || sides.any(busy);
        let reports = known.reports.front().map(|(at, _)| *at);
        let wake = [self.next_time(), reports].into_iter().flatten().min();
        let wake = wake.map(|at| Now(std::time::Duration::from_nanos(at)));
        if works { Next::Wait(wake) } else { Next::Idle(wake) }
    }

    fn event(&mut self, end: usize, report: Report) -> Option<(Event, Kept)> {
        self.work += 1;
        match report {
            Report::Connected { conn, link, side } => {
                let limits = self.links[link].sides[side].limits;
                Some((Event::Connected(conn), Kept::Limits(limits)))
            }
            Report::Completed { link, side, kind, slot, serial } => {
                let lane = &self.links[link].sides[side].lanes[kind as usize];
                let ran = lane.slot(slot).is_some_and(crate::lane::Slot::ran);
                self.audit_reported(link, side, kind, serial, ran);
                let place = &mut self.links[link].sides[side];
                let conn = place.conn;
                let known = place.lanes[kind as usize].slot(slot)?;
                let token = known.token;
                let Phase::Finished(outcome) = known.phase else {
                    return self.is_planted(Planted::CancelReportsTwice).then_some((
                        Event::Completed { conn, token, outcome: Outcome::Cancelled },
                        Kept::Nothing,
                    ));
                };
                let slices = std::mem::take(&mut place.lanes[kind as usize].slot_mut(slot)?.slices);
                if kind != Kind::OneSided && self.is_planted(Planted::UsersMiscounted) {
                    let first = &slices[..slices.len().min(1)];
                    self.ends[end].regions.release(first, p2p_transport::Regions::ready);
                }
                self.ends[end].regions.release(&slices, p2p_transport::Regions::ready);
                let never_again = self.strikes_planted(Planted::BusyForever, 10);
                let lane = &mut self.links[link].sides[side].lanes[kind as usize];
                lane.slot_mut(slot)?.slices = slices;
                if !never_again {
                    lane.release(slot);
                }
                let why = self.ends[end].conns.get(conn).and_then(|(_, why)| why.clone());
                let lost = outcome == Outcome::ConnLost;
                let kept = why.filter(|_| lost).map_or(Kept::Nothing, Kept::Why);
                Some((Event::Completed { conn, token, outcome }, kept))
            }
            Report::Notified { conn, value } => Some((Event::Notified { conn, value }, Kept::Nothing)),
            Report::Closed { conn } => {
                if let Some((link, side)) = self.linked(end, conn) {
                    self.audit_closed(link, side);
                }
                let (_, why) = self.ends[end].conns.remove(conn)?;
                Some((Event::Closed(conn), why.map_or(Kept::Nothing, Kept::Why)))
            }
        }
    }

    pub(crate) fn retire(&mut self, end: usize, region: RegionId) -> Result<(), Error> {
        let early = self.is_planted(Planted::RetiredEarly);
        let freed = self.is_planted(Planted::RegionFreedEarly);
        let regions = &mut self.ends[end].regions;
        let users = regions.users(region);
        let unused = regions.retire(region)?;
        if unused || early && users == Some(1) {
            regions.ready(region);
        } else if freed && users == Some(1) {
            // The planted bug: freed one step before its last user has ended.
            drop(regions.take_back(region));
        }
        Ok(())
    }
}
