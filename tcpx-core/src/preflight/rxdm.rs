//! Checks on the driver, the GPUs and the sockets of rxdm, the daemon that owns the receive buffers.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::file::below;
use super::{Check, Findings, Subject};
use crate::config::Config;
use crate::topology::Tree;

const UNIX_CLIENT_PREFIX: &str = "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX";
/// Where rxdm listens on A3-high machines.
const A3_PREFIX: &str = "/run/tcpx";
/// Sockets through which flow rules are set and removed.
const RULES: [&str; 2] = ["rx_rule_manager", "rx_rule_uninstall"];
/// Socket on which processes report that they live.
const REGISTRY: &str = "rxdm_application_registry";
/// Start of a GPU's sockets; its PCI address follows. The second is the longest name of all.
const GPU_SOCKETS: [&str; 2] = ["get_gpu_fd_", "get_gpu_metadata_"];
/// Bytes of a PCI address such as `0000:04:00.0`.
const ADDRESS_BYTES: usize = 12;
/// Bytes of the path in a Unix socket's address, without the zero at its end.
const SOCKET_PATH_BYTES: usize = 107;

pub(super) fn check(config: &Config, tree: &Tree, root: &Path, findings: &mut Findings) {
    check_gpus(tree, root, findings);
    let prefix = prefix(config, root, findings);
    let longest = prefix.as_os_str().as_bytes().len() + 1 + GPU_SOCKETS[1].len() + ADDRESS_BYTES;
    if longest > SOCKET_PATH_BYTES {
        findings.refuse(
            Check::PrefixTooLong,
            Subject::Variable(UNIX_CLIENT_PREFIX),
            format!(
                "{} makes socket paths of {longest} bytes, and a socket address holds {SOCKET_PATH_BYTES}: \
                 rxdm is never reached",
                prefix.display()
            ),
            format!(
                "let rxdm listen in a folder with a path of {} bytes at most",
                SOCKET_PATH_BYTES - (longest - prefix.as_os_str().len())
            ),
        );
    } else if !below(root, &prefix).is_dir() {
        findings.refuse(
            Check::PrefixMissing,
            Subject::Variable(UNIX_CLIENT_PREFIX),
            format!("folder {} does not exist: without rxdm every accept fails", prefix.display()),
            "start rxdm (the receive datapath manager) and mount the folder of its sockets into this \
             container",
        );
    } else {
        check_sockets(config, tree, &prefix, root, findings);
    }
}

fn check_gpus(tree: &Tree, root: &Path, findings: &mut Findings) {
    let driver = Path::new("/proc/driver/nvidia/version");
    if !below(root, driver).exists() {
        findings.refuse(
            Check::NoDriver,
            Subject::File(driver.to_path_buf()),
            "it does not exist: without the NVIDIA driver this plugin ends the process",
            "run on a GPU machine with the driver mounted into the container, or choose the soft plugin with \
             UCCL_P2P_TRANSPORT=tcp",
        );
    }
    if tree.gpus().is_empty() {
        findings.refuse(
            Check::NoGpu,
            Subject::File(PathBuf::from("/sys/bus/pci/devices")),
            "it holds no NVIDIA GPU, and this plugin does not start without one",
            "run on a GPU machine, or choose the soft plugin with UCCL_P2P_TRANSPORT=tcp",
        );
    }
}

/// The folder that the plugin is going to use.
fn prefix(config: &Config, root: &Path, findings: &mut Findings) -> PathBuf {
    let given = config.unix_client_prefix.value.as_path();
    let a3 = Path::new(A3_PREFIX);
    let has_rxdm = |folder: &Path| below(root, &folder.join(RULES[0])).exists();
    if config.unix_client_prefix.is_from_user() || has_rxdm(given) || !has_rxdm(a3) {
        return given.to_path_buf();
    }
    findings.assign(UNIX_CLIENT_PREFIX, A3_PREFIX, "rxdm listens there, and the plugin would look in /tmp");
    a3.to_path_buf()
}

fn check_sockets(config: &Config, tree: &Tree, prefix: &Path, root: &Path, findings: &mut Findings) {
    let mut wanted: Vec<String> = RULES.map(str::to_owned).to_vec();
    if config.report_lifecycle.value {
        wanted.push(REGISTRY.to_owned());
    }
    if config.import_gpu_pci_client.value {
        let addresses = tree.gpus().iter().map(|gpu| gpu.path.address());
        wanted.extend(addresses.flat_map(|address| GPU_SOCKETS.map(|name| format!("{name}{address}"))));
    }
    let is_socket = |name: &String| {
        fs::metadata(below(root, &prefix.join(name))).is_ok_and(|entry| entry.file_type().is_socket())
    };
    wanted.retain(|name| !is_socket(name));
    if !wanted.is_empty() {
        findings.refuse(
            Check::RxdmSockets,
            Subject::File(prefix.to_path_buf()),
            format!("sockets of rxdm are missing ({}): accepts fail, or the process ends", wanted.join(", ")),
            format!(
                "start rxdm, or point {UNIX_CLIENT_PREFIX} to the folder of its sockets (often {A3_PREFIX})"
            ),
        );
    }
}
