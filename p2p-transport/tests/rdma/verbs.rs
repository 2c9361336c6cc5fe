//! What the backend wants of ibverbs: one device with one protection domain.

use p2p_memory::Part;

/// Scatter or gather entries of one work request here; hardware has 16 to 30, EFA 1 or 2 for writes.
pub(crate) const MAX_SGE: usize = 8;

/// Which transport the queue pairs have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fabric {
    /// Reliable connection: in order, a send waits for a posted receive.
    Rc,
    /// Reliable datagram without order, as on EFA.
    Srd,
}

/// `errno` of a verb.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Errno(pub(crate) i32);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cq(pub(crate) usize);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sge {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) lkey: u32,
}

/// A list that is copied with its work request, so that posting allocates nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SgeList {
    items: [Sge; MAX_SGE],
    count: usize,
}

impl SgeList {
    pub(crate) fn push(&mut self, sge: Sge) {
        self.items[self.count] = sge;
        self.count += 1;
    }

    pub(crate) fn as_slice(&self) -> &[Sge] {
        &self.items[..self.count]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.as_slice().iter().map(|sge| sge.len as usize).sum()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Remote {
    pub(crate) addr: u64,
    pub(crate) rkey: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    Send,
    Write { to: Remote, imm: Option<u32> },
    Read { from: Remote },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWr {
    pub(crate) id: u64,
    pub(crate) work: Work,
    pub(crate) local: SgeList,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    Success,
    LocalLength,
    RemoteInvalid,
    RemoteAccess,
    RetryExceeded,
    Flushed,
}

/// A work completion. A receive with an immediate may come from a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wc {
    pub(crate) id: u64,
    pub(crate) status: Status,
    pub(crate) len: u32,
    pub(crate) imm: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mr {
    pub(crate) lkey: u32,
    pub(crate) rkey: u32,
    pub(crate) addr: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) remote_write: bool,
    pub(crate) remote_read: bool,
}

/// Something that belongs to no completion queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum AsyncEvent {
    /// `IBV_EVENT_DEVICE_FATAL`.
    DeviceFatal,
    /// `IBV_EVENT_CQ_ERR`: more completions than a queue holds.
    CqOverflow,
}

/// `ibv_*`, one method each. The real one hands out a `BorrowedFd` of its completion channel besides.
pub(crate) trait Verbs: Send {
    fn fabric(&self) -> Fabric;
    fn gid(&self) -> u64;
    fn reg_mr(&mut self, memory: Part, access: Access) -> Result<Mr, Errno>;
    fn dereg_mr(&mut self, lkey: u32) -> Result<(), Errno>;
    fn create_cq(&mut self, depth: usize) -> Result<Cq, Errno>;
    fn destroy_cq(&mut self, cq: Cq);
    fn create_qp(&mut self, cq: Cq, sends: usize, recvs: usize) -> Result<u32, Errno>;
    /// Reset to init, to ready-to-receive, to ready-to-send.
    fn connect_qp(&mut self, qp: u32, gid: u64, peer: u32, psn: u32) -> Result<(), Errno>;
    /// To the error state: everything posted is flushed into the completion queue.
    fn fail_qp(&mut self, qp: u32);
    fn destroy_qp(&mut self, qp: u32);
    fn post_send(&mut self, qp: u32, wr: SendWr) -> Result<(), Errno>;
    fn post_recv(&mut self, qp: u32, id: u64, into: SgeList) -> Result<(), Errno>;
    /// At most as many as there is room for.
    fn poll_cq(&mut self, cq: Cq, into: &mut Vec<Wc>, room: usize);
    fn async_event(&mut self) -> Option<AsyncEvent>;
}
