//! What two backends say to each other beside the data.

use p2p_transport::Address;

use crate::verbs::MAX_SGE;

pub(crate) const VERSION: u32 = 0x5244_0001;
pub(crate) const MAX_CHANNELS: usize = 4;

/// Queue pairs of one end: those for messages, and the one for one-sided operations last.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Hello {
    pub(crate) listener: (u32, u32),
    pub(crate) gid: u64,
    pub(crate) channels: u32,
    pub(crate) pairs: [u32; MAX_CHANNELS + 1],
}

impl Hello {
    pub(crate) const BYTES: usize = 24 + 4 * (MAX_CHANNELS + 1);

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for word in [VERSION, self.listener.0, self.listener.1] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.gid.to_le_bytes());
        out.extend(self.channels.to_le_bytes());
        for pair in self.pairs {
            out.extend(pair.to_le_bytes());
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let gid = u64::from_le_bytes(bytes.get(12..20)?.try_into().ok()?);
        let channels = word(20)?;
        let mut pairs = [0; MAX_CHANNELS + 1];
        for (index, pair) in pairs.iter_mut().enumerate() {
            *pair = word(24 + 4 * index)?;
        }
        let known = word(0)? == VERSION && (1..=MAX_CHANNELS as u32).contains(&channels);
        known.then_some(Self { listener: (word(4)?, word(8)?), gid, channels, pairs })
    }
}

/// Where a listener is found: the port of its process's only door, and which listener it is.
pub(crate) fn address(port: u16, listener: (u32, u32)) -> Address {
    let mut bytes = [0; 14];
    bytes[..4].copy_from_slice(&VERSION.to_le_bytes());
    bytes[4..6].copy_from_slice(&port.to_le_bytes());
    bytes[6..10].copy_from_slice(&listener.0.to_le_bytes());
    bytes[10..].copy_from_slice(&listener.1.to_le_bytes());
    Address::new(&bytes).expect("short")
}

pub(crate) fn parse(address: &Address) -> Option<(u16, (u32, u32))> {
    let bytes: &[u8; 14] = address.as_bytes().try_into().ok()?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let port = u16::from_le_bytes([bytes[4], bytes[5]]);
    (word(0) == VERSION).then_some((port, (word(6), word(10))))
}

/// What a receive on an unordered fabric tells the sender: where the bytes of the message belong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Advert {
    pub(crate) sequence: u32,
    /// The receive's place; comes back in the immediate of each write.
    pub(crate) slot: u16,
    pub(crate) count: u16,
    pub(crate) pieces: [Piece; MAX_SGE],
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Piece {
    pub(crate) addr: u64,
    pub(crate) rkey: u32,
    pub(crate) len: u32,
}

impl Advert {
    pub(crate) const BYTES: usize = 8 + 16 * MAX_SGE;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..4].copy_from_slice(&self.sequence.to_le_bytes());
        out[4..6].copy_from_slice(&self.slot.to_le_bytes());
        out[6..8].copy_from_slice(&self.count.to_le_bytes());
        for (piece, place) in self.pieces.iter().zip(out[8..].chunks_exact_mut(16)) {
            place[..8].copy_from_slice(&piece.addr.to_le_bytes());
            place[8..12].copy_from_slice(&piece.rkey.to_le_bytes());
            place[12..].copy_from_slice(&piece.len.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut advert = Self { sequence: word(0), slot: half(4), count: half(6), ..Self::default() };
        for (index, piece) in advert.pieces.iter_mut().enumerate() {
            let at = 8 + 16 * index;
            let addr = u64::from(word(at)) | u64::from(word(at + 4)) << 32;
            *piece = Piece { addr, rkey: word(at + 8), len: word(at + 12) };
        }
        (usize::from(advert.count) <= MAX_SGE).then_some(advert)
    }
}

/// The 32 bits of a write: the receive it belongs to, how many writes make the message, and whether the
/// message is too long and was not written at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Imm {
    pub(crate) slot: u16,
    pub(crate) writes: u8,
    pub(crate) too_long: bool,
}

impl Imm {
    pub(crate) const fn bits(self) -> u32 {
        self.slot as u32 | (self.writes as u32) << 16 | (self.too_long as u32) << 24
    }

    pub(crate) const fn of(bits: u32) -> Self {
        Self { slot: bits as u16, writes: (bits >> 16) as u8, too_long: bits >> 24 != 0 }
    }
}
