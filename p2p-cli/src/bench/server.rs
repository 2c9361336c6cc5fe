//! The end that receives, checks, and does what the client asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use benches::cores::{self, Pinned};
use benches::raw_tcp;
use p2p_memory::SharedHost;
use p2p_proto::id::EndpointId;
use tcpx_core::config::Config;

use super::Options;
use super::bootstrap::{Door, Peer};
use super::content::Content;
use super::endpoints::Passive;
use super::iperf;
use super::link::{Closing, Link, MOST_CHANNELS, MOST_NICS, Opening};
use super::net::Net;
use super::ping_pong::Answering;
use super::placement::Placement;
use super::text::counted;
use super::transfer::{self, Receiving};
use super::trial::{self, Setting};
use super::words::{Answer, Come, Command, Hello, Pass, VERSION, Welcome};
use crate::failure::{Doing, Failure};
use crate::output;

/// What a started server says on its standard output once its port is taken.
pub(super) const READY: &str = "ready";
/// Larger than any region a client of this version asks for.
const LARGEST_REGION: usize = 8 << 30;

/// Serves one client.
pub(super) fn run(options: &Options, config: &Config, congestion: Option<String>) -> Result<(), Failure> {
    let own = config.bootstrap_port_base.value.of(config.local_device.value).get();
    // A trial's client is told which it is.
    let port = if options.is_trial() { 0 } else { own };
    // Before the port is taken: a plugin that cannot be used is known at once.
    let net = if options.transfers() { Some(Net::tcpx(options, config)?) } else { None };
    let door = Door::open(options.listen, port)?;
    if options.is_trial() {
        output::print(&format!("{READY} {}\n", door.port()))?;
    } else if options.is_child() {
        output::print(&format!("{READY}\n"))?;
    } else {
        output::print(&format!("waiting for a client on port {port}\n"))?;
    }
    let patience = Duration::from_secs(config.connect_timeout_seconds.value.get());
    let (mut peer, hello) = door.accept::<Hello>(patience)?;
    let nics = net.as_ref().map_or(0, |net| net.rails.len());
    if let Some(reason) = objection(&hello, nics, congestion.as_deref()) {
        peer.say(&Welcome::Refused(reason.clone()))?;
        return Err(Failure::new(reason));
    }
    let mut session = open(net, options, &mut peer, &hello)?;
    while session.obey(options, &mut peer)? {}
    if let Some(Transfers { link, .. }) = &mut session.transfers {
        link.close();
        // The client may be gone already, and has all it asked for.
        let _ = link.drive(&mut Closing);
    }
    Ok(())
}

/// Why this client cannot be served.
fn objection(hello: &Hello, nics: usize, congestion: Option<&str>) -> Option<String> {
    if hello.version != VERSION {
        Some(format!("server and client are of different versions ({VERSION} and {})", hello.version))
    } else if hello.channels.is_empty() != (nics == 0) {
        Some("give --calibrate or --sweep to both ends or to none".to_owned())
    } else if hello.congestion.as_deref() != congestion {
        let name = |name: Option<&str>| name.unwrap_or("the system's").to_owned();
        Some(format!(
            "congestion control is {} at the server and {} at the client: give both the same --congestion",
            name(congestion),
            name(hello.congestion.as_deref())
        ))
    } else if hello.nics != nics {
        Some(format!(
            "the server uses {} and the client {}: give both the same --nics or UCCL_TCPX_DEV",
            counted(nics, "NIC"),
            hello.nics
        ))
    } else if !hello.channels.iter().all(|channels| (1..=MOST_CHANNELS).contains(channels))
        || hello.channels.len() > usize::from(MOST_CHANNELS)
        || nics > MOST_NICS
        || hello.region > LARGEST_REGION
    {
        Some(format!("the client asks for {:?} channels and {} bytes", hello.channels, hello.region))
    } else {
        None
    }
}

fn open(net: Option<Net>, options: &Options, peer: &mut Peer, hello: &Hello) -> Result<Session, Failure> {
    let machine = super::session::machine();
    let Some(net) = net else {
        peer.say(&Welcome::Come(Come { addresses: Vec::new(), machine, far: None }))?;
        return Ok(Session { transfers: None, raw: None, trial: None, iperf: None });
    };
    let region = SharedHost::new(hello.region).map_err(|error| Failure::new(error.to_string()))?;
    let reached = peer.stream().local_addr().doing("asking where the client came to")?.ip();
    let passive = Passive::open(&net, door(options.listen, reached), &region, EndpointId(hello.endpoint))?;
    let mut link = Link::new(net, &region, hello.channels.len())?;
    let addresses = link.listen(&hello.channels)?;
    peer.say(&Welcome::Come(Come { addresses, machine, far: Some(passive.far()) }))?;
    link.accept()?;
    link.drive(&mut Opening)?;
    let content = Content::new(region.clone(), hello.seed);
    Ok(Session {
        transfers: Some(Transfers { link, passive, content, region }),
        raw: None,
        trial: None,
        iperf: None,
    })
}

/// Where the client's endpoint knocks: at the address that the user chose, else at all of the family by which the client
/// came.
fn door(listen: Option<IpAddr>, reached: IpAddr) -> IpAddr {
    match (listen.filter(|address| !address.is_unspecified()), reached.to_canonical()) {
        (Some(address), _) => address,
        (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

struct Session {
    transfers: Option<Transfers>,
    raw: Option<raw_tcp::Receiver>,
    /// The process that serves the trial at hand.
    trial: Option<trial::Server>,
    iperf: Option<iperf::Server>,
}

struct Transfers {
    link: Link,
    passive: Passive,
    content: Content,
    region: SharedHost,
}

impl Session {
    /// Does the next thing the client asks for. False when it has asked for the last.
    fn obey(&mut self, options: &Options, peer: &mut Peer) -> Result<bool, Failure> {
        let none = || Failure::peer("the client asks for a transfer in a calibration");
        match peer.hear()? {
            Command::Pass(pass) => self.transfers.as_mut().ok_or_else(none)?.pass(peer, &pass)?,
            Command::PingPong { messages } => {
                let Transfers { link, region, .. } = self.transfers.as_mut().ok_or_else(none)?;
                let _pinned = second_core();
                let mut answering = Answering::new(link, region, messages)?;
                peer.say(&Answer::Ready)?;
                link.drive_awake(&mut answering)?;
            }
            Command::Fill(pass) => {
                let transfers = self.transfers.as_mut().ok_or_else(none)?;
                transfers.each(peer, &pass, Content::fill)?;
            }
            Command::Poison(pass) => {
                let transfers = self.transfers.as_mut().ok_or_else(none)?;
                transfers.each(peer, &pass, Content::poison)?;
            }
            Command::Check(pass) => {
                let transfers = self.transfers.as_mut().ok_or_else(none)?;
                transfers.each(peer, &pass, Content::check)?;
            }
            Command::Notifications { count } => {
                let _pinned = second_core();
                peer.say(&Answer::Ready)?;
                self.transfers.as_mut().ok_or_else(none)?.passive.answer(count)?;
            }
            Command::Observe => {
                let passive = &mut self.transfers.as_mut().ok_or_else(none)?.passive;
                let (time, cpu) = passive.observe(|| peer.say(&Answer::Ready))?;
                let (nanoseconds, cpu_nanoseconds) = (time.as_nanos() as u64, cpu.as_nanos() as u64);
                peer.say(&Answer::Passed { nanoseconds, cpu_nanoseconds })?;
            }
            Command::Nics => {
                let moved = self.transfers.as_mut().ok_or_else(none)?.passive.moved();
                peer.say(&Answer::Nics(moved))?;
            }
            Command::OpenRaw { congestion, working_set, in_flight, same_host } => {
                let plan = raw_tcp::Plan { congestion, working_set, in_flight, same_host };
                self.raw = None;
                let raw = raw_tcp::Receiver::open(peer.stream(), &plan);
                self.raw = Some(raw.doing("opening the plain TCP baseline")?);
            }
            Command::Raw { pinned } => {
                let raw = self
                    .raw
                    .as_mut()
                    .ok_or_else(|| Failure::peer("the client asks for an unopened baseline"))?;
                let _pinned = if pinned { second_core() } else { None };
                raw.serve().doing("serving the plain TCP baseline")?;
            }
            Command::Iperf3 => {
                let reached = peer.stream().local_addr().doing("asking where the client came to")?.ip();
                // The one before has to have ended.
                drop(self.iperf.take());
                match iperf::Server::start(reached.to_canonical()) {
                    Ok(server) => {
                        peer.say(&Answer::Listening { port: server.port })?;
                        self.iperf = Some(server);
                    }
                    Err(failure) => {
                        peer.say(&Answer::Failed(format!("at the server: {failure}")))?;
                        return Err(Failure::peer(failure.to_string()));
                    }
                }
            }
            Command::Trial(setting) => self.start_trial(options, peer, &setting)?,
            Command::End => return Ok(false),
        }
        Ok(true)
    }
}

impl Session {
    fn start_trial(&mut self, options: &Options, peer: &mut Peer, setting: &Setting) -> Result<(), Failure> {
        // The one before has to have ended.
        drop(self.trial.take());
        let started = if setting.is_possible() {
            trial::Server::start(options, setting)
        } else {
            Err(Failure::new(format!("the client asks for impossible settings: {}", setting.typed())))
        };
        match started {
            Ok(server) => {
                peer.say(&Answer::Listening { port: server.port })?;
                self.trial = Some(server);
                Ok(())
            }
            Err(failure) => {
                peer.say(&Answer::Failed(failure.to_string()))?;
                Err(Failure::peer(failure.to_string()))
            }
        }
    }
}

impl Transfers {
    /// Does the same with every message of a pass that has a place of its own.
    fn each(
        &mut self,
        peer: &mut Peer,
        pass: &Pass,
        mut work: impl FnMut(&mut Content, &Pass, &Placement, u64) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { link, content, region, .. } = self;
        let placement = Placement::new(region.len(), pass.size.max(1), pass.shape);
        if !is_possible(link, pass, &placement) {
            return Err(Failure::peer("the client asks for an impossible pass"));
        }
        let worked = (0..pass.messages.min(placement.slots()))
            .try_for_each(|slot| work(content, pass, &placement, slot));
        match worked {
            Ok(()) => peer.say(&Answer::Ready),
            Err(failure) => {
                peer.say(&Answer::Failed(failure.to_string()))?;
                Err(Failure::peer(failure.to_string()))
            }
        }
    }

    fn pass(&mut self, peer: &mut Peer, pass: &Pass) -> Result<(), Failure> {
        let Self { link, content, region, .. } = self;
        let placement = Placement::new(region.len(), pass.size.max(1), pass.shape);
        if !is_possible(link, pass, &placement) {
            return Err(Failure::peer("the client asks for an impossible pass"));
        }
        transfer::prepare_receive(content, pass, &placement)?;
        match receive(link, content, peer, pass, &placement) {
            Ok(answer) => peer.say(&answer),
            Err(failure) => {
                // The client says it; when it cannot be told, this end says it itself.
                peer.say(&Answer::Failed(failure.to_string()))?;
                Err(Failure::peer(failure.to_string()))
            }
        }
    }
}

/// Whether this pass can be run at all. What a client says is not to be trusted.
fn is_possible(link: &Link, pass: &Pass, placement: &Placement) -> bool {
    pass.nics == link.rails() && link.group(pass.channels).is_some() && placement.slots() > 0
}

fn receive(
    link: &mut Link,
    content: &mut Content,
    peer: &mut Peer,
    pass: &Pass,
    placement: &Placement,
) -> Result<Answer, Failure> {
    let mut receiving = Receiving::new(link, content, pass, placement)?;
    peer.say(&Answer::Ready)?;
    receiving.begin(link);
    link.drive(&mut receiving)?;
    let seen = receiving.seen(link);
    transfer::check_received(content, pass, placement)?;
    let nanoseconds = seen.time.as_nanos() as u64;
    Ok(Answer::Passed { nanoseconds, cpu_nanoseconds: seen.cpu.as_nanos() as u64 })
}

/// Keeps the calling thread on the second core it may use, so that two polling ends do not share one. A
/// machine with one core, or one that forbids it, still works.
fn second_core() -> Option<Pinned> {
    let core = *cores::allowed().ok()?.get(1)?;
    cores::pin(core).ok()
}

#[cfg(test)]
mod tests {
    use super::door;
    use std::net::IpAddr;

    #[test]
    fn the_endpoint_is_reached_as_the_bootstrap_port_is() {
        let at = |text: &str| -> IpAddr { text.parse().expect("an address") };
        for (listen, reached, expected) in [
            (None, "10.0.0.1", "0.0.0.0"),
            (None, "::ffff:10.0.0.1", "0.0.0.0"),
            (None, "fd00::1", "::"),
            (Some("::"), "::1", "::"),
            (Some("::"), "::ffff:127.0.0.1", "0.0.0.0"),
            (Some("0.0.0.0"), "10.0.0.1", "0.0.0.0"),
            (Some("127.0.0.1"), "127.0.0.1", "127.0.0.1"),
            (Some("::1"), "::1", "::1"),
        ] {
            assert_eq!(door(listen.map(at), at(reached)), at(expected), "{listen:?} {reached}");
        }
    }
}
