//! Machines that are recognised by their tree.

use super::Tree;
use crate::config::GpuIndex;

/// Data NICs of an A3-high machine. NIC n serves the GPUs 2n and 2n + 1.
const A3_HIGH_NICS: [&str; 4] = ["eth1", "eth2", "eth3", "eth4"];
/// GPUs of an A3-high machine.
const A3_HIGH_GPUS: usize = 8;

/// The fixed NIC of a GPU on an A3-high machine; `None` on any other.
pub(super) fn a3_high_nic(tree: &Tree, gpu: GpuIndex) -> Option<&'static str> {
    if !is_a3_high(tree) {
        return None;
    }
    A3_HIGH_NICS.get(usize::from(gpu.get()) / 2).copied()
}

/// Whether `tree` is an A3-high machine: eight GPUs, two under each of four PCIe roots, and `eth1` to
/// `eth4` under these roots in this order.
fn is_a3_high(tree: &Tree) -> bool {
    let gpus = tree.gpus();
    let roots: std::collections::BTreeSet<_> = gpus.iter().map(|gpu| gpu.path.root()).collect();
    if gpus.len() != A3_HIGH_GPUS || roots.len() != A3_HIGH_NICS.len() {
        return false;
    }
    gpus.chunks(2).zip(A3_HIGH_NICS).all(|(pair, name)| {
        let nic = tree.interface(name);
        nic.is_some_and(|nic| pair.iter().all(|gpu| nic.shares_root(&gpu.path)))
    })
}
