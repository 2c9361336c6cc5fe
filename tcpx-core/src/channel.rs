//! A comm and its window, driven without blocking.

use std::time::{Duration, Instant};

use p2p_memory::{Memory, MemoryKind};
use tcpx_sys::Code;

use crate::api::Side;
use crate::api::comm::Comm;
use crate::api::delivery::{Delivered, Delivery, DeliveryError, DeviceHandlePlace, Ticket, Unpack};
use crate::api::registration::{RegistrationId, Slice};
use crate::api::requests::{Outcome as Answer, Requests};
use crate::comm::{RecvComm, SendComm};
use crate::error::{Call, Error, Fault, PostError, Reason, RegisterError};
use crate::unpack::ScatterError;
use crate::verdict::{self, Posted, Progress};

/// What became of a post. Backpressure is a value, not an error.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Post {
    /// It is under way.
    Accepted,
    /// The window is full: release something, or make progress until there is something to release.
    Full,
    /// The plugin did not take it; try again in a later round.
    Busy,
}

/// A finished operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Completion {
    /// What the poster named it.
    pub token: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// All bytes are in place. A send was handed over: only the receiver knows that it arrived.
    Done {
        /// Length of the message in bytes. `None` for a receive whose plugin does not tell (Google's does
        /// not for host memory): there, both ends must have agreed on it.
        length: Option<usize>,
    },
    /// The message did not fit what was posted, and nothing was put in place. The comm can still be used.
    Failed(OperationFault),
}

/// Why one operation failed while its comm goes on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OperationFault {
    /// The scatter list breaks a rule; it was not followed.
    #[error("the received pages cannot be put in place: {0}")]
    Scatter(#[from] ScatterError),
    /// The message was longer than what was posted for it.
    #[error(
        "a message of {arrived} bytes arrived for a receive of {posted}: both ends must agree on lengths"
    )]
    TooLong {
        /// Bytes posted.
        posted: usize,
        /// Bytes that the plugin reports.
        arrived: usize,
    },
}

/// What can be said of the oldest operation.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// It ended, and its slot is free again.
    Released(Completion),
    /// It has not ended, or there is none.
    NotYet,
    /// The comm is lost; what was not released before never ends. Drop the channel.
    Failed(Fault),
}

/// What a channel has done since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Operations accepted.
    pub posted: u64,
    /// Operations that ended.
    pub completed: u64,
    /// Bytes of those, as far as known.
    pub bytes: u64,
    /// Posts that the plugin did not take, with or without an error.
    pub not_taken: u64,
    /// Calls of `test`.
    pub tests: u64,
    /// Receives whose scattered pages were put in place.
    pub unpacked: u64,
}

/// One operation in the window.
#[derive(Debug)]
struct Operation {
    token: u64,
    posted: usize,
    /// Number among all operations of the comm, from 0: the k-th receive uses slot k mod 16.
    sequence: u64,
    /// Set when it is done.
    outcome: Outcome,
    ticket: Option<Ticket>,
}

/// A comm and its window.
///
/// Operations end in the order in which they were posted; the k-th send meets the peer's k-th receive.
/// Nothing moves unless somebody calls [`progress`](Self::progress), and a slot is free again only after
/// [`release`](Self::release). No method waits, and after a short warm-up none allocates.
pub struct Channel {
    /// Before the comm: nothing may read its bounce buffer any more when it is closed. `None` for sends.
    delivery: Option<Delivery>,
    requests: Requests<Operation>,
    /// After the comm: the plugin may use it until the comm is closed.
    _device_handle: Option<DeviceHandlePlace>,
    fault: Option<Fault>,
    /// When `test` said first, since an operation ended, that the control stream ended.
    ended: Option<Instant>,
    /// Since when operations are in flight and none has ended.
    quiet_since: Option<Instant>,
    /// Since when the plugin refuses posts and no operation has ended.
    refused_since: Option<Instant>,
    silence_limit: Option<Duration>,
    warned: bool,
    next: u64,
    counters: Counters,
}

impl Channel {
    /// A sending channel with at most `window` operations posted and not released, of 1 to 16. The
    /// configured default is [`Plugin::send_window`](crate::Plugin::send_window).
    ///
    /// # Errors
    ///
    /// [`Misuse::Window`](crate::Misuse::Window); the comm is closed then.
    pub fn sending(comm: SendComm, window: usize) -> Result<Self, Error> {
        Ok(Self::new(Requests::new(comm.comm, window)?, None, None))
    }

    /// A receiving channel with at most `window` operations posted and not released, of 1 to 16. The
    /// configured default is [`Plugin::recv_window`](crate::Plugin::recv_window).
    ///
    /// Scattered pages in host memory are put in place by the calling thread. For those in CUDA memory see
    /// [`receiving_with`](Self::receiving_with).
    ///
    /// # Errors
    ///
    /// [`Misuse::Window`](crate::Misuse::Window), or [`Reason::Unpack`] if the plugin's scatter lists cannot be read; the comm is
    /// closed then.
    pub fn receiving(comm: RecvComm, window: usize) -> Result<Self, Error> {
        Self::receive(comm, window, None)
    }

    /// As [`receiving`](Self::receiving), with an executor that puts scattered pages in place.
    ///
    /// # Errors
    ///
    /// As [`receiving`](Self::receiving).
    pub fn receiving_with(comm: RecvComm, window: usize, unpack: Box<dyn Unpack>) -> Result<Self, Error> {
        Self::receive(comm, window, Some(unpack))
    }

    fn receive(comm: RecvComm, window: usize, unpack: Option<Box<dyn Unpack>>) -> Result<Self, Error> {
        // Dropped in the other order, should one of the steps below fail: the comm first.
        let RecvComm { device_handle, comm } = comm;
        let place = *comm.place();
        let delivery = Delivery::open(&device_handle.read(), place.host_lists, unpack).map_err(|error| {
            tracing::error!(device = place.device, "{error}");
            Fault { reason: Reason::Unpack, during: Call::Accept, code: None, device: place.device }
        })?;
        let mut requests = Requests::new(comm, window)?;
        if delivery.scatters() {
            requests.take_one_slice();
        }
        Ok(Self::new(requests, Some(delivery), Some(device_handle)))
    }

    fn new(
        requests: Requests<Operation>,
        delivery: Option<Delivery>,
        device_handle: Option<DeviceHandlePlace>,
    ) -> Self {
        Self {
            delivery,
            requests,
            _device_handle: device_handle,
            fault: None,
            ended: None,
            quiet_since: None,
            refused_since: None,
            silence_limit: None,
            warned: false,
            next: 0,
            counters: Counters::default(),
        }
    }

    /// Gives the comm up as lost when operations are in flight and none ends for `limit`.
    ///
    /// There is none by default: a receive may wait for a peer that has nothing to send. It shows a data
    /// socket that died or a peer that stopped, which a plugin reports in no other way.
    #[must_use]
    pub const fn with_silence_limit(mut self, limit: Duration) -> Self {
        self.silence_limit = Some(limit);
        self
    }

    /// Which way it carries data.
    pub const fn side(&self) -> Side {
        self.requests.comm().side()
    }

    /// Name of the device.
    pub const fn device(&self) -> &'static str {
        self.requests.comm().place().device
    }

    /// Longest message, in bytes.
    pub const fn max_message(&self) -> usize {
        self.requests.comm().place().max_message
    }

    /// Slices one message may have: 1 where received pages come scattered.
    pub const fn max_slices(&self) -> usize {
        self.requests.max_slices()
    }

    /// Operations posted that have not ended.
    pub const fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// Operations that have ended and were not released.
    pub const fn held(&self) -> usize {
        self.requests.held()
    }

    /// Operations that can still be posted.
    pub const fn free(&self) -> usize {
        self.requests.free()
    }

    /// Whether a round could find anything.
    pub const fn has_work(&self) -> bool {
        self.in_flight() + self.held() > 0
    }

    /// Why the comm is lost, if it is.
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// What it has done so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Tokens of what was posted and not released, oldest first: after a [`Fault`], what never ends.
    pub fn outstanding(&self) -> impl Iterator<Item = u64> {
        self.requests.outstanding().map(|operation| operation.token)
    }

    /// A line about sockets, lanes and peer, where the plugin has one.
    pub fn describe(&self) -> Option<String> {
        self.requests.comm().describe()
    }

    pub(crate) const fn comm(&self) -> &Comm {
        self.requests.comm()
    }

    /// Takes `memory` over and registers it; see [`SendComm::register`].
    ///
    /// # Errors
    ///
    /// As there; also CUDA memory on a receiving channel that cannot put scattered pages in place.
    pub fn register(&mut self, memory: Box<dyn Memory>) -> Result<RegistrationId, RegisterError> {
        let host_only = self.delivery.as_ref().is_some_and(Delivery::host_only);
        if host_only && memory.kind() != MemoryKind::Host {
            let hint = "make the channel with an executor that unpacks on the GPU";
            let error = Error::MemoryKind { device: self.device(), kind: "CUDA", hint };
            return Err(RegisterError { error, memory });
        }
        self.requests.comm_mut().register(memory)
    }

    /// Gives memory back; see [`SendComm::deregister`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn deregister(&mut self, id: RegistrationId) -> Result<Box<dyn Memory>, Error> {
        self.requests.comm_mut().deregister(id)
    }

    /// Posts one message: a send of the slice, or a receive of at most its length into it.
    ///
    /// Makes progress on this channel first if its window is full, and once after posting, so that a small
    /// message leaves at once. Never waits.
    ///
    /// # Errors
    ///
    /// [`PostError::Misuse`] for a stale or wrong slice, with nothing changed; [`PostError::Fault`] when the
    /// comm is lost.
    pub fn post(&mut self, token: u64, slice: Slice, now: Instant) -> Result<Post, PostError> {
        self.post_slices(token, core::slice::from_ref(&slice), now)
    }

    /// As [`post`](Self::post), with a message that is gathered from, or scattered to, several slices. The
    /// list is copied. Both ends may cut a message differently.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post); also more slices than [`max_slices`](Self::max_slices), or none.
    pub fn post_slices(&mut self, token: u64, slices: &[Slice], now: Instant) -> Result<Post, PostError> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        if self.free() == 0 {
            self.progress(now);
        }
        let sequence = self.next;
        let outcome = Outcome::Done { length: None };
        let operation = |posted| Operation { token, posted, sequence, outcome, ticket: None };
        let (code, taken) = match self.requests.post(slices, operation)? {
            Answer::Full => return Ok(Post::Full),
            Answer::Answered(code, taken) => (code, taken),
        };
        // What has ended and was not released has its place in the plugin's ring as well.
        match verdict::post(code, taken.then_some(()), self.in_flight() + self.held()) {
            Posted::Taken(()) => {
                self.next += 1;
                self.counters.posted += 1;
                self.quiet_since.get_or_insert(now);
                self.progress(now);
                Ok(Post::Accepted)
            }
            Posted::NotTaken => {
                self.counters.not_taken += 1;
                Ok(Post::Busy)
            }
            Posted::Refused => {
                self.counters.not_taken += 1;
                self.refused(code, now)
            }
            Posted::Lost(reason) => Err(self.lose(reason, self.post_call(), Some(code)).into()),
        }
    }

    const fn post_call(&self) -> Call {
        match self.side() {
            Side::Send => Call::Isend,
            Side::Recv => Call::Irecv,
        }
    }

    /// The plugin says that it is full while our window is not: wait, but not for ever.
    fn refused(&mut self, code: Code, now: Instant) -> Result<Post, PostError> {
        if !self.warned {
            self.warned = true;
            let (device, call, window) = (self.device(), self.post_call(), self.requests.limit());
            tracing::warn!(
                device, %call, window, %code,
                "the plugin refuses requests although the window is not full; trying again. Make the window \
                 smaller if this goes on (UCCL_TCPX_MAX_SEND_INFLIGHT, UCCL_TCPX_MAX_RECV_INFLIGHT)"
            );
        }
        let since = *self.refused_since.get_or_insert(now);
        let limit = self.silence_limit.unwrap_or(verdict::REFUSAL_LIMIT);
        if now.saturating_duration_since(since) >= limit {
            return Err(self.lose(Reason::Refused, self.post_call(), Some(code)).into());
        }
        Ok(Post::Busy)
    }

    /// One bounded round: tests the oldest operation, and the next one as long as they are done. Returns how
    /// many ended. A comm that is lost in it is reported by [`release`](Self::release).
    pub fn progress(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while self.test_oldest(now) {
            ended += 1;
        }
        self.after_round(ended > 0, now);
        ended
    }

    /// As [`progress`](Self::progress), but tests the oldest operation only, so that its completion reaches
    /// a caller who waits for just that before the plugin looks for anything else. True if it ended.
    pub fn progress_oldest(&mut self, now: Instant) -> bool {
        let ended = self.test_oldest(now);
        self.after_round(ended, now);
        ended
    }

    /// Whether the oldest operation was found done.
    #[inline]
    fn test_oldest(&mut self, now: Instant) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let Some((tested, progress)) = self.requests.test_oldest() else { return false };
        self.counters.tests += 1;
        match progress {
            Progress::Done => {
                self.finish(tested.size);
                return true;
            }
            Progress::NoNews => {}
            Progress::PeerEnded => {
                self.ended.get_or_insert(now);
                self.check_patience(now, Some(tested.code), verdict::GRACE);
            }
            Progress::Lost(reason) => {
                self.lose(reason, Call::Test, Some(tested.code));
            }
        }
        false
    }

    #[inline]
    fn after_round(&mut self, ended: bool, now: Instant) {
        if ended {
            self.ended = None;
            self.refused_since = None;
            self.quiet_since = (self.in_flight() > 0).then_some(now);
        } else if self.fault.is_none() && self.in_flight() > 0 {
            self.check_patience(now, None, verdict::REFUSAL_LIMIT);
        }
    }

    /// Nothing ended in this round: has that lasted too long? After the end of the control stream `grace`
    /// is allowed since then.
    fn check_patience(&mut self, now: Instant, code: Option<Code>, grace: Duration) {
        let since = |start: Option<Instant>| start.map(|start| now.saturating_duration_since(start));
        if since(self.ended).is_some_and(|time| time >= grace) {
            self.lose(Reason::PeerClosed, Call::Test, code);
            return;
        }
        let silent = self.silence_limit.filter(|&limit| since(self.quiet_since).is_some_and(|t| t >= limit));
        if let Some(limit) = silent {
            self.lose(Reason::Silent { limit }, Call::Test, code);
        }
    }

    /// The oldest operation in flight was reported done, and is held from here on.
    fn finish(&mut self, reported: Option<usize>) {
        let Some(operation) = self.requests.newest_held() else { return };
        let (posted, sequence) = (operation.posted, operation.sequence);
        let Some(delivery) = &mut self.delivery else {
            operation.outcome = Outcome::Done { length: Some(posted) };
            return;
        };
        let delivered = match reported {
            Some(arrived) if arrived > posted => Err(OperationFault::TooLong { posted, arrived }),
            _ => match delivery.start(&mut self.requests, sequence, posted, reported) {
                Ok(delivered) => Ok(delivered),
                Err(DeliveryError::Scatter(error)) => Err(error.into()),
                Err(DeliveryError::Unpack(error)) => {
                    self.cannot_unpack(&error.to_string());
                    return;
                }
            },
        };
        let Some(operation) = self.requests.newest_held() else { return };
        match delivered {
            Ok(Delivered { length, ticket }) => {
                operation.outcome = Outcome::Done { length };
                operation.ticket = ticket;
                self.counters.unpacked += u64::from(ticket.is_some());
            }
            Err(fault) => operation.outcome = Outcome::Failed(fault),
        }
    }

    /// The oldest operation, if it has ended: frees its slot and returns it. A receive is consumed, and its
    /// bytes are visible to the caller.
    ///
    /// Call it until it says [`Release::NotYet`]: bounce pages are scarce.
    pub fn release(&mut self) -> Release {
        match self.oldest_is_in_place() {
            Some(true) => {}
            Some(false) => return Release::NotYet,
            None => return self.fault.map_or(Release::NotYet, Release::Failed),
        }
        let Some((code, operation)) = self.requests.release_oldest() else { return Release::NotYet };
        if let Some(reason) = verdict::consumed(code) {
            return Release::Failed(self.lose(reason, Call::IrecvConsumed, Some(code)));
        }
        self.counters.completed += 1;
        if let Outcome::Done { length: Some(length) } = operation.outcome {
            self.counters.bytes += length as u64;
        }
        Release::Released(Completion { token: operation.token, outcome: operation.outcome })
    }

    /// Whether the oldest operation held has its bytes in place; `None` if none is held, or none can be.
    fn oldest_is_in_place(&mut self) -> Option<bool> {
        if let Some(Fault { reason: Reason::Unpack, .. }) = self.fault {
            return None;
        }
        let operation = self.requests.oldest_held()?;
        let (Some(ticket), Some(delivery)) = (operation.ticket, &mut self.delivery) else {
            return Some(true);
        };
        match delivery.finished(ticket) {
            Ok(finished) => Some(finished),
            Err(error) => {
                self.cannot_unpack(&error.to_string());
                None
            }
        }
    }

    fn cannot_unpack(&mut self, error: &str) {
        tracing::error!(device = self.device(), "{error}");
        self.lose(Reason::Unpack, Call::Test, None);
    }

    /// The first fault is the one that is kept.
    fn lose(&mut self, reason: Reason, during: Call, code: Option<Code>) -> Fault {
        let device = self.device();
        *self.fault.get_or_insert(Fault { reason, during, code, device })
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("side", &self.side())
            .field("device", &self.device())
            .field("in_flight", &self.in_flight())
            .field("held", &self.held())
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
