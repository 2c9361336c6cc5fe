//! A host that vanishes without a word: two network namespaces whose link goes down.
//!
//! The test starts one end in a namespace of its own, which starts the other end in another one. Where the
//! machine forbids this, the test says why it is skipped.

mod support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2p_transport::{Address, Event, Outcome, Token, Transport};
use support::{End, PATIENCE, slice};

const TEST: &str = "a_host_that_vanishes_is_noticed_within_the_bound";
const ROLE: &str = "P2P_TEST_VANISHING_ROLE";
/// Name of a file in which skipped tests leave their reason.
const SKIPS: &str = "P2P_TEST_SKIPS";
const ENDS: [(&str, &str); 2] = [("tcpx0", "10.89.0.1/24"), ("tcpx1", "10.89.0.2/24")];
/// What the transports are made with.
const BOUND: Duration = Duration::from_secs(3);

#[test]
fn a_host_that_vanishes_is_noticed_within_the_bound() {
    match env::var(ROLE).as_deref() {
        Ok("here") => here(),
        Ok("there") => there(),
        _ => match namespace_options() {
            Ok(options) => {
                let output = start("here", &options).output().expect("unshare");
                let text = String::from_utf8_lossy(&output.stdout);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success() && text.contains("NOTICED"), "{text}{errors}");
            }
            Err(why) => skip(&why),
        },
    }
}

fn namespace_options() -> Result<Vec<&'static str>, String> {
    let mut why = String::new();
    for options in [vec!["--net"], vec!["--user", "--map-root-user", "--net"]] {
        let mut probe = Command::new("unshare");
        probe.args(&options).args(["--", "ip", "link", "add", "tcpx0", "type", "veth", "peer", "tcpx1"]);
        match probe.env("PATH", path()).output() {
            Ok(output) if output.status.success() => return Ok(options),
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => why = format!("unshare: {error}"),
        }
    }
    Err(format!("no network namespaces with virtual interfaces here: {why}"))
}

fn skip(why: &str) {
    eprintln!("{TEST} is skipped: {why}");
    if let Some(file) = env::var_os(SKIPS) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(file).expect("list of skips");
        writeln!(file, "{TEST}: {why}").expect("list of skips");
    }
}

/// `ip` lies in a folder that ordinary users do not search.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

fn start(role: &str, options: &[&str]) -> Command {
    let interface = if role == "here" { ENDS[0].0 } else { ENDS[1].0 };
    let mut command = Command::new("unshare");
    command.args(options).arg("--").arg(env::current_exe().expect("this program"));
    command.args([TEST, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env("PATH", path());
    command.env("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", format!("={interface}"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn set_up((interface, address): (&str, &str)) {
    ip("link set lo up");
    ip(&format!("address add {address} dev {interface}"));
    ip(&format!("link set {interface} up"));
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
