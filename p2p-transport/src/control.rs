//! The seam for control streams: small, rare, reliable byte streams beside the data.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::{DoorId, Error, Now, StreamId};

/// What [`Control::poll`] reports.
///
/// Readable and writable are hints, said at least once after the state has changed: a caller reads until
/// [`Received::Nothing`], and writes until fewer bytes are taken than offered.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ControlEvent {
    /// Somebody came: [`Control::accept`] has a stream.
    Knocked(DoorId),
    /// A stream of [`Control::connect`] is open.
    Opened(StreamId),
    /// There are bytes to receive, or the end.
    Readable(StreamId),
    /// There is room again, after fewer bytes were taken than offered.
    Writable(StreamId),
    /// The stream broke, or was never opened: nothing can be sent or received any more.
    /// [`Control::why`] has the reason. The id stays until it is closed.
    Broken(StreamId),
}

/// What there is to receive.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// So many bytes, at least one, were put at the front of the caller's buffer.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The peer sends nothing more, or the stream broke.
    Ended,
}

/// Opens and drives control streams, without blocking.
///
/// Bytes arrive in the order in which they were sent, once, and cut anywhere. Streams are independent of each
/// other and of the data plane: neither waits for the other. It is the seam at which a whole endpoint is put
/// onto real sockets, or into a simulation.
pub trait Control: Send {
    /// Opens a door at this address; port 0 lets the system choose one. Any number of streams come through it.
    ///
    /// # Errors
    ///
    /// What the system refused, with the address in the text.
    fn listen(&mut self, at: SocketAddr) -> Result<DoorId, Error>;

    /// The address of a door, with its real port; `None` for a stale id.
    fn local(&self, door: DoorId) -> Option<SocketAddr>;

    /// The next stream that came through a door; `None` if there is none, or the id is stale.
    fn accept(&mut self, door: DoorId) -> Option<StreamId>;

    /// Closes a door. Streams that came through it stay. A stale id is ignored.
    fn shut(&mut self, door: DoorId);

    /// Starts to open a stream: `Opened` or `Broken` follows, within a bound.
    ///
    /// # Errors
    ///
    /// What the system refused at once, with the address in the text.
    fn connect(&mut self, to: SocketAddr) -> Result<StreamId, Error>;

    /// Where the stream leads: its own address and its peer's; `None` if not open, or stale.
    fn ends(&self, stream: StreamId) -> Option<(SocketAddr, SocketAddr)>;

    /// Takes a prefix of `bytes`, and returns its length: 0 if there is no room, the stream is not open or
    /// broke, or its id is stale.
    fn send(&mut self, stream: StreamId, bytes: &[u8]) -> usize;

    /// Receives into `into`, which is not empty.
    fn receive(&mut self, stream: StreamId, into: &mut [u8]) -> Received;

    /// Lets the next [`receive`](Self::receive) look at a stream of which no event has told: for a caller that spins on
    /// one stream, and polls the others now and then. False where that is no cheaper than a poll.
    fn look_again(&mut self, stream: StreamId) -> bool {
        let _ = stream;
        false
    }

    /// Why a stream broke; `None` if it did not, or its id is stale.
    fn why(&self, stream: StreamId) -> Option<&Error>;

    /// Ends a stream: what was taken is still delivered if the peer lives. A stale id is ignored.
    fn close(&mut self, stream: StreamId);

    /// Reports what happened, at most `room` events, to `sink`. Returns until when the caller may sleep if
    /// [`wait_fd`](Self::wait_fd) does not become readable; `None`: for ever.
    fn poll(&mut self, now: Now, room: usize, sink: &mut dyn FnMut(ControlEvent)) -> Option<Now>;

    /// Becomes readable when a poll may find something. `None` where only polling reveals it.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

const _: fn(&dyn Control) = |_| {};
