//! The client's end of a run: what is open, and single passes.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use benches::distance::Probe;
use benches::load;
use benches::raw_tcp::{self, Sender};
use benches::statistics::{cpu_seconds_per_gigabyte, gigabytes_per_second};
use p2p_memory::SharedHost;

use super::Options;
use super::bootstrap::Peer;
use super::content::Content;
use super::endpoints::{Active, Caller};
use super::figures::{Condition, Entry, Percentiles};
use super::iperf;
use super::link::{Closing, Link, Opening};
use super::net::Net;
use super::nics::{self, Meter};
use super::placement::Placement;
use super::plan::{self, COMPARED, COMPARED_MESSAGES, IN_FLIGHT, Lanes};
use super::transfer::{self, Sending};
use super::words::{Answer, Come, Command, Hello, Pass, VERSION, Welcome};
use crate::failure::{Doing, Failure};

/// Names the running machine, so that both ends know whether they share its cores.
pub(super) fn machine() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Says hello for a run that opens no connections of ours: a calibration, or a sweep.
pub(super) fn greet_alone(peer: &mut Peer, options: &Options) -> Result<Come, Failure> {
    let hello = Hello {
        version: VERSION,
        channels: Vec::new(),
        nics: 0,
        region: 0,
        congestion: options.congestion.clone(),
        machine: machine(),
        seed: 0,
        endpoint: [0; 16],
    };
    greet(peer, &hello)
}

/// Says hello, and hears what the server that takes this client says.
fn greet(peer: &mut Peer, hello: &Hello) -> Result<Come, Failure> {
    peer.say(hello)?;
    match peer.hear()? {
        Welcome::Come(come) => Ok(come),
        Welcome::Refused(reason) => Err(Failure::peer(format!("the server refuses: {reason}"))),
    }
}

/// Numbers of channels that there are connections for: those to be measured, and one for ping-pongs.
pub(super) fn groups(options: &Options) -> Vec<u16> {
    let mut groups: Vec<u16> = options.channels.iter().copied().chain([1]).map(u16::from).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Different in each run; printed nowhere, since what it makes is checked within the run.
fn seed() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}

/// Refuses a region that this machine has no memory for, before it is touched.
fn check_memory(size: usize, same_host: bool) -> Result<(), Failure> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free = free.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    // The baseline has memory of its own, and where both ends are here, so has the other.
    let needed = size as u64 * if same_host { 4 } else { 2 };
    match free.map(|kilobytes| kilobytes << 10) {
        Some(free) if free < needed => Err(Failure::new(format!(
            "the messages need {:.1} GB of memory here and {:.1} GB are available: give smaller --sizes",
            needed as f64 / 1e9,
            free as f64 / 1e9
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Everything that is open.
pub(super) struct Session {
    pub(super) peer: Peer,
    /// The plugin and its NICs in words.
    pub(super) net: String,
    pub(super) link: Link,
    pub(super) active: Active,
    pub(super) content: Content,
    pub(super) region: SharedHost,
    pub(super) same_host: bool,
    /// What the NICs moved in passes that the server watched.
    pub(super) moved: nics::Moved,
    devmem: BTreeMap<String, u64>,
    probe: Probe,
    congestion: Option<String>,
    largest: usize,
    passes: u64,
}

/// What both ends saw of a pass.
pub(super) struct Moved {
    pub(super) entry: Entry,
    pub(super) time: Duration,
}

impl Session {
    pub(super) fn open(
        options: &Options,
        net: Net,
        mut peer: Peer,
        congestion: Option<String>,
    ) -> Result<Self, Failure> {
        let channels = groups(options);
        let size = plan::region(&options.sizes);
        check_memory(size, options.is_child())?;
        let caller = Caller::open(&net)?;
        let hello = Hello {
            version: VERSION,
            channels: channels.clone(),
            nics: net.rails.len(),
            region: size,
            congestion: congestion.clone(),
            machine: machine(),
            seed: seed(),
            endpoint: caller.id().0,
        };
        let Come { addresses, machine: there, far } = greet(&mut peer, &hello)?;
        let far = far.ok_or_else(|| Failure::peer("the server opened no endpoint"))?;
        let region = SharedHost::new(size).map_err(|error| Failure::new(error.to_string()))?;
        let name = net.describe();
        let host = peer.stream().peer_addr().doing("asking where the server is")?;
        let active = caller.connect(host, &far, &region)?;
        let mut link = Link::new(net, &region, channels.len())?;
        link.connect(&channels, &addresses)?;
        link.drive(&mut Opening)?;
        check_sizes(options, &link, &name)?;
        link.receive_back()?;
        let content = Content::new(region.clone(), hello.seed);
        let probe = Probe::new().doing("reading which cores this process may use")?;
        let same_host = there == hello.machine;
        let (net, largest) = (name, options.sizes.iter().copied().max().unwrap_or(0));
        let devmem = nics::devmem_packets(Meter::start(active.endpoint()).interfaces());
        let moved = nics::Moved::default();
        Ok(Self {
            peer,
            net,
            link,
            active,
            content,
            region,
            same_host,
            moved,
            devmem,
            probe,
            congestion,
            largest,
            passes: 0,
        })
    }

    /// Says that it is over.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        self.peer.say(&Command::End)
    }

    /// Closes what is open, after everything is said.
    pub(super) fn close(mut self) {
        self.link.close();
        // The other end may be gone already.
        let _ = self.link.drive(&mut Closing);
    }

    /// Asks for something that is ready when it is done.
    pub(super) fn ask(&mut self, command: &Command) -> Result<(), Failure> {
        self.peer.say(command)?;
        self.await_ready()
    }

    pub(super) fn await_ready(&mut self) -> Result<(), Failure> {
        match self.peer.hear()? {
            Answer::Ready => Ok(()),
            Answer::Failed(text) => Err(Failure::new(text)),
            Answer::Passed { .. } | Answer::Nics(_) | Answer::Listening { .. } => {
                Err(Failure::peer("the server answered what was not asked"))
            }
        }
    }

    /// What the server saw of a pass: time and CPU time.
    pub(super) fn await_passed(&mut self) -> Result<(Duration, Duration), Failure> {
        match self.peer.hear()? {
            Answer::Passed { nanoseconds, cpu_nanoseconds } => {
                Ok((Duration::from_nanos(nanoseconds), Duration::from_nanos(cpu_nanoseconds)))
            }
            Answer::Failed(text) => Err(Failure::new(text)),
            Answer::Ready | Answer::Nics(_) | Answer::Listening { .. } => {
                Err(Failure::peer("the server answered what was not asked"))
            }
        }
    }

    /// The counters of this end, to be read when something has moved.
    pub(super) fn meter(&self) -> Meter {
        Meter::start(self.active.endpoint())
    }

    /// What the NICs of this end moved in passes that the server watched.
    pub(super) fn nics(&mut self) -> nics::Moved {
        self.moved.count_devmem(&self.devmem);
        self.moved.clone()
    }

    /// What the NICs of the server moved in them.
    pub(super) fn server_nics(&mut self) -> Result<nics::Moved, Failure> {
        self.peer.say(&Command::Nics)?;
        match self.peer.hear()? {
            Answer::Nics(moved) => Ok(moved),
            Answer::Failed(text) => Err(Failure::new(text)),
            Answer::Ready | Answer::Passed { .. } | Answer::Listening { .. } => {
                Err(Failure::peer("the server answered what was not asked"))
            }
        }
    }

    /// How the machine is at the moment. Both ends are idle.
    pub(super) fn condition(&mut self) -> Result<Condition, Failure> {
        let others = load::others().doing("asking what else runs")?;
        let distance = self.probe.measure().doing("measuring the distance of cores")?;
        Ok(Condition { distance, others })
    }

    /// The same bytes as in a comparison by iperf3, in GB/s.
    pub(super) fn iperf(&mut self, manner: iperf::Manner) -> Result<f64, Failure> {
        self.peer.say(&Command::Iperf3)?;
        let port = self.await_listening()?;
        let host = self.peer.stream().peer_addr().doing("asking where the server is")?.ip();
        iperf::send(host, port, COMPARED_MESSAGES * COMPARED as u64, self.congestion.as_deref(), manner)
    }

    /// Where a process of the server waits.
    fn await_listening(&mut self) -> Result<u16, Failure> {
        match self.peer.hear()? {
            Answer::Listening { port } => Ok(port),
            Answer::Failed(text) => Err(Failure::new(text)),
            Answer::Ready | Answer::Passed { .. } | Answer::Nics(_) => {
                Err(Failure::peer("the server answered what was not asked"))
            }
        }
    }

    /// Opens the baseline at both ends.
    pub(super) fn open_raw(&mut self) -> Result<Sender, Failure> {
        let working_set = plan::region(&[]).max(self.largest);
        open_raw(&mut self.peer, self.congestion.clone(), working_set, IN_FLIGHT as usize, self.same_host)
    }

    /// Lets the server serve the baseline while `work` asks it.
    pub(super) fn raw<T>(
        &mut self,
        pinned: bool,
        raw: &mut Sender,
        work: impl FnOnce(&mut Sender) -> std::io::Result<T>,
    ) -> Result<T, Failure> {
        self.peer.say(&Command::Raw { pinned })?;
        let found = work(raw).doing("measuring plain TCP")?;
        raw.pause().doing("measuring plain TCP")?;
        Ok(found)
    }

    pub(super) const fn lanes(&self, channels: usize) -> Lanes {
        Lanes { channels, nics: self.link.rails() }
    }

    /// A pass of the connections below the endpoints.
    pub(super) fn pass(&mut self, size: usize, channels: usize, messages: u64, verified: bool) -> Pass {
        self.passes += 1;
        let mut pass = plan::pass(size, self.lanes(channels), messages, verified, self.passes);
        let slots = (self.region.len() / size) as u64;
        pass.in_flight = pass.in_flight.min(slots);
        pass
    }

    /// A pass of the endpoints. Its messages have a place each.
    pub(super) fn endpoint_pass(&mut self, size: usize, messages: u64) -> Pass {
        let channels = self.link.least_channels();
        let mut pass = self.pass(size, channels, messages, false);
        pass.in_flight = plan::endpoint_in_flight(size).min(pass.in_flight);
        pass
    }

    /// Runs a pass of the connections.
    pub(super) fn run(&mut self, pass: &Pass) -> Result<Moved, Failure> {
        let placement = Placement::new(self.region.len(), pass.size, pass.shape);
        self.peer.say(&Command::Pass(*pass))?;
        transfer::prepare_send(&mut self.content, pass, &placement)?;
        self.await_ready()?;
        let mut sending = Sending::new(&self.link, &mut self.content, pass, &placement)?;
        let sent = match self.link.drive(&mut sending) {
            Ok(()) => sending.seen(),
            Err(failure) if !failure.is_peer_lost() => return Err(failure),
            // The server may know why.
            Err(failure) => {
                return Err(match self.peer.hear() {
                    Ok(Answer::Failed(text)) => Failure::new(text),
                    Ok(_) | Err(_) => failure,
                });
            }
        };
        let (time, cpu) = self.await_passed()?;
        let bytes = pass.size as u64 * pass.messages;
        let entry = Entry {
            size: pass.size,
            channels: pass.channels,
            in_flight: pass.in_flight,
            messages: pass.messages,
            sender_gigabytes_per_second: gigabytes_per_second(bytes, sent.time),
            receiver_gigabytes_per_second: gigabytes_per_second(bytes, time),
            latency: Percentiles::of(&sent.latencies),
            sender_cpu_seconds_per_gigabyte: cpu_seconds_per_gigabyte(sent.cpu, bytes),
            receiver_cpu_seconds_per_gigabyte: cpu_seconds_per_gigabyte(cpu, bytes),
        };
        Ok(Moved { entry, time: sent.time })
    }
}

fn check_sizes(options: &Options, link: &Link, net: &str) -> Result<(), Failure> {
    let most = link.max_message();
    let asked = options.sizes.iter().copied().chain([COMPARED]).max().unwrap_or(COMPARED);
    if asked > most {
        return Err(Failure::new(format!(
            "a message of {asked} bytes is longer than {most}, the most {net} carries"
        )));
    }
    Ok(())
}

/// Opens the baseline at both ends.
pub(super) fn open_raw(
    peer: &mut Peer,
    congestion: Option<String>,
    working_set: usize,
    in_flight: usize,
    same_host: bool,
) -> Result<Sender, Failure> {
    peer.say(&Command::OpenRaw { congestion: congestion.clone(), working_set, in_flight, same_host })?;
    let plan = raw_tcp::Plan { congestion, working_set, in_flight, same_host };
    Sender::open(peer.stream(), &plan).doing("opening the plain TCP baseline")
}
