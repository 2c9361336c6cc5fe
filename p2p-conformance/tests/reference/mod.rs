//! A correct backend in memory, and the mistakes that can be switched on in it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub(crate) mod bug;
mod transport;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) use bug::Bug;
use p2p_conformance::{Bounds, Harness, HarnessFault, Law};
use p2p_transport::{Limits, Now, Transport};
use transport::Local;
use world::World;

/// Two ends in one memory.
pub(crate) struct Reference {
    bug: Bug,
    limits: Limits,
    world: Arc<Mutex<World>>,
}

impl Reference {
    pub(crate) fn new(bug: Bug) -> Self {
        let mut limits = Limits::new(100_000, 7, 5);
        limits.max_slices = 4;
        let world = Arc::new(Mutex::new(World::new(0, bug, limits)));
        Self { bug, limits, world }
    }

    /// Completions in any order, large windows.
    pub(crate) fn unordered() -> Self {
        let mut this = Self::new(Bug::None);
        (this.limits.max_sends, this.limits.max_recvs, this.limits.fifo) = (200, 300, false);
        this
    }

    /// One slice, one operation each way, lengths unchecked.
    pub(crate) fn poor() -> Self {
        let mut this = Self::new(Bug::None);
        (this.limits.max_sends, this.limits.max_recvs) = (1, 1);
        (this.limits.max_slices, this.limits.checks_length, this.limits.max_message) = (1, false, 5000);
        this
    }
}

impl Harness for Reference {
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2] {
        self.world = Arc::new(Mutex::new(World::new(seed, self.bug, self.limits)));
        [0, 1].map(|end| Box::new(Local::new(Arc::clone(&self.world), end)) as Box<dyn Transport>)
    }

    fn step(&mut self) -> Now {
        let mut world = self.world.lock().expect("no panic inside");
        world.now += 1;
        Now(Duration::from_micros(world.now))
    }

    fn bounds(&self) -> Bounds {
        let short = Duration::from_millis(1);
        Bounds {
            connect: short,
            close: short,
            death: short,
            progress: short * 40,
            steps: 100_000,
            quiet_steps: 60,
            largest_message: 100_000,
            work_per_call: 12,
        }
    }

    fn inject(&mut self, fault: HarnessFault) -> bool {
        self.world.lock().expect("no panic inside").inject(fault)
    }

    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        (law == Law::TooLong && !self.limits.checks_length).then_some("this variant checks no lengths")
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn work_done(&self) -> Option<u64> {
        Some(self.world.lock().expect("no panic inside").work)
    }
}
