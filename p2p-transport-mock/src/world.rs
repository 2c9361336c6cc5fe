//! Worlds and nodes, as their users see them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use p2p_transport::{Nic, NicId, Now, Regions, Slab};

use crate::fault::{Fault, FaultKind, Script, Strikes};
use crate::planted::Planted;
use crate::settings::{NicModel, Personality, Settings};
use crate::state::{End, NicState, NodeState, Spell, State, nanos};
use crate::{MockControl, MockTransport};

/// A simulated network: nodes with NICs, virtual time, and events in the order of (time, sequence).
///
/// Nothing in it reads a clock or depends on the order of a hash map: the same seed, and the same calls, give
/// the same trace. Clones are handles of one world. It is driven from one thread; its transports are `Send`
/// because the contract wants them so, and each call of theirs takes the world's lock.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl World {
    /// An empty world.
    pub fn new(seed: u64, settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed, settings))))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a node with these NICs.
    pub fn add_node(&self, nics: &[NicModel]) -> Node {
        let mut state = self.state();
        let nics = nics
            .iter()
            .map(|&model| NicState {
                model,
                flows: VecDeque::new(),
                current: None,
                busy: false,
                receives_from: 0,
                delay: Spell::default(),
                jitter: Spell::default(),
                slow: Spell::default(),
            })
            .collect();
        state.nodes.push(NodeState {
            nics,
            short: Spell::default(),
            disorder: Spell::default(),
            late: Spell::default(),
            refusals: 0,
            failed_visibility: false,
            split_control: Spell::default(),
            late_control: Spell::default(),
        });
        let node = state.nodes.len() - 1;
        drop(state);
        Node { world: self.clone(), node }
    }

    /// The virtual time.
    pub fn now(&self) -> Now {
        crate::transport::now(&self.state())
    }

    /// When the next event happens; `None` if nothing will happen any more by itself.
    pub fn next_time(&self) -> Option<Now> {
        self.state().next_time().map(|at| Now(Duration::from_nanos(at)))
    }

    /// Lets the next event happen, and time go there. False if there is none.
    pub fn step(&self) -> bool {
        self.state().step()
    }

    /// Lets everything happen up to and including this time, and time go there.
    pub fn advance(&self, to: Now) {
        let to = nanos(to.0);
        let mut state = self.state();
        while state.next_time().is_some_and(|at| at <= to) {
            state.step();
        }
        state.now = state.now.max(to);
    }

    /// Puts a script of faults in place, beside what is there already. Its times are those of the
    /// world: one that has passed is now.
    pub fn script(&self, script: Script) {
        self.state().set_script(script);
    }

    /// A fault strikes now.
    pub fn inject(&self, fault: Fault) {
        self.state().inject(fault, FaultKind::LinkDeathAtTime);
    }

    /// Switches all faults off: those that hold, and those that are still to come. What broke stays broken.
    pub fn calm(&self) {
        self.state().calm();
    }

    /// How often faults struck.
    pub fn strikes(&self) -> Strikes {
        self.state().strikes
    }

    /// Events that have happened.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Messages and one-sided transfers that have arrived.
    pub fn arrived(&self) -> u64 {
        self.state().arrived
    }

    /// Connections that were ever begun; a [`Fault::LinkDeath`] counts them from 0.
    pub fn links(&self) -> usize {
        self.state().links.len()
    }

    /// Operations that calls of transports took, matched, withdrew and reported so far: what such a call costs.
    pub fn work(&self) -> u64 {
        self.state().work
    }

    /// One number for everything that happened so far: worlds that differ in it went different ways.
    pub fn trace(&self) -> u64 {
        self.state().trace.sum
    }

    /// Keeps a line for everything that happens from here on.
    pub fn keep_lines(&self) {
        self.state().trace.lines.get_or_insert_default();
    }

    /// The lines kept so far.
    pub fn lines(&self) -> Vec<String> {
        self.state().trace.lines.clone().unwrap_or_default()
    }

    /// Invariants that did not hold, in words: none, unless the world itself is broken, or its users let
    /// lengths differ where they are not checked.
    pub fn findings(&self) -> Vec<String> {
        let mut state = self.state();
        state.check_memory();
        state.audit.findings.clone()
    }

    /// Takes what was found until now, without another look at the memory.
    pub(crate) fn take_findings(&self) -> Vec<String> {
        std::mem::take(&mut self.state().audit.findings)
    }

    /// Only tests have bugs to plant.
    pub(crate) fn plant(&self, bug: Option<Planted>) {
        self.state().planted = bug;
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.state(), f)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes.len();
        f.debug_struct("World").field("now", &self.now).field("nodes", &nodes).finish_non_exhaustive()
    }
}

/// A host in a world. Each transport of it is one process there; they share its NICs.
#[derive(Clone, Debug)]
pub struct Node {
    world: World,
    node: usize,
}

impl Node {
    /// Its number, from 0 in the order in which nodes were added.
    pub const fn number(&self) -> usize {
        self.node
    }

    /// A new transport.
    pub fn transport(&self) -> MockTransport {
        let mut state = self.world.state();
        let count = state.nodes[self.node].nics.len();
        let nics = (0..count as u16).map(|nic| {
            let model = state.nodes[self.node].nics[usize::from(nic)].model;
            let mut described = Nic::new(NicId(nic), format!("mock{nic}"));
            described.megabits = u32::try_from(model.bytes_per_second / 125_000).unwrap_or(u32::MAX);
            described
        });
        let nics = nics.collect();
        state.ends.push(End {
            node: self.node,
            regions: Regions::new(),
            conns: Slab::new(),
            listeners: Slab::new(),
            reports: VecDeque::new(),
            exports: Vec::new(),
            dropped: false,
        });
        let rdma = state.settings.personality == Personality::Rdma;
        MockTransport::new(Arc::clone(&self.world.0), state.ends.len() - 1, nics, rdma)
    }

    /// A new owner of control streams.
    pub fn control(&self) -> MockControl {
        MockControl::new(self.world.clone(), self.node)
    }
}
