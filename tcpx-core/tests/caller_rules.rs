//! The 28 rules that a caller of the TCPX plugin must keep, one test each.
//!
//! A rule that a double can catch is broken on purpose by raw calls against the soft plugin's table, and the
//! answer is asserted; then it is shown that the core keeps it, mostly against a plugin that writes down what
//! it is asked. The other rules are shown by what the core sets, refuses, orders or bounds.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail where it stands")]

#[path = "support/pair.rs"]
mod pair;
#[path = "../../tcpx-soft/tests/support/mod.rs"]
mod raw;
#[path = "support/spy.rs"]
mod spy;

#[path = "caller_rules/ending.rs"]
mod ending;
#[path = "caller_rules/posting.rs"]
mod posting;
#[path = "caller_rules/receiving.rs"]
mod receiving;
#[path = "caller_rules/setup.rs"]
mod setup;

use std::sync::Arc;

use tcpx_core::{Channel, Plugin, Source};

const STRICT: &[(&str, &str)] = &[("TCPX_SOFT_STRICT", "1")];
const STRICT_UNPACK: &[(&str, &str)] = &[
    ("TCPX_SOFT_STRICT", "1"),
    ("TCPX_SOFT_MODE", "unpack"),
    ("TCPX_SOFT_FAULT_POISON", "1"),
    ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "3"),
];

/// The spying plugin, and a session with it.
fn spied() -> (spy::Session, Arc<Plugin>) {
    let session = spy::session();
    let plugin = Plugin::open(Source::Static(spy::plugin()), &pair::config(&[])).unwrap();
    (session, plugin)
}

/// A sending and a receiving channel of the spying plugin, with the calls so far forgotten.
fn spied_channels() -> (spy::Session, Channel, Channel) {
    let (session, plugin) = spied();
    let (sender, receiver) = pair::channels(&plugin);
    spy::take_calls();
    (session, sender, receiver)
}
