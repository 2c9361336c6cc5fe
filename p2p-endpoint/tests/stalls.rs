//! Transfers that stand still are logged once, with what they wait for.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_endpoint::endpoint::{Endpoint, Progress};
use p2p_endpoint::engine::{LinkId, OpToken, Options, Part, Request, Stall, TransferKind};
use p2p_memory::SharedHost;
use p2p_proto::id::RailIndex;
use p2p_proto::peer::{Outcome, Waiting};
use p2p_transport::Now;
use p2p_transport_mock::{Fault, NicModel, SendDone, Settings};
use support::log::Log;
use support::{Pair, filled};
use tcpx_core::config::{Config, FixedEnvironment};
use tracing::Level;

const LONG: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

/// Two nodes with one NIC each that are patient with each other, and their link.
fn patient(settings: Settings, change: impl Fn(&mut Options)) -> (Pair, LinkId, LinkId) {
    let nics = [NicModel::FAST];
    let mut pair = Pair::with(1, settings, &[&nics, &nics], |options| {
        options.caps.silence = LONG;
        change(options);
    });
    let (here, there) = pair.connect(0, 1);
    (pair, here, there)
}

fn part(pair: &mut Pair, engine: usize, len: u64) -> Part {
    let memory = filled(len as usize, engine as u8);
    Part { mr: pair.reg(engine, &memory), offset: 0, len }
}

/// Lets so many engines go on for a while.
fn go_on(pair: &mut Pair, engines: usize, time: Duration) {
    let end = pair.world.now().after(time);
    loop {
        while pair.poll_first(engines) {}
        let next = pair.world.now().after(Duration::from_millis(5));
        if pair.world.next_time().is_none_or(|time| time > next) {
            pair.world.advance(next);
        } else {
            pair.world.step();
        }
        if pair.world.now() >= end {
            return;
        }
    }
}

fn stalls(pair: &Pair) -> Vec<Stall> {
    pair.engines[0].stalled(pair.world.now(), Duration::from_secs(10))
}

/// The one line about a stall.
fn line(log: &Log) -> String {
    let lines = log.lines(Level::WARN, "stall: ");
    assert_eq!(lines.len(), 1, "{}", log.text());
    lines[0].clone()
}

fn assert_has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn a_send_without_a_receive_is_told_once_and_so_is_its_end() {
    Log::of(|log| {
        let (mut pair, here, there) = patient(Settings::plugin(), |_| {});
        let (from, to) = (part(&mut pair, 0, 5000), part(&mut pair, 1, 6000));
        // An engine that nobody has polled for long: what it starts then is not old.
        let now = pair.world.now();
        pair.world.advance(now.after(LONG / 2));
        pair.start(0, here, 7, &[from], Request::Send);
        go_on(&mut pair, 2, Duration::from_millis(9_900));
        assert_eq!(log.lines(Level::WARN, ""), [""; 0], "it is too early");
        assert_eq!(stalls(&pair), []);
        go_on(&mut pair, 2, Duration::from_millis(1_300));
        assert_has(
            &line(log),
            &[
                "link=node2",
                "a send of 5000 bytes (operation 7), started 1",
                "the peer has posted no receive for it; look whether the peer posts a receive",
            ],
        );
        let found = stalls(&pair);
        assert_eq!(found.len(), 1);
        let Stall { token, link, kind, bytes, waits_for, .. } = found[0];
        assert_eq!((token, link, kind, bytes), (OpToken(7), here, TransferKind::Send, 5000));
        assert_eq!(waits_for, Waiting::PeerReceives);
        let about = found[0].age.abs_diff(Duration::from_millis(11_200));
        assert!(about < Duration::from_millis(50), "{found:?}");
        assert!(found[0].standing.abs_diff(found[0].age) < Duration::from_millis(1_500), "{found:?}");
        assert_eq!(pair.engines[0].stalled(pair.world.now(), Duration::from_secs(12)), []);
        go_on(&mut pair, 2, Duration::from_secs(30));
        line(log);
        assert_eq!(pair.engines[0].counters().traffic.stalls, 1);
        assert_eq!(log.lines(Level::INFO, "stood still"), [""; 0]);
        pair.start(1, there, 8, &[to], Request::Recv);
        assert_eq!(pair.outcome(0, 7), Outcome::Done { bytes: 5000 });
        assert_has(
            &log.lines(Level::INFO, "stood still")[0],
            &["the send that stood still has ended: Done { bytes: 5000 }", "link=node2", "token=7"],
        );
        assert_eq!(stalls(&pair), []);
    });
}

#[test]
fn of_receives_without_sends_the_first_is_told() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |_| {});
        let to = part(&mut pair, 0, 6000);
        for token in 1..=3 {
            pair.start(0, here, token, &[to], Request::Recv);
        }
        go_on(&mut pair, 2, Duration::from_secs(15));
        assert_has(
            &line(log),
            &[
                "a receive of 6000 bytes (operation 1)",
                "the peer has not sent; 0 receives are before it; look whether the peer sends",
            ],
        );
        let waits: Vec<_> = stalls(&pair).iter().map(|stall| stall.waits_for).collect();
        assert_eq!(waits, [0, 1, 2].map(|before| Waiting::PeerSends { before }));
        pair.engines[0].close(here).expect("it is up");
        go_on(&mut pair, 2, Duration::from_secs(1));
        assert_has(
            &log.lines(Level::INFO, "stood still")[0],
            &["the receive that stood still has ended: LinkLost"],
        );
        assert_eq!(log.lines(Level::INFO, "stood still").len(), 1, "the others were not told");
    });
}

/// Receives that wait for their turn, while now and then a message comes.
#[test]
fn receives_that_are_posted_early_are_no_stall() {
    Log::of(|log| {
        let (mut pair, here, there) = patient(Settings::plugin(), |_| {});
        let (from, to) = (part(&mut pair, 1, 100), part(&mut pair, 0, 100));
        for token in 1..=8 {
            pair.start(0, here, token, &[to], Request::Recv);
        }
        for token in 1..=8 {
            go_on(&mut pair, 2, Duration::from_secs(7));
            pair.start(1, there, token, &[from], Request::Send);
        }
        assert_eq!(pair.outcome(0, 8), Outcome::Done { bytes: 100 });
        assert_eq!(log.lines(Level::WARN, ""), [""; 0]);
    });
}

/// A rail stands still: `Acknowledged` keeps messages with the transport, and behind them the window is full.
#[test]
fn a_rail_that_stands_still_is_named() {
    Log::of(|log| {
        let mut settings = Settings::plugin();
        settings.send_done = SendDone::Acknowledged;
        let (mut pair, here, _) = patient(settings, |_| {});
        pair.world.inject(Fault::Delay { node: 0, nic: 0, by: LONG, lasts: LONG });
        let (from, to) = (part(&mut pair, 0, 64 * MIB), part(&mut pair, 1, 64 * MIB));
        let item = pair.item(1, to.mr, 0, 64 * MIB);
        for token in 1..=3 {
            pair.start(0, here, token, &[from], Request::Write { into: &[item], counter: None });
        }
        go_on(&mut pair, 2, Duration::from_secs(13));
        let lines = log.lines(Level::WARN, "stall: ");
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert_has(
            &lines[0],
            &[
                "a write of 67108864 bytes (operation 1)",
                "messages are with the transport to be sent on rail 0, the oldest for 1",
                "(NIC ",
                "look at the NIC and the network behind it (firewall",
            ],
        );
        assert!(!lines[0].contains(" 0 messages"), "{}", lines[0]);
        let behind = lines.iter().find(|line| line.contains("operation 3"));
        assert_has(behind.expect("logged"), &["67108864 bytes wait for their turn on a rail"]);
        let found = stalls(&pair);
        let oldest = found[0].with_transport.expect("it is with the transport");
        assert!(oldest > Duration::from_secs(12) && oldest < Duration::from_secs(14), "{oldest:?}");
        assert!(found[0].nic.is_some() && found[2].with_transport.is_none(), "{found:#?}");
    });
}

#[test]
fn a_window_that_is_full_is_told() {
    Log::of(|log| {
        let mut settings = Settings::plugin();
        settings.send_done = SendDone::Acknowledged;
        let (mut pair, here, _) = patient(settings, |_| {});
        pair.world.inject(Fault::Delay { node: 0, nic: 0, by: LONG, lasts: LONG });
        let (from, to) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
        let item = pair.item(1, to.mr, 0, 1000);
        for token in 1..=13 {
            pair.start(0, here, token, &[from], Request::Write { into: &[item], counter: None });
        }
        go_on(&mut pair, 2, Duration::from_secs(13));
        assert_eq!(log.lines(Level::WARN, "stall: ").len(), 8);
        let last = &stalls(&pair)[12];
        assert_eq!(last.waits_for, Waiting::Window { full: Some(RailIndex(0)), uncut: 1000 });
        let nic = last.nic.as_deref().expect("it is a rail's");
        assert_has(
            &last.to_string(),
            &[
                &format!("the window of rail 0 is full; 1000 bytes wait (NIC {nic})"),
                "messages before it do not end",
            ],
        );
    });
}

#[test]
fn a_transport_that_takes_nothing_is_named() {
    Log::of(|log| {
        let mut settings = Settings::plugin();
        settings.send_done = SendDone::Acknowledged;
        let (mut pair, here, _) = patient(settings, |_| {});
        pair.world.inject(Fault::Delay { node: 0, nic: 0, by: LONG, lasts: LONG });
        pair.world.inject(Fault::ShortAcceptance { node: 0, room: 1, lasts: LONG });
        let (from, to) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
        let item = pair.item(1, to.mr, 0, 1000);
        for token in 1..=2 {
            pair.start(0, here, token, &[from], Request::Write { into: &[item], counter: None });
        }
        go_on(&mut pair, 2, Duration::from_secs(13));
        let lines = log.lines(Level::WARN, "operation 2");
        assert_eq!(lines.len(), 1, "{}", log.text());
        assert_has(
            &lines[0],
            &[
                "1 messages wait on rail 0 (Send): the transport was not given them (NIC ",
                "the transport takes no message",
            ],
        );
    });
}

#[test]
fn messages_that_do_not_come_are_told_at_the_reading_end() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |_| {});
        pair.world.inject(Fault::Delay { node: 1, nic: 0, by: LONG, lasts: LONG });
        let (to, from) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
        let item = pair.item(1, from.mr, 0, 1000);
        pair.start(0, here, 1, &[to], Request::Read { from: &[item] });
        go_on(&mut pair, 2, Duration::from_secs(13));
        assert_has(
            &line(log),
            &[
                "a read of 1000 bytes (operation 1)",
                "1 messages are with the transport to be received on rail 0",
                "the bytes are announced and do not come",
            ],
        );
    });
}

#[test]
fn a_peer_that_nobody_drives_does_not_answer() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |_| {});
        let (from, to) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
        let item = pair.item(1, to.mr, 0, 1000);
        pair.start(0, here, 1, &[from], Request::Write { into: &[item], counter: None });
        pair.start(0, here, 2, &[from], Request::Read { from: &[item] });
        go_on(&mut pair, 1, Duration::from_secs(13));
        let lines = log.lines(Level::WARN, "stall: ");
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert_has(
            &lines[0],
            &[
                "a write of 1000 bytes (operation 1)",
                "everything was sent, and the peer has not answered; node2 was silent for 1",
                "look whether the peer's process is stopped, or nobody drives its endpoint",
            ],
        );
        assert_has(
            &lines[1],
            &[
                "a read of 1000 bytes (operation 2)",
                "the peer has announced 0 of 1000 bytes; node2 was silent for 1",
            ],
        );
        // Now it is something else that the read waits for, and later nothing.
        pair.world.inject(Fault::Delay { node: 1, nic: 0, by: LONG / 10, lasts: LONG });
        go_on(&mut pair, 2, Duration::from_secs(20));
        let again = log.lines(Level::WARN, "operation 2");
        assert_eq!(again.len(), 2, "{again:#?}");
        assert_has(&again[1], &["messages are with the transport to be received on rail 0"]);
        assert!(!again[1].contains("silent"), "it is not silent any more: {}", again[1]);
        assert_eq!(pair.outcome(0, 2), Outcome::Done { bytes: 1000 });
        assert_eq!(log.lines(Level::INFO, "stood still has ended").len(), 2);
    });
}

#[test]
fn an_answer_that_is_late_is_told() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |_| {});
        pair.world.inject(Fault::LateControl { node: 1, up_to: LONG * 10, lasts: LONG });
        let (from, to) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
        let item = pair.item(1, to.mr, 0, 1000);
        pair.start(0, here, 1, &[from], Request::Write { into: &[item], counter: None });
        go_on(&mut pair, 2, Duration::from_secs(13));
        assert_has(&line(log), &["everything was sent, and the peer has not answered"]);
    });
}

#[test]
fn a_control_stream_that_does_not_drain_is_told() {
    Log::of(|log| {
        let mut settings = Settings::plugin();
        settings.control_buffer = 300;
        let (mut pair, here, _) = patient(settings, |_| {});
        let from = part(&mut pair, 0, 1000);
        pair.engines[0].notify(here, None, vec![1; 5000].into()).expect("there is room");
        pair.start(0, here, 1, &[from], Request::Send);
        go_on(&mut pair, 1, Duration::from_secs(13));
        assert_has(&line(log), &["bytes of the control stream are not sent", "the peer does not read"]);
    });
}

#[test]
fn a_control_stream_that_rests_is_told() {
    Log::of(|log| {
        let (mut pair, here, there) = patient(Settings::plugin(), |options| options.caps.announced = 2);
        pair.world.inject(Fault::Delay { node: 1, nic: 0, by: LONG, lasts: LONG });
        let (to, from) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
        let item = pair.item(0, to.mr, 0, 1000);
        for token in 1..=5 {
            pair.start(1, there, token, &[from], Request::Write { into: &[item], counter: None });
        }
        go_on(&mut pair, 2, Duration::from_secs(1));
        pair.start(0, here, 1, &[to], Request::Recv);
        go_on(&mut pair, 2, Duration::from_secs(13));
        let lines = log.lines(Level::WARN, "operation 1)");
        assert!(
            lines
                .iter()
                .any(|line| line.contains("the control stream rests")
                    && line.contains("messages have not landed")),
            "{}",
            log.text()
        );
    });
}

#[test]
fn a_long_transfer_that_moves_is_no_stall() {
    Log::of(|log| {
        let slow = [NicModel { bytes_per_second: 4_000_000, latency: Duration::from_micros(10) }; 2];
        let mut pair = Pair::of(1, Settings::plugin(), &[&slow, &slow]);
        let (here, _) = pair.connect(0, 1);
        let size = 256 * MIB;
        let memory = SharedHost::new(size as usize).expect("memory");
        let (local, remote) = (pair.reg(0, &memory), pair.reg(1, &memory));
        let item = pair.item(1, remote, 0, size);
        let whole = Part { mr: local, offset: 0, len: size };
        pair.start(0, here, 1, &[whole], Request::Write { into: &[item], counter: None });
        go_on(&mut pair, 2, Duration::from_secs(25));
        assert_eq!(stalls(&pair).len(), 1, "it is under way");
        assert_eq!(log.lines(Level::WARN, ""), [""; 0]);
    });
}

#[test]
fn many_stalls_are_a_few_lines() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |_| {});
        let from = part(&mut pair, 0, 1000);
        for token in 0..100 {
            pair.start(0, here, token, &[from], Request::Send);
        }
        go_on(&mut pair, 2, Duration::from_secs(20));
        assert_eq!(log.lines(Level::WARN, "stall: ").len(), 8);
        let more = log.lines(Level::WARN, "more transfers stand still");
        assert_eq!(more.len(), 1);
        assert_has(&more[0], &["56 more", "endpoint=node1"]);
        assert_eq!(stalls(&pair).len(), 100);
    });
}

#[test]
fn nothing_is_told_where_that_is_switched_off() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |options| options.stall_after = Duration::ZERO);
        let from = part(&mut pair, 0, 1000);
        pair.start(0, here, 1, &[from], Request::Send);
        go_on(&mut pair, 2, Duration::from_secs(60));
        assert_eq!(log.lines(Level::WARN, ""), [""; 0]);
        assert_eq!(stalls(&pair).len(), 1);
    });
}

/// Time in which a process was stopped, or nobody drove its endpoint, is no stall.
#[test]
fn time_that_nobody_saw_is_no_stall() {
    Log::of(|log| {
        let (mut pair, here, _) = patient(Settings::plugin(), |_| {});
        let from = part(&mut pair, 0, 1000);
        pair.start(0, here, 1, &[from], Request::Send);
        go_on(&mut pair, 2, Duration::from_millis(1_500));
        let Now(now) = pair.world.now();
        pair.world.advance(Now(now + LONG / 2));
        go_on(&mut pair, 2, Duration::from_secs(5));
        assert_eq!(log.lines(Level::WARN, ""), [""; 0]);
        go_on(&mut pair, 2, Duration::from_secs(6));
        line(log);
    });
}

fn endpoint(timeout: &str) -> Endpoint {
    let variables = [
        ("UCCL_P2P_TRANSPORT", "tcp"),
        ("UCCL_P2P_STALL_SECONDS", "1"),
        ("UCCL_P2P_PEER_TIMEOUT_SECONDS", timeout),
    ];
    let environment: FixedEnvironment = variables.into_iter().collect();
    let config = Config::from_environment(&environment).expect("good values");
    let mut options = Options::of(&config);
    options.door = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Endpoint::of(&config, options, Progress::Caller).expect("an endpoint")
}

/// Over real sockets: whoever waits for a transfer logs that it stands still, while nobody drives the peer.
#[test]
fn whoever_waits_is_told_over_real_sockets() {
    const PATIENCE: Duration = Duration::from_secs(20);
    Log::of(|log| {
        let (here, there) = (endpoint("600"), endpoint("600"));
        let door = there.door().expect("it listens");
        let link = std::thread::scope(|scope| {
            let accepts = scope.spawn(|| there.accept(PATIENCE).expect("alive").expect("somebody came"));
            let link = here.connect(door, PATIENCE).expect("it answers");
            accepts.join().expect("fine");
            link
        });
        let memory = filled(4096, 1);
        let mr = here.reg(Box::new(memory)).expect("registered");
        let whole = Part { mr, offset: 0, len: 4096 };
        let id = here.start(link, &[whole], Request::Send).expect("started");
        assert_eq!(here.stalls(), []);
        let begin = Instant::now();
        while log.lines(Level::WARN, "stall: ").is_empty() {
            assert!(begin.elapsed() < PATIENCE, "{}", log.text());
            here.wait(id, Duration::from_millis(300));
        }
        assert!(begin.elapsed() >= Duration::from_secs(1));
        assert_has(
            &line(log),
            &[
                &format!("a send of 4096 bytes (operation {})", id.to_number()),
                "the peer has posted no receive for it",
            ],
        );
        let stalls = here.stalls();
        assert_eq!((stalls.len(), stalls[0].token.0), (1, id.to_number()));
        assert_eq!(here.counters().traffic.stalls, 1);
        // The link and what carries it were told as well.
        let up = log.lines(Level::INFO, "link is up");
        assert_has(
            &up[0],
            &["link is up (connected)", &format!("address={door}"), "rails=1", ": sends to ", "soft plugin"],
        );
        here.close(link).expect("it is up");
        assert_has(&log.lines(Level::INFO, "closed at this end")[0], &[&format!("address={door}")]);
    });
}
