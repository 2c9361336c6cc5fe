//! One link to one peer: the transfers of both ends, the order on its rails, and the words on its control stream.
//!
//! Whoever owns a [`Peer`] moves bytes between it and the world. In each round:
//!
//! 1. [`receive`](Peer::receive) what came on the control stream, unless [`wants_control`](Peer::wants_control)
//!    says no; [`ended`](Peer::ended) for each message that the transport has reported.
//! 2. New calls: [`write`](Peer::write), [`read`](Peer::read), [`send`](Peer::send), [`recv`](Peer::recv),
//!    [`notify`](Peer::notify). They take note only.
//! 3. [`drive`](Peer::drive): this is where chunks are cut and announced.
//! 4. For each rail and side: [`next_post`](Peer::next_post), hand it to the transport, [`posted`](Peer::posted), until
//!    there is nothing more or the transport is busy.
//! 5. Send [`control`](Peer::control); [`happened`](Peer::happened) until there is nothing more.
//!
//! Whatever was done, `drive` comes again before the round ends, and at the [`deadline`](Peer::deadline).
//!
//! **Order.** The k-th message that is posted on a rail here meets the k-th receive that is posted there. Each end
//! says on the control stream what its messages are before it sends them.
//!
//! **Memory.** A transfer's memory belongs to it from the call until its [`Happened::Ended`]. That comes only when
//! the transport is done with all of its messages at this end.

mod alive;
mod begin;
mod close;
mod covered;
mod cut;
mod entry;
mod hear;
mod line;
mod meet;
mod notices;
mod output;
mod post;
mod release;
mod table;
mod tell;
mod waiting;
mod words;

use std::collections::VecDeque;
use std::time::Duration;

pub use waiting::Waiting;
pub use words::{Breach, Caps, Exports, Happened, Landing, Loss, Outcome, Post, Rejected, Side};

use self::alive::Alive;
use self::line::Rail;
use self::notices::Notices;
use self::output::Output;
use self::table::{Handle, Table};
use crate::frame::LONGEST_FRAME;
use crate::list::LocalRange;
use crate::stripe::{RailLimits, Striper};
use crate::wire::Decoder;

/// One link to one peer. See the [module](self) for who calls what when.
#[derive(Debug)]
pub struct Peer {
    caps: Caps,
    /// The latest time that was said.
    now: Duration,
    /// Nothing moves any more.
    over: bool,
    table: Table,
    /// Transfers of this end whose end was not reported.
    own_live: usize,
    /// Transfers of the peer that are open.
    peers_open: u32,
    /// Ranges and repeats of the peer that are held.
    peers_ranges: u64,
    rails: Vec<Rail>,
    striper: Striper,
    /// Transfers with chunks to cut, the next one first.
    row: VecDeque<Handle>,
    /// Bytes of all transfers that may move and are not cut.
    uncut: u64,
    /// Messages that the peer has announced and that have not landed.
    unlanded: usize,
    /// Bytes of messages that are with the transport, both ways.
    flying: u64,
    /// Transfers of which ranges or shapes are to be said, the next one first.
    telling: VecDeque<Handle>,
    /// Sends of the peer that no receive has met.
    sends: VecDeque<Handle>,
    /// Receives that no send of the peer has met.
    recvs: VecDeque<Handle>,
    notices: Notices,
    alive: Alive,
    output: Output,
    decoder: Decoder,
    happened: VecDeque<Happened>,
    /// Of the message that was offered last.
    parts: Vec<LocalRange>,
}

impl Peer {
    /// A link over these rails, which both ends count alike; `max_message` and `megabits` are those of the end that
    /// has less. Time begins with the first `now`.
    pub fn new(rails: Vec<RailLimits>, caps: Caps) -> Self {
        Self {
            caps,
            now: Duration::ZERO,
            over: false,
            table: Table::default(),
            own_live: 0,
            peers_open: 0,
            peers_ranges: 0,
            striper: Striper::new(&rails),
            rails: rails.into_iter().map(Rail::new).collect(),
            row: VecDeque::new(),
            uncut: 0,
            unlanded: 0,
            flying: 0,
            telling: VecDeque::new(),
            sends: VecDeque::new(),
            recvs: VecDeque::new(),
            notices: Notices::default(),
            alive: Alive::default(),
            output: Output::default(),
            decoder: Decoder::new(),
            happened: VecDeque::new(),
            parts: Vec::new(),
        }
    }

    /// Says what can be said, cuts and announces what rails have room for, asks for signs of life, and notices
    /// silence. Called in each round after anything else, and at the [`deadline`](Self::deadline).
    pub fn drive(&mut self, now: Duration) {
        self.at(now);
        if self.over {
            return;
        }
        self.watch();
        self.tell();
        self.cut();
    }

    /// When [`drive`](Self::drive) wants to be called at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        (!self.over).then(|| self.alive.deadline(&self.caps))
    }

    /// What has happened, oldest first.
    pub fn happened(&mut self) -> Option<Happened> {
        let next = self.happened.pop_front();
        match &next {
            Some(Happened::Notified(bytes)) => self.notices.taken(bytes.len()),
            Some(Happened::Counted(_)) => self.notices.taken(0),
            Some(
                Happened::Ended { .. } | Happened::RailBroken(_) | Happened::Goodbye(_) | Happened::Lost(_),
            )
            | None => {}
        }
        next
    }

    /// The caller keeps so many bytes of notifications that it has taken, and that nobody has asked it for: they count
    /// as not taken.
    pub fn keeps(&mut self, bytes: usize) {
        self.notices.kept = bytes;
    }

    /// Whether bytes of the control stream should be read and given to [`receive`](Self::receive). Where not, the peer
    /// is left to wait: messages that it has announced have to land, or notifications to be taken, first.
    pub fn wants_control(&self) -> bool {
        !self.over
            && self.unlanded <= self.caps.announced as usize
            && self.notices.unread() <= self.caps.unread as usize
    }

    /// Bytes of the messages that are with the transport, both ways.
    pub const fn flying(&self) -> u64 {
        self.flying
    }

    /// Bytes for the control stream.
    pub fn control(&self) -> &[u8] {
        self.output.bytes()
    }

    /// The first `count` bytes of [`control`](Self::control) were sent.
    pub fn control_sent(&mut self, count: usize) {
        self.output.sent(count);
    }

    /// Whether the link is over: it was lost, ended, or the peer broke the protocol. Messages may still be with the
    /// transport, and [`control`](Self::control) may have a goodbye.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether nothing is under way: no transfer of either end but receives that nothing has met, no notification to
    /// say, and nothing to send.
    pub fn is_idle(&self) -> bool {
        let moves = self.table.len() != self.recvs.len() || self.uncut > 0 || self.unlanded > 0;
        !moves && self.notices.is_said() && self.output.len() == 0
    }

    /// Whether more words wait than two ends say that listen to each other: a long word beyond the cap, and a few short
    /// ones for each transfer.
    fn says_too_much(&self) -> bool {
        let transfers = u64::from(self.caps.own_transfers) + u64::from(self.caps.peer_transfers);
        let most = 2 * u64::from(self.caps.control) + 4 * LONGEST_FRAME as u64 + 256 * transfers;
        self.output.len() as u64 > most
    }

    /// Takes note of the time. It does not go back.
    fn at(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }
}
