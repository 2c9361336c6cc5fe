//! The laws over a backend that the library has never heard of.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use consumer::Pipes;
use p2p_conformance::{Bounds, Harness, HarnessFault, Law, Probe, conformance};
use p2p_memory::SharedHost;
use p2p_transport::{Memory, Now, Transport};

/// Steps for which the memory of a killed process is still there.
const REAPING: u32 = 4;

struct TwoPipes {
    origin: Instant,
    seen: Vec<Rc<Seen>>,
}

struct Seen {
    memory: SharedHost,
    /// Steps that are left, if its process was killed.
    reaping: Cell<u32>,
}

struct Probed(Rc<Seen>);

impl Probe for Probed {
    fn read(&self, offset: usize, target: &mut [u8]) {
        self.0.memory.read(offset, target);
    }

    fn write(&self, offset: usize, source: &[u8]) {
        self.0.memory.write(offset, source);
    }

    fn held(&self) -> usize {
        self.0.memory.held().max(usize::from(self.0.reaping.get() > 0))
    }
}

impl TwoPipes {
    fn new() -> Self {
        Self { origin: Instant::now(), seen: Vec::new() }
    }
}

impl Harness for TwoPipes {
    fn ends(&mut self, _: u64) -> [Box<dyn Transport>; 2] {
        self.seen.clear();
        [Box::new(Pipes::new()), Box::new(Pipes::new())]
    }

    fn step(&mut self) -> Now {
        for seen in &self.seen {
            // What is held still was the survivor's.
            let left = if seen.memory.held() > 0 { 0 } else { seen.reaping.get().saturating_sub(1) };
            seen.reaping.set(left);
        }
        Now(self.origin.elapsed())
    }

    fn bounds(&self) -> Bounds {
        Bounds::default()
    }

    fn memory(&mut self, length: usize) -> (Box<dyn Memory>, Box<dyn Probe>) {
        let memory = SharedHost::new(length).expect("host memory for a test");
        let seen = Rc::new(Seen { memory: memory.clone(), reaping: Cell::new(0) });
        self.seen.push(Rc::clone(&seen));
        (Box::new(memory), Box::new(Probed(seen)))
    }

    /// The suite drops the transport, and with it its sockets and memory, right afterwards.
    fn inject(&mut self, fault: HarnessFault) -> bool {
        let kills = matches!(fault, HarnessFault::KillPeer { .. });
        for seen in self.seen.iter().filter(|seen| kills && seen.memory.held() > 0) {
            seen.reaping.set(REAPING);
        }
        kills
    }

    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        (law == Law::SameTrace).then_some("the kernel decides how many bytes of a pipe come at once")
    }

    fn seeds(&self) -> u64 {
        2
    }
}

conformance!(pipes, TwoPipes::new());
