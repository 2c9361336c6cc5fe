//! A complete NCCL net plugin in Rust over ordinary TCP sockets, with the semantics of Google's
//! GPUDirect-TCPX plugin.
//!
//! It is an `rlib`, whose tables are reached with [`plugin`] without any dynamic loading, and a shared
//! library that exports `ncclNetPlugin_v7` to `_v11` for NCCL 2.19 to 2.30. It speaks the published wire,
//! so that a plain host can talk to a host with the real plugin; between two soft ends messages travel
//! faster (see `wire`). It never knows what a transfer, a peer or an endpoint of ours is: whatever drives
//! it does so through the tables.
//!
//! **Threads.** Calls on one comm come from one thread at a time; different comms, and everything else,
//! may be used from any threads. `test` moves a comm forward. Message bytes are moved by *lanes*, a few
//! threads shared by all comms of the process, asleep in the kernel when they can move none.
//!
//! **Trust.** Everything from the wire is checked, and a peer that breaks the protocol loses its
//! connection. Pointers from the caller are trusted as the interface says.

mod bounce;
mod comm;
mod connect;
mod dial;
mod export;
mod failure;
mod fault;
mod handoff;
mod interface;
mod lane;
mod listen;
mod log;
mod payload;
mod receive;
mod registration;
mod request;
mod runtime;
mod send;
mod settings;
mod sync;
mod tables;
mod task;
mod turn;
mod waiter;
mod wire;

pub use settings::check_variables;
pub use tables::{plugin, plugin_of};
