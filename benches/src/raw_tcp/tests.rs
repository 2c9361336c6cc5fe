//! Both ends in one process, over loopback.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use super::{Drive, Layout, Plan, Receiver, Sender};

const MESSAGE: usize = 300_001;

fn plan() -> Plan {
    Plan { congestion: None, working_set: 4 * MESSAGE, in_flight: 3, same_host: true }
}

fn layouts() -> Vec<Layout> {
    vec![
        Layout::unpinned(1, Drive::Blocking, 1 << 16),
        Layout::unpinned(1, Drive::Spinning, 1 << 20),
        Layout::unpinned(4, Drive::Blocking, 1 << 20),
        Layout::lanes(&[0, 0], 1 << 20).eager().buffered(1 << 18),
    ]
}

fn control() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    (one, listener.accept().expect("connected").0)
}

fn connected() -> (Sender, Receiver) {
    let (here, there) = control();
    let receiver = thread::spawn(move || Receiver::open(&there, &plan()));
    let sender = Sender::open_layouts(&here, &plan(), &layouts()).expect("the sender opens");
    (sender, receiver.join().expect("no panic").expect("the receiver opens"))
}

#[test]
fn every_layout_moves_every_byte_and_rotates() {
    let (mut sender, mut receiver) = connected();
    crate::pattern::fill(sender.set.bytes_mut(), 11, 0);
    for layout in 0..layouts().len() {
        receiver.set.bytes_mut().fill(0);
        let serving = thread::spawn(move || {
            receiver.serve().expect("it serves");
            receiver
        });
        let round = sender.round(layout, 5, MESSAGE).expect("it sends");
        sender.pause().expect("it pauses");
        receiver = serving.join().expect("no panic");
        assert_eq!(round.bytes, 5 * MESSAGE as u64);
        assert_eq!(sender.next, 5 * (layout as u64 + 1));
        assert!(receiver.set.bytes() == sender.set.bytes(), "{}", layouts()[layout]);
    }
}

#[test]
fn layouts_are_told_to_the_receiver_and_ranked() {
    let (mut sender, mut receiver) = connected();
    assert_eq!(sender.layouts(), layouts());
    let told: Vec<Layout> = receiver.opened.iter().map(|opened| opened.layout.clone()).collect();
    assert_eq!(told, layouts());
    let serving = thread::spawn(move || receiver.serve());
    let ranked = sender.qualify(MESSAGE, Duration::from_millis(1)).expect("it measures");
    sender.pause().expect("it pauses");
    serving.join().expect("no panic").expect("it serves");
    let mut numbers: Vec<usize> = ranked.iter().map(|(number, _)| *number).collect();
    assert!(ranked.is_sorted_by(|one, other| one.1 >= other.1));
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3]);
}

#[test]
fn small_messages_come_back() {
    let (mut sender, mut receiver) = connected();
    let serving = thread::spawn(move || receiver.serve());
    assert_eq!(sender.ping_pong(100).expect("answered").count(), 100);
    sender.pause().expect("it pauses");
    serving.join().expect("no panic").expect("it serves");
}

#[test]
fn the_congestion_control_is_the_one_asked_for() {
    let (here, there) = control();
    let named = Plan { congestion: Some("reno".into()), ..plan() };
    let same = named.clone();
    let receiver = thread::spawn(move || Receiver::open(&there, &same));
    let sender = Sender::open_layouts(&here, &named, &layouts()).expect("reno is everywhere");
    receiver.join().expect("no panic").expect("reno is everywhere");
    assert_eq!(sender.congestion().expect("readable"), "reno");
}

#[test]
fn an_unknown_congestion_control_is_named() {
    let (_here, there) = control();
    let mut control = _here.try_clone().expect("a clone");
    control.write_all(&0u64.to_le_bytes()).expect("no layouts");
    let named = Plan { congestion: Some("nonesuch".into()), ..plan() };
    let error = Receiver::open(&there, &named).expect_err("there is none of that name");
    assert!(error.to_string().contains("nonesuch"), "{error}");
}

#[test]
fn an_end_whose_peer_is_gone_says_so() {
    let (mut sender, receiver) = connected();
    drop(receiver);
    let error = sender.round(0, 1, MESSAGE).expect_err("nobody receives");
    let gone = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(gone.contains(&error.kind()), "{error}");
}

#[test]
fn a_request_out_of_bounds_is_refused() {
    for words in [[1, 99, 1, 1u64], [1, 0, 1, 1 << 40], [7, 0, 0, 0]] {
        let (sender, mut receiver) = connected();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        (&sender.talk.stream).write_all(&bytes).expect("a request");
        let error = receiver.serve().expect_err("impossible");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}
