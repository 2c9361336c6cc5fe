//! The product's own way of moving bytes: endpoints that write, read and notify. Their messages have the same sizes
//! and lie at the same places as those of the connections below.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use benches::cpu_time;
use benches::raw_tcp::PING_BYTES;
use benches::statistics::{Latencies, cpu_seconds_per_gigabyte, gigabytes_per_second};
use p2p_endpoint::endpoint::{Endpoint, OpId, Status};
use p2p_endpoint::engine::{LinkId, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use serde::Serialize;

use super::link::SILENCE;
use super::net::Net;
use super::placement::Placement;
use super::words::{Far, Pass};
use crate::failure::{Doing, Failure};

/// Which way bytes go, as the client sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Write,
    Read,
}

/// What one pass of an endpoint came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Moved {
    pub(super) gigabytes_per_second: f64,
    pub(super) p50_microseconds: f64,
    pub(super) p99_microseconds: f64,
    /// Of the client alone.
    pub(super) cpu_seconds_per_gigabyte: f64,
}

/// The server's endpoint: it opens its memory, and answers notifications.
pub(super) struct Passive {
    endpoint: Endpoint,
    link: Option<LinkId>,
    item: Item,
}

impl Passive {
    pub(super) fn open(net: &Net, listen: Option<IpAddr>, region: &SharedHost) -> Result<Self, Failure> {
        let door = SocketAddr::new(listen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0);
        let endpoint = net.endpoint(door)?;
        let (_, item) = open_region(&endpoint, region)?;
        Ok(Self { endpoint, link: None, item })
    }

    /// What the client has to know.
    pub(super) fn far(&self) -> Far {
        let port = self.endpoint.door().map_or(0, |door| door.port());
        Far { port, item: self.item.to_bytes().to_vec() }
    }

    /// Answers so many notifications, each with itself.
    pub(super) fn answer(&mut self, count: u64) -> Result<(), Failure> {
        let link = match self.link {
            Some(link) => link,
            None => {
                let accepted = self.endpoint.accept(SILENCE).doing("accepting an endpoint")?;
                let silent = || Failure::peer("the client's endpoint did not connect in time");
                *self.link.insert(accepted.ok_or_else(silent)?.link)
            }
        };
        for _ in 0..count {
            let (_, bytes) = self.endpoint.notification(SILENCE).ok_or_else(silent)?;
            self.endpoint.notify(link, bytes).doing("answering a notification")?;
        }
        Ok(())
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
    pub(super) fn open(net: &Net, host: IpAddr, far: &Far, region: &SharedHost) -> Result<Self, Failure> {
        let endpoint = net.endpoint(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))?;
        let (mr, _) = open_region(&endpoint, region)?;
        let far_item = Item::from_bytes(&far.item).map_err(|error| Failure::peer(error.to_string()))?;
        let link =
            endpoint.connect(SocketAddr::new(host, far.port), SILENCE).doing("connecting an endpoint")?;
        Ok(Self { endpoint, link, mr, far: far_item })
    }

    /// Moves the messages of a pass, each of which lies at the same place at both ends.
    pub(super) fn run(&self, way: Way, pass: &Pass, placement: &Placement) -> Result<Moved, Failure> {
        let mut latencies = Latencies::with_capacity(pass.messages as usize);
        let mut under_way: VecDeque<(OpId, Instant)> = VecDeque::new();
        let slots = placement.slots().min(pass.messages);
        let places: Vec<(Vec<Part>, Vec<Item>)> =
            (0..slots).map(|slot| self.places(placement, slot)).collect::<Result<_, _>>()?;
        let (begin, cpu) = (Instant::now(), cpu_time::process());
        let mut started = 0;
        while started < pass.messages || !under_way.is_empty() {
            while started < pass.messages && (under_way.len() as u64) < pass.in_flight {
                let (parts, items) = &places[(started % slots) as usize];
                let request = match way {
                    Way::Write => Request::Write { into: items, counter: None },
                    Way::Read => Request::Read { from: items },
                };
                let id = self.endpoint.start(self.link, parts, request).doing("starting a transfer")?;
                under_way.push_back((id, Instant::now()));
                started += 1;
            }
            let Some((id, at)) = under_way.pop_front() else { break };
            match self.endpoint.wait(id, SILENCE) {
                Status::Ended(Outcome::Done { .. }) => latencies.add(at.elapsed()),
                Status::Ended(outcome) => return Err(self.failed(outcome)),
                Status::Pending | Status::Unknown => return Err(silent()),
            }
        }
        let (time, cpu) = (begin.elapsed(), cpu_time::process().saturating_sub(cpu));
        let bytes = pass.size as u64 * pass.messages;
        Ok(Moved {
            gigabytes_per_second: gigabytes_per_second(bytes, time),
            p50_microseconds: latencies.percentile(50.0).as_secs_f64() * 1e6,
            p99_microseconds: latencies.percentile(99.0).as_secs_f64() * 1e6,
            cpu_seconds_per_gigabyte: cpu_seconds_per_gigabyte(cpu, bytes),
        })
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
