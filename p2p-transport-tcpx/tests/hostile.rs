//! Wrong ids, wrong addresses, and whatever may come in at the exchange port.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use p2p_memory::{Shared, SharedHost};
use p2p_transport::{
    Address, ErrorKind, Event, Events, NicId, OpFault, Outcome, Rail, Stop, Token, Transport,
};
use support::{End, pair, slice, until};

/// A stream to the exchange port that an address names: its last two bytes are a port, and those before an IP.
fn stranger(address: &Address) -> TcpStream {
    let port = u16::from_le_bytes(*address.as_bytes().last_chunk().expect("a port"));
    TcpStream::connect(("127.0.0.1", port)).expect("it listens everywhere")
}

/// The hello of this version for a listener, as the wire has it.
fn hello(key: &[u8], channels: u16) -> Vec<u8> {
    hello_of(key, channels, 1 << 20, "TCPX_Soft")
}

fn hello_of(key: &[u8], channels: u16, max_message: u32, plugin: &str) -> Vec<u8> {
    let mut body = vec![1];
    body.extend(b"UP2X");
    body.extend(1_u16.to_le_bytes());
    body.extend(key);
    body.extend(channels.to_le_bytes());
    body.extend(max_message.to_le_bytes());
    body.extend((plugin.len() as u16).to_le_bytes());
    body.extend(plugin.as_bytes());
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

fn key(address: &Address) -> &[u8] {
    &address.as_bytes()[6..22]
}

#[test]
fn strangers_do_not_keep_a_peer_out() {
    let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
    let (at_a, address) = a.listen(1);
    let mut strangers: Vec<TcpStream> = (0..200).map(|_| stranger(&address)).collect();
    for (n, stranger) in (0..).zip(&mut strangers) {
        match n % 4 {
            0 => stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent"),
            1 => stranger.write_all(&hello(&[7; 16], 1)).expect("sent"),
            2 => stranger.write_all(&hello(key(&address), 1)[..20]).expect("sent"),
            _ => {}
        }
    }
    a.poll();
    let at_b = b.connect(1, &address);
    until(&mut a, &mut b, "connecting", |a, b| {
        a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
    });
    // The one with a wrong key is told so; who speaks another language is not answered.
    let mut said = Vec::new();
    strangers[197].read_to_end(&mut said).expect("it was closed");
    assert!(String::from_utf8_lossy(&said).contains("no such listener"), "{said:?}");
}

#[test]
fn a_peer_that_says_hello_and_nothing_more_ends_in_time() {
    let mut a = End::new(|options| options.connect_timeout = Duration::from_millis(300));
    let mut other = End::new(|_| {});
    let (at_a, address) = a.listen(2);
    let mut half = stranger(&address);
    half.write_all(&hello(key(&address), 2)).expect("sent");
    until(&mut a, &mut other, "the deadline", |a, _| a.has(Event::Closed(at_a)));
    let why = a.transport.why(at_a).expect("a reason").to_string();
    assert!(why.contains("2 were not accepted") && why.contains("UCCL_TCPX_CONNECT_TIMEOUT"), "{why}");
    assert!(!a.has(Event::Connected(at_a)));
}

#[test]
fn a_peer_that_breaks_the_order_loses_its_connection_only() {
    let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
    let (bad, address) = a.listen(1);
    let mut liar = stranger(&address);
    let ready = [1, 0, 0, 0, 4];
    liar.write_all(&[&hello(key(&address), 1)[..], &ready, &ready].concat()).expect("sent");
    let (good, address) = a.listen(1);
    let at_b = b.connect(1, &address);
    until(&mut a, &mut b, "both", |a, b| {
        a.has(Event::Closed(bad)) && a.has(Event::Connected(good)) && b.has(Event::Connected(at_b))
    });
    let why = a.transport.why(bad).expect("a reason").to_string();
    assert!(why.contains("order"), "{why}");
}

#[test]
fn a_peer_that_cannot_fit_is_refused_before_any_plugin_hears_of_it() {
    let mut a = End::new(|_| {});
    let mut other = End::new(|_| {});
    for (hello_of, says) in
        [((1 << 20, "IB"), "do not understand each other"), ((0, "TCPX_Soft"), "at most 0 bytes")]
    {
        let (at_a, address) = a.listen(1);
        let mut peer = stranger(&address);
        peer.write_all(&self::hello_of(key(&address), 1, hello_of.0, hello_of.1)).expect("sent");
        until(&mut a, &mut other, "the refusal", |a, _| a.has(Event::Closed(at_a)));
        let why = a.transport.why(at_a).expect("a reason").to_string();
        assert!(why.contains(says), "{why}");
        let mut said = Vec::new();
        peer.read_to_end(&mut said).expect("it was closed");
        assert!(String::from_utf8_lossy(&said).contains(says), "the peer is told: {said:?}");
    }
}

#[test]
fn nobody_who_answers_ends_a_connect_in_time() {
    let (mut a, mut b) =
        (End::new(|options| options.connect_timeout = Duration::from_millis(300)), End::new(|_| {}));
    // Listened and never accepted.
    let (listener, address) = b.transport.listen(End::rail(1)).expect("it listens");
    let at_a = a.connect(1, &address);
    until(&mut a, &mut b, "the deadline", |a, _| a.has(Event::Closed(at_a)));
    let why = a.transport.why(at_a).expect("a reason").to_string();
    assert!(why.contains("accept"), "{why}");
    b.transport.unlisten(listener).expect("it lives");
    // Listened and given up: told at once, not after a deadline.
    let (listener, address) = b.transport.listen(End::rail(1)).expect("it listens");
    b.transport.unlisten(listener).expect("it lives");
    let mut a = End::new(|_| {});
    let begin = Instant::now();
    let at_a = a.connect(1, &address);
    until(&mut a, &mut b, "the refusal", |a, _| a.has(Event::Closed(at_a)));
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let why = a.transport.why(at_a).expect("a reason").to_string();
    assert!(why.contains("no such listener"), "{why}");
}

#[test]
fn an_accept_that_was_closed_leads_nowhere() {
    let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
    let (at_a, address) = a.listen(1);
    a.poll();
    a.transport.close(at_a).expect("opening");
    until(&mut a, &mut b, "closing", |a, _| a.has(Event::Closed(at_a)));
    let at_b = b.connect(1, &address);
    until(&mut a, &mut b, "the refusal", |_, b| b.has(Event::Closed(at_b)));
    let why = b.transport.why(at_b).expect("a reason").to_string();
    assert!(why.contains("no such listener"), "{why}");
}

/// Another host, another process, or another program may have one of the addresses.
#[test]
fn a_place_that_knows_no_such_listener_is_passed_over() {
    let why = b"no such listener here: it was used, given up, or is in another process";
    let mut refusal = ((1 + 2 + why.len()) as u32).to_le_bytes().to_vec();
    refusal.push(7);
    refusal.extend((why.len() as u16).to_le_bytes());
    refusal.extend(why);
    for answer in [refusal, b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Vec::new()] {
        let impostor = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = impostor.local_addr().expect("bound").port();
        let (mut a, mut b) = (End::new(|_| {}), End::new(|_| {}));
        let (at_a, address) = a.listen(1);
        let mut bytes = address.as_bytes().to_vec();
        bytes[22] += 1;
        bytes.splice(23..23, [&[4, 127, 0, 0, 1][..], &port.to_le_bytes()].concat());
        let at_b = b.connect(1, &Address::new(&bytes).expect("short"));
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = impostor.accept().expect("it comes");
            stream.write_all(&answer).expect("sent");
            stream.shutdown(std::net::Shutdown::Write).expect("open");
            let _ = stream.read_to_end(&mut Vec::new());
        });
        until(&mut a, &mut b, "connecting", |a, b| {
            a.has(Event::Connected(at_a)) && b.has(Event::Connected(at_b))
        });
        answering.join().expect("no panic");
    }
}

#[test]
fn a_wrong_address_is_misuse() {
    let mut a = End::new(|_| {});
    let (_, good) = a.transport.listen(End::rail(1)).expect("it listens");
    let good = good.as_bytes();
    let mut version = good.to_vec();
    version[4] = 99;
    for (bytes, says) in [
        (&b""[..], "not of this backend"),
        (b"127.0.0.1:20000", "not of this backend"),
        (&good[..good.len() - 1], "damaged"),
        (&[good, b"x"].concat(), "damaged"),
        (&version, "version 99"),
    ] {
        let address = Address::new(bytes).expect("short");
        let error = a.transport.connect(End::rail(1), &address).expect_err("wrong");
        assert_eq!(error.kind(), ErrorKind::Misuse);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn wrong_rails_and_regions_are_misuse() {
    let mut a = End::new(|_| {});
    let nics = a.transport.nics().len() as u16;
    for rail in [
        Rail { nic: NicId(nics), device: None, channels: 1 },
        Rail { nic: NicId(0), device: None, channels: 0 },
        Rail { nic: NicId(0), device: None, channels: 1000 },
    ] {
        assert_eq!(a.transport.listen(rail).expect_err("wrong").kind(), ErrorKind::Misuse, "{rail:?}");
    }
    let memory = SharedHost::new(64).expect("memory");
    let refused = a.transport.register(NicId(nics), Box::new(memory.clone())).expect_err("no such NIC");
    assert_eq!((refused.error.kind(), memory.owners()), (ErrorKind::Misuse, 2));
    drop(refused);
    assert_eq!(memory.owners(), 1);
    let nothing = Shared::new(Box::new(memory)).part(0, 0).expect("inside");
    let refused = a.transport.register(NicId(0), Box::new(nothing)).expect_err("no bytes");
    assert_eq!(refused.error.kind(), ErrorKind::Misuse);
}

#[test]
fn a_silence_limit_ends_what_waits_for_nothing() {
    let limit = Duration::from_millis(300);
    let (mut a, at_a, mut b, at_b) =
        support::connect(End::new(|options| options.silence_limit = Some(limit)), End::new(|_| {}), 1);
    let (region, _) = a.register(64);
    assert_eq!(a.transport.recv(at_a, Token(1), &[slice(region, 0, 64)]).count, 1);
    until(&mut a, &mut b, "both ends", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
    assert_eq!(a.outcome(1), Some(Outcome::ConnLost));
    let why = a.transport.why(at_a).expect("a reason").to_string();
    assert!(why.contains("nothing finished"), "{why}");
    let why = b.transport.why(at_b).expect("a reason").to_string();
    assert!(why.contains("nothing finished"), "the peer is told why: {why}");
}

#[test]
fn stale_ids_change_nothing() {
    let (mut a, at_a, mut b, at_b) = pair(1);
    let (listener, _) = a.transport.listen(End::rail(1)).expect("it listens");
    a.transport.unlisten(listener).expect("it lives");
    assert_eq!(a.transport.unlisten(listener).expect_err("stale").kind(), ErrorKind::Misuse);
    assert_eq!(a.transport.accept(listener).expect_err("stale").kind(), ErrorKind::Misuse);

    a.transport.close(at_a).expect("open");
    a.transport.close(at_a).expect("closing twice does nothing");
    until(&mut a, &mut b, "closing", |a, b| a.has(Event::Closed(at_a)) && b.has(Event::Closed(at_b)));
    assert_eq!(a.transport.close(at_a).expect_err("stale").kind(), ErrorKind::Misuse);
    assert!(a.transport.limits(at_a).is_none());
    let (region, memory) = a.register(64);
    let accepted = a.transport.send(at_a, Token(1), &[slice(region, 0, 64)]);
    assert_eq!((accepted.count, accepted.stopped), (0, Some(Stop::Closed)));
    assert!(!a.transport.cancel(at_a, Token(1)));
    a.transport.retire(region).expect("live");
    assert_eq!(a.transport.retire(region).expect_err("twice").kind(), ErrorKind::Misuse);
    until(&mut a, &mut b, "retiring", |a, _| a.has(Event::Retired(region)));
    assert!(a.transport.reclaim(region).is_some());
    assert!(a.transport.reclaim(region).is_none());
    assert_eq!(memory.owners(), 1);
}

#[test]
fn bad_slices_fail_alone_and_an_event_buffer_of_one_loses_nothing() {
    let (mut a, at_a, mut b, at_b) = pair(1);
    let (region, _) = a.register(100);
    let (into, _) = b.register(100);
    let (gone, _) = a.register(100);
    a.transport.retire(gone).expect("live");
    for (token, bad) in [(1, slice(region, 0, 101)), (2, slice(region, u64::MAX, 1)), (3, slice(gone, 0, 1))]
    {
        assert_eq!(a.transport.send(at_a, Token(token), &[bad]).count, 1);
    }
    assert_eq!(a.transport.send(at_a, Token(4), &[]).count, 1);
    assert_eq!(a.transport.send(at_a, Token(5), &[slice(region, 0, 100)]).count, 1);
    assert_eq!(b.transport.recv(at_b, Token(6), &[slice(into, 0, 100)]).count, 1);
    let mut one = Events::with_capacity(1);
    let begin = Instant::now();
    while a.outcome(5).is_none() || !a.has(Event::Retired(gone)) {
        let now = a.now();
        let _ = a.transport.poll(now, &mut one);
        assert!(one.as_slice().len() <= 1);
        a.events.extend(one.drain());
        b.poll();
        assert!(begin.elapsed() < support::PATIENCE, "{:?}", a.events);
    }
    let failed = |fault| Some(Outcome::Failed(fault));
    for token in 1..=3 {
        assert_eq!(a.outcome(token), failed(OpFault::BadSlice), "{token}");
    }
    assert_eq!(a.outcome(4), failed(OpFault::SliceCount));
    assert_eq!(a.outcome(5), Some(Outcome::Done { len: 100 }));
    until(&mut a, &mut b, "the message", |_, b| b.outcome(6) == Some(Outcome::Done { len: 100 }));
}
