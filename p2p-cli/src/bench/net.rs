//! The transport of one end, its clock, and which of its NICs are used.

use std::time::Instant;

use p2p_transport::{Nic, NicId, Now, Rail, Transport};
use p2p_transport_mock::{Node, World};
use p2p_transport_tcpx::{Choice, Options as TcpxOptions, Tcpx};
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
}

impl Net {
    /// Over the net plugin that options and variables choose.
    pub(super) fn tcpx(options: &Options, config: &Config) -> Result<Self, Failure> {
        let choice = options.plugin.clone().map_or_else(|| Choice::of(config), Choice::File);
        let plugin = choice.open(config).map_err(|error| Failure::new(error.text()))?;
        if plugin.devices().is_empty() {
            return Err(Failure::new(format!(
                "net plugin {} found no NIC; the soft plugin takes addresses from TCPX_SOFT_ADDRESSES",
                plugin.name()
            )));
        }
        let name = format!("{} {}", plugin.name(), plugin.version());
        let is_soft = plugin.nature() == Nature::Soft;
        let origin = Instant::now();
        let transport = Tcpx::new(plugin, config, TcpxOptions::of(config, origin)).doing("opening")?;
        let nics = transport.nics();
        let (offered, more) = if let Some(choice) = &config.device.value {
            let chosen: Result<Vec<_>, _> =
                choice.selectors().iter().map(|selector| find(nics, selector)).collect();
            (chosen?, "name more in UCCL_TCPX_DEV")
        } else if is_soft {
            let more = "the soft plugin makes one of each address in TCPX_SOFT_ADDRESSES, such as 127.0.0.1,127.0.0.2";
            (nics.iter().map(|nic| nic.id).collect(), more)
        } else {
            let rails = transport.rails(None).doing("choosing NICs")?;
            (rails.iter().map(|rail| rail.nic).collect(), "UCCL_TCPX_NUM_CHANNELS bounds them")
        };
        // Several that were named are all meant.
        let named = config.device.value.as_ref().map_or(1, |_| offered.len());
        let wanted = options.nics.map_or(named, usize::from);
        if wanted > offered.len() {
            let names: Vec<&str> = offered.iter().map(|nic| nics[usize::from(nic.0)].name.as_str()).collect();
            return Err(Failure::new(format!(
                "--nics {wanted}: {name} has {} here ({}); {more}",
                offered.len(),
                names.join(", ")
            )));
        }
        let rails = rails(&offered[..wanted]);
        Ok(Self { transport: Box::new(transport), clock: Clock::Real(origin), rails, name })
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
        }
    }

    /// The plugin, its version and its NICs in a line.
    pub(super) fn describe(&self) -> String {
        let nics = self.transport.nics();
        let names: Vec<&str> =
            self.rails.iter().map(|rail| nics[usize::from(rail.nic.0)].name.as_str()).collect();
        format!("{} on {}", self.name, names.join(", "))
    }
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
        Failure::new(format!("UCCL_TCPX_DEV names {selector:?}; the plugin has {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::find;
    use p2p_transport::{Nic, NicId};
    use tcpx_core::config::DeviceSelector;

    #[test]
    fn a_nic_is_found_by_number_and_by_name_or_is_an_error_with_those_there_are() {
        let nics = [Nic::new(NicId(0), "eth1"), Nic::new(NicId(1), "eth2")];
        let find = |selector| find(&nics, &selector);
        assert_eq!(find(DeviceSelector::Index(1)).expect("there"), NicId(1));
        assert_eq!(find(DeviceSelector::Name("eth1".to_owned())).expect("there"), NicId(0));
        for absent in [DeviceSelector::Index(2), DeviceSelector::Name("eth3".to_owned())] {
            let text = find(absent).expect_err("absent").to_string();
            assert!(text.contains("UCCL_TCPX_DEV") && text.contains("eth1, eth2"), "{text}");
        }
    }
}
