//! Answers that no real plugin gives in a test: unknown codes, null objects, null entries, late unpacking.
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects; the rest fails")]

use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2p_memory::HostBuffer;
use tcpx_sys::device::{DEVICE_UNPACK, DeviceHandle, LoadMeta, UNPACK_VERSION, UnpackMeta, UnpackQueue};
use tcpx_sys::{Code, PTR_CUDA, PTR_HOST};

use super::delivery::{CpuUnpack, Job, Piece, Ticket, Unpack, UnpackError};
use super::*;
use crate::config::{Config, FixedEnvironment};
use crate::{
    Accept, Channel, ChannelSet, Connect, Error, Event, Fault, Misuse, Plugin, Post, PostError, Reason,
    Release, Slice, leaked_objects, verdict,
};

const OK: Code = Code::SUCCESS;

fn raw(number: usize) -> Option<Raw> {
    Raw::new(ptr::without_provenance_mut(number * 64))
}

fn made(number: usize) -> Made {
    (OK, raw(number))
}

fn reported() -> Reported {
    Reported {
        name: Some("mock0".to_owned()),
        pci_path: None,
        guid: 0,
        ptr_support: PTR_HOST,
        speed: 1000,
        port: 0,
        latency: 0.0,
        max_comms: 1,
        max_recvs: 1,
        device_type: 0,
        device_version: 0,
        max_bytes: None,
    }
}

/// A plugin that gives comms and registrations at once, and has no extension.
fn willing() -> MockCalls {
    willing_with(reported())
}

fn willing_with(reported: Reported) -> MockCalls {
    let mut calls = MockCalls::new();
    calls.expect_devices().returning(|| (OK, 1));
    calls.expect_properties().returning(move |_| (OK, Some(reported.clone())));
    calls.expect_listen().returning(|_, _| made(1));
    calls.expect_close_listen().returning(|_| OK);
    calls.expect_max_registration().returning(|| usize::MAX >> 1);
    calls.expect_max_slices().returning(|| 1);
    calls.expect_register().returning(|_, _| made(3));
    calls.expect_waiter_open().returning(|| None);
    calls
}

/// As [`willing`], with a comm of either side that closes well.
fn connected() -> MockCalls {
    let mut calls = willing();
    calls.expect_connect().returning(|_, _| made(2));
    calls.expect_accept().returning(|_, _| made(2));
    calls.expect_deregister().returning(|_, _| OK);
    calls.expect_close().returning(|_, _| OK);
    calls
}

fn config(variables: &[(&str, &str)]) -> Config {
    let environment: FixedEnvironment = variables.iter().copied().collect();
    Config::from_environment(&environment).unwrap()
}

fn plugin(calls: MockCalls) -> Arc<Plugin> {
    Plugin::of(Arc::new(calls), &config(&[])).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A sending channel with registered memory of 100 bytes.
fn sending(calls: MockCalls) -> (Channel, Slice) {
    let plugin = plugin(calls);
    let handle = crate::Handle::new([0; 128]);
    let comm = plugin.connect(0, &handle, soon()).unwrap().wait().unwrap();
    with_memory(Channel::sending(comm, 12).unwrap())
}

fn receiving(calls: MockCalls) -> (Channel, Slice) {
    let comm = plugin(calls).listen(0, soon()).unwrap().1.wait().unwrap();
    with_memory(Channel::receiving(comm, 16).unwrap())
}

fn with_memory(mut channel: Channel) -> (Channel, Slice) {
    let registration = channel.register(Box::new(HostBuffer::new(100).unwrap())).unwrap();
    (channel, Slice { registration, offset: 0, length: 100 })
}

fn lost(release: Release) -> Fault {
    match release {
        Release::Failed(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plugin_that_cannot_count_its_devices_is_refused_by_name() {
    for answer in [(Code(3), 1), (OK, -1), (Code(-9), 0)] {
        let mut calls = MockCalls::new();
        calls.expect_devices().returning(move || answer);
        let error = Plugin::of(Arc::new(calls), &config(&[])).unwrap_err();
        assert!(error.to_string().contains("mock"), "{error}");
    }
    let mut calls = MockCalls::new();
    calls.expect_devices().returning(|| (OK, 1));
    calls.expect_properties().returning(|_| (Code(4), None));
    let error = Plugin::of(Arc::new(calls), &config(&[])).unwrap_err();
    assert!(error.to_string().contains("getProperties"), "{error}");
}

#[test]
fn a_device_without_a_name_gets_its_number() {
    let plugin = plugin(willing_with(Reported { name: None, device_type: 9, ..reported() }));
    assert_eq!(plugin.devices()[0].name, "device 0");
    assert_eq!(plugin.devices()[0].device_type, crate::DeviceType::Other(9));
    let error = plugin.listen(1, soon()).unwrap_err();
    assert!(matches!(error, Error::Misuse(Misuse::NoDevice { index: 1, count: 1 })));
}

#[test]
fn success_without_a_listener_is_a_failure() {
    let mut calls = MockCalls::new();
    calls.expect_devices().returning(|| (OK, 1));
    calls.expect_properties().returning(|_| (OK, Some(reported())));
    calls.expect_listen().returning(|_, _| (OK, None));
    assert!(matches!(plugin(calls).listen(0, soon()), Err(Error::Establish { .. })));
}

/// As in the one build whose `connect` waits for the peer: the peer is this process.
#[test]
fn a_connect_that_blocks_keeps_nobody_from_listening_accepting_and_registering() {
    let (entered, has_entered) = std::sync::mpsc::channel();
    let (accepted, was_accepted) = std::sync::mpsc::channel();
    let was_accepted = Mutex::new(was_accepted);
    let mut calls = willing();
    calls.expect_connect().times(1).returning(move |_, _| {
        entered.send(()).unwrap();
        was_accepted.lock().unwrap().recv_timeout(Duration::from_secs(20)).unwrap();
        made(2)
    });
    calls.expect_accept().returning(|_, _| made(2));
    calls.expect_deregister().returning(|_, _| OK);
    calls.expect_close().returning(|_, _| OK);
    let plugin = plugin(calls);
    let (handle, listening) = plugin.listen(0, soon()).unwrap();
    let connecting = plugin.connect(0, &handle, soon()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(connecting.wait().unwrap()));
        has_entered.recv_timeout(Duration::from_secs(20)).unwrap();
        let comm = listening.wait().unwrap();
        with_memory(Channel::receiving(comm, 16).unwrap());
        drop(plugin.listen(0, soon()).unwrap());
        accepted.send(()).unwrap();
    });
}

#[test]
fn an_unknown_code_ends_connect_and_accept_at_once() {
    let mut calls = willing();
    calls.expect_connect().times(1).returning(|_, _| (Code(-77), None));
    calls.expect_accept().times(1).returning(|_, _| (Code(42), None));
    let plugin = plugin(calls);
    let connecting = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap();
    let Connect::Failed(error) = connecting.poll(Instant::now()) else { panic!("it failed") };
    assert!(error.to_string().contains("-77 (unknown result code)"), "{error}");
    let Accept::Failed(error) = plugin.listen(0, soon()).unwrap().1.poll(Instant::now()) else {
        panic!("failed")
    };
    assert!(error.to_string().contains("42"), "{error}");
}

/// The pause after a failed attempt is kept by time that is given, not by a clock.
#[test]
fn failed_attempts_are_repeated_after_a_pause_until_the_deadline() {
    let mut calls = willing();
    calls.expect_connect().times(3).returning(|_, _| (Code::SYSTEM_ERROR, None));
    let plugin = plugin(calls);
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut connecting = plugin.connect(0, &crate::Handle::new([0; 128]), at(100)).unwrap();
    // The lock around the first connect may be taken by another test of this process for a moment.
    for millis in [0, 1, 19, 20, 21, 59, 60, 99] {
        let mut attempts = 0;
        connecting = loop {
            match connecting.poll(at(millis)) {
                Connect::Pending(again) if attempts == 50 => break again,
                Connect::Pending(again) => connecting = again,
                other => panic!("{other:?}"),
            }
            attempts += 1;
            std::thread::sleep(Duration::from_micros(100));
        };
    }
    let Connect::Failed(error) = connecting.poll(at(100)) else { panic!("the deadline passed") };
    let Error::Deadline { attempts: 3, last: Some(Code::SYSTEM_ERROR), .. } = error else {
        panic!("{error}")
    };
}

/// An accept that answers 2 is over, unless the plugin is known to mean "not ready".
#[test]
fn accept_is_repeated_after_2_only_where_that_was_asked_for() {
    for retry in [false, true] {
        let mut calls = willing();
        let answers = Mutex::new(VecDeque::from([(Code(2), None), (Code(2), None), made(2)]));
        calls.expect_accept().returning(move |_, _| answers.lock().unwrap().pop_front().unwrap());
        calls.expect_close().returning(|_, _| OK);
        let config = config(&[("UCCL_TCPX_ACCEPT_RETRY", if retry { "1" } else { "0" })]);
        let plugin = Plugin::of(Arc::new(calls), &config).unwrap();
        let accepted = plugin.listen(0, soon()).unwrap().1.wait();
        assert_eq!(accepted.is_ok(), retry);
        if let Err(error) = accepted {
            assert!(error.to_string().contains("UCCL_TCPX_ACCEPT_RETRY"), "{error}");
        }
    }
}

#[test]
fn a_registration_without_a_handle_gives_the_memory_back() {
    for answer in [(OK, None), (Code(3), raw(9)), (Code(-1), None)] {
        let mut calls = MockCalls::new();
        calls.expect_devices().returning(|| (OK, 1));
        calls.expect_properties().returning(|_| (OK, Some(reported())));
        calls.expect_connect().returning(|_, _| made(2));
        calls.expect_max_registration().returning(|| 1 << 20);
        calls.expect_register().returning(move |_, _| answer);
        calls.expect_close().times(1).returning(|_, _| OK);
        let plugin = plugin(calls);
        let mut comm = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap().wait().unwrap();
        let error = comm.register(Box::new(HostBuffer::new(100).unwrap())).unwrap_err();
        assert!(matches!(error.error, Error::Registration { .. }), "{error}");
        assert_eq!(error.memory.span().1, 100);
        assert_eq!(comm.registered(), 0);
        let large = comm.register(Box::new(HostBuffer::new((1 << 20) + 1).unwrap())).unwrap_err();
        assert!(matches!(large.error, Error::RegistrationTooLarge { .. }), "{large}");
    }
}

#[test]
fn a_refused_post_waits_while_something_may_finish_and_then_gives_up() {
    let mut calls = connected();
    let answers = Mutex::new(VecDeque::from([made(5)]));
    let refusal = (Code::INTERNAL_ERROR, None);
    calls.expect_isend().returning(move |_, _, _, _| answers.lock().unwrap().pop_front().unwrap_or(refusal));
    calls.expect_test().returning(|_| Tested { code: OK, done: false, size: None });
    let (mut channel, slice) = sending(calls);
    let start = Instant::now();
    assert_eq!(channel.post(1, slice, start), Ok(Post::Accepted));
    assert_eq!(channel.post(2, slice, start), Ok(Post::Busy));
    assert_eq!(channel.post(2, slice, start + verdict::REFUSAL_LIMIT / 2), Ok(Post::Busy));
    assert_eq!(channel.counters().not_taken, 2);
    let error = channel.post(2, slice, start + verdict::REFUSAL_LIMIT).unwrap_err();
    assert!(matches!(error, PostError::Fault(Fault { reason: Reason::Refused, .. })), "{error}");
}

#[test]
fn posts_that_fail_for_good_lose_the_comm_and_keep_the_code() {
    let reasons = [(3, Reason::Refused), (1, Reason::Cuda), (2, Reason::PeerClosed), (7, Reason::Unknown)];
    for (code, reason) in reasons {
        let mut calls = connected();
        calls.expect_irecv().times(1).returning(move |_, _, _, _| (Code(code), None));
        let (mut channel, slice) = receiving(calls);
        let now = Instant::now();
        let PostError::Fault(fault) = channel.post(1, slice, now).unwrap_err() else { panic!("lost") };
        assert_eq!((fault.reason, fault.code), (reason, Some(Code(code))));
        assert_eq!(lost(channel.release()), fault);
        assert_eq!(channel.post(1, slice, now), Err(fault.into()), "the plugin is not asked again");
    }
}

#[test]
fn what_ended_before_a_fault_is_still_released() {
    let mut calls = connected();
    calls.expect_isend().returning(|_, _, _, _| made(5));
    let tests = AtomicU32::new(0);
    calls.expect_test().returning(move |_| match tests.fetch_add(1, Relaxed) {
        0..3 => Tested { code: OK, done: false, size: None },
        3 | 4 => Tested { code: OK, done: true, size: None },
        _ => Tested { code: Code(-5), done: true, size: None },
    });
    let (mut channel, slice) = sending(calls);
    let now = Instant::now();
    (0..3).for_each(|token| assert_eq!(channel.post(token, slice, now), Ok(Post::Accepted)));
    channel.progress(now);
    let tokens: Vec<u64> = channel.outstanding().collect();
    assert_eq!(tokens, [0, 1, 2]);
    assert!(matches!(channel.release(), Release::Released(completion) if completion.token == 0));
    assert!(matches!(channel.release(), Release::Released(completion) if completion.token == 1));
    let fault = lost(channel.release());
    assert_eq!((fault.reason, fault.code), (Reason::Unknown, Some(Code(-5))));
}

#[test]
fn a_plugin_without_irecv_consumed_needs_none() {
    let mut calls = connected();
    calls.expect_irecv().returning(|_, _, _, _| made(5));
    calls.expect_test().returning(|_| Tested { code: OK, done: true, size: Some(100) });
    calls.expect_consumed().times(1).returning(|_, _| None);
    let (mut channel, slice) = receiving(calls);
    assert_eq!(channel.post(7, slice, Instant::now()), Ok(Post::Accepted));
    assert!(matches!(channel.release(), Release::Released(completion) if completion.token == 7));
}

#[test]
fn a_comm_that_does_not_close_leaks_its_memory() {
    let mut calls = willing();
    calls.expect_connect().returning(|_, _| made(2));
    calls.expect_deregister().returning(|_, _| OK);
    calls.expect_close().times(1).returning(|_, _| Code(3));
    let before = leaked_objects();
    drop(sending(calls));
    assert!(leaked_objects() > before);
}

#[test]
fn a_deregistration_that_fails_changes_nothing() {
    let mut calls = willing();
    calls.expect_connect().returning(|_, _| made(2));
    let refused = AtomicBool::new(false);
    calls.expect_deregister().returning(move |_, _| if refused.swap(true, Relaxed) { OK } else { Code(3) });
    calls.expect_close().returning(|_, _| OK);
    let (mut channel, slice) = sending(calls);
    assert!(matches!(channel.deregister(slice.registration), Err(Error::Registration { .. })));
    assert!(channel.deregister(slice.registration).is_ok());
}

#[test]
fn waiters_that_fail_are_errors() {
    let with_waiter = |answer: (Code, Option<(Raw, i32)>), attach: Code, arm: Code| {
        let mut calls = MockCalls::new();
        calls.expect_devices().returning(|| (OK, 1));
        calls.expect_properties().returning(|_| (OK, Some(reported())));
        calls.expect_connect().returning(|_, _| made(2));
        calls.expect_max_slices().returning(|| 1);
        calls.expect_close().returning(|_, _| OK);
        calls.expect_waiter_open().returning(move || Some(answer));
        calls.expect_waiter_attach().returning(move |_, _| attach);
        calls.expect_waiter_arm().returning(move |_| arm);
        calls.expect_waiter_close().returning(|_| OK);
        plugin(calls)
    };
    let waiter = raw(8).map(|raw| (raw, 0));
    for answer in [(OK, None), (Code(2), waiter), (OK, raw(8).map(|raw| (raw, -1)))] {
        assert!(matches!(ChannelSet::new(with_waiter(answer, OK, OK)), Err(Error::Waiter { .. })));
    }
    let channel = |plugin: &Arc<Plugin>| {
        let connecting = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap();
        Channel::sending(connecting.wait().unwrap(), 12).unwrap()
    };
    let unwilling = with_waiter((OK, waiter), Code(3), OK);
    let mut set = ChannelSet::new(unwilling.clone()).unwrap();
    assert!(matches!(set.insert(channel(&unwilling)), Err(Error::Waiter { .. })));
    let unarmed = with_waiter((OK, waiter), OK, Code(9));
    let mut set = ChannelSet::new(unarmed.clone()).unwrap();
    set.insert(channel(&unarmed)).unwrap();
    let error = set.prepare_sleep(Instant::now(), |_, _| {}).unwrap_err();
    assert!(error.to_string().contains('9'), "{error}");
    let other = with_waiter((OK, waiter), OK, OK);
    assert!(matches!(set.insert(channel(&other)), Err(Error::Misuse(Misuse::ForeignChannel))));
}

/// The waiter is armed before the round that decides whether to sleep, never after it.
#[test]
fn sleeping_is_prepared_by_arming_and_then_testing() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut calls = MockCalls::new();
    calls.expect_devices().returning(|| (OK, 1));
    calls.expect_properties().returning(|_| (OK, Some(reported())));
    calls.expect_connect().returning(|_, _| made(2));
    calls.expect_max_slices().returning(|| 1);
    calls.expect_max_registration().returning(|| 1 << 20);
    calls.expect_register().returning(|_, _| made(3));
    calls.expect_deregister().returning(|_, _| OK);
    calls.expect_close().returning(|_, _| OK);
    calls.expect_waiter_open().returning(|| Some((OK, raw(8).map(|raw| (raw, 0)))));
    calls.expect_waiter_attach().times(1).returning(|_, _| OK);
    calls.expect_waiter_close().times(1).returning(|_| OK);
    calls.expect_isend().returning(|_, _, _, _| made(5));
    let (armed, tested) = (order.clone(), order.clone());
    calls.expect_waiter_arm().returning(move |_| {
        armed.lock().unwrap().push("arm");
        OK
    });
    calls.expect_test().returning(move |_| {
        tested.lock().unwrap().push("test");
        Tested { code: OK, done: false, size: None }
    });
    let plugin = plugin(calls);
    let comm = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap().wait().unwrap();
    let (channel, slice) = with_memory(Channel::sending(comm, 12).unwrap());
    let mut set = ChannelSet::new(plugin).unwrap();
    let id = set.insert(channel).unwrap();
    let now = Instant::now();
    assert_eq!(set.post(id, 1, &[slice], now), Ok(Post::Accepted));
    order.lock().unwrap().clear();
    assert!(matches!(set.prepare_sleep(now, |_, _| {}).unwrap(), crate::Sleep::On(_)));
    assert_eq!(*order.lock().unwrap(), ["arm", "test"]);
}

/// Nothing in flight ends, so waiting for an event would take until the deadline.
#[test]
fn a_post_that_is_not_taken_is_tried_again_without_waiting_for_others() {
    let mut calls = connected();
    let answers = Mutex::new(VecDeque::from([made(5), (OK, None), (Code::INTERNAL_ERROR, None), made(6)]));
    calls.expect_isend().returning(move |_, _, _, _| answers.lock().unwrap().pop_front().unwrap());
    calls.expect_test().returning(|_| Tested { code: OK, done: false, size: None });
    let plugin = plugin(calls);
    let comm = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap().wait().unwrap();
    let (channel, slice) = with_memory(Channel::sending(comm, 12).unwrap());
    let mut set = ChannelSet::new(plugin).unwrap();
    let id = set.insert(channel).unwrap();
    let far = soon();
    for token in 0..2 {
        let nothing = |_, _| panic!("nothing ends");
        assert_eq!(set.post_within(id, token, &[slice], far, nothing).unwrap(), Post::Accepted);
    }
    assert_eq!(set.channel(id).unwrap().counters().not_taken, 2);
    // A full window is waited for until the deadline, and no longer.
    let mut calls = connected();
    calls.expect_isend().returning(|_, _, _, _| made(5));
    calls.expect_test().returning(|_| Tested { code: OK, done: false, size: None });
    let plugin = Plugin::of(Arc::new(calls), &config(&[])).unwrap();
    let comm = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap().wait().unwrap();
    let (channel, slice) = with_memory(Channel::sending(comm, 1).unwrap());
    let mut set = ChannelSet::new(plugin).unwrap();
    let id = set.insert(channel).unwrap();
    let near = Instant::now() + Duration::from_millis(30);
    assert_eq!(set.post_within(id, 0, &[slice], near, |_, _| {}).unwrap(), Post::Accepted);
    assert_eq!(set.post_within(id, 1, &[slice], near, |_, _| {}).unwrap(), Post::Full);
}

/// A set says once that a channel is lost, and goes on with the others.
#[test]
fn a_lost_channel_is_reported_once() {
    let mut calls = connected();
    calls.expect_isend().returning(|_, _, _, _| made(5));
    calls.expect_test().returning(|_| Tested { code: Code(6), done: false, size: None });
    let plugin = plugin(calls);
    let comm = plugin.connect(0, &crate::Handle::new([0; 128]), soon()).unwrap().wait().unwrap();
    let (channel, slice) = with_memory(Channel::sending(comm, 12).unwrap());
    let mut set = ChannelSet::new(plugin).unwrap();
    let id = set.insert(channel).unwrap();
    let now = Instant::now();
    assert_eq!(set.post(id, 1, &[slice], now), Ok(Post::Accepted));
    let mut seen = Vec::new();
    for _ in 0..3 {
        set.round(now, |channel, event| {
            assert_eq!(channel, id);
            seen.push(event);
        });
        assert!(set.post(id, 2, &[slice], now).is_err());
    }
    let [Event::Failed(fault)] = seen[..] else { panic!("{seen:?}") };
    assert_eq!(fault.reason, Reason::Remote);
    assert_eq!(set.remove(id).unwrap().outstanding().collect::<Vec<_>>(), [1]);
}

/// Lists as a plugin would keep them.
struct Lists {
    queue: Box<UnpackQueue>,
    meta: *mut UnpackMeta,
    bounce: Vec<u8>,
}

// SAFETY: owned memory that no thread is tied to.
unsafe impl Send for Lists {}
// SAFETY: as above; tests use it from one thread.
unsafe impl Sync for Lists {}

impl Lists {
    fn new() -> Self {
        // SAFETY: all zeros are valid lists.
        let meta = Box::into_raw(unsafe { Box::<UnpackMeta>::new_zeroed().assume_init() });
        let mut bounce: Vec<u8> = (0..=255).cycle().take(8192).collect();
        let bounce_buf = bounce.as_mut_ptr().cast();
        Self { queue: Box::new(UnpackQueue { meta, bounce_buf, head: u64::MAX }), meta, bounce }
    }

    fn put(&self, slot: usize, entries: &[LoadMeta]) {
        // SAFETY: the lists are owned, and nobody reads them meanwhile.
        let meta = unsafe { &mut *self.meta };
        meta.mem[slot][..entries.len()].copy_from_slice(entries);
        meta.cnt[slot] = entries.len() as u64;
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        // SAFETY: from `Box::into_raw` in `new`.
        drop(unsafe { Box::from_raw(self.meta) });
    }
}

/// Calls that give receive comms whose device handle names `queue`.
fn scattering(queue: *const UnpackQueue, version: i32) -> MockCalls {
    let queue = queue.expose_provenance();
    let unpack = Reported { device_type: DEVICE_UNPACK, ptr_support: PTR_HOST | PTR_CUDA, ..reported() };
    let mut calls = willing_with(unpack);
    calls.expect_accept().returning(move |_, handle| {
        let filled = DeviceHandle {
            device_type: DEVICE_UNPACK,
            device_version: version,
            handle: ptr::with_exposed_provenance_mut(queue),
            size: 24,
            needs_proxy_progress: 1,
        };
        // SAFETY: the core passes a pointer to a pointer to a device handle.
        let inner = unsafe { handle.read() };
        // SAFETY: as above.
        unsafe { inner.write(filled) };
        made(2)
    });
    calls.expect_deregister().returning(|_, _| OK);
    calls.expect_close().returning(|_, _| OK);
    calls.expect_irecv().returning(|_, _, _, _| made(5));
    calls
}

/// Finishes jobs when told to, or fails.
#[derive(Clone, Default)]
struct Slow {
    finished: Arc<AtomicBool>,
    fails: Arc<AtomicBool>,
    started: Arc<AtomicUsize>,
}

// SAFETY: it reads nothing but what the default executor reads, and starts nothing.
unsafe impl Unpack for Slow {
    fn queue(&mut self, handle: &DeviceHandle) -> Result<UnpackQueue, UnpackError> {
        CpuUnpack::new().queue(handle)
    }

    fn bounce_length(&self) -> Option<u64> {
        Some(8192)
    }

    fn start(&mut self, job: &Job<'_>) -> Result<Ticket, UnpackError> {
        if self.fails.load(Relaxed) {
            return Err(UnpackError("no stream".to_owned()));
        }
        self.started.fetch_add(job.entries.len(), Relaxed);
        CpuUnpack::new().start(job)
    }

    fn finished(&mut self, _: Ticket) -> Result<bool, UnpackError> {
        Ok(self.finished.load(Relaxed))
    }
}

#[test]
fn a_receive_is_consumed_only_after_its_job_finished() {
    let lists = Lists::new();
    let slow = Slow::default();
    let mut calls = scattering(&raw const *lists.queue, UNPACK_VERSION);
    calls.expect_test().returning(|_| Tested { code: OK, done: true, size: None });
    let finished = slow.finished.clone();
    calls.expect_consumed().times(2).returning(move |_, _| {
        assert!(finished.load(Relaxed), "consumed while the job runs");
        Some(OK)
    });
    let comm = plugin(calls).listen(0, soon()).unwrap().1.wait().unwrap();
    let channel = Channel::receiving_with(comm, 16, Box::new(slow.clone())).unwrap();
    let (mut channel, slice) = with_memory(channel);
    lists.put(0, &[LoadMeta { src_off: 0, len: 60, dst_off: 0 }]);
    lists.put(1, &[LoadMeta { src_off: 8190, len: 3, dst_off: 0 }]);
    let now = Instant::now();
    assert_eq!(channel.post(1, slice, now), Ok(Post::Accepted));
    assert_eq!(channel.post(2, slice, now), Ok(Post::Accepted));
    assert_eq!(slow.started.load(Relaxed), 1, "the second list leaves the bounce buffer");
    assert_eq!(channel.release(), Release::NotYet);
    slow.finished.store(true, Relaxed);
    let Release::Released(first) = channel.release() else { panic!("it finished") };
    assert_eq!(first.outcome, crate::Outcome::Done { length: Some(60) });
    let Release::Released(second) = channel.release() else { panic!("it ended") };
    assert!(matches!(second.outcome, crate::Outcome::Failed(_)), "{second:?}");
    assert!(lists.bounce.len() == 8192);
}

#[test]
fn an_executor_that_fails_loses_the_comm_without_consuming() {
    let lists = Lists::new();
    lists.put(0, &[LoadMeta { src_off: 0, len: 60, dst_off: 0 }]);
    let mut calls = scattering(&raw const *lists.queue, UNPACK_VERSION);
    calls.expect_test().returning(|_| Tested { code: OK, done: true, size: None });
    let slow = Slow::default();
    slow.fails.store(true, Relaxed);
    let comm = plugin(calls).listen(0, soon()).unwrap().1.wait().unwrap();
    let (mut channel, slice) = with_memory(Channel::receiving_with(comm, 16, Box::new(slow)).unwrap());
    assert_eq!(channel.post(1, slice, Instant::now()), Ok(Post::Accepted));
    assert_eq!(lost(channel.release()).reason, Reason::Unpack);
}

/// Without an executor, lists of a plugin with CUDA memory are not touched, and CUDA memory is refused.
#[test]
fn lists_in_device_memory_are_left_alone() {
    let mut calls = scattering(ptr::without_provenance(8), UNPACK_VERSION);
    calls.expect_test().returning(|_| Tested { code: OK, done: true, size: None });
    calls.expect_consumed().returning(|_, _| Some(OK));
    let comm = plugin(calls).listen(0, soon()).unwrap().1.wait().unwrap();
    let (mut channel, slice) = with_memory(Channel::receiving(comm, 16).unwrap());
    assert_eq!(channel.post(1, slice, Instant::now()), Ok(Post::Accepted));
    let Release::Released(completion) = channel.release() else { panic!("it is done") };
    assert_eq!(completion.outcome, crate::Outcome::Done { length: None });
    let kind = MemoryKind::Cuda { ordinal: 0, dmabuf: None };
    let base = NonNull::new(ptr::without_provenance_mut(4096)).unwrap();
    // SAFETY: nothing touches the address; the registration is refused.
    let memory = unsafe { p2p_memory::ForeignSpan::new((), base, 4096, kind) };
    let error = channel.register(Box::new(memory)).unwrap_err().error;
    assert!(error.to_string().contains("executor"), "{error}");
}

#[test]
fn lists_of_another_version_or_without_a_queue_are_refused() {
    let calls = scattering(ptr::without_provenance(8), 8);
    let error = plugin(calls).listen(0, soon()).unwrap().1.wait().unwrap_err();
    assert!(matches!(error, Error::DeviceVersion { version: 8, .. }), "{error}");
    for queue in [ptr::null(), &raw const EMPTY.0] {
        let comm = plugin(scattering(queue, UNPACK_VERSION)).listen(0, soon()).unwrap().1.wait().unwrap();
        let error = Channel::receiving_with(comm, 16, Box::new(Slow::default())).unwrap_err();
        assert!(matches!(error, Error::Fault(Fault { reason: Reason::Unpack, .. })), "{error}");
    }
}

struct Empty(UnpackQueue);
// SAFETY: immutable null pointers.
unsafe impl Sync for Empty {}
static EMPTY: Empty =
    Empty(UnpackQueue { meta: ptr::null_mut(), bounce_buf: ptr::null_mut(), head: u64::MAX });

/// Entries cross the borders of pieces, also empty ones.
#[test]
fn entries_are_copied_across_pieces() {
    let mut bounce: Vec<u8> = (0..100).collect();
    let mut target = [0xee_u8; 64];
    let base = NonNull::from(&mut target).cast::<u8>();
    let at = |offset: usize| base.map_addr(|address| address.saturating_add(offset));
    let pieces = [
        Piece { address: at(40), length: 5 },
        Piece { address: at(60), length: 0 },
        Piece { address: at(0), length: 10 },
        Piece { address: at(20), length: 6 },
    ];
    let entries =
        [LoadMeta { src_off: 50, len: 13, dst_off: 8 }, LoadMeta { src_off: 7, len: 8, dst_off: 0 }];
    let bounce = NonNull::from(&mut bounce[..]).cast();
    CpuUnpack::new().start(&Job { entries: &entries, bounce, pieces: &pieces }).unwrap();
    assert_eq!(target[40..45], [7, 8, 9, 10, 11]);
    assert_eq!(target[0..10], [12, 13, 14, 50, 51, 52, 53, 54, 55, 56]);
    assert_eq!(target[20..26], [57, 58, 59, 60, 61, 62]);
    let written = 5 + 10 + 6;
    assert_eq!(target.iter().filter(|&&byte| byte == 0xee).count(), 64 - written);
}
