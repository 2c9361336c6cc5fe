//! The published wire, byte by byte: a peer written from it alone talks to the plugin in both roles.

mod support;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use support::child::in_child;
use support::drive::{self, Deadline, Exchange, Memory, Random, accept, connect, start};
use support::peer::{self, EMPTY, Listener, Message, Published, Wire, read_word, write_word};
use support::{Net, Pointer, pattern};
use tcpx_sys::device::DeviceHandle;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Bytes from hexadecimal digits; spaces do not count.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("hexadecimal")
    };
    digits.chunks(2).map(byte).collect()
}

/// The plugin receives `messages` that `peer` sends once connected.
fn plugin_receives(messages: &[Vec<u8>], peer: impl FnOnce(Wire) -> Wire + Send) {
    let net = start();
    let (handle, listener) = net.listen(0);
    thread::scope(|scope| {
        let peer = scope.spawn(|| peer(peer::connect(&handle)));
        let comm = accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
        Exchange { net, send: None, receive: Some((comm, messages)), window: 16 }.run();
        drop(peer.join().expect("peer"));
        assert_eq!(net.close_recv(comm), 0);
    });
    assert_eq!(net.close_listen(listener), 0);
    drive::no_panic();
}

/// The plugin sends `messages` to a peer that listens like a real one and ends with `peer`.
fn plugin_sends<T: Send>(
    ip: IpAddr,
    sockets: i32,
    messages: &[Vec<u8>],
    peer: impl FnOnce(&mut Wire) -> T + Send,
) -> T {
    let net = start();
    let listener = Listener::open(ip, sockets);
    let mut handle = listener.handle();
    let told = thread::scope(|scope| {
        let (told, hear) = std::sync::mpsc::channel();
        let peer = scope.spawn(move || {
            let mut wire = listener.accept();
            let result = peer(&mut wire);
            told.send(()).expect("the test listens");
            // The plugin closes after the last byte was taken: in order, never by a reset of a data socket.
            for (index, data) in wire.data.iter().enumerate() {
                let rest = peer::drain(data).unwrap_or_else(|e| panic!("data socket {index}: {e}"));
                assert_eq!(rest, 0, "bytes behind the last message on data socket {index}");
            }
            assert_eq!(peer::drain(&wire.control).expect("control ends in order as well"), 0);
            result
        });
        let comm = connect(net, &mut handle).expect("connect");
        Exchange { net, send: Some((comm, messages)), receive: None, window: 12 }.run();
        hear.recv_timeout(drive::PATIENCE).expect("the peer has everything");
        assert_eq!(net.close_send(comm), 0);
        peer.join().expect("peer")
    });
    drive::no_panic();
    told
}

fn reference() -> Vec<Vec<u8>> {
    vec![Vec::new(), pattern(1, 100), pattern(2, 614_400)]
}

#[test]
fn the_reference_exchange_of_a_real_sender_is_received() {
    in_child(
        "the_reference_exchange_of_a_real_sender_is_received",
        &[("NCCL_NSOCKS_PERTHREAD", "2"), ("TCPX_SOFT_ADDRESSES", "127.0.0.1")],
        || {
            let messages = reference();
            plugin_receives(&messages, |mut wire| {
                wire.control.write_all(&hex("0100 0000 00000000 00000000 00000000")).expect("control");
                wire.control.write_all(&hex("0000 0100 64000000 00000000 64000000")).expect("control");
                wire.data[1].write_all(&messages[1]).expect("data");
                wire.control.write_all(&hex("0000 0000 00000800 00000000 00600900")).expect("control");
                wire.data[0].write_all(&messages[2][..524_288]).expect("data");
                wire.control.write_all(&hex("0000 0100 00600100 00000800 00600900")).expect("control");
                wire.data[1].write_all(&messages[2][524_288..]).expect("data");
                wire
            });
        },
    );
}

#[test]
fn a_sender_towards_a_real_receiver_writes_these_bytes() {
    let messages = reference();
    let taken = plugin_sends(LOCAL, 2, &messages, |wire| {
        assert_eq!(
            peer::read_bytes(&wire.control, 64),
            hex("0100 0000 00000000 00000000 00000000
                 0000 0100 64000000 00000000 64000000
                 0000 0000 00b00400 00000000 00600900
                 0000 0100 00b00400 00b00400 00600900"
                .replace('\n', "")
                .as_str())
        );
        let small = peer::read_bytes(&wire.data[1], 100);
        let first = peer::read_bytes(&wire.data[0], 307_200);
        (small, [first, peer::read_bytes(&wire.data[1], 307_200)].concat())
    });
    assert!(taken.0 == messages[1] && taken.1 == messages[2]);
}

#[test]
fn a_handle_is_what_a_real_connector_needs() {
    let expected_address = hex("0200 0000 7f000002 0000000000000000 000000000000000000000000");
    let address = ("TCPX_SOFT_ADDRESSES", "127.0.0.2");
    for (sockets, variables) in [
        (3, &[("NCCL_NSOCKS_PERTHREAD", "3"), address][..]),
        (4, &[("NCCL_NSOCKS_PERTHREAD", "2"), ("NCCL_SOCKET_NTHREADS", "2"), address][..]),
    ] {
        let test = "a_handle_is_what_a_real_connector_needs";
        let text = in_child(test, variables, || {
            let net = start();
            let (handle, listener) = net.listen(0);
            for at in [0, 48] {
                let mut address = handle[at..at + 28].to_vec();
                assert_ne!(&address[2..4], [0, 0], "a port");
                address[2..4].fill(0);
                assert_eq!(address, expected_address);
            }
            assert_eq!(handle[28..36], [0xff; 8], "no port range");
            println!("sockets {}", peer::word(&handle, 36));
            assert_eq!(peer::word(&handle, 40), 1, "one worker divides every number of sockets");
            assert_eq!(handle[44..48], [0; 4], "control is not redirected");
            assert_eq!(handle[76..88], [0; 12], "nothing where a connector keeps its pointer");
            assert_ne!(handle[88..], [0; 40], "the announcement");
            assert_eq!(net.close_listen(listener), 0);
        });
        if support::child::is_child(test) {
            return;
        }
        assert!(text.contains(&format!("sockets {sockets}\n")), "{text}");
    }
}

/// Every size once, then 200 mixed messages, in random chunks on random sockets.
fn a_real_sender_in_random_chunks(sockets: usize) {
    let mut random = Random::seeded();
    let sizes = [0, 1, 100, 4096, 65_537, 524_288, 2_097_155];
    let mut messages: Vec<Vec<u8>> = sizes.iter().map(|&size| pattern(size as u64, size)).collect();
    messages.extend(random.messages(200, 90_000));
    plugin_receives(&messages, |mut wire| {
        for message in &messages {
            // Small ones sometimes travel inside the control stream.
            if !message.is_empty() && message.len() < 70_000 && random.below(8) == 0 {
                wire.send_inline(message);
                continue;
            }
            let mut chunks = Vec::new();
            let mut rest = message.len();
            while rest > 0 {
                let most = if random.below(2) == 0 { rest } else { 1 + random.below(rest) };
                // Few tiny chunks: each is a system call at both ends.
                let size = most.max(rest.min(512));
                chunks.push((random.below(sockets), size));
                rest -= size;
            }
            wire.send(message, &chunks, random.below(2) == 0);
        }
        wire
    });
}

macro_rules! random_chunks {
    ($($name:ident: $sockets:literal, $variables:expr;)*) => {$(
        #[test]
        fn $name() {
            in_child(stringify!($name), &$variables, || a_real_sender_in_random_chunks($sockets));
        }
    )*};
}
random_chunks! {
    random_chunks_arrive_on_one_socket: 1, [("NCCL_NSOCKS_PERTHREAD", "1")];
    random_chunks_arrive_on_two_sockets: 2, [("NCCL_NSOCKS_PERTHREAD", "2")];
    random_chunks_arrive_on_four_sockets: 4, [("NCCL_NSOCKS_PERTHREAD", "4")];
    random_chunks_arrive_on_sockets_of_two_threads: 4,
        [("NCCL_NSOCKS_PERTHREAD", "2"), ("NCCL_SOCKET_NTHREADS", "2")];
}

#[test]
fn inline_payload_of_a_real_sender_is_received() {
    let messages: Vec<_> = [1, 4096, 16_385, 65_537].map(|n| pattern(n as u64, n)).into();
    plugin_receives(&messages, |mut wire| {
        for message in &messages {
            wire.send_inline(message);
        }
        wire
    });
}

#[test]
fn any_tcp_segmentation_is_received() {
    let messages = vec![pattern(5, 3000), Vec::new(), pattern(6, 700)];
    plugin_receives(&messages, |mut wire| {
        let mut control = Vec::new();
        let n = wire.data.len();
        for message in messages.iter().filter(|message| !message.is_empty()) {
            let total = message.len() as u32;
            let announced = Message { kind: 0, index: (n - 1) as u16, size: total, offset: 0, total };
            control.extend(announced.bytes());
            if message.len() == 3000 {
                control.extend(EMPTY.bytes());
            }
        }
        for byte in control {
            wire.control.write_all(&[byte]).expect("control");
        }
        for byte in messages.concat() {
            wire.data[n - 1].write_all(&[byte]).expect("data");
        }
        wire
    });
}

#[test]
fn data_sockets_may_come_in_any_order_of_indices() {
    in_child("data_sockets_may_come_in_any_order_of_indices", &[("NCCL_NSOCKS_PERTHREAD", "4")], || {
        let net = start();
        let (handle, listener) = net.listen(0);
        let messages: Vec<_> = (0..4).map(|i| pattern(i, 5000)).collect();
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                let mut wire = peer::connect_in(&handle, &[2, 0, 3, 1]);
                for (socket, message) in messages.iter().enumerate() {
                    wire.send(message, &[(socket, 5000)], false);
                }
                wire
            });
            let comm = accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
            Exchange { net, send: None, receive: Some((comm, &messages)), window: 16 }.run();
            drop(peer.join().expect("peer"));
            assert_eq!(net.close_recv(comm), 0);
        });
        assert_eq!(net.close_listen(listener), 0);
    });
}

#[test]
fn a_connector_may_say_all_words_ahead_and_open_data_first() {
    in_child(
        "a_connector_may_say_all_words_ahead_and_open_data_first",
        &[("NCCL_NSOCKS_PERTHREAD", "2")],
        || {
            let net = start();
            let (handle, listener) = net.listen(0);
            let published = Published::read(&handle);
            let message = pattern(3, 40_000);
            let mut data = [peer::dial(published.data), peer::dial(published.data)];
            let mut control = peer::dial(published.control);
            for said in [0, 2, 0, 1, 0, 0] {
                write_word(&control, said).expect("a word");
            }
            // The k-th data connection belongs to the k-th index word: the first is socket 1.
            let announced = Message { kind: 0, index: 1, size: 40_000, offset: 0, total: 40_000 };
            control.write_all(&announced.bytes()).expect("control");
            data[0].write_all(&message).expect("data");
            let comm = accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
            Exchange { net, send: None, receive: Some((comm, &[message])), window: 1 }.run();
            assert_eq!(net.close_recv(comm), 0);
            assert_eq!(net.close_listen(listener), 0);
        },
    );
}

#[test]
fn a_sender_keeps_the_limits_of_a_real_receiver() {
    for (sockets, variables) in [
        (1, &[][..]),
        (2, &[("NCCL_DYNAMIC_CHUNK_SIZE", "131072")][..]),
        (4, &[("TCPX_SOFT_CHUNK_BYTES", "65536"), ("TCPX_SOFT_LANES", "2")][..]),
        (8, &[][..]),
    ] {
        let test = "a_sender_keeps_the_limits_of_a_real_receiver";
        let variables =
            [variables, &[("SOCKETS", ["", "1", "2", "", "4", "", "", "", "8"][sockets])]].concat();
        in_child(test, &variables, || {
            let sockets: i32 = std::env::var("SOCKETS").expect("given").parse().expect("a number");
            let mut random = Random::seeded();
            let sizes = [0, 1, 100, 4096, 65_537, 524_288, 2_097_155];
            let mut messages: Vec<Vec<u8>> = sizes.iter().map(|&n| pattern(n as u64, n)).collect();
            messages.extend(random.messages(150, 90_000));
            messages.extend((0..50).map(|i| pattern(i, 262_145 + random.below(900_000))));
            plugin_sends(LOCAL, sockets, &messages, |wire| {
                for (which, expected) in messages.iter().enumerate() {
                    let (bytes, control) = wire.receive();
                    assert!(bytes == *expected, "message {which}");
                    let mut used: Vec<u16> = control.iter().map(|message| message.index).collect();
                    used.sort_unstable();
                    used.dedup();
                    assert_eq!(used.len(), control.len(), "one chunk per socket and message: {control:?}");
                    assert!(control.iter().all(|m| m.total as usize == expected.len()));
                }
            });
        });
        if support::child::is_child(test) {
            return;
        }
    }
}

#[test]
fn ipv6_works_in_both_roles() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("skipped: this machine has no ::1");
        return;
    }
    in_child("ipv6_works_in_both_roles", &[("TCPX_SOFT_ADDRESSES", "::1")], || {
        let messages = vec![pattern(1, 100), pattern(2, 700_000), Vec::new()];
        plugin_receives(&messages, |mut wire| {
            assert!(wire.control.peer_addr().expect("address").is_ipv6());
            wire.send(&messages[0], &[(0, 100)], false);
            wire.send(&messages[1], &[(0, 700_000)], false);
            wire.send(&messages[2], &[], false);
            wire
        });
        plugin_sends(IpAddr::V6(Ipv6Addr::LOCALHOST), 2, &messages, |wire| {
            for expected in &messages {
                assert!(wire.receive().0 == *expected);
            }
        });
        let net = start();
        let comms = drive::pair(net);
        drive::exchange(net, comms, &messages);
        drive::close(net, comms);
    });
}

/// A real acceptor that answers `state` to the first `times` sockets of each kind.
fn accept_after(listener: &Listener, state: i32, times: usize) -> Wire {
    let one = |ports: &std::net::TcpListener, control: Option<&std::net::TcpStream>, index: i32| {
        for _ in 0..times {
            let socket = peer::accept(ports);
            let exchange = control.unwrap_or(&socket);
            write_word(exchange, state).expect("state");
            // A real acceptor always reads the connector's state after its own.
            assert_eq!(read_word(exchange).expect("the connector's state"), 0);
        }
        let socket = peer::accept(ports);
        let exchange = control.unwrap_or(&socket);
        write_word(exchange, 0).expect("state");
        assert_eq!(read_word(exchange).expect("state"), 0);
        assert_eq!(read_word(exchange).expect("index"), index);
        socket
    };
    let control = one(&listener.control, None, listener.sockets);
    let mut data: Vec<_> =
        (0..listener.sockets).rev().map(|index| one(&listener.data, Some(&control), index)).collect();
    data.reverse();
    Wire { control, data }
}

#[test]
fn a_socket_called_pending_twice_comes_again() {
    for state in [1, 77, -5] {
        let net = start();
        let listener = Listener::open(LOCAL, 2);
        let mut handle = listener.handle();
        let message = pattern(9, 300_000);
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                let wire = accept_after(&listener, state, 2);
                (wire.receive().0, wire)
            });
            let comm = connect(net, &mut handle).expect("connect");
            let messages = [message.clone()];
            Exchange { net, send: Some((comm, &messages)), receive: None, window: 1 }.run();
            let (bytes, wire) = peer.join().expect("peer");
            assert!(bytes == message);
            drop(wire);
            assert_eq!(net.close_send(comm), 0);
        });
    }
}

#[test]
fn three_times_pending_and_a_refusal_end_the_attempt() {
    // Which socket is refused: control, or the first data socket.
    for (state, times, on_data) in [(1, 3, false), (1, 3, true), (2, 1, false), (2, 1, true)] {
        let net = start();
        let listener = Listener::open(LOCAL, 2);
        let mut handle = listener.handle();
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                let mut kept = Vec::new();
                let control = if on_data {
                    let control = peer::accept(&listener.control);
                    write_word(&control, 0).expect("state");
                    assert_eq!(read_word(&control).expect("state"), 0);
                    assert_eq!(read_word(&control).expect("index"), 2);
                    Some(control)
                } else {
                    None
                };
                for _ in 0..times {
                    let ports = if on_data { &listener.data } else { &listener.control };
                    let socket = peer::accept(ports);
                    let exchange = control.as_ref().unwrap_or(&socket);
                    write_word(exchange, state).expect("state");
                    assert_eq!(read_word(exchange).expect("the connector's state"), 0);
                    kept.push(socket);
                }
                // Everything is closed by the connector, which gave up.
                kept.extend(control);
                assert!(kept.iter().all(drive::ended));
            });
            assert_eq!(connect(net, &mut handle).expect_err("refused"), 3, "{state} on data: {on_data}");
            peer.join().expect("peer");
        });
    }
}

#[test]
fn a_connector_may_call_a_data_socket_pending_twice() {
    in_child("a_connector_may_call_a_data_socket_pending_twice", &[("NCCL_NSOCKS_PERTHREAD", "2")], || {
        for (state, times, works) in [(1, 2, true), (33, 2, true), (1, 3, false), (2, 1, false)] {
            let net = start();
            let (handle, listener) = net.listen(0);
            let published = Published::read(&handle);
            let message = pattern(4, 9000);
            thread::scope(|scope| {
                let peer = scope.spawn(|| {
                    let control = peer::dial(published.control);
                    assert_eq!(read_word(&control).expect("state"), 0);
                    write_word(&control, 0).expect("state");
                    write_word(&control, 2).expect("index");
                    for _ in 0..times {
                        let dropped = peer::dial(published.data);
                        assert_eq!(read_word(&control).expect("state"), 0);
                        write_word(&control, state).expect("state");
                        if works {
                            assert!(drive::ended(&dropped), "a pending socket is closed by both");
                        }
                    }
                    if !works {
                        assert!(drive::ended(&control));
                        return None;
                    }
                    let mut data = Vec::new();
                    for index in [1, 0] {
                        let socket = peer::dial(published.data);
                        assert_eq!(read_word(&control).expect("state"), 0);
                        write_word(&control, 0).expect("state");
                        write_word(&control, index).expect("index");
                        data.insert(0, socket);
                    }
                    let mut wire = Wire { control, data };
                    wire.send(&message, &[(1, 4000), (0, 5000)], false);
                    Some(wire)
                });
                match accept(net, listener, &mut DeviceHandle::zeroed()) {
                    Ok(comm) => {
                        assert!(works, "state {state} {times} times");
                        let messages = [message.clone()];
                        Exchange { net, send: None, receive: Some((comm, &messages)), window: 1 }.run();
                        assert_eq!(net.close_recv(comm), 0);
                    }
                    Err(code) => assert_eq!((code, works), (3, false), "state {state} {times} times"),
                }
                drop(peer.join().expect("peer"));
            });
            assert_eq!(net.close_listen(listener), 0);
        }
    });
}

#[test]
fn a_receiver_told_to_sends_one_credit_per_receive() {
    in_child(
        "a_receiver_told_to_sends_one_credit_per_receive",
        &[("NCCL_GPUDIRECTTCPX_RECV_SYNC", "1"), ("NCCL_NSOCKS_PERTHREAD", "2")],
        || {
            let messages = reference();
            plugin_receives(&messages, |mut wire| {
                for (sequence, message) in messages.iter().enumerate() {
                    assert_eq!(read_word(&wire.control).expect("a credit"), sequence as i32);
                    let chunks = [(0, message.len() / 2), (1, message.len() - message.len() / 2)];
                    wire.send(message, if message.is_empty() { &[] } else { &chunks }, false);
                }
                wire
            });
        },
    );
}

#[test]
fn a_sender_told_to_waits_for_a_credit_per_message() {
    in_child(
        "a_sender_told_to_waits_for_a_credit_per_message",
        &[("NCCL_GPUDIRECTTCPX_RECV_SYNC", "1")],
        || {
            let net = start();
            let listener = Listener::open(LOCAL, 1);
            let mut handle = listener.handle();
            let mut wire = thread::scope(|scope| {
                let peer = scope.spawn(|| listener.accept());
                let comm = connect(net, &mut handle).expect("connect");
                (peer.join().expect("peer"), comm)
            });
            let comm = wire.1;
            let memory = Memory::patterned(net, comm, 3, 100);
            let first = drive::post_send(net, comm, &memory);
            let second = drive::post_send_of(net, comm, &memory, 0);
            for _ in 0..1000 {
                assert_eq!(net.test(first), (0, false, -1), "no credit, no message");
            }
            wire.0.control.set_nonblocking(true).expect("nonblocking");
            let peeked = wire.0.control.peek(&mut [0; 1]);
            assert_eq!(peeked.expect_err("nothing was said").kind(), std::io::ErrorKind::WouldBlock);
            wire.0.control.set_nonblocking(false).expect("blocking");
            // A credit in two pieces counts once it is whole.
            wire.0.control.write_all(&[0, 0]).expect("half a credit");
            for _ in 0..1000 {
                assert_eq!(net.test(first), (0, false, -1));
            }
            wire.0.control.write_all(&[0, 0]).expect("the other half");
            drive::finish(net, first, "a send with its credit");
            assert!(wire.0.receive().0 == memory.bytes);
            for _ in 0..1000 {
                assert_eq!(net.test(second), (0, false, -1), "an empty message needs a credit too");
            }
            write_word(&wire.0.control, 1).expect("credit");
            drive::finish(net, second, "the empty message");
            assert!(wire.0.receive().0.is_empty());
            assert_eq!(net.close_send(comm), 0);
        },
    );
}

#[test]
fn two_soft_ends_keep_in_step_by_credits() {
    in_child("two_soft_ends_keep_in_step_by_credits", &[("NCCL_GPUDIRECTTCPX_RECV_SYNC", "1")], || {
        let net = start();
        let messages = Random::seeded().messages(300, 400_000);
        let comms = drive::pair(net);
        drive::exchange(net, comms, &messages);
        drive::close(net, comms);
    });
}

#[test]
fn credits_nobody_asked_for_are_discarded_and_never_reset_a_data_socket() {
    // `plugin_sends` asserts that every data socket ends in order.
    let messages: Vec<_> = (0..40).map(|i| pattern(i, 30_000)).collect();
    plugin_sends(LOCAL, 2, &messages, |wire| {
        for (sequence, message) in messages.iter().enumerate() {
            write_word(&wire.control, sequence as i32).expect("credit");
            assert!(wire.receive().0 == *message);
        }
    });
}

#[test]
fn a_half_close_after_the_last_byte_loses_nothing() {
    let messages = vec![pattern(1, 600_000), pattern(2, 20_000), Vec::new()];
    plugin_receives(&messages, |mut wire| {
        for message in &messages {
            let chunks = [(0, message.len())];
            wire.send(message, if message.is_empty() { &[] } else { &chunks }, false);
        }
        wire.finish();
        wire
    });
}

/// Two receives, whose announcements and end the plugin reads at once; and how often `test` said 2.
fn end_with_the_last_announcements(net: Net) -> usize {
    let (handle, listener) = net.listen(0);
    let published = Published::read(&handle);
    let message = pattern(8, 50_000);
    let (comm, mut wire): (Pointer, Wire) = thread::scope(|scope| {
        let peer = scope.spawn(|| peer::connect(&handle));
        let comm = accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
        (comm, peer.join().expect("peer"))
    });
    assert_eq!(published.sockets as usize, wire.data.len());
    let mut memories = [Memory::zeroed(net, comm, 50_000), Memory::zeroed(net, comm, 50_000)];
    for _ in 0..2 {
        wire.send(&message, &[(0, 50_000)], false);
    }
    wire.finish();
    let requests = memories.each_mut().map(|memory| drive::post_receive(net, comm, memory));
    let mut errors = 0;
    for request in requests {
        let deadline = Deadline::new();
        loop {
            deadline.check("announced messages");
            match net.test(request) {
                (0, true, _) => break,
                (0, false, _) => {}
                (2, false, _) => errors += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(memories.iter().all(|memory| memory.bytes == message));
    assert_eq!(net.close_recv(comm), 0);
    assert_eq!(net.close_listen(listener), 0);
    errors
}

#[test]
fn announcements_read_together_with_the_end_all_complete() {
    assert_eq!(end_with_the_last_announcements(start()), 0, "no error by default");
}

#[test]
fn strict_mode_tells_the_end_once_and_completes_what_was_announced() {
    in_child(
        "strict_mode_tells_the_end_once_and_completes_what_was_announced",
        &[("TCPX_SOFT_STRICT", "1")],
        || assert!(end_with_the_last_announcements(start()) >= 1, "the end is told"),
    );
}

#[test]
fn an_announcement_in_a_buffer_that_a_real_listener_reused_does_not_count() {
    let net = start();
    let (soft, soft_listener) = net.listen(0);
    let listener = Listener::open(LOCAL, 1);
    let mut handle = listener.handle();
    handle[88..].copy_from_slice(&soft[88..]);
    let message = pattern(1, 1000);
    thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let wire = listener.accept();
            (wire.receive().0, wire)
        });
        let comm = connect(net, &mut handle).expect("connect");
        let messages = [message.clone()];
        Exchange { net, send: Some((comm, &messages)), receive: None, window: 1 }.run();
        assert!(peer.join().expect("peer").0 == message);
        assert_eq!(net.close_send(comm), 0);
    });
    assert_eq!(net.close_listen(soft_listener), 0);
}

#[test]
fn a_real_sender_is_told_apart_from_a_soft_one_in_the_log() {
    let net = start();
    let comms = drive::pair(net);
    plugin_receives(&[], |wire| wire);
    for kind in ["(soft plugin, this machine)", "(TCPX plugin, another machine)"] {
        let lines = drive::log();
        let says = |line: &String| line.contains("receives from") && line.contains(kind);
        assert!(lines.iter().any(says), "{kind}: {lines:?}");
    }
    drive::close(net, comms);
}

#[test]
fn a_receiver_that_closes_once_it_has_everything_is_no_error() {
    let net = start();
    for round in 0..200 {
        let listener = Listener::open(LOCAL, 2);
        let mut handle = listener.handle();
        let messages = [pattern(round, [5000, 300_000, 1_500_000][round as usize % 3])];
        thread::scope(|scope| {
            // The peer is gone with its last byte, maybe before the plugin has noted that it was taken.
            let peer = scope.spawn(|| listener.accept().receive().0);
            let comm = connect(net, &mut handle).expect("connect");
            Exchange { net, send: Some((comm, &messages)), receive: None, window: 1 }.run();
            assert!(peer.join().expect("peer") == messages[0]);
            assert_eq!(net.close_send(comm), 0);
        });
    }
}

#[test]
fn credits_unread_at_close_do_not_turn_it_into_a_reset() {
    let net = start();
    let listener = Listener::open(LOCAL, 1);
    let mut handle = listener.handle();
    let (comm, wire) = thread::scope(|scope| {
        let peer = scope.spawn(|| listener.accept());
        let comm = connect(net, &mut handle).expect("connect");
        (comm, peer.join().expect("peer"))
    });
    let from = Memory::patterned(net, comm, 1, 100);
    drive::finish(net, drive::post_send(net, comm, &from), "the send");
    // The plugin is not asked again before it closes, so nothing reads these.
    for credit in 0..3 {
        write_word(&wire.control, credit).expect("credit");
    }
    assert_eq!(net.close_send(comm), 0);
    assert!(wire.receive().0 == from.bytes);
    assert_eq!(peer::drain(&wire.control).expect("an end in order, no reset"), 0);
}
