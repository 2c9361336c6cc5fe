//! Operations of one kind at one end of a connection.

use std::collections::VecDeque;

use p2p_transport::{OneSidedOp, Outcome, Slice, Token};

/// Which operations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Send = 0,
    Recv = 1,
    OneSided = 2,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Send, Self::Recv, Self::OneSided];
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Free,
    /// May be cancelled.
    Waiting,
    /// The link has taken it up.
    Started,
    /// Not reported yet.
    Finished(Outcome),
}

/// An accepted operation until it is reported.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) serial: u64,
    pub(crate) token: Token,
    pub(crate) phase: Phase,
    /// Bytes.
    pub(crate) len: u32,
    /// Slices it holds; none if it was refused.
    pub(crate) slices: Vec<Slice>,
    pub(crate) one_sided: Option<OneSidedOp>,
    /// Whether it has been handed to the reports.
    queued: bool,
    /// Whether it is reported in its turn. What never starts is reported at once.
    ordered: bool,
}

impl Slot {
    /// Whether it has ended, and had a place in the order.
    pub(crate) const fn ran(&self) -> bool {
        use p2p_transport::OpFault::Truncated;
        matches!(
            self.phase,
            Phase::Finished(Outcome::Done { .. } | Outcome::ConnLost | Outcome::Failed(Truncated))
        )
    }
}

/// Slots of one kind; no more than the window.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) window: u16,
    pub(crate) slots: Vec<Slot>,
    free: Vec<u16>,
    /// Not started, in order of submission.
    pub(crate) queue: VecDeque<u16>,
    /// Not handed to the reports, in order of submission; only where completions are in order.
    order: VecDeque<u16>,
    fifo: bool,
    pub(crate) pending: u16,
    next_serial: u64,
    /// Operations that were started or matched so far: the place of the next one in the order of messages.
    pub(crate) taken: u64,
}

impl Lane {
    pub(crate) const fn new(window: u16, fifo: bool) -> Self {
        Self {
            window,
            slots: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            order: VecDeque::new(),
            fifo,
            pending: 0,
            next_serial: 0,
            taken: 0,
        }
    }

    /// Takes a slot; the caller has checked that there is room.
    pub(crate) fn push(&mut self, token: Token, refused: Option<Outcome>, len: u32) -> u16 {
        let index = self.free.pop().unwrap_or_else(|| {
            let slices = Vec::new();
            let phase = Phase::Free;
            let (one_sided, queued, ordered) = (None, false, false);
            self.slots.push(Slot { serial: 0, token, phase, len, slices, one_sided, queued, ordered });
            (self.slots.len() - 1) as u16
        });
        let slot = &mut self.slots[usize::from(index)];
        (slot.serial, slot.token, slot.len) = (self.next_serial, token, len);
        slot.phase = refused.map_or(Phase::Waiting, Phase::Finished);
        (slot.one_sided, slot.queued) = (None, false);
        slot.ordered = self.fifo && refused.is_none();
        slot.slices.clear();
        if refused.is_none() {
            self.queue.push_back(index);
            if self.fifo {
                self.order.push_back(index);
            }
        }
        self.next_serial += 1;
        self.pending += 1;
        index
    }

    pub(crate) fn slot(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    pub(crate) fn slot_mut(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }

    /// The slot, if it still holds that operation and has not ended.
    pub(crate) fn live(&mut self, index: u16, serial: u64) -> Option<&mut Slot> {
        let slot = self.slot_mut(index)?;
        let open = matches!(slot.phase, Phase::Waiting | Phase::Started);
        (slot.serial == serial && open).then_some(slot)
    }

    /// The next operation in order has started.
    pub(crate) fn start(&mut self, at: usize) -> Option<u16> {
        let index = self.queue.remove(at)?;
        self.taken += 1;
        self.slot_mut(index)?.phase = Phase::Started;
        Some(index)
    }

    /// The newest waiting operation with this token.
    pub(crate) fn newest_waiting(&self, token: Token) -> Option<(u64, usize)> {
        let at = self.queue.iter().rposition(|index| {
            self.slot(*index).is_some_and(|slot| slot.token == token && slot.phase == Phase::Waiting)
        })?;
        Some((self.slot(self.queue[at])?.serial, at))
    }

    /// Operations that have ended and may be reported now: all, or a prefix where they are in order.
    pub(crate) fn next_report(&mut self, ended: u16) -> Option<u16> {
        if self.slot(ended)?.ordered {
            let &first = self.order.front()?;
            let ready = matches!(self.slot(first)?.phase, Phase::Finished(_));
            ready.then(|| self.order.pop_front())?
        } else {
            let slot = self.slot_mut(ended)?;
            let ready = matches!(slot.phase, Phase::Finished(_)) && !slot.queued;
            slot.queued = true;
            ready.then_some(ended)
        }
    }

    /// The slot is free again.
    pub(crate) fn release(&mut self, index: u16) {
        if let Some(slot) = self.slot_mut(index).filter(|slot| slot.phase != Phase::Free) {
            slot.phase = Phase::Free;
            slot.slices.clear();
            self.free.push(index);
            self.pending -= 1;
        }
    }

    /// The waiting operation at a position of the queue never starts.
    pub(crate) fn withdraw(&mut self, at: usize) {
        if let Some(index) = self.queue.remove(at) {
            self.order.retain(|other| *other != index);
            if let Some(slot) = self.slot_mut(index) {
                slot.ordered = false;
            }
        }
    }

    /// All that have not ended, in order of submission.
    pub(crate) fn unfinished(&self) -> Vec<u16> {
        let open = |slot: &&(u16, &Slot)| matches!(slot.1.phase, Phase::Waiting | Phase::Started);
        let mut all: Vec<(u16, &Slot)> = (0..).zip(&self.slots).filter(|slot| open(&slot)).collect();
        all.sort_by_key(|(_, slot)| slot.serial);
        all.into_iter().map(|(index, _)| index).collect()
    }
}
