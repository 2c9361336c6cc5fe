//! The corpus of the fuzz target of a live endpoint, replayed.

#[path = "../../fuzz/harness/door.rs"]
mod door;
#[path = "../../fuzz/harness/frames.rs"]
mod frames;
#[path = "../../fuzz/harness/program.rs"]
mod program;
#[path = "../../fuzz/harness/replay.rs"]
mod replay;

#[test]
fn an_endpoint_survives_all_that_was_found() {
    replay::replay("endpoint_door", door::run);
}
