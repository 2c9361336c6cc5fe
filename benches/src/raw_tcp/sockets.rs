//! Opening the data sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_tcp_congestion;
use socket2::{Domain, Protocol, Socket, Type};

use super::layout::{Drive, Layout};
use super::talk::{Talk, broken};

/// How long one end waits for the other before it gives up.
pub const IO_TIMEOUT: Duration = Duration::from_secs(20);

/// The sockets of one layout.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) layout: Layout,
    pub(super) sockets: Vec<TcpStream>,
}

/// A socket that the small messages can use.
pub(super) fn first(opened: &[Opened]) -> io::Result<&TcpStream> {
    let opened = opened.first().and_then(|opened| opened.sockets.first());
    opened.ok_or_else(|| broken("opened no socket"))
}

/// Listens, tells the port, and takes the sockets of `layouts` in the order in which they connect.
pub(super) fn accept(
    talk: &mut Talk,
    layouts: Vec<Layout>,
    congestion: Option<&str>,
) -> io::Result<Vec<Opened>> {
    let address = SocketAddr::new(talk.local_address()?, 0);
    let listener = new_socket(address, congestion, None)?;
    listener.bind(&address.into())?;
    listener.listen(64)?;
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    talk.send_port(listener.local_addr()?.port())?;
    let deadline = Instant::now() + IO_TIMEOUT;
    let mut opened = Vec::with_capacity(layouts.len());
    for (number, layout) in layouts.into_iter().enumerate() {
        let mut sockets = Vec::with_capacity(layout.sockets);
        for index in 0..layout.sockets {
            let mut socket = accept_until(&listener, deadline)?;
            socket.set_nonblocking(false)?;
            prepare(&socket)?;
            let mut name = [0; 2];
            socket.read_exact(&mut name)?;
            if name != [number as u8, index as u8] {
                return Err(broken("connected its sockets in the wrong order"));
            }
            socket.write_all(&name)?;
            sockets.push(socket);
        }
        opened.push(ready(layout, sockets)?);
    }
    Ok(opened)
}

/// Connects the sockets of `layouts`, one after the other.
pub(super) fn connect(
    talk: &mut Talk,
    layouts: Vec<Layout>,
    congestion: Option<&str>,
) -> io::Result<Vec<Opened>> {
    let address = SocketAddr::new(talk.peer_address()?, talk.port()?);
    let mut opened = Vec::with_capacity(layouts.len());
    for (number, layout) in layouts.into_iter().enumerate() {
        let mut sockets = Vec::with_capacity(layout.sockets);
        for index in 0..layout.sockets {
            let socket = new_socket(address, congestion, Some(&layout))?;
            socket.connect_timeout(&address.into(), IO_TIMEOUT)?;
            let mut socket = TcpStream::from(socket);
            prepare(&socket)?;
            let name = [number as u8, index as u8];
            socket.write_all(&name)?;
            let mut answer = [0; 2];
            socket.read_exact(&mut answer)?;
            if answer != name {
                return Err(broken("is not who was expected at its port"));
            }
            sockets.push(socket);
        }
        opened.push(ready(layout, sockets)?);
    }
    Ok(opened)
}

/// The congestion control goes on before the socket listens or connects: set later, the old pacing stays.
/// So does the size of the send buffer, which the system would let grow.
fn new_socket(address: SocketAddr, congestion: Option<&str>, layout: Option<&Layout>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(bytes) = layout.and_then(|layout| layout.send_buffer) {
        // The system doubles it, for its own bookkeeping.
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(name) = congestion {
        set_tcp_congestion(&socket, name).map_err(|error| {
            let error = io::Error::from(error);
            let mend = "name one of /proc/sys/net/ipv4/tcp_allowed_congestion_control";
            io::Error::new(error.kind(), format!("congestion control {name} cannot be used: {error}; {mend}"))
        })?;
    }
    Ok(socket)
}

fn accept_until(listener: &TcpListener, deadline: Instant) -> io::Result<TcpStream> {
    loop {
        match listener.accept() {
            Ok((socket, _)) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "the other end of the raw TCP baseline did not connect",
                    ));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(IO_TIMEOUT))?;
    socket.set_write_timeout(Some(IO_TIMEOUT))
}

fn ready(layout: Layout, sockets: Vec<TcpStream>) -> io::Result<Opened> {
    for socket in &sockets {
        socket.set_nonblocking(layout.drive == Drive::Spinning)?;
    }
    Ok(Opened { layout, sockets })
}
