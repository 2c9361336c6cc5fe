//! Endpoints: memory that is registered and advertised, peers that are connected, and bytes that move between
//! them by reads, writes, messages and notifications.
//!
//! It never names a plugin's types and contains no unsafe code: bytes are moved by a
//! [`Transport`](p2p_transport::Transport), and what two ends say to each other is decided by `p2p-proto`.

#![forbid(unsafe_code)]

pub mod affinity;
pub mod control_tcp;
pub mod counters;
pub mod endpoint;
pub mod engine;
pub mod exports;
pub mod metadata;
mod random;
pub mod registry;
pub mod secret;

/// The README's examples, so that they are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
