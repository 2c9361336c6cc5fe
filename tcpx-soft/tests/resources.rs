//! What a process holds while and after it uses the plugin, and sleeping until something moves.

mod support;

use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::child::in_child;
use support::drive::{self, Deadline, Memory, Random, accept, close, descriptors, level, pair, post_receive};
use support::drive::{post_send, post_send_of, resident, start, threads, until};
use support::peer::{self, Message};
use support::{Net, Pointer, pattern};
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::extension::ExtensionV1;

const LANES: &[(&str, &str)] = &[("TCPX_SOFT_LANES", "2")];
const OWN_LANES: &[(&str, &str)] = &[("NCCL_SOCKET_NTHREADS", "2"), ("NCCL_NSOCKS_PERTHREAD", "2")];

/// Opens, uses and closes pairs of comms; descriptors and threads are back each time, and memory in the end.
fn a_hundred_rounds(net: Net) {
    const MOST_GROWTH: usize = 8 << 20;
    let messages = [pattern(1, 100), pattern(2, 300_000), Vec::new()];
    let round = || {
        let comms = pair(net);
        drive::exchange(net, comms, &messages);
        close(net, comms);
    };
    (0..10).for_each(|_| round());
    // Shared lanes stay; lanes of closed comms end soon.
    let stays = if std::env::var("TCPX_SOFT_LANES").is_ok() { 4 } else { 2 };
    until("threads of closed comms to end", || (threads() <= stays).then_some(()));
    let (files, memory) = (descriptors(), resident());
    (0..100).for_each(|_| round());
    level(files, stays);
    let grown = resident().saturating_sub(memory);
    assert!(grown < MOST_GROWTH, "100 rounds left {grown} bytes");
    drive::no_panic();
}

#[test]
fn nothing_is_left_after_a_hundred_rounds_on_shared_lanes() {
    in_child("nothing_is_left_after_a_hundred_rounds_on_shared_lanes", LANES, || a_hundred_rounds(start()));
}

#[test]
fn nothing_is_left_after_a_hundred_rounds_on_lanes_of_their_own() {
    let test = "nothing_is_left_after_a_hundred_rounds_on_lanes_of_their_own";
    in_child(test, OWN_LANES, || a_hundred_rounds(start()));
}

#[test]
fn nothing_is_left_after_a_hundred_rounds_of_unpacking() {
    let unpack = [LANES, &[("TCPX_SOFT_MODE", "unpack")]].concat();
    in_child("nothing_is_left_after_a_hundred_rounds_of_unpacking", &unpack, || {
        let net = start();
        let round = || {
            let comms = pair(net);
            let from = Memory::patterned(net, comms.0, 1, 300_000);
            let mut into = Memory::zeroed(net, comms.1, 300_000);
            let receive = post_receive(net, comms.1, &mut into);
            let send = post_send(net, comms.0, &from);
            let mut sent = false;
            until("a message", || {
                sent = sent || net.test(send).1;
                net.test(receive).1.then_some(())
            });
            net.dereg_mr(comms.0, from.handle);
            net.dereg_mr(comms.1, into.handle);
            close(net, comms);
        };
        (0..10).for_each(|_| round());
        let (files, memory) = (descriptors(), resident());
        (0..100).for_each(|_| round());
        level(files, 4);
        assert!(resident().saturating_sub(memory) < 8 << 20);
    });
}

#[test]
fn ten_thousand_messages_leave_no_memory_behind() {
    in_child("ten_thousand_messages_leave_no_memory_behind", LANES, || {
        let net = start();
        let comms = pair(net);
        let batch: Vec<_> =
            (0..500).map(|seed| pattern(seed, [10, 3000, 16_384, 20_000][seed as usize % 4])).collect();
        (0..2).for_each(|_| drive::exchange(net, comms, &batch));
        let memory = resident();
        (0..20).for_each(|_| drive::exchange(net, comms, &batch));
        let grown = resident().saturating_sub(memory);
        assert!(grown < 8 << 20, "10000 messages left {grown} bytes");
        close(net, comms);
    });
}

#[test]
fn abandoned_attempts_and_listeners_are_let_go() {
    let variables = [LANES, &[("TCPX_SOFT_CONNECT_TIMEOUT_MS", "100")]].concat();
    in_child("abandoned_attempts_and_listeners_are_let_go", &variables, || {
        let net = start();
        close(net, pair(net));
        let files = descriptors();
        for polls in 1..=50 {
            let (mut handle, listener) = net.listen(0);
            let (mut send, mut receive): (Pointer, Pointer) = (null_mut(), null_mut());
            for _ in 0..polls % 5 {
                if send.is_null() {
                    send = net.connect_once(0, &mut handle).1;
                }
                if polls % 2 == 0 && receive.is_null() {
                    receive = net.accept_once(listener, Some(&mut DeviceHandle::zeroed())).1;
                }
            }
            // Whatever came of it, an attempt that is under way is never asked about again.
            assert_eq!((net.close_send(send), net.close_recv(receive)), (0, 0));
            assert_eq!(net.close_listen(listener), 0);
        }
        until("descriptors of abandoned attempts", || {
            // Any later attempt sweeps them away.
            let comms = pair(net);
            close(net, comms);
            (descriptors() <= files).then_some(())
        });
    });
}

#[test]
fn after_close_no_thread_touches_the_memory() {
    in_child("after_close_no_thread_touches_the_memory", LANES, || {
        const BYTES: usize = 4 << 20;
        let net = start();
        let mut random = Random::seeded();
        close(net, pair(net));
        let files = descriptors();
        for _ in 0..100 {
            let (send, receive) = pair(net);
            let from = Memory::patterned(net, send, 1, BYTES);
            let mut into: Vec<_> = (0..3).map(|_| Memory::zeroed(net, receive, BYTES)).collect();
            let sends: Vec<_> = (0..3).map(|_| post_send(net, send, &from)).collect();
            let receives: Vec<_> = into.iter_mut().map(|into| post_receive(net, receive, into)).collect();
            for _ in 0..random.below(60) {
                // Done or not: the transfer is cut off somewhere.
                let _ = (net.test(sends[0]), net.test(receives[0]));
            }
            assert_eq!(net.close_recv(receive), 0);
            // Every 512th byte, at once: a system call that still runs would go on to change some.
            let look = || -> Vec<u8> {
                let bytes = |memory: &Memory| -> Vec<u8> {
                    let at = (0..BYTES).rev().step_by(512).map(|at| memory.bytes.as_ptr().wrapping_add(at));
                    // SAFETY: `at` lies inside the memory; volatile, because another thread may be at fault.
                    at.map(|at| unsafe { at.read_volatile() }).collect()
                };
                into.iter().flat_map(bytes).collect()
            };
            let left = look();
            assert_eq!(net.close_send(send), 0);
            assert!(look() == left, "a thread wrote into the buffer of a closed comm");
        }
        level(files, 4);
        drive::no_panic();
    });
}

/// A descriptor to sleep on.
#[derive(Clone, Copy)]
struct Waiter {
    waiter: Pointer,
    fd: RawFd,
}

fn extension() -> &'static ExtensionV1 {
    tcpx_soft::plugin().extension.expect("the soft plugin has it")
}

impl Waiter {
    fn open() -> Self {
        let (mut waiter, mut fd) = (null_mut(), -1);
        // SAFETY: two out-pointers.
        assert_eq!(unsafe { extension().waiter_open.expect("present")(&mut waiter, &mut fd) }, 0);
        assert!(!waiter.is_null() && fd >= 0);
        Self { waiter, fd }
    }

    fn attach(self, comm: Pointer) -> i32 {
        // SAFETY: a live waiter, and a live comm or null.
        unsafe { extension().waiter_attach.expect("present")(self.waiter, comm) }
    }

    fn arm(self) {
        // SAFETY: a live waiter.
        assert_eq!(unsafe { extension().waiter_arm.expect("present")(self.waiter) }, 0);
    }

    fn close(self) {
        // SAFETY: a live waiter, not used again.
        assert_eq!(unsafe { extension().waiter_close.expect("present")(self.waiter) }, 0);
    }

    /// Whether the descriptor became readable within so many seconds.
    fn sleep(self, seconds: i64) -> bool {
        // SAFETY: the descriptor is open as long as its waiter, which is closed last.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).expect("poll") == 1
    }
}

/// One end of a comm with a list of messages to move through a window.
struct End<'a> {
    net: Net,
    comm: Pointer,
    receives: bool,
    sizes: &'a [usize],
    memory: Memory,
    next: usize,
    out: std::collections::VecDeque<Pointer>,
}

const WINDOW: usize = 12;

impl<'a> End<'a> {
    fn new(net: Net, comm: Pointer, receives: bool, sizes: &'a [usize]) -> Self {
        let largest = sizes.iter().max().copied().unwrap_or(0) + 1;
        let memory = Memory::patterned(net, comm, 1, largest);
        Self { net, comm, receives, sizes, memory, next: 0, out: Default::default() }
    }

    fn finished(&self) -> bool {
        self.next == self.sizes.len() && self.out.is_empty()
    }

    /// Posts what fits and asks once about the oldest; whether anything moved.
    fn round(&mut self) -> bool {
        let mut moved = false;
        while self.next < self.sizes.len() && self.out.len() < WINDOW {
            let size = self.sizes[self.next];
            self.out.push_back(if self.receives {
                // Every receive goes to the same place: only the waking is looked at here.
                let (code, request) =
                    self.net.irecv(self.comm, self.memory.bytes.as_mut_ptr(), size, self.memory.handle);
                assert_eq!(code, 0);
                request
            } else {
                post_send_of(self.net, self.comm, &self.memory, size)
            });
            self.next += 1;
            moved = true;
        }
        if let Some(&oldest) = self.out.front() {
            let (code, done, size) = self.net.test(oldest);
            assert_eq!(code, 0, "{:?}", drive::log().last());
            if done {
                if self.receives {
                    let which = self.next - self.out.len();
                    assert_eq!(size as usize, self.sizes[which], "message {which}");
                    assert_eq!(self.net.consumed(self.comm, oldest), 0);
                }
                self.out.pop_front();
                moved = true;
            }
        }
        moved
    }
}

/// Moves all ends to their end, sleeping whenever nothing moves. Returns how often it slept.
fn sleep_through(waiter: Waiter, ends: &mut [End<'_>], stop: &AtomicBool) -> usize {
    let mut sleeps = 0;
    let mut deadline = Deadline::new();
    while !ends.iter().all(End::finished) {
        let mut round = || ends.iter_mut().map(End::round).fold(false, |a, b| a | b);
        if round() {
            deadline = Deadline::new();
            continue;
        }
        deadline.check("messages under a waiter");
        waiter.arm();
        if round() {
            continue;
        }
        assert!(!stop.load(Ordering::Relaxed), "the other end failed");
        let woken = waiter.sleep(5);
        if !woken {
            stop.store(true, Ordering::Relaxed);
        }
        assert!(woken, "asleep for 5 s: a wake-up was lost");
        sleeps += 1;
    }
    sleeps
}

/// Two threads, each asleep on its own descriptor whenever its end does not move.
fn asleep_at_both_ends(net: Net, messages: usize) {
    let mut random = Random::seeded();
    let sizes: Vec<usize> = (0..messages)
        .map(|_| match random.below(10) {
            0 => 0,
            1..=4 => random.below(16_385),
            5..=7 => 16_385 + random.below(100_000),
            8 => random.below(900_000),
            _ => random.below(3_000_000),
        })
        .collect();
    let comms = pair(net);
    let (send, receive) = (comms.0 as usize, comms.1 as usize);
    let stop = AtomicBool::new(false);
    let run = |comm: usize, receives: bool| {
        let waiter = Waiter::open();
        assert_eq!(waiter.attach(comm as Pointer), 0);
        let mut ends = [End::new(net, comm as Pointer, receives, &sizes)];
        let sleeps = sleep_through(waiter, &mut ends, &stop);
        (waiter.waiter as usize, waiter.fd, sleeps)
    };
    let results = thread::scope(|scope| {
        let sender = scope.spawn(|| run(send, false));
        let receiver = scope.spawn(|| run(receive, true));
        [sender.join().expect("sender"), receiver.join().expect("receiver")]
    });
    println!("sleeps: {} and {}", results[0].2, results[1].2);
    assert!(results.iter().any(|result| result.2 > 0), "nobody ever slept, so nothing was tested");
    close(net, comms);
    for (waiter, fd, _) in results {
        Waiter { waiter: waiter as Pointer, fd }.close();
    }
}

macro_rules! sleepers {
    ($($name:ident: $variables:expr;)*) => {$(
        #[test]
        fn $name() {
            in_child(stringify!($name), &$variables, || asleep_at_both_ends(start(), 4000));
        }
    )*};
}
sleepers! {
    no_wake_up_is_lost_on_shared_lanes: [("TCPX_SOFT_LANES", "2")];
    no_wake_up_is_lost_on_one_lane: [("TCPX_SOFT_LANES", "1")];
    no_wake_up_is_lost_on_eight_sockets: [("NCCL_NSOCKS_PERTHREAD", "8")];
    no_wake_up_is_lost_in_many_small_chunks: [("TCPX_SOFT_LANES", "2"), ("TCPX_SOFT_CHUNK_BYTES", "4096")];
    no_wake_up_is_lost_with_credits: [("NCCL_GPUDIRECTTCPX_RECV_SYNC", "1"), ("TCPX_SOFT_LANES", "2")];
}

/// One chunk at a time, the next as soon as the last is done: each finds its lane about to fall idle.
#[test]
fn a_lane_that_falls_idle_misses_no_work() {
    in_child("a_lane_that_falls_idle_misses_no_work", &[("TCPX_SOFT_LANES", "1")], || {
        const MESSAGES: usize = 60_000;
        /// Tests before the core is given away: the next post must come as soon as it can.
        const SPIN: usize = 50;
        let net = start();
        let comms = pair(net);
        let (send, receive) = (comms.0 as usize, comms.1 as usize);
        let run = |comm: usize, receives: bool| {
            let comm = comm as Pointer;
            let mut memory = Memory::zeroed(net, comm, 16_385);
            for _ in 0..MESSAGES {
                let request = if receives {
                    post_receive(net, comm, &mut memory)
                } else {
                    post_send(net, comm, &memory)
                };
                let (deadline, mut tests) = (Deadline::new(), 0);
                while !net.test(request).1 {
                    deadline.check("a message of one chunk");
                    tests += 1;
                    if tests % SPIN == 0 {
                        thread::yield_now();
                    }
                }
                if receives {
                    assert_eq!(net.consumed(comm, request), 0);
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| run(send, false));
            scope.spawn(|| run(receive, true));
        });
        close(net, comms);
    });
}

#[test]
fn sixty_four_comms_share_a_waiter() {
    in_child("sixty_four_comms_share_a_waiter", LANES, || {
        let net = start();
        let mut random = Random::seeded();
        let waiter = Waiter::open();
        let pairs: Vec<_> = (0..32).map(|_| pair(net)).collect();
        let sizes: Vec<Vec<usize>> =
            (0..32).map(|_| (0..60).map(|_| random.size(300_000)).collect()).collect();
        let mut ends = Vec::new();
        for (&(send, receive), sizes) in pairs.iter().zip(&sizes) {
            assert_eq!((waiter.attach(send), waiter.attach(receive)), (0, 0));
            ends.push(End::new(net, send, false, sizes));
            ends.push(End::new(net, receive, true, sizes));
        }
        sleep_through(waiter, &mut ends, &AtomicBool::new(false));
        drop(ends);
        for comms in pairs {
            close(net, comms);
        }
        waiter.close();
    });
}

#[test]
fn a_closed_waiter_leaves_its_comms_working() {
    let net = start();
    let comms = pair(net);
    let waiter = Waiter::open();
    assert_eq!((waiter.attach(comms.0), waiter.attach(comms.1)), (0, 0));
    assert_eq!(waiter.attach(null_mut()), 3);
    waiter.close();
    drive::exchange(net, comms, &[pattern(1, 500_000), pattern(2, 10)]);
    close(net, comms);
    // SAFETY: null is refused.
    assert_eq!(unsafe { extension().waiter_arm.expect("present")(null_mut()) }, 3);
}

#[test]
fn a_sleeper_hears_that_the_peer_is_gone() {
    let net = start();
    // Before an announcement; inside the payload; and a receiver that goes away under a send.
    for payload in [None, Some(1000)] {
        let (handle, listener) = net.listen(0);
        let (comm, mut wire) = thread::scope(|scope| {
            let peer = scope.spawn(|| peer::connect(&handle));
            let comm = accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
            (comm, peer.join().expect("peer"))
        });
        let waiter = Waiter::open();
        assert_eq!(waiter.attach(comm), 0);
        let mut into = Memory::zeroed(net, comm, 1 << 20);
        let request = post_receive(net, comm, &mut into);
        if let Some(bytes) = payload {
            use std::io::Write;
            let total = 1 << 20;
            let message = Message { kind: 0, index: 0, size: total, offset: 0, total };
            wire.control.write_all(&message.bytes()).expect("control");
            wire.data[0].write_all(&pattern(1, bytes)).expect("data");
        }
        let mut gone = Some(wire);
        let code = until("word of the end", || {
            waiter.arm();
            match net.test(request) {
                (0, done, _) => {
                    assert!(!done);
                    drop(gone.take());
                    assert!(waiter.sleep(5), "nobody woke the sleeper");
                    None
                }
                (code, ..) => Some(code),
            }
        });
        assert_eq!(code, 2);
        assert_eq!(net.close_recv(comm), 0);
        assert_eq!(net.close_listen(listener), 0);
        waiter.close();
    }
    let (send, receive) = pair(net);
    let waiter = Waiter::open();
    assert_eq!(waiter.attach(send), 0);
    let from = Memory::patterned(net, send, 1, 32 << 20);
    let request = post_send(net, send, &from);
    let mut gone = false;
    let code = until("word that the receiver is gone", || {
        waiter.arm();
        match net.test(request) {
            (0, done, _) => {
                assert!(!done, "32 MiB do not fit into the sockets");
                if !gone {
                    assert_eq!(net.close_recv(receive), 0);
                    gone = true;
                }
                assert!(waiter.sleep(5), "nobody woke the sleeper");
                None
            }
            (code, ..) => Some(code),
        }
    });
    assert_eq!(code, 2);
    assert_eq!(net.close_send(send), 0);
    waiter.close();
}
