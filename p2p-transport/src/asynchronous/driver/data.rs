//! Data operations: from the inbox over the lists of their connections into the transport, and back.

use super::super::TransferError;
use super::super::lines::Place;
use super::super::slot::NONE;
use super::super::work::{Ended, Way};
use super::{BATCH, Driver};
use crate::{
    Accepted, ConnId, Id, OneSidedOp, Op, OpFault, Outcome, RegionId, RemoteSlice, Slice, Stop, Token,
    Transport,
};

use std::num::NonZeroU32;

/// The name of an operation in the transport.
fn token(slot: u32, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | u64::from(slot))
}

impl<T: Transport> Driver<T> {
    /// Moves what came to the lists of its connections, in the order in which it came.
    pub(super) fn take_operations(&mut self) {
        let mut newest = self.shared.table.take_inbox();
        let mut oldest = NONE;
        while newest != NONE {
            self.places[newest as usize] = Place::Listed(oldest);
            oldest = newest;
            newest = self.shared.table.next(newest);
        }
        while let Some(&Place::Listed(next)) = self.places.get(oldest as usize) {
            self.enlist(oldest);
            oldest = next;
        }
    }

    fn enlist(&mut self, slot: u32) {
        self.places[slot as usize] = Place::Absent;
        let operation = self.shared.table.slot(slot).words();
        let (conn, way) = operation.operation();
        let Some(line) = conn.and_then(|conn| self.lines.line(conn)) else {
            self.finish(slot, Err(TransferError::Lost));
            return;
        };
        if self.holds.refuses(operation.slices()) {
            self.finish(slot, Err(OpFault::BadSlice.into()));
            return;
        }
        self.holds.enlist(operation.slices());
        line.list(way).push(&mut self.places, slot);
        let id = line.id;
        self.mark(id);
    }

    /// Carries out requests to cancel.
    pub(super) fn cancel_operations(&mut self, requests: impl Iterator<Item = (u32, u32)>) {
        for (slot, generation) in requests {
            if generation == self.shared.table.generation(slot) {
                self.cancel(slot, generation);
            }
        }
    }

    fn cancel(&mut self, slot: u32, generation: u32) {
        let place = self.places[slot as usize];
        // Whoever else owns the slot may be writing it just now.
        if place == Place::Absent {
            return;
        }
        let (Some(conn), way) = self.shared.table.slot(slot).words().operation() else { return };
        if place == Place::Sent {
            // Its completion says whether it came in time.
            let _in_time = self.transport.cancel(conn, token(slot, generation));
        } else if let Some(line) = self.lines.line(conn) {
            line.list(way).remove(&mut self.places, slot);
            self.delist(slot);
            self.finish(slot, Err(TransferError::Cancelled));
        }
    }

    /// Submits what there is room for. True if there was something.
    pub(super) fn pass_on(&mut self) -> bool {
        let mut passed = false;
        let mut walked = std::mem::replace(&mut self.marked, std::mem::take(&mut self.walked));
        for id in walked.drain(..) {
            if let Some(line) = self.lines.line(id) {
                line.marked = false;
            }
            for way in Way::ALL {
                passed |= self.pass_on_line(id, way);
            }
        }
        self.walked = walked;
        passed
    }

    fn pass_on_line(&mut self, id: ConnId, way: Way) -> bool {
        let mut passed = false;
        loop {
            let Some(line) = self.lines.line(id).filter(|line| !line.blocked[way as usize]) else {
                return passed;
            };
            // Gathered first: the operations borrow their slices.
            self.scratch.clear();
            let mut names = [(Token(0), 0, 0); BATCH];
            let mut count = 0;
            let mut slot = line.list(way).first();
            while let Some(&Place::Listed(next)) = self.places.get(slot as usize)
                && count < BATCH
            {
                let from = self.scratch.len();
                self.scratch.extend(self.shared.table.slot(slot).words().slices());
                names[count] = (token(slot, self.shared.table.generation(slot)), from, self.scratch.len());
                count += 1;
                slot = next;
            }
            if count == 0 {
                return passed;
            }
            let accepted = self.submit(id, way, &names[..count]);
            let Some(line) = self.lines.line(id) else { return passed };
            passed |= accepted.count > 0;
            for _ in 0..accepted.count {
                let Some(slot) = line.list(way).pop(&mut self.places) else { break };
                self.places[slot as usize] = Place::Sent;
                let (holds, transport) = (&mut self.holds, &mut self.transport);
                let slices = self.shared.table.slot(slot).words().slices();
                holds.delist(slices, |region| drop(transport.retire(region)));
            }
            match accepted.stopped {
                None => {}
                Some(Stop::Busy) => line.blocked[way as usize] = true,
                Some(Stop::Closed) => self.fail_waiting(id, way, TransferError::Lost),
            }
        }
    }

    /// Submits operations whose slices lie in `scratch`, from one position to another.
    fn submit(&mut self, id: ConnId, way: Way, names: &[(Token, usize, usize)]) -> Accepted {
        if way == Way::OneSided {
            let table = &self.shared.table;
            let filler = Slice { region: RegionId::of(0, NonZeroU32::MIN), offset: 0, len: 0 };
            let remote = RemoteSlice { addr: 0, key: 0, len: 0 };
            let mut ops = [OneSidedOp::Read { token: Token(0), from: remote, into: filler }; BATCH];
            for (op, &(token, ..)) in ops.iter_mut().zip(names) {
                // Written as a one-sided operation, it is read as one.
                *op = table.slot(token.0 as u32).words().one_sided(token).unwrap_or(*op);
            }
            return match self.transport.one_sided() {
                Some(side) => side.submit(id, &ops[..names.len()]),
                // It was there when the connection was made.
                None => Accepted::prefix(0, Stop::Closed),
            };
        }
        let mut ops = [Op::Send { token: Token(0), from: &[] }; BATCH];
        for (op, &(token, from, to)) in ops.iter_mut().zip(names) {
            let slices = &self.scratch[from..to];
            *op = match way {
                Way::Recv => Op::Recv { token, into: slices },
                Way::Send | Way::OneSided => Op::Send { token, from: slices },
            };
        }
        self.transport.submit(id, &ops[..names.len()])
    }

    /// Ends what waits for room on a connection.
    pub(super) fn fail_waiting(&mut self, id: ConnId, way: Way, error: TransferError) {
        while let Some(slot) = self.lines.line(id).and_then(|line| line.list(way).pop(&mut self.places)) {
            self.delist(slot);
            self.finish(slot, Err(error));
        }
    }

    fn delist(&mut self, slot: u32) {
        let (holds, transport) = (&mut self.holds, &mut self.transport);
        let slices = self.shared.table.slot(slot).words().slices();
        holds.delist(slices, |region| drop(transport.retire(region)));
    }

    pub(super) fn completed(&mut self, conn: ConnId, named: Token, outcome: Outcome) {
        let slot = named.0 as u32;
        let sent = self.places.get(slot as usize) == Some(&Place::Sent);
        if !sent || token(slot, self.shared.table.generation(slot)) != named {
            self.strays += 1;
            tracing::warn!(target: "p2p::transport", ?conn, token = named.0, "a completion of nothing");
            return;
        }
        self.places[slot as usize] = Place::Absent;
        self.finish(
            slot,
            match outcome {
                Outcome::Done { len } => Ok(len),
                Outcome::Cancelled => Err(TransferError::Cancelled),
                Outcome::ConnLost => Err(TransferError::Lost),
                Outcome::Failed(fault) => Err(fault.into()),
            },
        );
        if let Some(line) = self.lines.line(conn) {
            line.blocked = [false; Way::COUNT];
            self.mark(conn);
        }
    }

    /// Ends an operation that is in no list and not in the transport.
    fn finish(&self, slot: u32, ended: Ended) {
        if !self.shared.table.slot(slot).finish(ended) {
            let block = slot / (Way::COUNT as u32 * self.each);
            let way = Way::of_slot(slot, self.each);
            self.blocks[block as usize].way(way).release(&self.shared.table, slot);
        }
    }
}
