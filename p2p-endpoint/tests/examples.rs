//! The examples run, and what they assert holds.

#[path = "../examples/awaiting.rs"]
mod awaiting;
#[path = "../examples/kv_cache.rs"]
mod kv_cache;
#[path = "../examples/messages.rs"]
mod messages;
#[path = "../examples/several_peers.rs"]
mod several_peers;

#[test]
fn a_message_is_sent() {
    messages::main().expect("it runs");
}

#[test]
fn pages_of_a_cache_are_pushed() {
    kv_cache::main().expect("it runs");
}

#[test]
fn transfers_are_awaited() {
    awaiting::main().expect("it runs");
}

#[test]
fn several_peers_read_at_once() {
    several_peers::main().expect("it runs");
}
