//! Many threads at once, and what a transfer costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures::executor::block_on;
use futures::future::join_all;
use p2p_transport::asynchronous::{Driver, TransferError, open};
use p2p_transport::{Next, Now, Transport};

use super::support::Loopback;
use super::support::NIC;
use super::{AsyncTransport, ByHand, connected, limited, memory, options, poll};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Turns a driver in this thread, which sleeps without a bound, until nobody needs it.
fn drive(mut driver: Driver<impl Transport>) -> u64 {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut turns = 0;
    while !driver.is_finished() {
        turns += 1;
        match driver.turn(Now::default(), &waker) {
            Next::Again | Next::Spin => {}
            Next::Wait(_) | Next::Idle(_) if driver.is_finished() => {}
            Next::Wait(_) | Next::Idle(_) => thread::park(),
        }
    }
    assert_eq!(driver.strays(), 0);
    turns
}

/// A little generator, so that a seed tells the whole story of a thread.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

#[test]
fn thousands_of_transfers_from_several_threads_share_few_slots() {
    limited(|| {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 150;
        for seed in 0..6 {
            let (handle, driver) = open(Loopback::new(3, seed % 2 == 0), options(2 + seed as u16));
            let driver = thread::spawn(move || drive(driver));
            let moved = AtomicU64::new(0);
            thread::scope(|scope| {
                for at in 0..THREADS {
                    let (handle, moved) = (&handle, &moved);
                    scope.spawn(move || {
                        let mut dice = Dice(seed * 100 + at);
                        block_on(async {
                            let (here, there) = connected(handle).await;
                            let (memory, host) = memory(64);
                            let region = handle.register(NIC, memory).await.expect("registers");
                            for round in 0..ROUNDS {
                                let len = dice.below(32) as u32;
                                let (from, into) = ([region.slice(0, len)], [region.slice(32, 32)]);
                                let count = 1 + dice.below(12);
                                let sends = join_all((0..count).map(|_| here.send(&from)));
                                let recvs = join_all((0..count).map(|_| there.recv(&into)));
                                let (sent, received) = futures::join!(sends, recvs);
                                for ended in sent.into_iter().chain(received) {
                                    assert_eq!(ended, Ok(len), "seed {seed}, thread {at}, round {round}");
                                    moved.fetch_add(1, Relaxed);
                                }
                            }
                            drop(region.reclaim().await.expect("comes back"));
                            assert_eq!(host.owners(), 1, "seed {seed}");
                            handle.close(&here).await;
                        });
                    });
                }
            });
            assert_eq!(handle.under_way(), 0, "seed {seed}");
            assert!(moved.load(Relaxed) > THREADS * ROUNDS);
            drop(handle);
            driver.join().expect("ends");
        }
    });
}

#[test]
fn transfers_dropped_and_cancelled_at_any_time_lose_no_slot() {
    limited(|| {
        const THREADS: u64 = 3;
        for seed in 0..8 {
            let (handle, driver) = open(Loopback::new(2, true), options(4));
            let driver = thread::spawn(move || drive(driver));
            thread::scope(|scope| {
                for at in 0..THREADS {
                    let handle = &handle;
                    scope.spawn(move || {
                        let mut dice = Dice(seed * 100 + at);
                        block_on(async {
                            let (here, there) = connected(handle).await;
                            let (memory, host) = memory(64);
                            let region = handle.register(NIC, memory).await.expect("registers");
                            let slices = [region.slice(0, 8)];
                            for _ in 0..800 {
                                let conn = if dice.below(2) == 0 { &here } else { &there };
                                let mut transfer =
                                    if dice.below(2) == 0 { conn.send(&slices) } else { conn.recv(&slices) };
                                match dice.below(4) {
                                    0 => drop(poll(&mut transfer)),
                                    1 => {
                                        transfer.start().await;
                                        thread::yield_now();
                                    }
                                    2 => drop(transfer.try_start()),
                                    _ => {
                                        transfer.start().await;
                                        transfer.cancel();
                                        let ended = transfer.await;
                                        let legal = matches!(ended, Ok(8) | Err(TransferError::Cancelled));
                                        assert!(legal, "seed {seed}: {ended:?}");
                                        continue;
                                    }
                                }
                                // What is left over would fill the few slots: ask for it to go.
                                transfer.cancel();
                            }
                            handle.close(&here).await;
                            there.closed().await;
                            drop(region.reclaim().await.expect("comes back"));
                            assert_eq!(host.owners(), 1, "seed {seed}");
                        });
                    });
                }
            });
            assert_eq!(handle.under_way(), 0, "seed {seed}");
            drop(handle);
            driver.join().expect("ends");
        }
    });
}

#[test]
fn a_transfer_allocates_nothing() {
    let mut all = ByHand::new(4, 1);
    let (here, there) = all.pair();
    let (region, _host) = all.region(64);
    let (from, into) = ([region.slice(0, 8)], [region.slice(32, 8)]);
    let mut ended = 0;
    let mut run = |all: &mut ByHand<Loopback>| {
        for _ in 0..200 {
            // The second one of each way has to wait for a slot.
            let mut transfers = [here.send(&from), there.recv(&into), here.send(&from), there.recv(&into)];
            let mut left = transfers.len();
            let mut done = [false; 4];
            while left > 0 {
                for (transfer, done) in transfers.iter_mut().zip(&mut done).filter(|(_, done)| !**done) {
                    if let Poll::Ready(end) = poll(transfer) {
                        assert_eq!(end, Ok(8));
                        (*done, left, ended) = (true, left - 1, ended + 1);
                    }
                }
                all.turn();
            }
            let mut withdrawn = here.send(&from);
            assert!(withdrawn.try_start());
            withdrawn.cancel();
            all.turn();
            assert_eq!(poll(&mut withdrawn), Poll::Ready(Err(TransferError::Cancelled)));
        }
    };
    run(&mut all);
    let info = allocation_counter::measure(|| run(&mut all));
    assert_eq!(info.count_total, 0);
    assert_eq!(ended, 1600);
}
