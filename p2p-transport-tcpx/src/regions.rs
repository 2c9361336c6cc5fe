//! Where registered memory lies among the registrations of a comm.
//!
//! A plugin registers at most so many bytes at once (2 GiB in version 7, whose length is an `int`). A longer
//! region is registered in pieces that overlap by the longest message, so that each slice of a message lies
//! wholly in one of them.

use p2p_memory::{OutOfBounds, PAGE, Part, Shared};

/// How a region is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cut {
    length: usize,
    /// Distance between the starts of two pieces.
    stride: usize,
    /// Bytes of a piece, the last one excepted.
    piece: usize,
}

impl Cut {
    /// Cuts `length` bytes for a plugin that registers at most `most` at once, and for slices of at most
    /// [`longest_slice`].
    pub(crate) fn new(length: usize, most: usize) -> Self {
        if length <= most {
            return Self { length, stride: length.max(1), piece: length };
        }
        let piece = most - most % PAGE;
        Self { length, stride: piece - longest_slice(most), piece }
    }

    /// Pieces there are; at least one.
    pub(crate) const fn pieces(self) -> usize {
        if self.length <= self.piece { 1 } else { (self.length - self.piece).div_ceil(self.stride) + 1 }
    }

    /// First byte and length of a piece.
    fn piece(self, index: usize) -> (usize, usize) {
        let start = index * self.stride;
        (start, self.piece.min(self.length - start))
    }

    /// The piece in which a slice that begins here lies, and where in it.
    #[inline]
    pub(crate) const fn find(self, offset: usize) -> (usize, usize) {
        let index = offset / self.stride;
        let last = self.pieces() - 1;
        let index = if index < last { index } else { last };
        (index, offset - index * self.stride)
    }

    /// The pieces of a memory, each another owner of the whole.
    pub(crate) fn parts(self, memory: &Shared) -> Result<Vec<Part>, OutOfBounds> {
        (0..self.pieces())
            .map(|index| self.piece(index))
            .map(|(at, length)| memory.part(at, length))
            .collect()
    }
}

/// Longest slice that surely lies in one piece, for a plugin that registers at most `most` bytes at once: half
/// of it, in whole pages.
pub(crate) const fn longest_slice(most: usize) -> usize {
    most / 2 - most / 2 % PAGE
}

#[cfg(test)]
mod tests {
    use super::{Cut, longest_slice};
    use p2p_memory::PAGE;
    use proptest::prelude::*;

    proptest! {
        /// Every slice of a message lies in the piece that is found for it, pieces start at whole pages, and
        /// none is longer than allowed.
        #[test]
        fn each_slice_lies_in_one_piece(
            length in 1..40 * PAGE,
            most in 2 * PAGE..20 * PAGE,
            at in any::<prop::sample::Index>(),
            slice in 0..20 * PAGE,
        ) {
            let cut = Cut::new(length, most);
            let offset = at.index(length + 1);
            let slice = slice.min(longest_slice(most)).min(length - offset);
            let (index, inside) = cut.find(offset);
            let (start, piece) = cut.piece(index);
            prop_assert!(index < cut.pieces());
            prop_assert_eq!(start + inside, offset);
            prop_assert!(inside + slice <= piece, "{:?}", cut);
            prop_assert!(piece <= most && start % PAGE == 0);
            let (start, piece) = cut.piece(cut.pieces() - 1);
            prop_assert_eq!(start + piece, length);
        }
    }

    #[test]
    fn what_fits_is_one_piece() {
        assert_eq!(Cut::new(5000, usize::MAX).pieces(), 1);
        assert_eq!(Cut::new(4 << 30, usize::MAX).find(3 << 30), (0, 3 << 30));
        assert_eq!(Cut::new(5 << 30, i32::MAX as usize).pieces(), 5);
    }
}
