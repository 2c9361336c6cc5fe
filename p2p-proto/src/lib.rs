//! The protocol between two endpoints: who moves which bytes over which rail, and when a transfer is done.
//!
//! Each direction of a rail has one sender, and it decides the order: it announces on the control stream which
//! part of which transfer each of its messages is, and sends at once. The other end posts receives in the
//! announced order. So nobody waits for a round trip, and the k-th send of a rail meets the k-th receive.
//!
//! Every part is a state machine: bytes, completions and the time come in; bytes, posts and events go out.
//!
//! It never does I/O, reads a clock, starts a thread or holds a pointer. It knows no transport: regions and rails are
//! numbers here.

#![forbid(unsafe_code)]

pub mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod hello;
pub mod id;
pub mod list;
pub mod peer;
pub mod stripe;
pub mod transfer;
pub mod wire;
