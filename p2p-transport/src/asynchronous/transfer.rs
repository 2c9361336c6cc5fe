//! Data operations as futures.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::work::{Ended, Way, Work};
use super::{Connection, TransferError};
use crate::OpFault;

/// One message or one-sided operation on its way: the future of its length in bytes.
///
/// Nothing happens before it is polled or started. Dropped after that it is detached: the operation goes its
/// way, and its memory stays with the transport until then. It does not allocate.
#[must_use = "nothing is moved before it is polled or started"]
pub struct Transfer<'a> {
    conn: &'a Connection,
    work: Work<'a>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Fresh,
    /// For a slot, with this ticket.
    Waiting(u64),
    /// In this slot, of which it is this generation.
    Started(u32, u32),
    /// Without having had a slot.
    Refused(TransferError),
    Over,
}

impl<'a> Transfer<'a> {
    pub(super) const fn new(conn: &'a Connection, work: Work<'a>) -> Self {
        Self { conn, work, stage: Stage::Fresh }
    }

    const fn way(&self) -> Way {
        self.work.way()
    }

    /// Starts it if there is a free slot that nobody waits for. True if it is started, now or before.
    pub fn try_start(&mut self) -> bool {
        match self.stage {
            Stage::Fresh => {}
            Stage::Waiting(_) => return false,
            Stage::Started(..) | Stage::Refused(_) | Stage::Over => return true,
        }
        let shared = self.conn.shared();
        if self.way() != Way::OneSided && self.work.slices() > usize::from(shared.slices) {
            self.stage = Stage::Refused(OpFault::SliceCount.into());
            return true;
        }
        let slot = self.conn.slots(self.way()).claim(&shared.table);
        if let Some(slot) = slot {
            self.enter(slot);
        }
        slot.is_some()
    }

    /// As [`start`](Self::start).
    pub fn poll_start(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.try_start() {
            return Poll::Ready(());
        }
        let shared = self.conn.shared();
        let ticket = match self.stage {
            Stage::Waiting(ticket) => ticket,
            Stage::Fresh | Stage::Started(..) | Stage::Refused(_) | Stage::Over => {
                let ticket = self.conn.slots(self.way()).join(&shared.table, cx.waker());
                self.stage = Stage::Waiting(ticket);
                ticket
            }
        };
        if let Some(slot) = self.conn.slots(self.way()).poll(ticket, cx.waker()) {
            self.enter(slot);
            return Poll::Ready(());
        }
        if shared.is_gone() {
            self.conn.slots(self.way()).leave(&shared.table, ticket);
            self.stage = Stage::Refused(TransferError::Gone);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Starts it, as soon as there is a free slot: it takes its place in the order of messages. Its outcome is
    /// there when the transfer itself is awaited, and keeps the slot until it is: whoever starts more transfers
    /// than there are slots before awaiting one waits for ever.
    pub async fn start(&mut self) {
        poll_fn(|cx| self.poll_start(cx)).await;
    }

    /// Asks for it to be withdrawn: it ends [`Cancelled`](TransferError::Cancelled) if the backend has not
    /// started it, and as it would otherwise. It has no effect before the transfer is started.
    pub fn cancel(&self) {
        if let Stage::Started(slot, generation) = self.stage {
            let shared = self.conn.shared();
            shared.table.request_cancel(slot, generation);
            shared.driver.wake();
        }
    }

    fn enter(&mut self, slot: u32) {
        let shared = self.conn.shared();
        let generation = shared.table.generation(slot);
        self.stage = Stage::Started(slot, generation);
        shared.table.queue(slot, self.conn.id(), &self.work);
        shared.driver.wake();
    }

    fn poll_end(&mut self, slot: u32, cx: &Context<'_>) -> Poll<Ended> {
        let shared = self.conn.shared();
        let state = shared.table.slot(slot);
        state.waker.register(cx.waker());
        let ended = match state.ended() {
            // The driver ends all slots that it finds; one that came later is found by nobody.
            None if shared.is_gone() => {
                self.stage = Stage::Over;
                return Poll::Ready(state.ended().unwrap_or(Err(TransferError::Gone)));
            }
            None => return Poll::Pending,
            Some(ended) => ended,
        };
        self.stage = Stage::Over;
        self.conn.slots(self.way()).release(&shared.table, slot);
        Poll::Ready(ended)
    }
}

impl Future for Transfer<'_> {
    /// Bytes moved. Asked again after its end, it says [`TransferError::Gone`].
    type Output = Result<u32, TransferError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.poll_start(cx).is_pending() {
            return Poll::Pending;
        }
        match self.stage {
            Stage::Started(slot, _) => self.poll_end(slot, cx),
            Stage::Refused(error) => {
                self.stage = Stage::Over;
                Poll::Ready(Err(error))
            }
            Stage::Fresh | Stage::Waiting(_) | Stage::Over => Poll::Ready(Err(TransferError::Gone)),
        }
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let shared = self.conn.shared();
        match self.stage {
            Stage::Waiting(ticket) => self.conn.slots(self.way()).leave(&shared.table, ticket),
            Stage::Started(slot, _) => {
                // Not to keep the task alive as long as the message.
                drop(shared.table.slot(slot).waker.take());
                if !shared.table.slot(slot).detach() {
                    self.conn.slots(self.way()).release(&shared.table, slot);
                }
            }
            Stage::Fresh | Stage::Refused(_) | Stage::Over => {}
        }
    }
}

impl fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("conn", &self.conn.id())
            .field("work", &self.work)
            .field("stage", &self.stage)
            .finish()
    }
}
