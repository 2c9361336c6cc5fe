use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::*;
use crate::config::{FixedEnvironment, VARIABLES};

#[path = "../../tests/fixtures/materialise.rs"]
mod materialise;

use materialise::Root;

const PLUGIN: &str = "/usr/local/tcpx/lib64/libnccl-net-tcpx.so";
const PREFIX: &str = "/run/tcpx";
/// Settings with which an A3-high machine works.
const GOOD: &[(&str, &str)] = &[
    ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth1,eth2,eth3,eth4"),
    ("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0"),
    ("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", PREFIX),
    ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:8-21,112-125;eth2:8-21,112-125"),
    ("NCCL_GPUDIRECTTCPX_RX_BINDINGS", "eth1:22-35,126-139;eth2:22-35,126-139"),
    ("NCCL_NSOCKS_PERTHREAD", "4"),
    ("NCCL_DYNAMIC_CHUNK_SIZE", "524288"),
    ("NCCL_P2P_NET_CHUNKSIZE", "524288"),
    ("NCCL_BUFFSIZE", "8388608"),
    ("NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS", "50000"),
];

/// An A3-high machine on which everything is in place.
fn good_root() -> Root {
    let root = Root::recorded("a3-high.tree");
    root.write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module\n");
    root.write(
        "proc/mounts",
        "overlay / overlay rw,relatime 0 0\n/dev/sda8 /var/lib/tcpx ext4 rw,nosuid,nodev,noexec,relatime 0 0\n",
    );
    root.write("proc/self/status", "SigIgn:\t0000000000001000\nSigCgt:\t0000000000000440\n");
    root.write(PLUGIN, "a plugin");
    let buses = ["04", "05", "0a", "0b", "84", "85", "8a", "8b"];
    let per_gpu = buses
        .iter()
        .flat_map(|bus| ["fd", "metadata"].map(|kind| format!("{PREFIX}/get_gpu_{kind}_0000:{bus}:00.0")));
    for name in RULES.map(|name| format!("{PREFIX}/{name}")).into_iter().chain(per_gpu) {
        socket(&root, &name);
    }
    root
}

const RULES: [&str; 2] = ["rx_rule_manager", "rx_rule_uninstall"];

/// A socket file; nobody listens on it any more.
fn socket(root: &Root, path: &str) {
    UnixListener::bind(root.with_parents(path)).unwrap();
}

fn config(changes: &[(&str, &str)]) -> Config {
    let environment: FixedEnvironment = GOOD.iter().chain(changes).copied().collect();
    Config::from_environment(&environment).unwrap()
}

fn findings(root: &Root, changes: &[(&str, &str)]) -> Findings {
    check(&config(changes), Nature::Tcpx, root.path())
}

/// Checks that the changes are refused for exactly one reason, and that it names its subject and a mend.
#[track_caller]
fn refused(root: &Root, changes: &[(&str, &str)], check: Check, subject: &str) {
    let found = findings(root, changes);
    let checks: Vec<_> = found.refusals.iter().map(|refusal| refusal.check).collect();
    assert_eq!(checks, [check], "{:#?}", found.refusals);
    let refusal = &found.refusals[0];
    assert_eq!(refusal.subject.to_string(), subject);
    assert!(!refusal.consequence.is_empty() && !refusal.mend.is_empty());
    let error = found.refused().unwrap_err();
    assert!(error.to_string().contains(subject), "{error}");
    assert!(error.to_string().contains(&refusal.mend), "{error}");
}

/// Checks that the changes are taken with a note about `subject`.
#[track_caller]
fn noted(root: &Root, changes: &[(&str, &str)], subject: &str) {
    let found = findings(root, changes);
    assert_eq!(found.refusals, []);
    let subjects: Vec<_> = found.notes.iter().map(|note| note.subject.to_string()).collect();
    assert_eq!(subjects, [subject], "{:#?}", found.notes);
}

#[test]
fn a_good_machine_has_no_findings() {
    let found = findings(&good_root(), &[]);
    assert_eq!(found, Findings::default());
    assert_eq!(found.refused(), Ok(()));
    assert_eq!(check_file(Path::new(PLUGIN), good_root().path()), Findings::default());
}

#[test]
fn variables_that_break_the_plugin_are_refused() {
    let root = good_root();
    let cases = [
        ("NCCL_DYNAMIC_CHUNK_SIZE", "0", Check::PluginChunkZero),
        ("NCCL_DYNAMIC_CHUNK_SIZE", "262144", Check::MessageAbovePluginChunk),
        ("NCCL_INLINE_THRESHOLD", "1", Check::InlineThreshold),
        ("NCCL_SOCKET_NTHREADS", "9", Check::SocketThreads),
        ("NCCL_GPUDIRECTTCPX_CONNECTION_RETRY", "0", Check::ConnectionRetryZero),
        ("NCCL_GPUDIRECTTCPX_FLOW_STEERING_STRATEGY", "0", Check::FlowSteering),
        ("NCCL_GPUDIRECTTCPX_FLOW_STEERING_STRATEGY", "2", Check::FlowSteering),
        ("NCCL_GPUDIRECTTCPX_SOCKET_ENABLE", "0", Check::SocketDisabled),
        ("NCCL_USE_DMA_BUF", "0", Check::DmaBufDisabled),
        ("NCCL_GPUDIRECTTCPX_CUDA_USE_PRIMARY_CTX", "0", Check::PrivateContext),
        ("NCCL_GPUDIRECTTCPX_SOCKET_FAMILY", "AF_INET6", Check::AddressFamily),
        ("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORT_STATS_TO_FILE", "1", Check::TelemetryPath),
        ("NCCL_BUFFSIZE", "8388607", Check::BufferTooSmall),
        ("NCCL_GPUDIRECTTCPX_CTRL_DEV", "ens9", Check::ControlDeviceMissing),
        ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "ens9", Check::DataNicMissing),
        ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "=eth", Check::DataNicMissing),
        ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "lo,docker0", Check::NoPciNic),
        ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:", Check::BindingEmpty),
        ("NCCL_GPUDIRECTTCPX_RX_BINDINGS", "eth1:1-2;eth2:", Check::BindingEmpty),
        ("NCCL_GPUDIRECTTCPX_RX_BINDINGS", "eth1:0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7,8-8", Check::BindingTooLong),
        ("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", "/run/elsewhere", Check::PrefixMissing),
    ];
    for (variable, value, check) in cases {
        refused(&root, &[(variable, value)], check, variable);
    }
}

#[test]
fn the_last_value_that_works_is_taken() {
    let root = good_root();
    let cases = [
        ("NCCL_DYNAMIC_CHUNK_SIZE", "2147483646"),
        ("NCCL_GPUDIRECTTCPX_CONNECTION_RETRY", "1"),
        ("NCCL_GPUDIRECTTCPX_SOCKET_FAMILY", "AF_INET"),
        ("NCCL_BUFFSIZE", "8388608"),
        ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:0-0,1-1,2-2,3-3,4-4,5-5,6-6,7-7"),
        ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth"),
    ];
    for change in cases {
        assert_eq!(findings(&root, &[change]), Findings::default(), "{change:?}");
    }
    let threads = [("NCCL_SOCKET_NTHREADS", "8"), ("NCCL_NSOCKS_PERTHREAD", "1")];
    assert_eq!(findings(&root, &threads), Findings::default());
}

#[test]
fn statistics_need_their_folder() {
    let root = good_root();
    let path = "NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_PATH";
    for value in ["var/stats", "/var/stats"] {
        let export = [("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORT_STATS_TO_FILE", "1"), (path, value)];
        refused(&root, &export, Check::TelemetryPath, path);
        fs::create_dir_all(root.at("var/stats")).unwrap();
        assert_eq!(findings(&root, &export), Findings::default());
        fs::remove_dir(root.at("var/stats")).unwrap();
        assert_eq!(findings(&root, &[(path, value)]), Findings::default(), "nothing is written");
    }
}

#[test]
fn a_process_that_ends_on_a_broken_pipe_is_refused() {
    let root = good_root();
    let status = |ignored: &str, caught: &str| {
        root.write("proc/self/status", &format!("Name:\tx\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n"));
    };
    status("0000000000000000", "0000000180000440");
    refused(&root, &[], Check::BrokenPipe, "/proc/self/status");
    status("0000000000000800", "0000000000002000");
    refused(&root, &[], Check::BrokenPipe, "/proc/self/status");
    status("0000000000000000", "0000000180001440");
    assert_eq!(findings(&root, &[]), Findings::default());
    fs::remove_file(root.at("proc/self/status")).unwrap();
    assert_eq!(findings(&root, &[]), Findings::default());
}

#[test]
fn messages_of_more_than_4_mib_are_refused() {
    let root = good_root();
    let big = |chunk| {
        [("UCCL_TCPX_CHUNK_BYTES", chunk), ("NCCL_DYNAMIC_CHUNK_SIZE", "67108864"), ("NCCL_BUFFSIZE", "")]
    };
    refused(&root, &big("4198400"), Check::MessageTooLarge, "UCCL_TCPX_CHUNK_BYTES");
    assert_eq!(findings(&root, &big("4M")).refusals, []);
}

#[test]
fn the_receive_window_counts_for_the_buffer() {
    let root = good_root();
    let change = [("NCCL_BUFFSIZE", "4194304"), ("UCCL_TCPX_MAX_RECV_INFLIGHT", "8")];
    assert_eq!(findings(&root, &change), Findings::default());
    let change = [("NCCL_BUFFSIZE", "4194304"), ("UCCL_TCPX_MAX_RECV_INFLIGHT", "9")];
    refused(&root, &change, Check::BufferTooSmall, "NCCL_BUFFSIZE");
}

#[test]
fn odd_values_are_noted_and_taken() {
    let root = good_root();
    let cases = [
        ("NCCL_SOCKET_NTHREADS", "3", "NCCL_NSOCKS_PERTHREAD"),
        ("NCCL_GPUDIRECTTCPX_RECV_SYNC", "1", "NCCL_GPUDIRECTTCPX_RECV_SYNC"),
        ("NCCL_P2P_NET_CHUNKSIZE", "131072", "NCCL_P2P_NET_CHUNKSIZE"),
        ("NCCL_GPUDIRECTTCPX_SCHED_ALG", "KATY", "NCCL_GPUDIRECTTCPX_SCHED_ALG"),
        ("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth", "NCCL_GPUDIRECTTCPX_CTRL_DEV"),
        ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth1,docker0", "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME"),
        ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:1-2;eth9:", "NCCL_GPUDIRECTTCPX_TX_BINDINGS"),
        (
            "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS",
            "0",
            "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS",
        ),
    ];
    for (variable, value, subject) in cases {
        let found = findings(&root, &[(variable, value)]);
        let bindings_of_others =
            |note: &&Note| subject.contains("BINDINGS") || !note.to_string().contains("cores");
        let subjects: Vec<_> =
            found.notes.iter().filter(bindings_of_others).map(|note| note.subject.to_string()).collect();
        assert_eq!((found.refusals.len(), subjects), (0, vec![subject.to_owned()]), "{variable}={value}");
    }
    let clipped = findings(&root, &[("NCCL_SOCKET_NTHREADS", "3")]).notes[0].to_string();
    assert!(clipped.contains("the plugin uses 6"), "{clipped}");
}

#[test]
fn safe_values_are_assigned_where_the_user_set_none() {
    let root = good_root();
    let unset = [
        ("NCCL_DYNAMIC_CHUNK_SIZE", ""),
        ("NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS", ""),
        ("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", ""),
    ];
    let found = findings(&root, &unset);
    assert_eq!((&found.refusals, &found.notes), (&Vec::new(), &Vec::new()));
    let assigned: Vec<_> = found.assignments.iter().map(|a| (a.variable, a.value.as_str())).collect();
    assert_eq!(
        assigned,
        [
            ("NCCL_DYNAMIC_CHUNK_SIZE", "524288"),
            ("NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS", "50000"),
            ("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", "/run/tcpx"),
        ]
    );
    let larger = findings(&root, &[unset[0], ("UCCL_TCPX_CHUNK_BYTES", "1M"), ("NCCL_BUFFSIZE", "")]);
    assert_eq!(larger.assignments[0].value, "1048576", "a message stays in one chunk");
}

#[test]
fn rxdm_in_the_default_folder_is_left_there() {
    let root = good_root();
    fs::rename(root.at(PREFIX), root.at("/tmp")).unwrap();
    let found = findings(&root, &[("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", "")]);
    assert_eq!(found, Findings::default());
}

#[test]
fn rxdm_in_both_folders_is_used_in_the_default_one() {
    let root = good_root();
    for name in fs::read_dir(root.at(PREFIX)).unwrap() {
        socket(&root, &format!("/tmp/{}", name.unwrap().file_name().to_str().unwrap()));
    }
    let found = findings(&root, &[("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", "")]);
    assert_eq!(found, Findings::default());
}

#[test]
fn left_to_itself_the_plugin_takes_neither_lo_nor_docker() {
    let found = findings(&good_root(), &[("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "")]);
    assert_eq!(found, Findings::default());
}

#[test]
fn members_of_a_bond_carry_no_address_and_are_not_judged() {
    let root = Root::recorded("two-nic-server.tree");
    let numa_refusals = |nic: &str| {
        root.write(&format!("sys/class/net/{nic}/device/numa_node"), "-1\n");
        let found = findings(&root, &[("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "en,bond")]).refusals;
        found.iter().filter(|refusal| refusal.check == Check::NumaNode).count()
    };
    assert_eq!(numa_refusals("ens1f0"), 0);
    assert_eq!(numa_refusals("ens2f0"), 1);
}

#[test]
fn infiniband_names_come_first_in_the_plugins_own_choice() {
    let root = good_root();
    root.write("sys/devices/virtual/net/ib0/ifindex", "9\n");
    std::os::unix::fs::symlink("../../devices/virtual/net/ib0", root.at("sys/class/net/ib0")).unwrap();
    let variable = "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME";
    refused(&root, &[(variable, "")], Check::NoPciNic, variable);
}

#[test]
fn numa_nodes_the_plugin_cannot_use_are_refused() {
    let file = "/sys/class/net/eth2/device/numa_node";
    for (text, is_good) in [("0", true), ("1", true), ("-1", false), ("2", false), ("10", false), ("", false)]
    {
        let root = good_root();
        root.write(file, &format!("{text}\n"));
        if is_good {
            assert_eq!(findings(&root, &[]), Findings::default(), "{text:?}");
        } else {
            refused(&root, &[], Check::NumaNode, file);
        }
    }
    let root = good_root();
    fs::remove_file(root.at(file)).unwrap();
    assert_eq!(findings(&root, &[]), Findings::default(), "the plugin takes all cores then");
    fs::create_dir(root.at(file)).unwrap();
    refused(&root, &[], Check::NumaNode, file);
}

#[test]
fn numa_nodes_of_other_nics_do_not_matter() {
    let root = good_root();
    root.write("/sys/class/net/eth0/device/numa_node", "-1\n");
    assert_eq!(findings(&root, &[]), Findings::default());
    // Left to itself the plugin takes eth0 for data as well.
    let ifname = ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "");
    refused(&root, &[ifname], Check::NumaNode, "/sys/class/net/eth0/device/numa_node");
}

#[test]
fn lists_of_cores_the_plugin_cannot_read_are_refused() {
    let file = "/sys/devices/system/node/node1/cpulist";
    for text in ["", "52", "52,53-55", "x", "0-1,2-3,4-5,6-7,8-9,10-11,12-13,14-15,16-17"] {
        let root = good_root();
        root.write(file, &format!("{text}\n"));
        refused(&root, &[], Check::CpuList, file);
    }
    for text in ["52-103", "0-1,2-3,4-5,6-7,8-9,10-11,12-13,14-15"] {
        let root = good_root();
        root.write(file, &format!("{text}\n"));
        assert_eq!(findings(&root, &[]), Findings::default(), "{text}");
    }
    let root = good_root();
    root.write(file, "52-53,55\n");
    noted(&root, &[], file);
    let root = good_root();
    fs::remove_file(root.at(file)).unwrap();
    refused(&root, &[], Check::CpuList, file);
}

#[test]
fn a_nic_in_another_pci_domain_is_refused() {
    let root = good_root();
    let place = "sys/devices/pci0001:00/0001:00:01.0";
    root.write(&format!("{place}/numa_node"), "0\n");
    let nic = root.with_parents(&format!("{place}/net/eth5/ifindex"));
    fs::write(&nic, "9\n").unwrap();
    std::os::unix::fs::symlink(root.at(place), nic.with_file_name("device")).unwrap();
    std::os::unix::fs::symlink(nic.parent().unwrap(), root.at("sys/class/net/eth5")).unwrap();
    let variable = "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME";
    refused(&root, &[(variable, "eth")], Check::PciDomain, variable);
}

#[test]
fn missing_sockets_of_rxdm_are_refused() {
    let names =
        ["rx_rule_manager", "rx_rule_uninstall", "get_gpu_fd_0000:8b:00.0", "get_gpu_metadata_0000:04:00.0"];
    for name in names {
        let root = good_root();
        fs::remove_file(root.at(&format!("{PREFIX}/{name}"))).unwrap();
        refused(&root, &[], Check::RxdmSockets, PREFIX);
        root.write(&format!("{PREFIX}/{name}"), "a file is no socket");
        refused(&root, &[], Check::RxdmSockets, PREFIX);
        assert!(findings(&root, &[]).refusals[0].consequence.contains(name));
    }
}

#[test]
fn the_registry_socket_is_needed_for_reports_only() {
    let root = good_root();
    let report = [("NCCL_GPUDIRECTTCPX_REPORT_LIFECYCLE", "1")];
    refused(&root, &report, Check::RxdmSockets, PREFIX);
    socket(&root, &format!("{PREFIX}/rxdm_application_registry"));
    assert_eq!(findings(&root, &report), Findings::default());
}

#[test]
fn socket_paths_have_to_fit_into_a_socket_address() {
    let root = good_root();
    let variable = "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX";
    // /PREFIX/get_gpu_metadata_0000:04:00.0 and a zero make 108 bytes at most.
    let fits = format!("/{}", "x".repeat(76));
    refused(&root, &[(variable, &fits)], Check::PrefixMissing, variable);
    let too_long = format!("/{}", "x".repeat(77));
    refused(&root, &[(variable, &too_long)], Check::PrefixTooLong, variable);
    assert!(findings(&root, &[(variable, &too_long)]).refusals[0].mend.contains("77 bytes"));
}

#[test]
fn a_machine_without_driver_or_gpu_is_refused() {
    let root = good_root();
    fs::remove_file(root.at("proc/driver/nvidia/version")).unwrap();
    refused(&root, &[], Check::NoDriver, "/proc/driver/nvidia/version");
    let root = good_root();
    fs::remove_dir_all(root.at("sys/bus/pci/devices")).unwrap();
    refused(&root, &[], Check::NoGpu, "/sys/bus/pci/devices");
}

#[test]
fn a_tree_that_cannot_be_read_is_refused() {
    let root = good_root();
    fs::remove_dir_all(root.at("sys/bus/pci/devices")).unwrap();
    root.write("sys/bus/pci/devices", "no folder");
    let found = findings(&root, &[]);
    assert_eq!(found.refusals.len(), 1);
    assert_eq!(found.refusals[0].check, Check::TreeUnreadable);
}

#[test]
fn plugin_files_that_cannot_be_loaded_are_refused() {
    let refusal = |root: &Root, path: &str| {
        let found = check_file(Path::new(path), root.path());
        assert!(found.refusals.iter().all(|refusal| refusal.subject == Subject::File(PathBuf::from(path))));
        found.refusals.into_iter().map(|refusal| refusal.check).collect::<Vec<_>>()
    };
    let root = good_root();
    assert_eq!(refusal(&root, PLUGIN), []);
    assert_eq!(refusal(&root, "/nowhere/plugin.so"), [Check::PluginMissing]);
    let missing = check_file(Path::new("/nowhere/plugin.so"), root.path());
    assert!(missing.refusals[0].mend.contains("UCCL_P2P_TRANSPORT=tcp"));
    assert_eq!(refusal(&root, "/usr/local/tcpx"), [Check::PluginMissing]);
    assert_eq!(refusal(&root, "found-by-the-linker.so"), []);
    root.write("/var/lib/tcpx/lib64/plugin.so", "a plugin");
    assert_eq!(refusal(&root, "/var/lib/tcpx/lib64/plugin.so"), [Check::PluginNoexec]);
    root.write("/var/lib/tcpx-copy/plugin.so", "a plugin");
    assert_eq!(refusal(&root, "/var/lib/tcpx-copy/plugin.so"), [], "no prefix of text, but of folders");
}

#[test]
fn of_several_mounts_the_last_on_the_deepest_point_counts() {
    let root = good_root();
    let verdict = |mounts: &str, path: &str| {
        root.write("proc/mounts", mounts);
        root.write(path, "a plugin");
        check_file(Path::new(path), root.path()).refusals.len()
    };
    let noexec = "a / ext4 rw,noexec 0 0\n";
    assert_eq!(verdict(noexec, "/opt/x.so"), 1);
    assert_eq!(verdict("a / ext4 rw,noexec 0 0\nb / ext4 rw 0 0\n", "/opt/x.so"), 0);
    assert_eq!(verdict("a / ext4 rw,noexec 0 0\nb /opt ext4 rw 0 0\n", "/opt/x.so"), 0);
    assert_eq!(verdict("b /opt ext4 rw 0 0\na / ext4 rw,noexec 0 0\n", "/opt/x.so"), 0);
    assert_eq!(verdict("a / ext4 rw 0 0\nb /opt\\040dir ext4 rw,noexec 0 0\n", "/opt dir/x.so"), 1);
    assert_eq!(verdict("a / ext4 rw,noexecutive 0 0\n", "/opt/x.so"), 0);
    std::os::unix::fs::symlink("../opt/x.so", root.at("usr/x.so")).unwrap();
    root.write("proc/mounts", "a / ext4 rw 0 0\nb /opt ext4 rw,noexec 0 0\n");
    let found = check_file(Path::new("/usr/x.so"), root.path());
    assert_eq!(found.refusals.len(), 1, "the file itself counts, not the link");
    fs::remove_file(root.at("proc/mounts")).unwrap();
    assert_eq!(check_file(Path::new("/opt/x.so"), root.path()), Findings::default());
}

#[test]
fn a_plugin_file_that_cannot_be_read_is_refused() {
    let root = good_root();
    fs::set_permissions(root.at(PLUGIN), fs::Permissions::from_mode(0o000)).unwrap();
    let checks: Vec<_> =
        check_file(Path::new(PLUGIN), root.path()).refusals.iter().map(|r| r.check).collect();
    // The superuser may read it all the same.
    let readable = fs::File::open(root.at(PLUGIN)).is_ok();
    assert_eq!(checks, if readable { vec![] } else { vec![Check::PluginUnreadable] });
}

#[test]
fn other_plugins_are_not_judged_by_these_rules() {
    let root = Root::of("dir sys");
    let broken = config(&[("NCCL_DYNAMIC_CHUNK_SIZE", "0"), ("NCCL_USE_DMA_BUF", "0")]);
    assert_eq!(check(&broken, Nature::Soft, root.path()), Findings::default());
    assert_eq!(check(&broken, Nature::Other, root.path()), Findings::default());
    assert!(check(&broken, Nature::Tcpx, root.path()).refusals.len() > 2);
}

#[test]
fn the_nature_comes_from_the_tables_name_and_the_file() {
    let path = |path| Some(Path::new(path));
    assert_eq!(Nature::of("GPUDirectTCPX_v7", None, false), Nature::Tcpx);
    assert_eq!(Nature::of("GPUDirectTCPX_v7", None, true), Nature::Soft);
    assert_eq!(Nature::of("renamed", path("/usr/lib/libnccl-net-tcpx.so"), false), Nature::Tcpx);
    assert_eq!(Nature::of("IB", path("/usr/lib/libnccl-net.so"), false), Nature::Other);
    assert_eq!(Nature::of("FasTrak", None, false), Nature::Other);
}

#[test]
fn every_variable_that_is_named_is_in_the_table() {
    let root = Root::of("dir sys");
    let all_wrong: FixedEnvironment = [
        ("NCCL_DYNAMIC_CHUNK_SIZE", "0"),
        ("UCCL_TCPX_CHUNK_BYTES", "64M"),
        ("NCCL_BUFFSIZE", "1"),
        ("NCCL_P2P_NET_CHUNKSIZE", "1"),
        ("NCCL_SOCKET_NTHREADS", "16"),
        ("NCCL_INLINE_THRESHOLD", "1"),
        ("NCCL_USE_DMA_BUF", "0"),
        ("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0"),
        ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:"),
        ("NCCL_GPUDIRECTTCPX_RECV_SYNC", "1"),
    ]
    .into_iter()
    .collect();
    let found = check(&Config::from_environment(&all_wrong).unwrap(), Nature::Tcpx, root.path());
    let subjects = found.refusals.iter().map(|refusal| &refusal.subject);
    let subjects: Vec<_> = subjects.chain(found.notes.iter().map(|note| &note.subject)).collect();
    let assigned = found.assignments.iter().map(|assignment| assignment.variable);
    let named = subjects.iter().filter_map(|subject| match subject {
        Subject::Variable(name) => Some(*name),
        Subject::File(_) => None,
    });
    let names: Vec<_> = named.chain(assigned).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(VARIABLES.iter().any(|variable| variable.name == name), "{name}");
    }
}
