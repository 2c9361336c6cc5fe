//! Copies between ordinary bytes and memory that others may write meanwhile.
//!
//! The memory is accessed as aligned 64-bit words with relaxed atomics and in no other way, so that two
//! threads that copy at once get mixed-up bytes at worst, never undefined behaviour. A part of a word is
//! written with a compare-and-swap loop, which leaves its other bytes alone.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WORD: usize = size_of::<u64>();

/// Memory seen as words.
#[derive(Clone, Copy)]
pub(crate) struct Words {
    base: NonNull<u64>,
    count: usize,
}

impl Words {
    /// The `count` words from `base` on.
    ///
    /// # Safety
    ///
    /// They must stay allocated as long as this value is used, be initialised, and be accessed by other
    /// threads of this process only as atomic words.
    pub(crate) const unsafe fn new(base: NonNull<u64>, count: usize) -> Self {
        Self { base, count }
    }

    /// Copies `source` to byte `offset`. The caller has checked that it fits.
    pub(crate) fn write(self, offset: usize, source: &[u8]) {
        let (first, skip) = (offset / WORD, offset % WORD);
        let head = source.len().min((WORD - skip) % WORD);
        let (head, rest) = source.split_at(head);
        if !head.is_empty() {
            self.write_part(first, skip, head);
        }
        let mut index = offset.div_ceil(WORD);
        let (whole, tail) = rest.as_chunks::<WORD>();
        for word in whole {
            self.word(index).store(u64::from_ne_bytes(*word), Relaxed);
            index += 1;
        }
        if !tail.is_empty() {
            self.write_part(index, 0, tail);
        }
    }

    /// Fills `target` from byte `offset` on. The caller has checked that it is there.
    pub(crate) fn read(self, offset: usize, target: &mut [u8]) {
        let (first, skip) = (offset / WORD, offset % WORD);
        let head = target.len().min((WORD - skip) % WORD);
        let (head, rest) = target.split_at_mut(head);
        if !head.is_empty() {
            let bytes = self.word(first).load(Relaxed).to_ne_bytes();
            head.copy_from_slice(&bytes[skip..][..head.len()]);
        }
        let mut index = offset.div_ceil(WORD);
        let (whole, tail) = rest.as_chunks_mut::<WORD>();
        for word in whole {
            *word = self.word(index).load(Relaxed).to_ne_bytes();
            index += 1;
        }
        if !tail.is_empty() {
            let bytes = self.word(index).load(Relaxed).to_ne_bytes();
            tail.copy_from_slice(&bytes[..tail.len()]);
        }
    }

    fn write_part(self, index: usize, skip: usize, source: &[u8]) {
        let word = self.word(index);
        let mut old = word.load(Relaxed);
        loop {
            let mut bytes = old.to_ne_bytes();
            bytes[skip..][..source.len()].copy_from_slice(source);
            match word.compare_exchange_weak(old, u64::from_ne_bytes(bytes), Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) => old = other,
            }
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: inside the words promised to `new` (asserted).
        let word = unsafe { self.base.add(index) };
        // SAFETY: aligned as a `u64`, alive and accessed as promised to `new`.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }
}
