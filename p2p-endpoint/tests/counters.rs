//! What endpoints count, and the text of it.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use p2p_endpoint::counters::{EndpointCounters, Tally};
use p2p_endpoint::endpoint::{Endpoint, Progress};
use p2p_endpoint::engine::{Options, Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::{NicModel, Settings};
use support::log::Log;
use support::{Pair, filled};
use tcpx_core::config::{Config, FixedEnvironment};
use tracing::Level;

const PATIENCE: Duration = Duration::from_secs(20);

const fn tally(count: u64, bytes: u64) -> Tally {
    Tally { count, bytes }
}

fn counters(pair: &Pair, engine: usize) -> EndpointCounters {
    pair.engines[engine].counters()
}

fn part(pair: &mut Pair, engine: usize, len: u64) -> Part {
    let memory = filled(len as usize, engine as u8);
    Part { mr: pair.reg(engine, &memory), offset: 0, len }
}

/// Node 1 writes 3 times 1000 bytes, reads 500, sends 70 and receives 30; a write of it is refused.
fn busy(settings: Settings, name: &str) -> Pair {
    let nics = [NicModel::FAST; 2];
    let mut pair = Pair::with(1, settings, &[&nics, &nics], |options| options.name.push_str(name));
    let (here, there) = pair.connect(0, 1);
    let (local, remote) = (part(&mut pair, 0, 1000), part(&mut pair, 1, 1000));
    let item = pair.item(1, remote.mr, 0, 1000);
    let half = pair.item(1, remote.mr, 0, 500);
    for token in 1..=3 {
        pair.start(0, here, token, &[local], Request::Write { into: &[item], counter: Some(1) });
        assert_eq!(pair.outcome(0, token), Outcome::Done { bytes: 1000 });
    }
    pair.start(0, here, 4, &[Part { len: 500, ..local }], Request::Read { from: &[half] });
    assert_eq!(pair.outcome(0, 4), Outcome::Done { bytes: 500 });
    pair.start(1, there, 5, &[remote], Request::Recv);
    pair.start(0, here, 6, &[Part { len: 70, ..local }], Request::Send);
    assert_eq!(
        (pair.outcome(0, 6), pair.outcome(1, 5)),
        (Outcome::Done { bytes: 70 }, Outcome::Done { bytes: 70 })
    );
    pair.start(0, here, 7, &[local], Request::Recv);
    pair.start(1, there, 8, &[Part { len: 30, ..remote }], Request::Send);
    assert_eq!(
        (pair.outcome(0, 7), pair.outcome(1, 8)),
        (Outcome::Done { bytes: 30 }, Outcome::Done { bytes: 30 })
    );
    pair.engines[1].dereg(remote.mr).expect("it was registered");
    pair.start(0, here, 9, &[local], Request::Write { into: &[item], counter: None });
    assert!(matches!(pair.outcome(0, 9), Outcome::Refused(_)));
    for bytes in [11, 22] {
        pair.engines[0].notify(here, None, vec![0; bytes].into()).expect("there is room");
    }
    pair.until("notifications", |pair| pair.said[1].notified.len() == 2 && pair.said[1].counted.len() == 3);
    pair.start(0, here, 10, &[local], Request::Recv);
    pair
}

#[test]
fn every_transfer_message_and_notification_is_counted_once() {
    for settings in [Settings::plugin(), Settings::rdma()] {
        let pair = busy(settings, "");
        let (one, other) = (counters(&pair, 0), counters(&pair, 1));
        let mine = one.traffic;
        assert_eq!((mine.written, mine.read), (tally(3, 3000), tally(1, 500)));
        assert_eq!((mine.sent, mine.received), (tally(1, 70), tally(1, 30)));
        assert_eq!((mine.refused, mine.failed, mine.counted, mine.stalls), (1, 0, 0, 0));
        assert_eq!((mine.notifications_sent, mine.notifications_received), (tally(2, 33), tally(0, 0)));
        let theirs = other.traffic;
        assert_eq!((theirs.written, theirs.read), (tally(0, 0), tally(0, 0)));
        assert_eq!((theirs.sent, theirs.received), (tally(1, 30), tally(1, 70)));
        assert_eq!((theirs.refused, theirs.failed, theirs.counted), (0, 0, 3));
        assert_eq!((theirs.notifications_sent, theirs.notifications_received), (tally(0, 0), tally(2, 33)));
        for (own, ours) in [(&one, 1), (&other, 0)] {
            assert_eq!(own.by_link.len(), 1);
            let link = &own.by_link[0];
            assert_eq!((link.traffic, link.under_way), (own.traffic, ours));
            assert_eq!((link.rails.len(), own.by_nic.len()), (2, 2));
            assert_eq!(link.rails, own.by_nic, "one link is all there is");
            assert_ne!(link.rails[0].nic, link.rails[1].nic);
        }
        assert_eq!((one.by_link[0].peer.as_str(), other.endpoint.as_str()), ("node2", "node2"));
        // 3 writes, a message of 70 and the write that was refused (on its way already) one way; what was read and a message of 30 the other.
        let sum = |all: &EndpointCounters| {
            all.by_nic.iter().fold((tally(0, 0), tally(0, 0)), |(sent, received), nic| {
                let add = |one: Tally, other: Tally| tally(one.count + other.count, one.bytes + other.bytes);
                (add(sent, nic.messages.sent), add(received, nic.messages.received))
            })
        };
        assert_eq!(sum(&one), (tally(5, 4070), tally(2, 530)));
        assert_eq!(sum(&other), (tally(2, 530), tally(5, 4070)));
    }
}

#[test]
fn links_that_come_and_go_are_counted() {
    let mut pair = busy(Settings::plugin(), "");
    let nobody = "127.0.0.1:1".parse().expect("an address");
    let before = counters(&pair, 0);
    assert_eq!((before.links.connected, before.links.up(), counters(&pair, 1).links.accepted), (1, 1, 1));
    // Nobody listens there, which an engine learns at once or later.
    let failed = pair.engines[0].connect(nobody).is_err();
    pair.until("the end of an attempt", |pair| failed || !pair.said[0].closed.is_empty());
    let link = before.by_link[0].link;
    pair.engines[0].close(link).expect("it is up");
    pair.until("the end of a link", |pair| pair.engines.iter().all(|engine| engine.is_empty()));
    let (one, other) = (counters(&pair, 0), counters(&pair, 1));
    assert_eq!((one.links.closed, one.links.lost, one.links.refused), (1, 0, u64::from(!failed)));
    assert_eq!((other.links.closed, other.links.lost, other.links.up()), (0, 1, 0));
    assert_eq!((one.traffic.failed, one.by_link.len()), (1, 0), "a receive was open");
    assert_eq!(one.by_nic, before.by_nic, "what moved is not forgotten");
    assert_eq!(one.traffic.written, before.traffic.written);
    let (again, _) = pair.connect(0, 1);
    let after = counters(&pair, 0);
    assert_eq!((after.links.connected, after.by_link[0].link), (2, again));
    assert_eq!(after.by_link[0].traffic, p2p_endpoint::counters::Traffic::default());
    assert_ne!(again, link);
}

#[test]
fn links_that_come_and_go_are_logged_with_what_carries_them() {
    Log::of(|log| {
        let pair = &mut busy(Settings::plugin(), "");
        let address = pair.door(1);
        let up = log.lines(Level::INFO, "link is up");
        assert_eq!(up.len(), 2, "{}", log.text());
        let own = up.iter().find(|line| line.contains("(connected)")).expect("of the end that connected");
        let nics: Vec<_> = counters(pair, 0).by_nic.into_iter().map(|nic| nic.nic).collect();
        let carried = format!("carried={}: as the backend has it; {}: as", nics[0], nics[1]);
        for part in ["link=node2", "rails=2", &format!("address={address}"), &carried] {
            assert!(own.contains(part), "{part:?} is not in {own:?}");
        }
        let link = counters(pair, 0).by_link[0].link;
        pair.engines[0].close(link).expect("it is up");
        pair.until("the end of a link", |pair| pair.engines.iter().all(|engine| engine.is_empty()));
        assert!(log.lines(Level::WARN, "the link is over: ").is_empty(), "nothing broke: {}", log.text());
        let over = log.lines(Level::INFO, "the link is over: ");
        assert_eq!(over.len(), 1, "{}", log.text());
        assert!(over[0].contains("link=node1") && over[0].contains("it was closed there"), "{over:?}");
        assert!(over[0].contains("address=") && !over[0].contains("gone"), "{over:?}");
        assert_eq!(log.lines(Level::INFO, "closed at this end").len(), 1);
    });
}

/// Whoever knocks and does not know the secret is counted, and the secret stands in no line of the log.
#[test]
fn strangers_are_turned_away_and_counted() {
    let endpoint = |secret: &'static str| {
        let variables = [
            ("UCCL_P2P_TRANSPORT", "tcp"),
            ("UCCL_P2P_SECRET", secret),
            ("UCCL_TCPX_CONNECT_TIMEOUT_SECONDS", "1"),
        ];
        let environment: FixedEnvironment = variables.into_iter().collect();
        let config = Config::from_environment(&environment).expect("good values");
        let mut options = Options::of(&config);
        options.door = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Endpoint::of(&config, options, Progress::Caller).expect("an endpoint")
    };
    Log::of(|log| {
        let (host, guest, stranger) =
            (endpoint("hush-hush"), endpoint("hush-hush"), endpoint("secret-of-others"));
        let door = host.door().expect("it listens");
        let knock = |guest: &Endpoint| {
            std::thread::scope(|scope| {
                let guest = guest.clone();
                let came = scope.spawn(move || guest.connect(door, PATIENCE).is_ok());
                while !came.is_finished() {
                    host.turn(Duration::from_millis(10));
                }
                came.join().expect("it does not panic")
            })
        };
        assert!(!knock(&stranger));
        // Whoever says nothing stays before the door; this one begins to say something.
        let mut slow = TcpStream::connect(door).expect("it listens");
        slow.write_all(&[0]).expect("it listens");
        let begin = Instant::now();
        while host.counters().links.strangers < 2 {
            assert!(begin.elapsed() < PATIENCE, "{:?}", host.counters().links);
            host.turn(Duration::from_millis(10));
        }
        assert!(begin.elapsed() > Duration::from_millis(500), "the slow one had its time");
        // Nobody has driven it meanwhile: it learns the time.
        guest.turn(Duration::from_millis(1));
        assert!(knock(&guest));
        drop(slow);
        let links = host.counters().links;
        assert_eq!((links.accepted, links.strangers, links.refused, links.up()), (1, 2, 0, 1));
        let theirs = stranger.counters().links;
        assert_eq!((theirs.connected, theirs.refused, theirs.strangers), (0, 1, 0));
        assert_eq!(log.lines(Level::WARN, "a link did not come up: ").len(), 2, "{}", log.text());
        assert_eq!(log.lines(Level::INFO, "link is up (accepted)").len(), 1, "{}", log.text());
        assert!(!log.text().contains("hush") && !log.text().contains("secret-of"), "{}", log.text());
    });
}

/// A series and its value.
type Series = BTreeMap<String, u64>;

/// Reads the text format: names, `HELP` and `TYPE` once and before the series of the family, labels that are quoted.
fn read(text: &str) -> Series {
    let mut series = Series::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().expect("a name").to_owned();
            assert!(help.len() > family.len() + 1, "no help: {line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(name, family);
            assert!(kind == "gauge" || kind == "counter" && name.ends_with("_total"), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            continue;
        }
        let (name, rest) = line.split_once('{').expect("labels");
        assert!(
            name.starts_with("p2p_endpoint_")
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '2' || c == '_')
        );
        assert_eq!(name, family);
        assert!(types.contains_key(name), "no type: {name}");
        let (labels, value) = labels(rest);
        let value = value.strip_prefix(' ').expect("a space").parse().expect("a number");
        let key = format!("{}{labels:?}", name.trim_start_matches("p2p_endpoint_"));
        assert!(series.insert(key, value).is_none(), "{line} twice");
    }
    series
}

/// The values of labels but the endpoint's, and what follows the brace.
fn labels(mut rest: &str) -> (Vec<String>, &str) {
    let mut found = Vec::new();
    loop {
        let (name, value) = rest.split_once("=\"").expect("a label");
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase()), "{name}");
        let mut letters = value.char_indices();
        let mut text = String::new();
        let end = loop {
            match letters.next().expect("a quote") {
                (at, '"') => break at,
                (_, '\\') => match letters.next().expect("an escaped letter").1 {
                    'n' => text.push('\n'),
                    letter => {
                        assert!(letter == '\\' || letter == '"', "\\{letter} is no escape");
                        text.push(letter);
                    }
                },
                (_, letter) => text.push(letter),
            }
        };
        match name {
            "endpoint" => assert_eq!(text, ODD),
            _ => found.push(text),
        }
        match value[end + 1..].split_at(1) {
            (",", more) => rest = more,
            (end, after) => {
                assert_eq!(end, "}");
                return (found, after);
            }
        }
    }
}

const ODD: &str = "node1 \"quoted\\\" back\\slash {a=\"b\"},\u{e9}";

#[test]
fn the_text_is_prometheus_and_says_the_same() {
    let pair = busy(Settings::plugin(), ODD.trim_start_matches("node1"));
    let all = counters(&pair, 0);
    assert_eq!(all.endpoint, ODD);
    let series = read(&all.to_prometheus());
    let of = |key: &str| *series.get(key).unwrap_or_else(|| panic!("no {key} in {series:#?}"));
    for (kind, count, bytes) in [("write", 3, 3000), ("read", 1, 500), ("send", 1, 70), ("receive", 1, 30)] {
        assert_eq!(of(&format!("transfers_total[{kind:?}]")), count);
        assert_eq!(of(&format!("transfer_bytes_total[{kind:?}]")), bytes);
    }
    assert_eq!(of("notifications_total[\"sent\"]"), 2);
    assert_eq!(of("notification_bytes_total[\"sent\"]"), 33);
    assert_eq!(of("notifications_total[\"received\"]"), 0);
    assert_eq!(of("transfers_refused_total[]"), 1);
    assert_eq!(of("transfers_failed_total[]"), 0);
    assert_eq!(of("links_opened_total[\"this end\"]"), 1);
    assert_eq!(of("links_opened_total[\"peer\"]"), 0);
    for none in ["stalls", "counted", "links_lost", "links_closed", "links_refused", "strangers"] {
        assert_eq!(of(&format!("{none}_total[]")), 0);
    }
    assert_eq!(of("links_up[]"), 1);
    let peer = &all.by_link[0].peer;
    assert_eq!(of(&format!("link_transfers_under_way{:?}", ["0.1", peer])), 1);
    assert_eq!(of(&format!("link_transfers_refused_total{:?}", ["0.1", peer])), 1);
    assert_eq!(of(&format!("link_transfer_bytes_total{:?}", ["0.1", peer, "write"])), 3000);
    let mut sent = 0;
    for (index, rail) in all.by_link[0].rails.iter().enumerate() {
        let index = index.to_string();
        let of_rail =
            |name: &str, way: &str| of(&format!("{name}{:?}", ["0.1", peer, &index, &rail.nic, way]));
        assert_eq!(of_rail("rail_messages_total", "received"), rail.messages.received.count);
        assert_eq!(of_rail("rail_bytes_total", "sent"), rail.messages.sent.bytes);
        assert_eq!(
            of(&format!("nic_bytes_total{:?}", [rail.nic.as_str(), "received"])),
            rail.messages.received.bytes
        );
        sent += of(&format!("nic_bytes_total{:?}", [rail.nic.as_str(), "sent"]));
    }
    assert_eq!(sent, 4070);
}

/// A NIC has two rails here: its numbers are the sum.
#[test]
fn a_nic_with_two_rails_is_one_nic() {
    let nics = [NicModel::FAST; 2];
    let mut pair = Pair::of(1, Settings::plugin(), &[&nics[..1], &nics]);
    let (here, _) = pair.connect(0, 1);
    let memory = SharedHost::new(8 << 20).expect("memory");
    let (local, remote) = (pair.reg(0, &memory), pair.reg(1, &memory));
    let item = pair.item(1, remote, 0, 8 << 20);
    let whole = Part { mr: local, offset: 0, len: 8 << 20 };
    pair.start(0, here, 1, &[whole], Request::Write { into: &[item], counter: None });
    assert_eq!(pair.outcome(0, 1), Outcome::Done { bytes: 8 << 20 });
    let all = counters(&pair, 0);
    assert_eq!((all.by_nic.len(), all.by_link[0].rails.len()), (1, 2));
    assert_eq!(all.by_nic[0].messages.sent.bytes, 8 << 20);
    let rails = &all.by_link[0].rails;
    assert_eq!(rails.iter().map(|rail| rail.messages.sent.bytes).sum::<u64>(), 8 << 20);
    assert!(
        rails.iter().all(|rail| rail.nic == all.by_nic[0].nic && rail.messages.sent.count > 0),
        "{rails:?}"
    );
}
