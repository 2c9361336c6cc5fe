//! Ranges of one memory that are registered by themselves.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Memory, MemoryKind, OutOfBounds};

/// A memory of any kind with several owners, for a backend that registers it in several places or in parts.
#[derive(Clone)]
pub struct Shared {
    owner: Arc<Owner>,
}

/// The memory, and its span as it was when it was wrapped: the contract says that it does not change.
struct Owner {
    memory: Box<dyn Memory>,
    base: NonNull<u8>,
    length: usize,
    kind: MemoryKind,
}

// SAFETY: the memory is `Send`; only its last owner touches it again.
unsafe impl Send for Owner {}
// SAFETY: nothing reaches `memory` through a shared reference: what owners read are the copies beside it.
unsafe impl Sync for Owner {}

impl Shared {
    /// Takes a memory over.
    pub fn new(memory: Box<dyn Memory>) -> Self {
        let (base, length) = memory.span();
        let kind = memory.kind();
        Self { owner: Arc::new(Owner { memory, base, length, kind }) }
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "whether an empty memory is useful is not decided here")]
    pub fn len(&self) -> usize {
        self.owner.length
    }

    /// Where it lies.
    pub fn kind(&self) -> MemoryKind {
        self.owner.kind
    }

    /// `length` bytes from `offset` on, as a memory of its own that is another owner of the whole.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`].
    pub fn part(&self, offset: usize, length: usize) -> Result<Part, OutOfBounds> {
        OutOfBounds::check(offset, length, self.owner.length)?;
        Ok(Part { shared: self.clone(), offset, length })
    }

    /// All of it, as a memory of its own that is another owner.
    pub fn whole(&self) -> Part {
        Part { shared: self.clone(), offset: 0, length: self.owner.length }
    }

    /// The memory itself, if this is its last owner; otherwise this owner again.
    ///
    /// # Errors
    ///
    /// `self`, unchanged, while there are other owners.
    pub fn try_into_inner(self) -> Result<Box<dyn Memory>, Self> {
        Arc::try_unwrap(self.owner).map(|owner| owner.memory).map_err(|owner| Self { owner })
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("length", &self.len())
            .field("kind", &self.kind())
            .finish_non_exhaustive()
    }
}

/// A range of a [`Shared`] memory.
#[derive(Clone, Debug)]
pub struct Part {
    shared: Shared,
    offset: usize,
    length: usize,
}

// SAFETY: the whole lives as long as any part (it is another owner), and its own contract covers every range
// of it; the span is inside (checked in `part`).
unsafe impl Memory for Part {
    fn span(&self) -> (NonNull<u8>, usize) {
        // SAFETY: the offset lies inside the span of the whole (checked in `part`), which is one allocation.
        let base = unsafe { self.shared.owner.base.add(self.offset) };
        (base, self.length)
    }

    fn kind(&self) -> MemoryKind {
        self.shared.owner.kind
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
