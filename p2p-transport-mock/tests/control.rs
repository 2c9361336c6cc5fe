//! Control streams of a world, one rule at a time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use p2p_transport::{Control, ControlEvent, DoorId, ErrorKind, Received, StreamId};
use p2p_transport_mock::{Fault, FaultKind, MockControl, NicModel, Settings, World};

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// Longest time that bytes are under way if nothing is wrong.
const USUAL: Duration = Duration::from_micros(30);

/// Last port that the system chooses; the first is the next one.
const LAST_PORT: u16 = 59_999;

/// Two nodes, of which the second has a door.
struct Two {
    world: World,
    here: MockControl,
    there: MockControl,
    door: DoorId,
    at: SocketAddr,
}

impl Two {
    fn new(settings: Settings) -> Self {
        let world = World::new(1, settings);
        let [here, mut there] = [0, 1].map(|_| world.add_node(&[NicModel::FAST]).control());
        let door = there.listen(ANY).expect("a free port");
        let at = there.local(door).expect("a live door");
        Self { world, here, there, door, at }
    }

    /// Until nothing happens any more; what both were told.
    fn run(&mut self) -> [Vec<ControlEvent>; 2] {
        while self.world.step() {}
        let now = self.world.now();
        [&mut self.here, &mut self.there].map(|control| {
            let mut told = Vec::new();
            let _ = control.poll(now, usize::MAX, &mut |event| told.push(event));
            told
        })
    }

    /// A stream from here to there: its ids at both ends.
    fn open(&mut self) -> [StreamId; 2] {
        let first = self.here.connect(self.at).expect("an address");
        let [here, there] = self.run();
        assert!(here.contains(&ControlEvent::Opened(first)), "{here:?}");
        assert!(there.contains(&ControlEvent::Knocked(self.door)), "{there:?}");
        [first, self.there.accept(self.door).expect("somebody came")]
    }
}

/// All bytes that there are, and what comes after them.
fn receive(control: &mut MockControl, stream: StreamId) -> (Vec<u8>, Received) {
    let mut bytes = Vec::new();
    loop {
        let mut into = [0; 7];
        match control.receive(stream, &mut into) {
            Received::Bytes(count) => bytes.extend(&into[..count]),
            end @ (Received::Nothing | Received::Ended) => return (bytes, end),
        }
    }
}

fn numbers(count: u8) -> Vec<u8> {
    (0..count).collect()
}

#[test]
fn both_ends_know_where_a_stream_leads() {
    let mut two = Two::new(Settings::plugin());
    let [first, second] = two.open();
    let (from, to) = two.here.ends(first).expect("open");
    assert_eq!(to, two.at);
    assert_ne!(from, to);
    assert_eq!(two.there.ends(second), Some((to, from)));
    assert_eq!(two.there.accept(two.door), None, "nobody else came");
}

#[test]
fn stale_ids_do_nothing() {
    let mut two = Two::new(Settings::plugin());
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
    two.run();
    assert_eq!(receive(&mut two.there, other), (b"new".to_vec(), Received::Nothing));
    assert_eq!(receive(&mut two.there, second), (Vec::new(), Received::Ended));
    // Doors.
    let door = two.door;
    two.there.shut(door);
    assert_eq!(two.there.local(door), None);
    assert_eq!(two.there.accept(door), None);
    let again = two.there.listen(two.at).expect("the port is free again");
    two.there.shut(door);
    assert_eq!(two.there.local(again), Some(two.at));
}

#[test]
fn a_poll_with_little_room_tells_the_rest_later() {
    let mut two = Two::new(Settings::plugin());
    let streams: Vec<StreamId> = (0..5).map(|_| two.here.connect(two.at).expect("an address")).collect();
    while two.world.step() {}
    let now = two.world.now();
    let mut told = Vec::new();
    for (room, count, more) in [(0, 0, true), (2, 2, true), (2, 4, true), (2, 5, false), (2, 5, false)] {
        let next = two.here.poll(now, room, &mut |event| told.push(event));
        assert_eq!((told.len(), next == Some(now)), (count, more), "{told:?}");
    }
    assert_eq!(told, streams.into_iter().map(ControlEvent::Opened).collect::<Vec<_>>());
}

#[test]
fn a_full_stream_takes_more_when_it_was_read() {
    let mut settings = Settings::plugin();
    settings.control_buffer = 50;
    let mut two = Two::new(settings);
    let [first, second] = two.open();
    let bytes = numbers(80);
    assert_eq!(two.here.send(first, &bytes), 50);
    assert_eq!(two.here.send(first, &bytes[50..]), 0);
    let [here, there] = two.run();
    assert_eq!((here, there), (Vec::new(), vec![ControlEvent::Readable(second)]));
    assert_eq!(two.here.send(first, &bytes[50..]), 0, "nobody has read");
    let (mut came, _) = receive(&mut two.there, second);
    let [here, _] = two.run();
    assert_eq!(here, [ControlEvent::Writable(first)]);
    assert_eq!(two.here.send(first, &bytes[50..]), 30);
    two.run();
    came.extend(receive(&mut two.there, second).0);
    assert_eq!(came, bytes);
}

#[test]
fn a_connect_to_where_nobody_listens_is_refused() {
    let mut two = Two::new(Settings::plugin());
    let nowhere = SocketAddr::new(two.at.ip(), two.at.port() + 1);
    let stream = two.here.connect(nowhere).expect("it is tried");
    assert_eq!(two.here.send(stream, b"hello"), 0);
    let [here, there] = two.run();
    assert_eq!((here, there), (vec![ControlEvent::Broken(stream)], Vec::new()));
    let why = two.here.why(stream).expect("a reason");
    assert_eq!(why.kind(), ErrorKind::Conn);
    assert!(why.to_string().contains(&nowhere.to_string()), "{why}");
    assert_eq!((two.here.ends(stream), two.here.send(stream, b"hello")), (None, 0));
    assert_eq!(two.here.receive(stream, &mut [0; 4]), Received::Ended);
    two.here.close(stream);
    assert!(two.here.why(stream).is_none());
    let error = two.here.connect(ANY).expect_err("no port");
    assert_eq!(error.kind(), ErrorKind::Misuse);
}

#[test]
fn a_shut_door_keeps_what_was_accepted_and_breaks_the_rest() {
    let mut two = Two::new(Settings::plugin());
    let [first, second] = two.open();
    let late = two.here.connect(two.at).expect("an address");
    two.run();
    two.there.shut(two.door);
    let [here, there] = two.run();
    assert_eq!((here, there), (vec![ControlEvent::Broken(late)], Vec::new()));
    assert!(two.here.why(late).is_some());
    assert_eq!((two.here.send(first, b"there"), two.there.send(second, b"here")), (5, 4));
    two.run();
    assert_eq!(receive(&mut two.there, second), (b"there".to_vec(), Received::Nothing));
    assert_eq!(receive(&mut two.here, first), (b"here".to_vec(), Received::Nothing));
    let refused = two.here.connect(two.at).expect("it is tried");
    assert_eq!(two.run()[0], [ControlEvent::Broken(refused)]);
}

#[test]
fn split_bytes_come_one_by_one_and_in_order() {
    let mut two = Two::new(Settings::plugin());
    let [first, second] = two.open();
    two.world.inject(Fault::SplitControl { node: 0, lasts: Duration::from_secs(1) });
    let bytes = numbers(100);
    assert_eq!(two.here.send(first, &bytes), 100);
    let mut came = Vec::new();
    while two.world.step() {
        let (piece, _) = receive(&mut two.there, second);
        assert!(piece.len() <= 1, "{piece:?}");
        came.extend(piece);
    }
    assert_eq!(came, bytes);
    assert_eq!(two.world.strikes().of(FaultKind::SplitControl), 99);
}

#[test]
fn late_bytes_come_late_and_in_order() {
    for late in [false, true] {
        let mut two = Two::new(Settings::plugin());
        let [first, second] = two.open();
        if late {
            let (up_to, lasts) = (Duration::from_millis(10), Duration::from_secs(1));
            two.world.inject(Fault::LateControl { node: 0, up_to, lasts });
        }
        let bytes = numbers(100);
        for piece in bytes.chunks(10) {
            assert_eq!(two.here.send(first, piece), 10);
        }
        let begin = two.world.now();
        two.world.advance(begin.after(USUAL));
        let (mut came, _) = receive(&mut two.there, second);
        assert_eq!(came.len() < bytes.len(), late, "{} bytes", came.len());
        two.world.advance(begin.after(USUAL + Duration::from_millis(10)));
        came.extend(receive(&mut two.there, second).0);
        assert_eq!(came, bytes);
    }
}

#[test]
fn a_close_delivers_what_is_under_way_and_then_the_end() {
    let mut two = Two::new(Settings::plugin());
    let [first, second] = two.open();
    let bytes = numbers(200);
    assert_eq!(two.here.send(first, &bytes), 200);
    two.here.close(first);
    assert_eq!(receive(&mut two.there, second), (Vec::new(), Received::Nothing), "nothing is there yet");
    let [here, there] = two.run();
    assert_eq!((here, there), (Vec::new(), vec![ControlEvent::Readable(second)]));
    assert_eq!(receive(&mut two.there, second), (bytes, Received::Ended));
    assert!(two.there.why(second).is_none(), "it ended, and did not break");
}

#[test]
fn a_stream_that_breaks_is_told_at_both_ends() {
    let mut two = Two::new(Settings::plugin());
    let [first, second] = two.open();
    two.world.inject(Fault::ControlDeath { stream: 0 });
    let [here, there] = two.run();
    assert_eq!((here, there), (vec![ControlEvent::Broken(first)], vec![ControlEvent::Broken(second)]));
    for (control, stream) in [(&mut two.here, first), (&mut two.there, second)] {
        assert!(control.why(stream).is_some());
        assert_eq!((control.send(stream, b"more"), control.ends(stream)), (0, None));
        assert_eq!(control.receive(stream, &mut [0; 4]), Received::Ended);
    }
}

/// A door that has the port whose turn it is does not stand in the way.
#[test]
fn a_chosen_port_is_a_free_one() {
    let world = World::new(1, Settings::plugin());
    let mut control = world.add_node(&[NicModel::FAST]).control();
    let mut doors = Vec::new();
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let door = control.listen(ANY).expect("a free port");
        let at = control.local(door).expect("a live door");
        assert!(ports.insert(at.port()), "{at} twice");
        doors.push(at);
    }
    let error = control.listen(doors[1]).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains(&doors[1].to_string()), "{error}");
    // Streams use up ports, until the turn of the first door's comes again.
    loop {
        let stream = control.connect(doors[0]).expect("an address");
        world.advance(world.now().after(Duration::from_micros(100)));
        let (from, _) = control.ends(stream).expect("open");
        control.close(stream);
        if from.port() == LAST_PORT {
            break;
        }
    }
    let door = control.listen(ANY).expect("a free port");
    let at = control.local(door).expect("a live door");
    assert!(ports.insert(at.port()), "{at} twice");
}
