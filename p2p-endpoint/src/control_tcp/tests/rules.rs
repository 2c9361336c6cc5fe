//! Rules that every kind of control streams keeps.

use std::time::Instant;

use p2p_transport::ControlEvent::{Broken, Knocked, Opened, Readable, Writable};
use p2p_transport_mock::{MockControl, NicModel, Settings, World};
use rustix::event::{PollFd, PollFlags, poll};

use super::*;

/// Makes time pass for two of a kind.
type Step<C> = Box<dyn FnMut(&C, &C) -> Now>;

/// Two of a kind, the second of which has a door; and what makes time pass for both.
struct Two<C> {
    here: C,
    there: C,
    door: DoorId,
    at: SocketAddr,
    step: Step<C>,
    told: [Vec<ControlEvent>; 2],
}

impl Two<TcpControl> {
    fn over_tcp() -> Self {
        let [here, there] = [0, 1].map(|_| TcpControl::new(TcpOptions::default()).expect("a descriptor"));
        let origin = Instant::now();
        let step = move |here: &TcpControl, there: &TcpControl| {
            let [here, there] = [here, there].map(|control| control.wait_fd().expect("it has one"));
            let fds = &mut [PollFd::new(&here, PollFlags::IN), PollFd::new(&there, PollFlags::IN)];
            let bound = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            poll(fds, Some(&bound)).expect("poll");
            Now(origin.elapsed())
        };
        Self::new(here, there, HERE, Box::new(step))
    }
}

impl Two<MockControl> {
    fn simulated() -> Self {
        let mut settings = Settings::plugin();
        settings.control_buffer = 5000;
        let world = World::new(1, settings);
        let [here, there] = [0, 1].map(|_| world.add_node(&[NicModel::FAST]).control());
        let step = move |_: &MockControl, _: &MockControl| {
            world.step();
            world.now()
        };
        Self::new(here, there, "0.0.0.0:0".parse().expect("an address"), Box::new(step))
    }
}

impl<C: Control> Two<C> {
    fn new(here: C, mut there: C, at: SocketAddr, step: Step<C>) -> Self {
        let door = there.listen(at).expect("a free port");
        let at = there.local(door).expect("a live door");
        Self { here, there, door, at, step, told: Default::default() }
    }

    fn poll(&mut self) {
        let now = (self.step)(&self.here, &self.there);
        let [here, there] = &mut self.told;
        self.here.poll(now, usize::MAX, &mut |event| here.push(event));
        self.there.poll(now, usize::MAX, &mut |event| there.push(event));
    }

    fn until(&mut self, mut what: impl FnMut(&mut Self) -> bool) {
        for _ in 0..2000 {
            if what(self) {
                return;
            }
            self.poll();
        }
        panic!("it does not come: {:?}", self.told);
    }

    fn is_told(&self, side: usize, event: ControlEvent) -> bool {
        self.told[side].contains(&event)
    }

    /// A stream from here to there, after its first byte.
    fn open(&mut self) -> [StreamId; 2] {
        let first = self.here.connect(self.at).expect("an address");
        self.until(|two| two.is_told(0, Opened(first)));
        assert_eq!(self.here.send(first, b"!"), 1);
        self.until(|two| two.is_told(1, Knocked(two.door)));
        let second = self.there.accept(self.door).expect("somebody came");
        assert_eq!(self.there.accept(self.door), None, "nobody else came");
        self.until(|two| two.is_told(1, Readable(second)));
        assert_eq!(take(&mut self.there, second), (b"!".to_vec(), Received::Nothing));
        self.told = Default::default();
        [first, second]
    }

    /// All that comes until the end, or as many bytes.
    fn receive(&mut self, side: usize, stream: StreamId, count: usize) -> (Vec<u8>, Received) {
        let (mut bytes, mut end) = (Vec::new(), Received::Nothing);
        self.until(|two| {
            let control = if side == 0 { &mut two.here } else { &mut two.there };
            let (more, last) = take(control, stream);
            bytes.extend(more);
            end = last;
            bytes.len() >= count || end == Received::Ended
        });
        (bytes, end)
    }
}

/// What there is, and what comes after it.
fn take<C: Control>(control: &mut C, stream: StreamId) -> (Vec<u8>, Received) {
    let mut bytes = Vec::new();
    loop {
        let mut into = [0; 700];
        match control.receive(stream, &mut into) {
            Received::Bytes(count) => bytes.extend(&into[..count]),
            end @ (Received::Nothing | Received::Ended) => return (bytes, end),
        }
    }
}

fn numbers(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

macro_rules! rules {
    ($($name:ident),* $(,)?) => {
        mod over_tcp {
            $(#[test] fn $name() { super::$name(super::Two::over_tcp()); })*
        }
        mod simulated {
            $(#[test] fn $name() { super::$name(super::Two::simulated()); })*
        }
    };
}

rules!(
    both_ends_know_where_a_stream_leads_and_bytes_go_both_ways,
    stale_ids_do_nothing,
    a_poll_with_little_room_tells_the_rest_later,
    a_full_stream_takes_more_when_it_was_read,
    a_connect_to_where_nobody_listens_is_refused,
    a_shut_door_keeps_what_was_accepted_and_ends_the_rest,
    a_close_delivers_what_was_taken_and_then_the_end,
);

fn both_ends_know_where_a_stream_leads_and_bytes_go_both_ways<C: Control>(mut two: Two<C>) {
    let [first, second] = two.open();
    let (from, to) = two.here.ends(first).expect("open");
    assert_eq!(to, two.at);
    assert_ne!(from, to);
    assert_eq!(two.there.ends(second), Some((to, from)));
    assert_eq!((two.here.send(first, b"there"), two.there.send(second, b"here")), (5, 4));
    two.until(|two| two.is_told(1, Readable(second)) && two.is_told(0, Readable(first)));
    assert_eq!(two.receive(1, second, 5).0, b"there");
    assert_eq!(two.receive(0, first, 4).0, b"here");
}

fn stale_ids_do_nothing<C: Control>(mut two: Two<C>) {
    let [first, second] = two.open();
    two.here.close(first);
    two.here.close(first);
    assert_eq!(two.here.ends(first), None);
    assert_eq!(two.here.send(first, b"late"), 0);
    assert_eq!(two.here.receive(first, &mut [0; 4]), Received::Ended);
    assert!(two.here.why(first).is_none());
    // The next stream may take its place; the old id does not lead to it.
    let [next, other] = two.open();
    assert_ne!(next, first);
    two.here.close(first);
    assert_eq!(two.here.send(first, b"late"), 0);
    assert_eq!(two.here.send(next, b"new"), 3);
    assert_eq!(two.receive(1, other, 3).0, b"new");
    assert_eq!(two.receive(1, second, 1), (Vec::new(), Received::Ended));
    let door = two.door;
    two.there.shut(door);
    assert_eq!((two.there.local(door), two.there.accept(door)), (None, None));
    let again = two.there.listen(two.at).expect("the port is free again");
    two.there.shut(door);
    assert_eq!(two.there.local(again), Some(two.at));
}

fn a_poll_with_little_room_tells_the_rest_later<C: Control>(mut two: Two<C>) {
    let streams: Vec<StreamId> = (0..5).map(|_| two.here.connect(two.at).expect("an address")).collect();
    let mut now = Now::default();
    // Long enough for all of them to be open, without anybody being told.
    for _ in 0..50 {
        now = (two.step)(&two.here, &two.there);
        two.there.poll(now, usize::MAX, &mut |_| {});
    }
    let mut told = Vec::new();
    for (room, count, more) in [(0, 0, true), (2, 2, true), (2, 4, true), (2, 5, false), (2, 5, false)] {
        let next = two.here.poll(now, room, &mut |event| told.push(event));
        assert_eq!((told.len(), next == Some(now)), (count, more), "{told:?}");
    }
    assert_eq!(told, streams.into_iter().map(Opened).collect::<Vec<_>>());
}

fn a_full_stream_takes_more_when_it_was_read<C: Control>(mut two: Two<C>) {
    let [first, second] = two.open();
    let bytes = numbers(3000);
    let mut sent = Vec::new();
    // A stream may find more room as long as bytes are on their way.
    for _ in 0..20 {
        loop {
            let taken = two.here.send(first, &bytes);
            sent.extend(&bytes[..taken]);
            if taken < bytes.len() {
                break;
            }
        }
        for _ in 0..5 {
            two.poll();
        }
    }
    assert_eq!(two.here.send(first, &bytes), 0, "nobody has read");
    two.told = Default::default();
    let (came, end) = two.receive(1, second, sent.len());
    assert_eq!((came == sent, end), (true, Received::Nothing));
    two.until(|two| two.is_told(0, Writable(first)));
    assert_eq!(two.here.send(first, &bytes), bytes.len());
    assert_eq!(two.receive(1, second, bytes.len()).0, bytes);
    two.told = Default::default();
    for _ in 0..20 {
        two.poll();
    }
    assert!(!two.is_told(0, Writable(first)), "everything was taken");
}

fn a_connect_to_where_nobody_listens_is_refused<C: Control>(mut two: Two<C>) {
    two.there.shut(two.door);
    let stream = two.here.connect(two.at).expect("it is tried");
    assert_eq!(two.here.send(stream, b"hello"), 0);
    two.until(|two| two.is_told(0, Broken(stream)));
    assert_eq!(two.told, [vec![Broken(stream)], Vec::new()]);
    let why = two.here.why(stream).expect("a reason");
    assert_eq!(why.kind(), ErrorKind::Conn);
    let text = why.to_string();
    assert!(text.contains(&two.at.to_string()) && text.contains("nobody listens"), "{text}");
    assert_eq!((two.here.ends(stream), two.here.send(stream, b"hello")), (None, 0));
    assert_eq!(two.here.receive(stream, &mut [0; 4]), Received::Ended);
    two.here.close(stream);
    assert!(two.here.why(stream).is_none());
    let nowhere = SocketAddr::new(two.at.ip(), 0);
    assert_eq!(two.here.connect(nowhere).expect_err("no port").kind(), ErrorKind::Misuse);
}

fn a_shut_door_keeps_what_was_accepted_and_ends_the_rest<C: Control>(mut two: Two<C>) {
    let [first, second] = two.open();
    let late = two.here.connect(two.at).expect("an address");
    two.until(|two| two.is_told(0, Opened(late)));
    assert_eq!(two.here.send(late, b"?"), 1);
    two.until(|two| two.is_told(1, Knocked(two.door)));
    two.there.shut(two.door);
    two.until(|two| two.is_told(0, Broken(late)) || two.here.receive(late, &mut [0]) == Received::Ended);
    assert_eq!((two.here.send(first, b"there"), two.there.send(second, b"here")), (5, 4));
    assert_eq!(two.receive(1, second, 5).0, b"there");
    assert_eq!(two.receive(0, first, 4).0, b"here");
    let refused = two.here.connect(two.at).expect("it is tried");
    two.until(|two| two.is_told(0, Broken(refused)));
}

fn a_close_delivers_what_was_taken_and_then_the_end<C: Control>(mut two: Two<C>) {
    let [first, second] = two.open();
    // What is left unread must not take the last word back.
    assert_eq!(two.there.send(second, b"unread"), 6);
    two.until(|two| two.is_told(0, Readable(first)));
    let bytes = numbers(4000);
    assert_eq!(two.here.send(first, &bytes), bytes.len());
    two.here.close(first);
    assert_eq!(two.receive(1, second, usize::MAX), (bytes, Received::Ended));
    assert!(two.there.why(second).is_none(), "it ended, and did not break");
    two.there.close(second);
    for _ in 0..5 {
        two.poll();
    }
    assert!(!two.is_told(0, Readable(first)) || two.told[0].len() == 1, "{:?}", two.told);
}
