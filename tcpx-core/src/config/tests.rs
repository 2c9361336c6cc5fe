use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Text that is allowed and text that is not, for every variable of the table.
const CASES: &[(&str, &[&str], &[&str])] = &[
    ("UCCL_P2P_TRANSPORT", &["tcp", "tcpx", "auto"], &["rdma", "nccl", "efa", "TCP", "1"]),
    ("UCCL_P2P_REQUIRE", &["tcp", "tcpx", "auto"], &["rdma"]),
    ("UCCL_P2P_PEER_TIMEOUT_SECONDS", &["2", "600"], &["1", "601", "5s", "-1"]),
    ("UCCL_P2P_HEARTBEAT_SECONDS", &["1", "4"], &["0", "301", "x"]),
    ("UCCL_P2P_STALL_SECONDS", &["0", "10", "86400"], &["86401", "-1", "x"]),
    ("UCCL_P2P_AFFINITY", &["auto", "off", "0-3,8", " 5 "], &["on", "3-1", ",", "0-9999"]),
    ("UCCL_P2P_SECRET", &["x", " a b ", "0"], &[]),
    ("UCCL_P2P_SILENCE_SECONDS", &["1", "86400"], &["0", "86401", "x"]),
    ("UCCL_TCPX_PLUGIN_PATH", &["/a", "b/c.so"], &[]),
    (
        "UCCL_TCPX_DEV",
        &["0", "3,1", "eth1", "eth1,eth2", "127.0.0.2"],
        &[",", "eth1,", "eth 1", "a;b", "-1 "],
    ),
    ("UCCL_TCPX_LOCAL_DEVICE", &["0", "255"], &["256", "-1", "x", "1.0"]),
    ("UCCL_TCPX_OOB_PORT", &["1", "65519", " 80 "], &["0", "65536", "http", "+1", "1e3"]),
    ("UCCL_TCPX_PORT_RETRIES", &["0", "1024"], &["1025", "-1"]),
    ("UCCL_TCPX_CTRL_IP", &["auto", "10.0.0.1", "fd00::1"], &["AUTO", "10.0.0", "host", "10.0.0.1:80"]),
    ("UCCL_TCPX_BOOTSTRAP_PORT_BASE", &["1", "65280"], &["0", "65281"]),
    ("UCCL_TCPX_CONNECT_TIMEOUT_SECONDS", &["1", "3600"], &["0", "3601"]),
    ("UCCL_TCPX_ACCEPT_RETRY", &["0", "1"], &["2", "yes"]),
    (
        "UCCL_TCPX_CHUNK_BYTES",
        &["4096", "512K", "4m", "64M", "67108864"],
        &["0", "4095", "4097", "65M", "1G", "K", "512KB", "18446744073709551615G"],
    ),
    ("UCCL_TCPX_MAX_SEND_INFLIGHT", &["1", "16"], &["0", "17"]),
    ("UCCL_TCPX_MAX_RECV_INFLIGHT", &["1", "16"], &["0", "17", "256", "272"]),
    ("UCCL_TCPX_NUM_CHANNELS", &["1", "16"], &["0", "17"]),
    (
        "UCCL_TCPX_GPU_NIC_MAP",
        &["0:eth1", "0,1:eth1;2,3:eth2,eth3", "*:eth1", "1:a;*:b;", " 0 , 1 : eth1 "],
        &[";", "eth1", "0:", ":eth1", "0:eth1;0:eth2", "256:eth1", "*:a;*:b", "0:eth1,eth1", "x:eth1"],
    ),
    ("UCCL_TCPX_ALLOW_FOREIGN_NICS", &["eth2", "eth2,eth3"], &[",", "eth2,,eth3", "eth2,eth2", "*"]),
    ("UCCL_TCPX_UNPACK_IMPL", &["kernel", "d2d", "host", "none"], &["Kernel", "gpu"]),
    ("UCCL_TCPX_USE_STAGING", &["0", "1"], &["on"]),
    ("UCCL_TCPX_DEBUG", &["0", "1"], &["2"]),
    ("UCCL_TCPX_LAUNCH_DEBUG", &["0", "1"], &["true"]),
    ("UCCL_TCPX_PERF_SIZE", &["1", "64M", "1G"], &["0", "1073741825", "1T", "2G"]),
    ("UCCL_TCPX_PERF_ITERS", &["1", "1000000"], &["0", "1000001"]),
    ("NCCL_GPUDIRECTTCPX_SOCKET_ENABLE", &["0", "1"], &["2", "-2"]),
    (
        "NCCL_DYNAMIC_CHUNK_SIZE",
        &["0", "524288", "0x80000", "02000000", "2147483646"],
        &["2147483647", "512K", "-1", "09", "0x", "0xg"],
    ),
    ("NCCL_NSOCKS_PERTHREAD", &["1", "8"], &["0", "9", "-2"]),
    ("NCCL_SOCKET_NTHREADS", &["1", "16"], &["0", "17"]),
    ("NCCL_INLINE_THRESHOLD", &["0", "2048"], &["2049"]),
    ("NCCL_MIN_ZCOPY_SIZE", &["0", "2147483646"], &["2147483647"]),
    ("NCCL_THREAD_SPIN_ENABLE", &["0", "1"], &["2"]),
    ("NCCL_USE_DMA_BUF", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_RECV_SYNC", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_FORCE_ACK", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_CONNECTION_RETRY", &["0", "3", "2147483646"], &["2147483647"]),
    ("NCCL_GPUDIRECTTCPX_SPINWAIT_CONNECT", &["0", "1"], &["2"]),
    (
        "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS",
        &["0", "50000", "60000000"],
        &["60000001", "-1"],
    ),
    ("NCCL_GPUDIRECTTCPX_FLOW_STEERING_STRATEGY", &["0", "3"], &["4", "-1"]),
    ("NCCL_GPUDIRECTTCPX_TX_COMPLETION_NANOSLEEP", &["0", "100", "2147483646"], &["2147483647"]),
    (
        "NCCL_GPUDIRECTTCPX_TIMEOUT_THRESHOLD_NS",
        &["100000", "9223372036854775806"],
        &["99999", "9223372036854775807"],
    ),
    (
        "NCCL_GPUDIRECTTCPX_TIMEOUT_FREQUENCY_NS",
        &["100000", "9223372036854775806"],
        &["99999", "9223372036854775807"],
    ),
    (
        "NCCL_GPUDIRECTTCPX_SLOWNESS_SWITCH",
        &["ALL", "tx_comp,SENDRECV", "RX_CTRL", "NONE"],
        &["TX", "ALL;", ","],
    ),
    ("NCCL_GPUDIRECTTCPX_SLOWNESS_REPORT", &["ALL", "NONE"], &["EVERY"]),
    ("NCCL_GPUDIRECTTCPX_CUDA_USE_PRIMARY_CTX", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_REG_DMABUF_USE_INTERNAL_API", &["0", "1"], &["2"]),
    ("NCCL_TCPX_RXMEM_IMPORT_USE_GPU_PCI_CLIENT", &["0", "1"], &["2"]),
    ("NCCL_TCPX_RXMEM_IMPORT_SKIP_ODDS", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_NIC_N_RXQS", &["1", "4096"], &["0", "4097"]),
    ("NCCL_GPUDIRECTTCPX_REPORT_LIFECYCLE", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_LOG_STATS_TO_STDOUT", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_ENABLE_TASK_LEVEL_STATS", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_ENABLE_REQUEST_LEVEL_STATS", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORT_STATS_TO_FILE", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_PATH", &["tmp", "/tmp"], &[]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_SAMPLING_FACTOR", &["1", "999999"], &["0", "1000000"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_LOG_LINE_LIMIT", &["1", "256"], &["0", "257"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_EXPORTER_CORE_INDEX", &["0", "1023"], &["1024"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_GARBAGE_COLLECTOR_INDEX", &["0", "1023"], &["1024"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_FILE_LIFE", &["1", "2147483646"], &["0", "2147483647"]),
    ("NCCL_GPUDIRECTTCPX_TELEMETRY_FILE_REMOVE_FREQUENCY", &["1", "2147483646"], &["0", "2147483647"]),
    (
        "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME",
        &["eth", "eth1,eth2", "=eth1", "^docker,lo", "^=lo", "eth1:1"],
        &["^", "=", ",", "eth1, eth2", "abcdefghijklmnop", "a/b"],
    ),
    ("NCCL_GPUDIRECTTCPX_SOCKET_FAMILY", &["AF_INET", "AF_INET6"], &["inet", "AF_UNIX"]),
    ("NCCL_GPUDIRECTTCPX_CTRL_DEV", &["eth0", "=eth0"], &["^", "eth 0"]),
    ("NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX", &["/tmp", "/run/tcpx"], &["run/tcpx", "."]),
    (
        "NCCL_GPUDIRECTTCPX_TX_BINDINGS",
        &["eth1:8-21,112-125;eth2:8-21", "eth1:0-1023;", "eth1:5-5", "eth1:"],
        &[";", "eth1", "eth1:5", "eth1:9-8", "eth1:0-1024", "eth1:a-b", ":1-2", "eth1:1-2,", "eth1:1--2"],
    ),
    ("NCCL_GPUDIRECTTCPX_RX_BINDINGS", &["eth1:22-35,126-139"], &["eth1:22"]),
    ("NCCL_GPUDIRECTTCPX_WORKER_PIN_THREADS", &["0", "1"], &["2"]),
    ("NCCL_GPUDIRECTTCPX_WORKER_SPRAY_COUNT", &["0", "1023"], &["1024"]),
    ("NCCL_GPUDIRECTTCPX_WORKER_SPRAY_STRIDE", &["0", "1023"], &["1024"]),
    ("NCCL_GPUDIRECTTCPX_SCHED_ALG", &["RR", "KATY"], &["rr", "LRU"]),
    ("NCCL_BUFFSIZE", &["1", "8388608", "4294967296"], &["0", "4294967297", "8M"]),
    ("NCCL_P2P_NET_CHUNKSIZE", &["1", "524288"], &["0", "512K"]),
    ("NCCL_DEBUG", &["NONE", "VERSION", "warn", "Info", "ABORT", "TRACE"], &["DEBUG", "3"]),
    ("NCCL_DEBUG_SUBSYS", &["INIT", "init,NET", "^COLL", "ALL"], &["NETWORK", "INIT,", "INIT NET"]),
    ("NCCL_DEBUG_FILE", &["/tmp/%h.%p", "x"], &[]),
];

fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::from_environment(&variables.iter().copied().collect::<FixedEnvironment>())
}

fn problem(variables: &[(&str, &str)]) -> Problem {
    let mut problems = read(variables).unwrap_err().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn every_variable_has_cases() {
    let covered: Vec<_> = CASES.iter().map(|case| case.0).collect();
    let known: Vec<_> = VARIABLES.iter().map(|variable| variable.name).collect();
    assert_eq!(covered, known);
}

#[test]
fn what_is_allowed_is_taken_and_known_as_the_users() {
    for (variable, allowed, _) in CASES {
        for value in *allowed {
            let config = read(&[(*variable, *value)]);
            let config = config.unwrap_or_else(|error| panic!("{variable}={value}: {error}"));
            let origins = format!("{config:?}").matches(&format!("User(\"{variable}\")")).count();
            assert_eq!(origins, 1, "{variable}={value}");
        }
    }
}

#[test]
fn what_is_not_allowed_is_an_error_that_names_variable_value_and_range() {
    for (name, _, refused) in CASES {
        let variable = VARIABLES.iter().find(|variable| variable.name == *name).unwrap();
        for value in *refused {
            let found = problem(&[(*name, *value)]);
            let Problem::BadValue { variable: named, value: shown, range, .. } = &found else {
                panic!("{name}={value}: {found}")
            };
            assert_eq!((named, shown.to_str().unwrap(), range), (name, *value, &variable.range()));
            let text = found.to_string();
            for part in [*name, &variable.range(), "unset"] {
                assert!(text.contains(part), "{part} in {text}");
            }
        }
    }
}

#[test]
fn text_that_is_no_utf8_is_a_bad_value_except_in_paths_and_secrets() {
    let broken = OsStr::from_bytes(b"/\xff");
    for variable in VARIABLES {
        let environment: FixedEnvironment = [(variable.name, broken)].into_iter().collect();
        let takes_bytes = variable.range().contains("path") || variable.name == "UCCL_P2P_SECRET";
        assert_eq!(Config::from_environment(&environment).is_ok(), takes_bytes, "{}", variable.name);
    }
}

#[test]
fn defaults_are_the_effective_ones() {
    let config = read(&[]).unwrap();
    assert!(!format!("{config:?}").contains("User("), "nobody set anything");
    assert_eq!(config.plugin_path.value, Path::new("/usr/local/tcpx/lib64/libnccl-net-tcpx.so"));
    assert_eq!((config.local_device.value.get(), config.oob_port.value.get()), (0, 28900));
    assert_eq!((config.port_retries.value.get(), config.control_ip.value), (16, ControlAddress::Auto));
    assert_eq!(config.chunk_bytes.value.get(), 524_288);
    assert_eq!((config.max_send_inflight.value.get(), config.max_recv_inflight.value.get()), (12, 16));
    assert_eq!((config.num_channels.value.get(), config.bootstrap_port_base.value.get()), (1, 20000));
    assert_eq!((config.perf_size.value.get(), config.perf_iters.value.get()), (4 << 20, 10));
    assert_eq!(config.unpack.value, UnpackMode::Kernel);
    assert!(!config.use_staging.value && !config.debug.value && !config.launch_debug.value);
    assert!(!config.accept_retry.value);
    // What Google's plugin ends up with, some of which the preflight then sets or refuses.
    assert_eq!(config.dynamic_chunk_size.value.get(), 0);
    assert_eq!((config.sockets_per_thread.value.get(), config.socket_threads.value.get()), (1, 1));
    assert_eq!((config.inline_threshold.value.get(), config.connection_retry.value.get()), (0, 3));
    assert_eq!(config.flow_steering_wait_micros.value.get(), 5_000_000);
    assert_eq!(config.flow_steering_strategy.value.get(), 3);
    assert!(config.socket_enable.value && config.use_dma_buf.value && config.cuda_use_primary_ctx.value);
    assert!(!config.recv_sync.value && !config.telemetry_export.value && config.spin_wait_connect.value);
    assert_eq!(config.unix_client_prefix.value.as_path(), Path::new("/tmp"));
    assert_eq!(config.scheduler.value, Scheduler::RoundRobin);
    assert_eq!((config.nccl_debug.value, config.nccl_debug_subsys.value.0), (None, 0x1081));
}

#[test]
fn every_default_is_allowed_as_a_value() {
    for variable in VARIABLES.iter().filter(|variable| !variable.default.is_empty()) {
        let config = read(&[(variable.name, variable.default)]);
        assert!(config.is_ok(), "{}: {:?}", variable.name, config.err());
    }
}

#[test]
fn an_empty_value_counts_as_unset() {
    let environment: FixedEnvironment = VARIABLES.iter().map(|variable| (variable.name, "")).collect();
    let config = Config::from_environment(&environment).unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", read(&[]).unwrap()));
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = read(&[("UCCL_TCPX_CHUNK_BYTES", "1"), ("NCCL_USE_DMA_BUF", "7"), ("UCCL_TCPX_DEBUG", "x")]);
    let error = error.unwrap_err();
    assert_eq!(error.problems.len(), 3);
    let text = error.to_string();
    for part in
        ["UCCL_TCPX_CHUNK_BYTES=\"1\"", "NCCL_USE_DMA_BUF=\"7\"", "UCCL_TCPX_DEBUG=\"x\"", "default 524288"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn two_names_of_one_setting_may_not_differ() {
    for (first, second) in
        [("UCCL_TCPX_LOCAL_DEVICE", "UCCL_TCPX_DEVICE_IDX"), ("UCCL_TCPX_OOB_PORT", "UCCL_TCPX_CTRL_PORT")]
    {
        assert!(matches!(problem(&[(first, "3"), (second, "4")]), Problem::Conflict { .. }));
        let by_alias = read(&[(second, "4")]).unwrap();
        assert!(format!("{by_alias:?}").contains(&format!("User(\"{second}\")")));
        assert!(read(&[(first, "4"), (second, "4")]).is_ok());
        assert!(read(&[(first, ""), (second, "4")]).is_ok());
        assert!(
            matches!(problem(&[(second, "x")]), Problem::BadValue { variable, .. } if variable == second)
        );
    }
}

#[test]
fn the_ports_to_try_end_at_the_last_one() {
    assert!(read(&[("UCCL_TCPX_OOB_PORT", "65535"), ("UCCL_TCPX_PORT_RETRIES", "0")]).is_ok());
    assert!(read(&[("UCCL_TCPX_OOB_PORT", "65519")]).is_ok());
    let found = problem(&[("UCCL_TCPX_OOB_PORT", "65520")]);
    assert!(
        found.to_string().contains("UCCL_TCPX_PORT_RETRIES=\"16\" is not allowed: set it to 0 to 15"),
        "{found}"
    );
}

#[test]
fn unknown_variables_of_ours_are_reported_with_the_nearest_name() {
    let environment = [
        ("UCCL_TCPX_CHUNKBYTES", "1"),
        ("UCCL_TCPX_NUM_CHANEL", "1"),
        ("UCCL_TCPX_DEVICE_INDEX", "1"),
        ("UCCL_TCPX_X", "1"),
        ("UCCL_P2P_TRANSPORT", "tcpx"),
        ("NCCL_GPUDIRECTTCPX_RX_COMPLETION_NANOSLEEP", "100"),
    ];
    let config = read(&environment).unwrap();
    let warnings: Vec<_> = config.warnings().iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "UCCL_TCPX_CHUNKBYTES is not a known variable and is ignored; did you mean UCCL_TCPX_CHUNK_BYTES?",
            "UCCL_TCPX_DEVICE_INDEX is not a known variable and is ignored; did you mean UCCL_TCPX_DEVICE_IDX?",
            "UCCL_TCPX_NUM_CHANEL is not a known variable and is ignored; did you mean UCCL_TCPX_NUM_CHANNELS?",
            "UCCL_TCPX_X is not a known variable and is ignored",
        ]
    );
    assert!(read(&[]).unwrap().warnings().is_empty());
}

/// Remembers what was asked for.
struct Asked(RefCell<BTreeSet<String>>);

impl Environment for Asked {
    fn variable(&self, name: &str) -> Option<OsString> {
        assert!(self.0.borrow_mut().insert(name.to_owned()), "{name} is read twice");
        None
    }

    fn names(&self) -> Vec<OsString> {
        Vec::new()
    }
}

#[test]
fn each_name_of_the_table_is_read_once_and_nothing_else_is() {
    let asked = Asked(RefCell::new(BTreeSet::new()));
    Config::from_environment(&asked).unwrap();
    let names = VARIABLES.iter().flat_map(|variable| std::iter::once(&variable.name).chain(variable.aliases));
    let names: BTreeSet<_> = names.map(|name| (*name).to_owned()).collect();
    assert_eq!(asked.0.into_inner(), names);
}

#[test]
fn a_heartbeat_comes_before_the_silence_is_too_long() {
    let read = |heartbeat: &str, timeout: &str| {
        let variables =
            [("UCCL_P2P_HEARTBEAT_SECONDS", heartbeat), ("UCCL_P2P_PEER_TIMEOUT_SECONDS", timeout)];
        Config::from_environment(&variables.into_iter().collect::<FixedEnvironment>())
    };
    assert!(read("9", "10").is_ok());
    let text = read("10", "10").unwrap_err().to_string();
    assert!(text.contains("HEARTBEAT_SECONDS") && text.contains("1 to 9"), "{text}");
}

#[test]
fn a_secret_is_kept_and_not_printed() {
    let variables = [("UCCL_P2P_SECRET", "hush-hush"), ("UCCL_P2P_PEER_TIMEOUT_SECONDS", "5")];
    let config = Config::from_environment(&variables.into_iter().collect::<FixedEnvironment>()).unwrap();
    assert_eq!(config.secret.value.as_ref().unwrap().reveal(), "hush-hush");
    assert!(config.secret.is_from_user() && !format!("{config:?}").contains("hush"));
    let bad = [("UCCL_P2P_SECRET", "hush-hush"), ("UCCL_P2P_PEER_TIMEOUT_SECONDS", "x")];
    let error = Config::from_environment(&bad.into_iter().collect::<FixedEnvironment>()).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"));
}

#[test]
fn the_table_prints_as_a_document() {
    let text = documentation();
    assert_eq!(text.lines().count(), VARIABLES.len() + 2);
    for line in text.lines() {
        assert_eq!(line.replace("\\|", "").matches('|').count(), 5, "{line}");
    }
    assert!(text.contains("| `UCCL_TCPX_NUM_CHANNELS` | 1 | 1 to 16 | channels of the connections"));
    assert!(text.contains("| `UCCL_TCPX_LOCAL_DEVICE`, `UCCL_TCPX_DEVICE_IDX` | 0 | 0 to 255 |"));
    assert!(text.contains("| `NCCL_DEBUG_FILE` | unset |"));
}

#[test]
fn the_document_of_the_repository_holds_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/VARIABLES.md");
    let document = std::fs::read_to_string(&file).unwrap();
    for line in documentation().lines() {
        assert!(document.lines().any(|known| known == line), "missing in {}:\n{line}", file.display());
    }
}

#[test]
fn this_process_has_an_environment() {
    assert_eq!(ProcessEnvironment.variable("PATH"), std::env::var_os("PATH"));
    assert_eq!(ProcessEnvironment.names().len(), std::env::vars_os().count());
}

#[test]
fn interface_filters_follow_the_plugins_rules() {
    let chosen = |text: &str| {
        let filter = InterfaceFilter::parse(OsStr::new(text)).unwrap();
        let names = ["docker0", "eth0", "eth1", "eth10", "lo"];
        names.into_iter().filter(|name| filter.matches(name)).collect::<Vec<_>>()
    };
    assert_eq!(chosen("eth1"), ["eth1", "eth10"]);
    assert_eq!(chosen("=eth1"), ["eth1"]);
    assert_eq!(chosen("^eth1"), ["docker0", "eth0", "lo"]);
    assert_eq!(chosen("^=eth1"), ["docker0", "eth0", "eth10", "lo"]);
    assert_eq!(chosen("^docker,lo"), ["eth0", "eth1", "eth10"]);
    assert_eq!(chosen("lo,eth0:5"), ["eth0", "lo"]);
}

#[test]
fn maps_say_which_nics_a_gpu_has() {
    let map = GpuNicMap::parse(OsStr::new("0,1:eth1;2:eth3,eth2;*:eth4")).unwrap();
    let nics = |gpu| map.nics(GpuIndex::new(gpu).unwrap()).unwrap();
    assert_eq!((nics(0), nics(1)), (&["eth1".to_owned()][..], &["eth1".to_owned()][..]));
    assert_eq!(nics(2), ["eth3", "eth2"]);
    assert_eq!(nics(7), ["eth4"]);
    assert_eq!(map.gpus().map(GpuIndex::get).collect::<Vec<_>>(), [0, 1, 2]);
    let only = GpuNicMap::parse(OsStr::new("0:eth1")).unwrap();
    assert_eq!(only.nics(GpuIndex::new(1).unwrap()), None);
}

#[test]
fn device_choices_tell_indices_from_names() {
    let choice = DeviceChoice::parse(OsStr::new("2,eth1, 10.0.0.1")).unwrap();
    let name = |name: &str| DeviceSelector::Name(name.to_owned());
    assert_eq!(choice.selectors(), [DeviceSelector::Index(2), name("eth1"), name("10.0.0.1")]);
}

#[test]
fn log_files_take_host_and_process() {
    let path = |text: &str| LogFile::parse(OsStr::new(text)).unwrap().path(OsStr::new("node1"), 42);
    assert_eq!(path("/log/%h.%p.txt"), Path::new("/log/node1.42.txt"));
    assert_eq!(path("100%%-%x-%"), Path::new("100%-%x-%"));
}

#[test]
fn subsystems_are_bits_and_may_be_inverted() {
    let bits = |text: &str| Subsystems::parse(OsStr::new(text)).unwrap().0;
    assert_eq!(bits("INIT,net"), 0x11);
    assert_eq!(bits("^INIT"), !1);
    assert_eq!(bits("ALL"), u64::MAX);
}

#[test]
fn the_bootstrap_port_counts_from_its_base() {
    let last = PortBase::MAX.of(GpuIndex::MAX);
    assert_eq!((last, PortBase::MIN.of(GpuIndex::MIN)), (Port::new(65535).unwrap(), Port::MIN));
}

proptest! {
    #[test]
    fn reading_never_panics(index in 0..VARIABLES.len(), value in prop::collection::vec(1u8..=255, 0..24)) {
        let environment: FixedEnvironment =
            [(VARIABLES[index].name, OsStr::from_bytes(&value))].into_iter().collect();
        let _ = Config::from_environment(&environment);
    }

    #[test]
    fn windows_are_taken_from_1_to_16_only(value in 0u64..1000) {
        let config = read(&[("UCCL_TCPX_MAX_RECV_INFLIGHT", &value.to_string())]);
        prop_assert_eq!(config.is_ok(), (1..=16).contains(&value));
    }

    #[test]
    fn chunks_are_whole_pages(value in 0u64..(1 << 28)) {
        let config = read(&[("UCCL_TCPX_CHUNK_BYTES", &value.to_string())]);
        prop_assert_eq!(config.is_ok(), (4096..=1 << 26).contains(&value) && value % 4096 == 0);
    }

    #[test]
    fn plugin_integers_agree_in_every_base(value in 0u64..2_147_483_647) {
        for text in [format!("{value}"), format!("{value:#x}"), format!("0{value:o}")] {
            let read = read(&[("NCCL_DYNAMIC_CHUNK_SIZE", &text)]).unwrap();
            prop_assert_eq!(read.dynamic_chunk_size.value.get(), value);
        }
    }
}
