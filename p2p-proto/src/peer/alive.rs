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
        let bound = if self.asked { caps.silence } else { caps.ping_after };
        let step = caps.ping_after.max(SHORTEST);
        counted.saturating_add(bound.saturating_sub(self.silent).clamp(SHORTEST, step))
    }
}

impl Peer {
    /// Asks for a sign of life, or gives the peer up.
    pub(super) fn watch(&mut self) {
        let step = self.caps.ping_after.max(SHORTEST);
        let since = self.now.saturating_sub(self.alive.counted.unwrap_or(self.now));
        self.alive.counted = Some(self.now);
        if !self.wants_control() {
            self.alive.heard();
            return;
        }
        self.alive.silent += since.min(step);
        if self.alive.asked && self.alive.silent >= self.caps.silence {
            self.lose(Loss::Silent(self.alive.silent));
        } else if !self.alive.asked && self.alive.silent >= self.caps.ping_after {
            self.alive.asked = true;
            self.alive.pings += 1;
            self.output.say(&Frame::Ping { number: self.alive.pings });
        }
    }
}
