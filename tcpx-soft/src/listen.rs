//! Listening and accepting: one comm per listener, strangers dropped, nothing that blocks.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;
use tcpx_sys::HANDLE_BYTES;

use crate::comm::{Comm, Established, Peer};
use crate::dial::{self, Record};
use crate::failure::Failure;
use crate::interface;
use crate::lane::Direction;
use crate::log;
use crate::runtime::{Runtime, cookie};
use crate::wire::{Announcement, Handle, Hello, MAX_SOCKETS, STATE_FAILED, STATE_OK, STATE_SOFT};

/// Connections looked at in parallel while nobody has proved to be the peer.
const CANDIDATES: usize = 64;
/// Attempts for one socket of a real peer.
const ATTEMPTS: u32 = 3;

/// A listen comm.
#[derive(Debug)]
pub(crate) struct Listener {
    runtime: Arc<Runtime>,
    nic: usize,
    data: Socket,
    control: Socket,
    sockets: usize,
    cookie: u64,
    began: Option<Instant>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nobody has said who it is.
    Control(Vec<Candidate>),
    /// A soft peer is known; its data sockets come in any order.
    Soft(Box<SoftStage>),
    /// A real peer is known; its data sockets come one by one.
    Real(Box<RealStage>),
    /// The one accept has been answered.
    Over,
}

/// A connection on the control port.
#[derive(Debug)]
struct Candidate {
    socket: Socket,
    peer: Peer,
    words: Record<8>,
    hello: Record<{ Hello::BYTES }>,
    nonce: u64,
    until: Instant,
}

/// A connection on the data port of a soft peer.
#[derive(Debug)]
struct DataCandidate {
    socket: Socket,
    opening: Record<{ DATA_OPENING }>,
}

#[derive(Debug)]
struct SoftStage {
    control: Socket,
    peer: Peer,
    /// Says which attempt of the peer a data socket belongs to.
    nonce: u64,
    data: Vec<Option<Socket>>,
    waiting: Vec<DataCandidate>,
    until: Instant,
}

/// Nonce and index, the first bytes on a data socket between soft ends.
pub(crate) const DATA_OPENING: usize = 12;

#[derive(Debug)]
struct RealStage {
    control: Socket,
    peer: Peer,
    data: Vec<Option<Socket>>,
    current: Option<Socket>,
    state: Record<4>,
    index: Record<4>,
    accepted_state: bool,
    attempts: u32,
    until: Instant,
}

impl Listener {
    /// Opens both ports and writes the handle.
    pub(crate) fn open(
        runtime: &Arc<Runtime>,
        device: i32,
    ) -> Result<(Box<Self>, [u8; HANDLE_BYTES]), Failure> {
        let (index, nic) = runtime.nic(device)?;
        let settings = &runtime.settings;
        let control_address = match &settings.control_device {
            Some(name) => interface::address_of(name, settings.family).map_err(Failure::rule)?,
            None => nic.address,
        };
        let congestion = settings.congestion.as_deref();
        let open = |address| {
            dial::listen(address, congestion)
                .map_err(|error| Failure::system(format!("listening on {address}"), error))
        };
        let (data, data_address) = open(nic.address)?;
        let (control, control_address) = open(control_address)?;
        let (sockets, cookie) = (runtime.sockets(), cookie());
        let handle = Handle {
            data: data_address,
            control: control_address,
            sockets,
            redirect: settings.control_device.is_some(),
            announcement: Some(Announcement { machine: runtime.machine, cookie }),
        };
        let listener = Self {
            runtime: runtime.clone(),
            nic: index,
            data,
            control,
            sockets,
            cookie,
            began: None,
            stage: Stage::Control(Vec::new()),
        };
        Ok((Box::new(listener), handle.encode()))
    }

    /// `accept`: `None` means "call again".
    pub(crate) fn accept(&mut self) -> Result<Option<Box<Comm>>, Failure> {
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        let faults = &self.runtime.settings.faults;
        if faults.accept_fails {
            self.stage = Stage::Over;
            return Err(Failure::rule("accept fails (TCPX_SOFT_FAULT_ACCEPT_FAILS)"));
        }
        if now < began + faults.accept_delay {
            return Ok(None);
        }
        let established = loop {
            match self.advance(now) {
                Ok(Progress::Advanced) => {}
                Ok(Progress::Waiting) => return Ok(None),
                Ok(Progress::Established(established)) => break established,
                Err(failure) => {
                    self.stage = Stage::Over;
                    return Err(failure);
                }
            }
        };
        self.stage = Stage::Over;
        Comm::new(&self.runtime, self.nic, Direction::Receive, established).map(Some)
    }

    fn advance(&mut self, now: Instant) -> Result<Progress, Failure> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Control(candidates) => self.find_peer(candidates, now),
            Stage::Soft(stage) => self.collect_soft(stage, now),
            Stage::Real(stage) => self.collect_real(stage, now),
            Stage::Over => {
                Err(Failure::rule("accept on a listener that has answered already; it serves one"))
            }
        }
    }

    /// Looks at every connection on the control port until one has proved to be a peer.
    fn find_peer(&mut self, mut candidates: Vec<Candidate>, now: Instant) -> Result<Progress, Failure> {
        let system = |error| Failure::system("accepting on the control port", error);
        while candidates.len() < CANDIDATES {
            let Some((socket, from)) = dial::accept(&self.control).map_err(system)? else { break };
            // The acceptor speaks first; who is gone by now is a stranger.
            if dial::put(&socket, &STATE_OK.to_le_bytes()).is_err() {
                continue;
            }
            candidates.push(Candidate {
                socket,
                peer: Peer { address: from.ip(), soft: false, local: false },
                words: Record::new(),
                hello: Record::new(),
                nonce: 0,
                until: now + self.runtime.settings.handshake_timeout,
            });
        }
        let mut kept = Vec::new();
        let mut found = None;
        for mut candidate in candidates {
            match self.examine(&mut candidate, now) {
                Verdict::Peer if found.is_none() => found = Some(candidate),
                Verdict::Wait => kept.push(candidate),
                // A stranger, or a second peer on a handle that serves one: dropped, nothing else.
                Verdict::Peer | Verdict::Stranger => {}
            }
        }
        let Some(Candidate { socket, peer, nonce, .. }) = found else {
            self.stage = Stage::Control(kept);
            return Ok(Progress::Waiting);
        };
        let until = now + self.runtime.settings.handshake_timeout;
        let data = (0..self.sockets).map(|_| None).collect();
        self.stage = if peer.soft {
            let waiting = Vec::new();
            Stage::Soft(Box::new(SoftStage { control: socket, peer, nonce, data, waiting, until }))
        } else {
            Stage::Real(Box::new(RealStage::new(socket, peer, data, until)))
        };
        Ok(Progress::Advanced)
    }

    fn examine(&self, candidate: &mut Candidate, now: Instant) -> Verdict {
        let waiting = |now| if now < candidate.until { Verdict::Wait } else { Verdict::Stranger };
        let words = match candidate.words.read(&candidate.socket) {
            Ok(Some(words)) => words,
            Ok(None) => return waiting(now),
            Err(_) => return Verdict::Stranger,
        };
        let [state, index] = two_words(words);
        if index != self.sockets as i32 {
            return Verdict::Stranger;
        }
        match state {
            STATE_OK => Verdict::Peer,
            STATE_SOFT => match candidate.hello.read(&candidate.socket) {
                Ok(Some(bytes)) => match Hello::decode(&bytes) {
                    Some(hello) if hello.cookie == self.cookie => {
                        let machine = self.runtime.machine;
                        candidate.nonce = hello.nonce;
                        candidate.peer.soft = true;
                        candidate.peer.local = machine != 0 && hello.machine == machine;
                        Verdict::Peer
                    }
                    _ => Verdict::Stranger,
                },
                Ok(None) => waiting(now),
                Err(_) => Verdict::Stranger,
            },
            _ => Verdict::Stranger,
        }
    }

    /// Collects the data sockets of a soft peer, each of which names the attempt's nonce and its index. A
    /// peer that gives up in the middle may come again.
    fn collect_soft(&mut self, mut stage: Box<SoftStage>, now: Instant) -> Result<Progress, Failure> {
        let system = |error| Failure::system("accepting on the data port", error);
        while stage.waiting.len() < CANDIDATES {
            let Some((socket, _)) = dial::accept(&self.data).map_err(system)? else { break };
            stage.waiting.push(DataCandidate { socket, opening: Record::new() });
        }
        for mut candidate in std::mem::take(&mut stage.waiting) {
            match candidate.opening.read(&candidate.socket) {
                Ok(Some(bytes)) => {
                    let index = opening_index(&bytes, stage.nonce);
                    if let Some(place @ None) = index.and_then(|index| stage.data.get_mut(index)) {
                        *place = Some(candidate.socket);
                    }
                }
                Ok(None) => stage.waiting.push(candidate),
                Err(_) => {}
            }
        }
        let gone = now >= stage.until || dial::hung_up(&stage.control);
        if !gone && stage.data.iter().any(Option::is_none) {
            self.stage = Stage::Soft(stage);
            return Ok(Progress::Waiting);
        }
        if gone || dial::put(&stage.control, &STATE_OK.to_le_bytes()).is_err() {
            self.stage = Stage::Control(Vec::new());
            return Ok(Progress::Waiting);
        }
        let SoftStage { control, data, peer, .. } = *stage;
        Ok(Progress::Established(established(control, data, peer)))
    }

    /// Collects the data sockets of a real peer, in the order of its index words. One that says "give up" or
    /// drops a socket three times ends the accept, as agreed; one that breaks the handshake is a stranger.
    fn collect_real(&mut self, mut stage: Box<RealStage>, now: Instant) -> Result<Progress, Failure> {
        if now >= stage.until {
            return self.drop_peer(&stage, &io::ErrorKind::TimedOut.into());
        }
        if stage.current.is_none() {
            let system = |error| Failure::system("accepting on the data port", error);
            let next = dial::accept(&self.data).map_err(system)?;
            // Looked at after the queue: what a peer sent before it went away is already there.
            if next.is_none() && dial::hung_up(&stage.control) {
                return self.drop_peer(&stage, &io::ErrorKind::UnexpectedEof.into());
            }
            let Some((socket, _)) = next else {
                self.stage = Stage::Real(stage);
                return Ok(Progress::Waiting);
            };
            if let Err(error) = dial::put(&stage.control, &STATE_OK.to_le_bytes()) {
                return self.drop_peer(&stage, &error);
            }
            stage.current = Some(socket);
        }
        let words = match stage.read_words(self.sockets) {
            Ok(words) => words,
            Err(error) => return self.drop_peer(&stage, &error),
        };
        match words {
            Words::Wait => {
                self.stage = Stage::Real(stage);
                Ok(Progress::Waiting)
            }
            Words::Again => {
                stage.attempts += 1;
                if stage.attempts == ATTEMPTS {
                    return Err(Failure::rule(format!(
                        "peer {} dropped one socket three times",
                        stage.peer.address
                    )));
                }
                stage.begin_socket(now + self.runtime.settings.handshake_timeout);
                self.stage = Stage::Real(stage);
                Ok(Progress::Advanced)
            }
            Words::GaveUp => Err(Failure::rule(format!("peer {} gave up", stage.peer.address))),
            Words::Broken(index) => {
                let sockets = self.sockets;
                let why = format!("it named data socket {index} of {sockets}, out of range or twice");
                self.drop_peer(&stage, &io::Error::other(why))
            }
            Words::Index(index) => {
                stage.data[index] = stage.current.take();
                stage.attempts = 0;
                if stage.data.iter().all(Option::is_some) {
                    return Ok(Progress::Established(established(stage.control, stage.data, stage.peer)));
                }
                stage.begin_socket(now + self.runtime.settings.handshake_timeout);
                self.stage = Stage::Real(stage);
                Ok(Progress::Advanced)
            }
        }
    }

    /// Drops a peer that broke off or broke the handshake, with everything in the queue of the data port,
    /// where its sockets cannot be told from others, and looks for another. A soft peer that is dropped with
    /// it comes again by itself; a real one fails, and its caller tries again.
    fn drop_peer(&mut self, stage: &RealStage, why: &io::Error) -> Result<Progress, Failure> {
        let peer = stage.peer.address;
        log::warn(&format!("accept: handshake with {peer}: {why}; waiting for another peer"));
        for _ in 0..=MAX_SOCKETS {
            match dial::accept(&self.data) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.stage = Stage::Control(Vec::new());
        Ok(Progress::Waiting)
    }
}

enum Progress {
    Advanced,
    Waiting,
    Established(Established),
}

enum Verdict {
    Peer,
    Wait,
    Stranger,
}

enum Words {
    Wait,
    Again,
    Index(usize),
    Broken(i32),
    GaveUp,
}

impl RealStage {
    fn new(control: Socket, peer: Peer, data: Vec<Option<Socket>>, until: Instant) -> Self {
        Self {
            control,
            peer,
            data,
            current: None,
            state: Record::new(),
            index: Record::new(),
            accepted_state: false,
            attempts: 0,
            until,
        }
    }

    fn begin_socket(&mut self, until: Instant) {
        self.current = None;
        self.state = Record::new();
        self.index = Record::new();
        self.accepted_state = false;
        self.until = until;
    }

    fn read_words(&mut self, sockets: usize) -> io::Result<Words> {
        if !self.accepted_state {
            let Some(state) = self.state.read(&self.control)? else { return Ok(Words::Wait) };
            match i32::from_le_bytes(state) {
                STATE_OK => self.accepted_state = true,
                STATE_FAILED => return Ok(Words::GaveUp),
                _ => return Ok(Words::Again),
            }
        }
        let Some(index) = self.index.read(&self.control)? else { return Ok(Words::Wait) };
        let index = i32::from_le_bytes(index);
        let free = usize::try_from(index).ok().filter(|&i| i < sockets && self.data[i].is_none());
        Ok(free.map_or(Words::Broken(index), Words::Index))
    }
}

fn established(control: Socket, data: Vec<Option<Socket>>, peer: Peer) -> Established {
    let data = data.into_iter().flatten().map(OwnedFd::from).collect();
    Established { control: control.into(), data, peer }
}

fn two_words(bytes: [u8; 8]) -> [i32; 2] {
    let value = u64::from_le_bytes(bytes);
    [value as u32 as i32, (value >> 32) as i32]
}

/// What a soft connector writes first on data socket `index`.
pub(crate) fn opening(nonce: u64, index: usize) -> [u8; DATA_OPENING] {
    let mut bytes = [0; DATA_OPENING];
    bytes[..8].copy_from_slice(&nonce.to_le_bytes());
    bytes[8..].copy_from_slice(&(index as u32).to_le_bytes());
    bytes
}

fn opening_index(bytes: &[u8; DATA_OPENING], nonce: u64) -> Option<usize> {
    let (theirs, index) = bytes.split_first_chunk::<8>()?;
    let index = u32::from_le_bytes(index.try_into().ok()?) as usize;
    (u64::from_le_bytes(*theirs) == nonce && index < MAX_SOCKETS).then_some(index)
}
