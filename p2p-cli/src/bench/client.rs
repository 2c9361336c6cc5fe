//! The end that sends, measures and prints.

use std::fs;
use std::io::IsTerminal;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use benches::distance::Probe;
use benches::raw_tcp::{self, Sender};
use benches::statistics::{Latencies, cpu_seconds_per_gigabyte, gigabytes_per_second};
use benches::{cores, load};
use indicatif::{ProgressBar, ProgressStyle};
use p2p_memory::SharedHost;
use tcpx_core::config::Config;

use super::Options;
use super::bootstrap::Peer;
use super::content::Content;
use super::endpoints::{Active, Moved as EndpointMoved, Way};
use super::link::{Closing, Link, Opening};
use super::net::Net;
use super::ping_pong::Calling;
use super::placement::Placement;
use super::plan::{
    self, COMPARED, COMPARED_MESSAGES, ENDPOINT_IN_FLIGHT, FINALISTS, IN_FLIGHT, Lanes, PINGS, Plan, SLICE,
};
use super::report::{Calibrated, Comparison, Condition, EndpointRound, Entry, Report};
use super::transfer::{self, Sending};
use super::words::{Answer, Command, Hello, Pass, Shape, VERSION, Welcome};
use crate::failure::{Doing, Failure};
use crate::output::{self, Kept};

/// Runs everything and prints it.
pub(super) fn run(options: &Options, config: &Config, congestion: Option<String>) -> Result<(), Failure> {
    let began = Instant::now();
    let json = options.json.as_deref().map(Kept::new).transpose()?;
    let net = if options.calibrate { None } else { Some(Net::tcpx(options, config)?) };
    let port = config.bootstrap_port_base.value.of(config.local_device.value).get();
    let patience = Duration::from_secs(config.connect_timeout_seconds.value.get());
    let host = options.peer.as_deref().ok_or_else(|| Failure::new("--role client needs --peer"))?;
    let mut peer = Peer::find(host, port, patience)?;
    let Some(net) = net else { return calibrate(options, &mut peer, json.as_ref()) };
    let mut session = Session::open(options, net, peer, congestion)?;
    let plan = Plan::new(options.seconds);
    let report = session.measure(options, &plan, began);
    session.bar.finish_and_clear();
    let report = report?;
    session.peer.say(&Command::End)?;
    // First of all: standard output may have nobody who reads it.
    json.map_or(Ok(()), |json| json.write(&report))?;
    output::print(&format!("{report}{}\n", report.ratio_line()))?;
    session.link.close();
    // Everything is said, and the other end may be gone already.
    let _ = session.link.drive(&mut Closing);
    Ok(())
}

/// Names the running machine, so that both ends know whether they share its cores.
pub(super) fn machine() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Numbers of channels that there are connections for: those to be measured, and one for ping-pongs.
pub(super) fn groups(options: &Options) -> Vec<u16> {
    let mut groups: Vec<u16> = options.channels.iter().copied().chain([1]).map(u16::from).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
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

struct Session {
    peer: Peer,
    /// The plugin and its NICs in words.
    net: String,
    link: Link,
    active: Active,
    content: Content,
    region: SharedHost,
    probe: Probe,
    bar: ProgressBar,
    congestion: Option<String>,
    same_host: bool,
    passes: u64,
}

/// What both ends saw of a pass.
struct Moved {
    entry: Entry,
    time: Duration,
}

impl Session {
    fn open(
        options: &Options,
        net: Net,
        mut peer: Peer,
        congestion: Option<String>,
    ) -> Result<Self, Failure> {
        let channels = groups(options);
        let size = plan::region(&options.sizes);
        let hello = Hello {
            version: VERSION,
            channels: channels.clone(),
            nics: net.rails.len(),
            region: size,
            congestion: congestion.clone(),
            machine: machine(),
            seed: seed(),
        };
        peer.say(&hello)?;
        let (addresses, there, far) = match peer.hear()? {
            Welcome::Come { addresses, machine, far: Some(far) } => (addresses, machine, far),
            Welcome::Come { .. } => return Err(Failure::peer("the server opened no endpoint")),
            Welcome::Refused(reason) => return Err(Failure::peer(format!("the server refuses: {reason}"))),
        };
        let region = SharedHost::new(size).map_err(|error| Failure::new(error.to_string()))?;
        let name = net.describe();
        let host = peer.stream().peer_addr().doing("asking where the server is")?.ip();
        let active = Active::open(&net, host, &far, &region)?;
        let mut link = Link::new(net, &region, channels.len())?;
        link.connect(&channels, &addresses)?;
        link.drive(&mut Opening)?;
        check_sizes(options, &link, &name)?;
        link.receive_back()?;
        let content = Content::new(region.clone(), hello.seed);
        let probe = Probe::new().doing("reading which cores this process may use")?;
        let same_host = there == hello.machine;
        let bar = progress_bar();
        Ok(Self {
            peer,
            net: name,
            link,
            active,
            content,
            region,
            probe,
            bar,
            congestion,
            same_host,
            passes: 0,
        })
    }

    fn measure(&mut self, options: &Options, plan: &Plan, began: Instant) -> Result<Report, Failure> {
        let mut raw = self.open_raw()?;
        let mut report = Report {
            plugin: self.net.clone(),
            nics: self.link.rails(),
            sockets: self.link.describe(),
            congestion: raw.congestion().doing("reading the congestion control")?,
            same_host: self.same_host,
            ..Report::default()
        };
        let combinations: Vec<(usize, usize)> = options
            .channels
            .iter()
            .flat_map(|channels| options.sizes.iter().map(|size| (usize::from(*channels), *size)))
            .collect();
        self.bar.set_length(combinations.len() as u64 * 2);
        for (channels, size) in &combinations {
            self.bar.set_message(format!(
                "verifying {} over {}",
                human(*size),
                counted(*channels, "channel")
            ));
            report.verified += self.verify(*size, *channels)?;
            self.bar.inc(1);
        }
        self.scattered(1, IN_FLIGHT + 1, true)?;
        for way in [Way::Write, Way::Read] {
            for (size, shape) in
                [(COMPARED, Shape::Contiguous), (COMPARED, Shape::Scattered(SLICE)), (1, Shape::Contiguous)]
            {
                self.bar.set_message("verifying endpoints");
                report.verified += self.verify_endpoint(way, size, shape)?;
            }
        }
        let left = plan.matrix.saturating_sub(began.elapsed());
        for (index, (channels, size)) in combinations.iter().enumerate() {
            let each = plan.matrix.saturating_sub(began.elapsed()).max(left / 20)
                / (combinations.len() - index) as u32;
            self.bar.set_message(format!("timing {} over {}", human(*size), counted(*channels, "channel")));
            report.entries.push(self.timed(*size, *channels, each)?);
            self.bar.inc(1);
        }
        self.compare(plan, began, &mut raw, &mut report)?;
        Ok(report)
    }

    /// A verified pass. Returns how many messages were checked.
    fn verify(&mut self, size: usize, channels: usize) -> Result<u64, Failure> {
        let messages = plan::verified_messages(size, self.lanes(channels));
        let pass = self.pass(size, channels, messages, true);
        self.run(&pass).map(|_| messages)
    }

    /// Moves messages between the endpoints and checks every byte. Returns how many there were.
    fn verify_endpoint(&mut self, way: Way, size: usize, shape: Shape) -> Result<u64, Failure> {
        let pass = self.endpoint_pass(size, shape, ENDPOINT_IN_FLIGHT + 1);
        let placement = Placement::new(self.region.len(), size, shape);
        let slots = 0..pass.messages.min(placement.slots());
        match way {
            Way::Write => {
                self.ask(&Command::Poison(pass))?;
                slots.clone().try_for_each(|slot| self.content.fill(&pass, &placement, slot))?;
                self.active.run(way, &pass, &placement)?;
                self.ask(&Command::Check(pass))?;
            }
            Way::Read => {
                self.ask(&Command::Fill(pass))?;
                slots.clone().try_for_each(|slot| self.content.poison(&pass, &placement, slot))?;
                self.active.run(way, &pass, &placement)?;
                slots.clone().try_for_each(|slot| self.content.check(&pass, &placement, slot))?;
            }
        }
        Ok(pass.messages)
    }

    fn ask(&mut self, command: &Command) -> Result<(), Failure> {
        self.peer.say(command)?;
        self.await_ready()
    }

    /// A pass of the endpoints. Its messages have a place each.
    fn endpoint_pass(&mut self, size: usize, shape: Shape, messages: u64) -> Pass {
        let channels = self.link.least_channels();
        let mut pass = self.pass(size, channels, messages, false);
        pass.shape = shape;
        pass.in_flight = ENDPOINT_IN_FLIGHT;
        pass
    }

    /// One round of the endpoints.
    fn endpoint_round(&mut self) -> Result<EndpointRound, Failure> {
        let mut run = |way, shape| -> Result<EndpointMoved, Failure> {
            let pass = self.endpoint_pass(COMPARED, shape, COMPARED_MESSAGES);
            self.active.run(way, &pass, &Placement::new(self.region.len(), COMPARED, shape))
        };
        let write = run(Way::Write, Shape::Contiguous)?;
        let read = run(Way::Read, Shape::Contiguous)?;
        let vector = run(Way::Write, Shape::Scattered(SLICE))?;
        Ok(EndpointRound { write, read, vector })
    }

    /// A timed pass of about `time`, after a short one that says how many messages that is.
    fn timed(&mut self, size: usize, channels: usize, time: Duration) -> Result<Entry, Failure> {
        let few = self.pass(size, channels, 2 * plan::in_flight(size, self.lanes(channels)), false);
        let first = self.run(&few)?;
        // Writing, poisoning and checking what is rotated over takes about as long as three transfers of it.
        let messages = plan::timed_messages(few.messages, first.time, time / 2);
        if messages <= few.messages {
            return Ok(first.entry);
        }
        let pass = self.pass(size, channels, messages, false);
        Ok(self.run(&pass)?.entry)
    }

    /// Rounds of the product and of plain TCP in turn, until enough are of one state or time is over.
    fn compare(
        &mut self,
        plan: &Plan,
        began: Instant,
        raw: &mut Sender,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let channels = report.best_channels(COMPARED).unwrap_or(1);
        report.compared_channels = channels;
        self.bar.set_message("choosing the fastest plain TCP");
        let ranked = self.raw(false, |_| {
            raw.qualify(COMPARED, plan.qualification).doing("measuring plain TCP").and_then(|ranked| {
                raw.pause().doing("measuring plain TCP")?;
                Ok(ranked)
            })
        })?;
        let layouts = raw.layouts();
        report.qualification =
            ranked.iter().map(|(number, speed)| (layouts[*number].to_string(), *speed)).collect();
        let finalists: Vec<usize> = ranked.iter().take(FINALISTS).map(|(number, _)| *number).collect();
        report.finalists = finalists.iter().map(|number| layouts[*number].to_string()).collect();
        let mut before = self.condition()?;
        loop {
            let settled = report.settled();
            let elapsed = began.elapsed();
            let limit = if settled { plan.whole } else { plan.whole + plan.extension };
            if elapsed >= limit && !report.comparisons.is_empty() {
                return Ok(());
            }
            self.bar.set_message(format!(
                "round {}, cores {}",
                report.comparisons.len() + 1,
                before.distance.state
            ));
            let product_first = report.comparisons.len().is_multiple_of(2);
            let mut product = None;
            if product_first {
                product = Some(self.compared(channels)?);
            }
            let mut plain = Vec::with_capacity(finalists.len());
            for layout in &finalists {
                plain.push(self.raw(false, |_| {
                    let round =
                        raw.round(*layout, COMPARED_MESSAGES, COMPARED).doing("measuring plain TCP")?;
                    raw.pause().doing("measuring plain TCP")?;
                    Ok(round)
                })?);
            }
            let product = product.map_or_else(|| self.compared(channels), Ok)?;
            let scattered = self.scattered(channels, COMPARED_MESSAGES, false)?;
            let endpoint = self.endpoint_round()?;
            let after = self.condition()?;
            let (ours, theirs) = self.ping_pongs(raw)?;
            let notified = self.notifications()?;
            report.comparisons.push(Comparison::new(
                before,
                after,
                product,
                &plain,
                scattered,
                endpoint,
                [&ours, &theirs, &notified],
            ));
            before = self.condition()?;
        }
    }

    /// How the machine is at the moment. Both ends are idle.
    fn condition(&mut self) -> Result<Condition, Failure> {
        let others = load::others().doing("asking what else runs")?;
        let distance = self.probe.measure().doing("measuring the distance of cores")?;
        Ok(Condition { distance, others })
    }

    /// The product's side of a comparison.
    fn compared(&mut self, channels: usize) -> Result<Entry, Failure> {
        let pass = self.pass(COMPARED, channels, COMPARED_MESSAGES, false);
        Ok(self.run(&pass)?.entry)
    }

    /// The same bytes in slices all over the region; `None` where the plugin takes no lists.
    fn scattered(
        &mut self,
        channels: usize,
        messages: u64,
        verified: bool,
    ) -> Result<Option<Entry>, Failure> {
        // As few messages as the plugin's lists allow.
        let pieces = COMPARED / SLICE;
        let most = self.link.max_slices();
        if most < 2 {
            return Ok(None);
        }
        let cuts = pieces.div_ceil(most).next_power_of_two();
        let mut pass = self.pass(COMPARED / cuts, channels, messages * cuts as u64, verified);
        pass.shape = Shape::Scattered(SLICE);
        Ok(Some(self.run(&pass)?.entry))
    }

    fn ping_pongs(&mut self, raw: &mut Sender) -> Result<(Latencies, Latencies), Failure> {
        let core = cores::allowed().ok().filter(|allowed| allowed.len() > 1).map(|allowed| allowed[0]);
        let _pinned = core.and_then(|core| cores::pin(core).ok());
        self.peer.say(&Command::PingPong { messages: PINGS })?;
        self.await_ready()?;
        let mut calling = Calling::new(&self.region, PINGS);
        self.link.drive_awake(&mut calling)?;
        let ours = calling.latencies();
        let theirs = self.raw(true, |_| {
            let latencies = raw.ping_pong(PINGS).doing("measuring plain TCP")?;
            raw.pause().doing("measuring plain TCP")?;
            Ok(latencies)
        })?;
        Ok((ours, theirs))
    }

    fn notifications(&mut self) -> Result<Latencies, Failure> {
        let core = cores::allowed().ok().filter(|allowed| allowed.len() > 1).map(|allowed| allowed[0]);
        let _pinned = core.and_then(|core| cores::pin(core).ok());
        self.ask(&Command::Notifications { count: PINGS })?;
        self.active.call(PINGS)
    }

    /// Lets the server serve the baseline while `work` asks it.
    fn raw<T>(
        &mut self,
        pinned: bool,
        work: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.peer.say(&Command::Raw { pinned })?;
        work(self)
    }

    fn open_raw(&mut self) -> Result<Sender, Failure> {
        self.bar.set_message("opening plain TCP");
        let working_set = plan::region(&[]);
        open_raw(&mut self.peer, self.congestion.clone(), working_set, IN_FLIGHT as usize, self.same_host)
    }

    const fn lanes(&self, channels: usize) -> Lanes {
        Lanes { channels, nics: self.link.rails() }
    }

    fn pass(&mut self, size: usize, channels: usize, messages: u64, verified: bool) -> Pass {
        self.passes += 1;
        let mut pass = plan::pass(size, self.lanes(channels), messages, verified, self.passes);
        let slots = (self.region.len() / size) as u64;
        pass.in_flight = pass.in_flight.min(slots);
        pass
    }

    fn run(&mut self, pass: &Pass) -> Result<Moved, Failure> {
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
                    Ok(Answer::Ready | Answer::Passed { .. }) | Err(_) => failure,
                });
            }
        };
        let (time, cpu) = match self.peer.hear()? {
            Answer::Passed { nanoseconds, cpu_nanoseconds } => {
                (Duration::from_nanos(nanoseconds), Duration::from_nanos(cpu_nanoseconds))
            }
            Answer::Failed(text) => return Err(Failure::new(text)),
            Answer::Ready => return Err(Failure::peer("the server is ready twice")),
        };
        let bytes = pass.size as u64 * pass.messages;
        let entry = Entry {
            size: pass.size,
            channels: pass.channels,
            in_flight: pass.in_flight,
            messages: pass.messages,
            sender_gigabytes_per_second: gigabytes_per_second(bytes, sent.time),
            receiver_gigabytes_per_second: gigabytes_per_second(bytes, time),
            p50_microseconds: sent.latencies.percentile(50.0).as_secs_f64() * 1e6,
            p99_microseconds: sent.latencies.percentile(99.0).as_secs_f64() * 1e6,
            sender_cpu_seconds_per_gigabyte: cpu_seconds_per_gigabyte(sent.cpu, bytes),
            receiver_cpu_seconds_per_gigabyte: cpu_seconds_per_gigabyte(cpu, bytes),
        };
        Ok(Moved { entry, time: sent.time })
    }

    fn await_ready(&mut self) -> Result<(), Failure> {
        match self.peer.hear()? {
            Answer::Ready => Ok(()),
            Answer::Failed(text) => Err(Failure::new(text)),
            Answer::Passed { .. } => Err(Failure::peer("the server ended a pass that was not begun")),
        }
    }
}

fn open_raw(
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

/// Plain TCP alone: every layout under every congestion control this user may choose.
fn calibrate(options: &Options, peer: &mut Peer, json: Option<&Kept>) -> Result<(), Failure> {
    let hello = Hello {
        version: VERSION,
        channels: Vec::new(),
        nics: 0,
        region: 0,
        congestion: options.congestion.clone(),
        machine: machine(),
        seed: 0,
    };
    peer.say(&hello)?;
    let there = match peer.hear()? {
        Welcome::Come { machine, .. } => machine,
        Welcome::Refused(reason) => return Err(Failure::peer(format!("the server refuses: {reason}"))),
    };
    let mut probe = Probe::new().doing("reading which cores this process may use")?;
    let names = options.congestion.clone().map_or_else(congestion_controls, |name| vec![name]);
    let until = Instant::now() + Duration::from_secs(options.seconds.min(60));
    let bar = progress_bar();
    let mut calibrated = Calibrated::default();
    let mut senders = Vec::new();
    while calibrated.rounds() == 0 || Instant::now() < until {
        let before = probe.measure().doing("measuring the distance of cores")?;
        for (index, name) in names.iter().enumerate() {
            bar.set_message(format!("{name}, cores {}", before.state));
            // One congestion control at a time: the server keeps one baseline open.
            drop(senders.pop());
            senders.push(open_raw(peer, Some(name.clone()), COMPARED, 1, there == hello.machine)?);
            let Some(sender) = senders.last_mut() else { continue };
            peer.say(&Command::Raw { pinned: false })?;
            for (layout, shape) in sender.layouts().iter().enumerate() {
                let mut best: Option<raw_tcp::Round> = None;
                let begin = Instant::now();
                // The first messages of fresh sockets are slow, so the fastest of several rounds counts.
                while best.is_none() || begin.elapsed() < plan::CALIBRATED {
                    let round = sender
                        .round(layout, plan::CALIBRATED_MESSAGES, COMPARED)
                        .doing("measuring plain TCP")?;
                    if best.as_ref().is_none_or(|best| round.sender_time < best.sender_time) {
                        best = Some(round);
                    }
                }
                if let Some(best) = best {
                    calibrated.add(shape.to_string(), name, index, &best);
                }
            }
            sender.pause().doing("measuring plain TCP")?;
        }
        let after = probe.measure().doing("measuring the distance of cores")?;
        calibrated.end_round(before, after);
    }
    bar.finish_and_clear();
    peer.say(&Command::End)?;
    json.map_or(Ok(()), |json| json.write(&calibrated))?;
    output::print(&calibrated.to_string())
}

/// Those that this user may choose.
fn congestion_controls() -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let list = if root { "tcp_available_congestion_control" } else { "tcp_allowed_congestion_control" };
    let names = fs::read_to_string(format!("/proc/sys/net/ipv4/{list}")).unwrap_or_default();
    let mut names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        names.push("reno".to_owned());
    }
    names
}

/// On standard error, if somebody looks at it.
pub(super) fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {wide_bar} {msg} [{elapsed}]");
    let bar = ProgressBar::new_spinner();
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// Different in each run; printed nowhere, since what it makes is checked within the run.
fn seed() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}

/// So many things in words.
pub(super) fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A size as a user writes it.
pub(super) fn human(size: usize) -> String {
    for (shift, unit) in [(30, 'G'), (20, 'M'), (10, 'K')] {
        if size.is_multiple_of(1 << shift) && size >> shift > 0 {
            return format!("{}{unit}", size >> shift);
        }
    }
    size.to_string()
}
