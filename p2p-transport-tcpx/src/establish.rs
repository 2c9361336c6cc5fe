//! From an address to a connection: the exchange stream, the handles of all channels, the comms.
//!
//! The connecting end says hello; the accepting end answers with the number of channels and a handle for each;
//! the connecting end sends as many. Then both connect and accept all comms at once, register their memory,
//! say ready, and are connected when both have. Each step ends by one deadline, and whoever gives up tells
//! the other why.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_memory::PAGE;
use p2p_transport::{Error, Now, Rail};
use tcpx_core::{Accept, Connect, Connecting, Handle, Listening, Plugin, RecvComm, SendComm};

use crate::connection::{far, lost};
use crate::exchange::hub::{Hub, NOT_HERE};
use crate::exchange::stream::Stream;
use crate::exchange::wire::{Hello, Key, Word};
use crate::watch::Watch;

/// How long one of several places of a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What every opening needs of its transport.
pub(crate) struct Surroundings<'a> {
    pub(crate) plugin: &'a Arc<Plugin>,
    pub(crate) watch: &'a Watch,
    /// Bound after which a peer is dead.
    pub(crate) peer_timeout: Duration,
    /// Time that an opening may take.
    pub(crate) connect_timeout: Duration,
    pub(crate) now: Now,
    pub(crate) at: Instant,
}

/// A connection on its way.
pub(crate) struct Opening {
    role: Role,
    /// When it is given up, in both clocks: a while after the first look at it, because only a poll knows the
    /// time.
    deadline: Option<(Now, Instant)>,
    /// Longest message of this end's NIC.
    max_message: u32,
    stage: Stage,
    /// The peer has said ready.
    peer_is_ready: bool,
}

enum Role {
    Connecting { key: Key, places: VecDeque<Way>, tried: Vec<String> },
    Accepting { key: Key, hub: &'static Hub },
}

enum Stage {
    /// The stream is not open; `None` before its next place is tried.
    Dialing { until: Option<Now> },
    /// Hello was said.
    Greeting,
    /// Nobody has come.
    Waiting,
    /// Comms are being made; this end knows the peer's handles or waits for them.
    Trading(Trade),
    /// All comms are up; the regions before this position are registered on them.
    Registering { next: usize },
    /// All comms are up and memory is registered.
    Ready,
}

/// The comms of a connection being made.
struct Trade {
    channels: u16,
    /// Longest message that both ends carry.
    max_message: u32,
    accepting: Vec<Option<Listening>>,
    received: Vec<Option<RecvComm>>,
    connecting: Vec<Option<Connecting>>,
    sent: Vec<Option<SendComm>>,
}

/// The comms of a connection: the k-th of each list makes channel k.
pub(crate) struct Comms {
    pub(crate) max_message: u32,
    pub(crate) sends: Vec<SendComm>,
    pub(crate) recvs: Vec<RecvComm>,
}

/// How far an opening came.
pub(crate) enum Progress {
    /// Not yet.
    Pending,
    /// All comms are up: make channels of them.
    Comms(Comms),
    /// Register some regions, from this position on, and say ready after the last.
    Register(usize),
    /// Both ends are ready.
    Connected,
}

impl Opening {
    pub(crate) fn connecting(key: Key, places: Vec<SocketAddr>, from: &[IpAddr], max_message: u32) -> Self {
        let role = Role::Connecting { key, places: ways(&places, from), tried: Vec::new() };
        let stage = Stage::Dialing { until: None };
        Self { role, deadline: None, max_message, stage, peer_is_ready: false }
    }

    pub(crate) const fn accepting(key: Key, hub: &'static Hub, max_message: u32) -> Self {
        let role = Role::Accepting { key, hub };
        Self { role, deadline: None, max_message, stage: Stage::Waiting, peer_is_ready: false }
    }

    /// The comms were taken; memory is being registered on them, from the region at this position on.
    pub(crate) fn registers_from(&mut self, region: usize) {
        self.stage = Stage::Registering { next: region };
    }

    /// This end is ready.
    pub(crate) fn is_ready(&mut self, stream: &mut Stream) {
        self.stage = Stage::Ready;
        stream.say(&Word::Ready);
    }

    /// Goes as far as it can without waiting. After an error the opening is over.
    pub(crate) fn drive(
        &mut self,
        rail: Rail,
        conn: usize,
        stream: &mut Option<Stream>,
        around: &Surroundings<'_>,
    ) -> Result<Progress, Error> {
        let timeout = around.connect_timeout;
        let (deadline, _) =
            *self.deadline.get_or_insert_with(|| (around.now.after(timeout), far(around.at, timeout)));
        if around.now >= deadline {
            return Err(self.too_late());
        }
        if let Stage::Dialing { .. } = self.stage {
            self.dial(rail, conn, stream, around)?;
        }
        if let Stage::Waiting = self.stage {
            self.look_for_visitor(rail, conn, stream, around)?;
        }
        self.hear(rail, stream, around)?;
        if let Stage::Trading(trade) = &mut self.stage {
            return trade.drive(around.at);
        }
        if let Stage::Registering { next } = self.stage {
            return Ok(Progress::Register(next));
        }
        let is_ready = matches!(self.stage, Stage::Ready) && self.peer_is_ready;
        Ok(if is_ready { Progress::Connected } else { Progress::Pending })
    }

    fn comms_deadline(&self, around: &Surroundings<'_>) -> Instant {
        self.deadline.map_or(around.at, |(_, deadline)| deadline)
    }

    fn too_late(&self) -> Error {
        let (during, text) = match (&self.stage, &self.role) {
            (Stage::Dialing { .. }, Role::Connecting { tried, .. }) => {
                let tried = if tried.is_empty() { String::new() } else { format!(": {}", tried.join("; ")) };
                (
                    "connect",
                    format!("the peer's exchange port did not answer in time{tried}; is its process alive?"),
                )
            }
            (Stage::Waiting | Stage::Dialing { .. }, _) => (
                "accept",
                "nobody connected in time: hand the address to the peer before accepting".to_owned(),
            ),
            (Stage::Greeting, _) => {
                ("connect", "the peer does not accept: call accept there, and poll".to_owned())
            }
            (Stage::Trading(trade), _) => ("connect", trade.missing()),
            (Stage::Registering { .. } | Stage::Ready, _) => {
                ("connect", "the peer did not get ready in time: look at its log".to_owned())
            }
        };
        lost(during, format!("{text} (UCCL_TCPX_CONNECT_TIMEOUT_SECONDS bounds it)"))
    }

    /// Tries the peer's places one after another, and says hello at the first that answers.
    fn dial(
        &mut self,
        rail: Rail,
        conn: usize,
        stream: &mut Option<Stream>,
        around: &Surroundings<'_>,
    ) -> Result<(), Error> {
        let Role::Connecting { key, places, tried } = &mut self.role else { return Ok(()) };
        let Stage::Dialing { until } = &mut self.stage else { return Ok(()) };
        let (plugin, max_message) = (around.plugin.name().to_owned(), self.max_message);
        let hello = Word::Hello(Hello { key: *key, channels: rail.channels, max_message, plugin });
        while let Some(&Way { to, from }) = places.front() {
            let Some(open) = stream else {
                match Stream::connect(to, from, around.peer_timeout) {
                    Ok(opened) => {
                        watch(around, &opened, conn)?;
                        *until = Some(around.now.after(PATIENCE));
                        *stream = Some(opened);
                    }
                    Err(error) => not_reached(places, tried, &error.to_string()),
                }
                continue;
            };
            match open.is_open() {
                Some(Ok(())) => {
                    open.say(&hello);
                    self.stage = Stage::Greeting;
                    return Ok(());
                }
                Some(Err(error)) => {
                    not_reached(places, tried, &error.to_string());
                    *stream = None;
                }
                None if until.is_some_and(|until| around.now >= until)
                    && (places.len() > 1 || from.is_some()) =>
                {
                    not_reached(places, tried, "no answer");
                    *stream = None;
                }
                None => return Ok(()),
            }
        }
        let text = format!(
            "no exchange port of the peer can be reached ({}): check that the peer is alive and that no firewall \
             keeps these hosts apart, or name the address to use in UCCL_TCPX_CTRL_IP there",
            tried.join("; ")
        );
        Err(lost("connect", text))
    }

    /// Takes the visitor of the listener, and answers its hello.
    fn look_for_visitor(
        &mut self,
        rail: Rail,
        conn: usize,
        stream: &mut Option<Stream>,
        around: &Surroundings<'_>,
    ) -> Result<(), Error> {
        let Role::Accepting { key, hub } = &self.role else { return Ok(()) };
        let Some(visitor) = hub.take(key) else { return Ok(()) };
        let Hello { channels, max_message, plugin, .. } = visitor.hello;
        let opened = Stream::new(visitor.socket, visitor.rest, around.peer_timeout);
        let opened = opened.map_err(|error| lost("accept", format!("the exchange stream: {error}")))?;
        watch(around, &opened, conn)?;
        let opened = stream.insert(opened);
        check_plugins(&plugin, around.plugin.name())?;
        let channels = channels.min(rail.channels);
        let max_message = smaller(max_message, self.max_message)?;
        let (trade, handles) =
            Trade::new(channels, max_message, rail, around.plugin, self.comms_deadline(around))?;
        opened.say(&Word::Welcome { max_message: self.max_message, handles });
        self.stage = Stage::Trading(trade);
        Ok(())
    }

    /// Hears what the peer says until it has nothing more to say.
    fn hear(
        &mut self,
        rail: Rail,
        stream: &mut Option<Stream>,
        around: &Surroundings<'_>,
    ) -> Result<(), Error> {
        let comms_deadline = self.comms_deadline(around);
        loop {
            if let Stage::Dialing { .. } | Stage::Waiting = self.stage {
                return Ok(());
            }
            if matches!(self.stage, Stage::Ready) && self.peer_is_ready {
                // What follows is said to the open connection.
                return Ok(());
            }
            let Some(open) = stream else { return Ok(()) };
            open.flush();
            let word = match open.next() {
                Ok(Some(word)) => word,
                Ok(None) => return Ok(()),
                Err(error) => match (&self.stage, &mut self.role) {
                    // Something else may listen there. If it was the last place, dialing says what was tried.
                    (Stage::Greeting, Role::Connecting { places, tried, .. }) => {
                        give_up(places, tried, &error.to_string());
                        *stream = None;
                        self.stage = Stage::Dialing { until: None };
                        continue;
                    }
                    _ => return Err(lost("connect", format!("{error}, before the connection was made"))),
                },
            };
            match (word, &mut self.stage, &mut self.role) {
                (Word::Refused(why), Stage::Greeting, Role::Connecting { places, tried, .. })
                    if why == NOT_HERE =>
                {
                    // Another host, or this one, may have the same address.
                    give_up(places, tried, NOT_HERE);
                    *stream = None;
                    self.stage = Stage::Dialing { until: None };
                }
                (Word::Refused(why), ..) => return Err(lost("connect", format!("the peer gave up: {why}"))),
                (Word::Welcome { max_message, handles }, Stage::Greeting, _) => {
                    let channels = handles.len() as u16;
                    if channels > rail.channels {
                        let text = "the peer answered with more channels than it was asked for";
                        return Err(lost("connect", text.to_owned()));
                    }
                    let max_message = smaller(max_message, self.max_message)?;
                    let made = Trade::new(channels, max_message, rail, around.plugin, comms_deadline);
                    let (mut trade, own) = made?;
                    open.say(&Word::Handles(own));
                    trade.connect(&handles, rail, around.plugin, comms_deadline)?;
                    self.stage = Stage::Trading(trade);
                }
                (Word::Handles(handles), Stage::Trading(trade), Role::Accepting { .. })
                    if trade.connecting.is_empty() && handles.len() == usize::from(trade.channels) =>
                {
                    trade.connect(&handles, rail, around.plugin, comms_deadline)?;
                }
                (Word::Ready, Stage::Trading(_) | Stage::Registering { .. } | Stage::Ready, _)
                    if !self.peer_is_ready =>
                {
                    self.peer_is_ready = true;
                    // While comms are made, nothing more is heard: what follows is said to the open connection.
                    return Ok(());
                }
                _ => {
                    let text = "the peer broke the order of the exchange: run the same release at both ends";
                    return Err(lost("connect", text.to_owned()));
                }
            }
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Role::Accepting { key, hub } = &self.role {
            hub.unsubscribe(key);
        }
    }
}

/// The longest message that both ends carry.
fn smaller(theirs: u32, ours: u32) -> Result<u32, Error> {
    let both = theirs.min(ours);
    if (both as usize) < PAGE {
        let text = format!(
            "the peer carries messages of at most {theirs} bytes, and this end of {ours}: {PAGE} are needed"
        );
        return Err(lost("connect", text));
    }
    Ok(both)
}

/// A handle means something to plugins of its kind only; another one may crash on it. The soft plugin speaks
/// the wire of Google's.
fn check_plugins(theirs: &str, ours: &str) -> Result<(), Error> {
    let tcpx = |name: &str| name.contains("TCPX");
    if theirs == ours || tcpx(theirs) && tcpx(ours) {
        return Ok(());
    }
    let text = format!(
        "the peer uses the net plugin {theirs} and this end {ours}, which do not understand each other: choose the \
         same at both ends (UCCL_P2P_TRANSPORT, UCCL_TCPX_PLUGIN_PATH)"
    );
    Err(lost("accept", text))
}

fn watch(around: &Surroundings<'_>, stream: &Stream, conn: usize) -> Result<(), Error> {
    around
        .watch
        .add(stream, conn)
        .map_err(|error| lost("connect", format!("watching the exchange stream: {error}")))
}

fn give_up(places: &mut VecDeque<Way>, tried: &mut Vec<String>, why: &str) {
    let Some(Way { to, .. }) = places.pop_front() else { return };
    let text = format!("{to}: {why}");
    // It may be tried from two addresses.
    if !tried.contains(&text) {
        tried.push(text);
    }
}

/// A place of the peer, and the address of this host from which it is tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Way {
    to: SocketAddr,
    from: Option<IpAddr>,
}

/// Each place from the rail's own NIC, so that the stream goes the way that the data goes, and its end is that way's.
fn ways(places: &[SocketAddr], from: &[IpAddr]) -> VecDeque<Way> {
    let own = |to: &SocketAddr| {
        let fits = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4() && ip.is_loopback() == to.ip().is_loopback();
        from.iter().find(fits).copied()
    };
    places.iter().map(|to| Way { to: *to, from: own(to) }).collect()
}

/// A place did not answer: it is tried last from wherever the system chooses, if it was tried from a NIC.
fn not_reached(places: &mut VecDeque<Way>, tried: &mut Vec<String>, why: &str) {
    let again = places.front().filter(|way| way.from.is_some()).map(|way| Way { to: way.to, from: None });
    give_up(places, tried, why);
    places.extend(again);
}

impl Trade {
    /// Listens once for each channel; returns the handles for the peer as well.
    fn new(
        channels: u16,
        max_message: u32,
        rail: Rail,
        plugin: &Arc<Plugin>,
        deadline: Instant,
    ) -> Result<(Self, Vec<Handle>), Error> {
        let mut handles = Vec::new();
        let mut accepting = Vec::new();
        for _ in 0..channels {
            let listening = plugin.listen(usize::from(rail.nic.0), deadline);
            let (handle, listening) = listening.map_err(|error| of_core("listen", error))?;
            handles.push(handle);
            accepting.push(Some(listening));
        }
        let count = usize::from(channels);
        let trade = Self {
            channels,
            max_message,
            accepting,
            received: (0..count).map(|_| None).collect(),
            connecting: Vec::new(),
            sent: (0..count).map(|_| None).collect(),
        };
        Ok((trade, handles))
    }

    /// Starts to connect to the peer's handles.
    fn connect(
        &mut self,
        handles: &[Handle],
        rail: Rail,
        plugin: &Arc<Plugin>,
        deadline: Instant,
    ) -> Result<(), Error> {
        for handle in handles {
            let connecting = plugin.connect(usize::from(rail.nic.0), handle, deadline);
            self.connecting.push(Some(connecting.map_err(|error| of_core("connect", error))?));
        }
        Ok(())
    }

    fn drive(&mut self, at: Instant) -> Result<Progress, Error> {
        for (accepting, received) in self.accepting.iter_mut().zip(&mut self.received) {
            let Some(listening) = accepting.take() else { continue };
            match listening.poll(at) {
                Accept::Pending(listening) => *accepting = Some(listening),
                Accept::Ready(comm) => *received = Some(comm),
                Accept::Failed(error) => return Err(of_core("accept", error)),
            }
        }
        for (connecting, sent) in self.connecting.iter_mut().zip(&mut self.sent) {
            let Some(one) = connecting.take() else { continue };
            match one.poll(at) {
                Connect::Pending(one) => *connecting = Some(one),
                Connect::Ready(comm) => *sent = Some(comm),
                Connect::Failed(error) => return Err(of_core("connect", error)),
            }
        }
        if self.received.iter().any(Option::is_none) || self.sent.iter().any(Option::is_none) {
            return Ok(Progress::Pending);
        }
        let sends = self.sent.drain(..).flatten().collect();
        let recvs = self.received.drain(..).flatten().collect();
        Ok(Progress::Comms(Comms { max_message: self.max_message, sends, recvs }))
    }

    /// What it still waits for, in words.
    fn missing(&self) -> String {
        let left = |comms: usize| usize::from(self.channels) - comms;
        let accepted = left(self.received.iter().flatten().count());
        let connected = left(self.sent.iter().flatten().count());
        format!(
            "of {} channels {accepted} were not accepted and {connected} not connected in time: check that the data \
             NICs of the two hosts reach each other",
            self.channels
        )
    }
}

fn of_core(during: &'static str, error: tcpx_core::Error) -> Error {
    lost(during, error.to_string()).with_source(error)
}
