//! What must hold after every step, whoever uses the world.

use p2p_transport::RegionId;

use crate::lane::{Kind, Phase};
use crate::state::{SideState, State};

/// What was found, in words.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) findings: Vec<String>,
}

impl Audit {
    /// More than a few say nothing new.
    const MOST: usize = 20;

    pub(crate) fn find(&mut self, text: String) {
        if self.findings.len() < Self::MOST {
            self.findings.push(text);
        }
    }
}

/// The operations of one end of a connection, kept apart from the connection's own account of them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Serial numbers of what was accepted and not reported, by kind.
    open: [Vec<u64>; 3],
    closed: bool,
}

impl State {
    pub(crate) fn audit_accepted(&mut self, link: usize, side: usize, kind: Kind, serial: u64) {
        self.links[link].audit[side].open[kind as usize].push(serial);
    }

    /// Each operation is reported once, and those that ran in order where that is promised.
    pub(crate) fn audit_reported(&mut self, link: usize, side: usize, kind: Kind, serial: u64, ran: bool) {
        let fifo = self.links[link].sides[side].limits.fifo && kind != Kind::OneSided;
        let open = &mut self.links[link].audit[side].open[kind as usize];
        match open.binary_search(&serial) {
            Ok(at) => {
                open.remove(at);
                if fifo && ran && at != 0 {
                    let text = format!(
                        "link {link}, side {side}: {kind:?} {serial} was reported before {}",
                        open[0]
                    );
                    self.audit.find(text);
                }
            }
            Err(_) => {
                let text =
                    format!("link {link}, side {side}: {kind:?} {serial} was reported, and is not open");
                self.audit.find(text);
            }
        }
    }

    pub(crate) fn audit_closed(&mut self, link: usize, side: usize) {
        let ledger = &mut self.links[link].audit[side];
        let left: usize = ledger.open.iter().map(Vec::len).sum();
        let again = std::mem::replace(&mut ledger.closed, true);
        if left > 0 || again {
            let text =
                format!("link {link}, side {side}: closed with {left} operations open, again: {again}");
            self.audit.find(text);
        }
    }

    /// A region is reported as retired: nothing may use it.
    pub(crate) fn audit_retired(&mut self, end: usize, region: RegionId) {
        let used =
            self.links.iter().flat_map(|link| &link.sides).filter(|side| side.end == end).any(|side| {
                let mut slots = side.lanes.iter().flat_map(|lane| &lane.slots);
                slots.any(|slot| {
                    slot.phase != Phase::Free && slot.slices.iter().any(|slice| slice.region == region)
                })
            });
        if used {
            self.audit.find(format!("transport {end}: {region:?} is retired while an operation uses it"));
        }
    }

    /// After a step: numbers that must agree, of every connection that lives.
    pub(crate) fn check(&mut self) {
        for index in 0..self.links.len() {
            let link = &self.links[index];
            if link.sides.iter().all(|side| side.state == SideState::Closed) {
                continue;
            }
            for (side, ledger) in link.sides.iter().zip(&link.audit) {
                for (lane, (kind, open)) in side.lanes.iter().zip(Kind::ALL.into_iter().zip(&ledger.open)) {
                    let pending = usize::from(lane.pending);
                    if pending > usize::from(lane.window) || pending != open.len() {
                        let text = format!(
                            "link {index}: {pending} {kind:?} pending, {} open, window {}",
                            open.len(),
                            lane.window
                        );
                        self.audit.find(text);
                        return;
                    }
                }
            }
            if let [first, second] = &link.sides[..] {
                for (from, to) in [(first, second), (second, first)] {
                    let sent = from.lanes[Kind::Send as usize].taken;
                    let met = to.lanes[Kind::Recv as usize].taken;
                    if met > sent {
                        self.audit.find(format!("link {index}: {met} receives met {sent} sends"));
                        return;
                    }
                }
            }
        }
    }

    /// Now and then: memory that an operation uses is there, and counted as often as it is used.
    pub(crate) fn check_memory(&mut self) {
        let mut findings = Vec::new();
        for (number, end) in self.ends.iter().enumerate().filter(|(_, end)| !end.dropped) {
            let mut used = Vec::new();
            for side in self.links.iter().flat_map(|link| &link.sides).filter(|side| side.end == number) {
                let slots = side.lanes.iter().flat_map(|lane| &lane.slots);
                for slot in slots.filter(|slot| slot.phase != Phase::Free) {
                    used.extend(slot.slices.iter().map(|slice| slice.region));
                }
            }
            for region in &used {
                if end.regions.memory(*region).is_none() {
                    findings.push(format!("transport {number}: {region:?} is used and gone"));
                }
            }
            for (region, ()) in end.regions.iter() {
                let counted = end.regions.users(region).unwrap_or(0) as usize;
                let real = used.iter().filter(|used| **used == region).count();
                if counted != real {
                    findings
                        .push(format!("transport {number}: {region:?} has {real} users, counts {counted}"));
                }
            }
        }
        for finding in findings {
            self.audit.find(finding);
        }
    }
}
