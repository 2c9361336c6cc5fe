//! GPUs and NICs as sysfs shows them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Class, PciAddress, PciPath};
use crate::config::{GpuIndex, InterfaceFilter};

/// PCI vendor of the GPUs.
const NVIDIA: u32 = 0x10de;
/// PCI classes of GPUs, without the interface byte: VGA and 3D controllers.
const GPU_CLASSES: [u32; 2] = [0x0300, 0x0302];

/// What sysfs says about the GPUs and NICs of a machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    gpus: Vec<Gpu>,
    interfaces: Vec<Nic>,
    devices: Vec<Nic>,
}

/// A GPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpu {
    /// Index in PCI address order, as CUDA counts equal GPUs.
    pub index: GpuIndex,
    /// Where it hangs.
    pub path: PciPath,
}

/// A network interface, or a device of a plugin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nic {
    /// Name.
    pub name: String,
    /// Where it hangs: one place for a card, those of its members for a bond, none for a virtual one.
    pub paths: Vec<PciPath>,
    /// Link speed in Mbit/s, where known.
    pub speed_mbps: Option<u32>,
    /// What it is.
    pub role: NicRole,
    /// The function that a virtual function belongs to and shares its link with.
    pub physical_function: Option<PciAddress>,
    /// Whether the kernel says that its link is down.
    pub is_down: bool,
    /// The kernel's interface number, which gives the order in which interfaces are listed.
    pub ifindex: u32,
}

/// What a network interface is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NicRole {
    /// A card, or a function of one.
    Physical,
    /// A virtual function of a card.
    VirtualFunction,
    /// A bond, which stands for its members.
    Bond,
    /// Member of a bond or bridge, which carries the address instead of it.
    Member,
    /// Nothing on the PCI bus.
    Virtual,
}

/// A part of sysfs that is there and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {} to find GPUs and NICs: {source}", path.display())]
pub struct ReadError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl Tree {
    /// Reads `sys/bus/pci/devices` and `sys/class/net` under `root` (`/` in production).
    ///
    /// The NICs to choose from are those on the PCI bus and bonds of them, without members of bonds and
    /// bridges, and without those whose link is down as long as another one is up.
    ///
    /// # Errors
    ///
    /// [`ReadError`] when one of the two folders exists and cannot be listed. What is missing is treated
    /// as empty: a machine without PCI has no GPU.
    pub fn read(root: &Path) -> Result<Self, ReadError> {
        let mut gpus: Vec<_> =
            list(&root.join("sys/bus/pci/devices"))?.iter().filter_map(|path| gpu_path(path)).collect();
        gpus.sort_by_key(PciPath::address);
        let gpus = gpus
            .into_iter()
            .enumerate()
            .filter_map(|(index, path)| Some(Gpu { index: GpuIndex::new(u8::try_from(index).ok()?)?, path }));
        let interfaces = list(&root.join("sys/class/net"))?;
        let interfaces = interfaces.iter().filter_map(|path| interface(path)).collect();
        Ok(Self::from_parts(gpus.collect(), interfaces))
    }

    /// A tree of known parts. The NICs to choose from follow the rules of [`Tree::read`].
    pub fn from_parts(gpus: Vec<Gpu>, mut interfaces: Vec<Nic>) -> Self {
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        let usable = |nic: &&Nic| !matches!(nic.role, NicRole::Member | NicRole::Virtual);
        let some_up = interfaces.iter().filter(usable).any(|nic| !nic.is_down);
        let devices = interfaces.iter().filter(usable).filter(|nic| !(some_up && nic.is_down));
        let devices = devices.cloned().collect();
        Self { gpus, interfaces, devices }
    }

    /// The same tree with a plugin's own list of devices to choose from: name, path in sysfs, speed in
    /// Mbit/s. Their order is the plugin's, so that positions are device indices.
    ///
    /// A device that is no interface of this machine keeps the path it came with, or none.
    pub fn with_devices<'a>(
        &self,
        devices: impl IntoIterator<Item = (&'a str, Option<&'a Path>, Option<u32>)>,
    ) -> Self {
        let devices = devices.into_iter().map(|(name, path, speed_mbps)| match self.interface(name) {
            Some(known) => Nic { speed_mbps: speed_mbps.or(known.speed_mbps), ..known.clone() },
            None => {
                let path = path.and_then(|path| PciPath::parse(path, numa_node(path)));
                Nic {
                    name: name.to_owned(),
                    role: if path.is_some() { NicRole::Physical } else { NicRole::Virtual },
                    paths: path.into_iter().collect(),
                    physical_function: None,
                    speed_mbps,
                    is_down: false,
                    ifindex: u32::MAX,
                }
            }
        });
        Self { gpus: self.gpus.clone(), interfaces: self.interfaces.clone(), devices: devices.collect() }
    }

    /// GPUs in the order of their indices.
    pub fn gpus(&self) -> &[Gpu] {
        &self.gpus
    }

    /// NICs to choose from; a position is a device index.
    pub fn devices(&self) -> &[Nic] {
        &self.devices
    }

    /// Every interface of the machine, by name.
    pub fn interfaces(&self) -> &[Nic] {
        &self.interfaces
    }

    /// The interface `name`.
    pub fn interface(&self, name: &str) -> Option<&Nic> {
        self.interfaces.iter().find(|nic| nic.name == name)
    }

    /// The NIC that the plugin takes for its control sockets under `filter`: the first one that matches
    /// in the kernel's order.
    pub fn control_nic(&self, filter: &InterfaceFilter) -> Option<&Nic> {
        let matching = self.interfaces.iter().filter(|nic| filter.matches(&nic.name));
        matching.min_by_key(|nic| nic.ifindex)
    }
}

impl Nic {
    /// Address of its PCI function; the first one of a bond.
    pub fn address(&self) -> Option<PciAddress> {
        self.paths.first().map(PciPath::address)
    }

    /// How far the NIC lies from a device: the farthest of its places, because traffic may take any.
    pub fn class(&self, path: &PciPath) -> Class {
        self.paths.iter().map(|mine| mine.class(path)).max().unwrap_or(Class::Sys)
    }

    /// Whether all of the NIC hangs under the same PCIe root as a device.
    pub fn shares_root(&self, path: &PciPath) -> bool {
        !self.paths.is_empty() && self.paths.iter().all(|mine| mine.shares_root(path))
    }
}

/// Entries of a folder in the order of their names; none when it does not exist.
fn list(folder: &Path) -> Result<BTreeSet<PathBuf>, ReadError> {
    let error = |source| ReadError { path: folder.to_path_buf(), source };
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(error)?.path())).collect(),
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(other) => Err(error(other)),
    }
}

/// Place of a GPU; `None` for any other PCI device, and for virtual functions of GPUs.
fn gpu_path(device: &Path) -> Option<PciPath> {
    let is_gpu = hexadecimal(&device.join("vendor"))? == NVIDIA
        && GPU_CLASSES.contains(&(hexadecimal(&device.join("class"))? >> 8))
        && !device.join("physfn").exists();
    if is_gpu { place(device) } else { None }
}

fn interface(folder: &Path) -> Option<Nic> {
    let name = folder.file_name()?.to_str()?.to_owned();
    // `bonding_masters` and the like are files.
    if !folder.is_dir() {
        return None;
    }
    let physical_function = place(&folder.join("device/physfn")).map(|path| path.address());
    let master = folder.join("master");
    let (role, paths) = if master.join("bonding").is_dir() || master.join("bridge").is_dir() {
        (NicRole::Member, place(&folder.join("device")).into_iter().collect())
    } else if folder.join("bonding").is_dir() {
        (NicRole::Bond, members(folder).iter().filter_map(|member| place(&member.join("device"))).collect())
    } else {
        match place(&folder.join("device")) {
            None => (NicRole::Virtual, Vec::new()),
            Some(path) if physical_function.is_some() => (NicRole::VirtualFunction, vec![path]),
            Some(path) => (NicRole::Physical, vec![path]),
        }
    };
    Some(Nic {
        name,
        paths,
        physical_function,
        speed_mbps: text(&folder.join("speed"))
            .and_then(|speed| speed.parse().ok())
            .filter(|&speed| speed > 0),
        role,
        is_down: text(&folder.join("operstate"))
            .is_some_and(|state| state == "down" || state == "lowerlayerdown"),
        ifindex: text(&folder.join("ifindex")).and_then(|index| index.parse().ok()).unwrap_or(u32::MAX),
    })
}

/// Members of a bond: the kernel links each as `lower_NAME`.
fn members(bond: &Path) -> Vec<PathBuf> {
    let entries = list(bond).unwrap_or_default();
    let is_lower = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("lower_"))
    };
    entries.into_iter().filter(is_lower).collect()
}

/// Where a device folder or a link to one lies in the PCI tree.
fn place(device: &Path) -> Option<PciPath> {
    let real = fs::canonicalize(device).ok()?;
    PciPath::parse(&real, numa_node(&real))
}

/// NUMA node of a device; the kernel writes -1 where it knows none.
fn numa_node(device: &Path) -> Option<u32> {
    // A virtio device has no such file; its PCI function above it has.
    let mut files = device.ancestors().take(2).map(|folder| folder.join("numa_node"));
    files.find_map(|file| text(&file)).and_then(|node| node.parse().ok())
}

fn hexadecimal(file: &Path) -> Option<u32> {
    u32::from_str_radix(text(file)?.strip_prefix("0x")?, 16).ok()
}

fn text(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}
