//! Faults of a script strike.

use std::time::Duration;

use crate::fault::{At, Fault, FaultKind, Script};
use crate::state::{NicState, Spell, State, What, nanos};

impl State {
    /// Puts a script in place. Its times are those of the world; what has passed strikes at once.
    pub(crate) fn set_script(&mut self, script: Script) {
        let first = self.script.0.len();
        for (index, (at, _)) in (first..).zip(&script.0) {
            if let At::Time(time) = *at {
                let at = nanos(time);
                self.at(at, What::Fault { index });
            }
        }
        self.script.0.extend(script.0);
    }

    /// A message has arrived: faults that count messages strike.
    pub(crate) fn count_arrival(&mut self) {
        self.arrived += 1;
        for index in 0..self.script.0.len() {
            if self.script.0[index].0 == At::Message(self.arrived) {
                self.after(0, What::Fault { index });
            }
        }
    }

    pub(crate) fn scripted(&mut self, index: usize) {
        let Some(&(at, fault)) = self.script.0.get(index) else { return };
        let kind = match at {
            At::Time(_) => FaultKind::LinkDeathAtTime,
            At::Message(_) => FaultKind::LinkDeathAfterMessage,
        };
        self.inject(fault, kind);
    }

    /// A fault strikes now.
    pub(crate) fn inject(&mut self, fault: Fault, link_death: FaultKind) {
        if self.nodes.is_empty() {
            return;
        }
        let now = self.now;
        let nodes = self.nodes.len();
        let until = |lasts: Duration| now.saturating_add(nanos(lasts));
        match fault {
            Fault::ShortAcceptance { node, room, lasts } => {
                self.nodes[usize::from(node) % nodes].short =
                    Spell { until: until(lasts), measure: u64::from(room.max(1)) };
                self.at(until(lasts), What::Wake);
            }
            Fault::Delay { node, nic, by, lasts } => {
                self.nic_at(node, nic).delay = Spell { until: until(lasts), measure: nanos(by) };
            }
            Fault::Jitter { node, nic, up_to, lasts } => {
                self.nic_at(node, nic).jitter = Spell { until: until(lasts), measure: nanos(up_to) };
            }
            Fault::SlowNic { node, nic, times, lasts } => {
                let measure = u64::from(times.max(1));
                self.nic_at(node, nic).slow = Spell { until: until(lasts), measure };
            }
            Fault::Disorder { node, up_to, lasts } => {
                self.nodes[usize::from(node) % nodes].disorder =
                    Spell { until: until(lasts), measure: nanos(up_to) };
            }
            Fault::LinkDeath { link } => {
                if !self.links.is_empty() {
                    let link = usize::from(link) % self.links.len();
                    if self.kill(link) {
                        self.strikes.count(link_death);
                    }
                }
            }
            Fault::RefusedRegistration { node, count } => {
                self.nodes[usize::from(node) % nodes].refusals = count;
            }
            Fault::LateVisibility { node, up_to, lasts } => {
                self.nodes[usize::from(node) % nodes].late =
                    Spell { until: until(lasts), measure: nanos(up_to) };
            }
            Fault::FailedVisibility { node } => {
                self.nodes[usize::from(node) % nodes].failed_visibility = true;
            }
            Fault::Restart { node } => self.restart(usize::from(node) % nodes),
            Fault::SplitControl { node, lasts } => {
                self.nodes[usize::from(node) % nodes].split_control =
                    Spell { until: until(lasts), measure: 1 };
            }
            Fault::LateControl { node, up_to, lasts } => {
                self.nodes[usize::from(node) % nodes].late_control =
                    Spell { until: until(lasts), measure: nanos(up_to) };
            }
            Fault::ControlDeath { stream } => self.kill_stream(usize::from(stream)),
        }
    }

    fn nic_at(&mut self, node: u16, nic: u16) -> &mut NicState {
        let nodes = self.nodes.len();
        let nics = &mut self.nodes[usize::from(node) % nodes].nics;
        let count = nics.len();
        &mut nics[usize::from(nic) % count]
    }

    /// Switches all faults off: those that hold, and those that are still to come.
    pub(crate) fn calm(&mut self) {
        self.script.0.iter_mut().for_each(|(at, fault)| {
            *at = At::Message(0);
            *fault = Fault::RefusedRegistration { node: 0, count: 0 };
        });
        for node in &mut self.nodes {
            (node.short, node.disorder, node.late) = Default::default();
            (node.split_control, node.late_control) = Default::default();
            (node.refusals, node.failed_visibility) = (0, false);
            for nic in &mut node.nics {
                (nic.delay, nic.jitter, nic.slow) = Default::default();
            }
        }
    }

    fn restart(&mut self, node: usize) {
        let mut struck = false;
        for link in 0..self.links.len() {
            if self.links[link].sides.iter().any(|side| side.node == node) {
                struck |= self.kill(link);
            }
        }
        for end in (0..self.ends.len()).filter(|end| self.ends[*end].node == node).collect::<Vec<_>>() {
            struck |= self.forget_listeners(end);
            self.ends[end].exports.iter_mut().for_each(|export| export.live = false);
        }
        struck |= self.kill_streams_of(node);
        if struck {
            self.strikes.count(FaultKind::Restart);
        }
    }
}
