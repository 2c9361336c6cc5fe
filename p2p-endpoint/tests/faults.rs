//! Whole endpoints in random worlds with faults.

mod support;

use support::sim;

/// Seeds of an ordinary test run; `P2P_ENDPOINT_SEEDS` asks for another number, from `P2P_ENDPOINT_SEED` on.
const SEEDS: u64 = 200;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_byte_and_every_end_is_right_whatever_breaks() {
    let first = variable("P2P_ENDPOINT_SEED", 1);
    let last = first + variable("P2P_ENDPOINT_SEEDS", SEEDS);
    let (mut transfers, mut done, mut bytes) = (0, 0, 0);
    for seed in first..last {
        let ran = sim::run(seed);
        assert!(
            ran.findings.is_empty(),
            "seed {seed}: {:#?}\nagain: P2P_ENDPOINT_SEED={seed} P2P_ENDPOINT_SEEDS=1 cargo test -p p2p-endpoint --test faults",
            ran.findings
        );
        (transfers, done, bytes) = (transfers + ran.transfers, done + ran.done, bytes + ran.bytes);
    }
    println!("{} seeds: {transfers} transfers, {done} of them done, {bytes} bytes", last - first);
    assert!(last - first < 100 || done * 5 > transfers, "{done} of {transfers} transfers were done");
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in [3, 77] {
        let (one, other) = (sim::run(seed), sim::run(seed));
        assert_eq!((one.trace, one.done, one.bytes), (other.trace, other.done, other.bytes));
    }
}
