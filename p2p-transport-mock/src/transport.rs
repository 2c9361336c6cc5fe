//! One transport of a node.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use p2p_transport::{
    Accepted, Address, ConnId, Error, ErrorKind, Events, Limits, ListenerId, Memory, MemoryKind, Next, Nic,
    NicId, Now, OneSided, OneSidedLimits, OneSidedOp, Op, Rail, RegionId, RegisterError, RemoteSlice, Slice,
    Token, Transport,
};

use crate::fault::FaultKind;
use crate::operations::Kept;
use crate::state::State;

/// A transport in a simulated world: what one process at a node has.
///
/// It moves nothing by itself: whoever drives the [`World`](crate::World) does. A poll reports what happened up
/// to its `now`, and never anything of later. Dropping it closes its connections; messages whose send was
/// reported as done are still delivered.
#[derive(Debug)]
pub struct MockTransport {
    state: Arc<Mutex<State>>,
    end: usize,
    nics: Vec<Nic>,
    limits: Vec<Option<(ConnId, Limits)>>,
    whys: Vec<(ConnId, Error)>,
    /// Whose connection has ended: forgotten with the next one.
    ended: Vec<ConnId>,
    rdma: bool,
}

impl MockTransport {
    pub(crate) const fn new(state: Arc<Mutex<State>>, end: usize, nics: Vec<Nic>, rdma: bool) -> Self {
        Self { state, end, nics, limits: Vec::new(), whys: Vec::new(), ended: Vec::new(), rdma }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_ended(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        self.whys.retain(|(conn, _)| !ended.contains(conn));
    }

    fn limits_of(&self, conn: ConnId) -> Option<&Limits> {
        let (known, limits) = self.limits.get(conn.index())?.as_ref()?;
        (*known == conn).then_some(limits)
    }
}

impl Transport for MockTransport {
    fn nics(&self) -> &[Nic] {
        &self.nics
    }

    fn rails(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        if device.is_some() {
            let text = "a simulated NIC serves host memory only";
            return Err(Error::new(ErrorKind::Unsupported, "rails", text));
        }
        Ok(self.nics.iter().map(|nic| Rail { nic: nic.id, device, channels: 1 }).collect())
    }

    fn region_align(&self, _: MemoryKind) -> usize {
        self.state().settings.region_align.max(1)
    }

    fn limits(&self, conn: ConnId) -> Option<&Limits> {
        self.limits_of(conn)
    }

    fn listen(&mut self, rail: Rail) -> Result<(ListenerId, Address), Error> {
        self.state().listen(self.end, rail)
    }

    fn accept(&mut self, listener: ListenerId) -> Result<ConnId, Error> {
        let conn = self.state().accept(self.end, listener)?;
        self.forget_ended();
        Ok(conn)
    }

    fn unlisten(&mut self, listener: ListenerId) -> Result<(), Error> {
        self.state().unlisten(self.end, listener)
    }

    fn connect(&mut self, rail: Rail, peer: &Address) -> Result<ConnId, Error> {
        let conn = self.state().connect(self.end, rail, peer)?;
        self.forget_ended();
        Ok(conn)
    }

    fn close(&mut self, conn: ConnId) -> Result<(), Error> {
        self.state().close(self.end, conn)
    }

    fn why(&self, conn: ConnId) -> Option<&Error> {
        self.whys.iter().find(|(known, _)| *known == conn).map(|(_, why)| why)
    }

    fn register(&mut self, nic: NicId, memory: Box<dyn Memory>) -> Result<RegionId, RegisterError> {
        let mut state = self.state();
        let error = refused(&mut state, self.end, nic, memory.as_ref());
        match error {
            Some(error) => Err(RegisterError { error, memory }),
            None => Ok(state.ends[self.end].regions.insert(nic, memory, ())),
        }
    }

    fn retire(&mut self, region: RegionId) -> Result<(), Error> {
        self.state().retire(self.end, region)
    }

    fn reclaim(&mut self, region: RegionId) -> Option<Box<dyn Memory>> {
        self.state().ends[self.end].regions.reclaim(region)
    }

    fn submit(&mut self, conn: ConnId, ops: &[Op<'_>]) -> Accepted {
        self.state().submit(self.end, conn, ops)
    }

    fn cancel(&mut self, conn: ConnId, token: Token) -> bool {
        self.state().cancel(self.end, conn, token)
    }

    fn poll(&mut self, now: Now, events: &mut Events) -> Next {
        let first = events.as_slice().len();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (limits, whys) = (&mut self.limits, &mut self.whys);
        let next = state.poll(self.end, now, events, |conn, kept| match kept {
            Kept::Limits(known) => {
                if limits.len() <= conn.index() {
                    limits.resize(conn.index() + 1, None);
                }
                limits[conn.index()] = Some((conn, known));
            }
            Kept::Why(why) => {
                whys.retain(|(known, _)| *known != conn);
                whys.push((conn, why));
            }
            Kept::Nothing => {}
        });
        drop(state);
        for event in &events.as_slice()[first..] {
            if let p2p_transport::Event::Closed(conn) = *event {
                self.ended.push(conn);
                if let Some(place) = self.limits.get_mut(conn.index()) {
                    *place = None;
                }
            }
        }
        next
    }

    fn one_sided(&mut self) -> Option<&mut dyn OneSided> {
        if self.rdma { Some(self) } else { None }
    }
}

/// Why memory cannot be registered.
fn refused(state: &mut State, end: usize, nic: NicId, memory: &dyn Memory) -> Option<Error> {
    let during = "register";
    if state.nic(end, nic).is_none() {
        return Some(Error::misuse(during, format!("there is no NIC {}: see Transport::nics", nic.0)));
    }
    if memory.kind() != MemoryKind::Host {
        let text = "a simulated NIC serves host memory only";
        return Some(Error::new(ErrorKind::Unsupported, during, text));
    }
    let (base, length) = memory.span();
    let align = state.settings.region_align.max(1);
    if length == 0 || !length.is_multiple_of(align) || !base.addr().get().is_multiple_of(align) {
        let text = format!("base and length of a region are multiples of {align}, and it is not empty");
        return Some(Error::misuse(during, text));
    }
    let node = state.ends[end].node;
    if state.nodes[node].refusals > 0 {
        state.nodes[node].refusals -= 1;
        state.strikes.count(FaultKind::RefusedRegistration);
        let text = "a scripted fault refuses this registration: try again";
        return Some(Error::new(ErrorKind::Exhausted, during, text));
    }
    None
}

impl OneSided for MockTransport {
    fn limits(&self, conn: ConnId) -> Option<OneSidedLimits> {
        let limits = self.limits_of(conn)?;
        Some(OneSidedLimits::new(limits.max_message, self.state().settings.one_sided_ops))
    }

    fn export(&mut self, conn: ConnId, slice: Slice) -> Result<RemoteSlice, Error> {
        self.state().export(self.end, conn, slice)
    }

    fn submit(&mut self, conn: ConnId, ops: &[OneSidedOp]) -> Accepted {
        self.state().submit_one_sided(self.end, conn, ops)
    }
}

impl Drop for MockTransport {
    fn drop(&mut self) {
        let end = self.end;
        self.state().drop_end(end);
    }
}

/// Virtual time as the contract has it.
pub(crate) fn now(state: &State) -> Now {
    Now(std::time::Duration::from_nanos(state.now))
}
