//! What is tried in a process of its own: starting the plugin, and moving bytes through it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use p2p_memory::SharedHost;
use p2p_transport::{ConnId, Event, Events, Now, Outcome, Rail, Slice, Token, Transport};
use p2p_transport_tcpx::{Choice, Options as TcpxOptions, Tcpx};
use serde::{Deserialize, Serialize};
use tcpx_core::Plugin;
use tcpx_core::config::Config;

use crate::failure::{Doing, Failure};

/// Bytes that are moved, checked each.
const BYTES: usize = 4 << 20;
/// Longest message.
const MESSAGE: usize = 1 << 20;
/// How long the opening, a message or the end may take; the parent ends what takes longer in all.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a child tries.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Probe {
    /// Loads and initialises the chosen plugin, and asks for its devices
    Start,
    /// Moves a few MiB between two ends
    Transfer,
}

/// What came of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum Answer {
    Started { plugin: String, devices: Vec<Device> },
    Moved { bytes: usize, micros: u64, over: String },
    Failed(String),
}

/// A NIC as the plugin reports it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Device {
    pub(super) name: String,
    /// In Mbit/s; 0 where unknown.
    pub(super) megabits: i32,
}

/// Tries it, in this process.
pub(super) fn run(probe: Probe) -> Answer {
    // Its parent may end without a chance to say so, and what crashes here is not to leave a core file.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    let answer = open().and_then(|(plugin, config)| match probe {
        Probe::Start => Ok(started(&plugin)),
        Probe::Transfer => transfer(&plugin, &config),
    });
    answer.unwrap_or_else(|failure| Answer::Failed(failure.to_string()))
}

fn open() -> Result<(Arc<Plugin>, Config), Failure> {
    let config = Config::from_process().map_err(|error| Failure::new(error.to_string()))?;
    let plugin = Choice::of(&config).open(&config).map_err(|error| Failure::new(error.text()))?;
    Ok((plugin, config))
}

fn started(plugin: &Plugin) -> Answer {
    let devices = plugin.devices().iter();
    let devices = devices.map(|device| Device { name: device.name.to_owned(), megabits: device.speed_mbps });
    Answer::Started { plugin: format!("{} {}", plugin.name(), plugin.version()), devices: devices.collect() }
}

fn transfer(plugin: &Arc<Plugin>, config: &Config) -> Result<Answer, Failure> {
    let mut ends = Ends::new(plugin, config)?;
    let memory = || SharedHost::new(BYTES).map_err(|error| Failure::new(error.to_string()));
    let (from, to) = (memory()?, memory()?);
    let bytes: Vec<u8> = (0..BYTES).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    from.copy_in(0, &bytes).map_err(|error| Failure::new(error.to_string()))?;
    to.copy_in(0, &vec![0xa5; BYTES]).map_err(|error| Failure::new(error.to_string()))?;
    let source = ends.there.register(ends.rail.nic, Box::new(from)).map_err(|refused| refused.error);
    let target = ends.here.register(ends.rail.nic, Box::new(to.clone())).map_err(|refused| refused.error);
    let (source, target) = (source.doing("registering memory")?, target.doing("registering memory")?);
    ends.connect()?;
    let begin = Instant::now();
    let longest = ends.longest().min(MESSAGE);
    for offset in (0..BYTES).step_by(longest.max(1)) {
        let len = longest.min(BYTES - offset) as u32;
        let slice = |region| Slice { region, offset: offset as u64, len };
        ends.message(slice(source), slice(target))?;
    }
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut arrived = vec![0; BYTES];
    to.copy_out(0, &mut arrived).map_err(|error| Failure::new(error.to_string()))?;
    if let Some(at) = (0..BYTES).find(|&at| arrived[at] != bytes[at]) {
        return Err(Failure::new(format!("WRONG DATA: byte {at} of {BYTES} differs")));
    }
    let over = ends.here.nics()[usize::from(ends.rail.nic.0)].name.clone();
    Ok(Answer::Moved { bytes: BYTES, micros, over })
}

/// Two ends of a connection in this process.
struct Ends {
    here: Tcpx,
    there: Tcpx,
    rail: Rail,
    receiver: Option<ConnId>,
    sender: Option<ConnId>,
    origin: Instant,
    events: Events,
}

impl Ends {
    fn new(plugin: &Arc<Plugin>, config: &Config) -> Result<Self, Failure> {
        let origin = Instant::now();
        let open = || {
            Tcpx::new(plugin.clone(), config, TcpxOptions::of(config, origin)).doing("opening the transport")
        };
        let (here, there) = (open()?, open()?);
        let rails = here.rails(None).doing("choosing a NIC")?;
        let rail = *rails.first().ok_or_else(|| Failure::new("the plugin has no NIC"))?;
        let rail = Rail { channels: 1, ..rail };
        let events = Events::with_capacity(16);
        Ok(Self { here, there, rail, receiver: None, sender: None, origin, events })
    }

    fn connect(&mut self) -> Result<(), Failure> {
        let (listener, address) = self.here.listen(self.rail).doing("listening")?;
        self.receiver = Some(self.here.accept(listener).doing("accepting")?);
        self.sender = Some(self.there.connect(self.rail, &address).doing("connecting")?);
        self.both("the connection did not open", |event| matches!(event, Event::Connected(_)))
    }

    /// Longest message that both ends carry.
    fn longest(&self) -> usize {
        let of =
            |end: &Tcpx, conn: Option<ConnId>| end.limits(conn?).map(|limits| limits.max_message as usize);
        of(&self.here, self.receiver).min(of(&self.there, self.sender)).unwrap_or(MESSAGE)
    }

    fn message(&mut self, from: Slice, into: Slice) -> Result<(), Failure> {
        let (Some(receiver), Some(sender)) = (self.receiver, self.sender) else {
            return Err(Failure::new("there is no connection"));
        };
        let taken = self.here.recv(receiver, Token(1), &[into]).stopped.is_none();
        if !taken || self.there.send(sender, Token(2), &[from]).stopped.is_some() {
            return Err(Failure::new("the connection took no message although none was under way"));
        }
        let is_done = |event: &Event| matches!(event, Event::Completed { outcome: Outcome::Done { .. }, .. });
        self.both("a message did not arrive", is_done)
    }

    /// Polls both ends until each has had such an event.
    fn both(&mut self, missing: &str, is_it: impl Fn(&Event) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut had = [false; 2];
        while had != [true; 2] {
            let now = Now(self.origin.elapsed());
            for (end, had) in [&mut self.here, &mut self.there].into_iter().zip(&mut had) {
                let _ = end.poll(now, &mut self.events);
                for event in self.events.drain() {
                    if is_it(&event) {
                        *had = true;
                    } else if let Event::Closed(conn) = event {
                        let why =
                            end.why(conn).map_or_else(|| "without a reason".to_owned(), ToString::to_string);
                        return Err(Failure::new(format!("{missing}; the connection ended: {why}")));
                    }
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{missing} within {} s", PATIENCE.as_secs())));
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }
}
