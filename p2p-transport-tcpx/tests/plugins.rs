//! Plugins of other kinds, executors of a caller's own, and what the kernel has to hold; each in a process of
//! its own.

#[path = "../../tcpx-soft/tests/support/child.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it belongs to another crate's tests, and this file uses a part of it"
)]
mod child;
mod support;

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2p_memory::SharedHost;
use p2p_transport::{Error, ErrorKind, Event, NicId, Rail, Transport};
use p2p_transport_tcpx::{Choice, Options, Tcpx, Unpackers};
use support::{End, carry, until};
use tcpx_core::{CpuUnpack, Plugin, Source, Unpack};
use tcpx_sys::Table;
use tcpx_sys::table::NetV11;

/// Notes who asked; gives out the processor's executor, or refuses.
#[derive(Default)]
struct Noting {
    asked: Mutex<Vec<Rail>>,
    refuses: bool,
}

impl Unpackers for Noting {
    fn unpacker(&self, rail: Rail) -> Result<Option<Box<dyn Unpack>>, Error> {
        self.asked.lock().expect("no panic").push(rail);
        if self.refuses {
            return Err(Error::new(ErrorKind::Device, "connect", "no stream is left on the GPU"));
        }
        Ok(Some(Box::new(CpuUnpack::new())))
    }
}

const UNPACKS: [(&str, &str); 3] =
    [("TCPX_SOFT_MODE", "unpack"), ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "7"), ("TCPX_SOFT_FAULT_POISON", "1")];

#[test]
fn an_executor_is_asked_for_once_for_each_receiving_channel() {
    child::in_child("an_executor_is_asked_for_once_for_each_receiving_channel", &UNPACKS, || {
        let unpackers = Arc::new(Noting::default());
        let theirs = unpackers.clone();
        let a = End::new(|_| {});
        let b = End::new(move |options| options.unpackers = Some(theirs));
        let (mut a, at_a, mut b, at_b) = support::connect(a, b, 3);
        assert_eq!(*unpackers.asked.lock().expect("no panic"), [End::rail(3); 3]);
        carry(&mut a, at_a, &mut b, at_b, 0..6);
        // Counters are copied now and then.
        let counters = b.transport.counters();
        until(&mut a, &mut b, "counting", |_, _| counters.nic(NicId(0)).received.unpacks == 6);
    });
}

#[test]
fn a_connection_without_its_executor_is_not_made() {
    child::in_child("a_connection_without_its_executor_is_not_made", &UNPACKS, || {
        let unpackers: Arc<dyn Unpackers> = Arc::new(Noting { refuses: true, ..Noting::default() });
        let mut a = End::new(move |options| options.unpackers = Some(unpackers));
        let mut b = End::new(|_| {});
        let (at_a, address) = a.listen(2);
        let at_b = b.connect(2, &address);
        until(&mut a, &mut b, "the end", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        for (end, conn) in [(&a, at_a), (&b, at_b)] {
            assert!(!end.has(Event::Connected(conn)));
            let why = end.transport.why(conn).expect("a reason").to_string();
            assert!(why.contains("no stream is left on the GPU"), "{why}");
        }
    });
}

/// The soft plugin as a file beside this test program: cargo builds it with the tests.
fn library() -> PathBuf {
    let program = std::env::current_exe().expect("path of the test program");
    let folder = program.parent().expect("a folder");
    let places = [folder.join("libtcpx_soft.so"), folder.with_file_name("libtcpx_soft.so")];
    places.into_iter().find(|place| place.is_file()).expect("`cargo build -p tcpx-soft` makes it")
}

#[test]
fn a_plugin_from_a_file_moves_messages_and_is_not_taken_for_googles() {
    child::in_child("a_plugin_from_a_file_moves_messages_and_is_not_taken_for_googles", &[], || {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libnccl-net-tcpx.so");
        std::fs::copy(library(), &file).expect("copied");
        let required = support::config(&[("UCCL_P2P_REQUIRE", "tcpx")]);
        let error = Choice::File(file.clone()).open(&required).expect_err("not Google's");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{text}");
        for part in ["UCCL_P2P_REQUIRE=tcpx", "TCPX_Soft", &file.display().to_string()] {
            assert!(text.contains(part), "{part} in {text}");
        }

        let config = support::config(&[]);
        let plugin = Choice::File(file).open(&config).expect("a plugin");
        let end = || {
            let options = Options::of(&config, Instant::now());
            End::of(Tcpx::new(plugin.clone(), &config, options).expect("a transport"))
        };
        let (mut a, at_a, mut b, at_b) = support::connect(end(), end(), 2);
        carry(&mut a, at_a, &mut b, at_b, 0..4);
    });
}

/// Established TCP sockets of this host whose local, or remote, port is this one.
fn sockets_on(port: u16) -> [usize; 2] {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let text: String = tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let ending = format!(":{port:04X}");
    // Number, local address, remote address, state; 01 is established.
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let open: Vec<_> = rows.filter(|row| row.get(3) == Some(&"01")).collect();
    [1, 2].map(|column| open.iter().filter(|row| row[column].ends_with(&ending)).count())
}

#[test]
fn the_kernel_holds_one_exchange_stream_for_each_connection() {
    let variables = [("TCPX_SOFT_ADDRESSES", "127.0.0.1,127.0.0.2")];
    child::in_child("the_kernel_holds_one_exchange_stream_for_each_connection", &variables, || {
        let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
        let mut conns = Vec::new();
        let mut port = 0;
        for nic in [0, 1] {
            let rail = Rail { nic: NicId(nic), device: None, channels: 4 };
            let (listener, address) = a.transport.listen(rail).expect("it listens");
            port = u16::from_le_bytes(*address.as_bytes().last_chunk().expect("a port"));
            let at_a = a.transport.accept(listener).expect("a listener");
            let at_b = b.transport.connect(rail, &address).expect("an address");
            until(&mut a, &mut b, "connecting", |a, b| {
                a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
            });
            conns.push((at_a, at_b));
            let count = conns.len();
            assert_eq!(sockets_on(port), [count; 2], "both ends of each stream are in this process");
            assert_eq!([a.transport.exchange_streams(), b.transport.exchange_streams()], [count; 2]);
        }
        for (at_a, at_b) in conns {
            a.transport.close(at_a).expect("open");
            until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        }
        assert_eq!(sockets_on(port), [0; 2]);
    });
}

/// As a plugin that has no room for one more registration.
extern "C" fn no_room(_: *mut c_void, _: *mut c_void, _: usize, _: c_int, _: *mut *mut c_void) -> c_int {
    const INTERNAL_ERROR: c_int = 3;
    INTERNAL_ERROR
}

#[test]
fn memory_that_a_plugin_does_not_register_comes_back() {
    child::in_child("memory_that_a_plugin_does_not_register_comes_back", &[], || {
        let config = support::config(&[]);
        let mut linked = tcpx_soft::plugin();
        let Table::V11(table) = linked.table else { panic!("the newest table") };
        linked.table = Table::V11(Box::leak(Box::new(NetV11 { reg_mr: Some(no_room), ..*table })));
        let plugin = Plugin::open(Source::Static(linked), &config).expect("it starts");
        let end = || {
            let mut options = Options::of(&config, Instant::now());
            options.connect_timeout = Duration::from_secs(600);
            End::of(Tcpx::new(plugin.clone(), &config, options).expect("a transport"))
        };
        // On a connection that is there: the call fails, and nothing else does.
        let (mut a, at_a, mut b, at_b) = support::connect(end(), end(), 2);
        let memory = SharedHost::new(4096).expect("memory");
        let refused = a.transport.register(NicId(0), Box::new(memory.clone())).expect_err("no room");
        assert!(refused.error.to_string().contains("regMr"), "{}", refused.error);
        assert_eq!(memory.owners(), 2, "this one and the one that came back");
        drop(refused);
        assert_eq!(memory.owners(), 1);
        for _ in 0..100 {
            a.poll();
            b.poll();
        }
        assert!(!a.has(Event::Closed(at_a)) && !b.has(Event::Closed(at_b)));
        a.transport.close(at_a).expect("open");
        until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));

        // On one that is being made: it is not made, and the memory stays the transport's until it is retired.
        let (region, memory) = a.register(4096);
        let (at_a, address) = a.listen(2);
        let at_b = b.connect(2, &address);
        until(&mut a, &mut b, "the end", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
        for (end, conn) in [(&a, at_a), (&b, at_b)] {
            let why = end.transport.why(conn).expect("a reason").to_string();
            assert!(!end.has(Event::Connected(conn)) && why.contains("regMr"), "{why}");
        }
        assert_eq!(memory.owners(), 2);
        a.transport.retire(region).expect("live");
        until(&mut a, &mut b, "retiring", |a, _| a.has(Event::Retired(region)));
        drop(a.transport.reclaim(region).expect("it was retired"));
        assert_eq!(memory.owners(), 1);
    });
}
