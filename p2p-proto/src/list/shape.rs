//! How the memory of a transfer is cut, without where it lies.

use super::cut::Parts;
use super::{Cursor, ListError, longer};
use crate::frame::{MOST_RANGES, Repeat};

/// The lengths of a list's ranges, in their order: equal ones that follow each other are said once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Shape {
    repeats: Vec<Repeat>,
    total: u64,
    /// At most [`MOST_RANGES`].
    count: u32,
}

impl Shape {
    /// Without parts.
    pub const fn new() -> Self {
        Self { repeats: Vec::new(), total: 0, count: 0 }
    }

    /// Adds parts at the end. Empty ones are left out.
    ///
    /// # Errors
    ///
    /// The shape would break a limit; it is as before then.
    pub fn push(&mut self, more: Repeat) -> Result<(), ListError> {
        if more.length == 0 || more.count == 0 {
            return Ok(());
        }
        let bytes = more.length.checked_mul(u64::from(more.count)).ok_or(ListError::TooLong)?;
        let total = longer(self.total, bytes)?;
        let count = self.count.checked_add(more.count).filter(|count| *count <= MOST_RANGES);
        self.count = count.ok_or(ListError::TooMany)?;
        self.total = total;
        self.merge(more);
        Ok(())
    }

    /// Adds a part of a list, whose limits are those of a shape.
    pub(super) fn add(&mut self, length: u64) {
        self.count += 1;
        self.total += length;
        self.merge(Repeat { length, count: 1 });
    }

    /// The sum of the counts is at most [`MOST_RANGES`].
    fn merge(&mut self, more: Repeat) {
        match self.repeats.last_mut() {
            Some(last) if last.length == more.length => last.count += more.count,
            _ => self.repeats.push(more),
        }
    }

    /// Bytes of all parts.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Parts.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// At most `most` repeats from the `from`-th on, as a frame has them; empty where there are none.
    pub fn repeats(&self, from: usize, most: usize) -> &[Repeat] {
        let piece = self.repeats.get(from..).unwrap_or_default();
        &piece[..piece.len().min(most)]
    }

    /// At the first byte.
    pub const fn cursor(&self) -> Cursor {
        Cursor { position: 0, index: 0, nth: 0, offset: 0 }
    }
}

impl Parts for Shape {
    fn total(&self) -> u64 {
        self.total
    }

    fn rest(&self, at: &mut Cursor) -> u64 {
        let Some(repeat) = self.repeats.get(at.index) else { return 0 };
        if at.offset < repeat.length {
            return repeat.length - at.offset;
        }
        if at.nth + 1 < repeat.count {
            (at.nth, at.offset) = (at.nth + 1, 0);
            return repeat.length;
        }
        let Some(next) = self.repeats.get(at.index + 1) else { return 0 };
        (at.index, at.nth, at.offset) = (at.index + 1, 0, 0);
        next.length
    }

    fn walk(&self, at: &mut Cursor, bytes: u64) {
        at.position += bytes;
        at.offset += bytes;
    }
}
