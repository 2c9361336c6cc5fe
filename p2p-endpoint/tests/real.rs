//! Endpoints of one process over the soft plugin and real sockets.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use p2p_endpoint::endpoint::{Endpoint, Progress, Status};
use p2p_endpoint::engine::{LinkId, Options, Part, Request};
use p2p_endpoint::exports::{Access, Item};
use p2p_endpoint::registry::MrId;
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport::ErrorKind;
use support::{bytes, filled};
use tcpx_core::config::{Config, FixedEnvironment};

const PATIENCE: Duration = Duration::from_secs(20);

fn endpoint(progress: Progress, change: impl FnOnce(&mut Options)) -> Endpoint {
    let environment: FixedEnvironment = [("UCCL_P2P_TRANSPORT", "tcp")].into_iter().collect();
    let config = Config::from_environment(&environment).expect("good values");
    let mut options = Options::of(&config);
    options.door = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    change(&mut options);
    Endpoint::of(&config, options, progress).expect("an endpoint")
}

/// Two endpoints, and the link between them at both.
fn pair(progress: Progress) -> (Endpoint, LinkId, Endpoint, LinkId) {
    let (here, there) = (endpoint(progress, |_| {}), endpoint(Progress::Thread, |_| {}));
    let link = here.connect(there.door().expect("it listens"), PATIENCE).expect("it answers");
    let accepted = there.accept(PATIENCE).expect("alive").expect("somebody came");
    assert_eq!(accepted.peer.endpoint, here.facts().endpoint);
    (here, link, there, accepted.link)
}

struct Area {
    memory: SharedHost,
    mr: MrId,
}

fn area(endpoint: &Endpoint, length: usize, seed: u8) -> Area {
    let memory = filled(length, seed);
    let mr = endpoint.reg(Box::new(memory.clone())).expect("registered");
    Area { memory, mr }
}

fn item(endpoint: &Endpoint, area: &Area, offset: u64, len: u64) -> Item {
    endpoint.advertise(Part { mr: area.mr, offset, len }, Access::Both).expect("advertised")
}

#[test]
fn writes_and_reads_move_every_byte() {
    for progress in [Progress::Thread, Progress::Caller] {
        let (here, link, there, _) = pair(progress);
        for len in [1_u64, 300, 4096, 1_000_003, 20 << 20] {
            let (local, remote) = (area(&here, len as usize, 1), area(&there, len as usize + 64, 2));
            let part = Part { mr: local.mr, offset: 0, len };
            let far = item(&there, &remote, 32, len);
            let write = Request::Write { into: &[far], counter: Some(1) };
            let wrote = here.run(link, &[part], write, PATIENCE).expect("it starts");
            assert_eq!(wrote, Some(Outcome::Done { bytes: len }));
            assert!(bytes(&remote.memory, 32, len as usize) == bytes(&local.memory, 0, len as usize));
            local.memory.fill(0, len as usize, 0).expect("in bounds");
            let read = here.run(link, &[part], Request::Read { from: &[far] }, PATIENCE).expect("it starts");
            assert_eq!(read, Some(Outcome::Done { bytes: len }));
            assert!(bytes(&remote.memory, 32, len as usize) == bytes(&local.memory, 0, len as usize));
        }
    }
}

#[test]
fn messages_notifications_and_counters_from_many_threads() {
    let (here, link, there, back) = pair(Progress::Thread);
    const EACH: u64 = 50;
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (here, there) = (&here, &there);
            scope.spawn(move || {
                let (from, to) = (area(here, 10_000, thread), area(there, 10_000, 99));
                let far = item(there, &to, 0, 10_000);
                let part = Part { mr: from.mr, offset: 0, len: 10_000 };
                for _ in 0..EACH {
                    let write = Request::Write { into: &[far], counter: Some(thread.into()) };
                    let wrote = here.run(link, &[part], write, PATIENCE).expect("started");
                    assert_eq!(wrote, Some(Outcome::Done { bytes: 10_000 }));
                }
                assert!(bytes(&to.memory, 0, 10_000) == bytes(&from.memory, 0, 10_000));
            });
        }
        scope.spawn(|| {
            for number in 0..EACH {
                here.notify(link, number.to_le_bytes().to_vec()).expect("there is room");
            }
        });
    });
    for number in 0..EACH {
        let (from, text) = there.notification(PATIENCE).expect("it comes");
        assert_eq!((from, &text[..]), (back, &number.to_le_bytes()[..]));
    }
    for thread in 0..4 {
        assert_eq!(there.counter(back, thread), EACH);
    }
}

/// Both ends send before either receives: nobody waits for the other.
#[test]
fn both_ends_send_first() {
    let (here, link, there, back) = pair(Progress::Thread);
    let send = |endpoint: &Endpoint, link, seed| {
        let (from, to) = (area(endpoint, 3 << 20, seed), area(endpoint, 4 << 20, 0));
        let sent = endpoint.start(link, &[Part { mr: from.mr, offset: 0, len: 3 << 20 }], Request::Send);
        let room = Part { mr: to.mr, offset: 0, len: 4 << 20 };
        let received = endpoint.run(link, &[room], Request::Recv, PATIENCE).expect("started");
        assert_eq!(received, Some(Outcome::Done { bytes: 3 << 20 }));
        let sent = endpoint.wait(sent.expect("started"), PATIENCE);
        assert_eq!(sent, Status::Ended(Outcome::Done { bytes: 3 << 20 }));
        bytes(&to.memory, 0, 3 << 20)
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| send(&here, link, 1));
        let other = scope.spawn(|| send(&there, back, 2));
        assert!(one.join().expect("fine") == bytes(&filled(3 << 20, 2), 0, 3 << 20));
        assert!(other.join().expect("fine") == bytes(&filled(3 << 20, 1), 0, 3 << 20));
    });
}

#[test]
fn what_a_key_does_not_open_is_refused_and_the_link_goes_on() {
    let (here, link, there, _) = pair(Progress::Thread);
    let (local, remote) = (area(&here, 8192, 1), area(&there, 8192, 2));
    let far = item(&there, &remote, 0, 4096);
    let part = Part { mr: local.mr, offset: 0, len: 4096 };
    there.dereg(remote.mr).expect("it was registered");
    let wrote = here.run(link, &[part], Request::Write { into: &[far], counter: None }, PATIENCE);
    assert!(matches!(wrote, Ok(Some(Outcome::Refused(_)))), "{wrote:?}");
    let remote = area(&there, 8192, 2);
    let far = item(&there, &remote, 0, 4096);
    let wrote = here.run(link, &[part], Request::Write { into: &[far], counter: None }, PATIENCE);
    assert_eq!(wrote.expect("started"), Some(Outcome::Done { bytes: 4096 }));
    assert!(far.narrow(far.address() + 1, 4096).is_err());
    let long = Part { mr: local.mr, offset: 0, len: 8192 };
    let refused = here
        .start(link, &[long], Request::Write { into: &[far], counter: None })
        .expect_err("lengths differ");
    assert_eq!(refused.kind(), ErrorKind::Misuse, "{refused}");
}

#[test]
fn an_endpoint_that_goes_ends_its_links_and_nobody_hangs() {
    let (here, link, there, back) = pair(Progress::Thread);
    let room = area(&here, 4096, 1);
    let waits =
        here.start(link, &[Part { mr: room.mr, offset: 0, len: 4096 }], Request::Recv).expect("started");
    there.notify(back, b"last words".to_vec()).expect("there is room");
    drop(there);
    let heard = here.notification(Duration::from_secs(2));
    assert_eq!(heard.unwrap_or_else(|| panic!("it was said; {:?}", here.why(link))).1, b"last words"[..]);
    assert_eq!(here.wait(waits, PATIENCE), Status::Ended(Outcome::LinkLost));
    let begin = Instant::now();
    while here.is_up(link) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = here.notify(link, b"x".to_vec()).expect_err("it is over");
    assert!(matches!(error.kind(), ErrorKind::Conn | ErrorKind::Misuse), "{error}");
}

#[test]
fn a_wrong_secret_is_refused_and_a_right_one_is_not() {
    let with = |secret: &'static [u8]| {
        endpoint(Progress::Thread, |options| options.secret = p2p_endpoint::secret::Secret::new(secret))
    };
    let (here, there, stranger) = (with(b"one"), with(b"one"), with(b"other"));
    let door = there.door().expect("it listens");
    let refused = stranger.connect(door, PATIENCE).expect_err("another secret");
    assert!(refused.to_string().contains("UCCL_P2P_SECRET"), "{refused}");
    let open = endpoint(Progress::Thread, |_| {});
    let refused = open.connect(door, PATIENCE).expect_err("no secret");
    assert!(refused.to_string().contains("UCCL_P2P_SECRET"), "{refused}");
    here.connect(door, PATIENCE).expect("the same secret");
}

#[test]
fn accept_can_be_stopped_and_connect_says_why_it_failed() {
    let here = endpoint(Progress::Thread, |options| options.connect_timeout = Duration::from_secs(1));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| here.accept(PATIENCE));
        std::thread::sleep(Duration::from_millis(50));
        let begin = Instant::now();
        here.stop_accept();
        assert!(waits.join().expect("fine").expect("alive").is_none());
        assert!(begin.elapsed() < PATIENCE / 2);
    });
    // Said while nobody waits, it is for the next one who does, and for no other.
    let begin = Instant::now();
    here.stop_accept();
    assert!(here.accept(PATIENCE).expect("alive").is_none());
    assert!(begin.elapsed() < PATIENCE / 2);
    let begin = Instant::now();
    assert!(here.accept(Duration::from_millis(30)).expect("alive").is_none());
    assert!(begin.elapsed() >= Duration::from_millis(30));
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let error = here.connect(nobody, PATIENCE).expect_err("nobody listens");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    // Something listens that is no endpoint, and says nothing.
    let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let error = here.connect(silent.local_addr().expect("bound"), PATIENCE).expect_err("it is silent");
    assert_eq!(error.kind(), ErrorKind::Conn, "{error}");
}

#[test]
fn an_end_can_be_awaited() {
    let (here, link, there, _) = pair(Progress::Thread);
    let (local, remote) = (area(&here, 1 << 20, 1), area(&there, 1 << 20, 2));
    let far = item(&there, &remote, 0, 1 << 20);
    let part = Part { mr: local.mr, offset: 0, len: 1 << 20 };
    let ends: Vec<_> = (0..8)
        .map(|_| {
            here.ending(
                here.start(link, &[part], Request::Write { into: &[far], counter: None }).expect("started"),
            )
        })
        .collect();
    let outcomes = futures::executor::block_on(futures::future::join_all(ends));
    assert!(
        outcomes.iter().all(|outcome| *outcome == Some(Outcome::Done { bytes: 1 << 20 })),
        "{outcomes:?}"
    );
}

/// An executor may go on with a task inside of the call that wakes it.
#[test]
fn who_is_woken_may_use_the_endpoint_at_once() {
    struct Asks(Endpoint, AtomicBool);
    impl Wake for Asks {
        fn wake(self: Arc<Self>) {
            assert_eq!(self.0.counters().links.accepted, 0);
            self.1.store(true, Ordering::SeqCst);
        }
    }
    let (here, link, there, back) = pair(Progress::Thread);
    let (local, remote) = (area(&here, 64, 1), area(&there, 64, 2));
    let id = here.start(link, &[Part { mr: local.mr, offset: 0, len: 64 }], Request::Recv).expect("started");
    let asks = Arc::new(Asks(here.clone(), AtomicBool::new(false)));
    let waker = asks.clone().into();
    let mut ending = here.ending(id);
    assert!(Pin::new(&mut ending).poll(&mut Context::from_waker(&waker)).is_pending());
    let mut second = here.ending(id);
    let second = Pin::new(&mut second).poll(&mut Context::from_waker(&waker));
    assert_eq!(second, Poll::Ready(None), "one future waits for an operation");
    there.start(back, &[Part { mr: remote.mr, offset: 0, len: 64 }], Request::Send).expect("started");
    let begin = Instant::now();
    while !asks.1.load(Ordering::SeqCst) {
        assert!(begin.elapsed() < PATIENCE, "whoever wakes holds what the waker needs");
        std::thread::sleep(Duration::from_millis(1));
    }
    let end = Pin::new(&mut ending).poll(&mut Context::from_waker(&waker));
    assert_eq!(end, Poll::Ready(Some(Outcome::Done { bytes: 64 })));
}

#[test]
fn a_peer_that_names_too_many_counters_is_no_friend() {
    let (here, link, there, back) = pair(Progress::Thread);
    let (local, remote) = (area(&here, 1, 1), area(&there, 1, 2));
    let far = item(&there, &remote, 0, 1);
    let part = Part { mr: local.mr, offset: 0, len: 1 };
    let count = |counter| {
        let write = Request::Write { into: &[far], counter: Some(counter) };
        here.run(link, &[part], write, PATIENCE)
    };
    for counter in 0..4096 {
        assert_eq!(count(counter).expect("started"), Some(Outcome::Done { bytes: 1 }), "{counter}");
    }
    assert_eq!(count(7).expect("started"), Some(Outcome::Done { bytes: 1 }), "one that is known");
    assert!(there.is_up(back));
    // Whether it hears of its end or not, the link is closed there.
    let _ = count(4096);
    let begin = Instant::now();
    while here.is_up(link) || there.is_up(back) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(there.counter(back, 7), 2);
}

#[test]
fn notifications_that_nobody_reads_hold_the_peer_back() {
    const LENGTH: usize = 1 << 20;
    let (here, link, there, _) = pair(Progress::Thread);
    let (mut sent, mut refused) = (0_u32, Instant::now());
    // What both ends hold and what is on its way between them, with room to spare.
    while sent < 100 && refused.elapsed() < Duration::from_secs(2) {
        match here.notify(link, vec![sent as u8; LENGTH]) {
            Ok(()) => (sent, refused) = (sent + 1, Instant::now()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert!((30..100).contains(&sent), "{sent} MiB are held");
    assert!(here.is_up(link), "{:?}", here.why(link));
    for number in 0..sent {
        let (_, bytes) = there.notification(PATIENCE).expect("the peer goes on when there is room");
        assert!(bytes.len() == LENGTH && bytes[0] == number as u8);
    }
    here.notify(link, b"more".to_vec()).expect("there is room");
    assert_eq!(there.notification(PATIENCE).expect("it comes").1, b"more"[..]);
}

#[test]
fn what_was_counted_is_known_after_the_link_ended() {
    let (here, link, there, back) = pair(Progress::Thread);
    let (local, remote) = (area(&here, 64, 1), area(&there, 64, 2));
    let far = item(&there, &remote, 0, 64);
    let part = Part { mr: local.mr, offset: 0, len: 64 };
    // For ever is no time that overflows.
    let write = Request::Write { into: &[far], counter: Some(3) };
    let wrote = here.run(link, &[part], write, Duration::MAX).expect("started");
    assert_eq!(wrote, Some(Outcome::Done { bytes: 64 }));
    drop(here);
    let begin = Instant::now();
    while there.is_up(back) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(there.counter(back, 3), 1);
}
