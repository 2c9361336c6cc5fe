//! What needs a process of its own: other modes of the plugin, plugins without an extension, and peers that
//! die.

mod support;

#[path = "../../tcpx-soft/tests/support/child.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it belongs to another crate's tests, and this file uses a part of it"
)]
mod child;

use std::io::{BufRead, BufReader, Write};
use std::time::{Duration, Instant};

use p2p_transport::{Address, Event, Next, Outcome, Token, Transport};
use p2p_transport_tcpx::{Options, Tcpx};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use support::{End, PATIENCE, slice, until};
use tcpx_core::{Plugin, Source};

/// Sends messages of many lengths both ways and compares every byte.
fn exchange(a: End, b: End, channels: u16) {
    let (mut a, at_a, mut b, at_b) = support::connect(a, b, channels);
    let limits = a.limits(at_a);
    const SIZE: usize = 1 << 20;
    let (region_a, memory_a) = a.register(2 * SIZE);
    let (region_b, memory_b) = b.register(2 * SIZE);
    let bytes: Vec<u8> = (0..SIZE).map(|n| (n * 7 % 253) as u8).collect();
    memory_a.copy_in(0, &bytes).expect("inside");
    memory_b.copy_in(0, &bytes).expect("inside");
    let (mut at, mut token) = (0, 0_u64);
    for len in [1, 17, 4095, 4096, 4097, 100_003, 0, 250_000].map(|len: u32| len.min(limits.max_message)) {
        let into = SIZE as u64 + at;
        assert_eq!(b.transport.recv(at_b, Token(token), &[slice(region_b, into, len)]).count, 1);
        assert_eq!(a.transport.recv(at_a, Token(token), &[slice(region_a, into, len)]).count, 1);
        assert_eq!(a.transport.send(at_a, Token(token + 100), &[slice(region_a, at, len)]).count, 1);
        assert_eq!(b.transport.send(at_b, Token(token + 100), &[slice(region_b, at, len)]).count, 1);
        let done = Some(Outcome::Done { len });
        until(&mut a, &mut b, "a message", |a, b| {
            [a, b].iter().all(|end| end.outcome(token) == done && end.outcome(token + 100) == done)
        });
        (at, token) = (at + u64::from(len), token + 1);
    }
    for memory in [memory_a, memory_b] {
        let mut arrived = vec![0; at as usize];
        memory.copy_out(SIZE, &mut arrived).expect("inside");
        assert!(arrived == bytes[..at as usize]);
    }
    a.transport.close(at_a).expect("open");
    until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
}

#[test]
fn scattered_pages_are_put_in_place() {
    let variables = [
        ("TCPX_SOFT_MODE", "unpack"),
        ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "7"),
        ("TCPX_SOFT_FAULT_POISON", "1"),
    ];
    child::in_child("scattered_pages_are_put_in_place", &variables, || {
        for channels in [1, 3] {
            let (a, b) = (End::new(|_| {}), End::new(|_| {}));
            let counters = a.transport.counters();
            exchange(a, b, channels);
            assert!(counters.nic(p2p_transport::NicId(0)).received.unpacks >= 7);
        }
        let (a, at_a, _b, _) = support::pair(1);
        assert_eq!(a.limits(at_a).max_slices, 1, "the list scatters already");
        assert!(a.limits(at_a).checks_length);
    });
}

#[test]
fn real_settings_of_sockets_and_strictness_change_nothing() {
    let variables =
        [("TCPX_SOFT_STRICT", "1"), ("NCCL_NSOCKS_PERTHREAD", "2"), ("NCCL_SOCKET_NTHREADS", "1")];
    child::in_child("real_settings_of_sockets_and_strictness_change_nothing", &variables, || {
        exchange(End::new(|_| {}), End::new(|_| {}), 2);
    });
}

/// What the plugin does not take at once is tried again.
#[test]
fn posts_that_the_plugin_does_not_take_are_tried_again() {
    let variables = [("TCPX_SOFT_FAULT_NULL_REQUEST_EVERY", "2")];
    child::in_child("posts_that_the_plugin_does_not_take_are_tried_again", &variables, || {
        let a = End::new(|_| {});
        let counters = a.transport.counters();
        exchange(a, End::new(|_| {}), 2);
        let traffic = counters.nic(p2p_transport::NicId(0));
        assert!(traffic.sent.retries > 0 && traffic.received.retries > 0, "{traffic:?}");
    });
}

/// As a plugin that is not ours: nothing to sleep on, one slice for each message.
#[test]
fn a_plugin_without_an_extension_moves_messages() {
    child::in_child("a_plugin_without_an_extension_moves_messages", &[], || {
        let config = support::config(&[]);
        let mut table = tcpx_soft::plugin();
        table.extension = None;
        let plugin = Plugin::open(Source::Static(table), &config).expect("it starts");
        let end = || {
            let transport = Tcpx::new(plugin.clone(), &config, Options::of(&config, Instant::now()));
            End::of(transport.expect("a transport"))
        };
        let a = end();
        assert!(a.transport.wait_fd().is_none());
        exchange(a, end(), 2);
    });
}

/// Polls as it is told to, and sleeps in between.
fn sleep_until(end: &mut End, what: &str, holds: impl Fn(&End) -> bool) -> usize {
    let begin = Instant::now();
    let mut sleeps = 0;
    while !holds(end) {
        assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", end.events);
        let (Next::Wait(until) | Next::Idle(until)) = end.poll_next() else { continue };
        let left = until.map_or(Duration::from_secs(5), |until| until.0.saturating_sub(end.now().0));
        let file = end.transport.wait_fd().expect("the soft plugin sleeps");
        let time = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&time)).expect("poll");
        sleeps += 1;
    }
    sleeps
}

const KILLED: &str = "a_killed_peer_is_noticed_by_a_sleeper";

/// The other process connects, sends a message, and is killed while this one sleeps.
#[test]
fn a_killed_peer_is_noticed_by_a_sleeper() {
    if child::is_child(KILLED) {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("an address");
        let bytes = line
            .trim()
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"));
        let address = Address::new(&bytes.collect::<Vec<_>>()).expect("short");
        let mut end = End::new(|_| {});
        let conn = end.connect(2, &address);
        sleep_until(&mut end, "connecting", |end| end.has(Event::Connected(conn)));
        let (region, _) = end.register(4096);
        assert_eq!(end.transport.send(conn, Token(1), &[slice(region, 0, 4096)]).count, 1);
        sleep_until(&mut end, "sending", |end| end.outcome(1).is_some());
        println!("SENT");
        sleep_until(&mut end, "being killed", |_| false);
        return;
    }
    let mut end = End::new(|_| {});
    let (conn, address) = end.listen(2);
    let mut process = child::spawn(KILLED, &[]);
    let hex: String = address.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(process.stdin.as_mut().expect("piped"), "{hex}").expect("it listens");
    sleep_until(&mut end, "connecting", |end| end.has(Event::Connected(conn)));
    let (region, _) = end.register(8192);
    for token in [1, 2] {
        assert_eq!(end.transport.recv(conn, Token(token), &[slice(region, 0, 4096)]).count, 1);
    }
    sleep_until(&mut end, "receiving", |end| end.outcome(1).is_some());
    let said = BufReader::new(process.stdout.take().expect("piped")).lines();
    let mut said = said.map_while(Result::ok);
    assert!(said.any(|line| line.contains("SENT")));
    process.kill().expect("it lives");
    let begin = Instant::now();
    let sleeps = sleep_until(&mut end, "the end", |end| end.has(Event::Closed(conn)));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(sleeps < 1000, "it was woken, and did not poll: {sleeps}");
    assert_eq!(end.outcome(2), Some(Outcome::ConnLost));
    let why = end.transport.why(conn).expect("a reason").to_string();
    assert!(why.contains("peer") && (why.contains("gone") || why.contains("died")), "{why}");
    process.wait().expect("killed");
}

#[test]
fn channels_are_spread_over_the_nics_and_counted_on_each() {
    let variables = [("TCPX_SOFT_ADDRESSES", "127.0.0.1,127.0.0.2")];
    child::in_child("channels_are_spread_over_the_nics_and_counted_on_each", &variables, || {
        let config = support::config(&[("UCCL_TCPX_NUM_CHANNELS", "3")]);
        let plugin = p2p_transport_tcpx::Choice::Soft.open(&config).expect("the soft plugin");
        let end = || {
            let options = Options::of(&config, Instant::now());
            End::of(Tcpx::new(plugin.clone(), &config, options).expect("a transport"))
        };
        let (mut a, mut b) = (end(), end());
        let rails = a.transport.rails(None).expect("host memory goes anywhere");
        let spread: Vec<_> = rails.iter().map(|rail| (rail.nic.0, rail.channels)).collect();
        assert_eq!(spread, [(0, 2), (1, 1)]);
        let error = a.transport.rails(Some(0)).expect_err("no GPU here").to_string();
        assert!(error.contains("GPU 0 does not exist"), "{error}");

        let counters = a.transport.counters();
        for rail in rails {
            let (listener, address) = a.transport.listen(rail).expect("it listens");
            let at_a = a.transport.accept(listener).expect("a listener");
            let at_b = b.transport.connect(rail, &address).expect("an address");
            until(&mut a, &mut b, "connecting", |a, b| {
                a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
            });
            let memory = p2p_memory::SharedHost::new(4096).expect("memory");
            let from = a.transport.register(rail.nic, Box::new(memory.clone())).expect("registered");
            let into = b.transport.register(rail.nic, Box::new(memory)).expect("registered");
            let count = 1 + u64::from(rail.nic.0);
            for n in 0..count {
                let token = 10 * u64::from(rail.nic.0) + n;
                assert_eq!(a.transport.send(at_a, Token(token), &[slice(from, 0, 1000)]).count, 1);
                assert_eq!(b.transport.recv(at_b, Token(token), &[slice(into, 2000, 1000)]).count, 1);
                until(&mut a, &mut b, "moving", |a, b| {
                    a.outcome(token).is_some() && b.outcome(token).is_some()
                });
            }
            // What a connection did stays in its NIC's sum when it is gone.
            a.transport.close(at_a).expect("open");
            until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
            let sent = counters.nic(rail.nic).sent;
            assert_eq!((sent.messages, sent.bytes), (count, 1000 * count));
        }
        assert!(counters.conns().is_empty());
    });
}

/// What a connection says of itself.
#[test]
fn a_connection_says_in_one_line_what_it_is() {
    #[derive(Clone, Default)]
    struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || drop(support::pair(3)));
    let text = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" connected ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for part in ["TCPX_Soft", "version=", "nic=", "channels=3", "sockets=", "peer="] {
        assert!(lines.iter().all(|line| line.contains(part)), "{part} in {text}");
    }
}
