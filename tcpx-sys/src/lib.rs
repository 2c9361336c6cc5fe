//! The C interface of NCCL net plugins, versions 7 to 11, for calling one and for being one.
//!
//! This crate holds layouts, the loading of a shared library and the C logger shim. It never
//! decides anything: no retry, no filter, no rate limit, no fallback.
//!
//! Layouts follow NVIDIA's published headers (NCCL 2.19 to 2.30); each size and offset is asserted
//! at compile time. [`extension`] is the one table that is ours: optional additions of the embedded
//! soft plugin.

pub mod code;
pub mod device;
pub mod extension;
pub mod load;
pub mod log;
pub mod properties;
pub mod table;

pub use code::Code;
pub use load::{LoadError, Plugin, load};
pub use table::{Table, Version};

/// Bytes of a connection handle (`NCCL_NET_HANDLE_MAXSIZE`). The buffer has no promised alignment.
pub const HANDLE_BYTES: usize = 128;
/// Pointer support bit and memory type: ordinary host memory.
pub const PTR_HOST: i32 = 0x1;
/// Pointer support bit and memory type: CUDA device memory.
pub const PTR_CUDA: i32 = 0x2;
/// Pointer support bit: memory given as a dma-buf file descriptor.
pub const PTR_DMABUF: i32 = 0x4;
/// Largest `isend`/`irecv` that the `int` sizes of versions 7 and 8 are used for by NCCL (2^30).
pub const MAX_NET_SIZE: usize = 1 << 30;
/// Hint that NCCL may leave in `*request` before `irecv`: the receive needs no completion.
pub const HINT_OPTIONAL_RECV_COMPLETION: usize = 0x1;
/// Hint that NCCL may leave in `*request`: several requests of one group follow.
pub const HINT_MULTI_REQUEST: usize = 0x2;
