#![no_main]

#[path = "../harness/door.rs"]
mod door;
#[path = "../harness/frames.rs"]
mod frames;
#[path = "../harness/program.rs"]
mod program;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| door::run(bytes));
