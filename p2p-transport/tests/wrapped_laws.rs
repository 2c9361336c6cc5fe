//! The laws over the simulated network with another transport around it: a watched backend keeps them, and so
//! does a damaged one.

use std::time::Duration;

use p2p_conformance::{Bounds, Harness, HarnessFault, conformance};
use p2p_transport::{Damage, Faulty, Now, Traced, Transport};
use p2p_transport_mock::{Fault, MockTransport, NicModel, Settings, World};

/// What lies around the two transports of a world.
struct Wrapped {
    settings: Settings,
    wrap: fn(u64, MockTransport) -> Box<dyn Transport>,
    /// How much later everything may be told than it happens.
    late: Duration,
    world: World,
}

impl Wrapped {
    fn traced(settings: Settings) -> Self {
        Self::new(settings, Duration::ZERO, |_, inner| Box::new(Traced::with_ring(inner, 32)))
    }

    fn damaged(settings: Settings) -> Self {
        // An event is held back for some polls, and each of them may take as long as a step.
        Self::new(settings, Duration::from_millis(50), |seed, inner| {
            Box::new(Faulty::new(inner, Damage::legal(seed)))
        })
    }

    fn both(settings: Settings) -> Self {
        Self::new(settings, Duration::from_millis(50), |seed, inner| {
            Box::new(Traced::new(Faulty::new(Traced::new(inner), Damage::legal(seed))))
        })
    }

    fn new(settings: Settings, late: Duration, wrap: fn(u64, MockTransport) -> Box<dyn Transport>) -> Self {
        Self { world: World::new(0, settings.clone()), settings, wrap, late }
    }
}

impl Harness for Wrapped {
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2] {
        self.world = World::new(seed, self.settings.clone());
        [seed, !seed].map(|seed| (self.wrap)(seed, self.world.add_node(&[NicModel::FAST]).transport()))
    }

    fn step(&mut self) -> Now {
        if !self.late.is_zero() {
            // Who holds events back asks for another poll at once: time must not run away meanwhile.
            self.world.advance(self.world.now().after(Duration::from_micros(20)));
        } else if !self.world.step() {
            self.world.advance(self.world.now().after(Duration::from_micros(1)));
        }
        if self.world.steps().is_multiple_of(32) {
            assert_eq!(self.world.findings(), [""; 0]);
        }
        self.world.now()
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            connect: self.settings.connect_bound + self.late,
            close: self.settings.linger + self.settings.death_bound + self.late,
            death: self.settings.death_bound + self.late,
            steps: 100_000,
            largest_message: 1 << 20,
            work_per_call: 2 * u64::from(self.settings.recvs_per_channel),
            ..Bounds::default()
        }
    }

    fn inject(&mut self, fault: HarnessFault) -> bool {
        match fault {
            HarnessFault::KillPeer { end } => self.world.inject(Fault::Restart { node: end as u16 }),
            HarnessFault::CutLink => {
                for link in 0..self.world.links() {
                    self.world.inject(Fault::LinkDeath { link: link as u16 });
                }
            }
            HarnessFault::FailRegistration { end } => {
                self.world.inject(Fault::RefusedRegistration { node: end as u16, count: 1 });
            }
            _ => return false,
        }
        true
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn work_done(&self) -> Option<u64> {
        Some(self.world.work())
    }

    fn seeds(&self) -> u64 {
        8
    }
}

conformance!(traced_plugin, Wrapped::traced(Settings::plugin()));
conformance!(traced_rdma, Wrapped::traced(Settings::rdma()));
conformance!(damaged_plugin, Wrapped::damaged(Settings::plugin()));
conformance!(damaged_rdma, Wrapped::damaged(Settings::rdma()));
conformance!(both_rdma, Wrapped::both(Settings::rdma()));
