//! Getting a comm: one-shot listeners and connects, each with a deadline.
//!
//! A plugin frees its state when it gives its last answer and would read it again on one more call. So
//! `poll` takes the object by value, and only the pending answer gives it back.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tcpx_sys::{Code, HANDLE_BYTES};

use crate::api::connecting::AttemptHandle;
use crate::api::listening::Listener;
use crate::comm::{RecvComm, SendComm};
use crate::error::{Call, Error};
use crate::plugin::Plugin;
use crate::preflight::Nature;
use crate::verdict::{self, Attempt};

/// First and longest pause between two attempts to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Pause between two polls of the waiting helpers.
const POLL_PAUSE: Duration = Duration::from_millis(1);

/// What a listener gives to whoever shall connect to it: 128 opaque bytes.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Handle([u8; HANDLE_BYTES]);

impl Handle {
    /// Bytes of a handle.
    pub const BYTES: usize = HANDLE_BYTES;

    /// The handle with these bytes, as a peer sent them.
    pub const fn new(bytes: [u8; HANDLE_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes to send to the peer.
    pub const fn as_bytes(&self) -> &[u8; HANDLE_BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle({HANDLE_BYTES} bytes)")
    }
}

/// When to give up, and what was tried so far.
#[derive(Debug)]
struct Patience {
    call: Call,
    device: &'static str,
    started: Option<Instant>,
    deadline: Instant,
    attempts: u32,
    last: Option<Code>,
}

impl Patience {
    const fn new(call: Call, device: &'static str, deadline: Instant) -> Self {
        Self { call, device, started: None, deadline, attempts: 0, last: None }
    }

    /// The error, if the deadline has passed.
    fn exhausted(&mut self, now: Instant) -> Option<Error> {
        let started = *self.started.get_or_insert(now);
        (now >= self.deadline).then(|| Error::Deadline {
            call: self.call,
            device: self.device,
            waited: now.saturating_duration_since(started),
            attempts: self.attempts,
            last: self.last,
        })
    }
}

/// A listener that waits for its one connection.
///
/// Dropping it half-way leaks the listener where the plugin would crash otherwise; see
/// [`leaked_objects`](crate::leaked_objects).
#[must_use = "a listener accepts only while it is polled"]
pub struct Listening {
    listener: Listener,
    plugin: Arc<Plugin>,
    device: usize,
    patience: Patience,
}

/// What became of a listener.
#[must_use]
#[derive(Debug)]
pub enum Accept {
    /// Not yet; poll it again.
    Pending(Listening),
    /// The peer connected; the listener is closed.
    Ready(RecvComm),
    /// It failed, or its deadline passed; the listener is closed.
    Failed(Error),
}

impl Listening {
    pub(crate) fn new(listener: Listener, plugin: Arc<Plugin>, device: usize, deadline: Instant) -> Self {
        let patience = Patience::new(Call::Accept, plugin.devices()[device].name, deadline);
        Self { listener, plugin, device, patience }
    }

    /// Calls `accept` once. Never waits for the peer.
    pub fn poll(mut self, now: Instant) -> Accept {
        if let Some(error) = self.patience.exhausted(now) {
            return Accept::Failed(error);
        }
        let gate = self.plugin.gate().clone();
        let Some(pass) = gate.try_accept() else { return Accept::Pending(self) };
        let (code, accepted) = self.listener.accept();
        drop(pass);
        if code.is_success() {
            gate.was_set_up();
        }
        match verdict::accept(code, accepted, self.plugin.accept_retry()) {
            Attempt::Pending => Accept::Pending(self),
            Attempt::Again => {
                self.patience.attempts += 1;
                self.patience.last = Some(code);
                Accept::Pending(self)
            }
            Attempt::Ready(accepted) => {
                self.listener.is_over();
                let device = &self.plugin.devices()[self.device];
                let place = self.plugin.place(device);
                let (comm, device_handle) = self.listener.comm(accepted, place, gate);
                let handle = device_handle.read();
                let comm = RecvComm { comm, device_handle };
                match device.check_version(handle.device_type, handle.device_version) {
                    Ok(()) => Accept::Ready(comm),
                    Err(error) => Accept::Failed(error),
                }
            }
            Attempt::Failed => {
                self.listener.is_over();
                let (call, device) = (Call::Accept, self.patience.device);
                let hint = verdict::accept_hint(code);
                Accept::Failed(Error::Establish { call, device, code, hint })
            }
        }
    }

    /// Polls until there is a comm, sleeping a millisecond in between; at most until the deadline.
    ///
    /// # Errors
    ///
    /// As [`Accept::Failed`].
    pub fn wait(mut self) -> Result<RecvComm, Error> {
        loop {
            match self.poll(Instant::now()) {
                Accept::Pending(again) => self = again,
                Accept::Ready(comm) => return Ok(comm),
                Accept::Failed(error) => return Err(error),
            }
            thread::sleep(POLL_PAUSE);
        }
    }
}

impl std::fmt::Debug for Listening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listening").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// A connect on its way. A failed attempt is followed by a new one with a fresh copy of the handle, after
/// a pause, until the deadline.
#[must_use = "a connect goes on only while it is polled"]
pub struct Connecting {
    /// The attempt under way; `None` between two.
    attempt: Option<AttemptHandle>,
    handle: Handle,
    plugin: Arc<Plugin>,
    device: usize,
    patience: Patience,
    pause: Duration,
    not_before: Option<Instant>,
}

/// What became of a connect.
#[must_use]
#[derive(Debug)]
pub enum Connect {
    /// Not yet; poll it again.
    Pending(Connecting),
    /// It is connected.
    Ready(SendComm),
    /// It failed, or its deadline passed.
    Failed(Error),
}

impl Connecting {
    pub(crate) fn new(plugin: Arc<Plugin>, device: usize, handle: Handle, deadline: Instant) -> Self {
        let patience = Patience::new(Call::Connect, plugin.devices()[device].name, deadline);
        Self { attempt: None, handle, plugin, device, patience, pause: PAUSE.0, not_before: None }
    }

    /// Calls `connect` at most once. Does not wait for the peer, unless the plugin itself does.
    pub fn poll(mut self, now: Instant) -> Connect {
        if let Some(error) = self.patience.exhausted(now) {
            return Connect::Failed(error);
        }
        if self.not_before.is_some_and(|time| now < time) {
            return Connect::Pending(self);
        }
        let gate = self.plugin.gate().clone();
        let Some(pass) = gate.try_connect() else { return Connect::Pending(self) };
        let device = &self.plugin.devices()[self.device];
        let place = self.plugin.place(device);
        // The soft plugin knows an attempt by a number in the handle.
        let freed_any_time = self.plugin.nature() == Nature::Soft;
        let attempt = self.attempt.get_or_insert_with(|| {
            self.patience.attempts += 1;
            AttemptHandle::new(self.plugin.calls().clone(), self.handle.as_bytes(), freed_any_time)
        });
        let (code, comm) = attempt.connect(self.device as i32, place, &gate);
        drop(pass);
        gate.connect_returned();
        match verdict::connect(code, comm) {
            Attempt::Pending => Connect::Pending(self),
            Attempt::Ready(comm) => Connect::Ready(SendComm { comm }),
            Attempt::Again => {
                self.attempt = None;
                self.patience.last = Some(code);
                self.not_before = Some(now + self.pause);
                self.pause = (self.pause * 2).min(PAUSE.1);
                Connect::Pending(self)
            }
            Attempt::Failed => {
                let (call, device) = (Call::Connect, self.patience.device);
                Connect::Failed(Error::Establish { call, device, code, hint: "" })
            }
        }
    }

    /// Polls until there is a comm, sleeping a millisecond in between; at most until the deadline.
    ///
    /// # Errors
    ///
    /// As [`Connect::Failed`].
    pub fn wait(mut self) -> Result<SendComm, Error> {
        loop {
            match self.poll(Instant::now()) {
                Connect::Pending(again) => self = again,
                Connect::Ready(comm) => return Ok(comm),
                Connect::Failed(error) => return Err(error),
            }
            thread::sleep(POLL_PAUSE);
        }
    }
}

impl std::fmt::Debug for Connecting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connecting").field("patience", &self.patience).finish_non_exhaustive()
    }
}
