//! Checks on NICs, their NUMA nodes and the cores of their workers.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Check, Findings, Subject};
use crate::config::{Bindings, Config, CpuRange, InterfaceFilter};
use crate::topology::{Nic, NicRole, Tree};

/// Ranges of cores that the plugin has room for, per NIC; it does not check.
const MAX_RANGES: usize = 8;
const SOCKET_IFNAME: &str = "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME";
const CTRL_DEV: &str = "NCCL_GPUDIRECTTCPX_CTRL_DEV";

pub(super) fn check(config: &Config, tree: &Tree, root: &Path, findings: &mut Findings) {
    check_control(config, tree, findings);
    let nics = data_nics(config, tree);
    if nics.is_empty() {
        findings.refuse(
            Check::DataNicMissing,
            Subject::Variable(SOCKET_IFNAME),
            format!(
                "it chooses none of the interfaces of this machine ({}), and the plugin does not start",
                names(tree)
            ),
            "name the data NICs, such as eth1,eth2,eth3,eth4",
        );
    } else if nics.iter().all(|nic| nic.address().is_none()) {
        findings.refuse(
            Check::NoPciNic,
            Subject::Variable(SOCKET_IFNAME),
            format!(
                "it chooses only virtual interfaces ({}), for which registering GPU memory crashes",
                list(&nics)
            ),
            "name NICs that are on the PCI bus",
        );
    }
    for nic in &nics {
        check_nic(nic, root, findings);
    }
    if config.socket_ifname.is_from_user() {
        for nic in nics.iter().filter(|nic| nic.address().is_none()) {
            let text = format!("{} is not on the PCI bus; GPU memory cannot be registered with it", nic.name);
            findings.note(Subject::Variable(SOCKET_IFNAME), text);
        }
    }
    check_bindings("NCCL_GPUDIRECTTCPX_TX_BINDINGS", config.tx_bindings.value.as_ref(), &nics, findings);
    check_bindings("NCCL_GPUDIRECTTCPX_RX_BINDINGS", config.rx_bindings.value.as_ref(), &nics, findings);
}

fn check_control(config: &Config, tree: &Tree, findings: &mut Findings) {
    let Some(filter) = &config.control_device.value else { return };
    let matching: Vec<_> = tree.interfaces().iter().filter(|nic| filter.matches(&nic.name)).collect();
    match (matching.len(), tree.control_nic(filter)) {
        (0, _) | (_, None) => findings.refuse(
            Check::ControlDeviceMissing,
            Subject::Variable(CTRL_DEV),
            format!(
                "it matches no interface of this machine ({}), and the plugin then uses an address that \
                 was never set",
                names(tree)
            ),
            "name an existing interface, or unset it",
        ),
        (1, Some(_)) => {}
        (_, Some(first)) => findings.note(
            Subject::Variable(CTRL_DEV),
            format!(
                "it matches {}; the plugin takes the first, {} (a leading = means the exact name)",
                list(&matching),
                first.name
            ),
        ),
    }
}

/// The interfaces that the plugin takes for data: as chosen, or by its own order of preference.
pub(super) fn data_nics<'a>(config: &Config, tree: &'a Tree) -> Vec<&'a Nic> {
    let chosen = |wanted: &dyn Fn(&str) -> bool| -> Vec<&'a Nic> {
        let carries_address = |nic: &&&Nic| nic.role != NicRole::Member;
        tree.interfaces().iter().filter(|nic| wanted(&nic.name)).filter(|nic| carries_address(&nic)).collect()
    };
    let matches = |filter: &InterfaceFilter| chosen(&|name| filter.matches(name));
    if let Some(filter) = &config.socket_ifname.value {
        return matches(filter);
    }
    let infiniband = chosen(&|name| name.starts_with("ib"));
    if !infiniband.is_empty() {
        return infiniband;
    }
    chosen(&|name| !name.starts_with("docker") && !name.starts_with("lo"))
}

fn check_nic(nic: &Nic, root: &Path, findings: &mut Findings) {
    let Some(address) = nic.address() else { return };
    if address.domain != 0 {
        findings.refuse(
            Check::PciDomain,
            Subject::Variable(SOCKET_IFNAME),
            format!(
                "{} is at {address}, and the plugin knows PCI domain 0000 only: registering GPU memory fails",
                nic.name
            ),
            format!("leave {} out", nic.name),
        );
    }
    check_numa(nic, root, findings);
}

/// The plugin reads one character of the NIC's NUMA node, takes 0 for node 0 and anything else for node
/// 1, and opens that node's list of cores without looking whether it is there.
fn check_numa(nic: &Nic, root: &Path, findings: &mut Findings) {
    let file = PathBuf::from(format!("/sys/class/net/{}/device/numa_node", nic.name));
    let node = match read(root, &file) {
        Ok(text) => text,
        // Without the file the plugin takes all cores.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            findings.refuse(
                Check::NumaNode,
                Subject::File(file),
                format!("it cannot be read ({error}), and the plugin may crash on it"),
                format!("make it readable, or leave {} out of {SOCKET_IFNAME}", nic.name),
            );
            return;
        }
    };
    if node != "0" && node != "1" {
        findings.refuse(
            Check::NumaNode,
            Subject::File(file),
            format!(
                "it says {node:?}; the plugin takes anything but 0 for node 1, and crashes where there \
                 is none"
            ),
            format!(
                "this plugin needs NICs on NUMA node 0 or 1 (a virtual machine must show its nodes), or \
                 leave {} out of {SOCKET_IFNAME}",
                nic.name
            ),
        );
        return;
    }
    check_cpu_list(&node, root, findings);
}

fn check_cpu_list(node: &str, root: &Path, findings: &mut Findings) {
    let file = PathBuf::from(format!("/sys/devices/system/node/node{node}/cpulist"));
    let known = |findings: &Findings| {
        let is_file = |subject: &Subject| *subject == Subject::File(file.clone());
        findings.refusals.iter().any(|refusal| is_file(&refusal.subject))
            || findings.notes.iter().any(|note| is_file(&note.subject))
    };
    if known(findings) {
        return;
    }
    let mend =
        "this plugin needs a NUMA node whose list of cores is made of at most 8 ranges such as 0-51,104-155";
    let cores = match read(root, &file) {
        Ok(text) => text,
        Err(error) => {
            let consequence = format!("it cannot be read ({error}), and the plugin crashes when it starts");
            findings.refuse(Check::CpuList, Subject::File(file), consequence, mend);
            return;
        }
    };
    // The plugin stops at the first entry that is no range.
    let entries: Vec<_> = cores.split(',').collect();
    let ranges = entries.iter().take_while(|entry| CpuRange::parse(entry).is_some()).count();
    if ranges == 0 {
        let consequence = format!(
            "it says {cores:?}, in which the plugin finds no range of cores, and divides by zero in its \
             workers"
        );
        findings.refuse(Check::CpuList, Subject::File(file), consequence, mend);
    } else if ranges > MAX_RANGES {
        let consequence =
            format!("it holds {ranges} ranges of cores, and the plugin overwrites its memory beyond 8");
        findings.refuse(Check::CpuList, Subject::File(file), consequence, mend);
    } else if ranges < entries.len() {
        let text = format!(
            "of {cores:?} the plugin reads the first {ranges} entries only; its workers use fewer cores"
        );
        findings.note(Subject::File(file), text);
    }
}

fn check_bindings(
    variable: &'static str,
    bindings: Option<&Bindings>,
    nics: &[&Nic],
    findings: &mut Findings,
) {
    for binding in bindings.map_or(&[][..], Bindings::entries) {
        let name = &binding.interface;
        if !nics.iter().any(|nic| nic.name == *name) {
            findings
                .note(Subject::Variable(variable), format!("{name} is no data NIC; its cores are ignored"));
        } else if binding.ranges.is_empty() {
            findings.refuse(
                Check::BindingEmpty,
                Subject::Variable(variable),
                format!("it gives {name} no range of cores, and the plugin divides by zero in its workers"),
                format!("give {name} a range such as 8-21, or leave it out"),
            );
        } else if binding.ranges.len() > MAX_RANGES {
            findings.refuse(
                Check::BindingTooLong,
                Subject::Variable(variable),
                format!(
                    "it gives {name} {} ranges of cores, and the plugin overwrites its memory beyond 8",
                    binding.ranges.len()
                ),
                format!("give {name} at most 8 ranges"),
            );
        }
    }
}

fn read(root: &Path, file: &Path) -> io::Result<String> {
    fs::read_to_string(super::file::below(root, file)).map(|text| text.trim().to_owned())
}

fn names(tree: &Tree) -> String {
    list(&tree.interfaces().iter().collect::<Vec<_>>())
}

fn list(nics: &[&Nic]) -> String {
    let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
    if names.is_empty() { "it has none".to_owned() } else { names.join(", ") }
}
