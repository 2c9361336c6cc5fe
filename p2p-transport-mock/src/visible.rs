//! Messages that have arrived: where their bytes go, and how their operations end.

use p2p_memory::HostView;
use p2p_transport::{OpFault, Outcome, Regions, Slice};

use crate::fault::FaultKind;
use crate::lane::{Kind, Phase};
use crate::planted::Planted;
use crate::state::{Carried, Flying, Report, SideState, State, What};

impl State {
    /// Bytes get to where they belong, and the operation ends.
    pub(crate) fn visible(&mut self, message: Flying) {
        let Some(known) = self.flying(message) else { return };
        match known.carried {
            Carried::Send => self.visible_send(message),
            Carried::Write { .. } => self.visible_write(message),
            Carried::Read { .. } => self.visible_read(message),
        }
    }

    fn visible_send(&mut self, message: Flying) {
        let known = &self.messages[message.index as usize];
        let (link, from, len) = (known.link, known.from, known.len);
        let (owner_slot, owner_serial, done) = (known.slot, known.serial, known.done);
        let Some((slot, serial)) = known.met else { return };
        let to = 1 - from;
        if self.is_planted(Planted::ReadAfterDone) {
            self.take_bytes(message);
        }
        let side = &mut self.links[link].sides[to];
        let checks = side.limits.checks_length;
        let Some(posted) = side.lanes[Kind::Recv as usize].live(slot, serial) else { return };
        let room = posted.len;
        let slack = u32::from(self.is_planted(Planted::OverrunByOne));
        let outcome = if len > room + slack && checks {
            Outcome::Failed(OpFault::Truncated)
        } else if checks {
            Outcome::Done { len }
        } else {
            Outcome::Done { len: room }
        };
        if len != room && !checks {
            let text = format!("link {link}: a send of {len} bytes meets a receive of {room}");
            self.audit.find(text);
        }
        if outcome == Outcome::Failed(OpFault::Truncated) && self.rdma() {
            // Such hardware knows no smaller failure.
            self.finish(link, to, Kind::Recv, slot, serial, outcome);
            self.kill(link);
            return;
        }
        if matches!(outcome, Outcome::Done { .. }) {
            if self.strikes_planted(Planted::CompletionBeforeBytes, 20) {
                self.after(50, What::Late { message });
                self.finish(link, to, Kind::Recv, slot, serial, outcome);
                return;
            }
            self.deliver(message);
        }
        let wrong = self.strikes_planted(Planted::WrongLength, 50);
        let outcome = if let (true, Outcome::Done { len }) = (wrong, outcome) {
            Outcome::Done { len: len.saturating_sub(1) }
        } else {
            outcome
        };
        self.finish(link, to, Kind::Recv, slot, serial, outcome);
        if !done {
            let outcome = Outcome::Done { len };
            self.acknowledge(link, from, Kind::Send, owner_slot, owner_serial, outcome);
        }
        self.free_message(message.index);
        self.try_finish(link);
    }

    /// The owner of an operation hears how it ended at the peer.
    fn acknowledge(
        &mut self,
        link: usize,
        side: usize,
        kind: Kind,
        slot: u16,
        serial: u64,
        outcome: Outcome,
    ) {
        let (node, nic) = self.place(link, 1 - side);
        let mut at = self.now + self.latency(node, nic) + self.disorder(link, side, kind);
        let place = &mut self.links[link].sides[side];
        if place.limits.fifo {
            place.last_finish = place.last_finish.max(at);
            at = place.last_finish;
        }
        self.at(at, What::Finish { link, side, kind, slot, serial, outcome });
    }

    /// Scatters a message to its receive.
    fn deliver(&mut self, message: Flying) {
        let shifted = self.is_planted(Planted::ScatterShifted);
        let known = &self.messages[message.index as usize];
        let Some((slot, _)) = known.met else { return };
        let side = &self.links[known.link].sides[1 - known.from];
        let Some(posted) = side.lanes[Kind::Recv as usize].slot(slot) else { return };
        let regions = &self.ends[side.end].regions;
        let shift = if shifted && posted.slices.len() > 2 { 1 } else { 0 };
        let (equal, length) = (scatter(regions, &posted.slices, &known.bytes, shift), known.bytes.len());
        if !equal && shift == 0 {
            let text = format!("link {}: {length} bytes did not get where they belong", known.link);
            self.audit.find(text);
        }
    }

    /// A planted bug's bytes.
    pub(crate) fn late(&mut self, message: Flying) {
        let Some(known) = self.flying(message) else { return };
        let (link, from, slot, serial, len, done) =
            (known.link, known.from, known.slot, known.serial, known.len, known.done);
        self.deliver(message);
        if !done {
            self.acknowledge(link, from, Kind::Send, slot, serial, Outcome::Done { len });
        }
        self.free_message(message.index);
        self.try_finish(link);
    }

    fn visible_write(&mut self, message: Flying) {
        let known = &self.messages[message.index as usize];
        let Carried::Write { to: remote, notify } = known.carried else { return };
        let (link, from, slot, serial, len) = (known.link, known.from, known.slot, known.serial, known.len);
        let to = 1 - from;
        let Some(slice) = self.resolve(link, to, remote.key, remote.addr, remote.len) else {
            self.refuse(message);
            return;
        };
        let early = notify.is_some() && self.strikes_planted(Planted::NotifyBeforeBytes, 4);
        if !early {
            let side = &self.links[link].sides[to];
            let bytes = &self.messages[message.index as usize].bytes;
            if !scatter(&self.ends[side.end].regions, &[slice], bytes, 0) {
                self.audit.find(format!("link {link}: a write did not get where it belongs"));
            }
        }
        let side = &self.links[link].sides[to];
        let (end, conn) = (side.end, side.conn);
        let open = matches!(side.state, SideState::Open | SideState::PeerClosed);
        if let Some(value) = notify.filter(|_| open) {
            self.report(end, Report::Notified { conn, value });
        }
        if early {
            // The planted bug: the bytes come with the second try.
            let known = &mut self.messages[message.index as usize];
            known.carried = Carried::Write { to: remote, notify: None };
            self.after(100, What::Visible { message });
            return;
        }
        self.acknowledge(link, from, Kind::OneSided, slot, serial, Outcome::Done { len });
        self.free_message(message.index);
        self.try_finish(link);
    }

    /// The peer looks at a read's key, and sends the bytes.
    pub(crate) fn read_at(&mut self, message: Flying) {
        let Some(known) = self.flying(message) else { return };
        let Carried::Read { from: remote } = known.carried else { return };
        let (link, from) = (known.link, known.from);
        if self.resolve(link, from, remote.key, remote.addr, remote.len).is_none() {
            self.refuse(message);
            return;
        }
        self.links[link].sides[from].answers.push_back(message);
        self.kick(link, from);
    }

    fn visible_read(&mut self, message: Flying) {
        let known = &self.messages[message.index as usize];
        let (link, owner, slot, serial, len) = (known.link, known.owner, known.slot, known.serial, known.len);
        let side = &mut self.links[link].sides[owner];
        let Some(reading) = side.lanes[Kind::OneSided as usize].live(slot, serial) else {
            self.free_message(message.index);
            return;
        };
        let (end, slices) = (side.end, &reading.slices);
        let bytes = &self.messages[message.index as usize].bytes;
        if !scatter(&self.ends[end].regions, slices, bytes, 0) {
            self.audit.find(format!("link {link}: a read did not get where it belongs"));
        }
        self.finish(link, owner, Kind::OneSided, slot, serial, Outcome::Done { len });
        self.free_message(message.index);
        self.try_finish(link);
    }

    /// The peer refuses a one-sided operation.
    pub(crate) fn refuse(&mut self, message: Flying) {
        let known = &self.messages[message.index as usize];
        let (link, owner, slot, serial) = (known.link, known.owner, known.slot, known.serial);
        self.strikes.count(FaultKind::StaleKey);
        let outcome = Outcome::Failed(OpFault::Remote);
        self.acknowledge(link, owner, Kind::OneSided, slot, serial, outcome);
        self.free_message(message.index);
        self.try_finish(link);
    }

    /// The local range that a key of a side means, if it still means one.
    pub(crate) fn resolve(&self, link: usize, side: usize, key: u64, addr: u64, len: u32) -> Option<Slice> {
        let place = &self.links[link].sides[side];
        let end = &self.ends[place.end];
        let export = end.exports.get((key & 0xffff) as usize)?;
        let stale = self.is_planted(Planted::StaleKeyAccepted);
        if !stale && (!export.live || export.key != key || (export.link, export.side) != (link, side)) {
            return None;
        }
        let first = addr.checked_sub(base_of(key))?;
        let inside = first.checked_add(u64::from(len))? <= u64::from(export.slice.len);
        let live =
            !end.dropped && end.regions.check(p2p_transport::NicId(place.nic as u16), export.slice).is_ok();
        (inside && (live || stale)).then_some(Slice {
            region: export.slice.region,
            offset: export.slice.offset + first,
            len,
        })
    }

    /// An operation has ended: it is reported when its turn comes.
    pub(crate) fn finish(
        &mut self,
        link: usize,
        side: usize,
        kind: Kind,
        slot: u16,
        serial: u64,
        outcome: Outcome,
    ) {
        let place = &mut self.links[link].sides[side];
        let Some(live) = place.lanes[kind as usize].live(slot, serial) else { return };
        live.phase = Phase::Finished(outcome);
        self.hand_over(link, side, kind, slot);
    }

    /// Operations that may be reported are.
    pub(crate) fn hand_over(&mut self, link: usize, side: usize, kind: Kind, ended: u16) {
        let swapped = self.strikes_planted(Planted::CompletionsSwapped, 10);
        loop {
            let place = &mut self.links[link].sides[side];
            let Some(slot) = place.lanes[kind as usize].next_report(ended) else { return };
            let serial = place.lanes[kind as usize].slot(slot).map_or(0, |slot| slot.serial);
            let end = place.end;
            let report = Report::Completed { link, side, kind, slot, serial };
            self.report(end, report);
            if self.strikes_planted(Planted::CompletionTwice, 100) {
                self.report(end, report);
            }
            let reports = &mut self.ends[end].reports;
            if swapped && reports.len() > 1 {
                let last = reports.len() - 1;
                reports.swap(last, last - 1);
            }
        }
    }
}

/// Where the addresses of an exported range begin.
pub(crate) const fn base_of(key: u64) -> u64 {
    (key & 0xffff) << 40 | 1 << 32
}

/// Reads the bytes of a message.
pub(crate) fn gather(regions: &Regions<()>, slices: &[Slice], bytes: &mut [u8]) -> bool {
    let mut rest = bytes;
    for slice in slices {
        let length = rest.len().min(slice.len as usize);
        let (part, after) = rest.split_at_mut(length);
        rest = after;
        let view = regions.memory(slice.region).and_then(HostView::of);
        let copied = view.map(|view| view.copy_out(slice.offset as usize, part));
        if !matches!(copied, Some(Ok(()))) {
            return false;
        }
    }
    true
}

/// Writes the bytes of a message, and reads them again: whether they are there.
fn scatter(regions: &Regions<()>, slices: &[Slice], bytes: &[u8], shift: usize) -> bool {
    let mut rest = bytes;
    for (slice, index) in slices.iter().zip(0..) {
        let (part, after) = rest.split_at(rest.len().min(slice.len as usize));
        rest = after;
        let Some(view) = regions.memory(slice.region).and_then(HostView::of) else { return false };
        let offset = slice.offset as usize + if index == 1 { shift } else { 0 };
        if view.copy_in(offset, part).is_err() {
            return false;
        }
        let mut seen = [0; 512];
        for (chunk, at) in part.chunks(seen.len()).zip((offset..).step_by(seen.len())) {
            let seen = &mut seen[..chunk.len()];
            if view.copy_out(at, seen).is_err() || seen != chunk {
                return false;
            }
        }
    }
    rest.is_empty()
}
