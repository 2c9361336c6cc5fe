//! The GPUs of this process: an endpoint for each, its memory, and its links.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_endpoint::endpoint::{Endpoint, Progress};
use p2p_endpoint::engine::{LinkId, Options as EndpointOptions, Part};
use p2p_endpoint::exports::Access;
use p2p_endpoint::metadata::{Metadata, Told};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_transport::Rail;
use tcpx_core::config::{Config, ControlAddress};

use super::Shape;
use super::layout::{GpuPresent, Layout, RailPresent};
use super::nics::Nics;
use crate::failure::{Doing, Failure};

/// How long the end of all links is waited for. Those that are not over by then end with their process.
const CLOSING: Duration = Duration::from_secs(5);

/// An endpoint, and what belongs to it.
pub(super) struct Gpu {
    pub(super) endpoint: Endpoint,
    rails: Vec<Rail>,
    /// What others learn of it. It is made once.
    handle: Metadata,
    /// Set when it is registered.
    pub(super) memory: Option<Registered>,
    /// By number of the pair.
    pub(super) links: BTreeMap<usize, LinkId>,
}

/// Memory that peers may reach.
pub(super) struct Registered {
    pub(super) region: SharedHost,
    pub(super) mr: MrId,
}

/// Those of this process, by number.
pub(super) struct Gpus {
    nics: Nics,
    config: Config,
    shape: Shape,
    channels: u8,
    listen: Option<IpAddr>,
    all: BTreeMap<u8, Gpu>,
}

impl Gpus {
    pub(super) const fn new(
        nics: Nics,
        config: Config,
        shape: Shape,
        channels: u8,
        listen: Option<IpAddr>,
    ) -> Self {
        Self { nics, config, shape, channels, listen, all: BTreeMap::new() }
    }

    pub(super) const fn nics(&self) -> &Nics {
        &self.nics
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, &Gpu)> {
        self.all.iter().map(|(number, gpu)| (*number, gpu))
    }

    /// The GPU of this number, which listens.
    pub(super) fn get(&self, gpu: u8) -> Result<&Gpu, Failure> {
        self.all.get(&gpu).ok_or_else(|| Failure::new(format!("GPU {gpu} does not listen in this process")))
    }

    fn get_mut(&mut self, gpu: u8) -> Result<&mut Gpu, Failure> {
        let missing = || Failure::new(format!("GPU {gpu} does not listen in this process"));
        self.all.get_mut(&gpu).ok_or_else(missing)
    }

    /// Makes these GPUs listen, and says how many did not before: whoever listens keeps its endpoint and its handle.
    pub(super) fn listen(&mut self, gpus: &[u8]) -> Result<usize, Failure> {
        let mut opened = 0;
        for &gpu in gpus {
            if !self.all.contains_key(&gpu) {
                self.all.insert(gpu, self.open(gpu)?);
                opened += 1;
            }
        }
        Ok(opened)
    }

    fn open(&self, gpu: u8) -> Result<Gpu, Failure> {
        let rails = self.nics.rails(self.shape, gpu, self.channels)?;
        let mut options = EndpointOptions::of(&self.config);
        options.door = SocketAddr::new(self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0);
        options.rails = rails.clone();
        options.name = format!("GPU {gpu} of {}", options.name);
        let opened = Endpoint::over(self.nics.plugin().clone(), &self.config, options, Progress::Thread);
        let endpoint = opened.doing(format!("listening for GPU {gpu}"))?;
        let handle = endpoint.metadata().doing(format!("naming the places of GPU {gpu}"))?;
        Ok(Gpu { endpoint, rails, handle, memory: None, links: BTreeMap::new() })
    }

    /// What the others have to know of them.
    pub(super) fn present(&self) -> Vec<GpuPresent> {
        let of = |(gpu, one): (u8, &Gpu)| {
            let facts = one.endpoint.facts();
            let rail = |(rail, facts): (&Rail, &p2p_proto::hello::RailFacts)| RailPresent {
                nic: self.nics.name(rail.nic).to_owned(),
                channels: rail.channels,
                megabits: facts.megabits,
            };
            let rails = one.rails.iter().zip(&facts.rails).map(rail).collect();
            GpuPresent { gpu, handle: one.handle.to_bytes(), rails }
        };
        self.iter().map(of).collect()
    }

    /// Whether the user said himself where others reach this process.
    pub(super) const fn is_reached_as_told(&self) -> bool {
        matches!(self.config.control_ip.value, ControlAddress::Fixed(_))
    }

    /// Opens the links of the pairs that begin here, and takes those that end here. Returns how many links there are.
    pub(super) fn link(
        &mut self,
        layout: &Layout,
        rank: u32,
        first_at: Option<IpAddr>,
        patience: Duration,
    ) -> Result<usize, Failure> {
        let deadline = Instant::now() + patience;
        let mut expected: BTreeMap<u8, Vec<(usize, Metadata)>> = BTreeMap::new();
        for (number, pair) in layout.pairs.iter().enumerate() {
            let (from, to) = (&layout.gpus[pair.from], &layout.gpus[pair.to]);
            if from.rank == rank {
                let handle = handle(&to.of)?;
                let left = deadline.saturating_duration_since(Instant::now());
                let doing = format!("connecting {} to {}", from.name(), to.name());
                let reached = to.reached_at.map(|ip| seen_from_here(ip, first_at));
                let gpu = self.get_mut(from.of.gpu)?;
                let link = connect(&gpu.endpoint, handle, reached, left, &doing)?;
                gpu.links.insert(number, link);
            } else if to.rank == rank {
                expected.entry(to.of.gpu).or_default().push((number, handle(&from.of)?));
            }
        }
        for (gpu, mut peers) in expected {
            let gpu = self.get_mut(gpu)?;
            while !peers.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                let accepted = gpu.endpoint.accept(left).doing("accepting")?;
                let Some(accepted) = accepted else {
                    let names: Vec<&str> = peers.iter().map(|(_, handle)| handle.name.as_str()).collect();
                    return Err(Failure::peer(format!(
                        "{} did not connect to {} within {} s",
                        names.join(", "),
                        gpu.handle.name,
                        patience.as_secs()
                    )));
                };
                let who = peers.iter().position(|(_, handle)| handle.endpoint == accepted.peer.endpoint);
                // Somebody else's endpoint is none of ours; it is left alone.
                if let Some(at) = who {
                    let (number, _) = peers.swap_remove(at);
                    gpu.links.insert(number, accepted.link);
                }
            }
        }
        Ok(self.all.values().map(|gpu| gpu.links.len()).sum())
    }

    /// Ends the links of the pairs that begin here, and waits until those that end here are over, so that neither end
    /// is surprised by the other.
    pub(super) fn close(&self, layout: &Layout, rank: u32) {
        let deadline = Instant::now() + CLOSING;
        for gpu in self.all.values() {
            for (number, link) in &gpu.links {
                if layout.gpus[layout.pairs[*number].from].rank == rank {
                    // It may be over already.
                    let _ = gpu.endpoint.close(*link);
                }
            }
        }
        let links =
            || self.all.values().flat_map(|gpu| gpu.links.values().map(|link| (&gpu.endpoint, *link)));
        while links().any(|(endpoint, link)| endpoint.is_up(link)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Registers the memory of each GPU and opens it to peers. Returns what opens it, and how many bytes it is.
    pub(super) fn register(&mut self, layout: &Layout, rank: u32) -> Result<Vec<(u8, Vec<u8>)>, Failure> {
        let mut items = Vec::new();
        for placed in layout.gpus.iter().filter(|placed| placed.rank == rank && placed.memory > 0) {
            let number = placed.of.gpu;
            let gpu = self.get_mut(number)?;
            let region = SharedHost::new(placed.memory).map_err(|error| Failure::new(error.to_string()))?;
            let doing = || format!("registering memory of GPU {number}");
            let mr = gpu.endpoint.reg(Box::new(region.clone())).doing(doing())?;
            let whole = Part { mr, offset: 0, len: placed.memory as u64 };
            let item = gpu.endpoint.advertise(whole, Access::Both).doing(doing())?;
            items.push((number, item.to_bytes().to_vec()));
            gpu.memory = Some(Registered { region, mr });
        }
        Ok(items)
    }
}

fn handle(gpu: &GpuPresent) -> Result<Metadata, Failure> {
    Metadata::from_bytes(&gpu.handle).map_err(|error| Failure::peer(error.to_string()))
}

/// Where a process is for this one. Rank 0 and its neighbours know each other by loopback: for another host, that is
/// where rank 0 is.
fn seen_from_here(ip: IpAddr, first_at: Option<IpAddr>) -> IpAddr {
    match first_at {
        Some(first) if ip.is_loopback() && !first.is_loopback() => first,
        Some(_) | None => ip,
    }
}

/// Connects to one of the places that a handle names: first where the rendezvous has found its process.
fn connect(
    endpoint: &Endpoint,
    mut handle: Metadata,
    reached: Option<IpAddr>,
    patience: Duration,
    doing: &str,
) -> Result<LinkId, Failure> {
    if let (Some(ip), Some(first)) = (reached, handle.addresses.first()) {
        let found = SocketAddr::new(ip, first.port());
        handle.addresses.retain(|place| *place != found);
        handle.addresses.insert(0, found);
    }
    endpoint.connect_to(&Told::Own(handle), patience).doing(doing)
}
