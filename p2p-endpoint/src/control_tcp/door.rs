//! Doors: listening sockets, and who stands before them.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use p2p_transport::{DoorId, Now};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::deadlines::Deadlines;
use super::source::{HELD, HeldId, Source, unwatch, watch};
use super::{Held, PAUSE, TcpControl};

/// Streams that one look takes in at a door.
const MOST_AT_ONCE: usize = 64;
/// Connections that the kernel holds for a door.
const BACKLOG: i32 = 1024;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) at: SocketAddr,
    /// Streams that wait to be accepted, oldest first.
    pub(super) came: VecDeque<TcpStream>,
    /// Streams whose peer has said nothing.
    pub(super) strangers: Deadlines<HeldId>,
    /// Nothing is taken in until then.
    pub(super) paused_until: Option<Now>,
    /// Somebody came, and it was not told.
    pub(super) knocked: bool,
    pub(super) queued: bool,
}

impl Door {
    pub(super) fn open(at: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if at.ip().is_ipv6() {
            // The door of all addresses takes both families.
            socket.set_only_v6(false)?;
        }
        // The port of a process that has just ended is free again, for who asks for it by its number. While the
        // system chooses one, it must not: it could give one port to two who do not listen yet.
        socket.set_reuse_address(at.port() != 0)?;
        socket.bind(&at.into())?;
        socket.set_reuse_address(true)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let at = listener.local_addr()?;
        let (came, strangers) = (VecDeque::new(), Deadlines::new(patience));
        Ok(Self { listener, at, came, strangers, paused_until: None, knocked: false, queued: false })
    }
}

impl TcpControl {
    /// Takes in who stands before a door.
    pub(super) fn admit(&mut self, id: DoorId, now: Now) {
        let mut scarce = false;
        for _ in 0..MOST_AT_ONCE {
            let Some(door) = self.doors.get_mut(id).filter(|door| door.paused_until.is_none()) else {
                return;
            };
            match door.listener.accept() {
                Ok((socket, _)) => {
                    self.take_in(id, socket, now);
                    // The kernel wants a descriptor before it looks whether anybody stands there.
                    if scarce {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if is_of_one_stream(&error) => {}
                Err(error) => match door.strangers.pop_oldest() {
                    // Its descriptor is for the next one.
                    Some(stranger) => {
                        self.turn_away(stranger);
                        scarce = true;
                    }
                    None => return self.pause(id, &error, now),
                },
            }
        }
    }

    fn take_in(&mut self, at: DoorId, socket: TcpStream, now: Now) {
        self.counts.came += 1;
        if socket.set_nonblocking(true).is_err() {
            self.counts.turned_away += 1;
            return;
        }
        if self.options.first_word.is_none() || matches!(heard(&socket), Heard::Word) {
            return self.bring(at, socket);
        }
        let id = self.held.insert(Held { socket, door: Some(at) });
        let (Some(held), Some(door)) = (self.held.get(id), self.doors.get_mut(at)) else { return };
        if watch(&self.epoll, &held.socket, Source::Held(id), HELD).is_err() {
            return self.turn_away(id);
        }
        door.strangers.push(id);
        door.strangers.begin(now);
        if door.strangers.len() > self.options.most_waiting
            && let Some(oldest) = door.strangers.pop_oldest()
        {
            self.turn_away(oldest);
        }
    }

    /// A stream may be accepted.
    pub(super) fn bring(&mut self, id: DoorId, socket: TcpStream) {
        let Some(door) = self.doors.get_mut(id) else { return };
        door.came.push_back(socket);
        if door.came.len() > self.options.most_waiting {
            door.came.pop_front();
            self.counts.turned_away += 1;
        }
        door.knocked = true;
        if !std::mem::replace(&mut door.queued, true) {
            self.queue.push_back(Source::Door(id));
        }
    }

    /// Leaves a door alone for a while.
    fn pause(&mut self, id: DoorId, error: &io::Error, now: Now) {
        let Some(door) = self.doors.get_mut(id) else { return };
        door.paused_until = Some(now.after(PAUSE));
        unwatch(&self.epoll, &door.listener);
        self.counts.pauses += 1;
        // Once, and then each time that ten times as many have been.
        if self.counts.pauses.to_string().trim_end_matches('0') == "1" {
            let advice = match Errno::from_io_error(error) {
                Some(Errno::MFILE) => "this process has no descriptor left: raise its limit (`ulimit -n`)",
                Some(Errno::NFILE) => "this host has no descriptor left: raise `fs.file-max`",
                _ => "free memory of this host, or look at its kernel's log",
            };
            let (at, pauses) = (door.at, self.counts.pauses);
            tracing::warn!(%at, pauses, "nobody can connect for now ({error}): {advice}");
        }
    }
}

/// What a stranger did.
pub(super) enum Heard {
    Nothing,
    Word,
    End,
}

/// Looks without taking anything.
pub(super) fn heard(stranger: &TcpStream) -> Heard {
    match stranger.peek(&mut [0]) {
        Ok(0) => Heard::End,
        Ok(_) => Heard::Word,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Heard::Nothing
        }
        Err(_) => Heard::End,
    }
}

/// Whether an accept failed because of the stream that it was to bring, and the next one may go well.
fn is_of_one_stream(error: &io::Error) -> bool {
    let of_one =
        [Errno::INTR, Errno::CONNABORTED, Errno::PROTO, Errno::PERM, Errno::NETDOWN, Errno::NETUNREACH];
    Errno::from_io_error(error).is_some_and(|errno| of_one.contains(&errno) || errno == Errno::HOSTUNREACH)
}
