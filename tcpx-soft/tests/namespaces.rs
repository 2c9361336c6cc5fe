//! Two processes in two network namespaces, joined by a virtual cable.

mod support;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use support::child::{command, is_child, wait};
use support::drive::{self, Exchange, Random, start};
use tcpx_sys::device::DeviceHandle;

const TEST: &str = "a_thousand_messages_between_two_namespaces";
const MESSAGES: usize = 1000;
const LARGEST: usize = 300_000;
const NETWORK: [&str; 2] = ["10.123.45.1", "10.123.45.2"];

/// Two namespaces and the cable between them; gone when dropped, also by a panic.
struct Namespaces {
    names: [String; 2],
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Namespaces {
    fn new() -> Result<Self, String> {
        let id = std::process::id();
        let made = Self { names: [format!("tcpx-soft-{id}-a"), format!("tcpx-soft-{id}-b")] };
        for name in &made.names {
            ip(&format!("netns add {name}"))?;
        }
        let [a, b] = &made.names;
        ip(&format!("link add veth0 netns {a} type veth peer name veth0 netns {b}"))?;
        for (name, address) in made.names.iter().zip(NETWORK) {
            ip(&format!("-n {name} address add {address}/24 dev veth0"))?;
            ip(&format!("-n {name} link set veth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(made)
    }

    /// This test again, as `role` inside namespace `which`.
    fn start(&self, which: usize, role: &str, seed: u64) -> std::process::Child {
        let seed = seed.to_string();
        let variables =
            [("ROLE", role), ("SEED", seed.as_str()), ("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "=veth0")];
        let inner = command(TEST, &variables);
        let mut outer = Command::new("ip");
        outer.args(["netns", "exec", &self.names[which]]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        outer.spawn().expect("start in a namespace")
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made has nothing to remove; the cable goes with its ends.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

const HANDLE: &str = "handle ";

fn receiver(messages: &[Vec<u8>]) {
    let net = start();
    assert_eq!(net.properties(0).expect("device 0").0, "veth0");
    let (handle, listener) = net.listen(0);
    let mut text = String::new();
    for byte in handle {
        write!(text, "{byte:02x}").expect("text");
    }
    println!("{HANDLE}{text}");
    let comm = drive::accept(net, listener, &mut DeviceHandle::zeroed()).expect("accept");
    Exchange { net, send: None, receive: Some((comm, messages)), window: 16 }.run();
    println!("all messages arrived");
    // The sender closes once it is told.
    assert_eq!(net.close_recv(comm), 0);
    assert_eq!(net.close_listen(listener), 0);
}

fn sender(messages: &[Vec<u8>]) {
    let net = start();
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).expect("the handle");
    let digits = text.trim();
    let mut handle = [0u8; 128];
    for (byte, at) in handle.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    }
    let comm = drive::connect(net, &mut handle).expect("connect");
    Exchange { net, send: Some((comm, messages)), receive: None, window: 12 }.run();
    let mut told = String::new();
    std::io::stdin().read_line(&mut told).expect("word that all arrived");
    assert_eq!(told.trim(), "arrived");
    assert_eq!(net.close_send(comm), 0);
    println!("sender ends");
}

#[test]
fn a_thousand_messages_between_two_namespaces() {
    if is_child(TEST) {
        let messages = Random::seeded().messages(MESSAGES, LARGEST);
        match std::env::var("ROLE").as_deref() {
            Ok("receiver") => receiver(&messages),
            _ => sender(&messages),
        }
        return;
    }
    let namespaces = match Namespaces::new() {
        Ok(namespaces) => namespaces,
        Err(reason) => {
            println!("skipped: no network namespaces here: {reason}");
            return;
        }
    };
    let seed = Random::seeded().next();
    let mut receiver = namespaces.start(0, "receiver", seed);
    let mut sender = namespaces.start(1, "sender", seed);
    let mut to_sender = sender.stdin.take().expect("a pipe");
    let mut heard = String::new();
    // Ends with the child at the latest, whose own waits are bounded.
    for line in BufReader::new(receiver.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        if let Some((_, handle)) = line.split_once(HANDLE) {
            writeln!(to_sender, "{handle}").expect("the sender lives");
        }
        if line.contains("all messages arrived") {
            writeln!(to_sender, "arrived").expect("the sender lives");
        }
        heard.push_str(&line);
        heard.push('\n');
    }
    drop(to_sender);
    let (received, text) = wait(receiver, "receiver");
    let (sent, sender_text) = wait(sender, "sender");
    assert!(received && heard.contains("all messages arrived"), "receiver: {heard}{text}");
    assert!(sent && sender_text.contains("sender ends"), "sender: {sender_text}");
}
