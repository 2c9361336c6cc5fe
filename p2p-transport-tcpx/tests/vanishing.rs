//! A host that vanishes without a word: two network namespaces whose link goes down.
//!
//! The test starts one end in a namespace of its own, which starts the other end in another one. Where the
//! machine forbids this, the test says why it is skipped.

#[path = "../../tcpx-core/tests/support/namespace.rs"]
mod namespace;
mod support;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use namespace::{ip, set_up};
use p2p_transport::{Address, Event, Outcome, Token, Transport};
use support::{End, PATIENCE, slice};

const TEST: &str = "a_host_that_vanishes_is_noticed_within_the_bound";
const ROLE: &str = "P2P_TEST_VANISHING_ROLE";
const ENDS: [(&str, &str); 2] = [("tcpx0", "10.89.0.1/24"), ("tcpx1", "10.89.0.2/24")];
/// What the transports are made with.
const BOUND: Duration = Duration::from_secs(3);

#[test]
fn a_host_that_vanishes_is_noticed_within_the_bound() {
    match env::var(ROLE).as_deref() {
        Ok("here") => here(),
        Ok("there") => there(),
        _ => match namespace::options() {
            Ok(options) => {
                let output = start("here", &options).output().expect("unshare");
                let text = String::from_utf8_lossy(&output.stdout);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && text.contains("NOTICED"), "{text}{errors}");
            }
            Err(why) => namespace::skip(TEST, &why),
        },
    }
}

fn start(role: &str, options: &[&str]) -> Command {
    let interface = if role == "here" { ENDS[0].0 } else { ENDS[1].0 };
    let mut command = namespace::start(TEST, options, interface);
    command.env(ROLE, role).stderr(Stdio::piped());
    command
}

fn poll_until(end: &mut End, what: &str, holds: impl Fn(&End) -> bool) {
    let begin = Instant::now();
    while !holds(end) {
        end.poll();
        assert!(begin.elapsed() < PATIENCE, "{what}: {:?}", end.events);
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn here() {
    let mut there = start("there", &["--net"]).stderr(Stdio::inherit()).spawn().expect("unshare");
    let mut says = BufReader::new(there.stdout.take().expect("piped"));
    let mut hears = there.stdin.take().expect("piped");
    let mut hear = |word: &str| loop {
        let mut line = String::new();
        assert!(says.read_line(&mut line).expect("its words") > 0, "it ended before it said {word}");
        if line.contains(word) {
            return;
        }
    };
    hear("READY");
    let process = there.id();
    ip(&format!("link add {} type veth peer name {} netns {process}", ENDS[0].0, ENDS[1].0));
    set_up(ENDS[0]);
    let mut end = End::new(|options| options.peer_timeout = BOUND);
    let (conn, address) = end.listen(2);
    let hex: String = address.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(hears, "{hex}").expect("it listens");
    poll_until(&mut end, "connecting", |end| end.has(Event::Connected(conn)));
    let (region, _) = end.register(4096);
    assert_eq!(end.transport.recv(conn, Token(1), &[slice(region, 0, 4096)]).count, 1);
    writeln!(hears, "VANISH").expect("it listens");
    hear("VANISHED");
    let begin = Instant::now();
    poll_until(&mut end, "the end", |end| end.has(Event::Closed(conn)));
    // A second to probe and one for a busy machine.
    assert!(begin.elapsed() < BOUND + Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(end.outcome(1), Some(Outcome::ConnLost));
    let why = end.transport.why(conn).expect("a reason").to_string();
    assert!(why.contains("host or the network"), "{why}");
    println!("NOTICED");
    there.kill().expect("it lives");
    there.wait().expect("killed");
}

fn there() {
    println!("READY");
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    let hex = lines.next().expect("an address");
    set_up(ENDS[1]);
    let bytes = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"));
    let address = Address::new(&bytes.collect::<Vec<_>>()).expect("short");
    let mut end = End::new(|_| {});
    let conn = end.connect(2, &address);
    poll_until(&mut end, "connecting", |end| end.has(Event::Connected(conn)));
    assert_eq!(lines.next().as_deref(), Some("VANISH"));
    ip(&format!("link set {} down", ENDS[1].0));
    println!("VANISHED");
    loop {
        end.poll();
        std::thread::sleep(Duration::from_millis(10));
    }
}
