//! `p2p doctor` against machines that are folders: a healthy A3-high machine, and the same with one thing broken.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "doctor/faults.rs"]
mod faults;
#[path = "doctor/live.rs"]
mod live;
#[allow(dead_code, reason = "the recorded trees lie beside another crate's tests")]
#[path = "../../tcpx-core/tests/fixtures/materialise.rs"]
mod materialise;
#[path = "doctor/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use faults::FAULTS;
use support::{A3_HIGH, PLUGIN, Row, a3_high, examine, pipe, said};

#[test]
fn a_healthy_machine_has_nothing_to_mend() {
    let root = a3_high();
    let report = examine(&root, A3_HIGH, &[]);
    assert_eq!(report.code, 0, "{report:#?}");
    assert!(
        report.lines.iter().all(|row| ["OK", "SKIP"].contains(&row.status.as_str()) && row.mend.is_none())
    );
    let found = |subject: &str| said(&report)[subject].found.clone();
    assert!(found("transport").contains("GPUDirect-TCPX is chosen"), "{}", found("transport"));
    assert!(found("plugin file").contains("ncclNetPlugin_v7"), "{}", found("plugin file"));
    assert!(
        found("NIC eth3").contains("up, 200 Gbit/s, MTU 8244, NUMA node 1, PCI 0000:86:00.0"),
        "{}",
        found("NIC eth3")
    );
    let map = found("GPU/NIC map");
    assert!(map.contains("GPUs 0,1 on eth1 (PIX)") && map.contains("GPUs 6,7 on eth4 (PIX)"), "{map}");
    assert!(found("NVIDIA driver").contains("535.154.05"), "{}", found("NVIDIA driver"));
    assert!(found("plugin start").contains("--root"), "what is not tried has a reason");
    let skipped: Vec<_> =
        report.lines.iter().filter(|row| row.status == "SKIP").map(|row| row.subject.as_str()).collect();
    assert_eq!(skipped, ["plugin start", "loopback transfer"]);
}

#[test]
fn each_fault_turns_its_own_line_and_no_other() {
    let healthy = said(&examine(&a3_high(), A3_HIGH, &[]));
    assert!(FAULTS.len() > 40);
    for (name, breaks, subject, status, says) in FAULTS {
        let root = a3_high();
        let changes = breaks.apply(&root);
        let report = examine(&root, A3_HIGH, changes);
        let broken = said(&report);
        let differs =
            |of: &BTreeMap<String, Row>, subject: &String| match (of.get(subject), healthy.get(subject)) {
                // The list of what is set names every variable, also those that break another line.
                (Some(now), Some(before)) if subject == "variables" && now.status == before.status => false,
                (now, before) => now != before,
            };
        let turned: Vec<_> =
            broken.keys().chain(healthy.keys()).filter(|key| differs(&broken, key)).collect();
        assert!(
            turned.iter().all(|turned| turned == subject) && !turned.is_empty(),
            "{name}: {turned:?} {report:#?}"
        );
        let row = &broken[*subject];
        assert_eq!(row.status, *status, "{name}: {row:?}");
        let mend = row.mend.as_deref().unwrap_or_default();
        assert!(!mend.is_empty(), "{name}: {row:?}");
        for word in *says {
            assert!(row.found.contains(word) || mend.contains(word), "{name}: {word} is missing: {row:?}");
        }
        assert_eq!(report.code, i32::from(*status == "FAIL"), "{name}");
    }
}

#[test]
fn a_slow_nic_is_left_to_the_gpus_beside_it() {
    let healthy = said(&examine(&a3_high(), A3_HIGH, &[]));
    let root = a3_high();
    root.write("sys/class/net/eth4/speed", "25000\n");
    let slow = said(&examine(&root, A3_HIGH, &[]));
    let turned: Vec<_> = slow.keys().filter(|subject| slow.get(*subject) != healthy.get(*subject)).collect();
    assert_eq!(turned, ["GPU/NIC map", "NIC eth4"], "host memory has no use for it");
    let (nic, map) = (&slow["NIC eth4"], &slow["GPU/NIC map"]);
    assert_eq!((nic.status.as_str(), map.status.as_str()), ("WARN", "OK"));
    assert!(nic.found.contains("25 Gbit/s") && nic.found.contains("others have 200 Gbit/s"), "{nic:?}");
    assert!(
        map.found.contains("GPUs 6,7 on eth4") && map.found.ends_with("host memory on eth1+eth2+eth3"),
        "{map:?}"
    );
}

#[test]
fn a_warning_fails_only_where_it_is_strict() {
    let root = a3_high();
    root.write("proc/sys/kernel/osrelease", "5.15.0\n");
    assert_eq!(examine(&root, A3_HIGH, &[]).code, 0);
    assert_eq!(support::text(&root, A3_HIGH, &["--strict"]).status.code(), Some(1));
    assert_eq!(support::text(&a3_high(), A3_HIGH, &["--strict"]).status.code(), Some(0));
}

/// A machine without GPUs, on which everything is in place.
fn laptop() -> materialise::Root {
    let root = materialise::Root::of(include_str!("../../tcpx-core/tests/fixtures/laptop.tree"));
    support::add_kernel(&root);
    for nic in ["eth0", "wlan0"] {
        root.write(&format!("sys/class/net/{nic}/mtu"), "1500\n");
    }
    root
}

#[test]
fn a_plain_machine_is_told_honestly_that_plain_tcp_is_used() {
    let root = laptop();
    let report = examine(&root, &[], &[]);
    assert_eq!(report.code, 0, "{report:#?}");
    assert!(report.lines.iter().all(|row| ["OK", "SKIP"].contains(&row.status.as_str())), "{report:#?}");
    let lines = said(&report);
    let transport = &lines["transport"].found;
    assert!(transport.contains("plain TCP is used") && transport.contains("because"), "{transport}");
    assert!(lines["NVIDIA driver"].found.contains("normal"), "{report:#?}");
    let report = examine(&root, &[], &[("UCCL_P2P_REQUIRE", "tcpx")]);
    assert_eq!((report.code, said(&report)["transport"].status.as_str()), (1, "FAIL"), "{report:#?}");
}

#[test]
fn what_the_soft_plugin_is_told_is_checked_where_it_is_used() {
    let root = laptop();
    for (variable, value, subject, status) in [
        ("TCPX_SOFT_CONGESTION", "cubic", "congestion control", "OK"),
        ("TCPX_SOFT_CONGESTION", "bbr", "congestion control", "WARN"),
        ("TCPX_SOFT_CONGESTION", "vegas", "congestion control", "FAIL"),
        ("TCPX_SOFT_LANES", "0", "variables", "FAIL"),
        ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "ens9", "NICs", "FAIL"),
        ("UCCL_TCPX_LOCAL_DEVICE", "3", "GPU/NIC map", "FAIL"),
    ] {
        let row = &said(&examine(&root, &[], &[(variable, value)]))[subject];
        assert_eq!(row.status, status, "{variable}={value}: {row:?}");
    }
}

#[test]
fn a_nic_that_is_down_is_missed_where_it_was_named_or_could_reach_gpus() {
    let has = |root: &materialise::Root, variables: &[(&str, &str)]| {
        let row = said(&examine(root, variables, &[])).get("NIC eth0").cloned();
        row.map_or_else(|| "no line".to_owned(), |row| row.status)
    };
    let root = laptop();
    root.write("sys/class/net/eth0/operstate", "down\n");
    assert_eq!(has(&root, &[]), "no line");
    assert_eq!(has(&root, &[("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth0")]), "FAIL");
    root.write("opt/other.so", "another plugin");
    assert_eq!(has(&root, &[("UCCL_TCPX_PLUGIN_PATH", "/opt/other.so")]), "no line");
    let root = a3_high();
    root.write("sys/class/net/eth0/operstate", "down\n");
    assert_eq!(has(&root, &[]), "FAIL");
}

#[test]
fn without_variables_the_plugin_is_found_and_its_settings_are_made() {
    let report = examine(&a3_high(), &[], &[]);
    assert_eq!(report.code, 0, "{report:#?}");
    let lines = said(&report);
    assert!(lines["transport"].found.ends_with("because it is there"), "{:?}", lines["transport"]);
    for made in ["NCCL_DYNAMIC_CHUNK_SIZE=524288", "UNIX_CLIENT_PREFIX=/run/tcpx"] {
        assert!(lines["plugin settings"].found.contains(made), "{:?}", lines["plugin settings"]);
    }
    assert!(lines["rxdm"].found.ends_with("/run/tcpx"), "{:?}", lines["rxdm"]);
    let eth0 = &lines["NIC eth0"];
    assert!(eth0.status == "WARN" && eth0.found.contains("MTU 1460"), "no control NIC is set: {eth0:?}");
}

#[test]
fn a_gpu_machine_without_the_plugin_is_asked_whether_that_is_meant() {
    let root = a3_high();
    fs::remove_file(root.at(PLUGIN)).unwrap();
    let report = examine(&root, &[], &[]);
    let row = &said(&report)["transport"];
    assert_eq!(row.status, "WARN", "{row:?}");
    assert!(row.found.contains("plain TCP is used") && row.found.contains("gVNIC"), "{row:?}");
    fs::remove_file(root.at("proc/driver/nvidia/version")).unwrap();
    fs::remove_file(root.at("usr/lib/x86_64-linux-gnu/libcuda.so.1")).unwrap();
    let driver = &said(&examine(&root, &[], &[]))["NVIDIA driver"];
    assert!(driver.status == "OK" && driver.found.contains("although there are 8 GPUs"), "{driver:?}");
    let report = examine(&root, &[], &[("UCCL_P2P_TRANSPORT", "tcp")]);
    assert_eq!(said(&report)["transport"].status, "OK");
}

#[test]
fn googles_plugin_has_several_names() {
    let root = a3_high();
    let other = PLUGIN.replace("-tcpx", "");
    fs::rename(root.at(PLUGIN), root.at(&other)).unwrap();
    let row = &said(&examine(&root, &[], &[]))["transport"];
    assert!(row.found.starts_with(&format!("GPUDirect-TCPX is chosen ({other})")), "{row:?}");
}

#[test]
fn a_control_port_that_is_taken_costs_nothing() {
    let root = a3_high();
    root.write("proc/net/tcp", &support::listeners(&[28900, 28901]));
    let row = &said(&examine(&root, A3_HIGH, &[]))["control ports"];
    assert!(row.status == "OK" && row.found.ends_with("28902 is the first that is free"), "{row:?}");
}

#[test]
fn a_machine_of_nothing_is_no_panic() {
    let root = materialise::Root::of("dir sys\ndir proc");
    let report = examine(&root, &[], &[]);
    assert_eq!(report.code, 1, "there is no interface: {report:#?}");
    for row in &report.lines {
        assert!(!row.found.contains("the check itself broke"), "{row:?}");
    }
    for subject in ["bootstrap port", "control ports"] {
        assert_eq!(said(&report)[subject].status, "SKIP", "what is not known is not called free");
    }
}

#[test]
fn a_tree_that_hangs_who_reads_it_hangs_nobody() {
    let root = a3_high();
    let begin = Instant::now();
    pipe(&root, "sys/class/net/eth1/speed");
    let lines = said(&examine(&root, A3_HIGH, &[]));
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    for late in ["NICs", "GPU/NIC map", "rxdm", "NUMA nodes"] {
        assert!(
            lines[late].status == "FAIL" && lines[late].found.contains("did not end"),
            "{:?}",
            lines[late]
        );
    }
    for other in ["plugin file", "kernel", "cores", "socket buffers", "variables"] {
        assert_eq!(lines[other].status, "OK", "{:?}", lines[other]);
    }
}

#[test]
fn text_has_a_line_each_and_mends_below() {
    let root = a3_high();
    root.write("proc/sys/kernel/osrelease", "5.15.0\n");
    let output = support::text(&root, A3_HIGH, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_none() {
            assert!(line.contains(" OK, 1 WARN, 0 FAIL, 2 not tried"), "{line}");
            break;
        }
        let (status, rest) = line.split_at(6);
        assert!(["OK    ", "SKIP  ", "WARN  ", "FAIL  "].contains(&status) && rest.contains(": "), "{line}");
        if ["WARN  ", "FAIL  "].contains(&status) {
            assert!(lines.next().unwrap().starts_with("      mend: "), "{text}");
        }
    }
    assert!(!text.contains('\u{1b}'), "no colours where no terminal is");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_line_has_its_section() {
    let text = include_str!("../../docs/troubleshooting.md");
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for row in examine(&a3_high(), A3_HIGH, &[]).lines {
        let is_it = |section: &&str| section.split(", ").any(|subject| subject == row.subject);
        let is_nic = row.subject.starts_with("NIC ") && sections.contains(&"NICs, NIC eth1");
        assert!(is_nic || sections.iter().any(is_it), "{} in {sections:?}", row.subject);
    }
}

#[test]
fn json_goes_where_it_is_asked_to() {
    let root = a3_high();
    let file = root.at("report.json");
    let output = support::text(&root, A3_HIGH, &["--json", file.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("OK    "), "the text as well");
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&kept["well"], &kept["lines"][0]["subject"]), (&true.into(), &"variables".into()));
    let output = support::text(&root, A3_HIGH, &["--json", "/nonexistent/x.json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--json /nonexistent/x.json"), "{said}");
    let output = support::text(&root, A3_HIGH, &["--root", "/nonexistent/root"]);
    assert_ne!(output.status.code(), Some(0));
}
