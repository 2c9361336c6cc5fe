//! The transport of one end, its clock, and which of its NICs are used.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use p2p_endpoint::endpoint::{Endpoint, Progress};
use p2p_endpoint::engine::Options as EndpointOptions;
use p2p_transport::{Nic, NicId, Now, Rail, Transport};
use p2p_transport_mock::{Node, World};
use p2p_transport_tcpx::{Choice, Options as TcpxOptions, Tcpx};
use tcpx_core::Plugin;
use tcpx_core::config::{Config, DeviceSelector};
use tcpx_core::preflight::Nature;

use super::Options;
use crate::failure::{Doing, Failure};

/// What an end's time is.
#[derive(Clone, Debug)]
pub(super) enum Clock {
    /// Since this instant.
    Real(Instant),
    /// The world's.
    Simulated(World),
}

impl Clock {
    pub(super) fn now(&self) -> Now {
        match self {
            Self::Real(origin) => Now(origin.elapsed()),
            Self::Simulated(world) => world.now(),
        }
    }
}

/// A transport that nothing is connected on.
pub(super) struct Net {
    pub(super) transport: Box<dyn Transport>,
    pub(super) clock: Clock,
    /// Those in use, in the order in which messages take turns. Their channels are chosen later.
    pub(super) rails: Vec<Rail>,
    name: String,
    /// What another transport is made of, where that is not simulated.
    source: Option<(Arc<Plugin>, Config)>,
}

impl Net {
    /// Over the net plugin that options and variables choose.
    pub(super) fn tcpx(options: &Options, config: &Config) -> Result<Self, Failure> {
        let plugin = open_plugin(options, config)?;
        let name = format!("{} {}", plugin.name(), plugin.version());
        let is_soft = plugin.nature() == Nature::Soft;
        let origin = Instant::now();
        let source = Some((plugin.clone(), config.clone()));
        let transport = Tcpx::new(plugin, config, TcpxOptions::of(config, origin)).doing("opening")?;
        let nics = transport.nics();
        let (offered, offer) = if let Some(choice) = &config.device.value {
            let chosen: Result<Vec<_>, _> =
                choice.selectors().iter().map(|selector| find(nics, selector)).collect();
            (chosen?, Offer::Named)
        } else if is_soft {
            (nics.iter().map(|nic| nic.id).collect(), Offer::Addresses)
        } else {
            let rails = transport.rails(None).doing("choosing NICs")?;
            (rails.iter().map(|rail| rail.nic).collect(), Offer::Rails { found: nics.len() })
        };
        // Several that were named are all meant.
        let named = config.device.value.as_ref().map_or(1, |_| offered.len());
        let wanted = options.nics.map_or(named, usize::from);
        if wanted > offered.len() {
            let names: Vec<&str> = offered.iter().map(|nic| nics[usize::from(nic.0)].name.as_str()).collect();
            return Err(Failure::new(format!(
                "--nics {wanted}: {name} has {} here ({}); {}",
                offered.len(),
                names.join(", "),
                offer.more(wanted)
            )));
        }
        let rails = rails(&offered[..wanted]);
        Ok(Self { transport: Box::new(transport), clock: Clock::Real(origin), rails, name, source })
    }

    /// A node of a simulated network, on all its NICs.
    pub(super) fn simulated(world: &World, node: &Node) -> Self {
        let transport = node.transport();
        let nics: Vec<NicId> = transport.nics().iter().map(|nic| nic.id).collect();
        Self {
            transport: Box::new(transport),
            clock: Clock::Simulated(world.clone()),
            rails: rails(&nics),
            name: "simulation".to_owned(),
            source: None,
        }
    }

    /// An endpoint on the same NICs, at whose door peers may knock.
    pub(super) fn endpoint(&self, door: SocketAddr) -> Result<Endpoint, Failure> {
        let (plugin, config) =
            self.source.as_ref().ok_or_else(|| Failure::new("a simulation has no endpoints of its own"))?;
        let mut options = EndpointOptions::of(config);
        options.door = door;
        options.rails = spread(&self.rails, config);
        Endpoint::over(plugin.clone(), config, options, Progress::Thread).doing("opening an endpoint")
    }

    /// The plugin, its version and its NICs in a line.
    pub(super) fn describe(&self) -> String {
        let nics = self.transport.nics();
        let names: Vec<&str> =
            self.rails.iter().map(|rail| nics[usize::from(rail.nic.0)].name.as_str()).collect();
        format!("{} on {}", self.name, names.join(", "))
    }
}

/// The net plugin that options and variables choose, which has NICs.
pub(crate) fn open_plugin(options: &Options, config: &Config) -> Result<Arc<Plugin>, Failure> {
    let choice = options.plugin.clone().map_or_else(|| Choice::of(config), Choice::File);
    let plugin = choice.open(config).map_err(|error| {
        let also = if options.plugin.is_some() {
            "; --plugin goes before UCCL_TCPX_PLUGIN_PATH and UCCL_P2P_TRANSPORT"
        } else {
            ""
        };
        Failure::new(format!("{}{also}", error.text()))
    })?;
    if plugin.devices().is_empty() {
        return Err(Failure::new(format!(
            "net plugin {} found no NIC; the soft plugin takes addresses from TCPX_SOFT_ADDRESSES",
            plugin.name()
        )));
    }
    Ok(plugin)
}

/// Where the NICs that may be used come from.
#[derive(Clone, Copy, Debug)]
enum Offer {
    /// The user named them.
    Named,
    /// The soft plugin's list of addresses.
    Addresses,
    /// The rails that a plugin which found so many NICs uses.
    Rails { found: usize },
}

impl Offer {
    /// How a user gets `wanted` of them.
    fn more(self, wanted: usize) -> String {
        match self {
            Self::Named => "name more in UCCL_TCPX_DEV".to_owned(),
            Self::Addresses => "the soft plugin makes one of each address in TCPX_SOFT_ADDRESSES, such as \
                                127.0.0.1,127.0.0.2"
                .to_owned(),
            Self::Rails { found } if found < wanted => {
                format!("this machine has no {wanted} for it: ask for fewer")
            }
            Self::Rails { .. } => format!("set UCCL_TCPX_NUM_CHANNELS to at least {wanted}"),
        }
    }
}

/// Rails of an endpoint: with the channels that the user wants over all of them, or one each.
fn spread(rails: &[Rail], config: &Config) -> Vec<Rail> {
    let wanted = if config.num_channels.is_from_user() { config.num_channels.value.get() } else { 0 };
    let count = rails.len().max(1);
    let channels = |at: usize| usize::from(wanted) / count + usize::from(at < usize::from(wanted) % count);
    let with = |(at, rail): (usize, &Rail)| Rail { channels: channels(at).max(1) as u16, ..*rail };
    rails.iter().enumerate().map(with).collect()
}

fn rails(nics: &[NicId]) -> Vec<Rail> {
    nics.iter().map(|&nic| Rail { nic, device: None, channels: 1 }).collect()
}

fn find(nics: &[Nic], selector: &DeviceSelector) -> Result<NicId, Failure> {
    let nic = nics.iter().find(|nic| match selector {
        DeviceSelector::Index(index) => usize::from(nic.id.0) == *index,
        DeviceSelector::Name(name) => nic.name == *name,
    });
    nic.map(|nic| nic.id).ok_or_else(|| {
        let names: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
        let named = match selector {
            DeviceSelector::Index(index) => format!("NIC number {index}"),
            DeviceSelector::Name(name) => format!("NIC {name}"),
        };
        Failure::new(format!(
            "UCCL_TCPX_DEV names {named}, which is not there; name one of {}, or its number, counted from 0",
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::{Offer, find};
    use p2p_transport::{Nic, NicId};
    use tcpx_core::config::DeviceSelector;

    #[test]
    fn a_nic_is_found_by_number_and_by_name_or_is_an_error_with_those_there_are() {
        let nics = [Nic::new(NicId(0), "eth1"), Nic::new(NicId(1), "eth2")];
        let find = |selector| find(&nics, &selector);
        assert_eq!(find(DeviceSelector::Index(1)).expect("there"), NicId(1));
        assert_eq!(find(DeviceSelector::Name("eth1".to_owned())).expect("there"), NicId(0));
        let absent = [
            (DeviceSelector::Index(2), "UCCL_TCPX_DEV names NIC number 2,"),
            (DeviceSelector::Name("eth3".to_owned()), "UCCL_TCPX_DEV names NIC eth3,"),
        ];
        for (absent, said) in absent {
            let text = find(absent).expect_err("absent").to_string();
            assert!(text.starts_with(said) && text.contains("eth1, eth2"), "{text}");
        }
    }

    #[test]
    fn what_gets_more_nics_is_said_only_where_it_does() {
        assert_eq!(Offer::Rails { found: 4 }.more(3), "set UCCL_TCPX_NUM_CHANNELS to at least 3");
        assert_eq!(Offer::Rails { found: 4 }.more(4), "set UCCL_TCPX_NUM_CHANNELS to at least 4");
        let none = Offer::Rails { found: 4 }.more(5);
        assert!(none.contains("no 5") && !none.contains("UCCL_TCPX_NUM_CHANNELS"), "{none}");
        assert!(Offer::Named.more(2).contains("UCCL_TCPX_DEV"));
        assert!(Offer::Addresses.more(2).contains("TCPX_SOFT_ADDRESSES"));
    }
}
