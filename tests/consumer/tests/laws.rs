//! The laws over a backend that the library has never heard of.

use std::time::Instant;

use consumer::Pipes;
use p2p_conformance::{Bounds, Harness, HarnessFault, Law, conformance};
use p2p_transport::{Now, Transport};

struct TwoPipes {
    origin: Instant,
}

impl TwoPipes {
    fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Harness for TwoPipes {
    fn ends(&mut self, _: u64) -> [Box<dyn Transport>; 2] {
        [Box::new(Pipes::new()), Box::new(Pipes::new())]
    }

    fn step(&mut self) -> Now {
        Now(self.origin.elapsed())
    }

    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    /// The suite drops the transport, and with it its sockets and memory, right afterwards.
    fn inject(&mut self, fault: HarnessFault) -> bool {
        matches!(fault, HarnessFault::KillPeer { .. })
    }

    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        (law == Law::SameTrace).then_some("the kernel decides how many bytes of a pipe come at once")
    }

    fn seeds(&self) -> u64 {
        2
    }
}

conformance!(pipes, TwoPipes::new());
