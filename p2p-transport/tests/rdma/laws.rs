//! The laws over the backend, in both orders of fabric.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use p2p_conformance::{Bounds, Harness, HarnessFault, Probe, conformance};
use p2p_memory::SharedHost;
use p2p_transport::{Memory, Now, Rail, Transport};

use crate::soft::SoftFabric;
use crate::verbs::Fabric;
use crate::{STEP, ends, rail};

/// Two ends on one fabric, in virtual time.
struct Soft {
    kind: Fabric,
    channels: u16,
    fabric: SoftFabric,
    now: Duration,
    reaping: Rc<RefCell<Reaping>>,
}

/// The memory of a killed process: it is there for some steps more.
#[derive(Default)]
struct Reaping {
    steps: u32,
    bases: Vec<u64>,
}

/// Memory of a process that may be killed.
struct Reaped {
    memory: SharedHost,
    reaping: Rc<RefCell<Reaping>>,
}

impl Probe for Reaped {
    fn read(&self, offset: usize, target: &mut [u8]) {
        self.memory.read(offset, target);
    }

    fn write(&self, offset: usize, source: &[u8]) {
        self.memory.write(offset, source);
    }

    fn held(&self) -> usize {
        let reaping = self.reaping.borrow();
        let base = self.memory.span().0.addr().get() as u64;
        self.memory.held().max(usize::from(reaping.steps > 0 && reaping.bases.contains(&base)))
    }
}

impl Soft {
    fn new(kind: Fabric, channels: u16) -> Self {
        Self { kind, channels, fabric: SoftFabric::new(kind, 1), now: Duration::ZERO, reaping: Rc::default() }
    }
}

impl Harness for Soft {
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2] {
        self.fabric = SoftFabric::new(self.kind, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.now = Duration::ZERO;
        ends(&self.fabric).map(|end| Box::new(end) as Box<dyn Transport>)
    }

    fn step(&mut self) -> Now {
        self.now += STEP;
        let mut reaping = self.reaping.borrow_mut();
        reaping.steps = reaping.steps.saturating_sub(1);
        Now(self.now)
    }

    fn bounds(&self) -> Bounds {
        Bounds { largest_message: 1 << 20, ..Bounds::default() }
    }

    fn memory(&mut self, length: usize) -> (Box<dyn Memory>, Box<dyn Probe>) {
        let memory = SharedHost::new(length).expect("host memory for a test");
        let probe = Reaped { memory: memory.clone(), reaping: self.reaping.clone() };
        (Box::new(memory), Box::new(probe))
    }

    fn rail(&self, _: usize) -> Rail {
        rail(self.channels)
    }

    fn inject(&mut self, fault: HarnessFault) -> bool {
        match fault {
            HarnessFault::KillPeer { end } => {
                let bases = self.fabric.kill(end as u64);
                *self.reaping.borrow_mut() = Reaping { steps: 8, bases };
            }
            HarnessFault::CutLink => self.fabric.cut(),
            HarnessFault::FailRegistration { end } => self.fabric.refuse(end as u64),
            _ => return false,
        }
        true
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn work_done(&self) -> Option<u64> {
        Some(self.fabric.work())
    }
}

conformance!(one_queue_pair, Soft::new(Fabric::Rc, 1));
conformance!(three_queue_pairs, Soft::new(Fabric::Rc, 3));
conformance!(unordered, Soft::new(Fabric::Srd, 2));
