//! A plain peer, written from the published wire alone: what a real plugin would be at the other end.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// No read or write of the peer takes longer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A handle, read by the offsets of the published layout.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    pub data: SocketAddr,
    pub control: SocketAddr,
    pub sockets: i32,
    pub threads: i32,
}

pub fn word(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn address(bytes: &[u8]) -> SocketAddr {
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let ip = match u16::from_le_bytes([bytes[0], bytes[1]]) {
        2 => IpAddr::V4(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7])),
        10 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[8..24]).expect("16 bytes"))),
        family => panic!("address family {family}"),
    };
    SocketAddr::new(ip, port)
}

fn put_address(bytes: &mut [u8], address: SocketAddr) {
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes[..2].copy_from_slice(&2u16.to_le_bytes());
            bytes[4..8].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[..2].copy_from_slice(&10u16.to_le_bytes());
            bytes[8..24].copy_from_slice(&ip.octets());
        }
    }
}

impl Published {
    pub fn read(handle: &[u8; 128]) -> Self {
        Self {
            data: address(&handle[..28]),
            control: address(&handle[48..76]),
            sockets: word(handle, 36),
            threads: word(handle, 40),
        }
    }

    /// The handle of a real listener, with the junk that one leaves.
    pub fn write(&self) -> [u8; 128] {
        let mut handle = [0u8; 128];
        for (at, junk) in [(16, 0x10u8), (17, 0x85), (24, 0x10), (25, 0x85)] {
            if self.data.is_ipv4() {
                handle[at] = junk;
                handle[48 + at] = junk;
            }
        }
        put_address(&mut handle[..28], self.data);
        put_address(&mut handle[48..76], self.control);
        handle[28..36].fill(0xff);
        handle[36..40].copy_from_slice(&self.sockets.to_le_bytes());
        handle[40..44].copy_from_slice(&self.threads.to_le_bytes());
        handle
    }
}

/// Dials with timeouts for whatever follows.
pub fn dial(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a listening port");
    patient(&stream);
    stream
}

fn patient(stream: &TcpStream) {
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
}

/// Accepts one connection within [`PATIENCE`].
pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).expect("nonblocking");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("blocking");
                patient(&stream);
                return stream;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(std::time::Instant::now() < deadline, "nobody connected within {PATIENCE:?}");
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

pub fn read_word(mut from: &TcpStream) -> io::Result<i32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

pub fn write_word(mut to: &TcpStream, word: i32) -> io::Result<()> {
    to.write_all(&word.to_le_bytes())
}

/// Bytes of a socket, or a panic that says what is missing.
pub fn read_bytes(mut from: &TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{length} bytes expected: {error}"));
    bytes
}

/// Reads to the end of the stream; `Err` for a reset.
pub fn drain(mut from: &TcpStream) -> io::Result<usize> {
    let mut rest = Vec::new();
    from.read_to_end(&mut rest)
}

/// An established connection of the peer, in either role.
#[derive(Debug)]
pub struct Wire {
    pub control: TcpStream,
    pub data: Vec<TcpStream>,
}

/// Connects as a real connector does: control, then the data sockets downwards, three words for each.
pub fn connect(handle: &[u8; 128]) -> Wire {
    connect_in(handle, &(0..Published::read(handle).sockets).rev().collect::<Vec<_>>())
}

/// As [`connect`], with the data sockets in a given order of indices.
pub fn connect_in(handle: &[u8; 128], order: &[i32]) -> Wire {
    try_connect_in(handle, order).expect("a handshake")
}

/// As [`connect`]; the acceptor may break it off.
pub fn try_connect(handle: &[u8; 128]) -> io::Result<Wire> {
    try_connect_in(handle, &(0..Published::read(handle).sockets).rev().collect::<Vec<_>>())
}

fn try_connect_in(handle: &[u8; 128], order: &[i32]) -> io::Result<Wire> {
    let published = Published::read(handle);
    let control = dial(published.control);
    assert_eq!(read_word(&control)?, 0, "the acceptor speaks first");
    write_word(&control, 0)?;
    write_word(&control, published.sockets)?;
    let mut data: Vec<Option<TcpStream>> = (0..published.sockets).map(|_| None).collect();
    for &index in order {
        let socket = dial(published.data);
        assert_eq!(read_word(&control)?, 0, "state of the acceptor");
        write_word(&control, 0)?;
        write_word(&control, index)?;
        data[index as usize] = Some(socket);
    }
    Ok(Wire { control, data: data.into_iter().flatten().collect() })
}

/// The two ports of a real listener.
#[derive(Debug)]
pub struct Listener {
    pub data: TcpListener,
    pub control: TcpListener,
    pub sockets: i32,
}

impl Listener {
    pub fn open(ip: IpAddr, sockets: i32) -> Self {
        let bind = || TcpListener::bind((ip, 0)).expect("a port");
        Self { data: bind(), control: bind(), sockets }
    }

    pub fn handle(&self) -> [u8; 128] {
        let address = |listener: &TcpListener| listener.local_addr().expect("address");
        Published {
            data: address(&self.data),
            control: address(&self.control),
            sockets: self.sockets,
            threads: 1,
        }
        .write()
    }

    /// Accepts as a real acceptor does; the words it must see are asserted.
    pub fn accept(&self) -> Wire {
        let control = accept(&self.control);
        write_word(&control, 0).expect("state");
        assert_eq!(read_word(&control).expect("state"), 0, "state of the connector");
        assert_eq!(read_word(&control).expect("index"), self.sockets, "index of the control socket");
        let mut data: Vec<Option<TcpStream>> = (0..self.sockets).map(|_| None).collect();
        for expected in (0..self.sockets).rev() {
            let socket = accept(&self.data);
            write_word(&control, 0).expect("state");
            assert_eq!(read_word(&control).expect("state"), 0, "state of the connector");
            assert_eq!(read_word(&control).expect("index"), expected, "data sockets come downwards");
            data[expected as usize] = Some(socket);
        }
        Wire { control, data: data.into_iter().flatten().collect() }
    }
}

/// One control message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message {
    pub kind: u16,
    pub index: u16,
    pub size: u32,
    pub offset: u32,
    pub total: u32,
}

pub const EMPTY: Message = Message { kind: 1, index: 0, size: 0, offset: 0, total: 0 };

impl Message {
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let full = |at: usize| word(bytes, at) as u32;
        Self { kind: half(0), index: half(2), size: full(4), offset: full(8), total: full(12) }
    }
}

impl Wire {
    /// Sends one message in chunks, each `(socket, bytes)`; payload before or after its announcement.
    pub fn send(&mut self, message: &[u8], chunks: &[(usize, usize)], payload_first: bool) {
        if message.is_empty() {
            self.control.write_all(&EMPTY.bytes()).expect("control");
            return;
        }
        let mut offset = 0;
        for &(socket, size) in chunks {
            let (index, total) = (socket as u16, message.len() as u32);
            let announced =
                Message { kind: 0, index, size: size as u32, offset: offset as u32, total }.bytes();
            if !payload_first {
                self.control.write_all(&announced).expect("control");
            }
            self.data[socket].write_all(&message[offset..offset + size]).expect("data");
            if payload_first {
                self.control.write_all(&announced).expect("control");
            }
            offset += size;
        }
        assert_eq!(offset, message.len(), "the chunks make the message");
    }

    /// Sends a message inside the control stream.
    pub fn send_inline(&mut self, message: &[u8]) {
        let n = message.len() as u32;
        let header = Message { kind: 1, index: 0, size: n, offset: 0, total: n };
        self.control.write_all(&header.bytes()).expect("control");
        self.control.write_all(message).expect("inline bytes");
    }

    /// Receives one message, and its control messages.
    pub fn receive(&self) -> (Vec<u8>, Vec<Message>) {
        let (mut bytes, mut messages) = (Vec::new(), Vec::new());
        loop {
            let message = Message::parse(&read_bytes(&self.control, 16));
            messages.push(message);
            if message.kind == 1 {
                assert_eq!(message, EMPTY, "an inline message towards a real receiver is empty");
                return (bytes, messages);
            }
            assert_eq!(message.offset as usize, bytes.len(), "chunks are contiguous");
            assert_eq!(message.total, messages[0].total);
            let data = &self.data[usize::from(message.index)];
            bytes.extend(read_bytes(data, message.size as usize));
            if bytes.len() >= message.total as usize {
                assert_eq!(bytes.len(), message.total as usize);
                return (bytes, messages);
            }
        }
    }

    /// Half-closes everything: no more bytes, but no reset either.
    pub fn finish(&self) {
        for socket in self.data.iter().chain([&self.control]) {
            socket.shutdown(Shutdown::Write).expect("half-close");
        }
    }
}
