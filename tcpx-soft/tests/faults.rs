//! Every fault knob does what it says, the caller gets the stated answer, and nothing hangs. Those of the
//! bounce pages stand in `unpack.rs`.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::ptr::null_mut;
use std::thread;
use std::time::{Duration, Instant};

use support::child::in_child;
use support::drive::{self, Exchange, Memory, accept, close, connect, error_of, finish, pair, post_receive};
use support::drive::{post_send, start, until};
use support::peer::{Listener, Message, read_bytes};
use support::{Net, pattern};
use tcpx_sys::device::DeviceHandle;

#[test]
fn connect_gives_no_comm_before_its_delay() {
    let delay = ("TCPX_SOFT_FAULT_CONNECT_DELAY_MS", "150");
    in_child("connect_gives_no_comm_before_its_delay", &[delay], || {
        let net = start();
        let began = Instant::now();
        let comms = pair(net);
        assert!(began.elapsed() >= Duration::from_millis(150));
        drive::exchange(net, comms, &[pattern(1, 100)]);
        close(net, comms);
    });
}

#[test]
fn accept_gives_no_comm_before_its_delay() {
    let delay = ("TCPX_SOFT_FAULT_ACCEPT_DELAY_MS", "150");
    in_child("accept_gives_no_comm_before_its_delay", &[delay], || {
        let net = start();
        let began = Instant::now();
        let comms = pair(net);
        assert!(began.elapsed() >= Duration::from_millis(150));
        drive::exchange(net, comms, &[pattern(1, 100)]);
        close(net, comms);
    });
}

#[test]
fn accept_fails_as_when_the_daemon_refuses() {
    let variables = [("TCPX_SOFT_FAULT_ACCEPT_FAILS", "1"), ("TCPX_SOFT_CONNECT_TIMEOUT_MS", "200")];
    in_child("accept_fails_as_when_the_daemon_refuses", &variables, || {
        let net = start();
        let (mut handle, listener) = net.listen(0);
        assert_eq!(accept(net, listener, &mut DeviceHandle::zeroed()).expect_err("the fault"), 3);
        assert!(drive::log().iter().any(|line| line.contains("TCPX_SOFT_FAULT_ACCEPT_FAILS")));
        assert_eq!(connect(net, &mut handle).expect_err("nobody accepts"), 2);
        assert_eq!(net.close_listen(listener), 0);
    });
}

#[test]
fn every_third_post_gets_no_request() {
    let every = ("TCPX_SOFT_FAULT_NULL_REQUEST_EVERY", "3");
    in_child("every_third_post_gets_no_request", &[every], || {
        let net = start();
        let comms = pair(net);
        let from = Memory::patterned(net, comms.0, 1, 100);
        let mut into = Memory::zeroed(net, comms.1, 100);
        for post in 1..=30 {
            let (code, receive) = net.irecv(comms.1, into.bytes.as_mut_ptr(), 100, into.handle);
            let (send_code, send) = net.isend(comms.0, from.bytes.as_ptr(), 100, from.handle, 0x1);
            assert_eq!((code, send_code), (0, 0));
            assert_eq!((receive.is_null(), send.is_null()), (post % 3 == 0, post % 3 == 0), "post {post}");
            if !receive.is_null() {
                finish(net, send, "the send");
                finish(net, receive, "the receive");
                assert_eq!(net.consumed(comms.1, receive), 0);
            }
        }
        close(net, comms);
    });
}

/// A message of 2 MiB whose data socket 0 ends at byte `at`; both ends hear of it.
fn data_socket_dies(net: Net) {
    let comms = pair(net);
    let bystanders = pair(net);
    let from = Memory::patterned(net, comms.0, 1, 2 << 20);
    let mut into = Memory::zeroed(net, comms.1, 2 << 20);
    let receive = post_receive(net, comms.1, &mut into);
    let send = post_send(net, comms.0, &from);
    let (mut of_send, mut of_receive) = (0, 0);
    until("an error at both ends", || {
        for (request, code) in [(send, &mut of_send), (receive, &mut of_receive)] {
            if *code == 0 {
                let (answer, done, _) = net.test(request);
                assert!(!done, "the message is incomplete");
                *code = answer;
            }
        }
        (of_send != 0 && of_receive != 0).then_some(())
    });
    assert_eq!((of_send, of_receive), (2, 2));
    assert!(drive::log().iter().any(|line| line.contains("data socket 0")));
    // Small messages travel on the control socket: other comms, and even this one's, go on.
    drive::exchange(net, bystanders, &[pattern(1, 16_000), Vec::new()]);
    close(net, bystanders);
    close(net, comms);
}

#[test]
fn a_data_socket_dies_at_its_byte() {
    let test = "a_data_socket_dies_at_its_byte";
    for (at, sockets) in [("0", "1"), ("100000", "1"), ("100000", "4")] {
        let variables = [("TCPX_SOFT_FAULT_DATA_SOCKET_DIES_AT", at), ("NCCL_NSOCKS_PERTHREAD", sockets)];
        in_child(test, &variables, || data_socket_dies(start()));
        if support::child::is_child(test) {
            return;
        }
    }
}

#[test]
fn a_data_socket_carries_exactly_its_bytes_before_it_dies() {
    let at = ("TCPX_SOFT_FAULT_DATA_SOCKET_DIES_AT", "70001");
    in_child("a_data_socket_carries_exactly_its_bytes_before_it_dies", &[at], || {
        let net = start();
        let listener = Listener::open(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        let mut handle = listener.handle();
        thread::scope(|scope| {
            let peer = scope.spawn(|| {
                let wire = listener.accept();
                let bytes = read_bytes(&wire.data[0], 70_001);
                (bytes, support::peer::drain(&wire.data[0]).expect("an end in order"))
            });
            let comm = connect(net, &mut handle).expect("connect");
            let from = Memory::patterned(net, comm, 1, 100_000);
            assert_eq!(error_of(net, post_send(net, comm, &from), "the send"), 2);
            let (bytes, rest) = peer.join().expect("peer");
            assert!(bytes == from.bytes[..70_001] && rest == 0);
            assert_eq!(net.close_send(comm), 0);
        });
    });
}

#[test]
fn a_socket_that_nobody_serves_any_more_shows_no_error() {
    let at = ("TCPX_SOFT_FAULT_LANE_STALLS_AT", "100000");
    in_child(
        "a_socket_that_nobody_serves_any_more_shows_no_error",
        &[at, ("NCCL_NSOCKS_PERTHREAD", "1")],
        || {
            let net = start();
            let comms = pair(net);
            let from = Memory::patterned(net, comms.0, 1, 8 << 20);
            let mut into = Memory::zeroed(net, comms.1, 8 << 20);
            let receive = post_receive(net, comms.1, &mut into);
            let send = post_send(net, comms.0, &from);
            for _ in 0..3000 {
                assert_eq!(net.test(send), (0, false, -1), "only the caller's own deadline can tell");
                assert_eq!(net.test(receive), (0, false, -1), "only the caller's own deadline can tell");
            }
            close(net, comms);
        },
    );
}

#[test]
fn a_smaller_ring_is_full_sooner() {
    in_child("a_smaller_ring_is_full_sooner", &[("TCPX_SOFT_FAULT_RING_SIZE", "5")], || {
        let net = start();
        let comms = pair(net);
        let mut into = Memory::zeroed(net, comms.1, 100);
        for post in 1..=6 {
            let (code, _) = net.irecv(comms.1, into.bytes.as_mut_ptr(), 100, into.handle);
            assert_eq!(code, if post > 5 { 3 } else { 0 }, "receive {post}");
        }
        close(net, comms);
    });
}

#[test]
fn a_sender_falls_silent_after_its_messages() {
    let after = ("TCPX_SOFT_FAULT_SILENT_AFTER", "2");
    in_child("a_sender_falls_silent_after_its_messages", &[after], || {
        let net = start();
        let comms = pair(net);
        drive::exchange(net, comms, &[pattern(1, 100), pattern(2, 400_000)]);
        let from = Memory::patterned(net, comms.0, 1, 100);
        let mut into = Memory::zeroed(net, comms.1, 100);
        let receive = post_receive(net, comms.1, &mut into);
        let send = post_send(net, comms.0, &from);
        for _ in 0..3000 {
            assert_eq!(net.test(send), (0, false, -1), "silence, and no error");
            assert_eq!(net.test(receive), (0, false, -1), "silence, and no error");
        }
        close(net, comms);
        assert_eq!(into.bytes, [0; 100]);
    });
}

#[test]
fn an_oversize_sender_is_refused_by_default() {
    let oversize = ("TCPX_SOFT_FAULT_OVERSIZE_BYTES", "7");
    in_child("an_oversize_sender_is_refused_by_default", &[oversize], || {
        let net = start();
        for size in [0, 100, 16_384, 300_000] {
            let comms = pair(net);
            let from = Memory::patterned(net, comms.0, 1, size + 1);
            let mut into = Memory::new(net, comms.1, vec![0xA5; size + 8]);
            let (code, receive) = net.irecv(comms.1, into.bytes.as_mut_ptr(), size, into.handle);
            assert_eq!(code, 0);
            let send = drive::post_send_of(net, comms.0, &from, size);
            let code = until("a refusal", || {
                // The sender may be done before the refusal.
                let _ = net.test(send);
                match net.test(receive) {
                    (0, done, _) => {
                        assert!(!done);
                        None
                    }
                    (code, ..) => Some(code),
                }
            });
            assert_eq!(code, 6, "{size}");
            close(net, comms);
            assert!(into.bytes.iter().all(|&byte| byte == 0xA5), "nothing is written");
        }
        // A buffer with room takes it, and the size says so.
        let comms = pair(net);
        let from = Memory::patterned(net, comms.0, 1, 300_000);
        let mut into = Memory::zeroed(net, comms.1, 300_100);
        let receive = post_receive(net, comms.1, &mut into);
        let send = post_send(net, comms.0, &from);
        let mut size = -1;
        until("a longer message", || {
            let _ = net.test(send);
            let (code, done, told) = net.test(receive);
            assert_eq!(code, 0);
            size = told;
            done.then_some(())
        });
        assert_eq!(size, 300_007);
        assert!(into.bytes[..300_000] == from.bytes && into.bytes[300_007..].iter().all(|&b| b == 0));
        assert_eq!(into.bytes[300_000..300_007], [0xEE; 7]);
        close(net, comms);
    });
}

#[test]
fn an_oversize_sender_announces_all_it_sends_to_a_real_receiver() {
    let oversize = ("TCPX_SOFT_FAULT_OVERSIZE_BYTES", "1048576");
    in_child("an_oversize_sender_announces_all_it_sends_to_a_real_receiver", &[oversize], || {
        let net = start();
        let listener = Listener::open(IpAddr::V4(Ipv4Addr::LOCALHOST), 2);
        let mut handle = listener.handle();
        let message = pattern(3, 5000);
        thread::scope(|scope| {
            let peer = scope.spawn(|| listener.accept().receive());
            let comm = connect(net, &mut handle).expect("connect");
            let messages = [message.clone()];
            Exchange { net, send: Some((comm, &messages)), receive: None, window: 1 }.run();
            let (bytes, control): (Vec<u8>, Vec<Message>) = peer.join().expect("peer");
            assert!(bytes[..5000] == message && bytes.len() == 5000 + (1 << 20));
            assert!(control.iter().all(|m| m.total as usize == bytes.len()));
            assert_eq!(net.close_send(comm), 0);
        });
    });
}

#[test]
fn no_fault_is_on_by_itself() {
    let net = start();
    let comms = pair(net);
    let messages: Vec<_> = (0..40).map(|seed| pattern(seed, 10_000 * seed as usize)).collect();
    drive::exchange(net, comms, &messages);
    assert_ne!(net.isend(comms.0, null_mut(), 0, null_mut(), 0).0, 0);
    close(net, comms);
    drive::no_panic();
}
