//! One rail: what is in flight on it, and what it would do with more.

use super::RailLimits;
use super::pace::Pace;
use super::rate::Rate;

/// Shortest message that is cut while there is more to do, in bytes.
const FLOOR: u64 = 64 << 10;
/// Messages are cut to whole multiples of this where they are longer, so that pages stay in one piece.
const GRAIN: u64 = 64 << 10;
/// Time that the bytes in flight have to last, in nanoseconds: the way there and back, and the caller's round.
const LASTING: u64 = 100_000;
/// Bytes in flight that last long enough on any rail.
const PLENTY: u64 = 2 << 20;
/// Sends that one of a rail's channels holds, in the backends that have several.
const SLOTS_PER_CHANNEL: u16 = 16;
/// More than so many channels are not told apart.
const MOST_CHANNELS: u16 = 8;
/// Bytes in flight at most, on any rail.
const DEEPEST: u64 = 32 << 20;
/// A message is at most one part of so many of what its rail still has to do, or [`WHOLE`].
const PARTS: u64 = 4;
/// What is not cut for the sake of balance, in bytes.
const WHOLE: u64 = 256 << 10;

/// A rail of a link, in one direction.
#[derive(Debug)]
pub(super) struct Rail {
    lives: bool,
    said: Rate,
    pace: Pace,
    max_message: u64,
    max_sends: u32,
    /// Messages that it works on at the same time.
    channels: u64,
    /// Longest message that is cut, in bytes.
    chunk: u64,
    /// Bytes in flight at most.
    deep: u64,
    in_flight: u64,
    sends: u32,
    /// When something ended last, or the idle rail began to work.
    moved: u64,
    /// Since when it has room and too little to do.
    slack_since: Option<u64>,
}

/// What is expected of a rail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Nanoseconds until what is in flight has ended.
    pub(super) free_in: u64,
    /// How fast it will be.
    pub(super) rate: Rate,
}

/// What a rail would do next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// Length of the message, at least 1.
    pub(super) bytes: u32,
    /// When it would have ended, in nanoseconds from now.
    pub(super) end: u64,
    /// Whether there is room for it.
    pub(super) fits: bool,
    /// Whether it delays nobody.
    pub(super) in_time: bool,
}

impl Rail {
    pub(super) fn new(limits: &RailLimits, chunk: u32, said: Rate) -> Self {
        let max_message = u64::from(limits.max_message.max(1));
        let channels = u64::from((limits.max_sends / SLOTS_PER_CHANNEL).clamp(1, MOST_CHANNELS));
        let chunk = u64::from(chunk.max(1)).min(max_message).min(DEEPEST / (2 * channels));
        Self {
            lives: true,
            said,
            pace: Pace::new(said, chunk * u64::from(limits.max_recvs)),
            max_message,
            max_sends: u32::from(limits.max_sends.max(1)),
            channels,
            chunk,
            deep: (2 * chunk * channels).max(2 * PLENTY),
            in_flight: 0,
            sends: 0,
            moved: 0,
            slack_since: None,
        }
    }

    pub(super) const fn lives(&self) -> bool {
        self.lives
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.sends == 0
    }

    pub(super) const fn said(&self) -> Rate {
        self.said
    }

    pub(super) const fn rate(&self) -> Rate {
        self.pace.rate()
    }

    /// What is expected of it from `now` on.
    pub(super) fn outlook(&self, now: u64) -> Outlook {
        let due = self.moved.saturating_add(self.rate().time(self.in_flight));
        // If it is late, it is expected to be late by as much again.
        let late = if self.sends == 0 { 0 } else { now.saturating_sub(due) };
        let rate =
            if late == 0 { self.rate() } else { Rate::measured(self.in_flight, now - self.moved + late) };
        let hidden = self.pace.hidden(now, rate);
        let free_in = if late == 0 { due.saturating_sub(now) } else { late };
        Outlook { free_in: free_in.saturating_add(rate.time(hidden)), rate }
    }

    /// What it would do next of `left` bytes, if everything is to have ended in `horizon` nanoseconds. `alone`:
    /// nobody else can.
    pub(super) fn offer(&self, outlook: Outlook, left: u64, horizon: u64, alone: bool) -> Offer {
        let Outlook { free_in, rate } = outlook;
        // What it should still do, and what of that it has not got.
        let (all, quota) = (rate.bytes(horizon), rate.bytes(horizon.saturating_sub(free_in)));
        let part = (all / PARTS).max(if alone { quota } else { WHOLE }) / self.channels;
        let (lasting, floor) = self.shortest();
        let bytes = self.even(part.min(quota).clamp(floor, self.chunk), floor, left);
        let deep = if alone { self.deep } else { (all / 2).clamp(lasting, self.deep) };
        Offer {
            bytes: bytes as u32,
            end: free_in.saturating_add(rate.time(bytes)),
            fits: self.sends < self.max_sends && (self.sends < 2 || self.in_flight + bytes <= deep),
            in_time: quota >= bytes,
        }
    }

    /// A message of about `chunk` bytes that leaves no crumb of the `left` ones.
    fn even(&self, chunk: u64, floor: u64, left: u64) -> u64 {
        let grains = (chunk + GRAIN / 2) / GRAIN * GRAIN;
        let chunk = if grains > 0 && grains <= self.chunk { grains } else { chunk };
        if left <= chunk || (left - chunk < floor && left <= self.max_message) {
            left.min(self.max_message)
        } else if left - chunk < floor {
            left - floor
        } else {
            chunk
        }
    }

    /// Bytes in flight that keep it busy.
    fn lasting(&self) -> u64 {
        let most = if self.pace.is_measured() { PLENTY } else { PLENTY / 2 };
        self.rate().bytes(LASTING).clamp(2 * FLOOR, most)
    }

    /// Bytes in flight that keep it busy, and the shortest message that is cut: where few fit at once, they must
    /// last.
    fn shortest(&self) -> (u64, u64) {
        let lasting = self.lasting();
        (lasting, (lasting / u64::from(self.max_sends)).max(FLOOR).min(self.chunk))
    }

    /// Whether there is room for no message, however short.
    pub(super) const fn is_full(&self) -> bool {
        self.sends >= self.max_sends || (self.sends >= 2 && self.in_flight >= self.deep)
    }

    pub(super) fn started(&mut self, now: u64, bytes: u64) {
        if !self.lives {
            return;
        }
        if self.sends == 0 {
            self.moved = now;
            self.slack_since = None;
            self.pace.begin(now);
        }
        if let Some(since) = self.slack_since.take() {
            self.pace.slack(now.saturating_sub(since));
        }
        self.in_flight += bytes;
        self.sends += 1;
        self.look_for_slack(now);
    }

    /// True if its rate has changed. `best`: what it would do if it were as good as the best one.
    pub(super) fn ended(&mut self, now: u64, bytes: u64, best: Rate) -> bool {
        if self.sends == 0 {
            return false;
        }
        self.sends -= 1;
        let late = self.pace.late(self.in_flight, now.saturating_sub(self.moved));
        self.in_flight = if self.sends == 0 { 0 } else { self.in_flight.saturating_sub(bytes) };
        self.moved = now;
        let changed = self.pace.ended(now, bytes, self.in_flight, best) || late;
        if self.slack_since.is_none() {
            self.look_for_slack(now);
        }
        changed
    }

    fn look_for_slack(&mut self, now: u64) {
        let room = self.sends < self.max_sends && self.in_flight < self.lasting();
        self.slack_since = room.then_some(now);
    }

    /// Another rail, of which `said` is said, does `rate`: so much is expected of this one until it was measured.
    pub(super) fn compare(&mut self, said: Rate, rate: Rate) {
        self.pace.reckon(rate.scaled(self.said, said));
    }

    pub(super) fn lost(&mut self) {
        self.lives = false;
        self.in_flight = 0;
        self.sends = 0;
    }
}
