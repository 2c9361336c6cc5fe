#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| p2p_transport_tcpx::fuzzing::hello(bytes));
