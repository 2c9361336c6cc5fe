//! How fast messages are made and checked: it bounds how long a verified pass takes.

#![allow(missing_docs, reason = "the macros make a public function without any")]

use std::hint::black_box;

use benches::pattern;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const MESSAGE: usize = 4 << 20;

fn messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pattern");
    group.throughput(Throughput::Bytes(MESSAGE as u64));
    let mut bytes = vec![0; MESSAGE];
    group.bench_function("fill", |bencher| bencher.iter(|| pattern::fill(black_box(&mut bytes), 1, 0)));
    group.bench_function("poison", |bencher| bencher.iter(|| pattern::poison(black_box(&mut bytes), 1, 0)));
    pattern::fill(&mut bytes, 1, 0);
    group.bench_function("check", |bencher| bencher.iter(|| pattern::check(black_box(&bytes), 1, 0)));
    group.finish();
}

criterion_group!(all, messages);
criterion_main!(all);
