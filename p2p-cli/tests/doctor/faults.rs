//! One thing broken at a time on an A3-high machine, and the line that says so.

use std::fs;

use crate::materialise::Root;
use crate::support::{LIMITS, PLUGIN, library, limits, listeners, pipe, status};

/// How a machine, or what its user has set, is broken.
pub(crate) enum Break {
    /// These variables are set.
    Set(&'static [(&'static str, &'static str)]),
    /// This file says that.
    Says(&'static str, &'static str),
    /// This file or folder is gone.
    Lacks(&'static str),
    /// This is done to it.
    Does(fn(&Root)),
}

use Break::{Does, Lacks, Says, Set};

impl Break {
    /// Breaks the machine and returns the variables that are set.
    pub(crate) fn apply(&self, root: &Root) -> &'static [(&'static str, &'static str)] {
        match self {
            Set(variables) => return variables,
            Says(path, text) => root.write(path, &format!("{text}\n")),
            Lacks(path) if root.at(path).is_dir() => fs::remove_dir_all(root.at(path)).unwrap(),
            Lacks(path) => fs::remove_file(root.at(path)).unwrap(),
            Does(break_it) => break_it(root),
        }
        &[]
    }
}

/// A fault, how it comes about, the line that it turns, into what, and words of that line.
pub(crate) type Fault = (&'static str, Break, &'static str, &'static str, &'static [&'static str]);

const WMEM: &str = "proc/sys/net/ipv4/tcp_wmem";
const RMEM: &str = "proc/sys/net/ipv4/tcp_rmem";
const CONGESTION: &str = "proc/sys/net/ipv4/tcp_congestion_control";
const RANGE: &str = "proc/sys/net/ipv4/ip_local_port_range";
const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";
/// A path that is too long for sockets below it.
const LONG: &str = "/run/a-folder-whose-name-goes-on-and-on/until-the-path-of-a-socket-in-it-is/longer-than-addresses-may-be";

#[rustfmt::skip]
pub(crate) const FAULTS: &[Fault] = &[
    // The plugin.
    ("no plugin", Lacks(PLUGIN), "plugin file", "FAIL", &["cannot be found", "install the plugin"]),
    ("a text for a plugin", Says(PLUGIN, "text"), "plugin file", "FAIL",
        &["no shared library", "UCCL_TCPX_PLUGIN_PATH"]),
    ("a library that is cut off", Does(cut_off), "plugin file", "FAIL", &["cut off"]),
    ("a library for another processor", Does(of_another_processor), "plugin file", "FAIL", &["another processor"]),
    ("a library without tables", Does(|root| replace(root, "int nothing = 1;")), "plugin file", "FAIL",
        &["no table of one", "ncclNetPlugin_v7"]),
    ("a plugin that is too old", Does(|root| replace(root, "void *const ncclNetPlugin_v5[2] = {0};")),
        "plugin file", "FAIL", &["only ncclNetPlugin_v5"]),
    ("a library that only wants a table", Does(|root| replace(root, WANTS)), "plugin file", "FAIL",
        &["no table of one"]),
    ("a folder mounted noexec", Says("proc/mounts", "a / overlay rw 0 0\nb /usr/local/tcpx ext4 rw,noexec 0 0"),
        "plugin file", "FAIL", &["noexec", "copy it"]),
    ("chunks of zero bytes", Set(&[("NCCL_DYNAMIC_CHUNK_SIZE", "0")]), "plugin settings", "FAIL",
        &["NCCL_DYNAMIC_CHUNK_SIZE", "no transfer ever finishes"]),
    ("a scheduler that is odd", Set(&[("NCCL_GPUDIRECTTCPX_SCHED_ALG", "KATY")]), "plugin settings", "WARN",
        &["KATY", "NCCL_GPUDIRECTTCPX_SCHED_ALG"]),
    ("a requirement that is not met", Set(&[("UCCL_P2P_REQUIRE", "tcp")]), "transport", "FAIL",
        &["UCCL_P2P_REQUIRE=tcp forbids it"]),
    // The daemon, the driver, the GPUs.
    ("no daemon", Lacks("run/tcpx"), "rxdm", "FAIL", &["/run/tcpx does not exist", "start rxdm"]),
    ("a daemon that lacks a GPU", Lacks("run/tcpx/get_gpu_fd_0000:8b:00.0"), "rxdm", "FAIL",
        &["get_gpu_fd_0000:8b:00.0"]),
    ("a plain file for a socket", Does(plain_socket), "rxdm", "FAIL", &["rx_rule_manager"]),
    ("a long path for sockets", Set(&[("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", LONG)]), "rxdm", "FAIL",
        &["a socket address holds 107"]),
    ("no kernel module", Lacks("proc/driver/nvidia/version"), "NVIDIA driver", "FAIL",
        &["no kernel module", "--gpus all"]),
    ("no driver library", Lacks("usr/lib/x86_64-linux-gnu/libcuda.so.1"), "NVIDIA driver", "FAIL",
        &["libcuda.so.1 is not found", "LD_LIBRARY_PATH"]),
    ("no GPU on the bus", Lacks("sys/bus/pci/devices"), "GPU/NIC map", "FAIL",
        &["holds no NVIDIA GPU", "UCCL_P2P_TRANSPORT=tcp"]),
    ("a map to a foreign root", Set(&[("UCCL_TCPX_GPU_NIC_MAP", "0:eth4")]), "GPU/NIC map", "FAIL",
        &["GPU 0", "eth4", "UCCL_TCPX_GPU_NIC_MAP"]),
    ("a GPU that is not there", Set(&[("UCCL_TCPX_GPU_NIC_MAP", "8:eth4")]), "GPU/NIC map", "FAIL",
        &["GPU 8 does not exist"]),
    ("a NIC that is not there", Set(&[("UCCL_TCPX_DEV", "eth9")]), "GPU/NIC map", "FAIL",
        &["UCCL_TCPX_DEV names NIC eth9"]),
    // NICs and cores.
    ("a NIC that is down", Says("sys/class/net/eth2/operstate", "down"), "NIC eth2", "FAIL",
        &["down", "ip link set eth2 up"]),
    ("a NIC with a small MTU", Says("sys/class/net/eth3/mtu", "1460"), "NIC eth3", "WARN",
        &["MTU 1460", "ip link set eth3 mtu 8244"]),
    ("a NIC without an MTU", Lacks("sys/class/net/eth3/mtu"), "NIC eth3", "WARN", &["mtu cannot be read"]),
    ("a NIC on no node", Says("sys/class/net/eth1/device/numa_node", "-1"), "NIC eth1", "FAIL",
        &["takes anything but 0 for node 1"]),
    ("a control NIC that is not there", Set(&[("NCCL_GPUDIRECTTCPX_CTRL_DEV", "ens9")]), "NICs", "FAIL",
        &["NCCL_GPUDIRECTTCPX_CTRL_DEV", "name an existing interface"]),
    ("a node without cores", Says("sys/devices/system/node/node1/cpulist", ""), "NUMA nodes", "FAIL",
        &["divides by zero"]),
    ("one core", Does(|root| root.write("proc/self/status", &status("7"))), "cores", "WARN",
        &["1 allowed (7)", "less than two cores"]),
    ("half a core by a group above", Says("sys/fs/cgroup/kubepods/cpu.max", "50000 100000"), "cores", "WARN",
        &["the time of 0.5", "limits.cpu"]),
    ("half a core by an older control group", Does(older_group), "cores", "WARN", &["the time of 0.5"]),
    ("workers bound to cores of others", Set(&[("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:8-300")]), "cores", "WARN",
        &["core 208", "NCCL_GPUDIRECTTCPX_TX_BINDINGS"]),
    // The kernel's limits.
    ("buffers that are too small", Says(WMEM, "4096\t16384\t212992"), "socket buffers", "WARN",
        &["208 KiB", "sysctl -w net.ipv4.tcp_wmem=\"4096 16384 4194304\""]),
    ("buffers of no number", Says(RMEM, "many"), "socket buffers", "WARN", &["tcp_rmem says \"many\""]),
    ("a congestion control that is not there", Says(CONGESTION, "vegas"), "congestion control", "WARN",
        &["vegas", "modprobe tcp_vegas"]),
    ("a file that hangs who reads it", Does(|root| pipe(root, CONGESTION)), "congestion control", "FAIL",
        &["did not end within 5 s"]),
    ("little locked memory", Does(|root| root.write(LIMITS, &limits("65536", "1048576"))), "locked memory", "WARN",
        &["64 KiB", "ulimit -l unlimited"]),
    ("few open files", Does(|root| root.write(LIMITS, &limits("unlimited", "256"))), "open files", "WARN",
        &["256", "ulimit -n 65536"]),
    ("hardly any open files", Does(|root| root.write(LIMITS, &limits("unlimited", "64"))), "open files", "FAIL",
        &["too few for the sockets of one peer"]),
    ("an old kernel", Says("proc/sys/kernel/osrelease", "5.15.0-1030-gcp"), "kernel", "WARN", &["6.6 and later"]),
    ("a slow clock", Says(CLOCK, "acpi_pm"), "clock", "WARN", &["echo tsc >"]),
    // Ports.
    ("a program on the bootstrap port", Does(|root| root.write("proc/net/tcp", &listeners(&[20000]))),
        "bootstrap port", "FAIL", &["20000", "ss -ltnp", "UCCL_TCPX_BOOTSTRAP_PORT_BASE"]),
    ("a program on that port over IPv6", Does(|root| root.write("proc/net/tcp6", &listeners(&[20000]))),
        "bootstrap port", "FAIL", &["20000"]),
    ("programs on all control ports", Does(control_ports), "control ports", "FAIL",
        &["all are taken", "UCCL_TCPX_OOB_PORT"]),
    ("fixed ports that the kernel gives away", Says(RANGE, "10000\t60999"), "ephemeral ports", "WARN",
        &["UCCL_TCPX_BOOTSTRAP_PORT_BASE", "UCCL_TCPX_OOB_PORT", "ip_local_reserved_ports"]),
    ("few ports to give away", Says(RANGE, "60000\t60099"), "ephemeral ports", "WARN", &["only 100 ports"]),
    // Variables.
    ("a misspelt variable", Set(&[("UCCL_TCPX_NUM_CHANELS", "2")]), "variables", "WARN",
        &["did you mean UCCL_TCPX_NUM_CHANNELS?"]),
    ("a bad value", Set(&[("UCCL_TCPX_MAX_SEND_INFLIGHT", "99")]), "variables", "FAIL",
        &["UCCL_TCPX_MAX_SEND_INFLIGHT=99", "1 to 16"]),
    ("two names of one setting", Set(&[("UCCL_TCPX_OOB_PORT", "1"), ("UCCL_TCPX_CTRL_PORT", "2")]), "variables",
        "FAIL", &["UCCL_TCPX_OOB_PORT and UCCL_TCPX_CTRL_PORT", "differ"]),
    ("a contradiction", Set(&[("UCCL_TCPX_OOB_PORT", "28900"), ("UCCL_TCPX_PORT_RETRIES", "40000")]), "variables",
        "FAIL", &["UCCL_TCPX_PORT_RETRIES=40000"]),
    ("a variable of nobody's", Set(&[("TCPX_SOFT_LANE", "2")]), "variables", "WARN", &["TCPX_SOFT_LANE "]),
    ("a bad value for another plugin", Set(&[("TCPX_SOFT_LANES", "0")]), "variables", "WARN",
        &["from 1 to 64", "not read here"]),
];

/// A library that looks for a plugin, as NCCL does, and is none.
const WANTS: &str = "extern int ncclNetPlugin_v7; int *where(void) { return &ncclNetPlugin_v7; }";

fn replace(root: &Root, source: &str) {
    fs::copy(library(source), root.at(PLUGIN)).unwrap();
}

fn cut_off(root: &Root) {
    let whole = fs::read(root.at(PLUGIN)).unwrap();
    fs::write(root.at(PLUGIN), &whole[..whole.len() / 2]).unwrap();
}

fn of_another_processor(root: &Root) {
    let mut bytes = fs::read(root.at(PLUGIN)).unwrap();
    bytes[18] = 183;
    fs::write(root.at(PLUGIN), bytes).unwrap();
}

fn plain_socket(root: &Root) {
    fs::remove_file(root.at("run/tcpx/rx_rule_manager")).unwrap();
    root.write("run/tcpx/rx_rule_manager", "");
}

fn older_group(root: &Root) {
    root.write("proc/self/cgroup", "4:memory:/\n3:cpu,cpuacct:/pod\n");
    root.write("sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_quota_us", "50000\n");
    root.write("sys/fs/cgroup/cpu,cpuacct/pod/cpu.cfs_period_us", "100000\n");
}

fn control_ports(root: &Root) {
    root.write("proc/net/tcp", &listeners(&(28900..=28916).collect::<Vec<_>>()));
}
