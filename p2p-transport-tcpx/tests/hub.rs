//! The port that all listeners of a process share: who is taken in by whom, and when nobody can be.

mod support;

#[path = "../../tcpx-soft/tests/support/child.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it belongs to another crate's tests, and this file uses a part of it"
)]
mod child;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use p2p_transport::{Address, ConnId, Event, Next, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use support::{End, PATIENCE, until};

/// Waits on what a transport sleeps on; true if it became readable.
fn wakes(end: &End, within: Duration) -> bool {
    let time = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
    let file = end.transport.wait_fd().expect("the soft plugin sleeps");
    poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&time)).expect("poll") == 1
}

/// Sleeps whenever it may, and as long, until the connection is up.
fn connected(end: &mut End, conn: ConnId) {
    while !end.has(Event::Connected(conn)) {
        assert!(!end.has(Event::Closed(conn)), "{:?}", end.transport.why(conn));
        let (Next::Wait(until) | Next::Idle(until)) = end.poll_next() else { continue };
        wakes(end, until.map_or(PATIENCE, |until| until.0.saturating_sub(end.now().0)));
    }
}

/// How often a transport sleeps while another one of its process takes in all visitors.
const NAPS: usize = 100;

#[test]
fn a_sleeper_is_woken_for_a_visitor_that_another_transport_took_in() {
    let (addresses, asleep) = mpsc::channel::<Option<Address>>();
    let sleeper = std::thread::spawn(move || {
        let mut end = End::new(|_| {});
        let mut slowest = Duration::ZERO;
        for _ in 0..NAPS {
            let (conn, address) = end.listen(1);
            end.poll();
            addresses.send(Some(address)).expect("the test runs");
            let begin = Instant::now();
            connected(&mut end, conn);
            slowest = slowest.max(begin.elapsed());
            end.transport.close(conn).expect("open");
            while !end.has(Event::Closed(conn)) {
                end.poll();
            }
            end.events.clear();
        }
        addresses.send(None).expect("the test runs");
        slowest
    });
    // One that never sleeps, listens too, and so takes in whoever comes.
    let mut thief = End::new(|_| {});
    let (_, address) = thief.listen(1);
    drop(address);
    let mut guest = End::new(|_| {});
    while let Some(address) = loop {
        thief.poll();
        if let Ok(address) = asleep.try_recv() {
            break address;
        }
    } {
        let conn = guest.connect(1, &address);
        let begin = Instant::now();
        until(&mut guest, &mut thief, "a nap", |guest, _| {
            assert!(!guest.has(Event::Closed(conn)), "{:?}", guest.transport.why(conn));
            guest.has(Event::Connected(conn))
        });
        assert!(begin.elapsed() < PATIENCE / 2, "it slept on");
        until(&mut guest, &mut thief, "the end", |guest, _| guest.has(Event::Closed(conn)));
        guest.events.clear();
    }
    let slowest = sleeper.join().expect("the sleeper is fine");
    assert!(slowest < PATIENCE / 2, "it slept for {slowest:?}");
}

#[test]
fn a_connect_that_was_given_up_does_not_use_up_the_listener() {
    let mut host = End::new(|_| {});
    let (listener, address) = host.transport.listen(End::rail(1)).expect("it listens");
    let mut first = End::new(|_| {});
    let given_up = first.connect(1, &address);
    // Its hello has come by then.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        first.poll();
        host.poll();
    }
    first.transport.close(given_up).expect("it opens");
    until(&mut first, &mut host, "giving up", |first, _| first.has(Event::Closed(given_up)));
    drop(first);

    let mut second = End::new(|_| {});
    let at_second = second.connect(1, &address);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        second.poll();
        host.poll();
    }
    assert!(!second.has(Event::Closed(at_second)), "{:?}", second.transport.why(at_second));
    let at_host = host.transport.accept(listener).expect("a listener");
    until(&mut host, &mut second, "connecting", |host, second| {
        host.has(Event::Connected(at_host)) && second.has(Event::Connected(at_second))
    });
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn without_descriptors_a_sleeper_sleeps_on_and_says_what_to_do() {
    child::in_child("without_descriptors_a_sleeper_sleeps_on_and_says_what_to_do", &[], || {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let mut host = End::new(|_| {});
        let (_listener, address) = host.transport.listen(End::rail(1)).expect("it listens");
        let port = port_of(&address);
        host.poll();
        let visitor = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");

        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: limit.maximum }).expect("lower");
        visitor.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("it listens");
        let (begin, mut naps) = (Instant::now(), 0);
        let second = Duration::from_secs(1);
        while begin.elapsed() < second {
            naps += usize::from(wakes(&host, second.saturating_sub(begin.elapsed())));
            host.poll();
        }
        // Each time the pause is over it is woken until its next look at the streams is due.
        assert!((2..20_000).contains(&naps), "woken {naps} times in a second");
        let said = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("text");
        assert_eq!(said.matches("WARN").count(), 1, "{said}");
        assert!(said.contains("ulimit -n"), "{said}");

        setrlimit(Resource::Nofile, limit).expect("raise");
        // It is taken in as soon as there are descriptors again, and turned away by its first bytes.
        let mut visitor = TcpStream::from(visitor);
        visitor.write_all(b"GET / HTTP/1.1\r\n").expect("it is empty");
        visitor.set_nonblocking(true).expect("a socket");
        let begin = Instant::now();
        while !matches!(visitor.read(&mut [0; 16]), Ok(0)) {
            assert!(begin.elapsed() < PATIENCE, "nobody is taken in any more");
            wakes(&host, Duration::from_secs(1));
            host.poll();
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
}

/// The last two bytes of an address are the port of its last place.
fn port_of(address: &Address) -> u16 {
    let bytes = address.as_bytes();
    u16::from_le_bytes([bytes[bytes.len() - 2], bytes[bytes.len() - 1]])
}
