//! Rules 24 to 28: ending in good order, errors, and what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use p2p_memory::{ForeignSpan, HostBuffer, Memory as _, MemoryKind};
use tcpx_core::config::GpuIndex;
use tcpx_core::topology::{MapError, NicMap, Policy, Tree};
use tcpx_core::{ChannelSet, ErrorKind, Event, Plugin, Post, Reason, Release, Round, Source};

use crate::pair::{bytes_of, channels, config, done, filled, memory, next, open, outcome, post};
use crate::raw::child::in_child;
use crate::raw::drive::{self, Memory};
use crate::raw::pattern;
use crate::spy::{self, Call};
use crate::{STRICT, spied, spied_channels};

#[path = "../fixtures/materialise.rs"]
mod materialise;

#[test]
fn rule_24_close_after_the_receiver_has_everything_and_no_receive_more() {
    in_child("ending::rule_24_close_after_the_receiver_has_everything_and_no_receive_more", STRICT, || {
        // Broken: one receive more than the sender announced, then it closes: 2 for ever.
        let net = drive::start();
        let comms = drive::pair(net);
        let mut into = Memory::zeroed(net, comms.1, 10);
        let receive = drive::post_receive(net, comms.1, &mut into);
        net.close_send(comms.0);
        assert_eq!(drive::error_of(net, receive, "the receive too many"), 2);
        assert_eq!(net.test(receive).0, 2);
        net.close_recv(comms.1);

        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let (_, from) = filled(&mut sender, &pattern(4, 50_000));
        let (buffer, into) = memory(&mut receiver, 50_000);
        post(&mut receiver, 0, into);
        post(&mut sender, 0, from);
        // Until the receiver's word, done says only that the bytes were handed over.
        let received = next(&mut receiver, &mut sender);
        next(&mut sender, &mut receiver);
        drop(sender);
        assert!(matches!(received.outcome, tcpx_core::Outcome::Done { .. }));
        assert!(bytes_of(&buffer) == pattern(4, 50_000));
        // A receive too many ends as lost, after the grace time, and says why.
        let started = Instant::now();
        post(&mut receiver, 1, into);
        let (_, mut other) = channels(&plugin);
        let Release::Failed(fault) = outcome(&mut receiver, &mut other) else { panic!("the sender is gone") };
        assert_eq!((fault.reason, fault.kind()), (Reason::PeerClosed, ErrorKind::Comm));
        assert!(started.elapsed() >= tcpx_core::verdict::GRACE);
    });
}

/// Counts its drops in `drops`, and the closes seen by the spy before each.
#[derive(Debug)]
struct Owner {
    closes_before: Arc<AtomicUsize>,
    drops: Arc<AtomicUsize>,
    #[allow(dead_code, reason = "keeps the memory alive")]
    buffer: HostBuffer,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let closes = spy::script().calls.iter().filter(|call| matches!(call, Call::Close { .. })).count();
        self.closes_before.store(closes, Ordering::Relaxed);
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn rule_25_drain_deregister_close_and_then_free() {
    // Broken: closed in the middle; the plugin does not wait, and the peer is told.
    let net = drive::start();
    let comms = drive::pair(net);
    let from = Memory::zeroed(net, comms.0, 8 << 20);
    let mut into = Memory::zeroed(net, comms.1, 8 << 20);
    let receive = drive::post_receive(net, comms.1, &mut into);
    drive::post_send(net, comms.0, &from);
    assert_eq!(net.close_send(comms.0), 0);
    assert_eq!(drive::error_of(net, receive, "what was cut off"), 2);
    assert_eq!(net.close_recv(comms.1), 0);

    // Kept: memory in use is not given back, and a drop deregisters, closes, and frees, in this order.
    let (_session, mut sender, _receiver) = spied_channels();
    let (closes_before, drops) = (Arc::new(AtomicUsize::new(99)), Arc::new(AtomicUsize::new(0)));
    let buffer = HostBuffer::new(4096).unwrap();
    let base = buffer.span().0;
    let owner = Owner { closes_before: closes_before.clone(), drops: drops.clone(), buffer };
    // SAFETY: the owner keeps the memory alive, and nobody touches it.
    let span = unsafe { ForeignSpan::new(owner, base, 4096, MemoryKind::Host) };
    let registration = sender.register(Box::new(span)).unwrap();
    spy::script().idle = true;
    post(&mut sender, 0, tcpx_core::Slice { registration, offset: 0, length: 1 });
    assert!(sender.deregister(registration).is_err(), "a send is under way");
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    spy::take_calls();
    drop(sender);
    let calls = spy::take_calls();
    assert!(matches!(calls[..], [Call::Deregister { .. }, Call::Close { .. }]), "{calls:?}");
    assert_eq!((drops.load(Ordering::Relaxed), closes_before.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn rule_25_memory_that_the_plugin_keeps_is_leaked_rather_than_freed() {
    let (_session, mut sender, _receiver) = spied_channels();
    let (buffer, _) = memory(&mut sender, 10);
    let before = tcpx_core::leaked_objects();
    spy::script().deregister = 3;
    drop(sender);
    assert_eq!(buffer.owners(), 2, "the plugin may still use it");
    assert!(tcpx_core::leaked_objects() > before);
}

#[test]
fn rule_26_broken_pipes_silence_and_codes() {
    let (_session, mut sender, mut receiver) = spied_channels();
    // SAFETY: all zeros is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks.
    assert_eq!(unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) }, 0);
    assert_ne!(action.sa_sigaction, libc::SIG_DFL);

    let now = Instant::now();
    let (_, from) = memory(&mut sender, 10);
    let (_, into) = memory(&mut receiver, 10);
    // 2 and done is done.
    spy::script().test.push_back((2, true, None));
    post(&mut sender, 0, from);
    assert!(matches!(sender.release(), Release::Released(_)));
    // 2 and not done: the older ones get a grace time, and what completes within it starts it anew.
    spy::script().idle = true;
    for token in 0..3 {
        assert_eq!(receiver.post(token, into, now), Ok(Post::Accepted));
    }
    let mut step = |test: (i32, bool, Option<i32>), millis| {
        spy::script().test.extend([test, (2, false, None)]);
        receiver.progress(now + Duration::from_millis(millis));
        spy::script().test.clear();
        receiver.release()
    };
    assert_eq!(step((2, false, None), 0), Release::NotYet);
    assert_eq!(step((2, false, None), 900), Release::NotYet);
    assert_eq!(step((0, true, None), 950), Release::Released(done(0, None)));
    assert_eq!(step((2, false, None), 1_000), Release::NotYet);
    assert_eq!(step((2, false, None), 1_900), Release::NotYet);
    let Release::Failed(fault) = step((2, false, None), 2_000) else { panic!("the grace time is over") };
    assert_eq!((fault.reason, fault.code.map(|code| code.0)), (Reason::PeerClosed, Some(2)));
    // 3, 1 and whatever nobody knows are fatal, each with its reason.
    let codes = [
        (3, Reason::OutOfOrder, ErrorKind::Comm),
        (1, Reason::Cuda, ErrorKind::Plugin),
        (-77, Reason::Unknown, ErrorKind::Comm),
    ];
    drop((_session, sender, receiver));
    for (code, reason, kind) in codes {
        let (_session, mut sender, _receiver) = spied_channels();
        let (_, from) = memory(&mut sender, 10);
        spy::script().test.push_back((code, false, None));
        post(&mut sender, 0, from);
        let Release::Failed(fault) = sender.release() else { panic!("{code} is fatal") };
        assert_eq!((fault.reason, fault.kind()), (reason, kind));
        assert!(fault.to_string().contains("spy0") && fault.to_string().contains(&code.to_string()));
    }
    // No progress for T is failure, where T is given.
    let (_session, sender, _receiver) = spied_channels();
    let mut sender = sender.with_silence_limit(Duration::from_secs(5));
    let (_, from) = memory(&mut sender, 10);
    spy::script().idle = true;
    assert_eq!(sender.post(0, from, now), Ok(Post::Accepted));
    sender.progress(now + Duration::from_millis(4_900));
    assert_eq!(sender.release(), Release::NotYet);
    sender.progress(now + Duration::from_secs(5));
    let Release::Failed(fault) = sender.release() else { panic!("silent") };
    assert!(matches!(fault.reason, Reason::Silent { .. }));
}

#[test]
fn rule_27_a_gpu_uses_nics_of_its_own_pcie_root() {
    let tree = Tree::read(materialise::Root::recorded("a3-high.tree").path()).unwrap();
    let gpu = GpuIndex::new(0).unwrap();
    let good = config(&[("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0")]);
    let map = NicMap::new(&tree, &Policy::new(&good, true)).unwrap();
    assert_eq!(map.nics(gpu).unwrap()[0].name, "eth1");
    let foreign =
        config(&[("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0"), ("UCCL_TCPX_GPU_NIC_MAP", "0:eth4;*:eth1")]);
    let map = NicMap::new(&tree, &Policy::new(&foreign, true)).unwrap();
    assert!(matches!(map.nics(gpu), Err(MapError::ForeignRoot { .. })), "{map:?}");
}

/// The plugin's workers cost what they cost; the core adds nothing to it: an idle channel is not polled, a round
/// polls a busy one once, and where the plugin lets it a thread sleeps.
#[test]
fn rule_28_idle_channels_cost_nothing_and_busy_ones_one_test_a_round() {
    let (_session, plugin) = spied();
    let mut set = ChannelSet::new(plugin.clone()).unwrap();
    let mut busy = None;
    for number in 0..70 {
        let (mut sender, receiver) = channels(&plugin);
        if number == 66 {
            let (_, slice) = memory(&mut sender, 10);
            busy = Some((set.insert(sender).unwrap(), slice));
        } else {
            set.insert(sender).unwrap();
        }
        set.insert(receiver).unwrap();
    }
    spy::take_calls();
    let now = Instant::now();
    let nothing = |_, _: Event| panic!("nothing ended");
    // A channel that was put in is looked at once at most, and never again without a post.
    set.round(now, nothing);
    assert_eq!(set.round(now, nothing), Round::default());
    assert_eq!(spy::take_calls(), []);
    spy::script().idle = true;
    let (id, slice) = busy.unwrap();
    assert_eq!(set.post(id, 0, &[slice], now), Ok(Post::Accepted));
    spy::take_calls();
    for _ in 0..3 {
        assert_eq!(set.round(now, nothing), Round { events: 0, visited: 1, busy: 1 });
        assert_eq!(spy::take_calls().len(), 1);
    }
    spy::script().idle = false;
    assert_eq!(set.round(now, |_, _| {}), Round { events: 1, visited: 1, busy: 0 });
    spy::take_calls();
    assert_eq!(set.round(now, nothing), Round::default());
    assert_eq!(spy::take_calls(), []);
    assert!(set.wait_fd().is_none(), "this plugin must be polled");
    let soft = Plugin::open(Source::Static(tcpx_soft::plugin()), &config(&[])).unwrap();
    assert!(ChannelSet::new(soft).unwrap().wait_fd().is_some(), "this one lets a thread sleep");
}
