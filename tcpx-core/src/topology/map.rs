//! From a tree to the NICs of each GPU and of each channel.

use std::collections::BTreeMap;

use super::profile::a3_high_nic;
use super::{Class, Gpu, Nic, Tree};
use crate::config::{Channels, Config, DeviceChoice, DeviceSelector, GpuIndex, GpuNicMap};
use crate::config::{InterfaceFilter, NicNames};

/// What the user and the plugin want of a map.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// The control NIC's filter (`NCCL_GPUDIRECTTCPX_CTRL_DEV`).
    pub control: Option<&'a InterfaceFilter>,
    /// The NICs to choose from (`UCCL_TCPX_DEV`).
    pub devices: Option<&'a DeviceChoice>,
    /// The user's map (`UCCL_TCPX_GPU_NIC_MAP`).
    pub map: Option<&'a GpuNicMap>,
    /// NICs that may serve GPUs under another PCIe root (`UCCL_TCPX_ALLOW_FOREIGN_NICS`).
    pub foreign: &'a NicNames,
    /// Whether the plugin delivers scattered pages (UNPACK) and so needs a shared PCIe root.
    pub delivers_pages: bool,
}

impl<'a> Policy<'a> {
    /// The policy of a configuration and of what the plugin reports.
    pub const fn new(config: &'a Config, delivers_pages: bool) -> Self {
        Self {
            control: config.control_device.value.as_ref(),
            devices: config.device.value.as_ref(),
            map: config.gpu_nic_map.value.as_ref(),
            foreign: &config.foreign_nics.value,
            delivers_pages,
        }
    }
}

/// The NICs of each GPU, and of memory that belongs to no GPU.
#[derive(Clone, Debug)]
pub struct NicMap {
    gpus: BTreeMap<GpuIndex, Result<Vec<Assigned>, MapError>>,
    host: Result<Vec<Assigned>, MapError>,
}

/// A NIC given to a GPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assigned {
    /// Index of the device in the tree's list, which is the plugin's.
    pub device: usize,
    /// Name of the NIC.
    pub name: String,
    /// How far it lies from the GPU; `None` for host memory.
    pub class: Option<Class>,
    /// Which rule chose it.
    pub source: MapSource,
}

/// Which rule chose a NIC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapSource {
    /// The user's map.
    User,
    /// The fixed map of a recognised machine.
    Machine,
    /// Closeness and link speed.
    Closeness,
}

/// Why a GPU has no NIC, or a map cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// A GPU that the machine does not have.
    #[error("GPU {} does not exist: this machine has {count} GPUs (counted from 0 in PCI address order)", gpu.get())]
    UnknownGpu {
        /// Its index.
        gpu: GpuIndex,
        /// GPUs there are.
        count: usize,
    },
    /// A NIC that the plugin does not have.
    #[error("{variable} names NIC {nic}, which the plugin does not have (it has {known}): correct the name")]
    UnknownNic {
        /// The variable.
        variable: &'static str,
        /// The name or index.
        nic: String,
        /// The devices there are.
        known: String,
    },
    /// The control NIC was asked to carry data.
    #[error(
        "{variable} names NIC {nic}, which is the control NIC (NCCL_GPUDIRECTTCPX_CTRL_DEV): name a data \
         NIC, or another control NIC"
    )]
    ControlNic {
        /// The variable.
        variable: &'static str,
        /// The NIC.
        nic: String,
    },
    /// Nothing is left to choose from.
    #[error(
        "no data NIC is left of {known}: check NCCL_GPUDIRECTTCPX_SOCKET_IFNAME, \
         NCCL_GPUDIRECTTCPX_CTRL_DEV (the control NIC carries no data) and UCCL_TCPX_DEV"
    )]
    NoNic {
        /// The devices there are.
        known: String,
    },
    /// The GPU and the NIC hang under different PCIe roots.
    #[error(
        "GPU {} (under {gpu_root}) cannot receive through NIC {nic} (under {nic_root}): this plugin ends the \
         process when GPU and NIC hang under different PCIe roots; give the GPU a NIC of its own root in \
         UCCL_TCPX_GPU_NIC_MAP, or, if you know better, set UCCL_TCPX_ALLOW_FOREIGN_NICS={nic}",
        gpu.get()
    )]
    ForeignRoot {
        /// The GPU.
        gpu: GpuIndex,
        /// Its PCIe root.
        gpu_root: String,
        /// The NIC.
        nic: String,
        /// The NIC's PCIe root.
        nic_root: String,
    },
}

impl NicMap {
    /// Makes the map of a machine.
    ///
    /// A GPU without a usable NIC does not spoil the others: its error comes from [`NicMap::nics`].
    ///
    /// # Errors
    ///
    /// [`MapError`] when the user's variables name GPUs or NICs that do not exist, or the control NIC.
    pub fn new(tree: &Tree, policy: &Policy<'_>) -> Result<Self, MapError> {
        let choice = Choice::new(tree, policy)?;
        let mut gpus: BTreeMap<_, _> =
            tree.gpus().iter().map(|gpu| (gpu.index, choice.candidates(gpu))).collect();
        rotate(&mut gpus);
        Ok(Self { gpus, host: choice.for_host() })
    }

    /// NICs of a GPU, the first for its first channel.
    ///
    /// # Errors
    ///
    /// [`MapError::UnknownGpu`], or why this GPU has none.
    pub fn nics(&self, gpu: GpuIndex) -> Result<&[Assigned], MapError> {
        match self.gpus.get(&gpu) {
            Some(Ok(nics)) => Ok(nics),
            Some(Err(error)) => Err(error.clone()),
            None => Err(MapError::UnknownGpu { gpu, count: self.gpus.len() }),
        }
    }

    /// NIC of each of `channels` channels of a GPU: its NICs in turn.
    ///
    /// # Errors
    ///
    /// As [`NicMap::nics`].
    pub fn channels(&self, gpu: GpuIndex, channels: Channels) -> Result<Vec<&Assigned>, MapError> {
        self.nics(gpu).map(|nics| spread(nics, channels))
    }

    /// NICs for host memory: those with the fastest link.
    ///
    /// # Errors
    ///
    /// [`MapError::NoNic`].
    pub fn host_nics(&self) -> Result<&[Assigned], MapError> {
        self.host.as_deref().map_err(MapError::clone)
    }

    /// NIC of each of `channels` channels for host memory: the NICs in turn.
    ///
    /// # Errors
    ///
    /// As [`NicMap::host_nics`].
    pub fn host_channels(&self, channels: Channels) -> Result<Vec<&Assigned>, MapError> {
        self.host_nics().map(|nics| spread(nics, channels))
    }

    /// GPUs of the machine.
    pub fn gpus(&self) -> impl Iterator<Item = GpuIndex> + '_ {
        self.gpus.keys().copied()
    }
}

fn spread(nics: &[Assigned], channels: Channels) -> Vec<&Assigned> {
    nics.iter().cycle().take(usize::from(channels.get())).collect()
}

/// GPUs with the same NICs start at different ones, so that one channel each does not crowd one NIC.
fn rotate(gpus: &mut BTreeMap<GpuIndex, Result<Vec<Assigned>, MapError>>) {
    let mut users: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    for nics in gpus.values_mut().flatten() {
        let users = users.entry(nics.iter().map(|nic| nic.device).collect()).or_default();
        let start = *users % nics.len();
        nics.rotate_left(start);
        *users += 1;
    }
}

/// Of some positions in the tree's list of devices, those with the fastest link, without virtual
/// functions whose physical function is there too: they share one link.
fn fastest(tree: &Tree, positions: &[usize]) -> Vec<usize> {
    let nic = |at: usize| &tree.devices()[at];
    let speed = |at: usize| nic(at).speed_mbps;
    let top = positions.iter().map(|&at| speed(at)).max().flatten();
    let fast: Vec<_> = positions.iter().copied().filter(|&at| speed(at) == top).collect();
    let shares_link = |at: usize| {
        let physical = nic(at).physical_function;
        physical.is_some() && fast.iter().any(|&other| nic(other).address() == physical)
    };
    fast.iter().copied().filter(|&at| !shares_link(at)).collect()
}

/// The devices that are left to choose from.
struct Choice<'a> {
    tree: &'a Tree,
    policy: &'a Policy<'a>,
    control: Option<&'a str>,
    /// Positions in the tree's list of devices.
    eligible: Vec<usize>,
}

impl<'a> Choice<'a> {
    fn new(tree: &'a Tree, policy: &'a Policy<'a>) -> Result<Self, MapError> {
        let control = policy.control.and_then(|filter| tree.control_nic(filter)).map(|nic| nic.name.as_str());
        let mut choice = Self { tree, policy, control, eligible: Vec::new() };
        choice.eligible = match policy.devices {
            Some(devices) => {
                let chosen = devices.selectors().iter().map(|selector| choice.select(selector));
                chosen.collect::<Result<_, _>>()?
            }
            None => (0..tree.devices().len()).filter(|&at| !choice.is_control(at)).collect(),
        };
        choice.eligible.sort_unstable();
        choice.eligible.dedup();
        choice.check_map()?;
        Ok(choice)
    }

    /// Checks every name in the user's map, also of GPUs that are not used.
    fn check_map(&self) -> Result<(), MapError> {
        let Some(map) = self.policy.map else { return Ok(()) };
        let count = self.tree.gpus().len();
        if let Some(gpu) = map.gpus().find(|gpu| usize::from(gpu.get()) >= count) {
            return Err(MapError::UnknownGpu { gpu, count });
        }
        map.all_nics().try_for_each(|name| self.named(MAP_VARIABLE, name).map(drop))
    }

    fn select(&self, selector: &DeviceSelector) -> Result<usize, MapError> {
        match selector {
            DeviceSelector::Name(name) => self.named(DEVICE_VARIABLE, name),
            DeviceSelector::Index(index) => match self.tree.devices().get(*index) {
                Some(nic) => self.named(DEVICE_VARIABLE, &nic.name),
                None => Err(self.unknown(DEVICE_VARIABLE, &index.to_string())),
            },
        }
    }

    /// Position of a data NIC that a variable names.
    fn named(&self, variable: &'static str, name: &str) -> Result<usize, MapError> {
        if self.control == Some(name) {
            return Err(MapError::ControlNic { variable, nic: name.to_owned() });
        }
        let at = self.tree.devices().iter().position(|nic| nic.name == name);
        at.ok_or_else(|| self.unknown(variable, name))
    }

    fn unknown(&self, variable: &'static str, nic: &str) -> MapError {
        MapError::UnknownNic { variable, nic: nic.to_owned(), known: self.known() }
    }

    fn known(&self) -> String {
        let names: Vec<_> = self.tree.devices().iter().map(|nic| nic.name.as_str()).collect();
        if names.is_empty() { "no NIC at all".to_owned() } else { names.join(", ") }
    }

    fn is_control(&self, at: usize) -> bool {
        self.control == Some(self.tree.devices()[at].name.as_str())
    }

    /// NICs of a GPU by the first rule that says something.
    fn candidates(&self, gpu: &Gpu) -> Result<Vec<Assigned>, MapError> {
        if let Some(names) = self.policy.map.and_then(|map| map.nics(gpu.index)) {
            let positions: Vec<_> =
                names.iter().map(|name| self.named(MAP_VARIABLE, name)).collect::<Result<_, _>>()?;
            self.check_roots(gpu, &positions)?;
            return Ok(self.assigned(gpu, &positions, MapSource::User));
        }
        if let Some(name) = a3_high_nic(self.tree, gpu.index)
            && let Some(&at) = self.eligible.iter().find(|&&at| self.nic(at).name == name)
        {
            return Ok(self.assigned(gpu, &[at], MapSource::Machine));
        }
        let closest = self.closest(gpu)?;
        Ok(self.assigned(gpu, &closest, MapSource::Closeness))
    }

    /// The NICs of the closest class that is allowed, and of these the fastest.
    fn closest(&self, gpu: &Gpu) -> Result<Vec<usize>, MapError> {
        let class = |at: usize| self.nic(at).class(&gpu.path);
        let nearest = self.eligible.iter().copied().min_by_key(|&at| class(at));
        let nearest = nearest.ok_or_else(|| MapError::NoNic { known: self.known() })?;
        let allowed: Vec<_> = self.eligible.iter().copied().filter(|&at| self.is_allowed(gpu, at)).collect();
        let Some(best) = allowed.iter().map(|&at| class(at)).min() else {
            return Err(self.foreign_root(gpu, nearest));
        };
        let close: Vec<_> = allowed.into_iter().filter(|&at| class(at) == best).collect();
        Ok(fastest(self.tree, &close))
    }

    /// The fastest NICs, for memory that hangs under no PCIe root.
    fn for_host(&self) -> Result<Vec<Assigned>, MapError> {
        if self.eligible.is_empty() {
            return Err(MapError::NoNic { known: self.known() });
        }
        let assigned = |&at: &usize| Assigned {
            device: at,
            name: self.nic(at).name.clone(),
            class: None,
            source: MapSource::Closeness,
        };
        Ok(fastest(self.tree, &self.eligible).iter().map(assigned).collect())
    }

    fn check_roots(&self, gpu: &Gpu, positions: &[usize]) -> Result<(), MapError> {
        match positions.iter().find(|&&at| !self.is_allowed(gpu, at)) {
            Some(&at) => Err(self.foreign_root(gpu, at)),
            None => Ok(()),
        }
    }

    /// Whether the plugin can join this GPU and this NIC.
    fn is_allowed(&self, gpu: &Gpu, at: usize) -> bool {
        let nic = self.nic(at);
        !self.policy.delivers_pages || nic.shares_root(&gpu.path) || self.policy.foreign.contains(&nic.name)
    }

    fn foreign_root(&self, gpu: &Gpu, at: usize) -> MapError {
        let nic = self.nic(at);
        let roots: Vec<_> = nic.paths.iter().map(super::PciPath::root).collect();
        MapError::ForeignRoot {
            gpu: gpu.index,
            gpu_root: gpu.path.root(),
            nic: nic.name.clone(),
            nic_root: if roots.is_empty() { "no PCIe root".to_owned() } else { roots.join(" and ") },
        }
    }

    fn assigned(&self, gpu: &Gpu, positions: &[usize], source: MapSource) -> Vec<Assigned> {
        let assigned = |&at: &usize| Assigned {
            device: at,
            name: self.nic(at).name.clone(),
            class: Some(self.nic(at).class(&gpu.path)),
            source,
        };
        positions.iter().map(assigned).collect()
    }

    fn nic(&self, at: usize) -> &'a Nic {
        &self.tree.devices()[at]
    }
}

const MAP_VARIABLE: &str = "UCCL_TCPX_GPU_NIC_MAP";
const DEVICE_VARIABLE: &str = "UCCL_TCPX_DEV";
