//! What every comparison is measured with: the fastest plain TCP program we know to write, and the tools
//! that make two measurements comparable.
//!
//! [`raw_tcp`] moves messages over plain sockets and is the baseline of the benchmark. [`distance`] says how
//! far apart the machine's cores are at the moment, [`load`] whether other programs run, [`cpu_time`] what a transfer cost, [`statistics`] what
//! many rounds say together, and [`pattern`] whether every byte arrived.
//!
//! This crate never uses anything else of the workspace: a baseline that shares code with what it is
//! compared to proves nothing.

#![forbid(unsafe_code)]

pub mod cores;
pub mod cpu_time;
pub mod distance;
pub mod load;
pub mod pattern;
pub mod raw_tcp;
pub mod statistics;
pub mod working_set;
