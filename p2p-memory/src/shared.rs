//! One buffer registered in several places.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::words::Words;
use crate::{AllocError, HostBuffer, Memory, MemoryKind, OutOfBounds};

/// A host buffer with any number of owners; cloning it gives another owner of the same bytes.
///
/// One buffer can so be registered on several comms while its user keeps a clone. Copies may be made at
/// any time from any thread: what a device or another thread writes meanwhile is seen in part, in whole
/// or not at all. Bytes of a receive are complete once it was reported done.
#[derive(Clone, Debug)]
pub struct SharedHost {
    buffer: Arc<HostBuffer>,
}

impl SharedHost {
    /// Allocates `length` zeroed bytes at the start of a page.
    ///
    /// # Errors
    ///
    /// [`AllocError`].
    pub fn new(length: usize) -> Result<Self, AllocError> {
        HostBuffer::new(length).map(Self::from)
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Owners, this one included.
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.buffer)
    }

    /// The buffer itself, if this is its last owner; otherwise this owner again.
    ///
    /// # Errors
    ///
    /// `self`, unchanged, while there are other owners.
    pub fn try_into_buffer(self) -> Result<HostBuffer, Self> {
        Arc::try_unwrap(self.buffer).map_err(|buffer| Self { buffer })
    }

    /// Copies `source` to `offset`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_in(&self, offset: usize, source: &[u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, source.len(), self.len())?;
        self.words().write(offset, source);
        Ok(())
    }

    /// Copies from `offset` until `target` is full.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_out(&self, offset: usize, target: &mut [u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, target.len(), self.len())?;
        self.words().read(offset, target);
        Ok(())
    }

    /// Sets `length` bytes from `offset` on to `value`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was written.
    pub fn fill(&self, offset: usize, length: usize, value: u8) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, length, self.len())?;
        let block = [value; 4096];
        let mut done = 0;
        while done < length {
            let step = block.len().min(length - done);
            self.words().write(offset + done, &block[..step]);
            done += step;
        }
        Ok(())
    }

    fn words(&self) -> Words {
        let count = self.len().div_ceil(size_of::<u64>());
        // SAFETY: the buffer holds `count` whole initialised words (its layout is rounded up) and lives as
        // long as `self`. A shared buffer is never viewed as a slice: `HostBuffer` is reached again only by
        // its last owner.
        unsafe { Words::new(self.buffer.words(), count) }
    }
}

impl From<HostBuffer> for SharedHost {
    fn from(buffer: HostBuffer) -> Self {
        Self { buffer: Arc::new(buffer) }
    }
}

// SAFETY: the buffer lives until its last owner is dropped, never moves, and is only accessed as atomic
// words, which a device's write cannot break.
unsafe impl Memory for SharedHost {
    fn span(&self) -> (NonNull<u8>, usize) {
        self.buffer.span()
    }

    fn kind(&self) -> MemoryKind {
        MemoryKind::Host
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
