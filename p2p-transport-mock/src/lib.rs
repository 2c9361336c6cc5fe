//! A simulated network under the transport contract.
//!
//! A [`World`] has nodes with NICs, virtual time, one seeded source of chance and a heap of events. A
//! [`Node`] hands out [`MockTransport`]s and [`MockControl`]s, so that everything above the contract, whole
//! endpoints included, runs in it: reproducibly, and faster than real time. Faults are values in a
//! [`Script`]. After every step the world checks what must always hold.
//!
//! # Time
//!
//! Whoever drives a world calls [`World::step`] until the next thing of interest has happened, or
//! [`World::advance`]; transports are polled with [`World::now`]. `Next::Wait` and `Next::Idle` name the time
//! of the world's next event, so that a driver may go there at once.
//!
//! # What it never does
//!
//! It never reads a clock, starts a thread, or opens a socket. It contains no `unsafe`.

#![forbid(unsafe_code)]

mod audit;
mod control;
mod data;
mod fault;
mod lane;
mod operations;
mod planted;
mod random;
mod settings;
mod setup;
pub mod sim;
mod state;
mod strike;
mod trace;
mod transport;
mod visible;
mod world;

pub use control::MockControl;
pub use fault::{At, Fault, FaultKind, Script, Strikes};
pub use random::Random;
pub use settings::{NicModel, Personality, SendDone, Settings};
pub use transport::MockTransport;
pub use world::{Node, World};
