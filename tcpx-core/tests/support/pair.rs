//! The core over the soft plugin, both ends in this process.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects; the rest fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_memory::SharedHost;
use tcpx_core::config::{Config, FixedEnvironment};
use tcpx_core::{
    Accept, Channel, Completion, Connect, Error, Outcome, Plugin, Post, RecvComm, Release, SendComm, Slice,
    Source,
};

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The settings of a process whose environment is not looked at.
pub fn config(variables: &[(&str, &str)]) -> Config {
    let environment: FixedEnvironment = variables.iter().copied().collect();
    Config::from_environment(&environment).expect("valid settings")
}

/// The soft plugin.
pub fn open() -> Arc<Plugin> {
    Plugin::open(Source::Static(tcpx_soft::plugin()), &config(&[])).expect("the soft plugin starts")
}

pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Both ends of a connection on device 0, polled in turn.
pub fn comms(plugin: &Arc<Plugin>) -> (SendComm, RecvComm) {
    let (handle, listening) = plugin.listen(0, deadline()).expect("listen");
    let connecting = plugin.connect(0, &handle, deadline()).expect("connect");
    let (sender, receiver) = establish(Connect::Pending(connecting), Accept::Pending(listening));
    (sender.expect("connected"), receiver.expect("accepted"))
}

/// Polls both until each has ended.
pub fn establish(
    mut connect: Connect,
    mut accept: Accept,
) -> (Result<SendComm, Error>, Result<RecvComm, Error>) {
    loop {
        connect = match connect {
            Connect::Pending(connecting) => connecting.poll(Instant::now()),
            ended => ended,
        };
        accept = match accept {
            Accept::Pending(listening) => listening.poll(Instant::now()),
            ended => ended,
        };
        if !matches!(connect, Connect::Pending(_)) && !matches!(accept, Accept::Pending(_)) {
            break;
        }
        std::thread::yield_now();
    }
    let sender = match connect {
        Connect::Ready(comm) => Ok(comm),
        Connect::Failed(error) => Err(error),
        Connect::Pending(_) => unreachable!("the loop ended"),
    };
    let receiver = match accept {
        Accept::Ready(comm) => Ok(comm),
        Accept::Failed(error) => Err(error),
        Accept::Pending(_) => unreachable!("the loop ended"),
    };
    (sender, receiver)
}

/// Two channels of one connection.
pub fn channels(plugin: &Arc<Plugin>) -> (Channel, Channel) {
    let (sender, receiver) = comms(plugin);
    let sender = Channel::sending(sender, plugin.send_window()).expect("a sending channel");
    let receiver = Channel::receiving(receiver, plugin.recv_window()).expect("a receiving channel");
    (sender, receiver)
}

/// Registers new memory of `length` bytes, all 0xa5, and returns it with a slice over all of it.
pub fn memory(channel: &mut Channel, length: usize) -> (SharedHost, Slice) {
    let buffer = SharedHost::new(length).expect("memory");
    buffer.fill(0, length, 0xa5).expect("inside");
    let registration = channel.register(Box::new(buffer.clone())).expect("registration");
    (buffer, Slice { registration, offset: 0, length })
}

/// Registers memory that holds `bytes`.
pub fn filled(channel: &mut Channel, bytes: &[u8]) -> (SharedHost, Slice) {
    let (buffer, slice) = memory(channel, bytes.len().max(1));
    buffer.copy_in(0, bytes).expect("inside");
    (buffer, Slice { length: bytes.len(), ..slice })
}

/// All bytes of a buffer.
pub fn bytes_of(buffer: &SharedHost) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.copy_out(0, &mut bytes).expect("inside");
    bytes
}

/// Posts, and panics unless it is accepted at once.
pub fn post(channel: &mut Channel, token: u64, slice: Slice) {
    let post = channel.post(token, slice, Instant::now());
    assert_eq!(post.expect("a good post"), Post::Accepted);
}

/// Makes progress on both until the oldest operation of `of` has ended.
pub fn next(of: &mut Channel, other: &mut Channel) -> Completion {
    match outcome(of, other) {
        Release::Released(completion) => completion,
        ended => panic!("{ended:?}"),
    }
}

/// Makes progress on both until there is an answer about the oldest operation of `of`.
pub fn outcome(of: &mut Channel, other: &mut Channel) -> Release {
    let deadline = deadline();
    loop {
        let now = Instant::now();
        of.progress(now);
        other.progress(now);
        match of.release() {
            Release::NotYet => assert!(now < deadline, "nothing ended within {PATIENCE:?}: {of:?} {other:?}"),
            ended => return ended,
        }
        std::thread::yield_now();
    }
}

/// A completion that went well.
pub fn done(token: u64, length: impl Into<Option<usize>>) -> Completion {
    Completion { token, outcome: Outcome::Done { length: length.into() } }
}
