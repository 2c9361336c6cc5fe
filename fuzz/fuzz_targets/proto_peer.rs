#![no_main]

#[path = "../harness/frames.rs"]
mod frames;
#[path = "../harness/peer.rs"]
mod peer;
#[path = "../harness/program.rs"]
mod program;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| peer::run(bytes));
