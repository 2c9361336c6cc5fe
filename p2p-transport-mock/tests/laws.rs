//! Both personalities keep the laws, also with lengths unchecked, and under every damage that is legal.

use std::time::Duration;

use p2p_conformance::{Bounds, Harness, HarnessFault, Law, conformance};
use p2p_transport::{Now, Transport};
use p2p_transport_mock::{At, Fault, NicModel, Script, SendDone, Settings, World};

/// What a law gets: a world of two nodes.
struct Mock {
    settings: Settings,
    script: Script,
    world: World,
}

impl Mock {
    fn new(settings: Settings) -> Self {
        Self { world: World::new(0, settings.clone()), settings, script: Script::default() }
    }

    /// With everything late, slow and out of order that may be, from the beginning to the end.
    fn damaged(settings: Settings) -> Self {
        let lasts = Duration::from_secs(3600);
        let (nic, up_to) = (0, Duration::from_micros(70));
        let of_node = |node| {
            [
                Fault::Delay { node, nic, by: Duration::from_micros(30), lasts },
                Fault::Jitter { node, nic, up_to, lasts },
                Fault::SlowNic { node, nic, times: 7, lasts },
                Fault::Disorder { node, up_to, lasts },
                Fault::LateVisibility { node, up_to, lasts },
            ]
        };
        let script = [0, 1].into_iter().flat_map(of_node).map(|fault| (At::Time(Duration::ZERO), fault));
        Self { script: Script(script.collect()), ..Self::new(settings) }
    }
}

impl Harness for Mock {
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2] {
        self.world = World::new(seed, self.settings.clone());
        self.world.script(self.script.clone());
        [0, 1].map(|_| Box::new(self.world.add_node(&[NicModel::FAST]).transport()) as Box<dyn Transport>)
    }

    fn step(&mut self) -> Now {
        if !self.world.step() {
            self.world.advance(self.world.now().after(Duration::from_micros(1)));
        }
        if self.world.steps().is_multiple_of(32) {
            assert_eq!(self.world.findings(), [""; 0]);
        }
        self.world.now()
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            connect: self.settings.connect_bound,
            close: self.settings.linger + self.settings.death_bound,
            death: self.settings.death_bound,
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

    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        let unchecked = law == Law::TooLong && !self.settings.checks_length;
        unchecked.then_some("this personality does not check lengths, as a plugin with host memory")
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

fn unchecked() -> Settings {
    let mut settings = Settings::plugin();
    settings.checks_length = false;
    settings
}

/// A plugin that takes a send up only when its receive is there, and that can withdraw no receive.
fn strict() -> Settings {
    let mut settings = Settings::plugin();
    settings.eager_bytes = 0;
    settings.send_done = SendDone::Acknowledged;
    settings.posted_is_started = true;
    settings
}

conformance!(plugin, Mock::new(Settings::plugin()));
conformance!(plugin_unchecked, Mock::new(unchecked()));
conformance!(plugin_strict, Mock::new(strict()));
conformance!(plugin_damaged, Mock::damaged(Settings::plugin()));
conformance!(rdma, Mock::new(Settings::rdma()));
conformance!(rdma_damaged, Mock::damaged(Settings::rdma()));
