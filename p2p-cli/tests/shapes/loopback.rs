//! Both hosts on this machine: addresses of 127.0.0.0/8 stand for their NICs.

use serde_json::Value;

use crate::program::{all_moved, bench, finish, free_port, good, kept, passes, says, threads};

const PHASES: [&str; 4] = ["listen", "bootstrap", "accept", "register"];

/// What it said, and what it kept.
#[track_caller]
fn run(arguments: &[&str]) -> (String, Vec<Value>) {
    run_with(arguments, &[])
}

#[track_caller]
fn run_with(arguments: &[&str], variables: &[(&str, &str)]) -> (String, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("out.json");
    let mut command = bench(arguments);
    command.arg("--json").arg(&json).env("UCCL_TCPX_BOOTSTRAP_PORT_BASE", free_port().to_string());
    let said = good(&finish(command.envs(variables.iter().copied()).spawn().unwrap()));
    (said, kept(&json))
}

/// Lines of the phases, in the order in which they were shown.
fn phases(said: &str) -> Vec<&str> {
    let words = said.lines().filter_map(|line| line.split(' ').next());
    words.filter(|word| PHASES.contains(word)).collect()
}

#[test]
fn the_setup_of_all_channels_goes_through_its_phases_and_moves_nothing() {
    let (said, shapes) = run(&["--shape", "orchestrator", "--setup-only", "--sizes", "4K"]);
    assert_eq!(phases(&said), PHASES, "{said}");
    assert!(said.contains("setup only") && !said.contains("\ndata"), "{said}");
    let [shape] = &shapes[..] else { panic!("{shapes:?}") };
    assert_eq!((&shape["channels"], &shape["endpoints"]), (&64.into(), &16.into()));
    let counts: Vec<u64> =
        shape["phases"].as_array().unwrap().iter().map(|phase| phase["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [16, 16, 64, 16]);
    assert!(passes(shape).is_empty());
    for host in shape["nics"].as_array().unwrap() {
        assert_eq!(host.as_array().unwrap().len(), 4, "as many NICs as an A3-high machine has");
    }
    // Who listens already goes on listening, and leaves nothing behind.
    let again = &shape["listened_again"];
    assert_eq!([&again["opened"], &again["descriptors"], &again["threads"]], [&Value::from(0); 3]);
}

#[test]
fn threads_do_not_grow_with_channels_and_every_byte_arrives() {
    let with = |channels: &str| {
        let line =
            ["--shape", "orchestrator", "--sizes", "300001,1M", "--seconds", "1", "--channels", channels];
        let (_, shapes) = run(&line);
        let [shape] = <[Value; 1]>::try_from(shapes).unwrap();
        all_moved(&shape, 8);
        shape
    };
    let (few, many) = (with("1"), with("8"));
    assert_eq!((&few["channels"], &many["channels"]), (&8.into(), &64.into()));
    assert_eq!(threads(&few), threads(&many));
    for pass in passes(&many) {
        for pair in pass["by_pair"].as_array().unwrap() {
            assert_eq!(pair["rails"].as_array().unwrap().len(), 4, "all NICs on the soft plugin: {pair}");
        }
    }
    // Few channels do not crowd one NIC.
    assert_eq!(few["nics"][0].as_array().unwrap().len(), 4);
}

#[test]
fn threads_do_not_grow_with_peers_and_each_gpu_keeps_to_its_nic() {
    let with = |gpus: &str, pairs| {
        let line = ["--shape", "per-gpu", "--sizes", "64K,100001", "--seconds", "1", "--gpus", gpus];
        let (said, shapes) = run(&line);
        assert_eq!(phases(&said), PHASES, "{said}");
        let [shape] = <[Value; 1]>::try_from(shapes).unwrap();
        all_moved(&shape, pairs);
        shape
    };
    let (few, many) = (with("0", 1), with("0,1,2,6", 16));
    assert_eq!(threads(&few), threads(&many));
    assert_eq!(many["processes"], 8);
    // Two GPUs of one root share a NIC; each NIC carries exactly what its GPUs move.
    for pass in passes(&many) {
        for pair in pass["by_pair"].as_array().unwrap() {
            let nic = |name: &Value| match name.as_str().unwrap().rsplit(' ').next().unwrap() {
                "0" | "1" => "lo-127.0.0.1",
                "2" => "lo-127.0.0.2",
                _ => "lo-127.0.0.4",
            };
            assert_eq!(pair["rails"], Value::from([format!("{}-{}", nic(&pair["from"]), nic(&pair["to"]))]));
        }
        for nic in pass["by_nic"].as_array().unwrap() {
            let share = |name: &str| nic[name].as_f64().unwrap();
            assert!((share("share") - share("expected_share")).abs() < 1e-9, "{nic}");
            assert!(share("share") > 0.0, "{nic}");
        }
    }
}

#[test]
fn the_users_own_map_has_the_word() {
    let map = ("UCCL_TCPX_GPU_NIC_MAP", "0:lo-127.0.0.3;*:lo-127.0.0.2,lo-127.0.0.1");
    let addresses = ("TCPX_SOFT_ADDRESSES", "127.0.0.1,127.0.0.2,127.0.0.3");
    let line = |shape| ["--shape", shape, "--sizes", "64K", "--seconds", "1", "--gpus", "0,1"];
    let rails = |shape: &Value, pair: usize| passes(shape)[0]["by_pair"][pair]["rails"].clone();
    let (_, shapes) = run_with(&line("per-gpu"), &[map, addresses]);
    assert_eq!(rails(&shapes[0], 1), Value::from(["lo-127.0.0.3-lo-127.0.0.2"]));
    let (_, shapes) = run_with(&line("orchestrator"), &[map, addresses]);
    assert_eq!(rails(&shapes[0], 0), Value::from(["lo-127.0.0.3-lo-127.0.0.3"]));
    let both = ["lo-127.0.0.2-lo-127.0.0.2", "lo-127.0.0.1-lo-127.0.0.1"];
    assert_eq!(rails(&shapes[0], 1), Value::from(both));
    let wrong = bench(&line("per-gpu")).env("UCCL_TCPX_GPU_NIC_MAP", "0:eth7").spawn().unwrap();
    let output = finish(wrong);
    assert!(String::from_utf8_lossy(&output.stderr).contains("UCCL_TCPX_GPU_NIC_MAP names NIC eth7"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn both_shapes_stand_side_by_side() {
    let (said, shapes) = run(&["--shape", "both", "--sizes", "64K", "--seconds", "1", "--gpus", "2,5"]);
    assert_eq!(phases(&said), [PHASES, PHASES].concat(), "{said}");
    let names: Vec<&Value> = shapes.iter().map(|shape| &shape["shape"]).collect();
    assert_eq!(names, ["orchestrator", "per-gpu"]);
    all_moved(&shapes[0], 2);
    all_moved(&shapes[1], 4);
    // The channels that each shape has unless it is told: eight for each GPU, four for each pair.
    assert_eq!((&shapes[0]["channels"], &shapes[1]["channels"]), (&16.into(), &16.into()));
    let row = said.lines().find(|line| line.starts_with("pairs ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["pairs", "2", "4"], "{said}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let refused = |line: &[&str], parts: &[&str]| {
        says(&finish(bench(&[&["--shape", "orchestrator"], line].concat()).spawn().unwrap()), parts);
    };
    refused(&["--backend", "mock"], &["--backend mock", "--shape"]);
    refused(&["--calibrate"], &["--calibrate", "--shape"]);
    refused(&["--sweep", "chunk"], &["--sweep", "--shape"]);
    refused(&["--gpus", "1,2,1"], &["--gpus", "twice"]);
    refused(&["--rank", "0", "--world", "2", "--role", "server"], &["--rank", "--role"]);
    let mut both = bench(&["--shape", "both", "--rank", "0", "--world", "2"]);
    says(&finish(both.spawn().unwrap()), &["--shape both"]);
    let mut nics = bench(&["--shape", "per-gpu", "--nics", "3", "--rank", "0", "--world", "2"]);
    let output = finish(nics.env("TCPX_SOFT_ADDRESSES", "127.0.0.1").spawn().unwrap());
    says(&output, &["--nics 3", "TCPX_SOFT_ADDRESSES"]);
}
