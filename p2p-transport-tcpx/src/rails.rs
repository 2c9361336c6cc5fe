//! NICs and rails: the multi-NIC channel map, applied.

use std::fs;
use std::path::Path;

use p2p_transport::{Error, ErrorKind, Nic, NicId, Rail};
use tcpx_core::config::{Channels, Config, GpuIndex};
use tcpx_core::topology::{Assigned, NicMap, Policy, Tree};
use tcpx_core::{DeviceType, Plugin};

use crate::exchange::wire::MAX_CHANNELS;

/// Which NICs may serve whose memory, and with how many channels.
#[derive(Debug)]
pub(crate) struct Rails {
    nics: Vec<Nic>,
    map: Result<NicMap, String>,
    channels: Channels,
    /// Whether received pages come scattered, so that GPU and NIC must share a PCIe root.
    delivers_pages: bool,
}

impl Rails {
    /// Reads the machine below `root`, and asks the plugin for its devices. A machine whose map cannot be made
    /// has no rails by itself; the reason is told to whoever asks for one.
    pub(crate) fn new(plugin: &Plugin, config: &Config, root: &Path) -> Self {
        let delivers_pages = plugin.devices().iter().any(|device| device.device_type == DeviceType::Unpack);
        let map = Tree::read(root).map_err(|error| error.to_string()).and_then(|tree| {
            let devices = plugin.devices().iter().map(|device| {
                let speed = u32::try_from(device.speed_mbps).ok().filter(|&speed| speed > 0);
                (device.name, device.pci_path.as_deref(), speed)
            });
            let policy = Policy::new(config, delivers_pages);
            NicMap::new(&tree.with_devices(devices), &policy).map_err(|error| error.to_string())
        });
        let nics = plugin.devices().iter().map(|device| {
            let mut nic = Nic::new(NicId(device.index as u16), device.name);
            nic.megabits = u32::try_from(device.speed_mbps).unwrap_or(0);
            nic.numa_node = device.pci_path.as_deref().and_then(numa_node);
            nic
        });
        Self { nics: nics.collect(), map, channels: config.num_channels.value, delivers_pages }
    }

    pub(crate) fn nics(&self) -> &[Nic] {
        &self.nics
    }

    /// The rails of a CUDA device, or of the host: the NICs of the map, best first, with the configured
    /// channels spread over them.
    pub(crate) fn of(&self, device: Option<u16>) -> Result<Vec<Rail>, Error> {
        let unsupported = |text: String| Error::new(ErrorKind::Unsupported, "rails", text);
        let map = self.map.as_ref().map_err(|text| unsupported(text.clone()))?;
        let assigned = match device {
            None => map.host_channels(self.channels),
            Some(device) => map.channels(gpu(device)?, self.channels),
        };
        let assigned = assigned.map_err(|error| unsupported(error.to_string()))?;
        let mut rails: Vec<Rail> = Vec::new();
        for Assigned { device: index, .. } in assigned {
            let nic = NicId(*index as u16);
            match rails.iter_mut().find(|rail| rail.nic == nic) {
                Some(rail) => rail.channels += 1,
                None => rails.push(Rail { nic, device, channels: 1 }),
            }
        }
        Ok(rails)
    }

    /// Whether a connection may lie there.
    pub(crate) fn check(&self, rail: Rail, during: &'static str) -> Result<(), Error> {
        if usize::from(rail.nic.0) >= self.nics.len() {
            let text = format!("there is no NIC {}: there are {}, from 0", rail.nic.0, self.nics.len());
            return Err(Error::misuse(during, text));
        }
        if !(1..=MAX_CHANNELS).contains(&rail.channels) {
            let text = format!("{} channels: a connection has 1 to {MAX_CHANNELS}", rail.channels);
            return Err(Error::misuse(during, text));
        }
        match rail.device {
            Some(device) if self.delivers_pages => self.check_root(device, rail.nic, during),
            Some(_) | None => Ok(()),
        }
    }

    /// A plugin that delivers scattered pages ends the process when GPU and NIC hang under different PCIe
    /// roots. What the map gives a GPU was checked for that.
    fn check_root(&self, device: u16, nic: NicId, during: &'static str) -> Result<(), Error> {
        let map = self.map.as_ref().map_err(|text| Error::misuse(during, text.clone()))?;
        let nics = map.nics(gpu(device)?).map_err(|error| Error::misuse(during, error.to_string()))?;
        if nics.iter().any(|assigned| assigned.device == usize::from(nic.0)) {
            return Ok(());
        }
        let names: Vec<&str> = nics.iter().map(|assigned| assigned.name.as_str()).collect();
        let text = format!(
            "GPU {device} may not use NIC {}: this plugin ends the process when the two hang under different PCIe \
             roots; use {}, or name others in UCCL_TCPX_GPU_NIC_MAP",
            self.nics[usize::from(nic.0)].name,
            names.join(", ")
        );
        Err(Error::misuse(during, text))
    }
}

fn gpu(device: u16) -> Result<GpuIndex, Error> {
    let index = u8::try_from(device).ok().and_then(GpuIndex::new);
    index.ok_or_else(|| Error::misuse("rails", format!("there is no GPU {device}")))
}

fn numa_node(pci: &Path) -> Option<u16> {
    fs::read_to_string(pci.join("numa_node")).ok()?.trim().parse().ok()
}
