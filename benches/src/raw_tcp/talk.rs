//! What the two ends say to each other over the control stream: fixed little-endian words.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use super::layout::{Drive, Layout};
use super::sockets::IO_TIMEOUT;

const PAUSE: u64 = 0;
const ROUND: u64 = 1;
const PING_PONG: u64 = 2;
const READY: u64 = 0x7264_7921;
/// More than any machine has, few enough to read without care.
const MOST: u64 = 4096;

/// What the sender asks the receiver for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Request {
    /// Return to the caller.
    Pause,
    /// Receive `messages` messages of `message` bytes.
    Round { layout: usize, messages: u64, message: usize },
    /// Send back as many small messages.
    PingPong { messages: u64 },
}

/// What the receiver saw of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) time: Duration,
    pub(super) cpu: Duration,
}

/// The control stream.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) stream: TcpStream,
}

impl Talk {
    pub(super) fn new(control: &TcpStream) -> io::Result<Self> {
        let stream = control.try_clone()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(IO_TIMEOUT))?;
        stream.set_write_timeout(Some(IO_TIMEOUT))?;
        Ok(Self { stream })
    }

    pub(super) fn local_address(&self) -> io::Result<IpAddr> {
        Ok(self.stream.local_addr()?.ip())
    }

    pub(super) fn peer_address(&self) -> io::Result<IpAddr> {
        Ok(self.stream.peer_addr()?.ip())
    }

    pub(super) fn ask(&mut self, request: &Request) -> io::Result<()> {
        match *request {
            Request::Pause => self.send(&[PAUSE, 0, 0, 0]),
            Request::Round { layout, messages, message } => {
                self.send(&[ROUND, layout as u64, messages, message as u64])
            }
            Request::PingPong { messages } => self.send(&[PING_PONG, 0, messages, 0]),
        }
    }

    pub(super) fn request(&mut self) -> io::Result<Request> {
        let [kind, layout, messages, message] = self.words()?;
        match kind {
            PAUSE => Ok(Request::Pause),
            ROUND => Ok(Request::Round { layout: layout as usize, messages, message: message as usize }),
            PING_PONG => Ok(Request::PingPong { messages }),
            _ => Err(broken("asked for something unknown")),
        }
    }

    pub(super) fn ready(&mut self) -> io::Result<()> {
        self.send(&[READY])
    }

    pub(super) fn await_ready(&mut self) -> io::Result<()> {
        let [word] = self.words()?;
        if word == READY { Ok(()) } else { Err(broken("was not ready")) }
    }

    pub(super) fn report(&mut self, report: Report) -> io::Result<()> {
        self.send(&[report.time.as_nanos() as u64, report.cpu.as_nanos() as u64])
    }

    pub(super) fn read_report(&mut self) -> io::Result<Report> {
        let [time, cpu] = self.words()?;
        Ok(Report { time: Duration::from_nanos(time), cpu: Duration::from_nanos(cpu) })
    }

    pub(super) fn send_port(&mut self, port: u16) -> io::Result<()> {
        self.send(&[port.into()])
    }

    pub(super) fn port(&mut self) -> io::Result<u16> {
        let [port] = self.words()?;
        u16::try_from(port).map_err(|_| broken("named an impossible port"))
    }

    pub(super) fn send_layouts(&mut self, layouts: &[Layout]) -> io::Result<()> {
        self.send(&[layouts.len() as u64])?;
        for layout in layouts {
            let drive = match layout.drive {
                Drive::Blocking => 0,
                Drive::Spinning => 1,
                Drive::Lanes => 2,
            };
            let buffer = layout.send_buffer.unwrap_or(0) as u64;
            self.send(&[layout.sockets as u64, drive, layout.step as u64, layout.eager.into(), buffer])?;
            self.send(&[layout.cores.len() as u64])?;
            for core in &layout.cores {
                self.send(&[*core as u64])?;
            }
        }
        Ok(())
    }

    pub(super) fn receive_layouts(&mut self) -> io::Result<Vec<Layout>> {
        let [count] = self.words()?;
        let mut layouts = Vec::new();
        for _ in 0..bounded(count)? {
            let [sockets, drive, step, eager, buffer, cores] = self.words()?;
            let drive = match drive {
                0 => Drive::Blocking,
                1 => Drive::Spinning,
                2 => Drive::Lanes,
                _ => return Err(broken("named an unknown layout")),
            };
            let mut layout = Layout::unpinned(bounded(sockets)?, drive, (step as usize).max(1));
            layout.eager = eager != 0;
            layout.send_buffer = Some(buffer as usize).filter(|buffer| *buffer > 0);
            for _ in 0..bounded(cores)? {
                let [core] = self.words()?;
                layout.cores.push(core as usize);
            }
            layouts.push(layout);
        }
        Ok(layouts)
    }

    fn send(&mut self, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.stream.write_all(&bytes)
    }

    fn words<const N: usize>(&mut self) -> io::Result<[u64; N]> {
        let mut words = [0; N];
        for word in &mut words {
            let mut bytes = [0; 8];
            self.stream.read_exact(&mut bytes)?;
            *word = u64::from_le_bytes(bytes);
        }
        Ok(words)
    }
}

fn bounded(count: u64) -> io::Result<usize> {
    if count <= MOST { Ok(count as usize) } else { Err(broken("named an impossible number")) }
}

/// The other end does not keep to what is agreed.
pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other end of the raw TCP baseline {what}"))
}
