//! Messages on their way: taken up by a NIC, cut into segments, matched.

use p2p_transport::{OneSidedOp, Outcome};

use crate::fault::FaultKind;
use crate::lane::Kind;
use crate::planted::Planted;
use crate::state::{Carried, Flying, Message, Nanos, SideState, State, What, nanos};
use crate::visible::gather;

impl State {
    /// A side may have something to send.
    pub(crate) fn kick(&mut self, link: usize, side: usize) {
        let Some(place) = self.links[link].sides.get_mut(side) else { return };
        let (node, nic) = (place.node, place.nic);
        if !place.in_flows {
            place.in_flows = true;
            self.nodes[node].nics[nic].flows.push_back((link, side));
        }
        let nic_state = &mut self.nodes[node].nics[nic];
        if !nic_state.busy {
            nic_state.busy = true;
            self.after(0, What::Transmit { node, nic });
        }
    }

    /// The segment in hand has left; the next one begins.
    pub(crate) fn transmit(&mut self, node: usize, nic: usize) {
        if let Some((message, bytes, last)) = self.nodes[node].nics[nic].current.take() {
            self.segment_left(message, bytes, last);
        }
        while let Some((link, side)) = self.nodes[node].nics[nic].flows.pop_front() {
            let Some(message) = self.next_message(link, side) else {
                self.links[link].sides[side].in_flows = false;
                continue;
            };
            let segment = self.settings.segment.max(1);
            let place = &mut self.messages[message.index as usize];
            let bytes = (place.len - place.sent).min(segment);
            place.sent += bytes;
            let last = place.sent == place.len;
            self.links[link].sides[side].sending = (!last).then_some(message);
            self.nodes[node].nics[nic].flows.push_back((link, side));
            self.nodes[node].nics[nic].current = Some((message, bytes, last));
            let takes = self.occupies(node, nic, bytes);
            self.after(takes, What::Transmit { node, nic });
            return;
        }
        self.nodes[node].nics[nic].busy = false;
    }

    /// How long bytes occupy a NIC.
    fn occupies(&mut self, node: usize, nic: usize, bytes: u32) -> Nanos {
        let now = self.now;
        let nic = &self.nodes[node].nics[nic];
        let speed = u128::from(nic.model.bytes_per_second.max(1));
        let takes = (u128::from(bytes) * 1_000_000_000).div_ceil(speed);
        let takes = Nanos::try_from(takes).unwrap_or(Nanos::MAX);
        if nic.slow.until > now && takes > 0 {
            let times = nic.slow.measure;
            self.strikes.count(FaultKind::SlowNic);
            return takes.saturating_mul(times);
        }
        takes
    }

    /// The message of which a side sends the next segment. Its kinds take turns.
    fn next_message(&mut self, link: usize, side: usize) -> Option<Flying> {
        if self.links[link].dead {
            return None;
        }
        let place = &mut self.links[link].sides[side];
        if let Some(sending) = place.sending {
            if self.messages[sending.index as usize].generation == sending.generation {
                return Some(sending);
            }
            place.sending = None;
        }
        let place = &mut self.links[link].sides[side];
        if matches!(place.state, SideState::Connecting | SideState::Flushed | SideState::Closed) {
            return None;
        }
        let turn = place.turn;
        place.turn = (turn + 1) % 3;
        (0..3).find_map(|more| match (turn + more) % 3 {
            0 => self.next_send(link, side),
            1 => self.next_one_sided(link, side),
            _ => {
                let answer = self.links[link].sides[side].answers.pop_front()?;
                (self.messages[answer.index as usize].generation == answer.generation).then_some(answer)
            }
        })
    }

    fn next_send(&mut self, link: usize, side: usize) -> Option<Flying> {
        let eager = self.settings.eager_bytes;
        let waiting = self.links[link].sides.get(1 - side)?.lanes[Kind::Recv as usize].queue.len();
        let place = &mut self.links[link].sides[side];
        let &first = place.lanes[Kind::Send as usize].queue.front()?;
        let len = place.lanes[Kind::Send as usize].slot(first)?.len;
        let met = (place.unmatched as usize) < waiting;
        // An empty message takes room as well.
        let fits = eager > 0 && place.unmatched_bytes + u64::from(len.max(64)) <= eager;
        if !met && !fits {
            return None;
        }
        let ordinal = place.lanes[Kind::Send as usize].taken;
        let slot = place.lanes[Kind::Send as usize].start(0)?;
        let serial = place.lanes[Kind::Send as usize].slot(slot)?.serial;
        place.unmatched += 1;
        place.unmatched_bytes += u64::from(len.max(64));
        place.undelivered += 1;
        Some(self.message(link, side, side, Carried::Send, slot, serial, ordinal, len))
    }

    fn next_one_sided(&mut self, link: usize, side: usize) -> Option<Flying> {
        let lane = &mut self.links[link].sides[side].lanes[Kind::OneSided as usize];
        let slot = lane.start(0)?;
        let (serial, len, op) = lane.slot(slot).map(|slot| (slot.serial, slot.len, slot.one_sided))?;
        match op? {
            OneSidedOp::Write { to, notify, .. } => {
                self.links[link].sides[side].undelivered += 1;
                let carried = Carried::Write { to, notify };
                Some(self.message(link, side, side, carried, slot, serial, 0, len))
            }
            OneSidedOp::Read { from, .. } => {
                let carried = Carried::Read { from };
                let message = self.message(link, 1 - side, side, carried, slot, serial, 0, len);
                let (node, nic) = self.place(link, side);
                let latency = self.latency(node, nic);
                self.after(latency, What::ReadAt { message });
                // The request itself takes no time on the NIC.
                self.next_one_sided(link, side)
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a message, each once")]
    fn message(
        &mut self,
        link: usize,
        from: usize,
        owner: usize,
        carried: Carried,
        slot: u16,
        serial: u64,
        ordinal: u64,
        len: u32,
    ) -> Flying {
        let index = self.free_messages.pop().unwrap_or_else(|| {
            self.messages.push(Message {
                generation: 0,
                live: false,
                link,
                from,
                owner,
                slot,
                serial,
                carried,
                ordinal,
                len,
                sent: 0,
                bytes: Vec::new(),
                done: false,
                arrived: false,
                landed: false,
                met: None,
            });
            (self.messages.len() - 1) as u32
        });
        let message = &mut self.messages[index as usize];
        (message.link, message.from, message.owner, message.carried) = (link, from, owner, carried);
        (message.slot, message.serial, message.ordinal, message.len) = (slot, serial, ordinal, len);
        (message.sent, message.done, message.arrived, message.landed) = (0, false, false, false);
        (message.live, message.met) = (true, None);
        message.bytes.clear();
        Flying { index, generation: message.generation }
    }

    /// A message is gone: delivered or dropped.
    pub(crate) fn free_message(&mut self, index: u32) {
        let message = &mut self.messages[index as usize];
        if !message.live {
            return;
        }
        message.live = false;
        message.generation = message.generation.wrapping_add(1);
        let (link, from, matched) = (message.link, message.from, message.met.is_some());
        let (len, carried) = (u64::from(message.len.max(64)), message.carried);
        self.free_messages.push(index);
        let Some(side) = self.links[link].sides.get_mut(from) else { return };
        if carried == Carried::Send && !matched {
            side.unmatched = side.unmatched.saturating_sub(1);
            side.unmatched_bytes = side.unmatched_bytes.saturating_sub(len);
        }
        if !matches!(carried, Carried::Read { .. }) {
            side.undelivered = side.undelivered.saturating_sub(1);
        }
    }

    pub(crate) fn flying(&self, message: Flying) -> Option<&Message> {
        self.messages.get(message.index as usize).filter(|known| known.generation == message.generation)
    }

    pub(crate) fn place(&self, link: usize, side: usize) -> (usize, usize) {
        let side = &self.links[link].sides[side];
        (side.node, side.nic)
    }

    fn segment_left(&mut self, message: Flying, bytes: u32, last: bool) {
        let Some(known) = self.flying(message) else { return };
        let (link, from, owner) = (known.link, known.from, known.owner);
        let (slot, serial, len, carried) = (known.slot, known.serial, known.len, known.carried);
        let late_read = self.is_planted(Planted::ReadAfterDone);
        if last && !(late_read && carried == Carried::Send) && !self.take_bytes(message) {
            self.refuse(message);
            return;
        }
        if last && carried == Carried::Send && self.settings.send_done == crate::SendDone::Sent {
            self.messages[message.index as usize].done = true;
            let outcome = Outcome::Done { len };
            let extra = self.disorder(link, owner, Kind::Send);
            self.after(extra, What::Finish { link, side: owner, kind: Kind::Send, slot, serial, outcome });
        }
        let (node, nic) = self.place(link, from);
        let mut wait = self.latency(node, nic);
        let now = self.now;
        let nic = &self.nodes[node].nics[nic];
        let (delay, jitter) = (nic.delay, nic.jitter);
        if delay.until > now {
            wait += delay.measure;
            self.strikes.count(FaultKind::Delay);
        }
        if jitter.until > now {
            wait += self.random.between(0, jitter.measure);
            self.strikes.count(FaultKind::Jitter);
        }
        let side = &mut self.links[link].sides[from];
        // The segments of a connection stay in order.
        side.last_arrival = side.last_arrival.max(now.saturating_add(wait));
        let at = side.last_arrival;
        self.at(at, What::Arrive { message, bytes, last });
    }

    /// The NIC reads the bytes that it sends. False if they may not be read any more.
    pub(crate) fn take_bytes(&mut self, message: Flying) -> bool {
        let known = &self.messages[message.index as usize];
        let (link, from, carried, len) = (known.link, known.from, known.carried, known.len);
        let remote = match carried {
            Carried::Read { from: remote } => {
                let Some(slice) = self.resolve(link, from, remote.key, remote.addr, remote.len) else {
                    return false;
                };
                Some(slice)
            }
            Carried::Send | Carried::Write { .. } => None,
        };
        let mut bytes = std::mem::take(&mut self.messages[message.index as usize].bytes);
        bytes.resize(len as usize, 0);
        let known = &self.messages[message.index as usize];
        let side = &self.links[link].sides[from];
        let kind = if carried == Carried::Send { Kind::Send } else { Kind::OneSided };
        let own = side.lanes[kind as usize].slot(known.slot);
        let slices = match &remote {
            Some(slice) => std::slice::from_ref(slice),
            None => own.map_or(&[][..], |slot| &slot.slices),
        };
        let whole = gather(&self.ends[side.end].regions, slices, &mut bytes);
        self.messages[message.index as usize].bytes = bytes;
        if !whole {
            self.audit.find(format!("link {link}: a NIC reads memory that is gone"));
        }
        true
    }

    pub(crate) fn arrive(&mut self, message: Flying, bytes: u32, last: bool) {
        let Some(known) = self.flying(message) else { return };
        let (link, from, first, carried) = (known.link, known.from, !known.arrived, known.carried);
        let to = 1 - from;
        self.messages[message.index as usize].arrived = true;
        if first && carried == Carried::Send {
            self.links[link].sides[to].inbound.push_back(message.index);
            self.meet(link, to);
        }
        let (node, nic) = self.place(link, to);
        let takes = self.occupies(node, nic, bytes);
        let now = self.now;
        let nic = &mut self.nodes[node].nics[nic];
        nic.receives_from = nic.receives_from.max(now).saturating_add(takes);
        let at = nic.receives_from;
        if last {
            self.at(at, What::Landed { message });
        }
    }

    /// Messages meet receives, in the order of both.
    pub(crate) fn meet(&mut self, link: usize, side: usize) {
        while !self.links[link].dead {
            let swapped = self.is_planted(Planted::OrderSwapped);
            let place = &mut self.links[link].sides[side];
            let lane = &mut place.lanes[Kind::Recv as usize];
            if place.inbound.is_empty() || lane.queue.is_empty() {
                return;
            }
            self.work += 1;
            let second = swapped && lane.queue.len() > 2 && lane.taken % 5 == 4;
            let ordinal = lane.taken;
            let Some(slot) = lane.start(usize::from(second)) else { return };
            let Some(index) = place.inbound.pop_front() else { return };
            let serial = lane.slot(slot).map_or(0, |slot| slot.serial);
            let message = &mut self.messages[index as usize];
            message.met = Some((slot, serial));
            let landed = message.landed;
            let (len, sent_as) = (u64::from(message.len.max(64)), message.ordinal);
            let flying = Flying { index, generation: message.generation };
            if sent_as != ordinal {
                self.audit.find(format!("link {link}: send {sent_as} meets receive {ordinal}"));
            }
            let sender = &mut self.links[link].sides[1 - side];
            sender.unmatched = sender.unmatched.saturating_sub(1);
            sender.unmatched_bytes = sender.unmatched_bytes.saturating_sub(len);
            if landed {
                self.unpack(flying);
            }
            self.kick(link, 1 - side);
        }
    }

    pub(crate) fn landed(&mut self, message: Flying) {
        let Some(known) = self.flying(message) else { return };
        let ready = known.met.is_some() || known.carried != Carried::Send;
        self.messages[message.index as usize].landed = true;
        if ready {
            self.unpack(message);
        }
        self.count_arrival();
    }

    /// A message that is whole and has its receive becomes visible after a while.
    fn unpack(&mut self, message: Flying) {
        let Some(known) = self.flying(message) else { return };
        let (link, to, carried) = (known.link, 1 - known.from, known.carried);
        let node = self.links[link].sides[to].node;
        if std::mem::take(&mut self.nodes[node].failed_visibility) {
            self.strikes.count(FaultKind::FailedVisibility);
            self.kill(link);
            return;
        }
        let mut wait = self.random.between(0, nanos(self.settings.unpack));
        let late = self.nodes[node].late;
        if late.until > self.now && late.measure > 0 {
            wait += self.random.between(1, late.measure);
            self.strikes.count(FaultKind::LateVisibility);
        }
        wait += self.disorder(link, to, Kind::Recv);
        let mut at = self.now.saturating_add(wait);
        if !self.rdma() {
            let side = &mut self.links[link].sides[to];
            let way = usize::from(carried == Carried::Send);
            side.last_visible[way] = side.last_visible[way].max(at);
            at = side.last_visible[way];
        }
        self.at(at, What::Visible { message });
    }

    /// By how much more a completion may be overtaken.
    pub(crate) fn disorder(&mut self, link: usize, side: usize, kind: Kind) -> Nanos {
        let place = &self.links[link].sides[side];
        if place.limits.fifo {
            return 0;
        }
        let others = place.lanes[kind as usize].pending > 1;
        let fault = self.nodes[place.node].disorder;
        let mut by = self.random.between(0, nanos(self.settings.shuffle));
        if fault.until > self.now && others {
            by += self.random.between(0, fault.measure);
            self.strikes.count(FaultKind::Disorder);
        }
        by
    }
}
