//! What control streams over TCP do with descriptors. One test, because it counts those of its process.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use p2p_endpoint::control_tcp::{TcpControl, TcpOptions};
use p2p_transport::{Control, ControlEvent, DoorId, Now, StreamId};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A control and its clock.
struct One {
    control: TcpControl,
    origin: Instant,
}

impl One {
    fn new() -> Self {
        let control = TcpControl::new(TcpOptions::default()).expect("a descriptor");
        Self { control, origin: Instant::now() }
    }

    fn listen(&mut self) -> (DoorId, SocketAddr) {
        let door = self.control.listen(([127, 0, 0, 1], 0).into()).expect("a port");
        (door, self.control.local(door).expect("a live door"))
    }

    fn poll(&mut self) -> Vec<ControlEvent> {
        let mut told = Vec::new();
        self.control.poll(Now(self.origin.elapsed()), usize::MAX, &mut |event| told.push(event));
        told
    }

    fn accept(&mut self, door: DoorId) -> StreamId {
        let begin = Instant::now();
        loop {
            self.poll();
            if let Some(stream) = self.control.accept(door) {
                return stream;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "nobody comes: {:?}", self.control.counts());
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux").count()
}

fn limit(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("below the maximum");
}

#[test]
fn descriptors_are_bounded_and_given_back() {
    let before = descriptors();
    every_end_of_a_stream();
    assert_eq!(descriptors(), before, "all of them came back");
    ten_thousand_strangers(before);
    assert_eq!(descriptors(), before, "all of them came back");
    none_left();
    assert_eq!(descriptors(), before, "all of them came back");
}

fn every_end_of_a_stream() {
    let mut one = One::new();
    let (door, at) = one.listen();
    let (other, nowhere) = one.listen();
    one.control.shut(other);
    let _refused = one.control.connect(nowhere).expect("it is tried");
    let mut left = Vec::new();
    for end in 0..6 {
        let mut visitor = TcpStream::connect(at).expect("it listens");
        if end == 0 {
            // A stranger.
            left.push(visitor);
            continue;
        }
        visitor.write_all(b"x").expect("sent");
        if end == 1 {
            one.poll();
            left.push(visitor);
            continue;
        }
        let stream = one.accept(door);
        match end {
            // It waits for its peer's end.
            2 => one.control.close(stream),
            3 => {
                one.control.close(stream);
                drop(visitor);
                continue;
            }
            4 => {
                drop(visitor);
                one.control.close(stream);
                continue;
            }
            _ => {}
        }
        left.push(visitor);
    }
    one.poll();
    let open = one.control.connect(at).expect("it listens");
    while !one.poll().contains(&ControlEvent::Opened(open)) {}
}

/// They take no more than their bound, and keep nobody out.
fn ten_thousand_strangers(before: usize) {
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(100_000);
    limit(maximum);
    let count = 10_000.min(maximum.saturating_sub(2000) as usize);
    assert!(count >= 1000, "this machine allows {maximum} descriptors, which are too few for this test");
    let mut one = One::new();
    let (door, at) = one.listen();
    let mut strangers = Vec::new();
    for _ in 0..count {
        strangers.push(TcpStream::connect(at).expect("it listens"));
        one.poll();
    }
    let mut good = TcpStream::connect(at).expect("it listens");
    good.write_all(b"hello").expect("sent");
    let stream = one.accept(door);
    assert_eq!(one.control.ends(stream).map(|ends| ends.1), good.local_addr().ok());
    let theirs = descriptors() - before - strangers.len();
    assert!(theirs < 256 + 20, "{theirs} descriptors for {count} strangers");
    assert!(one.control.counts().turned_away >= count as u64 - 256, "{:?}", one.control.counts());
    assert_eq!(one.control.counts().pauses, 0);
}

/// Without a descriptor the door is left alone, and whoever came is let in when there is one again.
fn none_left() {
    let mut one = One::new();
    let (door, at) = one.listen();
    let mut visitors: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(at).expect("it listens")).collect();
    // A stranger leaves for one who comes.
    while one.control.counts().came < 2 {
        one.poll();
    }
    let mut speaks = TcpStream::connect(at).expect("it listens");
    speaks.write_all(b"x").expect("sent");
    // A few more than there are, whatever the numbers of those that this process was started with.
    limit(descriptors() as u64 + 8);
    let mut taken: Vec<OwnedFd> = Vec::new();
    while let Ok(fd) = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC) {
        taken.push(fd);
    }
    let stream = one.accept(door);
    assert_eq!(one.control.ends(stream).map(|ends| ends.1), speaks.local_addr().ok());
    assert_eq!((one.control.counts().turned_away, one.control.counts().pauses), (1, 0));
    assert_eq!(visitors[0].read(&mut [0]).expect("the end"), 0);
    // The second leaves too, and then nobody can come in.
    taken.truncate(taken.len().checked_sub(2).expect("the limit leaves some"));
    visitors.extend((0..2).map(|_| TcpStream::connect(at).expect("it listens")));
    for visitor in &mut visitors[2..] {
        visitor.write_all(b"x").expect("sent");
    }
    let mut streams = vec![one.accept(door)];
    let begin = Instant::now();
    let mut rounds = 0;
    while one.control.counts().pauses < 3 {
        let until = one.poll_until();
        assert!(until.is_some(), "it tries again by itself");
        rounds += 1;
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", one.control.counts());
        assert_eq!(one.control.accept(door), None);
    }
    assert!(begin.elapsed() >= Duration::from_millis(200), "it waits in between");
    assert!(rounds >= 3);
    drop(taken);
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(100_000);
    limit(maximum);
    streams.push(one.accept(door));
    assert_eq!(one.control.ends(streams[1]).map(|ends| ends.1), visitors[3].local_addr().ok());
}

impl One {
    fn poll_until(&mut self) -> Option<Now> {
        self.control.poll(Now(self.origin.elapsed()), usize::MAX, &mut |_| {})
    }
}
