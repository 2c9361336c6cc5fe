//! The corpus of the fuzz target of a link, replayed.

#[path = "../../fuzz/harness/frames.rs"]
mod frames;
#[path = "../../fuzz/harness/peer.rs"]
mod peer;
#[path = "../../fuzz/harness/program.rs"]
mod program;
#[path = "../../fuzz/harness/replay.rs"]
mod replay;

#[test]
fn a_link_survives_all_that_was_found() {
    replay::replay("proto_peer", peer::run);
}
