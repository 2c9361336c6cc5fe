//! Sockets: made, bound, connected and read without ever blocking.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

fn new(address: IpAddr, congestion: Option<&str>) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Set before the first packet: set later, bbr's pacing stays.
    if let Some(name) = congestion {
        socket.set_tcp_congestion(name.as_bytes()).map_err(|error| {
            let help = "see /proc/sys/net/ipv4/tcp_available_congestion_control";
            io::Error::new(error.kind(), format!("TCPX_SOFT_CONGESTION={name}: {error}; {help}"))
        })?;
    }
    Ok(socket)
}

/// Listens on a port of the system's choice.
pub(crate) fn listen(address: IpAddr, congestion: Option<&str>) -> io::Result<(Socket, SocketAddr)> {
    let socket = new(address, congestion)?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket();
    let bound = bound.ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?;
    Ok((socket, bound))
}

/// Begins to connect from `from` to `to`.
pub(crate) fn connect(from: IpAddr, to: SocketAddr, congestion: Option<&str>) -> io::Result<Socket> {
    let socket = new(to.ip(), congestion)?;
    if from.is_ipv4() == to.is_ipv4() {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// Whether a connection that was begun stands. An error ends the attempt.
pub(crate) fn connected(socket: &Socket) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&now))? == 0 {
        return Ok(false);
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(true),
    }
}

/// The next connection in a listener's queue.
pub(crate) fn accept(listener: &Socket) -> io::Result<Option<(Socket, SocketAddr)>> {
    match listener.accept() {
        Ok((socket, from)) => {
            socket.set_nonblocking(true)?;
            socket.set_tcp_nodelay(true)?;
            let from = from.as_socket();
            Ok(Some((socket, from.ok_or_else(|| io::Error::other("a peer without an IP address"))?)))
        }
        // A connection that was gone before it could be accepted is nobody's loss.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Writes a few bytes into a fresh socket, whose buffer always has room for them.
pub(crate) fn put(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    match socket.send_with_flags(bytes, libc::MSG_NOSIGNAL)? {
        n if n == bytes.len() => Ok(()),
        n => Err(io::Error::new(ErrorKind::WriteZero, format!("{n} of {} bytes fit", bytes.len()))),
    }
}

/// A record of a fixed number of bytes, read as they come.
#[derive(Debug)]
pub(crate) struct Record<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Record<N> {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; N], have: 0 }
    }

    /// Reads on; the bytes once they are all there.
    pub(crate) fn read(&mut self, mut socket: &Socket) -> io::Result<Option<[u8; N]>> {
        while self.have < N {
            match socket.read(&mut self.bytes[self.have..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.have += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(self.bytes))
    }
}

/// Fixes the size of a socket's send buffer, which the system otherwise lets grow to megabytes.
pub(crate) fn set_send_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    SockRef::from(socket).set_send_buffer_size(bytes)
}

/// Name of a socket's congestion control, as the kernel has it.
pub(crate) fn congestion(socket: BorrowedFd<'_>) -> Option<String> {
    let name = SockRef::from(&socket).tcp_congestion().ok()?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Some(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Whether the far end closed, without reading anything.
pub(crate) fn hung_up(socket: &impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
    matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
}
