//! The NVIDIA driver, the daemon of the receive buffers, and which NICs each GPU uses.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tcpx_core::preflight::{self, Check, Findings};
use tcpx_core::topology::{Assigned, MapError, MapSource, NicMap, Policy, Tree};

use super::line::{Fault, Line, judged};
use super::machine::Machine;

const DRIVER: &str = "NVIDIA driver";
const RXDM: &str = "rxdm";
const MAP: &str = "GPU/NIC map";
const LIBRARY: &str = "libcuda.so.1";
/// Where the driver's library lies, apart from what the linker's cache knows.
const FOLDERS: [&str; 8] = [
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/cuda/compat",
    "/run/nvidia/driver/usr/lib/x86_64-linux-gnu",
];

/// The kernel's part of the driver and the library that belongs to it.
pub(super) fn driver(machine: &Machine) -> Vec<Line> {
    let version = machine.text("/proc/driver/nvidia/version");
    let version = version.ok().map(|text| number_of(&text).unwrap_or("without a number").to_owned());
    let library = library(machine);
    let install = "run on a GPU machine with the driver and its libraries mounted into the container \
                   (NVIDIA_VISIBLE_DEVICES, or --gpus all)";
    let fault = |found: &str, mend: &str| {
        let fault = if machine.uses_tcpx() { Fault::fail } else { Fault::warn };
        vec![fault(found, mend)]
    };
    vec![match (version, library) {
        (None, None) if !machine.uses_tcpx() => Line::ok(DRIVER, without_driver(machine)),
        (None, None) => {
            judged(DRIVER, "", fault("there is none, and GPUDirect-TCPX ends the process", install))
        }
        (Some(version), None) => {
            let faults = fault(
                &format!("{LIBRARY} is not found"),
                "mount the driver's libraries into this container, or add their folder to LD_LIBRARY_PATH",
            );
            judged(DRIVER, &format!("kernel module {version}"), faults)
        }
        (None, Some(library)) => {
            let found = "there is no kernel module (/proc/driver/nvidia/version)";
            judged(DRIVER, &format!("{} is there", library.display()), fault(found, install))
        }
        (Some(version), Some(library)) => {
            Line::ok(DRIVER, format!("kernel module {version}, {}", library.display()))
        }
    }]
}

/// How it is to have no driver, where none is needed.
fn without_driver(machine: &Machine) -> String {
    match machine.tree().map_or(0, |tree| tree.gpus().len()) {
        0 => "none, which is normal on a machine without GPUs: host memory is moved".to_owned(),
        gpus => format!("none, although there are {gpus} GPUs: only host memory can be moved"),
    }
}

/// The version in `NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.154.05  Thu ...`.
fn number_of(text: &str) -> Option<&str> {
    let is_version =
        |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.split_whitespace().find(is_version)
}

/// The driver's library, where the dynamic linker looks for it.
fn library(machine: &Machine) -> Option<PathBuf> {
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&own).filter(|folder| folder.is_absolute()).collect();
    let folders = own.into_iter().chain(FOLDERS.map(PathBuf::from));
    let mut files = folders.map(|folder| folder.join(LIBRARY)).chain(cached(machine));
    files.find(|file| machine.at(file).exists())
}

/// What the dynamic linker's cache says about it: paths in a binary file, each with a zero at its end.
fn cached(machine: &Machine) -> Vec<PathBuf> {
    let Ok(cache) = fs::read(machine.at("/etc/ld.so.cache")) else { return Vec::new() };
    let strings = cache.split(|&byte| byte == 0).filter_map(|bytes| std::str::from_utf8(bytes).ok());
    let paths = strings.filter(|text| text.starts_with('/')).map(PathBuf::from);
    paths.filter(|path| path.file_name().is_some_and(|name| name == LIBRARY)).collect()
}

/// The daemon that owns the receive buffers of GPUDirect-TCPX.
pub(super) fn rxdm(machine: &Machine) -> Vec<Line> {
    if !machine.uses_tcpx() {
        return vec![Line::ok(RXDM, "not needed: only GPUDirect-TCPX has a daemon")];
    }
    let checks = [Check::PrefixTooLong, Check::PrefixMissing, Check::RxdmSockets];
    let findings = machine.findings();
    let faults = faults(&findings, &checks);
    let assigned =
        findings.assignments.iter().find(|set| set.variable == "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX");
    let given = || machine.config.unix_client_prefix.value.as_path().display().to_string();
    let folder = assigned.map_or_else(given, |set| set.value.clone());
    let found = if faults.is_empty() { format!("its sockets are in {folder}") } else { String::new() };
    vec![judged(RXDM, &found, faults)]
}

/// Which NICs each GPU uses.
pub(super) fn map(machine: &Machine) -> Vec<Line> {
    let tree = match machine.tree() {
        Ok(tree) => tree,
        Err(error) => {
            return vec![Line::fail(MAP, error.to_string(), "make the folder readable to this process")];
        }
    };
    let mut faults = Vec::new();
    if tree.gpus().is_empty() && machine.uses_tcpx() {
        faults.extend(self::faults(&machine.findings(), &[Check::NoGpu]));
    }
    let tree = with_plugins_nics(machine, &tree);
    let policy = Policy::new(&machine.config, machine.uses_tcpx());
    let map = match NicMap::new(&tree, &policy) {
        Ok(map) => map,
        Err(error) => {
            faults.push(fault(&error));
            return vec![judged(MAP, "", faults)];
        }
    };
    let mut found = Vec::new();
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for gpu in map.gpus() {
        match map.nics(gpu) {
            Ok(nics) => groups.entry(shown(nics)).or_default().push(gpu.get().to_string()),
            Err(error) => faults.push(fault(&error)),
        }
    }
    if tree.gpus().is_empty() {
        found.push("no GPU".to_owned());
    }
    // In the order of the GPUs.
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, gpus)| gpus.first().and_then(|gpu| gpu.parse::<u8>().ok()));
    found.extend(groups.into_iter().map(|(nics, gpus)| {
        format!("GPU{} {} {nics}", if gpus.len() > 1 { "s" } else { "" }, gpus.join(","))
    }));
    match map.host_nics() {
        Ok(nics) => found.push(format!("host memory {}", shown(nics))),
        Err(error) if tree.gpus().is_empty() => faults.push(fault(&error)),
        Err(_) => {}
    }
    if let Some(wanted) = unknown_gpu(machine, &tree) {
        faults.push(wanted);
    }
    vec![judged(MAP, &found.join("; "), faults)]
}

/// The tree with the NICs that the plugin will have.
fn with_plugins_nics(machine: &Machine, tree: &Tree) -> Tree {
    let nics = super::nics::used(machine, tree);
    tree.with_devices(nics.iter().map(|nic| (nic.name.as_str(), None, nic.speed_mbps)))
}

/// The GPU of this endpoint, if the user chose one that does not exist.
fn unknown_gpu(machine: &Machine, tree: &Tree) -> Option<Fault> {
    let setting = &machine.config.local_device;
    let (gpu, count) = (setting.value.get(), tree.gpus().len());
    (setting.is_from_user() && usize::from(gpu) >= count.max(1)).then(|| {
        let found = format!("UCCL_TCPX_LOCAL_DEVICE={gpu}, and there are {count} GPUs, from 0");
        Fault::fail(found, "correct or unset UCCL_TCPX_LOCAL_DEVICE")
    })
}

/// NICs by name, with how far they are: one such word where all are as far.
fn shown(nics: &[Assigned]) -> String {
    let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
    let first = nics.first();
    let class = first.and_then(|nic| nic.class).map(|class| format!(" ({class})")).unwrap_or_default();
    let by_user = if first.is_some_and(|nic| nic.source == MapSource::User) { ", as set" } else { "" };
    format!("on {}{class}{by_user}", names.join("+"))
}

/// The error without its advice, and the advice.
fn fault(error: &MapError) -> Fault {
    let text = error.to_string();
    let (found, mend) =
        text.split_once(": ").unwrap_or((&text, "correct UCCL_TCPX_GPU_NIC_MAP and UCCL_TCPX_DEV"));
    Fault::fail(found, mend)
}

/// What the preflight refuses for these reasons.
pub(super) fn faults(findings: &Findings, checks: &[Check]) -> Vec<Fault> {
    let refused = findings.refusals.iter().filter(|refusal| checks.contains(&refusal.check));
    let fault = |refusal: &preflight::Refusal| {
        Fault::fail(format!("{}: {}", refusal.subject, refusal.consequence), refusal.mend.clone())
    };
    refused.map(fault).collect()
}

/// A path as a subject of the preflight names it.
pub(super) fn is_about(subject: &preflight::Subject, file: &str) -> bool {
    matches!(subject, preflight::Subject::File(path) if path == Path::new(file))
}

#[cfg(test)]
mod tests {
    use super::number_of;

    #[test]
    fn the_drivers_version_is_found_in_its_line() {
        let line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.154.05  Thu Dec 28 15:37:48 UTC 2023";
        assert_eq!(number_of(line), Some("535.154.05"));
        assert_eq!(number_of("NVRM version: something else"), None);
    }
}
