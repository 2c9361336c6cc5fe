//! What a process has once: settings, devices, lanes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::failure::Failure;
use crate::interface::{self, Nic};
use crate::lane::{Direction, Lane};
use crate::settings::{Bindings, Settings};
use crate::wire::MAX_SOCKETS;

/// Lanes at most, unless the user asks for more.
const MOST_LANES: usize = MAX_SOCKETS;

static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
/// Lanes outlive every `init`: their sockets may belong to comms of an earlier one.
static LANES: Mutex<Vec<Arc<Lane>>> = Mutex::new(Vec::new());

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) settings: Settings,
    pub(crate) nics: Vec<Nic>,
    /// Identifies the machine; 0 where it cannot be told.
    pub(crate) machine: u64,
    cores: Vec<usize>,
}

/// The lanes of a comm.
pub(crate) struct Lanes {
    pub(crate) lanes: Vec<Arc<Lane>>,
    /// They belong to this comm alone and end with it.
    pub(crate) own: bool,
}

impl Runtime {
    /// Reads the environment and finds the devices. A second `init` begins anew for later comms; in
    /// strict mode it is refused, as the real plugin refuses it.
    pub(crate) fn init() -> Result<(), Failure> {
        let lookup = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let settings = Settings::read(&lookup).map_err(Failure::rule)?;
        let mut slot = lock(&RUNTIME);
        if settings.strict && slot.is_some() {
            return Err(Failure::rule("init was called before in this process"));
        }
        let nics = interface::discover(&settings).map_err(Failure::rule)?;
        if let Some(device) = &settings.control_device {
            interface::address_of(device, settings.family).map_err(Failure::rule)?;
        }
        *slot = Some(Arc::new(Self { settings, nics, machine: machine(), cores: allowed_cores() }));
        Ok(())
    }

    /// The runtime, once `init` has succeeded.
    pub(crate) fn current() -> Result<Arc<Self>, Failure> {
        lock(&RUNTIME).clone().ok_or_else(|| Failure::rule("a call before init succeeded"))
    }

    pub(crate) fn nic(&self, device: i32) -> Result<(usize, &Nic), Failure> {
        let index = usize::try_from(device).ok();
        let found = index.and_then(|index| Some((index, self.nics.get(index)?)));
        found.ok_or_else(|| Failure::rule(format!("device {device} of {}", self.nics.len())))
    }

    /// Data sockets of the comms that this process listens for.
    pub(crate) fn sockets(&self) -> usize {
        self.settings.threading.map_or(self.lane_count().min(MAX_SOCKETS), |t| t.sockets)
    }

    /// Lanes shared by all comms.
    pub(crate) fn lane_count(&self) -> usize {
        self.settings.lanes.unwrap_or(self.cores.len().clamp(1, MOST_LANES))
    }

    /// Lanes for a new comm: its own where the user named threads, else the shared ones, started now if
    /// this is the first comm.
    pub(crate) fn lanes(&self, nic: usize, direction: Direction) -> io::Result<Lanes> {
        let bindings = match direction {
            Direction::Send => &self.settings.send_bindings,
            Direction::Receive => &self.settings.recv_bindings,
        };
        if let Some(threading) = self.settings.threading {
            let cores = self.bound(bindings, nic).unwrap_or_else(|| set(&self.cores));
            let start = |i| Lane::start(format!("tcpx-comm-{i}"), cores, None);
            let mut lanes = Vec::with_capacity(threading.threads);
            for index in 0..threading.threads {
                match start(index) {
                    Ok(lane) => lanes.push(lane),
                    Err(error) => {
                        lanes.iter().for_each(|lane: &Arc<Lane>| lane.stop());
                        return Err(error);
                    }
                }
            }
            return Ok(Lanes { lanes, own: true });
        }
        let count = self.lane_count();
        let mut shared = lock(&LANES);
        while shared.len() < count {
            let index = shared.len();
            let name = format!("tcpx-lane-{index}");
            shared.push(Lane::start(name, set(&self.cores), self.core_of_lane(index))?);
        }
        Ok(Lanes { lanes: shared[..count].to_vec(), own: false })
    }

    /// Cores that a `..._BINDINGS` variable names for the NIC's interface.
    fn bound(&self, bindings: &Bindings, nic: usize) -> Option<CpuSet> {
        let interface = &self.nics.get(nic)?.interface;
        let (_, cores) = bindings.iter().find(|(name, _)| name == interface)?;
        Some(set(cores))
    }

    /// Where lane `index` runs while it serves peers of this machine: both ends of a socket on one core
    /// need no cache line of another. Only where lanes and cores are one to one, so that several pairs of
    /// processes on a large machine do not all choose the same few cores.
    fn core_of_lane(&self, index: usize) -> Option<CpuSet> {
        let one_to_one = self.cores.len() > 1 && self.lane_count() == self.cores.len();
        one_to_one.then(|| set(&self.cores[index..=index]))
    }
}

fn set(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &core in cores.iter().filter(|&&core| core < CpuSet::MAX_CPU) {
        set.set(core);
    }
    set
}

/// Cores of the process: those of its first thread, since the calling one may be pinned.
fn allowed_cores() -> Vec<usize> {
    match sched_getaffinity(Some(getpid())) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        Err(_) => vec![0],
    }
}

/// A number that two processes share exactly if they run under one kernel.
fn machine() -> u64 {
    let Ok(boot) = std::fs::read("/proc/sys/kernel/random/boot_id") else { return 0 };
    boot.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A number that a stranger cannot guess: the standard library seeds its hashers from the system.
pub(crate) fn cookie() -> u64 {
    RandomState::new().build_hasher().finish()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
