//! Ranges and shapes, as they come.

use super::super::entry::{Remote, Role};
use super::super::words::{Breach, Exports, Outcome};
use super::super::{Handle, Peer};
use crate::frame::{Kind, Owner, Refusal, Repeat, Run, Verdict};
use crate::id::TransferId;
use crate::list::{ListError, Shape};

impl Peer {
    pub(super) fn hear_ranges(
        &mut self,
        transfer: TransferId,
        runs: &[Run],
        exports: &dyn Exports,
    ) -> Result<(), Breach> {
        let Some(handle) = self.find(Owner::Speaker, transfer)? else { return Ok(()) };
        let Some(entry) = self.table.get_mut(handle) else { return Ok(()) };
        let write = match entry.role {
            Role::Peers(Kind::Write) => true,
            Role::Peers(Kind::Read) => false,
            Role::Own(_) | Role::Recv | Role::Peers(Kind::Send) => {
                return Err(Breach::new("ranges of a transfer that has none"));
            }
        };
        if !entry.state.is_open() {
            return Ok(());
        }
        for run in runs {
            for &(offset, length) in &run.ranges {
                let fits = entry.local.total().checked_add(length).is_some_and(|sum| sum <= entry.total);
                if length == 0 || !fits || entry.due == 0 {
                    return Err(Breach::new("ranges that are empty, or more than their transfer has"));
                }
                entry.due -= 1;
                let opened = exports.open(run.key, offset, length, write);
                let opened =
                    opened.and_then(|range| entry.local.push(range).map_err(|_| Refusal::OutOfRange));
                if let Err(why) = opened {
                    self.fail(handle, Outcome::Refused(why), Verdict::Refused(why));
                    return Ok(());
                }
            }
        }
        if (entry.due == 0) != (entry.local.total() == entry.total) {
            return Err(Breach::new("the ranges of a transfer have other bytes than it has"));
        }
        self.ready_to_be_read(handle);
        Ok(())
    }

    pub(super) fn hear_shape(
        &mut self,
        owner: Owner,
        transfer: TransferId,
        parts: &[Repeat],
    ) -> Result<(), Breach> {
        let Some(handle) = self.find(owner, transfer)? else { return Ok(()) };
        let Some(entry) = self.table.get_mut(handle) else { return Ok(()) };
        match entry.role {
            Role::Own(Kind::Send) if matches!(entry.remote, Remote::Unknown) => {
                if entry.state.is_open() {
                    entry.remote = Remote::Shape(Shape::new());
                }
            }
            Role::Own(Kind::Send) | Role::Peers(Kind::Read) => {}
            Role::Own(Kind::Write | Kind::Read) | Role::Recv | Role::Peers(Kind::Write | Kind::Send) => {
                return Err(Breach::new("the shape of a transfer that has none"));
            }
        }
        if !entry.state.is_open() {
            return Ok(());
        }
        let Remote::Shape(shape) = &mut entry.remote else { return Ok(()) };
        for part in parts {
            if part.length == 0 || part.count == 0 {
                return Err(Breach::new("a shape with an empty part"));
            }
            shape
                .push(*part)
                .map_err(|_: ListError| Breach::new("a shape that is longer than the longest"))?;
        }
        if shape.total() > entry.total {
            return Err(Breach::new("a shape with more bytes than its transfer has"));
        }
        let whole = shape.total() == entry.total;
        // A list of repeats is as long as they are, and counts like ranges.
        let held = parts.len() as u32;
        entry.held_ranges += held;
        self.peers_ranges += u64::from(held);
        if self.peers_ranges > u64::from(self.caps.peer_ranges) {
            let why = Refusal::TooMany;
            self.fail(handle, Outcome::Refused(why), Verdict::Refused(why));
        } else if owner == Owner::Speaker {
            self.ready_to_be_read(handle);
        } else if whole {
            self.ready(handle);
        }
        Ok(())
    }

    /// A read of the peer moves once both lists are whole.
    fn ready_to_be_read(&mut self, handle: Handle) {
        let Some(entry) = self.table.get(handle) else { return };
        if let Remote::Shape(shape) = &entry.remote
            && shape.total() == entry.total
            && entry.local.total() == entry.total
        {
            self.ready(handle);
        }
    }
}
