//! One-sided operations of a connection.

use futures::channel::oneshot;

use super::shared::{Command, gone};
use super::work::Work;
use super::{Connection, NextNotification, Transfer};
use crate::{Error, OneSidedLimits, OneSidedOp, RemoteSlice, Slice, Token};

/// One-sided operations of a connection, as [`OneSided`](crate::OneSided) has them. They have slots of their
/// own, and as transfers they start, wait, are cancelled and detached like messages; no order among them, or
/// with messages, is promised.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    conn: &'a Connection,
    limits: OneSidedLimits,
}

impl<'a> Access<'a> {
    pub(super) const fn new(conn: &'a Connection, limits: OneSidedLimits) -> Self {
        Self { conn, limits }
    }

    /// Fixed facts.
    pub const fn limits(&self) -> OneSidedLimits {
        self.limits
    }

    /// Copies local bytes to the peer: when the transfer has ended well, they are visible there, and `notify`,
    /// if given, is told to the peer. Nothing happens before the first poll.
    pub const fn write(&self, from: Slice, to: RemoteSlice, notify: Option<u32>) -> Transfer<'a> {
        Transfer::new(self.conn, Work::OneSided(OneSidedOp::Write { token: Token(0), from, to, notify }))
    }

    /// Copies the peer's bytes here: when the transfer has ended well, they are visible. Nothing happens before
    /// the first poll.
    pub const fn read(&self, from: RemoteSlice, into: Slice) -> Transfer<'a> {
        Transfer::new(self.conn, Work::OneSided(OneSidedOp::Read { token: Token(0), from, into }))
    }

    /// Lets the peer read and write local memory, as [`OneSided::export`](crate::OneSided::export).
    ///
    /// # Errors
    ///
    /// As there, or [`Device`](crate::ErrorKind::Device) if the driver is gone.
    pub async fn export(&self, slice: Slice) -> Result<RemoteSlice, Error> {
        let (reply, answer) = oneshot::channel();
        // Refused or dropped, the reply ends.
        drop(self.conn.shared().command(Command::Export(self.conn.id(), slice, reply)));
        answer.await.unwrap_or_else(|_| Err(gone("export")))
    }

    /// Waits for the next value that a write of the peer carried. Of several who wait at once, any one gets it.
    pub const fn next_notification(&self) -> NextNotification<'a> {
        NextNotification::new(self.conn)
    }
}
