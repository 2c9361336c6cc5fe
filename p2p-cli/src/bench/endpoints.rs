//! The product's own way of moving bytes: endpoints that write, read and notify. Their messages have the same sizes
//! and lie at the same places as those of the connections below.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use benches::cpu_time;
use benches::raw_tcp::PING_BYTES;
use benches::statistics::{Latencies, cpu_seconds_per_gigabyte, gigabytes_per_second};
use p2p_endpoint::endpoint::{Endpoint, OpId, Status};
use p2p_endpoint::engine::{LinkId, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_proto::id::EndpointId;
use p2p_proto::peer::Outcome;

use super::figures::{Moved, Percentiles};
use super::link::SILENCE;
use super::net::Net;
use super::nics::{self, Meter};
use super::placement::Placement;
use super::words::{Far, Pass};
use crate::failure::{Doing, Failure};

/// Places that the messages of a pass rotate over at most: more only take time to list.
const MOST_PLACES: u64 = 8192;
/// Between two looks whether anything moves.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes a second that a transfer moves at least.
const SLOWEST: usize = 8 << 20;
/// Strangers that are named.
const NAMED: usize = 4;
/// Said behind the last message of a pass that the server observes.
const OVER: &[u8] = b"over";

/// Which way bytes go, as the client sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Write,
    Read,
}

/// The server's endpoint: it opens its memory, and answers notifications.
pub(super) struct Passive {
    endpoint: Endpoint,
    link: Option<LinkId>,
    item: Item,
    /// Who is waited for.
    client: EndpointId,
    moved: nics::Moved,
    devmem: BTreeMap<String, u64>,
}

impl Passive {
    /// Waits for this client at `door`.
    pub(super) fn open(
        net: &Net,
        door: IpAddr,
        region: &SharedHost,
        client: EndpointId,
    ) -> Result<Self, Failure> {
        let endpoint = net.endpoint(SocketAddr::new(door, 0))?;
        let (_, item) = open_region(&endpoint, region)?;
        let devmem = nics::devmem_packets(Meter::start(&endpoint).interfaces());
        Ok(Self { endpoint, link: None, item, client, moved: nics::Moved::default(), devmem })
    }

    /// What the client has to know.
    pub(super) fn far(&self) -> Far {
        let port = self.endpoint.door().map_or(0, |door| door.port());
        Far { port, item: self.item.to_bytes().to_vec() }
    }

    /// The link of the client that is waited for. Whoever else comes is sent away, and named if the client does
    /// not come.
    fn link(&mut self) -> Result<LinkId, Failure> {
        if let Some(link) = self.link {
            return Ok(link);
        }
        let deadline = Instant::now() + SILENCE;
        let mut strangers = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(accepted) = self.endpoint.accept(left).doing("accepting an endpoint")? else {
                let also = if strangers.is_empty() {
                    String::new()
                } else {
                    format!("; others came and were sent away: {}", strangers.join(", "))
                };
                return Err(Failure::peer(format!("the client's endpoint did not connect in time{also}")));
            };
            if accepted.peer.endpoint == self.client {
                return Ok(*self.link.insert(accepted.link));
            }
            let from = accepted.address.map_or_else(|| "an unknown address".to_owned(), |at| at.to_string());
            let stranger = format!("{} from {from}", accepted.peer.name);
            tracing::warn!("{stranger} came to the bench's endpoint and is not its client: it is sent away");
            if strangers.len() < NAMED {
                strangers.push(stranger);
            }
            self.endpoint.close(accepted.link).doing("sending a stranger away")?;
        }
    }

    /// The next notification of the client, however long bytes go on to move before it.
    fn heard(&mut self) -> Result<Vec<u8>, Failure> {
        let link = self.link()?;
        let (mut moved, mut deadline) = (None, Instant::now() + SILENCE);
        loop {
            match self.endpoint.notification(LOOK) {
                Some((from, bytes)) if from == link => return Ok(bytes.to_vec()),
                Some(_) => continue,
                None => {}
            }
            if !self.endpoint.is_up(link) {
                let why = self.endpoint.why(link).map_or_else(String::new, |why| format!(": {}", why.text()));
                return Err(Failure::peer(format!("the client's endpoint is gone{why}")));
            }
            let now = Some(nics::of_endpoint(&self.endpoint));
            if now != moved {
                (moved, deadline) = (now, Instant::now() + SILENCE);
            } else if Instant::now() >= deadline {
                return Err(silent());
            }
        }
    }

    /// Answers so many notifications, each with itself.
    pub(super) fn answer(&mut self, count: u64) -> Result<(), Failure> {
        let link = self.link()?;
        for _ in 0..count {
            let bytes = self.heard()?;
            self.endpoint.notify(link, bytes).doing("answering a notification")?;
        }
        Ok(())
    }

    /// Waits until the client says that a pass has ended. Time counts from `ready`, after which the client is told to
    /// begin.
    pub(super) fn observe(
        &mut self,
        ready: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(Duration, Duration), Failure> {
        self.link()?;
        let meter = Meter::start(&self.endpoint);
        let (begin, cpu) = (Instant::now(), cpu_time::process());
        ready()?;
        self.heard()?;
        let (time, cpu) = (begin.elapsed(), cpu_time::process().saturating_sub(cpu));
        self.moved.add(&meter.read(&self.endpoint));
        Ok((time, cpu))
    }

    /// What all passes that were observed moved.
    pub(super) fn moved(&mut self) -> nics::Moved {
        self.moved.count_devmem(&self.devmem);
        self.moved.clone()
    }
}

/// The client's endpoint, before it is connected.
pub(super) struct Caller {
    endpoint: Endpoint,
}

impl Caller {
    pub(super) fn open(net: &Net) -> Result<Self, Failure> {
        // Nobody knocks at its door.
        let endpoint = net.endpoint(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        Ok(Self { endpoint })
    }

    /// Who it is.
    pub(super) fn id(&self) -> EndpointId {
        self.endpoint.facts().endpoint
    }

    /// Connects to the server's endpoint; `host` is the address of the server's bootstrap port.
    pub(super) fn connect(
        self,
        mut host: SocketAddr,
        far: &Far,
        region: &SharedHost,
    ) -> Result<Active, Failure> {
        let endpoint = self.endpoint;
        let (mr, _) = open_region(&endpoint, region)?;
        let item = Item::from_bytes(&far.item).map_err(|error| Failure::peer(error.to_string()))?;
        host.set_port(far.port);
        let link = endpoint.connect(host, SILENCE).doing("connecting an endpoint")?;
        Ok(Active { endpoint, link, mr, far: item })
    }
}

/// The client's endpoint, which moves bytes into and out of the server's memory.
pub(super) struct Active {
    endpoint: Endpoint,
    link: LinkId,
    mr: MrId,
    far: Item,
}

impl Active {
    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Moves the messages of a pass, each of which lies at the same place at both ends.
    pub(super) fn run(&self, way: Way, pass: &Pass, placement: &Placement) -> Result<Moved, Failure> {
        let moved = self.timed(way, pass, placement, false)?;
        Ok(moved.0)
    }

    /// As [`run`](Self::run), and tells the server when all of it is there. The time is also given.
    pub(super) fn run_observed(
        &self,
        way: Way,
        pass: &Pass,
        placement: &Placement,
    ) -> Result<(Moved, Duration), Failure> {
        self.timed(way, pass, placement, true)
    }

    fn timed(
        &self,
        way: Way,
        pass: &Pass,
        placement: &Placement,
        tell: bool,
    ) -> Result<(Moved, Duration), Failure> {
        let mut latencies = Latencies::with_capacity(pass.messages as usize);
        let mut under_way: VecDeque<(OpId, Instant)> = VecDeque::new();
        let slots = placement.slots().min(pass.messages).min(MOST_PLACES);
        // Far apart, so that small messages too leave the caches.
        let apart = if slots < MOST_PLACES { 1 } else { placement.slots() / slots };
        let places: Vec<(Vec<Part>, Vec<Item>)> =
            (0..slots).map(|slot| self.places(placement, slot * apart)).collect::<Result<_, _>>()?;
        let patience = SILENCE + Duration::from_secs((pass.size / SLOWEST) as u64);
        let (begin, cpu) = (Instant::now(), cpu_time::process());
        let mut started = 0;
        while started < pass.messages || !under_way.is_empty() {
            while started < pass.messages && (under_way.len() as u64) < pass.in_flight {
                let (parts, items) = &places[(started % slots) as usize];
                started += 1;
                let id = if tell && way == Way::Write && started == pass.messages {
                    self.endpoint.push(self.link, parts, items, OVER.to_vec())
                } else {
                    let request = match way {
                        Way::Write => Request::Write { into: items, counter: None },
                        Way::Read => Request::Read { from: items },
                    };
                    self.endpoint.start(self.link, parts, request)
                };
                under_way.push_back((id.doing("starting a transfer")?, Instant::now()));
            }
            let Some((id, at)) = under_way.pop_front() else { break };
            match self.endpoint.wait(id, patience) {
                Status::Ended(Outcome::Done { .. }) => latencies.add(at.elapsed()),
                Status::Ended(outcome) => return Err(self.failed(outcome)),
                Status::Pending | Status::Unknown => return Err(silent()),
            }
        }
        let (time, cpu) = (begin.elapsed(), cpu_time::process().saturating_sub(cpu));
        if tell && way == Way::Read {
            self.endpoint.notify(self.link, OVER.to_vec()).doing("notifying")?;
        }
        let bytes = pass.size as u64 * pass.messages;
        let moved = Moved {
            gigabytes_per_second: gigabytes_per_second(bytes, time),
            latency: Percentiles::of(&latencies),
            cpu_seconds_per_gigabyte: cpu_seconds_per_gigabyte(cpu, bytes),
        };
        Ok((moved, time))
    }

    /// Notifications to and fro, each after the answer to the one before it.
    pub(super) fn call(&self, count: u64) -> Result<Latencies, Failure> {
        let mut latencies = Latencies::with_capacity(count as usize);
        for number in 0..count {
            let bytes = [number as u8; PING_BYTES];
            let begin = Instant::now();
            self.endpoint.notify(self.link, bytes.to_vec()).doing("notifying")?;
            let (_, answer) = self.endpoint.notification(SILENCE).ok_or_else(silent)?;
            latencies.add(begin.elapsed());
            if answer != bytes[..] {
                return Err(Failure::new(format!(
                    "WRONG DATA: answer {number} of the notifications differs"
                )));
            }
        }
        Ok(latencies)
    }

    fn places(&self, placement: &Placement, slot: u64) -> Result<(Vec<Part>, Vec<Item>), Failure> {
        let (mut parts, mut items) = (Vec::new(), Vec::new());
        for (offset, length) in placement.ranges(slot) {
            let (offset, len) = (offset as u64, length as u64);
            parts.push(Part { mr: self.mr, offset, len });
            let item = self.far.narrow(self.far.address() + offset, len);
            items.push(item.map_err(|error| Failure::new(error.to_string()))?);
        }
        Ok((parts, items))
    }

    fn failed(&self, outcome: Outcome) -> Failure {
        let why = self.endpoint.why(self.link).map_or_else(String::new, |why| format!(": {}", why.text()));
        Failure::peer(format!("a transfer of the endpoint ended {outcome:?}{why}"))
    }
}

fn open_region(endpoint: &Endpoint, region: &SharedHost) -> Result<(MrId, Item), Failure> {
    let mr = endpoint.reg(Box::new(region.clone())).doing("registering memory with an endpoint")?;
    let whole = Part { mr, offset: 0, len: region.len() as u64 };
    Ok((mr, endpoint.advertise(whole, Access::Both).doing("advertising memory")?))
}

fn silent() -> Failure {
    Failure::peer(format!("an endpoint was silent for {} s", SILENCE.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::{Caller, Passive, SILENCE};
    use crate::bench::Options;
    use crate::bench::net::Net;
    use clap::Parser;
    use p2p_memory::SharedHost;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::thread;
    use std::time::Duration;
    use tcpx_core::config::{Config, FixedEnvironment};

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_client_is_served_and_whoever_else_comes_is_sent_away() {
        let environment: FixedEnvironment = [("UCCL_P2P_TRANSPORT", "tcp")].into_iter().collect();
        let config = Config::from_environment(&environment).expect("good values");
        let options = Line::try_parse_from(["p2p"]).expect("no arguments").options;
        let net = || Net::tcpx(&options, &config).expect("the soft plugin");
        let memory = || SharedHost::new(1 << 16).expect("memory");
        let (stranger, client) = (Caller::open(&net()).expect("open"), Caller::open(&net()).expect("open"));
        let mut server = Passive::open(&net(), HERE, &memory(), client.id()).expect("open");
        let far = server.far();
        let host = SocketAddr::new(HERE, 0);
        // It is there first.
        let stranger = stranger.connect(host, &far, &memory()).expect("it is let in");
        let serving = thread::spawn(move || {
            server.answer(3).expect("the client's");
            server
        });
        let client = client.connect(host, &far, &memory()).expect("it is let in");
        assert_eq!(client.call(3).expect("answers").count(), 3);
        let _server = serving.join().expect("no panic");
        let mut left = SILENCE;
        while stranger.endpoint().is_up(stranger.link) && !left.is_zero() {
            thread::sleep(Duration::from_millis(10));
            left = left.saturating_sub(Duration::from_millis(10));
        }
        assert!(!stranger.endpoint().is_up(stranger.link), "sent away");
    }
}
