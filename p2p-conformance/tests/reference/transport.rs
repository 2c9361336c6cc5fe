//! One end, as the contract wants it.

use std::sync::{Arc, Mutex, MutexGuard};

use p2p_memory::Shared;
use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Event, Events, Limits, ListenerId, Memory, MemoryKind, Next,
    Nic, NicId, Now, Op, OpFault, Outcome, Rail, RegionId, RegisterError, Slice, Stop, Token, Transport,
};

use super::Bug;
use super::world::{Conn, Oper, Report, State, World};

const MAGIC: &[u8] = b"reference";

pub(crate) struct Local {
    world: Arc<Mutex<World>>,
    end: usize,
    nics: Vec<Nic>,
    limits: Limits,
    reasons: Vec<(ConnId, Error)>,
    #[allow(clippy::vec_box, reason = "the mistake is to box")]
    boxes: Vec<Box<Oper>>,
}

impl Local {
    pub(crate) fn new(world: Arc<Mutex<World>>, end: usize) -> Self {
        let limits = world.lock().expect("no panic inside").limits;
        let nics = vec![Nic::new(NicId(0), "memory")];
        Self { world, end, nics, limits, reasons: Vec::new(), boxes: Vec::new() }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic inside")
    }

    fn check_rail(rail: Rail, during: &'static str) -> Result<(), Error> {
        match rail {
            Rail { nic: NicId(0), channels: 1.., .. } => Ok(()),
            Rail { .. } => Err(Error::misuse(during, "there is NIC 0, with at least one channel")),
        }
    }
}

/// Takes one operation, or says why not.
fn take(world: &mut World, end: usize, id: ConnId, op: &Op<'_>) -> Result<(), Stop> {
    let bug = world.bug;
    let limits = world.limits;
    let Some(conn) = world.ends[end].conns.get_mut(id) else { return Err(Stop::Closed) };
    match conn.state {
        State::Accepting(_) | State::Connecting(_) => return Err(Stop::Busy),
        State::Ended if bug == Bug::AcceptsWhileClosing => {}
        State::Ended => return Err(Stop::Closed),
        State::Up => {}
    }
    let send = matches!(op, Op::Send { .. });
    let side = usize::from(send);
    let mut most = usize::from(if send { limits.max_sends } else { limits.max_recvs });
    if bug == Bug::OffByOne {
        most += usize::from(send);
    }
    let mut used = conn.used[side];
    if bug == Bug::OneWindow {
        most = usize::from(limits.max_sends.max(limits.max_recvs));
        used = conn.used[0] + conn.used[1];
    }
    if used >= most || (conn.was_full && used > 0) {
        conn.was_full = bug == Bug::BusyUntilEmpty;
        return Err(Stop::Busy);
    }
    conn.was_full = false;
    if bug == Bug::SubmitScans {
        world.work += 20 * (conn.sends.len() + conn.recvs.len()) as u64;
    }
    conn.used[side] += 1;
    world.work += 1;
    let this = &mut world.ends[end];
    let mut most_slices = limits.max_slices;
    if bug == Bug::LastSliceLost {
        most_slices -= 1;
    }
    let longest = limits.max_message - u32::from(bug == Bug::MaximumExcluded);
    let mut by_position = op.slices().first().map(|first| [*first; 4]);
    let slices = match &mut by_position {
        Some(named) if bug == Bug::StaleRegion && op.slices().len() <= named.len() => {
            for (slice, named) in op.slices().iter().zip(&mut *named) {
                let newest = this.region_ids.iter().rev().find(|id| id.index() == slice.region.index());
                *named = Slice { region: newest.copied().unwrap_or(slice.region), ..*slice };
            }
            &named[..op.slices().len()]
        }
        _ => op.slices(),
    };
    let count = slices.len();
    let checked = if bug == Bug::ChecksFirstSlice { &slices[..count.min(1)] } else { slices };
    let mut held = this.regions.hold(NicId(0), checked, most_slices, longest);
    if bug == Bug::ChecksFirstSlice {
        let total = slices.iter().map(|slice| slice.len).sum();
        held = held.and(if count > 4 { Err(OpFault::SliceCount) } else { Ok(total) });
    }
    if bug == Bug::RetiredStillTaken && held == Err(OpFault::BadSlice) {
        let retiring = slices.iter().all(|slice| {
            this.regions
                .facts(slice.region)
                .is_some_and(|(_, _, length)| slice.offset + u64::from(slice.len) <= length as u64)
        });
        held = if retiring { Ok(slices.iter().map(|slice| slice.len).sum()) } else { held };
    }
    match held {
        Ok(len) => {
            if bug == Bug::HoldsOnce {
                this.regions.release(&slices[1..], |_, _| ());
            }
            let op = Oper::new(op.token(), slices, len);
            let Some(conn) = this.conns.get_mut(id) else { return Err(Stop::Closed) };
            let list = if send { &mut conn.sends } else { &mut conn.recvs };
            if bug == Bug::UniqueTokens {
                list.retain(|held| held.token != op.token);
            }
            list.push_back(op);
        }
        Err(_)
            if bug == Bug::RetiredRejected && count > 0 && this.regions.facts(slices[0].region).is_some() =>
        {
            let Some(conn) = this.conns.get_mut(id) else { return Err(Stop::Closed) };
            conn.used[side] -= 1;
            return Err(Stop::Busy);
        }
        Err(fault) => {
            let mut op = Oper::new(op.token(), &[], 0);
            world.finish(end, id, send, op, Outcome::Failed(fault));
            if bug == Bug::FailedTakesPlace && !send {
                op.swallows = true;
                let conn = world.ends[end].conns.get_mut(id);
                conn.into_iter().for_each(|conn| conn.recvs.push_back(op));
            }
        }
    }
    Ok(())
}

/// Ends the use of what a reported operation held, and frees its place.
fn give_up(world: &mut World, end: usize, conn: ConnId, send: bool, op: &Oper, outcome: Outcome) {
    let bug = world.bug;
    let this = &mut world.ends[end];
    if let Some(conn) = this.conns.get_mut(conn) {
        let kept = (bug == Bug::BusyAfterFailure && matches!(outcome, Outcome::Failed(_)))
            || (bug == Bug::BusyAfterCancel && outcome == Outcome::Cancelled);
        let places =
            usize::from(!kept) + usize::from(bug == Bug::CancelFreesTwice && outcome == Outcome::Cancelled);
        let used = &mut conn.used[usize::from(send)];
        *used = used.saturating_sub(places);
    }
    if bug == Bug::LostKeeps && outcome == Outcome::ConnLost {
        return;
    }
    for slice in op.slices() {
        this.regions.release(&[slice], p2p_transport::Regions::ready);
    }
}

impl Transport for Local {
    fn nics(&self) -> &[Nic] {
        &self.nics
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        Ok(vec![Rail { nic: NicId(0), device, channels: 1 }])
    }

    fn region_align(&self, _: MemoryKind) -> usize {
        1
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        let world = self.world();
        let conn = world.ends[self.end].conns.get(conn)?;
        matches!(conn.state, State::Up | State::Ended).then_some(&self.limits)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        Self::check_rail(rail, "listen")?;
        let mut world = self.world();
        let number = world.next_address;
        world.next_address += 1;
        let listener = world.ends[self.end].listeners.insert(number);
        let bytes = [MAGIC, &number.to_le_bytes()].concat();
        Ok((listener, Address::new(&bytes).expect("a short address")))
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        self.reasons.clear();
        let mut world = self.world();
        let keep = world.has(Bug::AcceptsTwice);
        let listeners = &mut world.ends[self.end].listeners;
        let number = if keep { listeners.get(listener).copied() } else { listeners.remove(listener) };
        let number = number.ok_or_else(|| Error::stale("accept", "listener"))?;
        Ok(world.add_conn(self.end, State::Accepting(number)))
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        let gone = self.world().ends[self.end].listeners.remove(listener);
        gone.map(|_| ()).ok_or_else(|| Error::stale("unlisten", "listener"))
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        Self::check_rail(rail, "connect")?;
        let mut world = self.world();
        let number = peer.as_bytes().strip_prefix(MAGIC).and_then(|number| number.try_into().ok());
        let number = match number.map(u64::from_le_bytes) {
            Some(number) => number,
            None if world.has(Bug::AnyAddress) => 0,
            None => return Err(Error::misuse("connect", "these bytes are no address of this backend")),
        };
        let conn = world.add_conn(self.end, State::Connecting(number));
        drop(world);
        self.reasons.clear();
        Ok(conn)
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        let mut world = self.world();
        let stale_too = world.has(Bug::StaleCloses);
        let conns = &mut world.ends[self.end].conns;
        let conn = if stale_too { conns.id_at(conn.index()).unwrap_or(conn) } else { conn };
        let of = conns.get(conn).ok_or_else(|| Error::stale("close", "connection"))?;
        let (state, peer) = (of.state, of.peer);
        if world.has(Bug::CloseConnectingHangs) && matches!(state, State::Connecting(_) | State::Accepting(_))
        {
            return Ok(());
        }
        if state == State::Ended {
            if world.has(Bug::ClosedTwice) {
                world.ends[self.end].queue.push_back(Report::Plain(Event::Closed(conn)));
            }
            return Ok(());
        }
        if let Some(of) = world.ends[self.end].conns.get_mut(conn) {
            of.closed_here = true;
        }
        let both = peer
            .and_then(|peer| world.ends[1 - self.end].conns.get(peer))
            .is_some_and(|peer| peer.closed_here);
        if world.has(Bug::BothClose) && both {
            let of = world.ends[self.end].conns.get_mut(conn);
            of.into_iter().for_each(|of| of.hangup = None);
            return Ok(());
        }
        world.end(self.end, conn, None);
        Ok(())
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        self.reasons.iter().find(|(of, _)| *of == conn).map(|(_, error)| error)
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        let mut world = self.world();
        if nic != NicId(0) || std::mem::take(&mut world.fail_registration[self.end]) {
            let memory: Box<dyn Memory> = if world.has(Bug::KeepsFailed) {
                let shared = Shared::new(memory);
                let part = shared.part(0, shared.len()).expect("the whole");
                world.ends[self.end].regions.insert(nic, Box::new(part.clone()), ());
                Box::new(part)
            } else {
                memory
            };
            return Err(RegisterError {
                error: Error::new(ErrorKind::Exhausted, "register", "no more"),
                memory,
            });
        }
        let memory: Box<dyn Memory> = if world.has(Bug::WrapsOwner) {
            let shared = Shared::new(memory);
            Box::new(shared.part(0, shared.len()).expect("the whole"))
        } else {
            memory
        };
        let region = world.ends[self.end].regions.insert(nic, memory, ());
        world.ends[self.end].region_ids.push(region);
        Ok(region)
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        let end = self.end;
        let mut world = self.world();
        match world.ends[end].regions.retire(region) {
            Ok(true) => world.ends[end].regions.ready(region),
            Ok(false) if world.has(Bug::RetireCancels) => cancel_users(&mut world, end, region),
            Ok(false) => {}
            Err(_) if world.has(Bug::RetiresTwice) && world.ends[end].regions.facts(region).is_some() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        let mut world = self.world();
        let early = world.has(Bug::ReclaimsEarly);
        let regions = &mut world.ends[self.end].regions;
        if early { regions.take_back(region).map(|(memory, ())| memory) } else { regions.reclaim(region) }
    }

    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        let end = self.end;
        let mut boxes = std::mem::take(&mut self.boxes);
        let mut world = self.world();
        let mut accepted = Accepted::all(ops.len());
        for (number, op) in ops.iter().enumerate() {
            if world.has(Bug::BoxPerOperation) {
                boxes.push(Box::new(Oper::new(op.token(), &[], 0)));
            }
            let Err(stop) = take(&mut world, end, conn, op) else { continue };
            accepted = Accepted::prefix(number, stop);
            if stop == Stop::Busy {
                rejected(&mut world, end, conn, &ops[number..]);
            }
            break;
        }
        drop(world);
        boxes.clear();
        self.boxes = boxes;
        accepted
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        let end = self.end;
        let mut world = self.world();
        let bug = world.bug;
        world.work += 1;
        let conns = &mut world.ends[end].conns;
        let id = if bug == Bug::StaleCancels { conns.id_at(conn.index()).unwrap_or(conn) } else { conn };
        let Some(of) = conns.get_mut(id) else { return false };
        for send in [false, true] {
            let list = if send { &mut of.sends } else { &mut of.recvs };
            if bug == Bug::ListPerCancel {
                std::hint::black_box(list.iter().map(|op| op.token).collect::<Vec<_>>());
            }
            let fits =
                |op: &Oper| op.token == token && !op.swallows && (op.done == 0 || bug == Bug::CancelStarted);
            let found = if bug == Bug::CancelOldest {
                list.iter().position(fits)
            } else {
                list.iter().rposition(fits)
            };
            let Some(index) = found else { continue };
            let op = list[index];
            let stays = (bug == Bug::CancelStarted && op.done > 0) || (bug == Bug::CancelledDone && !send);
            if bug == Bug::CancelTakesPlace && !send {
                list[index].swallows = true;
            } else if !stays {
                list.remove(index);
            }
            if bug != Bug::CancelSilent {
                world.finish(end, id, send, op, Outcome::Cancelled);
            }
            return true;
        }
        false
    }

    fn poll(&mut self, _: Now, events: &mut Events) -> Next {
        let end = self.end;
        let mut world = self.world.lock().expect("no panic inside");
        let world = &mut *world;
        let bug = world.bug;
        world.progress(end);
        self.reasons.append(&mut world.ends[end].reasons);
        if bug == Bug::ListPerPoll && !world.ends[end].queue.is_empty() {
            std::hint::black_box(Vec::<Event>::with_capacity(world.ends[end].queue.len()));
        }
        let loses = |report: &Report| match report {
            Report::Plain(Event::Closed(_)) => bug == Bug::ClosedLost,
            Report::Plain(_) => false,
            Report::Ended { .. } => bug == Bug::DropsWhenFull,
        };
        while events.room() > 0 || world.ends[end].queue.front().is_some_and(loses) {
            let Some(report) = world.ends[end].queue.pop_front() else { break };
            let event = match report {
                Report::Plain(event) => event,
                Report::Ended { conn, send, op, outcome } => {
                    give_up(world, end, conn, send, &op, outcome);
                    Event::Completed { conn, token: op.token, outcome }
                }
            };
            if let Event::Closed(conn) = event {
                world.ends[end].conns.remove(conn);
            }
            let _ = events.push(event);
        }
        while events.room() > 0 || bug == Bug::RetiredLost {
            let regions = &mut world.ends[end].regions;
            let Some(region) = regions.next_retired() else { break };
            if bug == Bug::FreesOnRetire {
                drop(regions.reclaim(region));
            }
            let _ = events.push(Event::Retired(region));
            if bug == Bug::RetiredTwice {
                let _ = events.push(Event::Retired(region));
            }
        }
        let this = &world.ends[end];
        let busy = |conn: &Conn| conn.used != [0, 0] || conn.state != State::Up || conn.hangup.is_some();
        if !this.queue.is_empty() || this.regions.has_retired() {
            Next::Again
        } else if this.conns.iter().any(|(_, conn)| busy(conn)) && bug != Bug::IdleWithWork {
            Next::Spin
        } else {
            Next::Idle(None)
        }
    }
}

/// Mistakes about what was not accepted.
#[allow(clippy::wildcard_enum_match_arm, reason = "all other mistakes are made elsewhere")]
fn rejected(world: &mut World, end: usize, conn: ConnId, rest: &[Op<'_>]) {
    match world.bug {
        Bug::RejectedHeld => {
            let _ = world.ends[end].regions.hold(NicId(0), rest[0].slices(), 4, u32::MAX);
        }
        Bug::RejectedSkipped => {
            for op in &rest[1..] {
                let _ = take(world, end, conn, op);
            }
        }
        Bug::RejectedEvent => {
            let op = Oper::new(rest[0].token(), &[], 0);
            world.finish(end, conn, false, op, Outcome::Failed(OpFault::BadSlice));
        }
        _ => {}
    }
}

/// What retire must not do.
fn cancel_users(world: &mut World, end: usize, region: RegionId) {
    let ids: Vec<ConnId> = world.ends[end].conns.iter().map(|(id, _)| id).collect();
    for id in ids {
        let Some(conn) = world.ends[end].conns.get_mut(id) else { continue };
        let uses = |op: &Oper| op.slices().any(|slice| slice.region == region);
        let Some(index) = conn.recvs.iter().position(|op| op.done == 0 && uses(op)) else { continue };
        let Some(op) = conn.recvs.remove(index) else { continue };
        world.finish(end, id, false, op, Outcome::Failed(OpFault::BadSlice));
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Ok(mut world) = self.world.lock() {
            world.leave(self.end);
        }
    }
}
