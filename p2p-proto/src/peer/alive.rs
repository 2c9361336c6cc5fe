//! Whether the peer is there.

use std::time::Duration;

use super::Peer;
use super::words::{Caps, Loss};
use crate::frame::Frame;

/// Counts silence only while somebody listened: time in which this process was stopped, or did not want to hear, is
/// not the peer's fault.
#[derive(Debug, Default)]
pub(super) struct Alive {
    /// When silence was counted last.
    counted: Option<Duration>,
    pub(super) silent: Duration,
    /// Whether the peer was asked since it was heard.
    asked: bool,
    /// Time in which this end did not listen, and said nothing of it.
    rested: Duration,
    pings: u64,
}

/// One look counts no more than this, at least.
const SHORTEST: Duration = Duration::from_millis(1);

impl Alive {
    /// A sign of life.
    pub(super) const fn heard(&mut self) {
        self.silent = Duration::ZERO;
        self.asked = false;
    }

    pub(super) fn deadline(&self, caps: &Caps) -> Duration {
        let Some(counted) = self.counted else { return Duration::ZERO };
        let step = step(caps);
        let bound = if self.asked { caps.silence } else { step };
        counted.saturating_add(bound.saturating_sub(self.silent).clamp(SHORTEST, step))
    }
}

/// Time of silence after which the peer is asked, and the most that one look counts: so it is always asked some time
/// before it is given up.
fn step(caps: &Caps) -> Duration {
    caps.ping_after.min(caps.silence / 2).max(SHORTEST)
}

impl Peer {
    /// Asks for a sign of life, or gives the peer up.
    pub(super) fn watch(&mut self) {
        let step = step(&self.caps);
        let since = self.now.saturating_sub(self.alive.counted.unwrap_or(self.now));
        self.alive.counted = Some(self.now);
        if !self.wants_control() {
            // The peer may have asked, and its question is not read: it has to hear without.
            self.alive.heard();
            self.alive.rested += since.min(step);
            if self.alive.rested >= step {
                self.ask();
            }
            return;
        }
        self.alive.silent += since.min(step);
        if self.alive.silent >= self.caps.silence {
            self.lose(Loss::Silent(self.alive.silent));
        } else if !self.alive.asked && self.alive.silent >= step {
            self.alive.asked = true;
            self.ask();
        }
    }

    fn ask(&mut self) {
        self.alive.rested = Duration::ZERO;
        self.alive.pings += 1;
        self.output.say(&Frame::Ping { number: self.alive.pings });
    }
}
