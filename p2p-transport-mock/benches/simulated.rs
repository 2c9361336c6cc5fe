//! What a message costs in a simulation, in real time: it bounds how many steps a minute of `xtask sim` has.

#![allow(missing_docs, reason = "the macros make a public function without any")]

use criterion::{Criterion, criterion_group, criterion_main};
use p2p_transport_mock::Settings;

#[path = "../examples/pair/mod.rs"]
mod pair;

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulated submit and poll");
    for (name, settings) in [("plugin", Settings::plugin()), ("rdma", Settings::rdma())] {
        for len in [1 << 10, 256 << 10] {
            let mut pair = pair::Pair::new(settings.clone()).expect("two ends of a world");
            group.bench_function(format!("{name}, {} KiB", len >> 10), |bencher| {
                bencher.iter(|| assert!(pair.message(len)));
            });
        }
    }
    group.finish();
}

criterion_group!(all, messages);
criterion_main!(all);
