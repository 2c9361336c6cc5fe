//! The control bytes that wait to be sent.

use bytes::{Buf, BytesMut};

use crate::frame::{Frame, Owner, Verdict};
use crate::id::TransferId;
use crate::wire::encode;

#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: BytesMut,
    /// All that was ever said, in bytes.
    pub(super) said: u64,
    /// The sign of life that the peer waits for. It asks for the latest one only.
    pub(super) pong: Option<u64>,
}

impl Output {
    pub(super) fn say(&mut self, frame: &Frame) {
        let before = self.bytes.len();
        encode(frame, &mut self.bytes);
        self.said += (self.bytes.len() - before) as u64;
    }

    pub(super) fn fin(&mut self, owner: Owner, transfer: TransferId, verdict: Verdict) {
        self.say(&Frame::Fin { owner, transfer, verdict });
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.bytes.advance(count.min(self.bytes.len()));
    }

    /// Nothing more is said.
    pub(super) fn forget(&mut self) {
        self.bytes.clear();
        self.pong = None;
    }

    /// Takes out what waits to be sent.
    pub(super) fn take(&mut self) -> BytesMut {
        std::mem::take(&mut self.bytes)
    }

    /// Puts back what was taken out.
    pub(super) fn put(&mut self, bytes: BytesMut) {
        self.bytes = bytes;
    }
}
