//! Network interfaces: which are used, and how each is.

use std::collections::BTreeSet;

use tcpx_core::preflight::{self, Check, Nature, Subject};
use tcpx_core::topology::{Nic, NicRole, PciPath, Tree};

use super::gpu::{faults, is_about};
use super::line::{Fault, Line, judged};
use super::machine::Machine;
use super::show;

const ALL: &str = "NICs";
const NUMA: &str = "NUMA nodes";
/// MTU of A3-high's data networks: two pages and the headers.
const DATA_MTU: u64 = 8244;
/// Starts of the names of interfaces that nobody means.
const BRIDGES: [&str; 3] = ["docker", "br-", "veth"];

/// The NICs that carry data: all that the plugin will take, or, for plain TCP, the interfaces that are up.
pub(super) fn used<'a>(machine: &Machine, tree: &'a Tree) -> Vec<&'a Nic> {
    let config = &machine.config;
    if machine.nature_of_plugin() != Nature::Soft || config.socket_ifname.is_from_user() {
        let control = config.control_device.value.as_ref().and_then(|filter| tree.control_nic(filter));
        let mut nics = preflight::data_nics(config, tree);
        nics.retain(|nic| control.is_none_or(|control| control.name != nic.name));
        // Of what nobody named, an interface that is down is missed only where it could reach GPUs.
        let is_missed = |nic: &Nic| machine.uses_tcpx() && nic.address().is_some();
        nics.retain(|nic| config.socket_ifname.is_from_user() || !nic.is_down || is_missed(nic));
        return nics;
    }
    let up = |nic: &&Nic| nic.role != NicRole::Member && !nic.is_down;
    let all: Vec<_> = tree.interfaces().iter().filter(up).collect();
    let class = |nic: &Nic| match nic.name.as_str() {
        "lo" => 2,
        name if BRIDGES.iter().any(|bridge| name.starts_with(bridge)) => 1,
        _ => 0,
    };
    let best = all.iter().map(|nic| class(nic)).min();
    all.into_iter().filter(|nic| Some(class(nic)) == best).collect()
}

/// Which interfaces are used, and a line for each.
pub(super) fn check(machine: &Machine) -> Vec<Line> {
    let tree = match machine.tree() {
        Ok(tree) => tree,
        Err(error) => {
            return vec![Line::fail(ALL, error.to_string(), "make the folder readable to this process")];
        }
    };
    let nics = used(machine, &tree);
    let findings = machine.findings();
    let mut wrong = faults(
        &findings,
        &[Check::ControlDeviceMissing, Check::DataNicMissing, Check::NoPciNic, Check::PciDomain],
    );
    if nics.is_empty() && wrong.is_empty() {
        let mend = "name interfaces that exist in NCCL_GPUDIRECTTCPX_SOCKET_IFNAME, or unset it";
        wrong.push(Fault::fail("there is no interface to use", mend));
    } else if nics.iter().all(|nic| nic.name == "lo") && wrong.is_empty() {
        let mend = "give this machine, or its container, a network; within one machine this is enough";
        wrong
            .push(Fault::warn("only the loopback interface is there, so no other host can be reached", mend));
    }
    let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
    let mut found = if names.is_empty() { String::new() } else { format!("{} for data", names.join(", ")) };
    let control = machine.config.control_device.value.as_ref().and_then(|filter| tree.control_nic(filter));
    if let Some(control) = control {
        found.push_str(&format!(", {} for control", control.name));
    }
    let mut lines = vec![judged(ALL, &found, wrong)];
    lines.extend(nics.iter().map(|nic| one(machine, nic, &nics)));
    lines
}

fn one(machine: &Machine, nic: &Nic, all: &[&Nic]) -> Line {
    let name = &nic.name;
    let file = |entry: &str| format!("/sys/class/net/{name}/{entry}");
    let mtu = machine.number(&file("mtu"));
    let mut found = vec![if nic.is_down { "down" } else { "up" }.to_owned()];
    found.push(nic.speed_mbps.map_or_else(|| "speed not known".to_owned(), show::speed));
    found.extend(mtu.as_ref().ok().map(|mtu| format!("MTU {mtu}")));
    let node = nic.paths.first().and_then(PciPath::numa);
    found.push(node.map_or_else(|| "no NUMA node".to_owned(), |node| format!("NUMA node {node}")));
    found.push(nic.address().map_or_else(|| "virtual".to_owned(), |address| format!("PCI {address}")));
    let mut faults = Vec::new();
    if nic.is_down {
        let mend = format!("ip link set {name} up, or leave {name} out of NCCL_GPUDIRECTTCPX_SOCKET_IFNAME");
        faults.push(Fault::fail("it carries nothing while it is down", mend));
    }
    if let Err(why) = &mtu {
        faults.push(Fault::warn(why, "see whether /sys is mounted whole"));
    }
    if machine.uses_tcpx() {
        faults.extend(of_tcpx(machine, nic, all, mtu.ok()));
    }
    judged(format!("NIC {name}"), &found.join(", "), faults)
}

/// What matters where the NIC puts bytes into GPU memory.
fn of_tcpx(machine: &Machine, nic: &Nic, all: &[&Nic], mtu: Option<u64>) -> Vec<Fault> {
    let name = &nic.name;
    let file = format!("/sys/class/net/{name}/device/numa_node");
    let findings = machine.findings();
    let refused = findings.refusals.iter().filter(|refusal| is_about(&refusal.subject, &file));
    let mut faults: Vec<_> =
        refused.map(|refusal| Fault::fail(refusal.consequence.clone(), refusal.mend.clone())).collect();
    if let Some(mtu) = mtu.filter(|&mtu| mtu < DATA_MTU) {
        let mend = format!("make the network with MTU {DATA_MTU}, then: ip link set {name} mtu {DATA_MTU}");
        faults.push(Fault::warn(
            format!("{mtu} bytes are less than two pages and headers, which costs speed"),
            mend,
        ));
    }
    let fastest = all.iter().filter_map(|other| other.speed_mbps).max();
    if let (Some(own), Some(fastest)) = (nic.speed_mbps, fastest)
        && own < fastest
    {
        let found = format!("others have {}", show::speed(fastest));
        let mend = format!("see why its link is slower (ethtool {name}), or leave it out");
        faults.push(Fault::warn(found, mend));
    }
    faults
}

/// The cores of the NUMA nodes on which NICs lie.
pub(super) fn numa(machine: &Machine) -> Vec<Line> {
    let nodes: BTreeSet<u32> = match machine.tree() {
        Ok(tree) => {
            let nodes =
                used(machine, &tree).into_iter().flat_map(|nic| nic.paths.iter().filter_map(PciPath::numa));
            nodes.collect()
        }
        Err(_) => BTreeSet::new(),
    };
    if nodes.is_empty() {
        return vec![Line::ok(NUMA, "no NIC says on which it lies, which is normal for a small machine")];
    }
    let findings = machine.findings();
    let is_cores = |subject: &Subject| nodes.iter().any(|node| is_about(subject, &cores_of(*node)));
    let refused = findings.refusals.iter().filter(|refusal| is_cores(&refusal.subject));
    let mut faults: Vec<_> = refused
        .map(|refusal| {
            Fault::fail(format!("{}: {}", refusal.subject, refusal.consequence), refusal.mend.clone())
        })
        .collect();
    let notes = findings.notes.iter().filter(|note| is_cores(&note.subject));
    faults
        .extend(notes.map(|note| Fault::warn(note.to_string(), "give the node's cores one after the other")));
    let cores = nodes.iter().map(|node| {
        let cores = machine.text(&cores_of(*node)).unwrap_or_else(|_| "not known".to_owned());
        format!("node {node} has cores {cores}")
    });
    vec![judged(NUMA, &cores.collect::<Vec<_>>().join("; "), faults)]
}

fn cores_of(node: u32) -> String {
    format!("/sys/devices/system/node/node{node}/cpulist")
}
