//! Two hosts of four NICs, with links that decide how fast things are, and not cores.

use std::io::{BufRead, BufReader};
use std::process::Child;

use serde_json::Value;

use crate::network::{NICS, Network, inside};
use crate::program::{all_moved, finish, good, kept, passes, text};

/// What headers and acknowledgements add to bytes that a NIC receives, at most, as a part of them.
const OVERHEAD: f64 = 0.08;
/// The same of bytes that a NIC sends. Where many NICs send to one, the router drops packets, which are sent again.
const SENT_AGAIN: f64 = 0.5;
/// The same of what belongs to no pass: words between the processes, and packets that name neighbours. In bytes.
const ASIDE: f64 = 300e3;

/// Starts both ends of a run: the server is host 0.
fn start(network: &Network, arguments: &[&str], variables: &[(&str, &str)]) -> [Child; 2] {
    let mut server = network.bench(0, &[arguments, &["--role", "server"]].concat());
    let server = server.envs(variables.iter().copied()).spawn().unwrap();
    let mut client =
        network.bench(1, &[arguments, &["--role", "client", "--peer", &Network::address(0)]].concat());
    [server, client.envs(variables.iter().copied()).spawn().unwrap()]
}

/// A run that goes well, and what it told of its shape at either end.
fn run(network: &Network, arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let files = ["server", "client"].map(|name| folder.path().join(name));
    let [server, client] =
        start(network, &[arguments, &["--json", files[1].to_str().unwrap()]].concat(), &[]);
    let (client, server) = (finish(client), finish(server));
    good(&client);
    good(&server);
    kept(&files[1]).remove(0)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Each NIC carried what the endpoints say, by the kernel's count as well.
#[track_caller]
fn counts_agree(pass: &Value) {
    for nic in pass["by_nic"].as_array().unwrap() {
        let kernel = &nic["kernel"];
        // One way has the bytes, the other what acknowledges them.
        let (sent, received) = (number(&kernel["sent"]), number(&kernel["received"]));
        let overhead = if received > sent { OVERHEAD } else { SENT_AGAIN };
        let (counted, bytes) = (sent.max(received), number(&nic["bytes"]));
        assert!(counted >= bytes && counted <= bytes * (1.0 + overhead) + ASIDE, "{nic}");
    }
}

/// Bytes of each NIC of both hosts, all these passes together.
fn by_nic(passes: &[&Value]) -> [[f64; NICS]; 2] {
    let mut sums = [[0.0; NICS]; 2];
    for nic in passes.iter().flat_map(|pass| pass["by_nic"].as_array().unwrap()) {
        let name = nic["nic"].as_str().unwrap();
        let at: usize = name.strip_prefix("rail").unwrap().parse().unwrap();
        sums[nic["host"].as_u64().unwrap() as usize][at] += number(&nic["bytes"]);
    }
    sums
}

#[test]
fn an_orchestrator_spreads_unequal_sizes_evenly_over_all_nics() {
    inside("hosts::an_orchestrator_spreads_unequal_sizes_evenly_over_all_nics", || {
        let network = Network::new(None);
        let arguments = ["--shape", "orchestrator", "--sizes", "8M,24M", "--seconds", "2"];
        // Chance makes a NIC's part of few messages a little larger or smaller: then more of them are looked at.
        let mut runs = Vec::new();
        let worst = loop {
            let shape = run(&network, &arguments);
            assert_eq!((&shape["channels"], &shape["pairs"]), (&64.into(), &8.into()));
            all_moved(&shape, 8);
            passes(&shape).iter().for_each(counts_agree);
            runs.push(shape);
            let sums = by_nic(&runs.iter().flat_map(passes).collect::<Vec<_>>());
            let of_even = |host: &[f64; NICS]| {
                let even = host.iter().sum::<f64>() / NICS as f64;
                host.iter().map(|bytes| (bytes / even - 1.0).abs()).fold(0.0, f64::max)
            };
            let worst = sums.iter().map(of_even).fold(0.0, f64::max);
            eprintln!("run {}: {sums:.0?}, {:.1} % off at most", runs.len(), worst * 100.0);
            if worst <= 0.05 || runs.len() == 6 {
                break worst;
            }
        };
        assert!(worst <= 0.05, "{:.1} % off", worst * 100.0);
    });
}

#[test]
fn processes_of_one_gpu_each_keep_to_their_nics_in_a_full_mesh() {
    inside("hosts::processes_of_one_gpu_each_keep_to_their_nics_in_a_full_mesh", || {
        let network = Network::new(None);
        // The size of a pair is that of its second GPU.
        let sizes = "100K,200K,300K,400K,500K,600K,700K,800K";
        let shape = run(&network, &["--shape", "per-gpu", "--sizes", sizes, "--seconds", "1"]);
        assert_eq!((&shape["processes"], &shape["channels"]), (&16.into(), &256.into()));
        all_moved(&shape, 64);
        for pass in passes(&shape) {
            counts_agree(pass);
            let [even, by_size] = by_nic(&[pass]);
            let kib = number(&pass["messages"]) * 1024.0;
            for nic in 0..NICS {
                // Two GPUs on each NIC: all sizes twice at one host, and two sizes eight times at the other.
                let there = kib * 8.0 * (300.0 + 400.0 * nic as f64);
                assert_eq!((even[nic], by_size[nic]), (kib * 7200.0, there), "NIC {nic}: {pass}");
            }
        }
    });
}

#[test]
fn bytes_move_away_from_a_link_at_a_quarter_of_the_speed() {
    inside("hosts::bytes_move_away_from_a_link_at_a_quarter_of_the_speed", || {
        let network = Network::new(Some((0, NICS - 1)));
        let line = ["--shape", "orchestrator", "--gpus", "0", "--sizes", "64M", "--seconds", "8"];
        let shape = run(&network, &line);
        all_moved(&shape, 1);
        let timed: Vec<&Value> = passes(&shape).iter().filter(|pass| pass["verified"] == false).collect();
        assert_eq!(timed.len(), 2);
        let [host, _] = by_nic(&timed);
        let sum: f64 = host.iter().sum();
        let shares = host.map(|bytes| bytes / sum);
        eprintln!("shares {shares:.3?}");
        // All four end at the same time if it has a thirteenth; an even share would be a quarter.
        assert!((0.04..=0.16).contains(&shares[NICS - 1]), "{shares:?}");
        assert!(shares[..NICS - 1].iter().all(|share| (0.22..=0.38).contains(share)), "{shares:?}");
    });
}

/// What the client says, until a line has this in it.
fn wait_for(said: &mut impl BufRead, part: &str) -> String {
    let mut all = String::new();
    while !all.contains(part) {
        assert!(said.read_line(&mut all).unwrap() > 0, "it ended before it said {part:?}: {all}");
    }
    all
}

/// Starts a run, pulls a link of host 1 while the timed pass goes on, and returns what was kept.
fn pull(arguments: &[&str], how: &str) -> Value {
    let network = Network::new(None);
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("out.json");
    let arguments = [arguments, &["--json", json.to_str().unwrap()]].concat();
    let [server, mut client] = start(&network, &arguments, &[]);
    let mut said = BufReader::new(client.stdout.take().unwrap());
    wait_for(&mut said, "write of all pairs, timed");
    std::thread::sleep(std::time::Duration::from_millis(500));
    network.host(1, how);
    let rest = wait_for(&mut said, "FAILED");
    let (client, server) = (finish(client), finish(server));
    assert_eq!(client.status.code(), Some(1), "{rest}{}", text(&client.stderr));
    assert!(server.status.success(), "{}", text(&server.stderr));
    kept(&json).remove(0)
}

/// The passes from the first one on of which a pair failed. The link may have been pulled late, on a busy machine.
fn since_the_pull(shape: &Value) -> &[Value] {
    let passes = passes(shape);
    let first = passes.iter().position(|pass| pairs(pass).any(has_failed)).unwrap();
    &passes[first..]
}

fn pairs(pass: &Value) -> impl Iterator<Item = &Value> {
    pass["by_pair"].as_array().unwrap().iter()
}

fn has_failed(pair: &Value) -> bool {
    number(&pair["failed"]) > 0.0
}

#[test]
fn a_pulled_link_fails_the_pairs_of_its_nic_and_no_other() {
    inside("hosts::a_pulled_link_fails_the_pairs_of_its_nic_and_no_other", || {
        let line = ["--shape", "per-gpu", "--sizes", "256K", "--seconds", "12"];
        let shape = pull(&line, "ip link set rail2 down");
        let uses = |pair: &Value| pair["rails"][0].as_str().unwrap().ends_with("-rail2");
        for (at, pass) in since_the_pull(&shape).iter().enumerate() {
            for pair in pairs(pass) {
                if !uses(pair) {
                    assert_eq!(
                        (&pair["failed"], &pair["messages"]),
                        (&0.into(), &pass["messages"]),
                        "{pair}"
                    );
                } else if has_failed(pair) {
                    let why = pair["reason"].as_str().unwrap();
                    let said = ["was lost", "is lost", "ended the link", "nothing finished"];
                    assert!(said.iter().any(|part| why.contains(part)), "{why}");
                } else {
                    assert_eq!(at, 0, "only before the link was pulled: {pair}");
                }
            }
            let whole = pairs(pass).filter(|pair| !has_failed(pair)).count();
            assert!(whole >= 48 && (at == 0 || whole == 48), "{whole} of 64 went well");
        }
    });
}

#[test]
fn an_orchestrator_goes_on_over_the_links_that_are_left() {
    inside("hosts::an_orchestrator_goes_on_over_the_links_that_are_left", || {
        let line = ["--shape", "orchestrator", "--sizes", "2M,4M", "--seconds", "12"];
        let shape = pull(&line, "ip link delete rail2");
        let mut failed = [false; 8];
        for pass in since_the_pull(&shape) {
            let over = failed.iter().all(|failed| *failed);
            for (pair, failed) in pairs(pass).zip(&mut failed) {
                if has_failed(pair) {
                    assert!(!*failed, "three NICs are left: {pair}");
                    let why = pair["reason"].as_str().unwrap();
                    assert!(why.contains("(rail2-rail2) was lost"), "{pair}");
                    *failed = true;
                } else {
                    assert_eq!(pair["messages"], pass["messages"], "{pair}");
                }
            }
            let [host, _] = by_nic(&[pass]);
            assert!(!over || host[2] == 0.0, "{host:?}");
        }
    });
}
