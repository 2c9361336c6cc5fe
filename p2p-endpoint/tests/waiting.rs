//! Whoever waits, drives or is woken, in whatever order: nobody waits in vain.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use p2p_endpoint::control_tcp::{TcpControl, TcpOptions};
use p2p_endpoint::endpoint::{Endpoint, OpId, Progress, Status};
use p2p_endpoint::engine::{LinkId, Options, Part, Request};
use p2p_endpoint::exports::Access;
use p2p_proto::peer::Outcome;
use p2p_transport::{Control, ControlEvent, DoorId, Error, ErrorKind, Now, Received, StreamId};
use p2p_transport_tcpx::{Choice, Options as TcpxOptions, Tcpx};
use support::filled;
use tcpx_core::config::{Config, FixedEnvironment};

const PATIENCE: Duration = Duration::from_secs(20);

fn config() -> Config {
    let environment: FixedEnvironment = [("UCCL_P2P_TRANSPORT", "tcp")].into_iter().collect();
    Config::from_environment(&environment).expect("good values")
}

fn options(config: &Config) -> Options {
    let mut options = Options::of(config);
    options.door = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    options
}

fn endpoint(progress: Progress) -> Endpoint {
    let config = config();
    Endpoint::of(&config, options(&config), progress).expect("an endpoint")
}

fn linked(here: &Endpoint) -> (LinkId, Endpoint, LinkId) {
    let there = endpoint(Progress::Thread);
    let link = here.connect(there.door().expect("it listens"), PATIENCE).expect("it answers");
    let accepted = there.accept(PATIENCE).expect("alive").expect("somebody came");
    (link, there, accepted.link)
}

fn part(endpoint: &Endpoint) -> Part {
    Part { mr: endpoint.reg(Box::new(filled(64, 1))).expect("registered"), offset: 0, len: 64 }
}

fn receive(here: &Endpoint, link: LinkId) -> OpId {
    here.start(link, &[part(here)], Request::Recv).expect("started")
}

fn send(there: &Endpoint, back: LinkId) {
    let sent = there.run(back, &[part(there)], Request::Send, PATIENCE).expect("started");
    assert_eq!(sent, Some(Outcome::Done { bytes: 64 }));
}

/// Goes on until this is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Does this when it is woken.
struct Does<F>(Mutex<Option<F>>, AtomicBool);

impl<F: FnOnce() + Send> Does<F> {
    fn new(what: F) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(what)), AtomicBool::new(false)))
    }

    fn is_done(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

impl<F: FnOnce() + Send> Wake for Does<F> {
    fn wake(self: Arc<Self>) {
        let what = self.0.lock().expect("no panic").take();
        if let Some(what) = what {
            what();
        }
        self.1.store(true, Ordering::SeqCst);
    }
}

#[test]
fn who_asks_without_time_drives_and_starves_nobody() {
    let here = endpoint(Progress::Caller);
    let (link, there, back) = linked(&here);
    let id = receive(&here, link);
    let sent = there.start(back, &[part(&there)], Request::Send).expect("started");
    until("a turn of no time makes a round", || {
        here.turn(Duration::ZERO);
        here.poll(id) == Status::Ended(Outcome::Done { bytes: 64 })
    });
    assert_eq!(there.wait(sent, PATIENCE), Status::Ended(Outcome::Done { bytes: 64 }));
    // Beside a thread that asks all the time, transfers that nobody waits for go on.
    let here = endpoint(Progress::Thread);
    let (link, there, _) = linked(&here);
    let (own, far) = (part(&here), part(&there));
    let item = there.advertise(far, Access::Both).expect("registered");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert!(here.notification(Duration::ZERO).is_none());
            }
        });
        for _ in 0..50 {
            let write = Request::Write { into: &[item], counter: None };
            let id = here.start(link, &[own], write).expect("started");
            let ended = futures::executor::block_on(here.ending(id));
            assert_eq!(ended, Some(Outcome::Done { bytes: 64 }));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_word_to_stop_accepting_is_not_lost_while_a_peer_comes() {
    for round in 0..20 {
        let there = endpoint(Progress::Thread);
        let here = endpoint(Progress::Thread);
        std::thread::scope(|scope| {
            let accepts = scope.spawn(|| while there.accept(10 * PATIENCE).expect("alive").is_some() {});
            here.connect(there.door().expect("it listens"), PATIENCE).expect("it answers");
            std::thread::sleep(Duration::from_micros(20 * round));
            there.stop_accept();
            until("the accept that follows returns", || accepts.is_finished());
        });
    }
}

/// The last handle goes in what the progress thread wakes: it cannot wait for itself.
#[test]
fn a_waker_may_let_go_of_the_endpoint() {
    let here = endpoint(Progress::Thread);
    let (link, there, back) = linked(&here);
    let mut ending = here.ending(receive(&here, link));
    let does = Does::new(move || drop(here));
    let waker = does.clone().into();
    assert!(Pin::new(&mut ending).poll(&mut Context::from_waker(&waker)).is_pending());
    send(&there, back);
    until("it was woken", || does.is_done());
    until("the peer hears of the end", || !there.is_up(back));
    let why = there.why(back).map(|why| why.to_string()).unwrap_or_default();
    assert!(why.contains("it was closed there"), "{why}");
}

/// A waker that waits keeps nobody else from driving.
#[test]
fn a_waker_may_wait() {
    let here = endpoint(Progress::Thread);
    let (link, there, back) = linked(&here);
    let mut ending = here.ending(receive(&here, link));
    let (waits, stop) = (here.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let does = Does::new(move || {
        while !stopped.load(Ordering::SeqCst) {
            waits.notification(Duration::from_millis(100));
        }
    });
    let waker = does.clone().into();
    assert!(Pin::new(&mut ending).poll(&mut Context::from_waker(&waker)).is_pending());
    send(&there, back);
    let id = receive(&here, link);
    send(&there, back);
    assert_eq!(here.wait(id, PATIENCE), Status::Ended(Outcome::Done { bytes: 64 }));
    assert!(!does.is_done(), "it waits all the while");
    stop.store(true, Ordering::SeqCst);
    until("it was woken", || does.is_done());
}

#[test]
fn a_panic_of_the_application_is_not_the_engines() {
    struct Turns(Endpoint);
    impl Drop for Turns {
        fn drop(&mut self) {
            self.0.turn(Duration::from_millis(1));
        }
    }
    let here = endpoint(Progress::Thread);
    let turns = Turns(here.clone());
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _turns = turns;
        panic!("of the application");
    }));
    assert!(panicked.is_err());
    let (link, there, back) = linked(&here);
    let id = receive(&here, link);
    send(&there, back);
    assert_eq!(here.wait(id, PATIENCE), Status::Ended(Outcome::Done { bytes: 64 }));
}

/// Control streams that panic when they are told to.
struct Panics(TcpControl, Arc<AtomicBool>);

impl Control for Panics {
    fn listen(&mut self, at: SocketAddr) -> Result<DoorId, Error> {
        self.0.listen(at)
    }
    fn local(&self, door: DoorId) -> Option<SocketAddr> {
        self.0.local(door)
    }
    fn accept(&mut self, door: DoorId) -> Option<StreamId> {
        self.0.accept(door)
    }
    fn shut(&mut self, door: DoorId) {
        self.0.shut(door);
    }
    fn connect(&mut self, to: SocketAddr) -> Result<StreamId, Error> {
        self.0.connect(to)
    }
    fn ends(&self, stream: StreamId) -> Option<(SocketAddr, SocketAddr)> {
        self.0.ends(stream)
    }
    fn send(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        self.0.send(stream, bytes)
    }
    fn receive(&mut self, stream: StreamId, into: &mut [u8]) -> Received {
        self.0.receive(stream, into)
    }
    fn why(&self, stream: StreamId) -> Option<&Error> {
        self.0.why(stream)
    }
    fn close(&mut self, stream: StreamId) {
        self.0.close(stream);
    }
    fn poll(&mut self, now: Now, room: usize, sink: &mut dyn FnMut(ControlEvent)) -> Option<Now> {
        assert!(!self.1.load(Ordering::Relaxed), "as it was told to");
        self.0.poll(now, room, sink)
    }
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.wait_fd()
    }
}

#[test]
fn a_panic_of_the_engine_ends_everything_and_everybody_is_told() {
    for progress in [Progress::Thread, Progress::Caller] {
        let (config, panics) = (config(), Arc::new(AtomicBool::new(false)));
        let plugin = Choice::of(&config).open(&config).expect("the soft plugin");
        let transport = Tcpx::new(plugin, &config, TcpxOptions::of(&config, Instant::now())).expect("opened");
        let control = Panics(TcpControl::new(TcpOptions::default()).expect("a descriptor"), panics.clone());
        let here =
            Endpoint::new(Box::new(transport), Box::new(control), options(&config), progress).expect("one");
        let (link, _there, _) = linked(&here);
        let mut ending = here.ending(receive(&here, link));
        let does = Does::new(|| ());
        let waker = does.clone().into();
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut ending).poll(&mut context).is_pending());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| here.notification(10 * PATIENCE));
            std::thread::sleep(Duration::from_millis(50));
            panics.store(true, Ordering::Relaxed);
            // Whoever drove may have the panic; nobody waits on.
            until("whoever waits comes back", || waits.is_finished());
            let _ = waits.join();
        });
        until("the future is woken", || does.is_done());
        assert_eq!(Pin::new(&mut ending).poll(&mut context), Poll::Ready(Some(Outcome::LinkLost)));
        let error = here.notify(link, "x").expect_err("it cannot be used any more");
        assert_eq!(error.kind(), ErrorKind::Device, "{error}");
    }
}

#[test]
fn what_is_under_way_when_the_last_handle_goes_ends() {
    let here = endpoint(Progress::Thread);
    let (link, _there, _) = linked(&here);
    let ending = here.ending(receive(&here, link));
    drop(here);
    assert_eq!(futures::executor::block_on(ending), Some(Outcome::LinkLost));
}
