//! Machines as folders, plugins as small C libraries, and the program started over both.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde::Deserialize;

use crate::materialise::Root;

/// How long a run may take on a busy machine; by itself it ends within 15 s.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const PLUGIN: &str = "/usr/local/tcpx/lib64/libnccl-net-tcpx.so";
pub(crate) const LIMITS: &str = "proc/self/limits";
/// Settings with which an A3-high machine works.
pub(crate) const A3_HIGH: &[(&str, &str)] = &[
    ("UCCL_P2P_TRANSPORT", "tcpx"),
    ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth1,eth2,eth3,eth4"),
    ("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0"),
    ("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", "/run/tcpx"),
    ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:8-21,112-125;eth2:8-21,112-125"),
    ("NCCL_GPUDIRECTTCPX_RX_BINDINGS", "eth1:22-35,126-139;eth2:22-35,126-139"),
];

/// One line of the report.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) status: String,
    pub(crate) subject: String,
    pub(crate) found: String,
    pub(crate) mend: Option<String>,
}

/// The report, with the exit code.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    #[serde(skip)]
    pub(crate) code: i32,
    pub(crate) lines: Vec<Row>,
}

/// Lines by subject.
pub(crate) fn said(report: &Report) -> BTreeMap<String, Row> {
    report.lines.iter().map(|row| (row.subject.clone(), row.clone())).collect()
}

/// An A3-high machine on which everything is in place.
pub(crate) fn a3_high() -> Root {
    let root = Root::of(include_str!("../../../tcpx-core/tests/fixtures/a3-high.tree"));
    add_kernel(&root);
    for nic in 0..5 {
        root.write(&format!("sys/class/net/eth{nic}/mtu"), if nic == 0 { "1460\n" } else { "8244\n" });
    }
    let version =
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.154.05  Thu Dec 28 15:37:48 UTC 2023\n";
    root.write("proc/driver/nvidia/version", version);
    root.write("usr/lib/x86_64-linux-gnu/libcuda.so.1", "a library");
    let plugin = library(&table("return 0;"));
    fs::copy(plugin, root.with_parents(PLUGIN)).unwrap();
    let buses = ["04", "05", "0a", "0b", "84", "85", "8a", "8b"];
    let per_gpu = buses
        .iter()
        .flat_map(|bus| ["fd", "metadata"].map(|kind| format!("run/tcpx/get_gpu_{kind}_0000:{bus}:00.0")));
    let rules = ["rx_rule_manager", "rx_rule_uninstall"].map(|name| format!("run/tcpx/{name}"));
    for socket in rules.into_iter().chain(per_gpu) {
        UnixListener::bind(root.with_parents(&socket)).unwrap();
    }
    root
}

/// What every machine's kernel shows.
pub(crate) fn add_kernel(root: &Root) {
    let ipv4 = "proc/sys/net/ipv4";
    for (path, text) in [
        ("proc/mounts".to_owned(), "overlay / overlay rw,relatime 0 0\n".to_owned()),
        ("proc/self/status".to_owned(), status("0-207")),
        (LIMITS.to_owned(), limits("unlimited", "1048576")),
        ("proc/self/cgroup".to_owned(), "0::/kubepods/pod1\n".to_owned()),
        ("sys/fs/cgroup/kubepods/cpu.max".to_owned(), "max 100000\n".to_owned()),
        ("sys/fs/cgroup/kubepods/pod1/cpu.max".to_owned(), "2000000 100000\n".to_owned()),
        ("proc/net/tcp".to_owned(), listeners(&[22])),
        ("proc/net/tcp6".to_owned(), listeners(&[22])),
        ("proc/sys/net/core/rmem_max".to_owned(), "212992\n".to_owned()),
        ("proc/sys/net/core/wmem_max".to_owned(), "212992\n".to_owned()),
        (format!("{ipv4}/tcp_rmem"), "4096\t131072\t6291456\n".to_owned()),
        (format!("{ipv4}/tcp_wmem"), "4096\t16384\t4194304\n".to_owned()),
        (format!("{ipv4}/tcp_congestion_control"), "cubic\n".to_owned()),
        (format!("{ipv4}/tcp_available_congestion_control"), "reno cubic bbr\n".to_owned()),
        (format!("{ipv4}/tcp_allowed_congestion_control"), "reno cubic\n".to_owned()),
        (format!("{ipv4}/ip_local_port_range"), "32768\t60999\n".to_owned()),
        (format!("{ipv4}/ip_local_reserved_ports"), "\n".to_owned()),
        ("proc/sys/kernel/osrelease".to_owned(), "6.6.72+\n".to_owned()),
    ] {
        root.write(&path, &text);
    }
    let clock = "sys/devices/system/clocksource/clocksource0";
    root.write(&format!("{clock}/current_clocksource"), "kvm-clock\n");
    root.write(&format!("{clock}/available_clocksource"), "kvm-clock tsc acpi_pm\n");
}

/// `/proc/self/status` of a process that ignores SIGPIPE and may use these cores.
pub(crate) fn status(cores: &str) -> String {
    format!("SigIgn:\t0000000000001000\nSigCgt:\t0000000000000440\nCpus_allowed_list:\t{cores}\n")
}

/// `/proc/self/limits`.
pub(crate) fn limits(locked: &str, files: &str) -> String {
    let line = |name: &str, value: &str| format!("{name:<25} {value:<20} {value:<20} units\n");
    line("Max locked memory", locked) + &line("Max open files", files)
}

/// `/proc/net/tcp` with programs that listen on these ports, and one connection on the bootstrap port.
pub(crate) fn listeners(ports: &[u16]) -> String {
    let mut text = "  sl  local_address rem_address   st tx_queue rx_queue\n".to_owned();
    for port in ports {
        text.push_str(&format!("   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:0\n"));
    }
    text + "   9: 0100007F:4E20 0100007F:8000 01 00000000:00000000 00:0\n"
}

/// A pipe that nobody writes, in the place of a file: who opens it waits for ever.
pub(crate) fn pipe(root: &Root, path: &str) {
    fs::remove_file(root.at(path)).unwrap();
    assert!(Command::new("mkfifo").arg(root.at(path)).status().unwrap().success());
}

/// The C source of a plugin's table of version 7 whose `init` does this.
pub(crate) fn table(init: &str) -> String {
    format!(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
         static int init(void *log) {{ (void)log; {init} }}\n\
         static int devices(int *count) {{ *count = 0; return 0; }}\n\
         static int other(void) {{ return 3; }}\n\
         void *const ncclNetPlugin_v7[20] = {{ \"Test\", init, devices, other, other, other, other, other, other,\n\
         other, other, other, other, other, other, other, other, other, other, other }};\n"
    )
}

/// A shared library of this source, built once.
pub(crate) fn library(source: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    let name = format!("doctor-{:016x}", hasher.finish());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (code, made) = (folder.join(format!("{name}.c")), folder.join(format!("lib{name}.so")));
    if !made.exists() {
        fs::write(&code, source).unwrap();
        let part = folder.join(format!("{name}.part"));
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let output =
            Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&part).arg(&code).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::rename(part, &made).unwrap();
    }
    made
}

/// Looks at a machine in a folder with these variables and some changed.
pub(crate) fn examine(root: &Root, variables: &[(&str, &str)], changes: &[(&str, &str)]) -> Report {
    let mut command = doctor(&["--root", root.path().to_str().unwrap(), "--json", "-"]);
    report(command.envs(variables.iter().chain(changes).copied()))
}

/// Looks at this machine with these variables.
pub(crate) fn live(variables: &[(&str, &str)]) -> Report {
    report(doctor(&["--json", "-"]).envs(variables.iter().copied()))
}

/// Looks at this machine from a folder.
pub(crate) fn live_in(folder: &Path, variables: &[(&str, &str)]) -> Report {
    report(doctor(&["--json", "-"]).envs(variables.iter().copied()).current_dir(folder))
}

/// Looks at a machine in a folder, for what a user sees.
pub(crate) fn text(root: &Root, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let arguments = match arguments {
        ["--root", ..] => arguments.to_vec(),
        _ => [&["--root", root.path().to_str().unwrap()], arguments].concat(),
    };
    finish(doctor(&arguments).envs(variables.iter().copied()))
}

/// Without the variables of whoever runs the tests.
fn doctor(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p"));
    for (name, _) in std::env::vars() {
        if ["UCCL_", "NCCL_", "TCPX_"].iter().any(|family| name.starts_with(family)) {
            command.env_remove(name);
        }
    }
    command.env_remove("LD_LIBRARY_PATH").arg("doctor").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn report(command: &mut Command) -> Report {
    let output = finish(command);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Result<Report, _> = serde_json::from_str(&text);
    let mut report = report.unwrap_or_else(|error| panic!("{error}: {text}{errors}"));
    assert!(errors.is_empty(), "{errors}");
    report.code = output.status.code().unwrap();
    report
}

/// Waits, and ends what does not end by itself.
fn finish(command: &mut Command) -> Output {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("did not end: {:?}", child.wait_with_output().unwrap());
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}
