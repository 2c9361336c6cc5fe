//! Moving the bytes of a round, one thread for each socket.

use std::io;
use std::net::TcpStream;
use std::sync::{Barrier, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send as send_bytes};

use super::layout::{Drive, Layout};
use super::sockets::{IO_TIMEOUT, Opened};
use super::talk::broken;
use crate::cores;

/// Bytes of an acknowledgement: the number of the message.
const ACK: usize = 8;

/// Runs `work` on every socket of a layout, each on its own thread. All threads are there and on their core
/// before `begin` is called, and none starts before it has returned.
pub(super) fn all<P: Send>(
    opened: &Opened,
    parts: &mut [Vec<P>],
    begin: impl FnOnce() -> io::Result<()>,
    work: impl Fn(usize, &TcpStream, &mut [P], &Layout) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let (there, go) = (Barrier::new(parts.len() + 1), Barrier::new(parts.len() + 1));
    let begun = Mutex::new(false);
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(parts.len());
        for (index, (socket, parts)) in opened.sockets.iter().zip(parts).enumerate() {
            let (there, go, begun, work) = (&there, &go, &begun, &work);
            threads.push(scope.spawn(move || {
                // Placement is a matter of speed; a machine that forbids it still works.
                let _pinned = opened.layout.core(index).and_then(|core| cores::pin(core).ok());
                there.wait();
                go.wait();
                if *lock(begun) { work(index, socket, parts, &opened.layout) } else { Ok(()) }
            }));
        }
        there.wait();
        let result = begin();
        *lock(&begun) = result.is_ok();
        go.wait();
        let ended = |thread: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread of the raw TCP baseline panicked")))
        };
        threads.into_iter().map(ended).fold(result, Result::and)
    })
}

/// Messages that the lanes of a sender have under way together.
pub(super) struct Flight {
    acknowledged: Mutex<Vec<u64>>,
    moved: Condvar,
    most: u64,
}

/// Stands in the list of a lane that failed, so that no other waits for it.
const FAILED: u64 = u64::MAX;

impl Flight {
    pub(super) fn new(lanes: usize, most: usize) -> Self {
        Self { acknowledged: Mutex::new(vec![0; lanes]), moved: Condvar::new(), most: most as u64 }
    }

    /// Runs a lane; if it fails, the others do not wait for it.
    pub(super) fn guard(&self, lane: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let result = lane();
        if result.is_err() {
            lock(&self.acknowledged).fill(FAILED);
            self.moved.notify_all();
        }
        result
    }

    /// A lane has `count` parts acknowledged.
    fn acknowledge(&self, lane: usize, count: u64) {
        let mut acknowledged = lock(&self.acknowledged);
        if acknowledged[lane] < count {
            acknowledged[lane] = count;
            if acknowledged.len() > 1 {
                self.moved.notify_all();
            }
        }
    }

    /// Waits until message `number`, counted from 0 in this round, may begin.
    fn may_begin(&self, number: u64) -> io::Result<()> {
        let needed = (number + 1).saturating_sub(self.most);
        let deadline = Instant::now() + IO_TIMEOUT;
        let mut acknowledged = lock(&self.acknowledged);
        while acknowledged.iter().any(|count| *count < needed) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a lane of the raw TCP baseline is stuck",
                ));
            }
            acknowledged = match self.moved.wait_timeout(acknowledged, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        Ok(())
    }
}

/// Sends the parts of `messages` messages and takes their acknowledgements.
pub(super) fn send(
    socket: &TcpStream,
    parts: &[&[u8]],
    first: u64,
    messages: u64,
    layout: &Layout,
    (flight, lane): (&Flight, usize),
) -> io::Result<()> {
    let mut acknowledged = 0;
    let mut take = || -> io::Result<()> {
        let mut number = [0; ACK];
        read_all(socket, &mut number, layout)?;
        if u64::from_le_bytes(number) != first + acknowledged {
            return Err(broken("acknowledged a message out of order"));
        }
        acknowledged += 1;
        flight.acknowledge(lane, acknowledged);
        Ok(())
    };
    let most = flight.most;
    for number in 0..messages {
        if number >= most {
            take()?;
        }
        flight.may_begin(number)?;
        write_all(socket, part_of(parts, first + number), layout)?;
    }
    for _ in 0..messages.min(most) {
        take()?;
    }
    Ok(())
}

/// Receives the parts of `messages` messages and acknowledges each.
pub(super) fn receive(
    socket: &TcpStream,
    parts: &mut [&mut [u8]],
    first: u64,
    messages: u64,
    layout: &Layout,
) -> io::Result<()> {
    for number in first..first + messages {
        let slot = (number % parts.len() as u64) as usize;
        read_all(socket, parts[slot], layout)?;
        write_all(socket, &number.to_le_bytes(), layout)?;
    }
    Ok(())
}

fn part_of<'a>(parts: &[&'a [u8]], number: u64) -> &'a [u8] {
    parts[(number % parts.len() as u64) as usize]
}

fn write_all(socket: &TcpStream, mut bytes: &[u8], layout: &Layout) -> io::Result<()> {
    let mut patience = Patience::new(layout);
    while !bytes.is_empty() {
        let step = &bytes[..bytes.len().min(layout.step)];
        match send_bytes(socket, step, SendFlags::NOSIGNAL) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                patience.silent_since = None;
            }
            Err(error) => patience.after(error.into())?,
        }
    }
    Ok(())
}

fn read_all(socket: &TcpStream, mut bytes: &mut [u8], layout: &Layout) -> io::Result<()> {
    let mut patience = Patience::new(layout);
    let flags = if layout.eager { RecvFlags::empty() } else { RecvFlags::WAITALL };
    while !bytes.is_empty() {
        let step = bytes.len().min(layout.step);
        match recv(socket, &mut bytes[..step], flags) {
            Ok((_, 0)) => {
                let text = "the other end of the raw TCP baseline closed its socket";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Ok((_, received)) => {
                bytes = &mut bytes[received..];
                patience.silent_since = None;
            }
            Err(error) => patience.after(error.into())?,
        }
    }
    Ok(())
}

/// What to do when a call moved nothing: over again, until the peer has been silent for too long.
struct Patience {
    spins: bool,
    silent_since: Option<Instant>,
}

impl Patience {
    fn new(layout: &Layout) -> Self {
        Self { spins: layout.drive == Drive::Spinning, silent_since: None }
    }

    fn after(&mut self, error: io::Error) -> io::Result<()> {
        let kind = error.kind();
        if kind == io::ErrorKind::Interrupted {
            return Ok(());
        }
        if kind != io::ErrorKind::WouldBlock {
            return Err(error);
        }
        // A blocking call has been silent for its whole timeout.
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if self.spins && since.elapsed() <= IO_TIMEOUT { Ok(()) } else { Err(silent()) }
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the other end of the raw TCP baseline is silent")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
