//! Connecting: an attempt is advanced by each call with the same handle buffer, and none of its steps
//! blocks.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::Socket;
use tcpx_sys::{Code, HANDLE_BYTES};

use crate::comm::{Comm, Established, Peer};
use crate::dial::{self, Record};
use crate::failure::Failure;
use crate::lane::Direction;
use crate::listen::opening;
use crate::runtime::{Runtime, cookie, lock};
use crate::wire::{self, Handle, Hello, STATE_FAILED, STATE_OK, STATE_SOFT};

/// Pause before a refused or pending socket is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// Attempts for one socket that the acceptor calls pending.
const PENDING_ATTEMPTS: u32 = 3;
/// An attempt that nobody asked about for the time it may take, and this much, was given up by its caller.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// Attempts under way, by the number written into their handle buffer. They outlive a second `init`.
static ATTEMPTS: Mutex<Attempts> = Mutex::new(Attempts { next: 0, live: BTreeMap::new() });

#[derive(Debug)]
struct Attempts {
    next: u64,
    live: BTreeMap<u64, Attempt>,
}

/// `connect`: `None` means "call again with the same buffer".
pub(crate) fn connect(
    runtime: &Arc<Runtime>,
    device: i32,
    handle: &mut [u8; HANDLE_BYTES],
) -> Result<Option<Box<Comm>>, Failure> {
    let (nic, interface) = runtime.nic(device)?;
    let now = Instant::now();
    let mut number = wire::attempt(handle);
    let mut attempts = lock(&ATTEMPTS);
    let forgotten = runtime.settings.connect_timeout + FORGOTTEN;
    attempts.live.retain(|_, attempt| now < attempt.asked + forgotten);
    if number == 0 {
        let parsed = Handle::decode(handle)
            .map_err(|why| Failure::rule(format!("this is no handle of a listener: {why}")))?;
        let attempt = Attempt::new(runtime, interface.address, parsed, now);
        attempts.next += 1;
        number = attempts.next;
        wire::set_attempt(handle, number);
        attempts.live.insert(number, attempt);
    }
    let Some(mut attempt) = attempts.live.remove(&number) else {
        return Err(Failure::rule(
            "this handle buffer was used for an attempt that has ended; each attempt needs a fresh copy",
        ));
    };
    drop(attempts);
    attempt.asked = now;
    match attempt.advance(runtime, now) {
        Ok(Some(established)) => Comm::new(runtime, nic, Direction::Send, established).map(Some),
        Ok(None) => {
            lock(&ATTEMPTS).live.insert(number, attempt);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

#[derive(Debug)]
struct Attempt {
    handle: Handle,
    from: IpAddr,
    congestion: Option<String>,
    not_before: Instant,
    until: Instant,
    asked: Instant,
    peer: Peer,
    control: Option<Socket>,
    data: Vec<Option<Socket>>,
    /// The socket being worked on: `handle.sockets` for control, then downwards.
    index: usize,
    pending_attempts: u32,
    nonce: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing happens before this time.
    Pause(Instant),
    /// The connection was begun.
    Dialing(Socket),
    /// The acceptor's state word is awaited; the new data socket is held.
    State(Option<Socket>, Record<4>),
    /// All sockets of a soft pair are being dialled.
    SoftData(Vec<Option<Socket>>),
    /// The soft acceptor's word that it has them all is awaited.
    SoftReady(Record<4>),
}

impl Attempt {
    fn new(runtime: &Runtime, from: IpAddr, handle: Handle, now: Instant) -> Self {
        let settings = &runtime.settings;
        let machine = handle.announcement.map(|a| a.machine);
        Self {
            from,
            congestion: settings.congestion.clone(),
            not_before: now + settings.faults.connect_delay,
            until: now + settings.connect_timeout,
            asked: now,
            peer: Peer {
                address: handle.data.ip(),
                soft: handle.announcement.is_some(),
                local: runtime.machine != 0 && machine == Some(runtime.machine),
            },
            control: None,
            data: (0..handle.sockets).map(|_| None).collect(),
            index: handle.sockets,
            pending_attempts: 0,
            stage: Stage::Pause(now),
            nonce: cookie(),
            handle,
        }
    }

    fn advance(&mut self, runtime: &Runtime, now: Instant) -> Result<Option<Established>, Failure> {
        if now < self.not_before {
            return Ok(None);
        }
        loop {
            let stage = std::mem::replace(&mut self.stage, Stage::Pause(now));
            let step = match self.step(stage, runtime, now) {
                Ok(step) => step,
                // A port that refuses may be about to open; anything that ends a young connection may be
                // an acceptor that dropped this socket. Both are tried again until the time is up.
                Err(error) if retryable(&error) && now < self.until => {
                    if self.index == self.handle.sockets {
                        self.control = None;
                        self.nonce = cookie();
                        self.data.fill_with(|| None);
                    } else if self.control.as_ref().is_some_and(dial::hung_up) {
                        return Err(self.lost(error));
                    }
                    self.stage = Stage::Pause(now + PAUSE);
                    return Ok(None);
                }
                Err(error) => return Err(self.lost(error)),
            };
            match step {
                Step::To(stage) => self.stage = stage,
                Step::Wait(stage) => {
                    self.stage = stage;
                    if now >= self.until {
                        return Err(self.lost(io::ErrorKind::TimedOut.into()));
                    }
                    return Ok(None);
                }
                Step::Refused => {
                    return Err(Failure::rule(format!("the acceptor at {} gave up", self.handle.control)));
                }
                Step::Done => {
                    let Some(control) = self.control.take() else {
                        return Err(self.lost(io::ErrorKind::NotConnected.into()));
                    };
                    let data = self.data.iter_mut().filter_map(Option::take).map(OwnedFd::from).collect();
                    return Ok(Some(Established { control: control.into(), data, peer: self.peer }));
                }
            }
        }
    }

    fn step(&mut self, stage: Stage, runtime: &Runtime, now: Instant) -> io::Result<Step> {
        match stage {
            Stage::Pause(until) if now < until => Ok(Step::Wait(Stage::Pause(until))),
            Stage::Pause(_) => {
                let is_control = self.index == self.handle.sockets;
                let to = if is_control { self.handle.control } else { self.handle.data };
                Ok(Step::To(Stage::Dialing(self.dial(runtime, to, is_control)?)))
            }
            Stage::Dialing(socket) => {
                if !dial::connected(&socket)? {
                    return Ok(Step::Wait(Stage::Dialing(socket)));
                }
                let held = if self.index == self.handle.sockets {
                    self.control = Some(socket);
                    None
                } else {
                    Some(socket)
                };
                Ok(Step::To(Stage::State(held, Record::new())))
            }
            Stage::State(held, mut word) => {
                let Some(control) = &self.control else { return Err(io::ErrorKind::NotConnected.into()) };
                let Some(state) = word.read(control)? else {
                    return Ok(Step::Wait(Stage::State(held, word)));
                };
                let state = i32::from_le_bytes(state);
                if state != STATE_OK {
                    // A real acceptor reads this side's state whatever its own was. One that is gone by now
                    // is noticed at the next word.
                    let _ = dial::put(control, &STATE_OK.to_le_bytes());
                }
                match state {
                    STATE_OK => self.answer(held, runtime),
                    STATE_FAILED => Ok(Step::Refused),
                    _ => {
                        self.pending_attempts += 1;
                        if self.pending_attempts == PENDING_ATTEMPTS {
                            return Ok(Step::Refused);
                        }
                        if held.is_none() {
                            self.control = None;
                        }
                        Ok(Step::To(Stage::Pause(now + PAUSE)))
                    }
                }
            }
            Stage::SoftData(sockets) => self.open_soft_data(sockets),
            Stage::SoftReady(mut word) => {
                let Some(control) = &self.control else { return Err(io::ErrorKind::NotConnected.into()) };
                match word.read(control)? {
                    None => Ok(Step::Wait(Stage::SoftReady(word))),
                    Some(_) => Ok(Step::Done),
                }
            }
        }
    }

    /// The acceptor is ready for the current socket: says which one it is and goes on to the next.
    fn answer(&mut self, held: Option<Socket>, runtime: &Runtime) -> io::Result<Step> {
        let Some(control) = &self.control else { return Err(io::ErrorKind::NotConnected.into()) };
        let index = (self.index as i32).to_le_bytes();
        if let (None, Some(announcement)) = (&held, self.handle.announcement) {
            let (cookie, nonce) = (announcement.cookie, self.nonce);
            let hello = Hello { cookie, machine: runtime.machine, nonce };
            dial::put(control, &[&STATE_SOFT.to_le_bytes()[..], &index, &hello.encode()].concat())?;
            let dial = |_| self.dial(runtime, self.handle.data, false).map(Some);
            let sockets = (0..self.handle.sockets).map(dial).collect::<io::Result<_>>()?;
            return Ok(Step::To(Stage::SoftData(sockets)));
        }
        dial::put(control, &[STATE_OK.to_le_bytes(), index].concat())?;
        self.pending_attempts = 0;
        if let Some(socket) = held {
            self.data[self.index] = Some(socket);
        }
        match self.index.checked_sub(1) {
            None => Ok(Step::Done),
            Some(next) => {
                self.index = next;
                Ok(Step::To(Stage::Pause(Instant::now())))
            }
        }
    }

    /// Opens all data sockets of a soft pair at once.
    fn open_soft_data(&mut self, mut sockets: Vec<Option<Socket>>) -> io::Result<Step> {
        for (index, place) in sockets.iter_mut().enumerate() {
            if let Some(socket) = place.take_if(|socket| matches!(dial::connected(socket), Ok(true) | Err(_)))
            {
                dial::put(&socket, &opening(self.nonce, index))?;
                self.data[index] = Some(socket);
            }
        }
        if self.data.iter().all(Option::is_some) {
            return Ok(Step::To(Stage::SoftReady(Record::new())));
        }
        Ok(Step::Wait(Stage::SoftData(sockets)))
    }

    fn dial(&self, runtime: &Runtime, to: SocketAddr, is_control: bool) -> io::Result<Socket> {
        let from = match &runtime.settings.control_device {
            // The control socket leaves by the control NIC, whose route the system knows.
            Some(_) if is_control => match to {
                SocketAddr::V4(_) => IpAddr::from([0; 4]),
                SocketAddr::V6(_) => IpAddr::from([0; 16]),
            },
            _ => self.from,
        };
        dial::connect(from, to, self.congestion.as_deref())
    }

    fn lost(&self, error: io::Error) -> Failure {
        Failure {
            code: Code::SYSTEM_ERROR,
            text: format!("connecting to the listener at {}: {error}", self.handle.control),
        }
    }
}

enum Step {
    To(Stage),
    Wait(Stage),
    Refused,
    Done,
}

fn retryable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
    )
}
