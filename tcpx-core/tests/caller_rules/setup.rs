//! Rules 1 to 8: starting the plugin, and getting comms.

use std::ffi::c_int;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tcpx_core::config::{Config, FixedEnvironment};
use tcpx_core::preflight::{Check, Nature, check};
use tcpx_core::{Error, Plugin, Source};
use tcpx_sys::device::DeviceHandle;
use tcpx_sys::{Version, log};

use crate::pair::{channels, comms, config, deadline, filled, memory, next, open, post};
use crate::raw::child::in_child;
use crate::raw::drive::{self, Memory};
use crate::raw::{Net, Pointer};
use crate::spy::{self, Call};
use crate::{STRICT, spied};

/// A table is only ever called through the signatures of its own version: properties, which differ in each,
/// come out alike. The logger is there, is called from any thread, and swallows a panic.
#[test]
fn rule_01_the_exact_table_and_a_safe_logger() {
    // Broken: the real plugin would crash at its first line without a logger; the double says nothing.
    let net = drive::start();
    let tcpx_sys::Table::V11(table) = net.0 else { panic!("the newest table") };
    let mut context = std::ptr::null_mut();
    // SAFETY: the soft plugin takes null for everything that is null here.
    let code = unsafe { table.init.unwrap()(&raw mut context, 1, std::ptr::null_mut(), None, None) };
    assert_eq!(code, 0, "and init is re-entrant");

    let (_session, plugin) = spied();
    assert_eq!(plugin.version(), Version::V7);
    assert_eq!(plugin.devices()[0].name, "spy0");
    assert_eq!(plugin.devices()[0].speed_mbps, 200_000);
    let newest = open();
    for version in Version::NEWEST_FIRST {
        let source = Source::Static(tcpx_soft::plugin_of(version));
        let same = Plugin::open(source, &config(&[])).unwrap();
        assert_eq!(same.version(), version);
        for (one, other) in same.devices().iter().zip(newest.devices()) {
            assert_eq!((one.name, one.speed_mbps, one.guid), (other.name, other.speed_mbps, other.guid));
            assert_eq!((one.max_recvs, one.device_type), (1, other.device_type));
        }
        let (mut sender, mut receiver) = channels(&same);
        let (_, from) = filled(&mut sender, &[version.number() as u8; 3000]);
        let (buffer, into) = memory(&mut receiver, 3000);
        post(&mut receiver, 1, into);
        post(&mut sender, 2, from);
        next(&mut receiver, &mut sender);
        assert_eq!(crate::pair::bytes_of(&buffer), vec![version.number() as u8; 3000]);
    }
    let logger = log::logger().expect("never null");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // SAFETY: the format takes one `int` and is zero-terminated.
                unsafe { logger(2, 0x10, c"f".as_ptr(), 1, c"%d".as_ptr(), 5 as c_int) };
            });
        }
    });
}

#[test]
fn rule_02_init_once_and_its_result_is_checked() {
    in_child("setup::rule_02_init_once_and_its_result_is_checked", STRICT, || {
        // Broken: the second init of the same table in strict mode.
        let net = Net(tcpx_soft::plugin_of(Version::V7).table);
        assert_eq!((net.init(), net.init()), (0, 3));

        let _session = spy::session();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| Plugin::open(Source::Static(spy::plugin()), &config(&[])).unwrap());
            }
        });
        assert_eq!(spy::take_calls(), [Call::Init { logger: true }]);
        spy::script().init = 3;
        for _ in 0..2 {
            let error = Plugin::open(Source::Static(spy::refusing()), &config(&[])).unwrap_err();
            assert!(matches!(&error, Error::Init { code, .. } if code.0 == 3), "{error}");
        }
        assert_eq!(spy::take_calls(), [Call::Init { logger: true }], "a failed init is not repeated");
    });
}

#[test]
fn rule_03_a_chunk_size_before_init() {
    let empty = FixedEnvironment::default();
    let findings = check(&Config::from_environment(&empty).unwrap(), Nature::Tcpx, Path::new("/"));
    let chunk = findings.assignments.iter().find(|set| set.variable == "NCCL_DYNAMIC_CHUNK_SIZE");
    assert_eq!(chunk.map(|set| set.value.as_str()), Some("524288"));
    let _session = spy::session();
    let zero = config(&[("NCCL_DYNAMIC_CHUNK_SIZE", "0")]);
    let error = Plugin::open(Source::Static(spy::tcpx()), &zero).unwrap_err();
    let Error::Preflight(refused) = &error else { panic!("{error}") };
    assert!(refused.refusals.iter().any(|refusal| refusal.check == Check::PluginChunkZero), "{error}");
    assert_eq!(spy::take_calls(), [], "the plugin was not started");
}

/// The current CUDA device belongs to the calling thread: the core makes these calls there, and nowhere else.
#[test]
fn rule_04_calls_that_use_the_current_device_stay_on_the_callers_thread() {
    let (_session, plugin) = spied();
    spy::script().connect.extend([(0, false), (0, false)]);
    spy::script().accept.extend([(0, false)]);
    spy::take_calls();
    let (mut sender, receiver) = comms(&plugin);
    sender.register(Box::new(p2p_memory::HostBuffer::new(10).unwrap())).unwrap();
    let here = thread::current().id();
    let mut seen = 0;
    for call in spy::take_calls() {
        if let Call::Listen { thread }
        | Call::Connect { thread, .. }
        | Call::Accept { thread, .. }
        | Call::Register { thread, .. } = call
        {
            assert_eq!(thread, here);
            seen += 1;
        }
    }
    assert_eq!(seen, 1 + 3 + 2 + 1);
    // Comms are then used where they are moved to.
    thread::spawn(move || drop((sender, receiver))).join().unwrap();
}

#[test]
fn rule_05_one_accept_for_each_listener_then_close() {
    // Broken: a second accept, which would read freed memory in the real plugin.
    let net = drive::start();
    let (handle, listener) = net.listen(0);
    let mut copy = handle;
    let mut queue = DeviceHandle::zeroed();
    let (mut send, mut receive): (Pointer, Pointer) = (std::ptr::null_mut(), std::ptr::null_mut());
    while send.is_null() || receive.is_null() {
        if send.is_null() {
            send = net.connect_once(0, &mut copy).1;
        }
        if receive.is_null() {
            receive = net.accept_once(listener, Some(&mut queue)).1;
        }
    }
    assert_eq!(net.accept_once(listener, Some(&mut queue)).0, 3);
    net.close_listen(listener);
    drive::close(net, (send, receive));

    // Kept: accept until there is a comm, and only then closeListen.
    let (_session, plugin) = spied();
    spy::script().accept.extend([(0, false), (0, false), (0, true)]);
    spy::take_calls();
    let (_, listening) = plugin.listen(0, deadline()).unwrap();
    let comm = listening.wait().unwrap();
    let calls = spy::take_calls();
    let kinds: Vec<&str> = calls
        .iter()
        .map(|call| match call {
            Call::Listen { .. } => "listen",
            Call::Accept { .. } => "accept",
            Call::CloseListen { .. } => "closeListen",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["listen", "accept", "accept", "accept", "closeListen"]);
    drop(comm);
}

#[test]
fn rule_06_each_attempt_has_its_own_handle() {
    let variables = [("TCPX_SOFT_CONNECT_TIMEOUT_MS", "100")];
    in_child("setup::rule_06_each_attempt_has_its_own_handle", &variables, handles);
}

fn handles() {
    // Broken: the buffer of an attempt that has ended.
    let net = drive::start();
    let (handle, listener) = net.listen(0);
    let mut copy = handle;
    assert!(drive::connect(net, &mut copy).is_err(), "nobody accepts");
    assert_eq!(net.connect_once(0, &mut copy).0, 3);
    net.close_listen(listener);

    // Kept: two attempts fail, the third is pending twice.
    let (_session, plugin) = spied();
    spy::script().connect.extend([(2, false), (0, false), (3, false), (0, false), (0, false), (0, true)]);
    let mut received = [0x11; 128];
    received[80..88].fill(0xff);
    spy::take_calls();
    let connecting = plugin.connect(0, &tcpx_core::Handle::new(received), deadline()).unwrap();
    drop(connecting.wait().unwrap());
    let attempts: Vec<(usize, u64)> = spy::take_calls()
        .into_iter()
        .filter_map(|call| match call {
            Call::Connect { handle, private, .. } => Some((handle, private)),
            _ => None,
        })
        .collect();
    assert!(attempts.iter().all(|(handle, _)| handle % 8 == 0));
    let private: Vec<u64> = attempts.iter().map(|&(_, private)| private).collect();
    assert_eq!(private, [0, 0, 1, 0, 1, 2], "zero at the start of an attempt, then the plugin's own");
    assert_eq!(attempts[1].0, attempts[2].0, "the same buffer within an attempt");
    assert!(attempts[3].0 == attempts[4].0 && attempts[4].0 == attempts[5].0);
}

#[test]
fn rule_07_accept_gets_a_zeroed_device_handle_that_stays() {
    in_child("setup::rule_07_accept_gets_a_zeroed_device_handle_that_stays", STRICT, device_handles);
}

fn device_handles() {
    // Broken: accept without one; the first receive would crash in the real plugin.
    let net = drive::start();
    let (handle, listener) = net.listen(0);
    let mut copy = handle;
    let (mut send, mut receive): (Pointer, Pointer) = (std::ptr::null_mut(), std::ptr::null_mut());
    while send.is_null() || receive.is_null() {
        if send.is_null() {
            send = net.connect_once(0, &mut copy).1;
        }
        if receive.is_null() {
            receive = net.accept_once(listener, None).1;
        }
    }
    net.close_listen(listener);
    let mut into = Memory::zeroed(net, receive, 10);
    let (code, _) = net.irecv(receive, into.bytes.as_mut_ptr(), 10, into.handle);
    assert_eq!(code, 3);
    drive::close(net, (send, receive));

    // Kept; the spy writes to the device handle when the comm is closed.
    let (_session, plugin) = spied();
    spy::script().accept.extend([(0, false), (0, true)]);
    spy::take_calls();
    drop(comms(&plugin));
    let zeroed = |call: &Call| match call {
        Call::Accept { zeroed, .. } => Some(*zeroed),
        _ => None,
    };
    let seen: Vec<bool> = spy::take_calls().iter().filter_map(zeroed).collect();
    assert_eq!(seen, [true, true]);
}

#[test]
fn rule_08_both_sides_have_deadlines_of_their_own() {
    let (_session, plugin) = spied();
    spy::script().idle = true;
    let soon = Instant::now() + Duration::from_millis(50);
    let (handle, listening) = plugin.listen(0, soon).unwrap();
    let error = listening.wait().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && error.to_string().starts_with("accept on spy0"));
    let soon = Instant::now() + Duration::from_millis(50);
    let error = plugin.connect(0, &handle, soon).unwrap().wait().unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && error.to_string().starts_with("connect on spy0"));
    // Giving up on a plugin that still works on them leaks them on purpose: closing would crash it.
    let closed = spy::take_calls().iter().any(|call| matches!(call, Call::CloseListen { .. }));
    assert!(!closed && tcpx_core::leaked_objects() >= 2);
}
