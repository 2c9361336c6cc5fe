//! One control stream: a socket, and what is to be told of it.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use p2p_transport::{ControlEvent, Error, Received, StreamId};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Bytes read at once of what nobody wants any more.
const READ_BYTES: usize = 8192;
/// Reads at most of that in one go.
const LAST_READS: usize = 64;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    peer: SocketAddr,
    pub(super) state: State,
    pub(super) tells: Tells,
    pub(super) queued: bool,
    /// Fewer bytes were taken than offered.
    wants_room: bool,
    /// A read found less than it had room for, and the kernel has not said since that there is more: it will.
    drained: bool,
    /// The kernel has said that the peer says no more. It says so once, maybe with the last bytes.
    ended_there: bool,
}

#[derive(Debug)]
pub(super) enum State {
    Connecting,
    Open { own: SocketAddr },
    Broken(Error),
}

/// What is to be told, in this order.
#[derive(Debug, Default)]
pub(super) struct Tells {
    opened: bool,
    readable: bool,
    writable: bool,
    broken: bool,
}

impl Tells {
    pub(super) const fn any(&self) -> bool {
        self.opened || self.readable || self.writable || self.broken
    }

    pub(super) fn next(&mut self) -> Option<fn(StreamId) -> ControlEvent> {
        if std::mem::take(&mut self.opened) {
            Some(ControlEvent::Opened)
        } else if std::mem::take(&mut self.readable) {
            Some(ControlEvent::Readable)
        } else if std::mem::take(&mut self.writable) {
            Some(ControlEvent::Writable)
        } else if std::mem::take(&mut self.broken) {
            Some(ControlEvent::Broken)
        } else {
            None
        }
    }
}

impl Stream {
    /// Starts to connect. Whatever the network answers breaks the stream, at once or later.
    pub(super) fn connecting(to: SocketAddr, unacknowledged: Duration) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        configure(&socket, unacknowledged)?;
        let begun = socket.connect(&to.into());
        let mut stream = Self::new(socket.into(), to, State::Connecting);
        match begun {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
            Err(error) => stream.fail("connect", &error),
        }
        Ok(stream)
    }

    /// A stream that came through a door.
    pub(super) fn accepted(socket: TcpStream, unacknowledged: Duration) -> Self {
        let ends = || {
            configure(&SockRef::from(&socket), unacknowledged)?;
            Ok((socket.local_addr()?, socket.peer_addr()?))
        };
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        match ends() {
            Ok((own, peer)) => Self::new(socket, canonical(peer), State::Open { own: canonical(own) }),
            Err(error) => {
                let mut stream = Self::new(socket, unknown, State::Open { own: unknown });
                stream.fail("accept", &error);
                stream
            }
        }
    }

    fn new(socket: TcpStream, peer: SocketAddr, state: State) -> Self {
        Self {
            socket,
            peer,
            state,
            tells: Tells::default(),
            queued: false,
            wants_room: false,
            drained: false,
            ended_there: false,
        }
    }

    pub(super) const fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting)
    }

    pub(super) const fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self.state {
            State::Open { own } => Some((own, self.peer)),
            State::Connecting | State::Broken(_) => None,
        }
    }

    pub(super) const fn why(&self) -> Option<&Error> {
        match &self.state {
            State::Broken(why) => Some(why),
            State::Connecting | State::Open { .. } => None,
        }
    }

    /// The kernel says that something happened.
    pub(super) fn stirred(&mut self, flags: EventFlags) {
        self.drained = false;
        self.ended_there |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if self.is_connecting() {
            self.look_whether_open();
        }
        if !matches!(self.state, State::Open { .. }) {
            return;
        }
        // An end and an error are readable too.
        self.tells.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        if flags.contains(EventFlags::OUT) && std::mem::take(&mut self.wants_room) {
            self.tells.writable = true;
        }
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            let error = self.socket.take_error().unwrap_or_else(Some);
            self.fail("poll", &error.unwrap_or_else(|| ErrorKind::BrokenPipe.into()));
        }
    }

    fn look_whether_open(&mut self) {
        let ends = || {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            let peer = self.socket.peer_addr()?;
            let own = self.socket.local_addr()?;
            // A port of the system's choice may be the very one that is called.
            if own == peer { Err(ErrorKind::ConnectionRefused.into()) } else { Ok(own) }
        };
        match ends() {
            Ok(own) => {
                self.state = State::Open { own: canonical(own) };
                self.tells.opened = true;
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => self.fail("connect", &error),
        }
    }

    /// Nobody answered.
    pub(super) fn give_up(&mut self, bound: Duration) {
        let peer = self.peer;
        let text = format!(
            "{peer} did not answer within {bound:?}: check that the peer runs, and that no firewall is between"
        );
        self.break_off("connect", text, Some(Errno::TIMEDOUT.raw_os_error()));
    }

    /// The stream is of no more use.
    pub(super) fn fail(&mut self, during: &'static str, error: &io::Error) {
        let peer = self.peer;
        let text = match (during, error.kind()) {
            (_, ErrorKind::ConnectionRefused) => {
                format!("nobody listens at {peer}: check the address, and that the peer runs")
            }
            ("connect", _) => format!("cannot reach {peer} ({error}): check the address and the routes"),
            (_, ErrorKind::TimedOut) => {
                format!("{peer} takes nothing and answers nothing any more ({error})")
            }
            _ => format!("the stream to {peer} broke ({error}): the peer's process ended or let it go"),
        };
        self.break_off(during, text, error.raw_os_error());
    }

    fn break_off(&mut self, during: &'static str, text: String, code: Option<i32>) {
        if matches!(self.state, State::Broken(_)) {
            return;
        }
        let why = Error::new(p2p_transport::ErrorKind::Conn, during, text);
        self.state = State::Broken(match code {
            Some(code) => why.with_code(code),
            None => why,
        });
        self.tells.broken = true;
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while matches!(self.state, State::Open { .. }) && sent < bytes.len() {
            match rustix::net::send(&self.socket, &bytes[sent..], SendFlags::NOSIGNAL) {
                Ok(taken) if taken > 0 => sent += taken,
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wants_room = true;
                    break;
                }
                Err(error) => {
                    // Its last word may be there.
                    self.tells.readable = true;
                    self.fail("send", &error.into());
                }
            }
        }
        sent
    }

    /// The next read asks the kernel; false if the stream is not open.
    pub(super) fn look_again(&mut self) -> bool {
        self.drained = false;
        matches!(self.state, State::Open { .. })
    }

    /// Also when it is broken: what the peer said before is there to be read.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Received {
        if self.is_connecting() || into.is_empty() {
            return Received::Nothing;
        }
        let says_more = !self.ended_there && matches!(self.state, State::Open { .. });
        if self.drained && says_more {
            return Received::Nothing;
        }
        loop {
            // Not by the C library, whose points of cancellation cost about as much as the rest of a short read.
            match rustix::io::read(&self.socket, &mut *into) {
                Ok(0) => return Received::Ended,
                Ok(count) => {
                    self.drained = count < into.len();
                    return Received::Bytes(count);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.drained = says_more;
                    let broken = matches!(self.state, State::Broken(_));
                    return if broken { Received::Ended } else { Received::Nothing };
                }
                Err(error) => {
                    self.fail("receive", &error.into());
                    return Received::Ended;
                }
            }
        }
    }
}

fn configure(socket: &Socket, unacknowledged: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Idle streams are probed so often that the bound below, which replaces the number of probes, holds.
    let pause = (unacknowledged / 4).clamp(Duration::from_secs(1), Duration::from_secs(15));
    let keepalive = TcpKeepalive::new().with_time(pause).with_interval(pause);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(unacknowledged))
}

/// IPv4 as IPv4, also through a door of both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Ends the sending half. What was sent still arrives: not even a forked child that holds the socket keeps the
/// end from the peer, and little is left unread, for which the kernel would break it off. True if the peer has
/// ended its half too.
pub(super) fn end(socket: &TcpStream) -> bool {
    socket.shutdown(Shutdown::Write).is_err() || is_over(socket)
}

/// Reads and drops what is there, up to a bound; true if nothing can follow.
pub(super) fn is_over(mut socket: &TcpStream) -> bool {
    let mut bytes = [0; READ_BYTES];
    for _ in 0..LAST_READS {
        match socket.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// The system may choose the very port that is called, and then a socket is its own peer.
    #[test]
    fn a_stream_to_itself_is_a_refused_one() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        let own = socket.local_addr().expect("bound");
        socket.connect(&own).expect("it meets itself");
        let own = own.as_socket().expect("an address");
        let mut stream = Stream::new(socket.into(), own, State::Connecting);
        stream.stirred(EventFlags::OUT);
        let why = stream.why().expect("broken").to_string();
        assert!(why.contains("nobody listens") && why.contains(&own.to_string()), "{why}");
        assert!(stream.tells.broken && !stream.tells.opened);
    }

    #[test]
    fn both_ends_are_bounded_by_the_kernel_and_wait_for_nothing() {
        let bound = Duration::from_secs(20);
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let at = listener.local_addr().expect("bound");
        let connecting = Stream::connecting(at, bound).expect("a socket");
        let (socket, _) = listener.accept().expect("it comes");
        socket.set_nonblocking(true).expect("a socket");
        for stream in &[connecting, Stream::accepted(socket, bound)] {
            let options = SockRef::from(&stream.socket);
            assert_eq!(options.tcp_user_timeout().expect("it is set"), Some(bound));
            assert!(options.tcp_nodelay().expect("it is set") && options.keepalive().expect("it is set"));
            let pauses = (options.tcp_keepalive_time(), options.tcp_keepalive_interval());
            assert_eq!((pauses.0.expect("it is set"), pauses.1.expect("it is set")), (bound / 4, bound / 4));
            assert_eq!((&stream.socket).read(&mut [0]).expect_err("nothing").kind(), ErrorKind::WouldBlock);
        }
    }
}
