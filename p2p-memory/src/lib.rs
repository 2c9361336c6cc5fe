//! Memory that outlives its users: buffers with a stable address that a network device may read and
//! write at any time until they are dropped.
//!
//! [`Memory`] is the contract. [`HostBuffer`] is owned, zeroed and aligned; [`SharedHost`] is one buffer
//! registered in several places; [`ForeignSpan`] keeps the owner of somebody else's memory alive; [`Shared`]
//! gives any memory several owners, and [`Part`]s. Copies are bounds-checked, and those of a shared buffer or
//! through a [`HostView`] are made word by word, so that no `&mut [u8]` ever stands for memory that a device
//! writes.
//!
//! This crate never registers memory, opens a device, or knows a plugin.

mod bounds;
mod foreign;
mod host;
mod part;
mod shared;
mod view;
mod words;

use std::any::Any;
use std::ffi::c_int;
use std::ptr::NonNull;

pub use bounds::OutOfBounds;
pub use foreign::ForeignSpan;
pub use host::{AllocError, HostBuffer};
pub use part::{Part, Shared};
pub use shared::SharedHost;
pub use view::HostView;

/// Bytes of a page, and the default alignment of a [`HostBuffer`].
pub const PAGE: usize = 4096;

/// Where memory lives.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemoryKind {
    /// Ordinary process memory.
    Host,
    /// Memory of a CUDA device.
    Cuda {
        /// Number of the device in this process.
        ordinal: u16,
        /// File descriptor of the memory exported as a dma-buf. It stays open as long as its owner.
        dmabuf: Option<c_int>,
    },
}

/// Memory that may be kept until every operation on it has finished.
///
/// # Safety
///
/// From the first call of [`span`](Self::span) until drop, the span must not change, must stay allocated
/// and mapped, and must be usable by a device for reads and writes. Moving `self` must not move it.
/// Nothing else may hold a reference into it that such a write would break.
pub unsafe trait Memory: Any + Send {
    /// Base address (host or device) and length in bytes.
    fn span(&self) -> (NonNull<u8>, usize);
    /// Where the span lives.
    fn kind(&self) -> MemoryKind;
    /// Recovers the concrete owner.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}
