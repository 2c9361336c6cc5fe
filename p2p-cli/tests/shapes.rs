//! `p2p bench --shape` as a user and as launchers start it: on one machine, and between hosts made of network
//! namespaces.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "shapes/hosts.rs"]
mod hosts;
#[path = "shapes/launchers.rs"]
mod launchers;
#[path = "shapes/loopback.rs"]
mod loopback;
#[path = "../../tcpx-core/tests/support/namespace.rs"]
#[allow(dead_code, reason = "the tests of other crates use other parts")]
mod namespace;
#[path = "shapes/network.rs"]
mod network;
#[path = "shapes/program.rs"]
mod program;
mod running;
