//! Memory that belongs to somebody else.

use std::any::Any;
use std::ptr::NonNull;

use crate::{Memory, MemoryKind};

/// A raw span and the value that keeps it alive, for instance the reference count of a framework's
/// tensor. The owner is dropped with the span, never before.
#[derive(Debug)]
pub struct ForeignSpan<O> {
    base: NonNull<u8>,
    length: usize,
    kind: MemoryKind,
    owner: O,
}

impl<O: Send + 'static> ForeignSpan<O> {
    /// Describes `length` bytes at `base` that `owner` keeps alive.
    ///
    /// # Safety
    ///
    /// Until `owner` is dropped the span must stay allocated and mapped, must not move, must be usable by
    /// a device for reads and writes, and must be of the kind stated. Nobody may hold a Rust reference to
    /// it while a device may write it.
    pub const unsafe fn new(owner: O, base: NonNull<u8>, length: usize, kind: MemoryKind) -> Self {
        Self { base, length, kind, owner }
    }

    /// The owner.
    pub const fn owner(&self) -> &O {
        &self.owner
    }

    /// Gives the owner back; the span is forgotten.
    pub fn into_owner(self) -> O {
        self.owner
    }
}

// SAFETY: the span is reached only through the contract of `Memory`; the owner is `Send` where `O` is.
unsafe impl<O: Send> Send for ForeignSpan<O> {}

// SAFETY: promised by the caller of `new` for as long as the owner lives, which is as long as `self`.
unsafe impl<O: Send + 'static> Memory for ForeignSpan<O> {
    fn span(&self) -> (NonNull<u8>, usize) {
        (self.base, self.length)
    }

    fn kind(&self) -> MemoryKind {
        self.kind
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
