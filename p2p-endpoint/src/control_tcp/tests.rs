//! Rules of control streams, for TCP and for the simulated ones, and then those of TCP alone.

mod rules;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::Instant;

use p2p_transport::ControlEvent::{Broken, Knocked, Opened, Readable};
use rustix::event::{PollFd, PollFlags, poll};
use socket2::{Domain, SockRef, Socket, Type};

use super::*;

const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A control whose time is real, and may be moved forward.
struct One {
    control: TcpControl,
    origin: Instant,
    ahead: Duration,
    told: Vec<ControlEvent>,
}

impl One {
    fn new(change: impl FnOnce(&mut TcpOptions)) -> Self {
        let mut options = TcpOptions::default();
        change(&mut options);
        let control = TcpControl::new(options).expect("a descriptor");
        Self { control, origin: Instant::now(), ahead: Duration::ZERO, told: Vec::new() }
    }

    fn listen(&mut self, at: SocketAddr) -> (DoorId, SocketAddr) {
        let door = self.control.listen(at).expect("a port");
        (door, self.control.local(door).expect("a live door"))
    }

    fn now(&self) -> Now {
        Now(self.origin.elapsed() + self.ahead)
    }

    fn poll(&mut self) -> Option<Now> {
        let now = self.now();
        self.control.poll(now, usize::MAX, &mut |event| self.told.push(event))
    }

    /// Sleeps on the descriptor until this is so.
    fn until(&mut self, mut what: impl FnMut(&mut Self) -> bool) {
        for _ in 0..1000 {
            self.poll();
            if what(self) {
                return;
            }
            self.sleep(10);
        }
        panic!("it does not come: {:?}, {:?}", self.told, self.control);
    }

    fn sleep(&self, milliseconds: i64) -> bool {
        let bound = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        let fd = self.control.wait_fd().expect("it has one");
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&bound)).expect("poll") == 1
    }

    fn accept(&mut self, door: DoorId) -> StreamId {
        let mut stream = None;
        self.until(|one| {
            stream = one.control.accept(door);
            stream.is_some()
        });
        stream.expect("it came")
    }

    fn is_told(&self, event: ControlEvent) -> bool {
        self.told.contains(&event)
    }
}

fn visit(at: SocketAddr) -> TcpStream {
    let visitor = TcpStream::connect(at).expect("it listens");
    visitor.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    visitor
}

#[test]
fn one_that_speaks_comes_in_past_many_that_are_silent() {
    let mut one = One::new(|options| options.most_waiting = 8);
    let (door, at) = one.listen(HERE);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(visit(at));
        one.poll();
    }
    let mut good = visit(at);
    good.write_all(b"hello").expect("sent");
    silent.extend((0..3).map(|_| visit(at)));
    let stream = one.accept(door);
    assert_eq!(one.control.ends(stream).map(|ends| ends.1), good.local_addr().ok());
    one.until(|one| one.control.counts().came == 104);
    assert_eq!(one.control.counts().turned_away, 103 - 8);
    assert_eq!(one.told.iter().filter(|event| **event == Knocked(door)).count(), 1, "of one, and once");
    // The oldest went; the newest are there.
    assert_eq!(silent[0].read(&mut [0]).expect("the end"), 0);
    silent[102].write_all(b"late").expect("sent");
    let late = one.accept(door);
    assert_eq!(one.control.ends(late).map(|ends| ends.1), silent[102].local_addr().ok());
    // They have ten seconds to speak.
    let next = one.poll().expect("strangers wait");
    assert!(next > one.now() && next <= one.now().after(Duration::from_secs(10)), "{next:?}");
    one.ahead = Duration::from_secs(11);
    one.poll();
    assert_eq!(one.control.counts().turned_away, 102);
    assert_eq!(one.poll(), None, "nothing waits");
    assert_eq!(one.control.ends(stream).map(|ends| ends.1), good.local_addr().ok(), "it stays");
}

#[test]
fn a_shut_door_lets_its_strangers_go() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let mut visitors = [visit(at), visit(at)];
    visitors[1].write_all(b"x").expect("sent");
    one.until(|one| one.control.counts().came == 2);
    assert_eq!((one.control.held.len(), one.doors(door)), (1, 1));
    one.control.shut(door);
    assert_eq!((one.control.held.len(), one.poll()), (0, None));
    assert_eq!(visitors[0].read(&mut [0]).expect("the end"), 0);
    // Unread bytes make it a reset.
    assert!(!matches!(visitors[1].read(&mut [0]), Ok(1..)));
}

#[test]
fn those_that_nobody_accepts_are_bounded() {
    let mut one = One::new(|options| options.most_waiting = 3);
    let (door, at) = one.listen(HERE);
    let mut visitors = Vec::new();
    for _ in 0..5 {
        let mut visitor = visit(at);
        visitor.write_all(b"x").expect("sent");
        visitors.push(visitor);
        let came = visitors.len();
        one.until(|one| one.doors(door) == came.min(3) && one.control.counts().came == came as u64);
    }
    one.until(|one| one.control.counts().turned_away == 2);
    for visitor in &visitors[2..] {
        let stream = one.control.accept(door).expect("it waits");
        assert_eq!(one.control.ends(stream).map(|ends| ends.1), visitor.local_addr().ok());
    }
    assert_eq!(one.control.accept(door), None);
}

impl One {
    fn doors(&self, door: DoorId) -> usize {
        self.control.doors.get(door).map_or(0, |door| door.came.len())
    }
}

#[test]
fn without_strangers_whoever_comes_is_told_of_and_may_be_spoken_to() {
    let mut one = One::new(|options| options.first_word = None);
    let (door, at) = one.listen(HERE);
    let mut visitor = visit(at);
    let stream = one.accept(door);
    assert!(one.is_told(Knocked(door)));
    assert_eq!(one.control.send(stream, b"welcome"), 7);
    let mut heard = [0; 7];
    visitor.read_exact(&mut heard).expect("it comes");
    assert_eq!((&heard, one.control.counts().turned_away), (b"welcome", 0));
}

#[test]
fn a_door_of_both_families_takes_both_and_says_ipv4_as_such() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen((Ipv6Addr::UNSPECIFIED, 0).into());
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let stream = one.control.connect((ip, at.port()).into()).expect("an address");
        one.until(|one| one.is_told(Opened(stream)));
        assert_eq!(one.control.send(stream, b"x"), 1);
        let other = one.accept(door);
        let (own, peer) = one.control.ends(other).expect("open");
        assert_eq!(one.control.ends(stream), Some((peer, own)));
        assert_eq!((own.ip(), peer.ip()), (ip, ip));
    }
    // One of a single address does not take the others.
    let (_, v6) = one.listen((Ipv6Addr::LOCALHOST, 0).into());
    let refused = one.control.connect((Ipv4Addr::LOCALHOST, v6.port()).into()).expect("an address");
    one.until(|one| one.is_told(Broken(refused)));
}

#[test]
fn a_port_in_use_is_refused_and_free_again_at_once() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let error = one.control.listen(at).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains(&at.to_string()), "{error}");
    // A stream that this end closed first keeps the port busy for a minute, but for who asks for it by number.
    let mut visitor = visit(at);
    visitor.write_all(b"x").expect("sent");
    let stream = one.accept(door);
    one.control.close(stream);
    one.control.shut(door);
    assert_eq!(visitor.read(&mut [0]).expect("the end"), 0);
    drop(visitor);
    let (_, again) = one.listen(at);
    assert_eq!(again, at);
    let error = one.control.listen("192.0.2.1:0".parse().expect("an address")).expect_err("not ours");
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
}

#[test]
fn a_connect_that_nobody_answers_ends_in_time() {
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&HERE.into()).expect("a port");
    full.listen(0).expect("it is bound");
    let at = full.local_addr().expect("bound").as_socket().expect("an address");
    // The kernel admits one and ignores the others.
    let mut one = One::new(|options| options.connect_timeout = Duration::from_secs(20));
    let streams: Vec<StreamId> = (0..4).map(|_| one.control.connect(at).expect("an address")).collect();
    one.until(|one| one.is_told(Opened(streams[0])));
    let mute = streams[3];
    let next = one.poll().expect("it is bounded");
    assert!(next <= one.now().after(Duration::from_secs(20)), "{next:?}");
    one.ahead = Duration::from_secs(19);
    one.poll();
    assert!(!one.is_told(Broken(mute)), "{:?}", one.told);
    assert_eq!(one.control.receive(mute, &mut [0]), Received::Nothing);
    assert_eq!((one.control.send(mute, b"x"), one.control.ends(mute)), (0, None));
    one.ahead = Duration::from_secs(21);
    one.poll();
    assert!(one.is_told(Broken(mute)) && !one.is_told(Broken(streams[0])), "{:?}", one.told);
    let why = one.control.why(mute).expect("a reason").to_string();
    assert!(why.contains(&at.to_string()) && why.contains("20s"), "{why}");
    assert_eq!(one.poll(), None, "nothing is bounded any more");
}

/// A short read asks the kernel nothing more until that says that there is something, and misses nothing by it.
#[test]
fn what_follows_a_short_read_is_found() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let mut visitor = visit(at);
    visitor.write_all(b"one").expect("sent");
    let stream = one.accept(door);
    let mut into = [0; 16];
    one.until(|one| one.is_told(Readable(stream)));
    assert_eq!(one.control.receive(stream, &mut into), Received::Bytes(3));
    assert_eq!(one.control.receive(stream, &mut into), Received::Nothing);
    // Whoever spins looks without being told.
    visitor.write_all(b"four").expect("sent");
    let begin = Instant::now();
    while one.control.receive(stream, &mut into) != Received::Bytes(4) {
        assert!(one.control.look_again(stream));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    one.told.clear();
    visitor.write_all(b"x").expect("sent");
    one.until(|one| one.is_told(Readable(stream)));
    // The end comes in between, and is told along with the byte or after it.
    visitor.shutdown(std::net::Shutdown::Write).expect("open");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(one.control.receive(stream, &mut into), Received::Bytes(1));
    one.until(|one| one.control.receive(stream, &mut into) == Received::Ended);
    // Both are there when they are told of at once.
    let mut visitor = visit(at);
    visitor.write_all(b"y").expect("sent");
    let stream = one.accept(door);
    visitor.write_all(b"z").expect("sent");
    visitor.shutdown(std::net::Shutdown::Write).expect("open");
    std::thread::sleep(Duration::from_millis(20));
    one.poll();
    assert_eq!(one.control.receive(stream, &mut into), Received::Bytes(2));
    assert_eq!(one.control.receive(stream, &mut into), Received::Ended);
    assert!(one.control.look_again(stream), "it can still be written");
    one.control.close(stream);
    assert!(!one.control.look_again(stream), "a stale id");
}

#[test]
fn a_last_word_before_a_reset_is_read() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let mut visitor = visit(at);
    visitor.write_all(b"go away").expect("sent");
    let stream = one.accept(door);
    one.until(|one| one.is_told(Readable(stream)));
    one.told.clear();
    SockRef::from(&visitor).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(visitor);
    one.until(|one| one.is_told(Broken(stream)));
    assert_eq!(one.told, [Readable(stream), Broken(stream)]);
    let mut word = [0; 16];
    assert_eq!(one.control.receive(stream, &mut word), Received::Bytes(7));
    assert_eq!(&word[..7], b"go away");
    assert_eq!(one.control.receive(stream, &mut word), Received::Ended);
    let why = one.control.why(stream).expect("a reason");
    assert_eq!((why.kind(), why.during()), (ErrorKind::Conn, "poll"));
    assert!(why.to_string().contains("127.0.0.1:"), "{why}");
    one.told.clear();
    one.poll();
    assert_eq!(one.told, [], "it is said once");
}

#[test]
fn a_send_to_one_that_went_breaks_the_stream() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let mut visitor = visit(at);
    visitor.write_all(b"x").expect("sent");
    let stream = one.accept(door);
    drop(visitor);
    let begin = Instant::now();
    while one.control.ends(stream).is_some() {
        one.control.send(stream, b"are you there?");
        assert!(begin.elapsed() < Duration::from_secs(10), "nobody refuses it");
    }
    assert_eq!(one.control.queue, [Source::Stream(stream)], "it is told although the kernel may be silent");
    one.poll();
    assert_eq!(one.told.last(), Some(&Broken(stream)));
    assert_eq!(one.told.iter().filter(|event| **event == Broken(stream)).count(), 1);
    assert_eq!(one.control.send(stream, b"?"), 0);
    assert_eq!(one.control.ends(stream), None);
}

/// A peer that goes on talking does not lose what it was sent.
#[test]
fn what_was_taken_arrives_although_the_peer_talks_on() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let mut visitor = visit(at);
    visitor.write_all(b"x").expect("sent");
    let stream = one.accept(door);
    let bytes: Vec<u8> = (0..1 << 20).map(|at| at as u8).collect();
    let mut taken = 0;
    loop {
        match one.control.send(stream, &bytes) {
            0 => break,
            count => taken += count,
        }
    }
    visitor.write_all(b"unread").expect("sent");
    one.control.close(stream);
    let mut heard = 0;
    let mut into = vec![0; 1 << 16];
    loop {
        visitor.write_all(b"and another thing").expect("it is taken");
        one.poll();
        match visitor.read(&mut into).expect("it is not broken off") {
            0 => break,
            count => heard += count,
        }
    }
    assert_eq!(heard, taken);
    assert_eq!(one.control.held.len(), 1, "it waits for the peer's end");
    drop(visitor);
    one.until(|one| one.control.held.is_empty());
    assert_eq!(one.poll(), None);
}

#[test]
fn one_that_does_not_end_its_half_is_let_go_in_time() {
    let mut one = One::new(|options| options.close_timeout = Duration::from_secs(3));
    let (door, at) = one.listen(HERE);
    let mut visitors: Vec<TcpStream> = Vec::new();
    for _ in 0..=MOST_LEAVING {
        let mut visitor = visit(at);
        visitor.write_all(b"x").expect("sent");
        visitors.push(visitor);
        let stream = one.accept(door);
        one.control.close(stream);
    }
    assert_eq!(one.control.held.len(), MOST_LEAVING, "so many wait at most");
    one.poll();
    one.ahead = Duration::from_secs(2);
    one.poll();
    assert_eq!(one.control.held.len(), MOST_LEAVING);
    one.ahead = Duration::from_secs(4);
    one.poll();
    assert_eq!((one.control.held.len(), one.poll()), (0, None));
    assert_eq!(visitors[0].read(&mut [0]).expect("the end"), 0);
}

#[test]
fn a_drop_ends_streams_but_not_those_of_the_parent() {
    for child in [false, true] {
        let mut one = One::new(|_| {});
        let (door, at) = one.listen(HERE);
        let mut visitor = visit(at);
        visitor.write_all(b"x").expect("sent");
        let stream = one.accept(door);
        assert_eq!(one.control.receive(stream, &mut [0; 4]), Received::Bytes(1));
        // What the other process holds of it.
        let other = one.control.streams.get(stream).expect("open").socket.try_clone().expect("a descriptor");
        one.control.process += u32::from(child);
        drop(one);
        assert_eq!((&other).write(b"alive").is_ok(), child);
        let mut heard = Vec::new();
        drop(other);
        visitor.read_to_end(&mut heard).expect("it ends");
        assert_eq!(heard.len(), if child { 5 } else { 0 });
    }
}

/// A forked child has a copy of every descriptor, and the kernel goes on watching what is open anywhere.
#[test]
fn what_only_a_child_holds_wakes_nobody() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let mut stranger = visit(at);
    one.until(|one| one.control.counts().came == 1);
    let mut speaks = visit(at);
    speaks.write_all(b"x").expect("sent");
    let stream = one.accept(door);
    let strangers = one.control.held.iter().map(|(_, held)| &held.socket);
    let streams = one.control.streams.iter().map(|(_, stream)| &stream.socket);
    let _child: Vec<TcpStream> =
        strangers.chain(streams).map(|socket| socket.try_clone().expect("a descriptor")).collect();
    one.control.close(stream);
    one.ahead = Duration::from_secs(20);
    one.poll();
    one.ahead *= 2;
    one.poll();
    assert!(one.control.held.is_empty() && one.control.streams.is_empty());
    for visitor in [&mut stranger, &mut speaks] {
        visitor.write_all(b"is anybody there?").expect("the child holds it");
    }
    assert!(!one.sleep(50), "nobody here wants to know");
}

#[test]
fn nobody_is_woken_by_what_is_done_already() {
    let mut one = One::new(|_| {});
    let (door, at) = one.listen(HERE);
    let _silent = visit(at);
    let mut visitor = visit(at);
    visitor.write_all(b"x").expect("sent");
    let stream = one.accept(door);
    one.until(|one| one.is_told(Readable(stream)));
    assert!(!one.sleep(20), "the byte was told of, although nobody read it");
    visitor.write_all(b"y").expect("sent");
    one.told.clear();
    one.until(|one| one.is_told(Readable(stream)));
    drop(visitor);
    one.told.clear();
    one.until(|one| one.is_told(Readable(stream)));
    assert!(!one.sleep(20), "the end was told of");
    let mut into = [0; 8];
    assert_eq!(one.control.receive(stream, &mut into), Received::Bytes(2));
    assert_eq!(one.control.receive(stream, &mut into), Received::Ended);
    assert!(one.control.why(stream).is_none(), "it ended, and did not break");
}
