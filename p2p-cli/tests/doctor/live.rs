//! This machine, with plugins that do what plugins should not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::{library, live, live_in, said, table};

#[test]
fn this_machine_starts_the_soft_plugin_and_moves_bytes() {
    let report = live(&[("TCPX_SOFT_ADDRESSES", "127.0.0.1"), ("UCCL_P2P_TRANSPORT", "tcp")]);
    let lines = said(&report);
    let (start, transfer) = (&lines["plugin start"], &lines["loopback transfer"]);
    assert_eq!(start.status, "OK", "{start:?}");
    assert!(start.found.contains("TCPX_Soft") && start.found.contains("lo-127.0.0.1"), "{start:?}");
    assert_eq!(transfer.status, "OK", "{transfer:?}");
    assert!(
        transfer.found.contains("4 MiB over lo-127.0.0.1") && transfer.found.contains("compared"),
        "{transfer:?}"
    );
}

#[test]
fn a_transfer_that_hangs_or_fails_is_a_line() {
    let base = [("TCPX_SOFT_ADDRESSES", "127.0.0.1"), ("UCCL_P2P_TRANSPORT", "tcp")];
    for (fault, value) in [("TCPX_SOFT_FAULT_SILENT_AFTER", "1"), ("TCPX_SOFT_FAULT_ACCEPT_FAILS", "1")] {
        let begin = Instant::now();
        let report = live(&[&base[..], &[(fault, value)]].concat());
        let row = &said(&report)["loopback transfer"];
        assert_eq!((row.status.as_str(), report.code), ("FAIL", 1), "{row:?}");
        assert!(row.mend.is_some() && begin.elapsed() < Duration::from_secs(20), "{row:?}");
    }
}

#[test]
fn a_plugin_that_ends_the_process_is_a_line() {
    let cases = [
        (
            "exit",
            "fprintf(stderr, \"no daemon here\\n\"); exit(1);",
            &["exit status: 1", "no daemon here"][..],
        ),
        ("quiet", "exit(0);", &["exit status: 0", "it said nothing"]),
        ("abort", "printf(\"bad luck\"); fflush(stdout); abort();", &["signal: 6", "bad luck"]),
        ("crash", "*(volatile int *)0 = 1;", &["signal: 11"]),
        ("refuse", "return 3;", &["init answered"]),
        (
            "hang",
            "fprintf(stderr, \"waiting\\n\"); for (;;) sleep(1);",
            &["did not come back within 6 s", "waiting"],
        ),
    ];
    for (name, body, says) in cases {
        let file = library(&table(body));
        let begin = Instant::now();
        let report = live(&[("UCCL_TCPX_PLUGIN_PATH", file.to_str().unwrap())]);
        assert!(begin.elapsed() < Duration::from_secs(20), "{name}: {:?}", begin.elapsed());
        let lines = said(&report);
        let (file, start, transfer) =
            (&lines["plugin file"], &lines["plugin start"], &lines["loopback transfer"]);
        assert_eq!((file.status.as_str(), start.status.as_str()), ("OK", "FAIL"), "{name}: {report:#?}");
        for word in says {
            assert!(start.found.contains(word), "{name}: {word} is missing: {start:?}");
        }
        assert_eq!(transfer.status, "SKIP", "{name}: {transfer:?}");
        assert_eq!(report.code, 1);
    }
}

#[test]
fn a_plugin_without_nics_is_a_line() {
    let file = library(&table("return 0;"));
    let report = live(&[("UCCL_TCPX_PLUGIN_PATH", file.to_str().unwrap())]);
    let start = &said(&report)["plugin start"];
    assert!(start.status == "FAIL" && start.found.contains("finds no NIC"), "{start:?}");
}

#[test]
fn a_plugins_path_may_be_relative() {
    let file = library(&table("return 0;"));
    let relative = format!("./{}", file.file_name().unwrap().to_str().unwrap());
    let lines = said(&live_in(file.parent().unwrap(), &[("UCCL_TCPX_PLUGIN_PATH", &relative)]));
    let (file, start) = (&lines["plugin file"], &lines["plugin start"]);
    assert_eq!(file.status, "OK", "{file:?}");
    assert!(start.found.contains("finds no NIC"), "{start:?}");
}

#[test]
fn a_plugin_that_breaks_the_end_of_the_process_is_a_warning() {
    let last = "#include <unistd.h>\n__attribute__((destructor)) static void last(void) { _exit(9); }\n";
    let with_nic = table("return 0;").replace("*count = 0", "*count = 1").replace("return 3;", "return 0;");
    let file = library(&with_nic);
    let report = live(&[("UCCL_TCPX_PLUGIN_PATH", file.to_str().unwrap())]);
    let start = &said(&report)["plugin start"];
    assert!(start.status == "OK" && start.found.contains("Test v7 starts with device 0"), "{start:?}");
    let file = library(&format!("{last}{with_nic}"));
    let report = live(&[("UCCL_TCPX_PLUGIN_PATH", file.to_str().unwrap())]);
    let start = &said(&report)["plugin start"];
    assert!(start.status == "WARN" && start.found.contains("exit status: 9"), "{start:?}");
}

#[test]
fn a_file_that_is_no_library_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libnccl-net-text.so");
    fs::write(&file, "text").unwrap();
    let report = live(&[("UCCL_TCPX_PLUGIN_PATH", file.to_str().unwrap())]);
    let lines = said(&report);
    assert_eq!(lines["plugin file"].status, "FAIL");
    assert_eq!(lines["plugin start"].status, "SKIP");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let unreadable = fs::File::open(&file).is_err();
    let report = live(&[("UCCL_TCPX_PLUGIN_PATH", file.to_str().unwrap())]);
    let row = &said(&report)["plugin file"];
    assert!(row.status == "FAIL" && (row.found.contains("cannot be read") || !unreadable), "{row:?}");
}
