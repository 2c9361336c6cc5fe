//! Owned host memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;

use crate::{Memory, MemoryKind, OutOfBounds, PAGE};

/// Zeroed, aligned host memory with one owner.
///
/// While nobody else uses it, it is plain bytes: [`bytes`](Self::bytes) and
/// [`bytes_mut`](Self::bytes_mut). Giving it away for registration gives up that view, so no reference is
/// left when a device writes.
#[derive(Debug)]
pub struct HostBuffer {
    base: NonNull<u8>,
    length: usize,
    layout: Layout,
}

/// A buffer could not be made.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllocError {
    /// The length is zero.
    Empty,
    /// The alignment is not a power of two, or too large for the length.
    Alignment {
        /// The alignment asked for, in bytes.
        alignment: usize,
    },
    /// The system has not that much memory.
    OutOfMemory {
        /// The length asked for, in bytes.
        length: usize,
    },
}

impl HostBuffer {
    /// Allocates `length` zeroed bytes at the start of a page.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn new(length: usize) -> Result<Self, AllocError> {
        Self::with_alignment(length, PAGE)
    }

    /// Allocates `length` zeroed bytes whose address is a multiple of `alignment`, a power of two.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn with_alignment(length: usize, alignment: usize) -> Result<Self, AllocError> {
        if length == 0 {
            return Err(AllocError::Empty);
        }
        // Whole words, so that word copies never touch a byte of somebody else.
        let alignment = alignment.max(if alignment.is_power_of_two() { align_of::<u64>() } else { 0 });
        let whole = length.checked_next_multiple_of(size_of::<u64>());
        let layout = whole
            .and_then(|whole| Layout::from_size_align(whole, alignment).ok())
            .ok_or(AllocError::Alignment { alignment })?;
        // SAFETY: the layout's size is not zero (`length` is not).
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or(AllocError::OutOfMemory { length })?;
        Ok(Self { base, length, layout })
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: `base` is the start of an allocation of at least `length` initialised bytes, and a
        // writer needs `&mut self` or the buffer itself.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }

    /// The bytes, for writing.
    pub const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` excludes every other view.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.length) }
    }

    /// Copies `source` to `offset`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_in(&mut self, offset: usize, source: &[u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, source.len(), self.length)?;
        self.bytes_mut()[offset..][..source.len()].copy_from_slice(source);
        Ok(())
    }

    /// Copies from `offset` until `target` is full.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_out(&self, offset: usize, target: &mut [u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, target.len(), self.length)?;
        target.copy_from_slice(&self.bytes()[offset..][..target.len()]);
        Ok(())
    }

    /// Sets `length` bytes from `offset` on to `value`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was written.
    pub fn fill(&mut self, offset: usize, length: usize, value: u8) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, length, self.length)?;
        self.bytes_mut()[offset..][..length].fill(value);
        Ok(())
    }

    /// The words that hold the bytes; the last one may be longer than the buffer.
    pub(crate) const fn words(&self) -> NonNull<u64> {
        self.base.cast()
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `with_alignment` with this very layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: the buffer owns its allocation, which belongs to no thread.
unsafe impl Send for HostBuffer {}
// SAFETY: `&HostBuffer` only reads; writing needs `&mut`.
unsafe impl Sync for HostBuffer {}

// SAFETY: the allocation lives until drop, never moves, and is ordinary memory. `bytes` borrows the
// buffer, so no such view exists while the buffer is owned by whoever registered it as `Memory`, who
// offers no reference to it.
unsafe impl Memory for HostBuffer {
    fn span(&self) -> (NonNull<u8>, usize) {
        (self.base, self.length)
    }

    fn kind(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

impl std::fmt::Display for AllocError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => write!(f, "a buffer of zero bytes cannot be registered: ask for at least one"),
            Self::Alignment { alignment } => {
                write!(f, "an alignment of {alignment} is not a power of two, or too large for the length")
            }
            Self::OutOfMemory { length } => write!(f, "the system has no {length} bytes of memory left"),
        }
    }
}

impl std::error::Error for AllocError {}

#[cfg(test)]
mod tests {
    use super::{AllocError, HostBuffer};
    use crate::{Memory, PAGE};

    #[test]
    fn is_zeroed_and_aligned_as_asked() {
        for alignment in [1, 8, 64, PAGE, 1 << 21] {
            let buffer = HostBuffer::with_alignment(1001, alignment).unwrap();
            assert_eq!(buffer.span().0.as_ptr().addr() % alignment, 0);
            assert_eq!(buffer.len(), 1001);
            assert!(buffer.bytes().iter().all(|&byte| byte == 0));
        }
        assert_eq!(HostBuffer::new(1).unwrap().span().0.as_ptr().addr() % PAGE, 0);
    }

    #[test]
    fn impossible_buffers_are_refused() {
        assert_eq!(HostBuffer::new(0).unwrap_err(), AllocError::Empty);
        assert_eq!(HostBuffer::with_alignment(8, 3).unwrap_err(), AllocError::Alignment { alignment: 3 });
        assert_eq!(HostBuffer::with_alignment(8, 0).unwrap_err(), AllocError::Alignment { alignment: 0 });
        assert!(HostBuffer::new(usize::MAX).is_err());
        assert!(matches!(HostBuffer::new(1 << 62), Err(AllocError::OutOfMemory { .. })));
    }

    #[test]
    fn comes_back_from_any() {
        let memory: Box<dyn Memory> = Box::new(HostBuffer::new(16).unwrap());
        assert!(memory.into_any().downcast::<HostBuffer>().is_ok());
    }
}
