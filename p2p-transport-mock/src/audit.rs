//! What must hold after every step, whoever uses the world.

use p2p_transport::RegionId;

use crate::lane::{Kind, Phase};
use crate::state::{SideState, State};

/// What was found, in words.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) findings: Vec<String>,
    /// Users of each region, counted anew; kept so that a check allocates nothing.
    users: Vec<u32>,
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

    /// Every few steps: memory that an operation uses is there, and counted as often as it is used.
    pub(crate) fn check_memory(&mut self) {
        let mut users = std::mem::take(&mut self.audit.users);
        for number in (0..self.ends.len()).filter(|number| !self.ends[*number].dropped) {
            if let Some(finding) = self.miscounted(number, &mut users) {
                self.audit.find(format!("transport {number}: {finding}"));
            }
        }
        self.audit.users = users;
    }

    fn miscounted(&self, number: usize, users: &mut Vec<u32>) -> Option<String> {
        let regions = &self.ends[number].regions;
        users.clear();
        let sides = self.links.iter().flat_map(|link| &link.sides).filter(|side| side.end == number);
        let lanes = sides.flat_map(|side| &side.lanes).filter(|lane| lane.pending > 0);
        let slots = lanes.flat_map(|lane| &lane.slots).filter(|slot| slot.phase != Phase::Free);
        for slice in slots.flat_map(|slot| &slot.slices) {
            let region = slice.region;
            if regions.memory(region).is_none() {
                return Some(format!("{region:?} is used and gone"));
            }
            if users.len() <= region.index() {
                users.resize(region.index() + 1, 0);
            }
            users[region.index()] += 1;
        }
        regions.iter().find_map(|(region, ())| {
            let real = users.get(region.index()).copied().unwrap_or(0);
            let counted = regions.users(region).unwrap_or(0);
            (counted != real).then(|| format!("{region:?} has {real} users, counts {counted}"))
        })
    }
}
