//! The same work under two executors, with a driver that sleeps for ever unless it is woken.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;
use futures::executor::{ThreadPool, block_on};
use futures::future::join_all;
use futures::task::SpawnExt;
use p2p_memory::SharedHost;
use p2p_transport::asynchronous::{AsyncTransport, Connection, Handle, Region, open};
use p2p_transport::{Damage, Faulty, Now, Traced, Transport};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::support::{Device, Loopback, NIC, memory, pattern};
use super::{connected, limited, options, poll};

const COUNT: u64 = 200;
const LENGTH: u32 = 100;

/// Sends from one end, receives at the other, and checks every byte.
async fn stream(from: &Connection, to: &Connection, seed: u64, source: &Region, target: &Region) {
    let sends = async {
        for first in (0..COUNT).step_by(8) {
            let slices: Vec<_> = (first..first + 8).map(|at| [source.slice(at * 100, LENGTH)]).collect();
            let mut transfers: Vec<_> = slices.iter().map(|slices| from.send(slices)).collect();
            for transfer in &mut transfers {
                transfer.start().await;
            }
            for done in join_all(transfers).await {
                assert_eq!(done, Ok(LENGTH), "seed {seed}");
            }
        }
    };
    let recvs = async {
        for at in 0..COUNT {
            // Cut differently.
            let into = [target.slice(at * 100, 33), target.slice(at * 100 + 33, LENGTH - 33)];
            assert_eq!(to.recv(&into).await, Ok(LENGTH), "seed {seed}");
        }
    };
    futures::join!(sends, recvs);
}

async fn work(handle: Handle, seed: u64) {
    let total = (COUNT * u64::from(LENGTH)) as usize;
    let (here, there) = connected(&handle).await;
    let mut sides: Vec<(Region, SharedHost, Region, SharedHost)> = Vec::new();
    for side in 0..2 {
        let (source, from) = memory(total);
        let (target, into) = memory(total);
        from.copy_in(0, &pattern(seed + side, total)).expect("fits");
        let source = handle.register(NIC, source).await.expect("registers");
        sides.push((source, from, handle.register(NIC, target).await.expect("registers"), into));
    }
    let [one, other] = &sides[..] else { panic!("two sides") };
    futures::join!(
        stream(&here, &there, seed, &one.0, &one.2),
        stream(&there, &here, seed, &other.0, &other.2)
    );
    for ((source, from, target, into), side) in sides.into_iter().zip(0..) {
        let mut bytes = vec![0; total];
        into.copy_out(0, &mut bytes).expect("inside");
        assert_eq!(bytes, pattern(seed + side, total), "seed {seed}");
        drop(source.reclaim().await.expect("comes back"));
        assert_eq!(from.owners(), 1);
        drop(target);
    }
    handle.close(&here).await;
}

/// Runs the work in a task of its own beside the driver's, and waits until both have ended.
fn under_tokio(transport: impl Transport + 'static, seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("starts");
    let (handle, mut driver) = open(transport, options(8));
    runtime.block_on(async move {
        let turned = tokio::spawn(async move {
            let mut turns = 0;
            let clock = || {
                turns += 1;
                Now::default()
            };
            driver.run(clock, |_, _| std::future::pending()).await;
            turns
        });
        tokio::spawn(work(handle, seed)).await.expect("works");
        turned.await.expect("ends")
    })
}

fn under_futures(transport: impl Transport + 'static, seed: u64) {
    let pool = ThreadPool::builder().pool_size(2).create().expect("starts");
    let (handle, mut driver) = open(transport, options(8));
    let turned = pool
        .spawn_with_handle(async move { driver.run(Now::default, |_, _| std::future::pending()).await })
        .expect("spawns");
    let worked = pool.spawn_with_handle(work(handle, seed)).expect("spawns");
    block_on(async {
        worked.await;
        turned.await;
    });
}

#[test]
fn bytes_arrive_and_the_driver_ends_under_tokio() {
    limited(|| {
        let turns = under_tokio(Loopback::new(4, true), 1);
        assert!(turns < 20 * COUNT, "{turns} turns: it does not sleep");
    });
}

#[test]
fn bytes_arrive_and_the_driver_ends_under_futures() {
    limited(|| {
        under_futures(Loopback::new(4, true), 2);
    });
}

#[test]
fn bytes_arrive_over_a_damaged_transport_under_both() {
    limited(|| {
        for seed in 0..10 {
            let damaged = |fifo| Faulty::new(Traced::new(Loopback::new(4, fifo)), Damage::legal(seed));
            under_tokio(damaged(seed % 2 == 0), seed);
            under_futures(damaged(seed % 2 == 1), seed);
        }
    });
}

/// A pause that ends when the descriptor is readable, of which a thread of its own takes care.
fn until_readable(fd: Option<BorrowedFd<'_>>) -> impl Future<Output = ()> + use<> {
    let fd = fd.expect("has one").try_clone_to_owned().expect("one more");
    let (over, ended) = oneshot::channel();
    thread::spawn(move || {
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout));
        // Otherwise it stays silent: whoever waits then sleeps for ever. The driver may have gone on meanwhile.
        if ready == Ok(1) {
            let _gone = over.send(());
        }
    });
    async {
        if ended.await.is_err() {
            std::future::pending().await
        }
    }
}

#[test]
fn a_driver_sleeps_until_the_descriptor_of_its_transport_is_readable() {
    limited(|| {
        let device = Arc::new(Device::new());
        let mut transport = Loopback::new(4, true);
        transport.device = Some(Arc::clone(&device));
        let (handle, mut driver) = open(transport, options(8));
        assert!(driver.wait_fd().is_some());
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let driving = thread::spawn(move || {
            let clock = || {
                counted.fetch_add(1, SeqCst);
                Now::default()
            };
            block_on(driver.run(clock, |_, fd| until_readable(fd)));
        });
        block_on(async {
            let (here, there) = connected(&handle).await;
            let (memory, _host) = memory(16);
            let region = handle.register(NIC, memory).await.expect("registers");
            let (from, into) = ([region.slice(0, 8)], [region.slice(8, 8)]);
            for round in 0..10 {
                let (mut send, mut recv) = (here.send(&from), there.recv(&into));
                send.start().await;
                recv.start().await;
                // Until the driver sleeps: nothing but the descriptor wakes it from here on.
                let mut seen = usize::MAX;
                while std::mem::replace(&mut seen, turns.load(SeqCst)) != seen {
                    thread::sleep(Duration::from_millis(10));
                }
                assert!(poll(&mut recv).is_pending(), "round {round}: the device has not let it through");
                device.ring();
                assert_eq!(futures::join!(send, recv), (Ok(8), Ok(8)), "round {round}");
            }
            handle.close(&here).await;
            there.closed().await;
        });
        drop(handle);
        driving.join().expect("ends");
        let turns = turns.load(SeqCst);
        assert!(turns < 300, "{turns} turns: it does not sleep");
    });
}

#[test]
fn a_driver_that_nobody_needs_wakes_up_and_ends() {
    limited(|| {
        let (handle, mut driver) = open(Loopback::new(4, true), options(8));
        let thread = thread::spawn(move || {
            block_on(driver.run(Now::default, |_, _| std::future::pending()));
        });
        let (region, host) = block_on(async {
            let (memory, host) = memory(8);
            (handle.register(NIC, memory).await.expect("registers"), host)
        });
        drop(handle);
        drop(region);
        thread.join().expect("ends");
        assert_eq!(host.owners(), 1);
    });
}
