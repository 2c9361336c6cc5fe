//! Small messages to and fro, both ends polling.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::sockets::IO_TIMEOUT;
use super::talk::broken;
use crate::statistics::Latencies;

/// Bytes of a message.
pub const MESSAGE: usize = 64;
/// Polls between two looks at the clock.
const POLLS: u32 = 1 << 14;

/// Sends messages, each after the answer to the one before it, and times each round trip.
pub(super) fn call(socket: &TcpStream, messages: u64) -> io::Result<Latencies> {
    let mut latencies = Latencies::with_capacity(messages as usize);
    let mut answer = [0; MESSAGE];
    for number in 0..messages {
        let message = [number as u8; MESSAGE];
        let start = Instant::now();
        write(socket, &message)?;
        read(socket, &mut answer)?;
        latencies.add(start.elapsed());
        if answer != message {
            return Err(broken("answered with another message"));
        }
    }
    Ok(latencies)
}

/// Sends back what comes.
pub(super) fn echo(socket: &TcpStream, messages: u64) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    for _ in 0..messages {
        read(socket, &mut message)?;
        write(socket, &message)?;
    }
    Ok(())
}

fn write(socket: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) => moved_nothing(error.into())?,
        }
    }
    Ok(())
}

fn read(socket: &TcpStream, mut bytes: &mut [u8]) -> io::Result<()> {
    let (mut polls, mut silent_since) = (0, None);
    while !bytes.is_empty() {
        match recv(socket, &mut *bytes, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Err(broken("closed its socket")),
            Ok((_, received)) => bytes = &mut bytes[received..],
            Err(error) => moved_nothing(error.into())?,
        }
        polls += 1;
        if polls % POLLS == 0 && silent_since.get_or_insert_with(Instant::now).elapsed() > IO_TIMEOUT {
            return Err(broken("is silent"));
        }
    }
    Ok(())
}

fn moved_nothing(error: io::Error) -> io::Result<()> {
    let again = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind());
    if again { Ok(()) } else { Err(error) }
}
