//! Calls that begin a transfer or give one up.

use bytes::Bytes;

use super::entry::{Entry, Remote, Role};
use super::words::{Outcome, Rejected};
use super::{Handle, Peer};
use crate::frame::{Frame, Kind, LONGEST_NOTIFICATION, Refusal, Verdict};
use crate::id::TransferId;
use crate::list::{List, LocalRange, RemoteList};
use crate::transfer::{Input, Part};

impl Peer {
    /// Writes memory here to memory that the peer has opened, of the same length. It is done when the peer says that
    /// every byte is visible there; a counter of the peer then goes up by one.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the link is as before.
    pub fn write(
        &mut self,
        local: List<LocalRange>,
        remote: RemoteList,
        counter: Option<u32>,
    ) -> Result<TransferId, Rejected> {
        self.admits()?;
        let total = equal(&local, &remote)?;
        let (handle, number) = self.begin(Kind::Write, Part::Sender, local, remote.len(), counter);
        if let Some(entry) = self.table.get_mut(handle) {
            entry.remote = Remote::Ranges(remote);
        }
        self.ready(handle);
        if total > 0 {
            self.telling.push_back(handle);
        }
        Ok(number)
    }

    /// Reads memory that the peer has opened into memory here, of the same length.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the link is as before.
    pub fn read(&mut self, local: List<LocalRange>, remote: RemoteList) -> Result<TransferId, Rejected> {
        self.admits()?;
        let total = equal(&local, &remote)?;
        let shape = local.shape();
        let (handle, number) = self.begin(Kind::Read, Part::Receiver, local, remote.len(), None);
        if let Some(entry) = self.table.get_mut(handle) {
            entry.remote = Remote::Ranges(remote);
            entry.shape = shape;
        }
        if total > 0 {
            self.telling.push_back(handle);
        } else {
            self.ready(handle);
        }
        Ok(number)
    }

    /// Sends memory here to the receive of the peer that it meets: the first to the first, and so on. It is done when
    /// the peer says that every byte is visible there.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the link is as before.
    pub fn send(&mut self, local: List<LocalRange>) -> Result<TransferId, Rejected> {
        self.admits()?;
        Ok(self.begin(Kind::Send, Part::Sender, local, 0, None).1)
    }

    /// Receives the send of the peer that it meets, which may be shorter; a longer one is refused, and the next one may
    /// meet it. A send that the peer withdraws after they have met takes it with it: as
    /// [`Withdrawn`](Refusal::Withdrawn).
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the link is as before.
    pub fn recv(&mut self, local: List<LocalRange>) -> Result<TransferId, Rejected> {
        self.admits()?;
        let number = TransferId(self.table.ours.last() + 1);
        let mut entry = Entry::new(Role::Recv, number, Part::Receiver, local.total());
        entry.local = local;
        let handle = self.table.insert(entry);
        self.table.ours.add(number.0, handle);
        self.own_live += 1;
        self.recvs.push_back(handle);
        self.meet();
        Ok(number)
    }

    /// Tells the peer something. With `after`, a write of this end that is not over, the peer hears it when that write
    /// has landed, and never if it does not land. Those without, and those after the same write, are heard in order.
    ///
    /// # Errors
    ///
    /// [`Rejected`]; the link is as before.
    pub fn notify(&mut self, after: Option<TransferId>, bytes: Bytes) -> Result<(), Rejected> {
        if self.over {
            return Err(Rejected::Over);
        }
        if bytes.len() > LONGEST_NOTIFICATION {
            return Err(Rejected::TooLong);
        }
        let write = match after {
            None => None,
            Some(after) => Some(self.own_write(after).ok_or(Rejected::NotAWrite)?),
        };
        if !self.notices.admits(&bytes, self.caps.held as usize) {
            return Err(Rejected::Full);
        }
        if let Some(entry) = write.and_then(|handle| self.table.get_mut(handle)) {
            entry.held_notices += self.notices.wait(&bytes);
        }
        self.notices.push(after, bytes);
        Ok(())
    }

    /// The caller wants no answer any more. What has not begun to move is withdrawn; anything else runs to its end.
    /// Either way it ends, as [`Outcome::Abandoned`], and its memory belongs to it until then.
    pub fn abandon(&mut self, transfer: TransferId) {
        let Some(handle) = self.table.ours.find(transfer) else { return };
        let Some(entry) = self.table.get_mut(handle) else { return };
        entry.wanted = false;
        let (role, number, owner) = (entry.role, entry.number, entry.owner());
        if self.apply(handle, Input::Abandon, Outcome::Abandoned) && role != Role::Recv {
            self.output.fin(owner, number, Verdict::Refused(Refusal::Withdrawn));
        }
        self.settle(handle);
    }

    /// How many more transfers of this end there may be.
    pub const fn room(&self) -> usize {
        (self.caps.own_transfers as usize).saturating_sub(self.own_live)
    }

    fn admits(&self) -> Result<(), Rejected> {
        if self.over {
            return Err(Rejected::Over);
        }
        if self.room() == 0 || self.says_too_much() { Err(Rejected::Full) } else { Ok(()) }
    }

    fn begin(
        &mut self,
        kind: Kind,
        part: Part,
        local: List<LocalRange>,
        ranges: usize,
        counter: Option<u32>,
    ) -> (Handle, TransferId) {
        let transfer = TransferId(self.table.ours.last() + 1);
        let total = local.total();
        let mut entry = Entry::new(Role::Own(kind), transfer, part, total);
        entry.local = local;
        let handle = self.table.insert(entry);
        self.table.ours.add(transfer.0, handle);
        self.own_live += 1;
        // A list has no more than `MOST_RANGES`.
        let ranges = ranges as u32;
        self.output.say(&Frame::Begin { transfer, kind, total, ranges, counter });
        (handle, transfer)
    }

    fn own_write(&self, transfer: TransferId) -> Option<Handle> {
        let handle = self.table.ours.find(transfer)?;
        let entry = self.table.get(handle)?;
        (entry.role == Role::Own(Kind::Write) && entry.state.is_open()).then_some(handle)
    }
}

fn equal(local: &List<LocalRange>, remote: &RemoteList) -> Result<u64, Rejected> {
    let (here, there) = (local.total(), remote.total());
    if here == there { Ok(here) } else { Err(Rejected::Unequal { here, there }) }
}
