//! Which NICs each GPU uses, and with how many channels on each.

use std::path::Path;
use std::sync::Arc;

use p2p_transport::{NicId, Rail};
use tcpx_core::config::{Config, DeviceSelector, GpuIndex};
use tcpx_core::preflight::Nature;
use tcpx_core::topology::{NicMap, Policy, Tree};
use tcpx_core::{DeviceType, Plugin};

use super::Shape;
use crate::bench;
use crate::bench::net::open_plugin;
use crate::failure::Failure;

/// GPUs of the machine that host buffers stand for where there is none: two under each of four PCIe roots.
const STAND_IN_GPUS: usize = 8;
/// NICs of a link at most.
const MOST_NICS: usize = 16;

/// The net plugin, and which of its NICs serve which GPU.
pub(super) struct Nics {
    plugin: Arc<Plugin>,
    config: Config,
    /// Of a machine that has GPUs.
    map: Option<NicMap>,
    /// Numbers of the NICs that may be used, in order.
    usable: Vec<usize>,
}

impl Nics {
    pub(super) fn open(options: &bench::Options, config: &Config) -> Result<Self, Failure> {
        let plugin = open_plugin(options, config)?;
        let mut usable = usable(&plugin, config)?;
        if let Some(most) = options.nics.map(usize::from) {
            if most > usable.len() {
                return Err(Failure::new(format!(
                    "--nics {most}: {} has {} here ({}); ask for fewer, or give it more in {}",
                    plugin.name(),
                    usable.len(),
                    names(&plugin, &usable).join(", "),
                    if config.device.value.is_some() { "UCCL_TCPX_DEV" } else { "TCPX_SOFT_ADDRESSES" }
                )));
            }
            usable.truncate(most);
        }
        let map = map(&plugin, config)?;
        Ok(Self { plugin, config: config.clone(), map, usable })
    }

    pub(super) const fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// The plugin and its version.
    pub(super) fn describe(&self) -> String {
        format!("{} {}", self.plugin.name(), self.plugin.version())
    }

    /// Whether the machine has GPUs, whose map is then used.
    pub(super) const fn has_gpus(&self) -> bool {
        self.map.is_some()
    }

    /// Name of a NIC.
    pub(super) fn name(&self, nic: NicId) -> &str {
        self.plugin.devices().get(usize::from(nic.0)).map_or("?", |device| device.name)
    }

    /// Where the memory of a GPU goes: its NICs, with all channels spread over them.
    ///
    /// One process that owns all GPUs may use every NIC with the soft plugin; the real one ends the process where GPU
    /// and NIC hang under different PCIe roots, so that there the map of the machine has the word. A process of one
    /// GPU uses the one NIC that the map gives to it.
    pub(super) fn rails(&self, shape: Shape, gpu: u8, channels: u8) -> Result<Vec<Rail>, Failure> {
        let mut nics = self.nics(shape, gpu)?;
        nics.truncate(MOST_NICS.min(channels.into()));
        let (each, rest) = (usize::from(channels) / nics.len(), usize::from(channels) % nics.len());
        let rail = |(at, nic): (usize, usize)| Rail {
            nic: NicId(nic as u16),
            // Memory of the host stands for that of the GPU.
            device: None,
            channels: (each + usize::from(at < rest)) as u16,
        };
        Ok(nics.into_iter().enumerate().map(rail).collect())
    }

    /// Numbers of a GPU's NICs, at least one.
    fn nics(&self, shape: Shape, gpu: u8) -> Result<Vec<usize>, Failure> {
        let index =
            GpuIndex::new(gpu).ok_or_else(|| Failure::new(format!("--gpus: there is no GPU {gpu}")))?;
        let one = shape == Shape::PerGpu;
        if !one && self.plugin.nature() == Nature::Soft {
            return Ok(self.named(index)?.unwrap_or_else(|| self.rotated(gpu)));
        }
        let nics = match (&self.map, self.named(index)?) {
            (Some(map), _) => self.mapped(map, index)?,
            (None, Some(named)) => named,
            (None, None) if one => vec![self.stands_for(gpu)],
            (None, None) => self.rotated(gpu),
        };
        Ok(if one { nics[..1].to_vec() } else { nics })
    }

    /// What the user's own map says.
    fn named(&self, gpu: GpuIndex) -> Result<Option<Vec<usize>>, Failure> {
        let names = self.config.gpu_nic_map.value.as_ref().and_then(|map| map.nics(gpu));
        let Some(names) = names else { return Ok(None) };
        let find = |name: &String| {
            let found = self.plugin.devices().iter().find(|device| device.name == *name);
            found.map(|device| device.index).ok_or_else(|| {
                let all: Vec<usize> = self.plugin.devices().iter().map(|device| device.index).collect();
                Failure::new(format!(
                    "UCCL_TCPX_GPU_NIC_MAP names NIC {name}, which the plugin does not have (it has {}): correct the name",
                    names_of(&self.plugin, &all)
                ))
            })
        };
        names.iter().map(find).collect::<Result<_, _>>().map(Some)
    }

    fn mapped(&self, map: &NicMap, gpu: GpuIndex) -> Result<Vec<usize>, Failure> {
        let nics = map.nics(gpu).map_err(|error| Failure::new(error.to_string()))?;
        let allowed: Vec<usize> = nics.iter().map(|nic| nic.device).collect();
        let chosen: Vec<usize> = allowed.iter().copied().filter(|nic| self.usable.contains(nic)).collect();
        Ok(if chosen.is_empty() { allowed } else { chosen })
    }

    /// All NICs. GPUs start at different ones, so that few channels do not crowd one NIC.
    fn rotated(&self, gpu: u8) -> Vec<usize> {
        let mut nics = self.usable.clone();
        nics.rotate_left(usize::from(gpu) % self.usable.len());
        nics
    }

    /// The NIC of a GPU that is not there: neighbours share one.
    fn stands_for(&self, gpu: u8) -> usize {
        self.usable[stand_in(gpu.into(), self.usable.len())]
    }
}

/// Which of so many NICs serves a GPU of a machine with [`STAND_IN_GPUS`].
fn stand_in(gpu: usize, nics: usize) -> usize {
    gpu % STAND_IN_GPUS * nics / STAND_IN_GPUS
}

/// NICs that may carry data: those that the user named, or all but the control NIC.
fn usable(plugin: &Plugin, config: &Config) -> Result<Vec<usize>, Failure> {
    let devices = plugin.devices();
    let Some(choice) = &config.device.value else {
        let control = config.control_device.value.as_ref();
        let carries = |name: &str| !control.is_some_and(|filter| filter.matches(name));
        let all: Vec<usize> =
            devices.iter().filter(|device| carries(device.name)).map(|device| device.index).collect();
        let none = || Failure::new("NCCL_GPUDIRECTTCPX_CTRL_DEV names every NIC: name the control NIC alone");
        return if all.is_empty() { Err(none()) } else { Ok(all) };
    };
    let find = |selector: &DeviceSelector| {
        let found = devices.iter().find(|device| match selector {
            DeviceSelector::Index(index) => device.index == *index,
            DeviceSelector::Name(name) => device.name == *name,
        });
        found.map(|device| device.index).ok_or_else(|| {
            let all: Vec<usize> = devices.iter().map(|device| device.index).collect();
            Failure::new(format!(
                "UCCL_TCPX_DEV names a NIC that is not there; name some of {}, or their numbers, counted from 0",
                names_of(plugin, &all)
            ))
        })
    };
    choice.selectors().iter().map(find).collect()
}

/// The machine's map, if it has GPUs.
fn map(plugin: &Plugin, config: &Config) -> Result<Option<NicMap>, Failure> {
    let delivers_pages = plugin.devices().iter().any(|device| device.device_type == DeviceType::Unpack);
    let tree = Tree::read(Path::new("/")).map_err(|error| Failure::new(error.to_string()))?;
    if tree.gpus().is_empty() {
        return Ok(None);
    }
    let devices = plugin.devices().iter().map(|device| {
        let speed = u32::try_from(device.speed_mbps).ok().filter(|&speed| speed > 0);
        (device.name, device.pci_path.as_deref(), speed)
    });
    let map = NicMap::new(&tree.with_devices(devices), &Policy::new(config, delivers_pages));
    map.map(Some).map_err(|error| Failure::new(error.to_string()))
}

fn names<'a>(plugin: &'a Plugin, nics: &[usize]) -> Vec<&'a str> {
    nics.iter().map(|&nic| plugin.devices()[nic].name).collect()
}

fn names_of(plugin: &Plugin, nics: &[usize]) -> String {
    names(plugin, nics).join(", ")
}

#[cfg(test)]
mod tests {
    use super::stand_in;

    #[test]
    fn neighbours_share_a_nic_as_two_gpus_of_one_root_do() {
        let of = |nics| (0..8).map(|gpu| stand_in(gpu, nics)).collect::<Vec<_>>();
        assert_eq!(of(4), [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(of(1), [0; 8]);
        assert_eq!(of(8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(of(2), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert!((0..=255).all(|gpu| stand_in(gpu, 3) < 3));
    }
}
