//! Two processes in two network namespaces, joined by a pair of virtual interfaces.
//!
//! The test starts the sender in a namespace of its own, the sender starts the receiver in another, and
//! the two talk about the set-up over pipes. Where the machine forbids this, the test says why it is skipped.
#![allow(clippy::expect_used, clippy::wildcard_enum_match_arm, reason = "a test may fail where it stands")]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use p2p_memory::SharedHost;
use tcpx_core::config::Config;
use tcpx_core::{Channel, ChannelSet, Event, Handle, Outcome, Plugin, Post, Release, Slice, Source};

#[path = "support/namespace.rs"]
mod namespace;
#[path = "../../tcpx-soft/tests/support/mod.rs"]
mod raw;

use namespace::{ip, set_up};
use raw::drive::Random;

const TEST: &str = "a_thousand_random_messages_cross_two_namespaces";
const ROLE: &str = "P2P_TEST_NAMESPACE_ROLE";
const ENDS: [(&str, &str); 2] = [("tcpx0", "10.88.0.1/24"), ("tcpx1", "10.88.0.2/24")];
const MESSAGES: usize = 1000;
const LONGEST: usize = 300_000;
/// One message and a byte that must not be touched.
const SLOT: usize = LONGEST + 1;
const PATIENCE: Duration = Duration::from_secs(60);
const POISON: u8 = 0xa5;

#[test]
fn a_thousand_random_messages_cross_two_namespaces() {
    match env::var(ROLE).as_deref() {
        Ok("sender") => sender(),
        Ok("receiver") => receiver(),
        _ => match namespace::options() {
            Ok(options) => {
                let seed = Random::seeded().0;
                let child = start("sender", &options, seed).stderr(Stdio::piped()).spawn();
                let (success, text) = raw::child::wait(child.expect("unshare"), TEST);
                assert!(success && text.contains("all bytes are equal"), "{text}");
            }
            Err(why) => namespace::skip(TEST, &why),
        },
    }
}

fn start(role: &str, options: &[&str], seed: u64) -> Command {
    let interface = if role == "sender" { ENDS[0].0 } else { ENDS[1].0 };
    let mut command = namespace::start(TEST, options, interface);
    command.env(ROLE, role).env("SEED", seed.to_string());
    command
}

/// The other process, as this one talks with it.
struct Peer {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Peer {
    /// What follows `word` on the first line that has it; the harness writes before it on the same line.
    fn hear(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.says.read_line(&mut line).expect("the receiver's words");
            assert!(n > 0, "the receiver ended before it said {word}");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }
}

fn sender() {
    let mut random = Random::seeded();
    let child = start("receiver", &["--net"], random.0).spawn().expect("unshare");
    let mut peer = peer(child);
    peer.hear("READY");
    // `unshare` becomes the program that it starts, so the child's number is the receiver's.
    let process = peer.child.id();
    ip(&format!("link add {} type veth peer name {} netns {process}", ENDS[0].0, ENDS[1].0));
    set_up(ENDS[0]);
    writeln!(peer.hears, "GO").expect("the receiver listens");
    let handle = Handle::new(from_hex(&peer.hear("HANDLE=")));

    let plugin = open();
    let deadline = Instant::now() + PATIENCE;
    let comm = plugin.connect(0, &handle, deadline).and_then(|c| c.wait()).expect("a connection");
    let window = plugin.send_window();
    let mut channel = Channel::sending(comm, window).expect("a window");
    let buffer = SharedHost::new(window * SLOT).expect("memory");
    let registration = channel.register(Box::new(buffer.clone())).expect("registered");
    let mut set = ChannelSet::new(plugin).expect("a set");
    let id = set.insert(channel).expect("room in the set");
    let (mut posted, mut released, mut bytes) = (0, 0, 0);
    while released < MESSAGES {
        assert!(Instant::now() < deadline, "{released} of {MESSAGES} messages sent");
        while posted < MESSAGES && posted - released < window {
            let message = raw::pattern(random.next(), random.size(LONGEST));
            let offset = posted % window * SLOT;
            buffer.copy_in(offset, &message).expect("inside");
            let slice = Slice { registration, offset, length: message.len() };
            let post = set.post(id, posted as u64, &[slice], Instant::now()).expect("a good post");
            assert_eq!(post, Post::Accepted, "the window has room");
            bytes += message.len();
            posted += 1;
        }
        for release in round(&mut set, deadline) {
            assert!(matches!(release, Release::Released(_)), "{release:?}");
            released += 1;
        }
    }
    // Closing earlier could lose the last messages.
    peer.hear("all bytes are equal");
    assert!(peer.child.wait().expect("the receiver's end").success());
    let carried = carried_by(ENDS[0].0);
    assert!(carried >= bytes as u64, "{carried} bytes left through {}, {bytes} were sent", ENDS[0].0);
    println!("all bytes are equal");
}

fn receiver() {
    let mut random = Random::seeded();
    println!("READY");
    std::io::stdin().lines().next().expect("the sender goes on").expect("a line");
    set_up(ENDS[1]);
    let plugin = open();
    let deadline = Instant::now() + PATIENCE;
    let (handle, listening) = plugin.listen(0, deadline).expect("a listener");
    println!("HANDLE={}", to_hex(handle.as_bytes()));
    let window = plugin.recv_window();
    let mut channel = Channel::receiving(listening.wait().expect("a peer"), window).expect("a window");
    let buffer = SharedHost::new(window * SLOT).expect("memory");
    let registration = channel.register(Box::new(buffer.clone())).expect("registered");
    let mut set = ChannelSet::new(plugin).expect("a set");
    let id = set.insert(channel).expect("room in the set");
    let mut expected = Vec::new();
    let mut released = 0;
    while released < MESSAGES {
        assert!(Instant::now() < deadline, "{released} of {MESSAGES} messages received");
        while expected.len() < MESSAGES && expected.len() - released < window {
            let (seed, length) = (random.next(), random.size(LONGEST));
            let offset = expected.len() % window * SLOT;
            buffer.fill(offset, SLOT, POISON).expect("inside");
            let slice = Slice { registration, offset, length };
            let post = set.post(id, expected.len() as u64, &[slice], Instant::now()).expect("a good post");
            assert_eq!(post, Post::Accepted, "the window has room");
            expected.push((seed, length));
        }
        for release in round(&mut set, deadline) {
            let (seed, length) = expected[released];
            match release {
                Release::Released(completion) => {
                    assert_eq!(completion.token, released as u64);
                    assert_eq!(completion.outcome, Outcome::Done { length: Some(length) });
                }
                other => panic!("message {released}: {other:?}"),
            }
            let mut bytes = vec![0; length + 1];
            buffer.copy_out(released % window * SLOT, &mut bytes).expect("inside");
            assert!(bytes[..length] == raw::pattern(seed, length)[..], "bytes of message {released}");
            assert_eq!(bytes[length], POISON, "the byte behind message {released}");
            released += 1;
        }
    }
    println!("all bytes are equal");
}

fn open() -> std::sync::Arc<Plugin> {
    let config = Config::from_process().expect("valid settings");
    let plugin = Plugin::open(Source::Static(tcpx_soft::plugin()), &config).expect("the soft plugin");
    assert_eq!(plugin.devices().len(), 1, "only the virtual interface: {:?}", plugin.devices());
    plugin
}

/// Sleeps until something ended, and says what.
fn round(set: &mut ChannelSet, deadline: Instant) -> Vec<Release> {
    let mut ended = Vec::new();
    set.wait(deadline, |_, event| match event {
        Event::Completed(completion) => ended.push(Release::Released(completion)),
        Event::Failed(fault) => ended.push(Release::Failed(fault)),
    })
    .expect("a wait");
    ended
}

fn peer(mut child: Child) -> Peer {
    let says = BufReader::new(child.stdout.take().expect("piped"));
    let hears = child.stdin.take().expect("piped");
    Peer { child, says, hears }
}

/// Bytes that left through an interface of this namespace.
fn carried_by(interface: &str) -> u64 {
    let table = fs::read_to_string("/proc/net/dev").expect("proc");
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)).expect("the interface");
    // Eight columns of what came in stand before it.
    let sent = line.trim_start_matches(':').split_whitespace().nth(8).expect("a column");
    sent.parse().expect("a number")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> [u8; Handle::BYTES] {
    assert_eq!(text.len(), 2 * Handle::BYTES, "a handle: {text}");
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal"))
}
