//! What is done for every message, without a network: submit and poll over a plugin that does nothing, the
//! window below it, and the words of the exchange stream.

#![allow(missing_docs, reason = "the macros make a public function without any")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use p2p_transport::{Op, Token};
use tcpx_core::Handle;
use tcpx_core::window::Window;
use wire::{Hello, Word};

#[path = "../examples/null/pair.rs"]
mod pair;
#[allow(dead_code, reason = "the connection uses the rest")]
#[path = "../src/exchange/wire.rs"]
mod wire;

/// Operations of a batch: a window of sends.
const BATCH: usize = 12;

fn submit_and_poll(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("submit and poll");
    for channels in [1, 4] {
        let mut end = pair::End::new(channels).expect("two ends of this process");
        let mut number = 0;
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("one, {channels} channels"), |bencher| {
            bencher.iter(|| {
                number += 1;
                assert!(end.one(number));
            });
        });
        let slices: Vec<_> = (0..BATCH as u64).map(|at| [end.slice(at * 4096, 4096)]).collect();
        let sends: Vec<_> = slices.iter().map(|from| Op::Send { token: Token(1), from }).collect();
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function(format!("a batch of {BATCH}, {channels} channels"), |bencher| {
            bencher.iter(|| assert_eq!(end.cycle(&sends), BATCH));
        });
        let scattered: Vec<_> = (0..64).map(|at| end.slice(at * 8192, 4096)).collect();
        let scattered = [Op::Send { token: Token(1), from: &scattered }];
        if end.cycle(&scattered) == 1 {
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("64 slices, {channels} channels"), |bencher| {
                bencher.iter(|| assert_eq!(end.cycle(&scattered), 1));
            });
        }
    }
    group.finish();
}

fn window(criterion: &mut Criterion) {
    let mut window: Window<u64, 16> = Window::new();
    criterion.bench_function("window, post to release", |bencher| {
        bencher.iter(|| {
            window.post(black_box(7)).expect("room");
            assert!(window.oldest_in_flight().is_some() && window.finish_oldest());
            assert_eq!(window.release_oldest(), Some(7));
        });
    });
}

fn words(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("words");
    let hello = Hello { key: [7; 16], channels: 4, max_message: 4 << 20, plugin: "null".to_owned() };
    let handles = vec![Handle::new([5; Handle::BYTES]); 4];
    let words = [
        ("hello", Word::Hello(hello)),
        ("welcome, 4 channels", Word::Welcome { max_message: 4 << 20, handles }),
        ("closing, 4 channels", Word::Closing { sent: vec![1, 2, 3, 4] }),
    ];
    for (name, word) in words {
        let mut bytes = Vec::with_capacity(1024);
        group.bench_function(format!("write {name}"), |bencher| {
            bencher.iter(|| {
                bytes.clear();
                black_box(&word).write(&mut bytes);
            });
        });
        group.bench_function(format!("read {name}"), |bencher| {
            bencher.iter(|| assert!(matches!(Word::read(black_box(&bytes)), Ok(Some(_)))));
        });
    }
    group.finish();
}

criterion_group!(all, submit_and_poll, window, words);
criterion_main!(all);
