//! The laws over the backend, in both orders of fabric.

use std::time::Duration;

use p2p_conformance::{Bounds, Harness, HarnessFault, conformance};
use p2p_transport::{Now, Rail, Transport};

use crate::soft::SoftFabric;
use crate::verbs::Fabric;
use crate::{STEP, ends, rail};

/// Two ends on one fabric, in virtual time.
struct Soft {
    kind: Fabric,
    channels: u16,
    fabric: SoftFabric,
    now: Duration,
}

impl Soft {
    fn new(kind: Fabric, channels: u16) -> Self {
        Self { kind, channels, fabric: SoftFabric::new(kind, 1), now: Duration::ZERO }
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
        Now(self.now)
    }

    fn bounds(&self) -> Bounds {
        Bounds { largest_message: 1 << 20, ..Bounds::default() }
    }

    fn rail(&self, _: usize) -> Rail {
        rail(self.channels)
    }

    fn inject(&mut self, fault: HarnessFault) -> bool {
        match fault {
            HarnessFault::KillPeer { end } => self.fabric.kill(end as u64),
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
