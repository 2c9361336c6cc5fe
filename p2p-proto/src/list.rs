//! The memory of a transfer: many ranges, one after another, whose bytes are counted as one row.
//!
//! A [`List`] holds ranges of this end or of the peer, a [`Shape`] only their lengths. A [`Cursor`] stands at a
//! byte of either and walks on without searching. [`fn@cut`] says how long the next message may be, so that
//! neither end has to name more slices for it than its transport takes.

mod cut;
mod shape;
#[cfg(test)]
mod tests;

use std::fmt;

pub use cut::{Parts, cut};
pub use shape::Shape;

use crate::frame::{LONGEST_TRANSFER, MOST_RANGES, Run};
use crate::id::{LocalRegion, RegionKey};

/// A stretch of memory.
pub trait Range: Copy + fmt::Debug {
    /// Its first byte, counted from the start of its memory.
    fn offset(&self) -> u64;
    /// Its bytes.
    fn length(&self) -> u64;
    /// Whether the other one is counted from the start of the same memory.
    fn shares_memory(&self, other: &Self) -> bool;
    /// `length` bytes of its memory, from `offset` on.
    fn with(&self, offset: u64, length: u64) -> Self;
}

/// Memory of this end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LocalRange {
    /// Where it lies.
    pub region: LocalRegion,
    /// Its first byte, counted from the start of the region.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

/// Memory of the peer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RemoteRange {
    /// What opens it.
    pub key: RegionKey,
    /// Its first byte, counted from the start of what the key opens.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

impl Range for LocalRange {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn length(&self) -> u64 {
        self.len
    }

    fn shares_memory(&self, other: &Self) -> bool {
        self.region == other.region
    }

    fn with(&self, offset: u64, length: u64) -> Self {
        Self { region: self.region, offset, len: length }
    }
}

impl Range for RemoteRange {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn length(&self) -> u64 {
        self.len
    }

    fn shares_memory(&self, other: &Self) -> bool {
        self.key == other.key
    }

    fn with(&self, offset: u64, length: u64) -> Self {
        Self { key: self.key, offset, len: length }
    }
}

/// Why a range or a part does not fit in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum ListError {
    /// The transfer would be longer than [`LONGEST_TRANSFER`].
    #[error("a transfer has at most {LONGEST_TRANSFER} bytes: make several of it")]
    TooLong,
    /// The transfer would have more ranges than [`MOST_RANGES`], neighbours merged.
    #[error("a transfer has at most {MOST_RANGES} ranges: make several of it")]
    TooMany,
    /// The range ends behind the last offset that there is.
    #[error("a range ends behind the last offset that 64 bits can say: its offset or its length is wrong")]
    NoSuchMemory,
}

/// A byte of a [`List`] or a [`Shape`], or the end of it.
///
/// It belongs to the one that it was made of, and stays good when that one grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cursor {
    position: u64,
    /// Of the range, or of the repeat.
    index: usize,
    /// Which of the repeat's parts; 0 in a list.
    nth: u32,
    /// In the part. Its length where the cursor has walked to its end; the next part may not be there yet.
    offset: u64,
}

impl Cursor {
    /// Bytes before it.
    pub const fn position(&self) -> u64 {
        self.position
    }
}

/// Ranges, in the order of the transfer's bytes. Neighbours that continue each other are one, and none is empty.
#[derive(Clone, Debug)]
pub struct List<R> {
    ranges: Vec<R>,
    /// Position of the first byte of each.
    starts: Vec<u64>,
    total: u64,
}

/// Memory of the peer, in the order of a transfer's bytes.
pub type RemoteList = List<RemoteRange>;

impl<R> Default for List<R> {
    fn default() -> Self {
        Self { ranges: Vec::new(), starts: Vec::new(), total: 0 }
    }
}

impl<R: Range> List<R> {
    /// Without ranges.
    pub fn new() -> Self {
        Self::default()
    }

    /// Without ranges, and with room for so many.
    pub fn with_capacity(ranges: usize) -> Self {
        Self { ranges: Vec::with_capacity(ranges), starts: Vec::with_capacity(ranges), total: 0 }
    }

    /// Of all these ranges.
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push).
    pub fn of(ranges: impl IntoIterator<Item = R>) -> Result<Self, ListError> {
        let ranges = ranges.into_iter();
        let mut list = Self::with_capacity(ranges.size_hint().0.min(MOST_RANGES as usize));
        for range in ranges {
            list.push(range)?;
        }
        Ok(list)
    }

    /// Adds a range at the end. An empty one is left out.
    ///
    /// # Errors
    ///
    /// The list would break a limit; it is as before then.
    pub fn push(&mut self, range: R) -> Result<(), ListError> {
        let (offset, length) = (range.offset(), range.length());
        if length == 0 {
            return Ok(());
        }
        if offset.checked_add(length).is_none() {
            return Err(ListError::NoSuchMemory);
        }
        let total = longer(self.total, length)?;
        let full = self.ranges.len() >= MOST_RANGES as usize;
        match self.ranges.last_mut() {
            Some(last) if last.offset() + last.length() == offset && last.shares_memory(&range) => {
                *last = last.with(last.offset(), last.length() + length);
            }
            _ if full => return Err(ListError::TooMany),
            _ => {
                self.ranges.push(range);
                self.starts.push(self.total);
            }
        }
        self.total = total;
        Ok(())
    }

    /// Leaves out all ranges, and keeps their room.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.starts.clear();
        self.total = 0;
    }

    /// Bytes of all ranges.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Ranges, neighbours merged. At most [`MOST_RANGES`].
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no byte.
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, neighbours merged.
    pub fn ranges(&self) -> &[R] {
        &self.ranges
    }

    /// The lengths of its ranges.
    pub fn shape(&self) -> Shape {
        let mut shape = Shape::new();
        self.ranges.iter().for_each(|range| shape.add(range.length()));
        shape
    }

    /// At the first byte.
    pub const fn cursor(&self) -> Cursor {
        Cursor { position: 0, index: 0, nth: 0, offset: 0 }
    }

    /// At the byte at `position`, or at the end if there is none.
    pub fn seek(&self, position: u64) -> Cursor {
        self.stand(position, 0, self.starts.len())
    }

    /// Moves a cursor to the byte at `position`, or to the end if there is none. Cheap if it is not far.
    pub fn move_to(&self, at: &mut Cursor, position: u64) {
        let (mut low, mut high) = (at.index.min(self.starts.len()), at.index.saturating_add(1));
        let mut stride = 1;
        while low > 0 && self.starts.get(low).is_none_or(|start| *start > position) {
            low = low.saturating_sub(stride);
            stride *= 2;
        }
        stride = 1;
        while self.starts.get(high).is_some_and(|start| *start <= position) {
            high += stride;
            stride *= 2;
        }
        *at = self.stand(position, low, high.min(self.starts.len()));
    }

    /// The byte lies in one of the ranges of `low..high`.
    fn stand(&self, position: u64, low: usize, high: usize) -> Cursor {
        let position = position.min(self.total);
        let later = self.starts[low..high].partition_point(|start| *start <= position);
        let index = (low + later).saturating_sub(1);
        let start = self.starts.get(index).copied().unwrap_or_default();
        Cursor { position, index, nth: 0, offset: position - start }
    }

    /// Adds the parts of the next `length` bytes to `out`, and walks on behind them. Returns their bytes, which
    /// are fewer only at the end.
    pub fn parts(&self, at: &mut Cursor, length: u32, out: &mut Vec<R>) -> u32 {
        let mut left = u64::from(length);
        while left > 0 {
            let rest = self.rest(at);
            if rest == 0 {
                break;
            }
            let step = rest.min(left);
            let range = &self.ranges[at.index];
            out.push(range.with(range.offset() + at.offset, step));
            self.walk(at, step);
            left -= step;
        }
        length - left as u32
    }
}

impl List<RemoteRange> {
    /// At most `most` ranges from the `from`-th on, as a frame has them; empty where there are none. So a list is
    /// said in frames without a copy of the whole of it.
    pub fn runs(&self, from: usize, most: usize) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let piece = self.ranges.get(from..).unwrap_or_default();
        let piece = &piece[..piece.len().min(most)];
        for group in piece.chunk_by(|one, next| one.key == next.key) {
            let ranges = group.iter().map(|range| (range.offset, range.len)).collect();
            runs.extend(group.first().map(|range| Run { key: range.key, ranges }));
        }
        runs
    }
}

impl<R: Range> Parts for List<R> {
    fn total(&self) -> u64 {
        self.total
    }

    fn rest(&self, at: &mut Cursor) -> u64 {
        let Some(range) = self.ranges.get(at.index) else { return 0 };
        if at.offset < range.length() {
            return range.length() - at.offset;
        }
        let Some(next) = self.ranges.get(at.index + 1) else { return 0 };
        (at.index, at.offset) = (at.index + 1, 0);
        next.length()
    }

    fn walk(&self, at: &mut Cursor, bytes: u64) {
        at.position += bytes;
        at.offset += bytes;
    }
}

/// A total with `more` bytes.
fn longer(total: u64, more: u64) -> Result<u64, ListError> {
    total.checked_add(more).filter(|sum| *sum <= LONGEST_TRANSFER).ok_or(ListError::TooLong)
}
