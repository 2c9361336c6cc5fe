//! What can go wrong, as values: scripts that can be stored, replayed and shrunk.

use std::time::Duration;

#[cfg(any(test, feature = "proptest"))]
use proptest::prelude::{Just, Strategy, any, prop_oneof};

use crate::Random;

/// When a fault strikes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum At {
    /// At this virtual time.
    Time(Duration),
    /// When this many messages have arrived anywhere in the world, counted from 1: 0 never strikes.
    Message(u64),
}

/// What goes wrong. Nodes, NICs, connections and streams are counted from 0 in the order in which they were
/// made; a number that is too large is taken modulo their count, so that a script fits every world.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// For a while, the node takes no operation of a connection that has this many of its kind pending, though
    /// there is room: `Busy`, which clears by itself. At least 1, so that a completion is to come.
    ShortAcceptance {
        /// The node.
        node: u16,
        /// Operations that are still taken.
        room: u16,
        /// How long.
        lasts: Duration,
    },
    /// For a while, everything that leaves the NIC arrives later.
    Delay {
        /// The node.
        node: u16,
        /// The NIC.
        nic: u16,
        /// How much later.
        by: Duration,
        /// How long.
        lasts: Duration,
    },
    /// For a while, everything that leaves the NIC arrives later by an ever different time.
    Jitter {
        /// The node.
        node: u16,
        /// The NIC.
        nic: u16,
        /// At most so much later.
        up_to: Duration,
        /// How long.
        lasts: Duration,
    },
    /// For a while, the NIC is slower, both ways.
    SlowNic {
        /// The node.
        node: u16,
        /// The NIC.
        nic: u16,
        /// How many times slower.
        times: u16,
        /// How long.
        lasts: Duration,
    },
    /// For a while, completions at the node overtake each other by this much more. Strikes only where
    /// completions need not be in order.
    Disorder {
        /// The node.
        node: u16,
        /// At most so much.
        up_to: Duration,
        /// How long.
        lasts: Duration,
    },
    /// A connection breaks; both ends notice, each in its own time.
    LinkDeath {
        /// The connection.
        link: u16,
    },
    /// The node's next registrations fail.
    RefusedRegistration {
        /// The node.
        node: u16,
        /// How many.
        count: u16,
    },
    /// For a while, what has arrived at the node becomes visible later.
    LateVisibility {
        /// The node.
        node: u16,
        /// At most so much.
        up_to: Duration,
        /// How long.
        lasts: Duration,
    },
    /// The next message that arrives at the node cannot be made visible, which takes its connection.
    FailedVisibility {
        /// The node.
        node: u16,
    },
    /// The node begins again: its connections and control streams die, its listeners and exported keys are
    /// stale.
    Restart {
        /// The node.
        node: u16,
    },
    /// For a while, control streams from the node arrive byte by byte.
    SplitControl {
        /// The node.
        node: u16,
        /// How long.
        lasts: Duration,
    },
    /// For a while, control bytes from the node arrive later, and so behind data that was sent after them.
    LateControl {
        /// The node.
        node: u16,
        /// At most so much.
        up_to: Duration,
        /// How long.
        lasts: Duration,
    },
    /// A control stream breaks.
    ControlDeath {
        /// The stream.
        stream: u16,
    },
}

/// The kinds of faults, to count and to choose.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FaultKind {
    /// [`Fault::ShortAcceptance`]
    ShortAcceptance,
    /// [`Fault::Delay`]
    Delay,
    /// [`Fault::Jitter`]
    Jitter,
    /// [`Fault::SlowNic`]
    SlowNic,
    /// [`Fault::Disorder`]
    Disorder,
    /// [`Fault::LinkDeath`] at a time.
    LinkDeathAtTime,
    /// [`Fault::LinkDeath`] after a message.
    LinkDeathAfterMessage,
    /// [`Fault::RefusedRegistration`]
    RefusedRegistration,
    /// [`Fault::LateVisibility`]
    LateVisibility,
    /// [`Fault::FailedVisibility`]
    FailedVisibility,
    /// [`Fault::Restart`]
    Restart,
    /// A key or an address from before was used, and refused.
    StaleKey,
    /// [`Fault::SplitControl`]
    SplitControl,
    /// [`Fault::LateControl`]: control bytes came behind data that was sent after them.
    LateControl,
    /// [`Fault::ControlDeath`]
    ControlDeath,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::ShortAcceptance,
        Self::Delay,
        Self::Jitter,
        Self::SlowNic,
        Self::Disorder,
        Self::LinkDeathAtTime,
        Self::LinkDeathAfterMessage,
        Self::RefusedRegistration,
        Self::LateVisibility,
        Self::FailedVisibility,
        Self::Restart,
        Self::StaleKey,
        Self::SplitControl,
        Self::LateControl,
        Self::ControlDeath,
    ];
}

/// How often each kind of fault struck: had an effect, not merely stood in a script.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Strikes([u64; FaultKind::ALL.len()]);

impl Strikes {
    /// How often this kind struck.
    pub const fn of(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    pub(crate) const fn count(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }
}

/// Faults and when they strike.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Script(pub Vec<(At, Fault)>);

impl Script {
    /// A script of up to `longest` faults within `within`, by swarm choice: first which kinds exist at all,
    /// then faults of those.
    pub fn swarm(random: &mut Random, longest: u64, within: Duration) -> Self {
        let allowed = random.next();
        let mut script = Vec::new();
        for _ in 0..random.between(0, longest) {
            let which = random.below(KINDS);
            if allowed >> which & 1 == 0 {
                continue;
            }
            let time = Duration::from_nanos(random.below(within.as_nanos() as u64));
            let at = if random.one_in(2) { At::Time(time) } else { At::Message(random.between(1, 60)) };
            let number = random.next() as u16;
            let other = random.next() as u16;
            let short = Duration::from_nanos(random.between(100, 200_000));
            let lasts = Duration::from_nanos(random.between(10_000, 1_000_000));
            script.push((at, fault(which, number, other, short, lasts)));
        }
        Self(script)
    }

    /// Scripts of up to `longest` faults within `within`, for property tests: generated, and shrunk to fewer
    /// and milder faults.
    #[cfg(any(test, feature = "proptest"))]
    pub fn strategy(longest: usize, within: Duration) -> impl Strategy<Value = Self> {
        let at = prop_oneof![
            (0..within.as_nanos() as u64).prop_map(|time| At::Time(Duration::from_nanos(time))),
            (1..=60_u64).prop_map(At::Message),
        ];
        let values = (0..KINDS, any::<u16>(), any::<u16>(), 100_u64..200_000, 10_000_u64..1_000_000);
        let one = values.prop_map(|(which, number, other, short, lasts)| {
            fault(which, number, other, Duration::from_nanos(short), Duration::from_nanos(lasts))
        });
        // The swarm: a mask of what exists at all; all of it while shrinking makes no difference.
        (proptest::collection::vec((at, one), 0..=longest), prop_oneof![Just(u64::MAX), any::<u64>()])
            .prop_map(|(faults, mask)| {
                let exists = |fault: &Fault| mask >> kind(fault) as u64 & 1 == 1;
                Self(faults.into_iter().filter(|(_, fault)| exists(fault)).collect())
            })
    }
}

const KINDS: u64 = 13;

/// The fault of a number, with these values.
const fn fault(which: u64, number: u16, other: u16, short: Duration, lasts: Duration) -> Fault {
    let (node, nic) = (number, other);
    match which {
        0 => Fault::ShortAcceptance { node, room: 1 + other % 4, lasts },
        1 => Fault::Delay { node, nic, by: short, lasts },
        2 => Fault::Jitter { node, nic, up_to: short, lasts },
        3 => Fault::SlowNic { node, nic, times: 2 + other % 30, lasts },
        4 => Fault::Disorder { node, up_to: short, lasts },
        5 => Fault::LinkDeath { link: number },
        6 => Fault::RefusedRegistration { node, count: 1 + other % 2 },
        7 => Fault::LateVisibility { node, up_to: short, lasts },
        8 => Fault::FailedVisibility { node },
        9 => Fault::Restart { node },
        10 => Fault::SplitControl { node, lasts },
        11 => Fault::LateControl { node, up_to: short, lasts },
        _ => Fault::ControlDeath { stream: number },
    }
}

/// The kind of a fault; of the two of a dead connection, the first.
#[cfg(any(test, feature = "proptest"))]
const fn kind(fault: &Fault) -> FaultKind {
    match fault {
        Fault::ShortAcceptance { .. } => FaultKind::ShortAcceptance,
        Fault::Delay { .. } => FaultKind::Delay,
        Fault::Jitter { .. } => FaultKind::Jitter,
        Fault::SlowNic { .. } => FaultKind::SlowNic,
        Fault::Disorder { .. } => FaultKind::Disorder,
        Fault::LinkDeath { .. } => FaultKind::LinkDeathAtTime,
        Fault::RefusedRegistration { .. } => FaultKind::RefusedRegistration,
        Fault::LateVisibility { .. } => FaultKind::LateVisibility,
        Fault::FailedVisibility { .. } => FaultKind::FailedVisibility,
        Fault::Restart { .. } => FaultKind::Restart,
        Fault::SplitControl { .. } => FaultKind::SplitControl,
        Fault::LateControl { .. } => FaultKind::LateControl,
        Fault::ControlDeath { .. } => FaultKind::ControlDeath,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All kinds but those that no script holds: `StaleKey` follows from others, and a dead connection has two.
    fn scripted() -> BTreeSet<FaultKind> {
        let none = [FaultKind::StaleKey, FaultKind::LinkDeathAfterMessage];
        FaultKind::ALL.into_iter().filter(|kind| !none.contains(kind)).collect()
    }

    #[test]
    fn each_number_is_a_kind_of_its_own_and_no_kind_is_left_out() {
        let time = Duration::from_nanos(500);
        let kinds: Vec<FaultKind> = (0..KINDS).map(|which| kind(&fault(which, 1, 2, time, time))).collect();
        assert_eq!(kinds.iter().copied().collect::<BTreeSet<_>>(), scripted());
        assert_eq!(kinds.len(), scripted().len(), "a kind has two numbers: {kinds:?}");
    }

    #[test]
    fn the_swarm_draws_every_kind_and_no_fault_that_never_strikes() {
        let mut random = Random::new(1);
        let mut drawn = Vec::new();
        for _ in 0..300 {
            drawn.extend(Script::swarm(&mut random, 40, Duration::from_millis(1)).0);
        }
        assert_eq!(drawn.iter().map(|(_, fault)| kind(fault)).collect::<BTreeSet<_>>(), scripted());
        let messages: BTreeSet<u64> = drawn
            .iter()
            .filter_map(|(at, _)| if let At::Message(count) = *at { Some(count) } else { None })
            .collect();
        assert_eq!(messages, (1..=60).collect());
    }
}
