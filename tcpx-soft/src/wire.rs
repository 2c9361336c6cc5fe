//! The published wire of GPUDirect-TCPX, byte by byte, and what two soft ends agree on beside it.
//!
//! No I/O here. Integers are in host order (little-endian machines only, as the real plugin is), except
//! ports and addresses inside a socket address.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use tcpx_sys::HANDLE_BYTES;

/// Most data sockets of a comm.
pub(crate) const MAX_SOCKETS: usize = 8;
/// State word: this side is ready.
pub(crate) const STATE_OK: i32 = 0;
/// State word: give up.
pub(crate) const STATE_FAILED: i32 = 2;
/// State word of a soft connector on the control socket of a soft acceptor. A real acceptor takes any
/// state but 0 and 2 as "come again", so a stray one does no harm.
pub(crate) const STATE_SOFT: i32 = 0x5446_4f53;
/// Longest message that travels inside the control stream between two soft ends, in bytes.
pub(crate) const INLINE_BYTES: usize = 16 << 10;

const MAGIC: [u8; 8] = *b"uccltcpx";
const ANNOUNCEMENT_VERSION: u16 = 1;
const FAMILY_V4: u16 = 2;
const FAMILY_V6: u16 = 10;
const AT_SOCKETS: usize = 36;
const AT_THREADS: usize = 40;
const AT_REDIRECT: usize = 44;
const AT_CONTROL: usize = 48;
const AT_ATTEMPT: usize = 80;
const AT_MAGIC: usize = 88;
const AT_VERSION: usize = 96;
const AT_CHECK: usize = 100;
const AT_MACHINE: usize = 104;
const AT_COOKIE: usize = 112;

/// What a listener publishes and a connector reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Handle {
    /// Where data sockets connect to.
    pub(crate) data: SocketAddr,
    /// Where the control socket connects to.
    pub(crate) control: SocketAddr,
    /// Data sockets of the comm, 1 to [`MAX_SOCKETS`].
    pub(crate) sockets: usize,
    /// Whether the control socket lies on another NIC.
    pub(crate) redirect: bool,
    /// Present when the listener is a soft one.
    pub(crate) announcement: Option<Announcement>,
}

/// A soft listener's word to soft connectors, in bytes that a real connector ignores.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Announcement {
    /// Identifies the machine (not the host name): equal on both ends when they share cores.
    pub(crate) machine: u64,
    /// Random per listener; a soft connector repeats it.
    pub(crate) cookie: u64,
}

/// Why a handle was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BadHandle {
    /// An address of neither IPv4 nor IPv6.
    Family(u16),
    /// A port of 0.
    Port,
    /// A number of data sockets outside 1 to [`MAX_SOCKETS`].
    Sockets(i32),
}

impl fmt::Display for BadHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Family(family) => write!(f, "its address family is {family}, not IPv4 or IPv6"),
            Self::Port => write!(f, "its port is 0"),
            Self::Sockets(n) => write!(f, "it names {n} data sockets; 1 to {MAX_SOCKETS} are possible"),
        }
    }
}

impl Handle {
    /// The 128 bytes that `listen` hands out.
    pub(crate) fn encode(&self) -> [u8; HANDLE_BYTES] {
        let mut bytes = [0; HANDLE_BYTES];
        put_address(&mut bytes[..28], self.data);
        bytes[28..36].fill(0xff); // port range: none
        bytes[AT_SOCKETS..AT_THREADS].copy_from_slice(&(self.sockets as i32).to_le_bytes());
        bytes[AT_THREADS..AT_REDIRECT].copy_from_slice(&1i32.to_le_bytes());
        bytes[AT_REDIRECT] = u8::from(self.redirect);
        put_address(&mut bytes[AT_CONTROL..AT_CONTROL + 28], self.control);
        if let Some(announcement) = self.announcement {
            bytes[AT_MAGIC..AT_VERSION].copy_from_slice(&MAGIC);
            bytes[AT_VERSION..AT_VERSION + 2].copy_from_slice(&ANNOUNCEMENT_VERSION.to_le_bytes());
            bytes[AT_MACHINE..AT_COOKIE].copy_from_slice(&announcement.machine.to_le_bytes());
            bytes[AT_COOKIE..AT_COOKIE + 8].copy_from_slice(&announcement.cookie.to_le_bytes());
            let check = check_value(&bytes);
            bytes[AT_CHECK..AT_MACHINE].copy_from_slice(&check.to_le_bytes());
        }
        bytes
    }

    /// Reads a handle of a soft or a real listener. Bytes that a real listener leaves as junk are not
    /// looked at; an announcement counts only with its check value, so a stale one in a buffer that a
    /// real listener did not clear is not taken for its own.
    pub(crate) fn decode(bytes: &[u8; HANDLE_BYTES]) -> Result<Self, BadHandle> {
        let sockets = i32_at(bytes, AT_SOCKETS);
        if !(1..=MAX_SOCKETS as i32).contains(&sockets) {
            return Err(BadHandle::Sockets(sockets));
        }
        let announced = bytes[AT_MAGIC..AT_VERSION] == MAGIC
            && bytes[AT_VERSION..AT_VERSION + 2] == ANNOUNCEMENT_VERSION.to_le_bytes()
            && bytes[AT_CHECK..AT_MACHINE] == check_value(bytes).to_le_bytes();
        Ok(Self {
            data: address(&bytes[..28])?,
            control: address(&bytes[AT_CONTROL..AT_CONTROL + 28])?,
            sockets: sockets as usize,
            redirect: bytes[AT_REDIRECT] != 0,
            announcement: announced.then(|| Announcement {
                machine: u64_at(bytes, AT_MACHINE),
                cookie: u64_at(bytes, AT_COOKIE),
            }),
        })
    }
}

/// The connecting process's own field of a handle: 0 in a fresh copy.
pub(crate) fn attempt(bytes: &[u8; HANDLE_BYTES]) -> u64 {
    u64_at(bytes, AT_ATTEMPT)
}

/// Writes the connecting process's own field.
pub(crate) fn set_attempt(bytes: &mut [u8; HANDLE_BYTES], attempt: u64) {
    bytes[AT_ATTEMPT..AT_MAGIC].copy_from_slice(&attempt.to_le_bytes());
}

/// FNV-1a over what identifies the listener and over the announcement itself.
fn check_value(bytes: &[u8; HANDLE_BYTES]) -> u32 {
    let covered = [0..16, 36..64, AT_MAGIC..AT_CHECK, AT_MACHINE..HANDLE_BYTES];
    covered
        .into_iter()
        .flat_map(|range| &bytes[range])
        .fold(0x811c_9dc5, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn put_address(out: &mut [u8], address: SocketAddr) {
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            out[..2].copy_from_slice(&FAMILY_V4.to_le_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&FAMILY_V6.to_le_bytes());
            out[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_le_bytes());
        }
    }
}

fn address(bytes: &[u8]) -> Result<SocketAddr, BadHandle> {
    let port = u16::from_be_bytes(array(bytes, 2));
    if port == 0 {
        return Err(BadHandle::Port);
    }
    match u16::from_le_bytes(array(bytes, 0)) {
        FAMILY_V4 => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(array::<4>(bytes, 4))), port)),
        FAMILY_V6 => Ok(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(array::<16>(bytes, 8)),
            port,
            u32::from_be_bytes(array(bytes, 4)),
            u32::from_le_bytes(array(bytes, 24)),
        ))),
        family => Err(BadHandle::Family(family)),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    core::array::from_fn(|i| bytes[at + i])
}
fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_le_bytes(array(bytes, at))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// What a soft connector says on the control socket after its index word, and nobody else does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Hello {
    /// The listener's cookie.
    pub(crate) cookie: u64,
    /// The connector's machine.
    pub(crate) machine: u64,
    /// Random per attempt; each data socket of the attempt begins with it.
    pub(crate) nonce: u64,
}

impl Hello {
    /// Bytes on the wire.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.cookie.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.machine.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[24..26].copy_from_slice(&ANNOUNCEMENT_VERSION.to_le_bytes());
        bytes
    }

    /// `None` for another version.
    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let version = u16::from_le_bytes(array(bytes, 24));
        (version == ANNOUNCEMENT_VERSION).then(|| Self {
            cookie: u64_at(bytes, 0),
            machine: u64_at(bytes, 8),
            nonce: u64_at(bytes, 16),
        })
    }
}

/// One message of the control stream, 16 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Control {
    /// 1 is INLINE; every other value is a chunk on a data socket.
    pub(crate) kind: u16,
    /// Data socket of the chunk.
    pub(crate) index: u16,
    /// Bytes of the chunk.
    pub(crate) size: u32,
    /// Bytes of the message before the chunk.
    pub(crate) offset: u32,
    /// Bytes of the message; counts in its first chunk.
    pub(crate) total: u32,
}

impl Control {
    pub(crate) const BYTES: usize = 16;
    pub(crate) const NORMAL: u16 = 0;
    pub(crate) const INLINE: u16 = 1;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.index.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            kind: u16::from_le_bytes(array(bytes, 0)),
            index: u16::from_le_bytes(array(bytes, 2)),
            size: u32::from_le_bytes(array(bytes, 4)),
            offset: u32::from_le_bytes(array(bytes, 8)),
            total: u32::from_le_bytes(array(bytes, 12)),
        }
    }
}

/// What a control message means for the message being received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Announced {
    /// `size` bytes at `offset` come on data socket `socket`; `last` ends the message.
    Chunk { socket: usize, offset: u32, size: u32, last: bool },
    /// The whole message, `size` bytes, follows on the control socket; 0 for an empty message.
    Inline { size: u32 },
}

/// Why a control message was refused. Nothing of it may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BadControl {
    /// A data socket that does not exist.
    Index(u16),
    /// A chunk of no bytes.
    EmptyChunk,
    /// More chunk bytes than the message has.
    PastTotal { total: u32, end: u64 },
    /// A chunk in another place than behind its predecessor, or an inline message inside a message.
    Place { offset: u32, expected: u32 },
    /// An inline message whose two lengths differ.
    Inline { size: u32, total: u32 },
}

impl fmt::Display for BadControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "data socket {index} does not exist"),
            Self::EmptyChunk => write!(f, "a chunk of 0 bytes"),
            Self::PastTotal { total, end } => {
                write!(f, "chunks reach byte {end} of a message of {total} bytes")
            }
            Self::Place { offset, expected } => {
                write!(f, "a chunk at byte {offset} where byte {expected} comes next")
            }
            Self::Inline { size, total } => {
                write!(f, "an inline message of {size} bytes that calls itself {total} bytes long")
            }
        }
    }
}

/// Follows the chunks of one message after another and checks each against what came before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Assembly {
    /// Bytes announced so far and length of the message, while inside one.
    current: Option<(u32, u32)>,
}

impl Assembly {
    /// Whether the next control message begins a message.
    pub(crate) fn begins(&self) -> bool {
        self.current.is_none()
    }

    /// Takes in the next control message of a comm with `sockets` data sockets. A real sender's place
    /// is the sum of the chunks before; its `offset` field says the same, so both must agree.
    pub(crate) fn take(&mut self, message: &Control, sockets: usize) -> Result<Announced, BadControl> {
        let (before, total) = self.current.unwrap_or((0, message.total));
        if message.kind == Control::INLINE {
            if before > 0 {
                return Err(BadControl::Place { offset: 0, expected: before });
            }
            if message.size != message.total && message.size != 0 {
                return Err(BadControl::Inline { size: message.size, total: message.total });
            }
            return Ok(Announced::Inline { size: message.total });
        }
        if usize::from(message.index) >= sockets {
            return Err(BadControl::Index(message.index));
        }
        if message.size == 0 {
            return Err(BadControl::EmptyChunk);
        }
        if message.offset != before {
            return Err(BadControl::Place { offset: message.offset, expected: before });
        }
        let end = u64::from(before) + u64::from(message.size);
        if end > u64::from(total) {
            return Err(BadControl::PastTotal { total, end });
        }
        let end = end as u32;
        let last = end == total;
        self.current = (!last).then_some((end, total));
        Ok(Announced::Chunk { socket: usize::from(message.index), offset: before, size: message.size, last })
    }
}

#[cfg(test)]
mod tests;
