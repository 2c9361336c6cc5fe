//! The messages of a handshake as bytes.
//!
//! Each begins like a frame, with its length (`u32`), its kind (`u16`) and flags that are 0 (`u16`), and then four
//! bytes that say that it is of a handshake. The versions in `Hello`, the version in `Challenge` and all of
//! `Refused` stay where they are in every version of the protocol: they are read before one is agreed on.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Facts, HelloError, LONGEST_ADDRESS, LONGEST_HANDSHAKE, LONGEST_NAME, LONGEST_NIC, RailFacts, Versions,
};
use crate::frame::{LONGEST_TEXT, MOST_RAILS};
use crate::id::{EndpointId, Epoch};
use crate::wire::reader::{Reader, Rule, text, unused};
use crate::wire::{HEADER, cut};

/// First bytes of the body of each message.
pub(super) const MAGIC: [u8; 4] = *b"UP2P";
/// Bytes before the fields of a message.
pub(super) const HEAD: usize = HEADER + MAGIC.len();
/// Bytes of a nonce, and of a seal.
pub(super) const SEAL: usize = 32;

pub(super) const HELLO: u16 = 0x101;
pub(super) const CHALLENGE: u16 = 0x102;
pub(super) const PROOF: u16 = 0x103;
pub(super) const WELCOME: u16 = 0x104;
pub(super) const REFUSED: u16 = 0x105;

/// Bytes of the longest party.
const PARTY: usize = SEAL + 16 + 8 + 4 + 2 + LONGEST_NAME + 2 + MOST_RAILS * (4 + 2 + 2 + LONGEST_NIC);
/// Room for what later versions may say in the first message.
const LONGEST_HELLO: usize = 16 << 10;
const LONGEST_CHALLENGE: usize = HEAD + 2 + PARTY + SEAL;
const LONGEST_PROOF: usize = HEAD + SEAL;
const LONGEST_WELCOME: usize = HEAD + 2 + MOST_RAILS * (2 + LONGEST_ADDRESS) + SEAL;
const LONGEST_REFUSED: usize = HEAD + 6 + LONGEST_TEXT;
/// Bytes of the longest message.
pub(super) const LONGEST: usize = LONGEST_WELCOME;

const _: () = {
    assert!(HEAD + 4 + PARTY <= LONGEST_HELLO);
    // Each end says each of them once at most.
    let sum = LONGEST_HELLO + LONGEST_CHALLENGE + LONGEST_PROOF + LONGEST_WELCOME + LONGEST_REFUSED;
    assert!(sum <= LONGEST_HANDSHAKE);
    assert!(LONGEST_HELLO <= LONGEST && LONGEST_CHALLENGE <= LONGEST && LONGEST_REFUSED <= LONGEST);
};

/// How a kind of message is called, and its bytes at most.
pub(super) fn known(kind: u16) -> Option<(&'static str, usize)> {
    Some(match kind {
        HELLO => ("hello", LONGEST_HELLO),
        CHALLENGE => ("challenge", LONGEST_CHALLENGE),
        PROOF => ("proof", LONGEST_PROOF),
        WELCOME => ("welcome", LONGEST_WELCOME),
        REFUSED => ("refused", LONGEST_REFUSED),
        _ => return None,
    })
}

/// One end, as it introduces itself.
pub(super) struct Party {
    pub(super) facts: Facts,
    pub(super) secret: bool,
    pub(super) nonce: [u8; SEAL],
}

mod bit {
    /// It has a device.
    pub(super) const DEVICE: u16 = 1;
    /// It has a secret.
    pub(super) const SECRET: u16 = 2;
}

/// Why somebody says `Refused`.
mod reason {
    /// The text says it.
    pub(super) const TEXT: u16 = 0;
    /// No version is spoken by both.
    pub(super) const VERSION: u16 = 1;
    /// A seal is wrong.
    pub(super) const SECRET: u16 = 2;
    /// One end has a secret, and the other has none.
    pub(super) const ONE_SECRET: u16 = 3;
}

/// A whole message with the fields that `body` writes.
pub(super) fn write(kind: u16, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut message = BytesMut::with_capacity(256);
    message.put_slice(&[0; HEADER]);
    message.put_slice(&MAGIC);
    body(&mut message);
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut header = &mut message[..];
    header.put_u32_le(length);
    header.put_u16_le(kind);
    message
}

/// The fields of a whole message.
pub(super) fn fields(message: &[u8]) -> Reader<'_> {
    Reader(message.get(HEAD..).unwrap_or_default())
}

/// The fields of a whole message before the seal at its end.
pub(super) fn sealed(message: &[u8]) -> Result<Reader<'_>, Rule> {
    let fields = fields(message).0;
    let length = fields.len().checked_sub(SEAL).ok_or("it ends too early")?;
    Ok(Reader(&fields[..length]))
}

pub(super) fn write_versions(versions: Versions, into: &mut BytesMut) {
    into.put_u16_le(versions.min);
    into.put_u16_le(versions.max);
}

pub(super) fn read_versions(reader: &mut Reader<'_>) -> Result<Versions, Rule> {
    let (min, max) = (reader.u16()?, reader.u16()?);
    if min > max { Err("its versions end before they begin") } else { Ok(Versions { min, max }) }
}

pub(super) fn write_party(party: &Party, into: &mut BytesMut) {
    let Party { facts, secret, nonce } = party;
    into.put_slice(nonce);
    into.put_slice(&facts.endpoint.0);
    into.put_u64_le(facts.epoch.0);
    let device = if facts.device.is_some() { bit::DEVICE } else { 0 };
    into.put_u16_le(device | if *secret { bit::SECRET } else { 0 });
    into.put_u16_le(facts.device.unwrap_or_default());
    write_short(cut(&facts.name, LONGEST_NAME).as_bytes(), into);
    let rails = &facts.rails[..facts.rails.len().min(MOST_RAILS)];
    into.put_u16_le(short(rails.len()));
    for rail in rails {
        into.put_u32_le(rail.megabits);
        into.put_u16_le(rail.channels);
        write_short(cut(&rail.nic, LONGEST_NIC).as_bytes(), into);
    }
}

pub(super) fn read_party(reader: &mut Reader<'_>) -> Result<Party, Rule> {
    let nonce = reader.array()?;
    let endpoint = EndpointId(reader.array()?);
    let epoch = Epoch(reader.u64()?);
    let (bits, device) = (reader.u16()?, reader.u16()?);
    if bits & !(bit::DEVICE | bit::SECRET) != 0 {
        return Err("a flag that is not known");
    }
    let device = if bits & bit::DEVICE != 0 { Some(device) } else { unused(device).map(|()| None)? };
    let name = text(read_short(reader)?, LONGEST_NAME)?;
    let count = usize::from(reader.u16()?);
    if count == 0 || count > MOST_RAILS {
        return Err("no rails, or more than a link may have");
    }
    let rails = (0..count).map(|_| read_rail(reader)).collect::<Result<_, _>>()?;
    let facts = Facts { endpoint, epoch, device, name, rails };
    Ok(Party { facts, secret: bits & bit::SECRET != 0, nonce })
}

fn read_rail(reader: &mut Reader<'_>) -> Result<RailFacts, Rule> {
    let (megabits, channels) = (reader.u32()?, reader.u16()?);
    Ok(RailFacts { nic: text(read_short(reader)?, LONGEST_NIC)?, megabits, channels })
}

/// Whether these are addresses that can be said.
pub(super) fn check_addresses(addresses: &[Bytes]) -> Result<(), Rule> {
    if addresses.is_empty() || addresses.len() > MOST_RAILS {
        return Err("no rails, or more than a link may have");
    }
    addresses.iter().try_for_each(|address| check_address(address))
}

fn check_address(address: &[u8]) -> Result<(), Rule> {
    let good = (1..=LONGEST_ADDRESS).contains(&address.len());
    if good { Ok(()) } else { Err("an address that is empty or too long") }
}

pub(super) fn write_addresses(addresses: &[Bytes], into: &mut BytesMut) {
    into.put_u16_le(short(addresses.len()));
    addresses.iter().for_each(|address| write_short(address, into));
}

pub(super) fn read_addresses(reader: &mut Reader<'_>) -> Result<Vec<Bytes>, Rule> {
    let count = usize::from(reader.u16()?);
    if count == 0 || count > MOST_RAILS {
        return Err("no rails, or more than a link may have");
    }
    let address = |_| {
        let address = read_short(reader)?;
        check_address(address)?;
        Ok(Bytes::copy_from_slice(address))
    };
    (0..count).map(address).collect()
}

/// What an end that gives up says to the other one; `None` if it says nothing.
pub(super) fn refusal(error: &HelloError, own: Versions) -> Option<BytesMut> {
    let reason = match error {
        // It would not understand, or has given up itself.
        HelloError::Stranger | HelloError::Refused(_) => return None,
        HelloError::Version { .. } => reason::VERSION,
        HelloError::WrongSecret => reason::SECRET,
        HelloError::OneSecret { .. } => reason::ONE_SECRET,
        HelloError::Order { .. } | HelloError::Rule { .. } | HelloError::Misuse(_) => reason::TEXT,
    };
    // A text about "its message" is told to the one who said it.
    let why = error.to_string();
    let why = why.strip_prefix("its ").map_or_else(|| why.clone(), |rest| format!("your {rest}"));
    Some(write_refused(reason, own, &why))
}

pub(super) fn refused(own: Versions, why: &str) -> BytesMut {
    write_refused(reason::TEXT, own, why)
}

fn write_refused(reason: u16, own: Versions, why: &str) -> BytesMut {
    write(REFUSED, |into| {
        into.put_u16_le(reason);
        write_versions(own, into);
        into.put_slice(cut(why, LONGEST_TEXT).as_bytes());
    })
}

/// What it means here that the other end has refused.
pub(super) fn read_refused(message: &[u8], own: Versions, secret: bool) -> Result<HelloError, Rule> {
    let mut reader = fields(message);
    let reason = reader.u16()?;
    let peer = read_versions(&mut reader)?;
    let why = text(reader.rest(), LONGEST_TEXT)?;
    Ok(match reason {
        reason::VERSION => HelloError::Version { own, peer },
        reason::SECRET => HelloError::WrongSecret,
        reason::ONE_SECRET => HelloError::OneSecret { here: secret },
        _ => HelloError::Refused(why),
    })
}

fn write_short(bytes: &[u8], into: &mut BytesMut) {
    into.put_u16_le(short(bytes.len()));
    into.put_slice(bytes);
}

fn read_short<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Rule> {
    let length = reader.u16()?;
    reader.bytes(length.into())
}

/// Lengths are checked or cut before they are written.
fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
