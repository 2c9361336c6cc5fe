//! A connection: its channels, its operations, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_transport::{Error, ErrorKind, Limits, Now, OpFault, Outcome, Rail, RegionId, Slice};
use tcpx_core::{ChannelId, ChannelSet, Completion, Misuse, OperationFault, Post, PostError, RegistrationId};

use crate::counters::{Sheet, Tally};
use crate::establish::Opening;
use crate::exchange::stream::Stream;
use crate::operations::{Operations, SlotIndex};
use crate::regions::Cut;

/// Which way an operation goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Send,
    Recv,
}

/// Where a connection stands.
pub(crate) enum Phase {
    /// Comms and peer are being found.
    Opening(Box<Opening>),
    Open,
    /// One end or both have closed it.
    Ending(Ending),
    /// Its comms are closed and its operations have ended; reports are left.
    Over,
}

/// A connection, from `accept` or `connect` to the report of its end.
pub(crate) struct Conn {
    pub(crate) rail: Rail,
    pub(crate) phase: Phase,
    pub(crate) stream: Option<Stream>,
    /// From the moment all comms are up.
    pub(crate) live: Option<Live>,
    /// `Connected` is to be reported.
    pub(crate) connected_due: bool,
    /// `Connected` was to be reported at some time: the limits are known.
    pub(crate) was_open: bool,
    pub(crate) reason: Option<Error>,
}

/// The part of a connection that moves bytes.
pub(crate) struct Live {
    pub(crate) limits: Limits,
    pub(crate) channels: Vec<Pair>,
    pub(crate) sends: Operations,
    pub(crate) recvs: Operations,
    /// By position of the region; `None` where it is not registered on this connection.
    pub(crate) registered: Vec<Option<Registered>>,
    pub(crate) sheet: Arc<Sheet>,
    pub(crate) window_full: Duration,
    /// Since when an operation waits, or was refused, because a window is full.
    pub(crate) waiting_since: Option<Now>,
    /// An operation was refused since then, by side.
    pub(crate) refused: [bool; 2],
    /// Operations accepted so far, both ways.
    pub(crate) submitted: u64,
    /// The plugin did not take an operation although there was room: only trying again shows when it does.
    pub(crate) try_again: bool,
}

/// The two channels of one number, and what went over them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) send: ChannelId,
    pub(crate) recv: ChannelId,
    /// Sends that were reported done to the caller, and those only.
    pub(crate) sent: u64,
    pub(crate) recv_started: u64,
    pub(crate) recv_ended: u64,
}

/// A region on the comms of one connection.
#[derive(Debug)]
pub(crate) struct Registered {
    /// The region at that position may be another one meanwhile.
    pub(crate) region: RegionId,
    pub(crate) cut: Cut,
    /// Channel by channel: of the send comm, each piece, then of the receive comm, each piece.
    pub(crate) ids: Vec<RegistrationId>,
}

impl Registered {
    #[inline]
    fn slice(&self, channel: usize, side: Side, offset: usize, length: u32) -> tcpx_core::Slice {
        let (piece, offset) = self.cut.find(offset);
        let comm = 2 * channel + usize::from(side == Side::Recv);
        let registration = self.ids[comm * self.cut.pieces() + piece];
        tcpx_core::Slice { registration, offset, length: length as usize }
    }
}

/// The end of a connection, agreed over its exchange stream.
///
/// Whoever closes says on which channel how many messages it has sent; the other end says when it has received
/// them, and only then comms are closed. So the last message is never lost, although a plugin's `test` says of
/// a send only that it was handed over.
#[derive(Debug)]
pub(crate) struct Ending {
    /// When it ends however far it came: a while after the first look at it, because only a poll knows the
    /// time.
    pub(crate) deadline: Option<Now>,
    /// This end has said that it closes.
    pub(crate) closed_here: bool,
    /// What the peer said it has sent, if it has said that it closes.
    pub(crate) peer_sent: Option<Vec<u64>>,
    pub(crate) said_received: bool,
    pub(crate) got_received: bool,
}

impl Ending {
    pub(crate) const fn new() -> Self {
        Self {
            deadline: None,
            closed_here: false,
            peer_sent: None,
            said_received: false,
            got_received: false,
        }
    }

    /// Whether everything was received that the peer has sent and this end still receives.
    pub(crate) fn has_received(&self, channels: &[Pair]) -> bool {
        let Some(sent) = &self.peer_sent else { return false };
        channels.iter().zip(sent).all(|(pair, &sent)| {
            // Who has closed posts no receives any more.
            let wanted = if self.closed_here { sent.min(pair.recv_started) } else { sent };
            pair.recv_ended >= wanted
        })
    }

    /// Whether nothing is left to wait for.
    pub(crate) const fn is_over(&self) -> bool {
        let answered = self.peer_sent.is_none() || self.said_received;
        answered && (!self.closed_here || self.got_received) && (self.closed_here || self.said_received)
    }
}

impl Conn {
    pub(crate) const fn opening(rail: Rail, opening: Box<Opening>) -> Self {
        Self {
            rail,
            phase: Phase::Opening(opening),
            stream: None,
            live: None,
            connected_due: false,
            was_open: false,
            reason: None,
        }
    }

    /// Whether it takes operations of this side.
    pub(crate) const fn takes(&self, side: Side) -> bool {
        match (&self.phase, side) {
            (Phase::Open, _) => true,
            // The messages that the peer sent before it closed can still be received.
            (Phase::Ending(ending), Side::Recv) => !ending.closed_here,
            _ => false,
        }
    }

    /// Everything it held has ended: closes the comms, and flushes what is left. A comm is closed before the
    /// operations on it are reported, so that no plugin touches their memory any more.
    pub(crate) fn finish(&mut self, set: &mut ChannelSet, reason: Option<Error>) {
        if self.reason.is_none() {
            self.reason = reason;
        }
        if let Some(live) = &mut self.live {
            live.publish(set);
            for pair in live.channels.drain(..) {
                drop(set.remove(pair.send));
                drop(set.remove(pair.recv));
            }
            live.registered.clear();
            live.sends.flush();
            live.recvs.flush();
        }
        self.stream = None;
        self.phase = Phase::Over;
    }
}

impl Live {
    pub(crate) fn new(
        limits: Limits,
        channels: Vec<Pair>,
        sends: Operations,
        recvs: Operations,
        sheet: Arc<Sheet>,
    ) -> Self {
        Self {
            limits,
            channels,
            sends,
            recvs,
            registered: Vec::new(),
            sheet,
            window_full: Duration::ZERO,
            waiting_since: None,
            refused: [false; 2],
            submitted: 0,
            try_again: false,
        }
    }

    /// The pair that a channel is of.
    pub(crate) fn pair_of(&self, id: ChannelId) -> Option<&Pair> {
        self.channels.iter().find(|pair| pair.send == id || pair.recv == id)
    }

    /// Whether a completion can be reported.
    pub(crate) fn has_ended(&self) -> bool {
        self.sends.has_ended() || self.recvs.has_ended()
    }

    pub(crate) fn operations(&mut self, side: Side) -> &mut Operations {
        match side {
            Side::Send => &mut self.sends,
            Side::Recv => &mut self.recvs,
        }
    }

    /// What is wrong with an operation, apart from its slices' regions.
    #[inline]
    pub(crate) fn is_registered(&self, region: RegionId) -> bool {
        let entry = self.registered.get(region.index()).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.region == region)
    }

    /// Hands as many waiting operations to their channels as these take. True if one was taken.
    pub(crate) fn start(
        &mut self,
        conn: usize,
        side: Side,
        set: &mut ChannelSet,
        scratch: &mut Vec<tcpx_core::Slice>,
        now: Instant,
    ) -> bool {
        let Self { channels, sends, recvs, registered, try_again, .. } = self;
        let operations = match side {
            Side::Send => sends,
            Side::Recv => recvs,
        };
        let mut any = false;
        while let Some((slot, slices, channel)) = operations.next_to_start() {
            let Some(pair) = channels.get_mut(channel) else { break };
            if !resolve(slices, channel, side, registered, scratch) {
                operations.refused(OpFault::BadSlice);
                continue;
            }
            let id = if side == Side::Send { pair.send } else { pair.recv };
            match set.post(id, Name { conn, channel, side, slot }.to_token(), scratch, now) {
                Ok(Post::Accepted) => {
                    operations.started();
                    pair.recv_started += u64::from(side == Side::Recv);
                    any = true;
                }
                Ok(Post::Full) => break,
                Ok(Post::Busy) => {
                    *try_again = true;
                    break;
                }
                Err(PostError::Misuse(misuse)) => operations.refused(fault_of(misuse)),
                // The next round reports it.
                Err(PostError::Fault(_)) => break,
            }
        }
        any
    }

    /// Copies the counters to where others read them.
    pub(crate) fn publish(&self, set: &ChannelSet) {
        for (index, pair) in self.channels.iter().enumerate() {
            let tally = |id| set.counters(id).map(Tally::from).unwrap_or_default();
            self.sheet.write(index, tally(pair.send), tally(pair.recv));
        }
        self.sheet.write_window_full(self.window_full);
    }

    /// Keeps the time that operations wait, or are refused, because a window is full. False if none is.
    pub(crate) fn count_waiting(&mut self, now: Now) -> bool {
        let Self { sends, recvs, refused, .. } = self;
        for (operations, refused) in [sends, recvs].into_iter().zip(refused) {
            *refused &= !operations.has_room();
        }
        let waits = self.sends.is_waiting() || self.recvs.is_waiting() || self.refused != [false; 2];
        if let Some(since) = self.waiting_since.take() {
            self.window_full += now.0.saturating_sub(since.0);
        }
        self.waiting_since = waits.then_some(now);
        waits
    }

    /// A channel's operation ended.
    pub(crate) fn completed(&mut self, name: Name, completion: Completion, is_closing: bool) {
        let Some(pair) = self.channels.get_mut(name.channel) else { return };
        match name.side {
            Side::Recv => {
                pair.recv_ended += 1;
                self.recvs.end_started(name.slot, |posted| match completion.outcome {
                    tcpx_core::Outcome::Done { length } => {
                        Outcome::Done { len: length.map_or(posted, |length| length as u32) }
                    }
                    tcpx_core::Outcome::Failed(fault) => failed(fault),
                });
            }
            // The peer was told how many it has to wait for; of another one nobody knows whether it arrives.
            Side::Send if is_closing => self.sends.end_started(name.slot, |_| Outcome::ConnLost),
            Side::Send => {
                pair.sent += 1;
                self.sends.end_started(name.slot, |posted| match completion.outcome {
                    tcpx_core::Outcome::Done { .. } => Outcome::Done { len: posted },
                    tcpx_core::Outcome::Failed(fault) => failed(fault),
                });
            }
        }
    }
}

/// Finds the registrations of a message's slices on one comm. False if one has none any more.
#[inline]
fn resolve(
    slices: &[Slice],
    channel: usize,
    side: Side,
    registered: &[Option<Registered>],
    scratch: &mut Vec<tcpx_core::Slice>,
) -> bool {
    scratch.clear();
    for slice in slices {
        let entry = registered.get(slice.region.index()).and_then(Option::as_ref);
        let Some(entry) = entry.filter(|entry| entry.region == slice.region) else { return false };
        scratch.push(entry.slice(channel, side, slice.offset as usize, slice.len));
    }
    true
}

fn failed(fault: OperationFault) -> Outcome {
    match fault {
        OperationFault::TooLong { .. } => Outcome::Failed(OpFault::Truncated),
        fault @ (OperationFault::Scatter(_) | _) => {
            tracing::error!("a message arrived and cannot be used: {fault}");
            Outcome::Failed(OpFault::Unplaced)
        }
    }
}

/// What the core refused although it was checked here.
fn fault_of(misuse: Misuse) -> OpFault {
    tracing::error!("an operation that was checked is refused by the core: {misuse}");
    OpFault::BadSlice
}

/// Names an operation to its channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Name {
    pub(crate) conn: usize,
    pub(crate) channel: usize,
    pub(crate) side: Side,
    pub(crate) slot: SlotIndex,
}

impl Name {
    pub(crate) const fn to_token(self) -> u64 {
        let side = matches!(self.side, Side::Recv) as u64;
        (self.conn as u64) << 32 | (self.channel as u64) << 17 | side << 16 | self.slot as u64
    }

    pub(crate) const fn of(token: u64) -> Self {
        Self {
            conn: (token >> 32) as usize,
            channel: (token >> 17 & 0x7fff) as usize,
            side: if token >> 16 & 1 == 1 { Side::Recv } else { Side::Send },
            slot: token as SlotIndex,
        }
    }
}

/// A time so much later; far away if there is no such time.
pub(crate) fn far(at: Instant, later: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    at.checked_add(later).unwrap_or_else(|| at.checked_add(YEAR).unwrap_or(at))
}

/// An error that takes a connection with it.
pub(crate) fn lost(during: &'static str, text: String) -> Error {
    Error::new(ErrorKind::Conn, during, text)
}

#[cfg(test)]
mod tests {
    use super::{Ending, Name, Side};

    #[test]
    fn a_name_survives_the_plugin() {
        for name in [
            Name { conn: 0, channel: 0, side: Side::Send, slot: 0 },
            Name { conn: 70_000, channel: 63, side: Side::Recv, slot: 1023 },
            Name { conn: 1, channel: 1, side: Side::Send, slot: u16::MAX },
        ] {
            assert_eq!(Name::of(name.to_token()), name);
        }
    }

    #[test]
    fn an_end_is_over_when_both_have_what_they_wait_for() {
        let ending = |closed_here, peer: bool, said_received, got_received| Ending {
            deadline: None,
            closed_here,
            peer_sent: peer.then(Vec::new),
            said_received,
            got_received,
        };
        assert!(!ending(true, false, false, false).is_over(), "the peer has not answered");
        assert!(ending(true, false, false, true).is_over());
        assert!(!ending(true, true, false, true).is_over(), "the peer closes too, and waits for an answer");
        assert!(ending(true, true, true, true).is_over());
        assert!(!ending(false, true, false, false).is_over());
        assert!(ending(false, true, true, false).is_over());
    }
}
