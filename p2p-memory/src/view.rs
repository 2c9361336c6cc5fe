//! Copies into and out of any host memory, as a device would make them.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::{Memory, MemoryKind, OutOfBounds};

const WORD: usize = size_of::<u64>();
/// Bytes copied between two memories at a time.
const BLOCK: usize = 1024;

/// Host memory seen as a device sees it: bytes that may be read and written at any time.
///
/// Every access is a relaxed atomic one, of whole words where they are aligned, so that a copy which meets
/// another gets mixed-up bytes at worst.
#[derive(Clone, Copy)]
pub struct HostView<'a> {
    base: NonNull<u8>,
    length: usize,
    _memory: std::marker::PhantomData<&'a dyn Memory>,
}

impl<'a> HostView<'a> {
    /// The view of a memory; `None` if it does not lie on the host.
    pub fn of(memory: &'a dyn Memory) -> Option<Self> {
        let (base, length) = memory.span();
        let on_host = memory.kind() == MemoryKind::Host;
        on_host.then_some(Self { base, length, _memory: std::marker::PhantomData })
    }

    /// Copies `source` to `offset`.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_in(&self, offset: usize, source: &[u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, source.len(), self.length)?;
        let head = self.head(offset, source.len());
        let (first, rest) = source.split_at(head);
        let (words, last) = rest.as_chunks::<WORD>();
        for (byte, at) in first.iter().zip(offset..) {
            self.byte(at).store(*byte, Relaxed);
        }
        for (word, index) in words.iter().zip(0..) {
            self.word(offset + head + index * WORD).store(u64::from_ne_bytes(*word), Relaxed);
        }
        for (byte, at) in last.iter().zip(offset + source.len() - last.len()..) {
            self.byte(at).store(*byte, Relaxed);
        }
        Ok(())
    }

    /// Copies from `offset` until `target` is full.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`]; nothing was copied.
    pub fn copy_out(&self, offset: usize, target: &mut [u8]) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, target.len(), self.length)?;
        let length = target.len();
        let head = self.head(offset, length);
        let (first, rest) = target.split_at_mut(head);
        let (words, last) = rest.as_chunks_mut::<WORD>();
        for (byte, at) in first.iter_mut().zip(offset..) {
            *byte = self.byte(at).load(Relaxed);
        }
        for (word, index) in words.iter_mut().zip(0..) {
            *word = self.word(offset + head + index * WORD).load(Relaxed).to_ne_bytes();
        }
        let tail = offset + length - last.len();
        for (byte, at) in last.iter_mut().zip(tail..) {
            *byte = self.byte(at).load(Relaxed);
        }
        Ok(())
    }

    /// Copies `length` bytes from `offset` to another memory. Ranges of the same memory may not overlap:
    /// what arrives then is unspecified.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] of either; nothing was copied.
    pub fn copy_to(
        &self,
        offset: usize,
        target: &HostView<'_>,
        target_offset: usize,
        length: usize,
    ) -> Result<(), OutOfBounds> {
        OutOfBounds::check(offset, length, self.length)?;
        OutOfBounds::check(target_offset, length, target.length)?;
        let mut block = [0; BLOCK];
        let mut done = 0;
        while done < length {
            let block = &mut block[..(length - done).min(BLOCK)];
            self.copy_out(offset + done, block)?;
            target.copy_in(target_offset + done, block)?;
            done += block.len();
        }
        Ok(())
    }

    /// Bytes up to the next whole word, of at most `length`.
    fn head(&self, offset: usize, length: usize) -> usize {
        let address = self.base.as_ptr().addr() + offset;
        (address.next_multiple_of(WORD) - address).min(length)
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.length, "byte {offset} of {}", self.length);
        // SAFETY: inside the span (asserted), which is one allocation.
        let byte = unsafe { self.base.add(offset) };
        // SAFETY: allocated and mapped while the memory lives, which the lifetime borrows; `Memory` promises
        // that nothing holds a reference which such an access would break.
        unsafe { AtomicU8::from_ptr(byte.as_ptr()) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset + WORD <= self.length, "word at {offset} of {}", self.length);
        // SAFETY: inside the span (asserted), which is one allocation.
        let word: NonNull<u64> = unsafe { self.base.add(offset) }.cast();
        assert!(word.is_aligned(), "callers begin at a whole word");
        // SAFETY: aligned (asserted), and as for `byte`.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }
}

impl std::fmt::Debug for HostView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostView").field("length", &self.length).finish_non_exhaustive()
    }
}
