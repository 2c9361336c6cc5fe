//! Which rail carries the next bytes, and how many: the one on which they are expected to end first.
//!
//! A [`Striper`] belongs to one direction of a link. It knows what is in flight on each rail, learns from
//! completions how fast each one is, and cuts so that all rails end at the same time: long messages while there
//! is much to do, shorter ones towards the end, and nothing for a rail that would end after the others.
//!
//! It reckons in whole nanoseconds and bytes, so that the same calls give the same answers everywhere.

mod pace;
mod rail;
mod rate;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::rail::{Offer, Outlook, Rail};
use self::rate::Rate;
use crate::id::RailIndex;

/// What one rail of a link can do, as both ends have agreed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RailLimits {
    /// Longest message, in bytes.
    pub max_message: u32,
    /// Slices of this end that one message may name.
    pub max_slices: u16,
    /// Sends that may be in flight at once.
    pub max_sends: u16,
    /// Receives that may be posted at once. As many messages may wait at a peer that is slow, though their sends
    /// have ended: the fewer there are, the less of a link's first transfer is misled by that.
    pub max_recvs: u16,
    /// Slices of the peer that one message may name.
    pub peer_slices: u16,
    /// Speed of the slower of the two NICs, in megabits per second; 0 if unknown.
    pub megabits: u32,
}

/// Where the next bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The rail.
    pub rail: RailIndex,
    /// Bytes of the message at most, and at least 1. Fewer are well.
    pub bytes: u32,
}

/// Longest message that is cut unless a caller says otherwise, in bytes: a longer one gains nothing, and
/// balances worse.
pub const PREFERRED_CHUNK: u32 = 4 << 20;
/// The same where there is one rail, and nothing to balance: each message costs a word and two wake-ups. Writes of
/// 64 MiB on loopback, two cores, measured in turn beside other work, as a share of plain TCP: 0.86 with messages of
/// 4 MiB, 0.99 with these.
pub const LONE_CHUNK: u32 = 16 << 20;
/// Rails that a [`RailIndex`] can name; further ones are not used.
const MOST_RAILS: usize = 1 << u8::BITS;
/// Speed of rails of which none says its own.
const UNKNOWN_MEGABITS: u32 = 100_000;

/// Spreads messages over the rails of a link, in one direction.
///
/// Whoever uses it asks [`choose`](Self::choose) while there are bytes and it names a rail, and reports each send
/// that it [`started`](Self::started) and that [`ended`](Self::ended). Times are counted from any one origin and do
/// not go back; where they do, nothing is learnt.
#[derive(Debug)]
pub struct Striper {
    rails: Vec<Rail>,
    /// Rails that live, those that will be free first in front, as the last call saw them.
    outlooks: Vec<(Outlook, u8)>,
}

impl Striper {
    /// For these rails, of which nothing but their limits is known.
    pub fn new(rails: &[RailLimits]) -> Self {
        Self::with_chunk(rails, if rails.len() == 1 { LONE_CHUNK } else { PREFERRED_CHUNK })
    }

    /// As [`new`](Self::new), and no message is longer than `chunk` bytes.
    pub fn with_chunk(rails: &[RailLimits], chunk: u32) -> Self {
        let known = rails.iter().filter(|rail| rail.megabits > 0);
        let (sum, count) =
            known.fold((0, 0), |(sum, count), rail| (sum + u64::from(rail.megabits), count + 1));
        let usual = u64::checked_div(sum, count).map_or(UNKNOWN_MEGABITS, |mean| mean as u32);
        let said =
            |rail: &RailLimits| Rate::of_megabits(if rail.megabits > 0 { rail.megabits } else { usual });
        let rails = rails.iter().take(MOST_RAILS);
        let rails: Vec<Rail> = rails.map(|limits| Rail::new(limits, chunk, said(limits))).collect();
        Self { outlooks: Vec::with_capacity(rails.len()), rails }
    }

    /// Where the next bytes go, of `left` that are not cut yet: those of all transfers that wait, so that only the
    /// last one is cut short.
    ///
    /// `None` means: ask again when a send has ended. A rail may have room even then; but the bytes end earlier if
    /// they wait for a better one. It is never `None` for ever: something is in flight, or no rail lives.
    pub fn choose(&mut self, now: Duration, left: u64) -> Option<Choice> {
        let now = nanoseconds(now);
        if left == 0 || self.rails.iter().all(|rail| !rail.lives() || rail.is_full()) {
            return None;
        }
        let horizon = self.horizon(now, left);
        let alone = self.outlooks.len() == 1;
        let (mut in_time, mut soonest) = (None, None);
        // Of equals the first one stays: they stand in the order of time, then of position.
        let earlier =
            |one: &Option<(Offer, u8)>, offer: &Offer| one.is_none_or(|(one, _)| offer.end < one.end);
        let mut waits = false;
        for (outlook, index) in &self.outlooks {
            let offer = self.rails[usize::from(*index)].offer(*outlook, left, horizon, alone);
            waits |= offer.in_time;
            if offer.in_time && offer.fits && earlier(&in_time, &offer) {
                in_time = Some((offer, *index));
            }
            if earlier(&soonest, &offer) {
                soonest = Some((offer, *index));
            }
        }
        // Where nobody ends it in time, so little is left that it delays all: least where it ends first.
        let best = if waits { in_time } else { soonest.filter(|(offer, _)| offer.fits) };
        best.map(|(offer, index)| Choice { rail: RailIndex(index), bytes: offer.bytes })
    }

    /// When all rails have ended, in nanoseconds from now, if `left` bytes are spread over them as well as can be.
    /// Looks at all of them anew.
    fn horizon(&mut self, now: u64, left: u64) -> u64 {
        let Self { rails, outlooks } = self;
        outlooks.clear();
        let living = (0..=u8::MAX).zip(&*rails).filter(|(_, rail)| rail.lives());
        outlooks.extend(living.map(|(index, rail)| (rail.outlook(now), index)));
        outlooks.sort_unstable_by_key(|(outlook, index)| (outlook.free_in, *index));
        let (mut bytes, mut rate, mut horizon) = (left, Rate::ZERO, u64::MAX);
        for (outlook, _) in outlooks {
            if outlook.free_in >= horizon {
                break;
            }
            bytes = bytes.saturating_add(outlook.rate.bytes(outlook.free_in));
            rate = rate.and(outlook.rate);
            horizon = rate.time(bytes);
        }
        horizon
    }

    /// A send of `bytes` has been given to a rail.
    pub fn started(&mut self, now: Duration, rail: RailIndex, bytes: u32) {
        if let Some(rail) = self.rails.get_mut(usize::from(rail.0)) {
            rail.started(nanoseconds(now), u64::from(bytes));
        }
    }

    /// A send of `bytes` has ended on a rail, well or not.
    pub fn ended(&mut self, now: Duration, rail: RailIndex, bytes: u32) {
        let index = usize::from(rail.0);
        let best = self.best_for(index);
        let Some(rail) = self.rails.get_mut(index) else { return };
        if !rail.ended(nanoseconds(now), u64::from(bytes), best) {
            return;
        }
        // Of the others nothing may be known but how they compare with this one.
        let (said, rate) = (rail.said(), rail.rate());
        self.rails.iter_mut().for_each(|other| other.compare(said, rate));
    }

    /// What a rail would do if it were as good, for what its NIC is said to do, as the best one.
    fn best_for(&self, index: usize) -> Rate {
        let Some(this) = self.rails.get(index) else { return Rate::ZERO };
        let living = self.rails.iter().filter(|rail| rail.lives());
        living.map(|rail| rail.rate().scaled(this.said(), rail.said())).max().unwrap_or(Rate::ZERO)
    }

    /// A rail is gone, with all that was in flight on it.
    pub fn lost(&mut self, rail: RailIndex) {
        if let Some(rail) = self.rails.get_mut(usize::from(rail.0)) {
            rail.lost();
        }
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.rails.iter().all(Rail::is_idle)
    }
}

/// A time since the caller's origin; it ends after 146 years, so that sums of two fit.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().min(u128::from(u64::MAX / 4)) as u64
}
