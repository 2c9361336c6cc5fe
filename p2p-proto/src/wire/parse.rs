//! From the body of one whole frame to the frame.

use bytes::Bytes;

use crate::frame::{
    Chunk, Frame, Kind, LONGEST_PIECE, LONGEST_TEXT, LONGEST_TRANSFER, MOST_RAILS, MOST_RANGES, Owner,
    Refusal, Repeat, Run, Verdict,
};
use crate::id::{RailIndex, RegionKey, TransferId};

use super::decode::Spare;
use super::reader::{Reader, Rule, text, unused};
use super::{flag, kind, refusal, size, transfer, verdict};

/// How a kind of frame is called, and which flags it may have; `None` if there is no such kind.
pub(super) fn known(kind: u16) -> Option<(&'static str, u16)> {
    Some(match kind {
        kind::BEGIN => ("begin", flag::COUNTER),
        kind::RANGES => ("ranges", 0),
        kind::SHAPE => ("shape", flag::HEARER),
        kind::CHUNKS => ("chunks", 0),
        kind::FIN => ("fin", flag::HEARER),
        kind::NOTIFY => ("notify", flag::AFTER | flag::MORE),
        kind::PING => ("ping", 0),
        kind::PONG => ("pong", 0),
        kind::GOODBYE => ("goodbye", 0),
        _ => return None,
    })
}

/// Reads the body of a frame of a known kind with known flags. Its lists are put into spare ones.
pub(super) fn body(kind: u16, flags: u16, reader: &mut Reader<'_>, spare: &mut Spare) -> Result<Frame, Rule> {
    let frame = match kind {
        kind::BEGIN => begin(flags, reader)?,
        kind::RANGES => ranges(reader, spare)?,
        kind::SHAPE => shape(flags, reader, spare)?,
        kind::CHUNKS => chunks(reader, spare)?,
        kind::FIN => {
            let transfer = transfer_id(reader)?;
            let verdict = verdict(reader.u16()?, reader.u16()?)?;
            Frame::Fin { owner: owner(flags.into())?, transfer, verdict }
        }
        kind::NOTIFY => notify(flags, reader)?,
        kind::PING => Frame::Ping { number: reader.u64()? },
        kind::PONG => Frame::Pong { number: reader.u64()? },
        kind::GOODBYE => Frame::Goodbye { why: text(reader.rest(), LONGEST_TEXT)? },
        _ => return Err("its kind is not known"),
    };
    reader.end()?;
    Ok(frame)
}

fn begin(flags: u16, reader: &mut Reader<'_>) -> Result<Frame, Rule> {
    let transfer = transfer_id(reader)?;
    let (total, ranges, counter) = (reader.u64()?, reader.u32()?, reader.u32()?);
    let kind = match reader.u16()? {
        transfer::WRITE => Kind::Write,
        transfer::READ => Kind::Read,
        transfer::SEND => Kind::Send,
        _ => return Err("a kind of transfer that is not known"),
    };
    unused(reader.u16()?)?;
    let counter = optional(flags & flag::COUNTER != 0, counter)?;
    if total > LONGEST_TRANSFER {
        return Err("a transfer that is too long");
    }
    if ranges > MOST_RANGES {
        return Err("a transfer with too many ranges");
    }
    match kind {
        Kind::Write | Kind::Read => {
            // No range is empty, so there are none exactly where there is nothing to move.
            if u64::from(ranges) > total || (ranges == 0 && total > 0) {
                return Err("so many bytes cannot be in so many ranges");
            }
        }
        Kind::Send if ranges > 0 => return Err("a send with ranges"),
        Kind::Send => {}
    }
    if counter.is_some() && kind != Kind::Write {
        return Err("a counter, and it is no write");
    }
    Ok(Frame::Begin { transfer, kind, total, ranges, counter })
}

fn ranges(reader: &mut Reader<'_>, spare: &mut Spare) -> Result<Frame, Rule> {
    let (transfer, count) = list(reader)?;
    // Each run has a range at least.
    if count == 0 || count as usize > reader.0.len() / (size::RUN + size::RANGE) {
        return Err("a list without anything in it, or longer than the frame");
    }
    let mut runs = spare.runs();
    runs.reserve(count as usize);
    let mut sum = Sum::default();
    for _ in 0..count {
        let key = RegionKey { index: reader.u32()?, generation: reader.u32()?, secret: reader.u64()? };
        let count = reader.u32()?;
        unused(reader.u32()?)?;
        let records = reader.records::<{ size::RANGE }>(count)?;
        let mut ranges = spare.ranges();
        ranges.reserve(records.len());
        for record in records {
            let mut record = Reader(record);
            let (offset, length) = (record.u64()?, record.u64()?);
            offset.checked_add(length).ok_or("a range that ends beyond all memory")?;
            sum.add(length, 1)?;
            ranges.push((offset, length));
        }
        runs.push(Run { key, ranges });
    }
    Ok(Frame::Ranges { transfer, runs })
}

fn shape(flags: u16, reader: &mut Reader<'_>, spare: &mut Spare) -> Result<Frame, Rule> {
    let (transfer, count) = list(reader)?;
    let records = reader.records::<{ size::REPEAT }>(count)?;
    let mut parts = spare.repeats();
    parts.reserve(records.len());
    let mut sum = Sum::default();
    for record in records {
        let mut record = Reader(record);
        let (length, count) = (record.u64()?, record.u32()?);
        sum.add(length, count)?;
        parts.push(Repeat { length, count });
    }
    Ok(Frame::Shape { owner: owner(flags.into())?, transfer, parts })
}

fn chunks(reader: &mut Reader<'_>, spare: &mut Spare) -> Result<Frame, Rule> {
    let (before, count) = (reader.u64()?, reader.u32()?);
    let rail = rail(reader.u32()?)?;
    let records = reader.records::<{ size::CHUNK }>(count)?;
    before.checked_add(count.into()).ok_or("more messages than can be counted")?;
    let mut chunks = spare.chunks();
    chunks.reserve(records.len());
    for record in records {
        chunks.push(chunk(&mut Reader(record))?);
    }
    Ok(Frame::Chunks { rail, before, chunks })
}

fn chunk(record: &mut Reader<'_>) -> Result<Chunk, Rule> {
    let transfer = transfer_id(record)?;
    let (start, length) = (record.u64()?, record.u32()?);
    if length == 0 {
        return Err("a chunk of length 0");
    }
    if start.checked_add(length.into()).is_none_or(|end| end > LONGEST_TRANSFER) {
        return Err("a chunk beyond the longest transfer");
    }
    Ok(Chunk { owner: owner(record.u32()?)?, transfer, start, length })
}

fn notify(flags: u16, reader: &mut Reader<'_>) -> Result<Frame, Rule> {
    let after = optional(flags & flag::AFTER != 0, reader.u64()?)?;
    if after == Some(0) {
        return Err("a transfer of number 0");
    }
    let more = flags & flag::MORE != 0;
    let bytes = reader.rest();
    if bytes.len() > LONGEST_PIECE {
        return Err("a part of a notification that is too long");
    }
    if more && bytes.is_empty() {
        return Err("a part of a notification without anything in it");
    }
    // A copy of its own: a small notification that is kept must not keep a buffer of frames.
    Ok(Frame::Notify { after: after.map(TransferId), more, bytes: Bytes::copy_from_slice(bytes) })
}

/// What stands before a list of a transfer: whose it is, and how long.
fn list(reader: &mut Reader<'_>) -> Result<(TransferId, u32), Rule> {
    let (transfer, count) = (transfer_id(reader)?, reader.u32()?);
    unused(reader.u32()?)?;
    Ok((transfer, count))
}

fn transfer_id(reader: &mut Reader<'_>) -> Result<TransferId, Rule> {
    let number = reader.u64()?;
    if number == 0 { Err("a transfer of number 0") } else { Ok(TransferId(number)) }
}

fn owner(flag: u32) -> Result<Owner, Rule> {
    if flag == 0 {
        Ok(Owner::Speaker)
    } else if flag == flag::HEARER.into() {
        Ok(Owner::Hearer)
    } else {
        Err("a transfer of neither end")
    }
}

fn verdict(verdict: u16, detail: u16) -> Result<Verdict, Rule> {
    Ok(match verdict {
        verdict::LANDED => {
            unused(detail)?;
            Verdict::Landed
        }
        verdict::REFUSED => Verdict::Refused(refusal(detail)?),
        verdict::RAIL_LOST => Verdict::RailLost(rail(detail.into())?),
        verdict::MEMORY_GONE => {
            unused(detail)?;
            Verdict::MemoryGone
        }
        _ => return Err("a verdict that is not known"),
    })
}

fn refusal(number: u16) -> Result<Refusal, Rule> {
    Ok(match number {
        refusal::UNKNOWN_KEY => Refusal::UnknownKey,
        refusal::OUT_OF_RANGE => Refusal::OutOfRange,
        refusal::TOO_LONG => Refusal::TooLong,
        refusal::TOO_MANY => Refusal::TooMany,
        refusal::WITHDRAWN => Refusal::Withdrawn,
        _ => return Err("a refusal that is not known"),
    })
}

fn rail(number: u32) -> Result<RailIndex, Rule> {
    let number = u8::try_from(number).ok().filter(|number| usize::from(*number) < MOST_RAILS);
    number.map(RailIndex).ok_or("a rail that no link has")
}

/// A field that is 0 where it says nothing.
fn optional<T: Copy + Into<u64>>(there: bool, value: T) -> Result<Option<T>, Rule> {
    if there { Ok(Some(value)) } else { unused(value).map(|()| None) }
}

/// All parts of a transfer that one frame names.
#[derive(Default)]
struct Sum {
    bytes: u64,
    parts: u32,
}

impl Sum {
    fn add(&mut self, length: u64, count: u32) -> Result<(), Rule> {
        if length == 0 || count == 0 {
            return Err("a range of length 0");
        }
        let more = length.checked_mul(count.into());
        let bytes = more.and_then(|more| self.bytes.checked_add(more));
        self.bytes = bytes.filter(|bytes| *bytes <= LONGEST_TRANSFER).ok_or("a transfer that is too long")?;
        let parts = self.parts.checked_add(count);
        self.parts = parts.filter(|parts| *parts <= MOST_RANGES).ok_or("a transfer with too many ranges")?;
        Ok(())
    }
}
