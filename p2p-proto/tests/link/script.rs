//! What both ends are asked to do, and what goes wrong meanwhile.

use p2p_proto::peer::Caps;
use p2p_proto::stripe::RailLimits;
use proptest::prelude::*;

use crate::run::Run;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Faults {
    None,
    Rails,
    Link,
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) rails: Vec<RailPlan>,
    /// Bytes of control that may wait.
    pub(crate) control: u32,
    /// Messages that may be announced and not landed.
    pub(crate) announced: u32,
    pub(crate) acts: Vec<Act>,
}

#[derive(Clone, Debug)]
pub(crate) struct RailPlan {
    pub(crate) max_message: u32,
    pub(crate) slices: [u16; 2],
    pub(crate) sends: [u16; 2],
    pub(crate) recvs: [u16; 2],
}

#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) end: usize,
    pub(crate) what: What,
    /// Small things that happen before the next one.
    pub(crate) steps: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Write {
        total: u64,
        pieces: [usize; 2],
        counter: Option<u32>,
        wrong: Wrong,
        notices: u8,
    },
    Read {
        total: u64,
        pieces: [usize; 2],
        wrong: Wrong,
    },
    Send {
        total: u64,
        pieces: usize,
    },
    Recv {
        capacity: u64,
        pieces: usize,
    },
    Notify {
        length: usize,
    },
    Abandon {
        nth: usize,
    },
    /// Memory of a write or a read is taken back, at the end that began it or at the other one.
    Release {
        nth: usize,
        here: bool,
    },
    LoseRail {
        rail: usize,
    },
    LoseLink,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wrong {
    Nothing,
    Key,
    Range,
}

pub(crate) fn scripts(faults: Faults) -> impl Strategy<Value = Script> {
    let rails = prop::collection::vec(rail_plan(), 1..5);
    let acts = prop::collection::vec(act(faults), 1..24);
    let announced = prop_oneof![Just(0u32), 1u32..20, Just(4096)];
    let control = prop_oneof![Just(1u32), 100u32..2000, Just(256 << 10)];
    (any::<u64>(), rails, control, announced, acts)
        .prop_map(|(seed, rails, control, announced, acts)| Script { seed, rails, control, announced, acts })
}

fn rail_plan() -> impl Strategy<Value = RailPlan> {
    let pair = || [1u16..17, 1u16..17];
    let slices = prop_oneof![Just([1, 1]), [1u16..6, 1u16..6]];
    (prop_oneof![16u32..200, 200u32..5000], slices, pair(), pair())
        .prop_map(|(max_message, slices, sends, recvs)| RailPlan { max_message, slices, sends, recvs })
}

fn act(faults: Faults) -> impl Strategy<Value = Act> {
    let total = || prop_oneof![1 => Just(0u64), 4 => 1u64..300, 4 => 300u64..8000];
    let pieces = || prop_oneof![1usize..4, 4usize..30];
    let wrong = || prop_oneof![8 => Just(Wrong::Nothing), 1 => Just(Wrong::Key), 1 => Just(Wrong::Range)];
    let counter = prop::option::of(0u32..3);
    let write = (total(), [pieces(), pieces()], counter, wrong(), 0u8..3).prop_map(
        |(total, pieces, counter, wrong, notices)| What::Write { total, pieces, counter, wrong, notices },
    );
    let read = (total(), [pieces(), pieces()], wrong()).prop_map(|(total, pieces, wrong)| What::Read {
        total,
        pieces,
        wrong,
    });
    let send = (total(), pieces()).prop_map(|(total, pieces)| What::Send { total, pieces });
    let recv = (total(), pieces()).prop_map(|(capacity, pieces)| What::Recv { capacity, pieces });
    let notify = prop_oneof![0usize..50, Just(40_000usize)].prop_map(|length| What::Notify { length });
    let abandon = (0usize..8).prop_map(|nth| What::Abandon { nth });
    let release = (0usize..8, any::<bool>()).prop_map(|(nth, here)| What::Release { nth, here });
    let fault = match faults {
        Faults::None => Just(What::Notify { length: 1 }).boxed(),
        Faults::Rails => (0usize..4).prop_map(|rail| What::LoseRail { rail }).boxed(),
        Faults::Link => Just(What::LoseLink).boxed(),
    };
    let what = prop_oneof![
        6 => write, 4 => read, 4 => send, 4 => recv, 2 => notify, 1 => abandon, 1 => release, 1 => fault
    ];
    (0usize..2, what, prop_oneof![Just(0u16), 1u16..60, 60u16..400]).prop_map(|(end, what, steps)| Act {
        end,
        what,
        steps,
    })
}

impl Script {
    pub(crate) fn run(&self) {
        let caps = Caps { control: self.control, announced: self.announced, ..Caps::default() };
        let limits = [0, 1].map(|end: usize| {
            let rail = |rail: &RailPlan| RailLimits {
                max_message: rail.max_message,
                max_slices: rail.slices[end],
                peer_slices: rail.slices[1 - end],
                max_sends: rail.sends[end],
                max_recvs: rail.recvs[end],
                megabits: 0,
            };
            self.rails.iter().map(rail).collect()
        });
        let mut run = Run::new(self.seed, limits, [caps; 2]);
        for act in &self.acts {
            run.act(act);
            (0..act.steps).for_each(|_| run.world.step());
        }
        run.finish();
    }
}
