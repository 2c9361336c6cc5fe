//! The one bounds check.

/// A range that does not lie inside its memory. Nothing was copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutOfBounds {
    /// First byte asked for.
    pub offset: usize,
    /// Bytes asked for.
    pub length: usize,
    /// Bytes there are.
    pub size: usize,
}

impl OutOfBounds {
    /// Checks that `offset .. offset + length` lies inside `size` bytes, without overflow.
    ///
    /// # Errors
    ///
    /// The three numbers, if it does not.
    pub const fn check(offset: usize, length: usize, size: usize) -> Result<(), Self> {
        if offset <= size && length <= size - offset { Ok(()) } else { Err(Self { offset, length, size }) }
    }
}

impl std::fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, length, size } = self;
        write!(f, "{length} bytes at offset {offset} do not lie inside a buffer of {size} bytes")
    }
}

impl std::error::Error for OutOfBounds {}

#[cfg(test)]
mod tests {
    use super::OutOfBounds;

    #[test]
    fn the_end_is_inside_and_overflow_is_not() {
        assert!(OutOfBounds::check(0, 0, 0).is_ok());
        assert!(OutOfBounds::check(8, 0, 8).is_ok());
        assert!(OutOfBounds::check(0, 8, 8).is_ok());
        assert!(OutOfBounds::check(1, 8, 8).is_err());
        assert!(OutOfBounds::check(9, 0, 8).is_err());
        assert!(OutOfBounds::check(usize::MAX, 2, 8).is_err());
        assert!(OutOfBounds::check(2, usize::MAX, 8).is_err());
    }
}
