//! Hostile and broken peers: each loses its connection, its comm ends with an error, and nothing else
//! happens.

mod support;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ptr::null_mut;
use std::thread;

use proptest::prelude::*;
use support::child::in_child;
use support::drive::until;
use support::drive::{
    self, Exchange, Memory, Random, accept, close, connect, ended, pair, post_receive, start,
};
use support::peer::{self, EMPTY, Listener, Message, Published, Wire, read_word, write_word};
use support::{Net, Pointer, pattern};
use tcpx_sys::device::DeviceHandle;

const TWO_SOCKETS: (&str, &str) = ("NCCL_NSOCKS_PERTHREAD", "2");
/// Silent strangers are dropped soon.
const IMPATIENT: (&str, &str) = ("TCPX_SOFT_HANDSHAKE_TIMEOUT_MS", "300");

/// A receive comm whose sender is a plain peer.
fn victim(net: Net) -> (Pointer, Wire) {
    let (handle, listener) = net.listen(0);
    let both = thread::scope(|scope| {
        let peer = scope.spawn(|| peer::connect(&handle));
        let comm = accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
        (comm, peer.join().expect("peer"))
    });
    assert_eq!(net.close_listen(listener), 0);
    both
}

/// The plugin still works.
fn alive(net: Net) {
    let comms = pair(net);
    drive::exchange(net, comms, &[pattern(1, 300_000), pattern(2, 100), Vec::new()]);
    close(net, comms);
    drive::no_panic();
}

/// What `test` says about a receive of 1000 bytes after the peer said `bytes` on control.
fn told(net: Net, bytes: &[u8]) -> i32 {
    let (comm, mut wire) = victim(net);
    let mut into = Memory::new(net, comm, vec![0xA5; 2000]);
    let (code, request) = net.irecv(comm, into.bytes.as_mut_ptr(), 1000, into.handle);
    assert_eq!(code, 0);
    wire.control.write_all(bytes).expect("control");
    for data in &mut wire.data {
        data.write_all(&[0xFF; 500]).expect("data");
    }
    let code = until("an answer to a bad control message", || match net.test(request) {
        (0, false, _) => None,
        (code, done, _) => {
            assert!(!done, "a broken message is never done");
            Some(code)
        }
    });
    assert_eq!(net.test(request).0, code, "and it stays so");
    assert!(ended(&wire.control), "the connection is closed");
    assert_eq!(net.close_recv(comm), 0);
    assert!(into.bytes[1000..].iter().all(|&byte| byte == 0xA5), "nothing behind the posted buffer");
    code
}

#[test]
fn a_bad_control_message_ends_its_connection_and_nothing_else() {
    in_child("a_bad_control_message_ends_its_connection_and_nothing_else", &[TWO_SOCKETS], || {
        let net = start();
        let good = Message { kind: 0, index: 0, size: 400, offset: 0, total: 1000 };
        let second = Message { index: 1, offset: 400, ..good };
        let cases: &[(&str, &[Message], &str)] = &[
            ("an index out of range", &[Message { index: 2, ..good }], "data socket 2 does not exist"),
            ("the largest index", &[Message { index: u16::MAX, ..good }], "data socket 65535"),
            ("no bytes", &[Message { size: 0, ..good }], "a chunk of 0 bytes"),
            ("more than the message", &[Message { size: 1001, ..good }], "reach byte 1001"),
            ("more than was posted", &[Message { size: 1001, total: 1001, ..good }], "1001 bytes"),
            ("the largest numbers", &[Message { size: u32::MAX, total: u32::MAX, ..good }], "4294967295"),
            ("past the end later", &[good, Message { size: 601, ..second }], "reach byte 1001"),
            ("past the end by wrapping", &[good, Message { size: u32::MAX, ..second }], "reach byte"),
            ("another place", &[Message { offset: 1, ..good }], "where byte 0 comes next"),
            ("a gap", &[good, Message { offset: 500, ..second }], "where byte 400 comes next"),
            ("an overlap", &[good, Message { offset: 0, ..second }], "where byte 400 comes next"),
            ("an inline message inside a message", &[good, EMPTY], "where byte 400 comes next"),
            ("an inline message too long", &[Message { kind: 1, size: 5000, total: 5000, ..good }], "5000"),
            ("two lengths", &[Message { kind: 1, size: 10, total: 20, ..good }], "calls itself 20"),
            (
                "garbage",
                &[Message { kind: 0xffff, index: 0xffff, size: !0, offset: !0, total: !0 }],
                "refused|sent",
            ),
        ];
        for (what, messages, says) in cases {
            let before = drive::log().len();
            let bytes: Vec<u8> = messages.iter().flat_map(Message::bytes).collect();
            assert_eq!(told(net, &bytes), 6, "{what}");
            let lines = drive::log()[before..].to_vec();
            let named = |line: &String| says.split('|').any(|says| line.contains(says));
            assert!(lines.iter().any(named), "{what}: {lines:?}");
        }
        alive(net);
    });
}

#[test]
fn a_sender_that_stops_inside_a_message_is_an_error_in_the_end() {
    in_child("a_sender_that_stops_inside_a_message_is_an_error_in_the_end", &[TWO_SOCKETS], || {
        let net = start();
        let whole = Message { kind: 0, index: 1, size: 1000, offset: 0, total: 1000 }.bytes();
        let part = Message { kind: 0, index: 0, size: 400, offset: 0, total: 1000 }.bytes();
        let inline = Message { kind: 1, index: 0, size: 1000, offset: 0, total: 1000 }.bytes();
        let cases: [(&str, Vec<u8>, usize); 7] = [
            ("nothing at all", Vec::new(), 0),
            ("half a control message", whole[..7].to_vec(), 0),
            ("no payload", whole.to_vec(), 0),
            ("half the payload", whole.to_vec(), 500),
            ("the first chunk only", part.to_vec(), 400),
            ("an inline header", inline.to_vec(), 0),
            ("half an inline message", [&inline[..], &[1; 500]].concat(), 0),
        ];
        for reset in [false, true] {
            for (what, control, payload) in &cases {
                let (comm, mut wire) = victim(net);
                let mut into = Memory::zeroed(net, comm, 1000);
                let request = post_receive(net, comm, &mut into);
                wire.control.write_all(control).expect("control");
                let socket = usize::from(*what != "the first chunk only");
                wire.data[socket].write_all(&pattern(1, *payload)).expect("data");
                if reset {
                    for socket in wire.data.iter().chain([&wire.control]) {
                        let socket = socket2::SockRef::from(socket);
                        socket.set_linger(Some(std::time::Duration::ZERO)).expect("linger");
                    }
                }
                drop(wire);
                assert_eq!(drive::error_of(net, request, what), 2, "{what}, reset: {reset}");
                assert_eq!(net.close_recv(comm), 0);
            }
        }
        alive(net);
    });
}

#[test]
fn a_receiver_that_goes_away_is_an_error_for_its_sender() {
    let net = start();
    for reset in [false, true] {
        let listener = Listener::open([127, 0, 0, 1].into(), 2);
        let mut handle = listener.handle();
        let (comm, wire) = thread::scope(|scope| {
            let peer = scope.spawn(|| listener.accept());
            let comm = connect(net, &mut handle).expect("connect");
            (comm, peer.join().expect("peer"))
        });
        let from = Memory::patterned(net, comm, 1, 16 << 20);
        let requests: Vec<_> = (0..4).map(|_| drive::post_send(net, comm, &from)).collect();
        for _ in 0..10 {
            assert_eq!(net.test(requests[0]).0, 0);
        }
        if reset {
            for socket in wire.data.iter().chain([&wire.control]) {
                let socket = socket2::SockRef::from(socket);
                socket.set_linger(Some(std::time::Duration::ZERO)).expect("linger");
            }
        }
        drop(wire);
        let mut oldest = 0;
        let code = until("an error", || match net.test(requests[oldest]) {
            (0, done, _) => {
                oldest += usize::from(done);
                None
            }
            (code, ..) => Some(code),
        });
        assert_eq!(code, 2);
        assert_eq!(net.close_send(comm), 0);
    }
    alive(net);
}

/// What a stranger does on a port.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    Silent,
    ClosesAtOnce,
    SaysGarbage,
    SaysHalfAWord,
    ClosesAfterAWord,
    WrongIndex,
    WrongCookie,
    WrongVersion,
    HalfAHello,
    AsARealPeerThenGone,
}

const STRANGERS: [Stranger; 10] = [
    Stranger::Silent,
    Stranger::ClosesAtOnce,
    Stranger::SaysGarbage,
    Stranger::SaysHalfAWord,
    Stranger::ClosesAfterAWord,
    Stranger::WrongIndex,
    Stranger::WrongCookie,
    Stranger::WrongVersion,
    Stranger::HalfAHello,
    Stranger::AsARealPeerThenGone,
];

const SOFT: i32 = 0x5446_4f53;

impl Stranger {
    /// Does its worst; what must stay open is returned.
    fn visit(self, to: SocketAddr, handle: &[u8; 128]) -> Option<TcpStream> {
        let mut stream = peer::dial(to);
        let sockets = Published::read(handle).sockets;
        let hello = |change: usize| {
            let mut hello = [0u8; 32];
            hello[..8].copy_from_slice(&handle[112..120]);
            hello[24] = 1;
            hello[change] ^= 0x40;
            [&SOFT.to_le_bytes()[..], &sockets.to_le_bytes(), &hello].concat()
        };
        let words = |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let says = match self {
            Self::Silent | Self::ClosesAtOnce => Vec::new(),
            Self::SaysGarbage => pattern(9, 3000),
            Self::SaysHalfAWord => vec![0, 0],
            Self::ClosesAfterAWord => words(&[0]),
            Self::WrongIndex => words(&[0, sockets + 1, 0, 0]),
            Self::WrongCookie => hello(0),
            Self::WrongVersion => hello(25),
            Self::HalfAHello => hello(30)[..20].to_vec(),
            Self::AsARealPeerThenGone => words(&[0, sockets]),
        };
        // The plugin may have closed already; that is what it should do.
        let _ = stream.write_all(&says);
        match self {
            Self::ClosesAtOnce | Self::ClosesAfterAWord | Self::AsARealPeerThenGone => None,
            Self::Silent
            | Self::SaysGarbage
            | Self::SaysHalfAWord
            | Self::WrongIndex
            | Self::WrongCookie
            | Self::WrongVersion
            | Self::HalfAHello => Some(stream),
        }
    }
}

/// A good soft pair through a listener that `disturb` knows.
fn pair_beside(net: Net, disturb: impl FnOnce(&[u8; 128]) -> Vec<TcpStream>) {
    let (handle, listener) = net.listen(0);
    let strangers = disturb(&handle);
    let mut copy = handle;
    let (mut send, mut receive): (Pointer, Pointer) = (null_mut(), null_mut());
    until("a good pair beside strangers", || {
        if send.is_null() {
            let (code, comm) = net.connect_once(0, &mut copy);
            assert_eq!(code, 0, "connect: {:?}", drive::log().last());
            send = comm;
        }
        if receive.is_null() {
            let (code, comm) = net.accept_once(listener, Some(&mut DeviceHandle::zeroed()));
            assert_eq!(code, 0, "accept: {:?}", drive::log().last());
            receive = comm;
        }
        (!send.is_null() && !receive.is_null()).then_some(())
    });
    drive::exchange(net, (send, receive), &[pattern(1, 300_000), pattern(2, 50)]);
    close(net, (send, receive));
    assert_eq!(net.close_listen(listener), 0);
    assert!(strangers.iter().all(ended), "strangers lose their connections");
}

#[test]
fn strangers_on_the_control_port_do_not_disturb_a_good_peer() {
    in_child("strangers_on_the_control_port_do_not_disturb_a_good_peer", &[TWO_SOCKETS, IMPATIENT], || {
        let net = start();
        for stranger in STRANGERS {
            println!("{stranger:?}");
            pair_beside(net, |handle| {
                let to = Published::read(handle).control;
                (0..3).filter_map(|_| stranger.visit(to, handle)).collect()
            });
        }
        alive(net);
    });
}

#[test]
fn strangers_on_the_data_port_do_not_disturb_a_good_peer() {
    in_child("strangers_on_the_data_port_do_not_disturb_a_good_peer", &[TWO_SOCKETS, IMPATIENT], || {
        let net = start();
        for stranger in STRANGERS {
            println!("{stranger:?}");
            pair_beside(net, |handle| {
                let to = Published::read(handle).data;
                (0..3).filter_map(|_| stranger.visit(to, handle)).collect()
            });
        }
        alive(net);
    });
}

#[test]
fn a_crowd_of_silent_strangers_on_both_ports_only_delays() {
    in_child("a_crowd_of_silent_strangers_on_both_ports_only_delays", &[TWO_SOCKETS, IMPATIENT], || {
        let net = start();
        pair_beside(net, |handle| {
            let published = Published::read(handle);
            let ports = [published.control, published.data];
            ports.iter().flat_map(|&port| (0..150).map(move |_| peer::dial(port))).collect()
        });
        alive(net);
    });
}

#[test]
fn strangers_who_come_during_the_handshake_do_not_disturb_it() {
    in_child("strangers_who_come_during_the_handshake_do_not_disturb_it", &[TWO_SOCKETS, IMPATIENT], || {
        let net = start();
        for seed in 0..30 {
            let mut random = Random(seed);
            let (handle, listener) = net.listen(0);
            let published = Published::read(&handle);
            let mut copy = handle;
            let (mut send, mut receive): (Pointer, Pointer) = (null_mut(), null_mut());
            let mut strangers = Vec::new();
            until("a good pair among strangers", || {
                if strangers.len() < 20 {
                    let port = [published.control, published.data][random.below(2)];
                    strangers.push(STRANGERS[random.below(STRANGERS.len())].visit(port, &handle));
                }
                if send.is_null() {
                    let (code, comm) = net.connect_once(0, &mut copy);
                    assert_eq!(code, 0, "seed {seed}: connect: {:?}", drive::log().last());
                    send = comm;
                }
                if receive.is_null() {
                    let (code, comm) = net.accept_once(listener, Some(&mut DeviceHandle::zeroed()));
                    assert_eq!(code, 0, "seed {seed}: accept: {:?}", drive::log().last());
                    receive = comm;
                }
                (!send.is_null() && !receive.is_null()).then_some(())
            });
            drive::exchange(net, (send, receive), &[pattern(seed, 300_000)]);
            close(net, (send, receive));
            assert_eq!(net.close_listen(listener), 0);
        }
        alive(net);
    });
}

/// What a soft connector says, by hand; whether it was served within some rounds of accept.
fn soft_by_hand(net: Net, cookie_error: u8, nonce_error: u8) -> bool {
    let (handle, listener) = net.listen(0);
    let published = Published::read(&handle);
    let mut control = peer::dial(published.control);
    let mut hello = [0u8; 32];
    hello[..8].copy_from_slice(&handle[112..120]);
    hello[0] ^= cookie_error;
    hello[16..24].copy_from_slice(&77u64.to_le_bytes());
    hello[24] = 1;
    let words = [&SOFT.to_le_bytes()[..], &published.sockets.to_le_bytes(), &hello].concat();
    control.write_all(&words).expect("control");
    let mut sockets = Vec::new();
    for index in 0..published.sockets {
        let mut data = peer::dial(published.data);
        let nonce = (77 ^ u64::from(nonce_error)).to_le_bytes();
        data.write_all(&[&nonce[..], &index.to_le_bytes()].concat()).expect("data");
        sockets.push(data);
    }
    // Refused or served, the plugin answers: it closes something, or hands out a comm.
    let mut queue = DeviceHandle::zeroed();
    for socket in sockets.iter().chain([&control]) {
        socket.set_read_timeout(Some(std::time::Duration::from_millis(1))).expect("timeout");
    }
    let served = until("an answer to a soft peer", || {
        let (code, comm) = net.accept_once(listener, Some(&mut queue));
        assert_eq!(code, 0);
        if !comm.is_null() {
            assert_eq!(net.close_recv(comm), 0);
            return Some(true);
        }
        let refused = |mut socket: &TcpStream| {
            use std::io::Read;
            let mut said = [0u8; 64];
            loop {
                match socket.read(&mut said) {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
                }
            }
        };
        (refused(&control) || sockets.iter().any(refused)).then_some(false)
    });
    assert_eq!(net.close_listen(listener), 0);
    served
}

#[test]
fn a_soft_peer_is_served_with_this_listeners_cookie_and_its_own_nonce_only() {
    in_child(
        "a_soft_peer_is_served_with_this_listeners_cookie_and_its_own_nonce_only",
        &[TWO_SOCKETS],
        || {
            let net = start();
            assert!(soft_by_hand(net, 0, 0), "everything right");
            assert!(!soft_by_hand(net, 1, 0), "the cookie of another listener");
            assert!(!soft_by_hand(net, 0, 1), "data sockets of another attempt");
            alive(net);
        },
    );
}

/// A real peer that breaks off after some words, then a good one.
#[test]
fn a_real_peer_that_breaks_the_handshake_makes_room_for_the_next() {
    in_child(
        "a_real_peer_that_breaks_the_handshake_makes_room_for_the_next",
        &[TWO_SOCKETS, IMPATIENT],
        || {
            let net = start();
            // Words after the control socket's own two, with a data connection before each pair of words.
            let cases: [(&str, &[i32]); 7] = [
                ("silent", &[]),
                ("an index twice", &[0, 1, 0, 1]),
                ("an index out of range", &[0, 2]),
                ("a negative index", &[0, -1]),
                ("half a pair", &[0]),
                ("the index of control", &[0, 1, 0, 2]),
                ("one socket only", &[0, 0]),
            ];
            for closes in [true, false] {
                for (what, said) in cases {
                    let (handle, listener) = net.listen(0);
                    let published = Published::read(&handle);
                    let message = pattern(7, 10_000);
                    thread::scope(|scope| {
                        let peer = scope.spawn(|| {
                            let control = peer::dial(published.control);
                            assert_eq!(read_word(&control).expect("state"), 0);
                            write_word(&control, 0).expect("state");
                            write_word(&control, 2).expect("index");
                            let mut held = Vec::new();
                            for pair in said.chunks(2) {
                                held.push(peer::dial(published.data));
                                assert_eq!(read_word(&control).expect("state"), 0);
                                for word in pair {
                                    write_word(&control, *word).expect("a word");
                                }
                            }
                            if closes {
                                control.shutdown(Shutdown::Both).expect("close");
                            }
                            assert!(ended(&control), "{what}: the broken peer loses its connection");
                            drop(held);
                            // Dropped with the broken one if it comes too soon; a caller then tries again.
                            let mut wire = until("a good peer", || peer::try_connect(&handle).ok());
                            wire.send(&message, &[(1, 4000), (0, 6000)], true);
                            wire
                        });
                        println!("{what}, closes {closes}");
                        let comm = accept(net, listener, &mut DeviceHandle::zeroed())
                            .unwrap_or_else(|code| panic!("{what}, closes {closes}: accept {code}"));
                        let messages = [message.clone()];
                        Exchange { net, send: None, receive: Some((comm, &messages)), window: 1 }.run();
                        drop(peer.join().expect("peer"));
                        assert_eq!(net.close_recv(comm), 0);
                    });
                    assert_eq!(net.close_listen(listener), 0);
                }
            }
            alive(net);
        },
    );
}

#[test]
fn a_listener_that_dies_in_the_handshake_ends_the_attempt() {
    let timeout = ("TCPX_SOFT_CONNECT_TIMEOUT_MS", "400");
    in_child("a_listener_that_dies_in_the_handshake_ends_the_attempt", &[timeout], || {
        let net = start();
        // Stages: ports closed; silent; gone after the control connection, its state, the first data socket.
        for stage in 0..5 {
            let listener = Listener::open([127, 0, 0, 1].into(), 2);
            let mut handle = listener.handle();
            thread::scope(|scope| {
                let peer = scope.spawn(move || {
                    let mut held = Vec::new();
                    if stage == 1 {
                        return (Some(listener), held);
                    }
                    if stage > 1 {
                        let control = peer::accept(&listener.control);
                        if stage > 2 {
                            write_word(&control, 0).expect("state");
                            assert_eq!(read_word(&control).expect("state"), 0);
                            assert_eq!(read_word(&control).expect("index"), 2);
                        }
                        if stage > 3 {
                            held.push(peer::accept(&listener.data));
                            write_word(&control, 0).expect("state");
                        }
                    }
                    (None, held)
                });
                let code = connect(net, &mut handle).expect_err("no listener");
                assert_eq!(code, 2, "stage {stage}");
                drop(peer.join().expect("peer"));
            });
        }
        // A soft listener whose process stops answering: nobody calls accept.
        let (mut handle, listener) = net.listen(0);
        assert_eq!(connect(net, &mut handle).expect_err("nobody accepts"), 2);
        assert_eq!(net.close_listen(listener), 0);
        alive(net);
    });
}

#[test]
fn a_listener_that_says_garbage_is_refused() {
    let net = start();
    for word in [2, 1, i32::MIN, 0x7fff_ffff] {
        let listener = Listener::open([127, 0, 0, 1].into(), 1);
        let mut handle = listener.handle();
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                for _ in 0..if word == 2 { 1 } else { 3 } {
                    let control = peer::accept(&listener.control);
                    write_word(&control, word).expect("garbage");
                }
            });
            assert_eq!(connect(net, &mut handle).expect_err("garbage"), 3, "{word}");
            peer.join().expect("peer");
        });
    }
    let mut handle = Listener::open([127, 0, 0, 1].into(), 1).handle();
    for (at, byte) in [(36, 0), (36, 9), (39, 0x80), (0, 77), (48, 1), (2, 0)] {
        let mut bad = handle;
        bad[at] = byte;
        if at == 2 {
            bad[3] = 0;
        }
        assert_eq!(net.connect_once(0, &mut bad).0, 3, "byte {at} is {byte}");
    }
    handle[80] = 200;
    assert_eq!(net.connect_once(0, &mut handle).0, 3, "another attempt's mark");
    alive(net);
}

#[test]
fn descriptors_are_back_after_hostile_peers() {
    in_child("descriptors_are_back_after_hostile_peers", &[TWO_SOCKETS, IMPATIENT], || {
        let net = start();
        alive(net);
        until("threads of the first pair to end", || (drive::threads() <= 2).then_some(()));
        let before = drive::descriptors();
        for stranger in STRANGERS {
            pair_beside(net, |handle| {
                let published = Published::read(handle);
                [published.control, published.data]
                    .into_iter()
                    .filter_map(|to| stranger.visit(to, handle))
                    .collect()
            });
            let bytes = Message { kind: 0, index: 9, size: 1, offset: 0, total: 1 }.bytes();
            assert_eq!(told(net, &bytes), 6);
        }
        drive::level(before, 2);
        drive::no_panic();
    });
}

#[derive(Clone, Debug)]
enum Said {
    Control(Message),
    Raw(Vec<u8>),
    Data(usize, usize),
}

fn said() -> impl Strategy<Value = Said> {
    let number = prop_oneof![
        4 => 0u32..2000,
        1 => Just(0),
        1 => Just(1000),
        1 => any::<u32>(),
    ];
    let message = (0u16..3, 0u16..4, number.clone(), number.clone(), number).prop_map(
        |(kind, index, size, offset, total)| Said::Control(Message { kind, index, size, offset, total }),
    );
    let plausible = (0u16..2, 1u32..1000)
        .prop_map(|(index, size)| Said::Control(Message { kind: 0, index, size, offset: 0, total: size }));
    prop_oneof![
        3 => message,
        4 => plausible,
        1 => Just(Said::Control(EMPTY)),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Said::Raw),
        3 => (0usize..2, 0usize..1500).prop_map(|(socket, length)| Said::Data(socket, length)),
    ]
}

/// Whatever a peer says, each receive is done within its buffer or ends with an error once the peer is gone.
fn random_stream(net: Net, stream: &[Said]) {
    let (comm, mut wire) = victim(net);
    let mut into: Vec<_> = (0..6).map(|_| Memory::new(net, comm, vec![0xA5; 1100])).collect();
    let requests: Vec<_> = into
        .iter_mut()
        .map(|into| net.irecv(comm, into.bytes.as_mut_ptr(), 1000, into.handle))
        .map(|(code, request)| {
            assert_eq!(code, 0);
            request
        })
        .collect();
    for said in stream {
        // The plugin may have closed the connection.
        let _ = match said {
            Said::Control(message) => wire.control.write_all(&message.bytes()),
            Said::Raw(bytes) => wire.control.write_all(bytes),
            Said::Data(socket, length) => wire.data[*socket].write_all(&pattern(1, *length)),
        };
    }
    drop(wire);
    let mut oldest = 0;
    until("the end of a random stream", || {
        if oldest == requests.len() {
            return Some(());
        }
        match net.test(requests[oldest]) {
            (0, true, size) => {
                assert!((0..=1000).contains(&size));
                oldest += 1;
                None
            }
            (0, false, _) => None,
            (code, done, _) => {
                assert!(!done && (code == 2 || code == 6), "{code}");
                Some(())
            }
        }
    });
    assert_eq!(net.close_recv(comm), 0);
    assert!(into.iter().all(|into| into.bytes[1000..].iter().all(|&byte| byte == 0xA5)));
}

#[test]
fn random_control_streams_never_lead_outside_a_buffer() {
    in_child("random_control_streams_never_lead_outside_a_buffer", &[TWO_SOCKETS], || {
        let net = start();
        let before = drive::descriptors();
        let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(stream in prop::collection::vec(said(), 0..12))| random_stream(net, &stream));
        drive::level(before, 2);
        alive(net);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// A random handshake never ends an accept, and a good peer gets through afterwards.
    #[test]
    fn random_handshakes_are_dropped(
        words in prop::collection::vec(prop_oneof![Just(0i32), Just(1), Just(SOFT), any::<i32>()], 0..20),
        on_data in any::<bool>(),
    ) {
        let net = start();
        let given_up = words.windows(2).any(|pair| pair[0] == 0 && pair[1] == 2);
        let words = if given_up { Vec::new() } else { words };
        pair_beside(net, |handle| {
            let published = Published::read(handle);
            let mut stranger = peer::dial(if on_data { published.data } else { published.control });
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            stranger.write_all(&bytes).expect("the port is open");
            Vec::new()
        });
    }
}
