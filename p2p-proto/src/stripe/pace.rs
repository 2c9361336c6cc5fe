//! How fast a rail is, learnt from its completions.

use super::rate::Rate;

/// Bytes from which on a short stretch of work says something, in bytes.
const SHORT: u64 = 256 << 10;
/// A stretch in which the rail was not kept busy for more than one part of so many says only that the rail does
/// at least so much.
const SLACK: u64 = 8;
/// Each time that a buffer explains what was seen, one part of so many of it is forgotten.
const FORGETTING: u64 = 64;

/// How well a rate is known.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Grade {
    /// What the NIC says, compared with rails that were measured.
    Said,
    /// Measured over a stretch so short that sends may have been handed over only, and that latency counts.
    Short,
    /// Measured while the rail was full.
    Sustained,
}

/// The rate of a rail, and what is being measured.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    grade: Grade,
    busy: Busy,
    window: Window,
    /// Bytes that may be on the way though their sends have ended, at most.
    most_hidden: u64,
    /// Bytes that were found to be so when the rail was full.
    buffer: u64,
}

/// The time since the rail was idle.
#[derive(Debug, Default)]
struct Busy {
    since: u64,
    bytes: u64,
    slack: u64,
    /// Bytes of the first window that have not ended: their completions say when they were handed over, and
    /// nothing about the rail. `None` until the first completion.
    first: Option<u64>,
    sustained: bool,
    /// Whether the rate was guessed from something that was late, which a measured one replaces.
    late: bool,
    /// Bytes that were on the way when it began, though their sends had ended.
    carried: u64,
    /// How fast its first message was.
    start: Option<Rate>,
    /// How it went on while it was about as fast: bytes that ended, and how long they took.
    quick: (u64, u64),
}

/// A stretch between two completions while the rail was busy.
#[derive(Debug, Default)]
struct Window {
    /// When it began: completions of that very moment are none of it.
    from: u64,
    /// When the last one of it came.
    to: u64,
    bytes: u64,
    slack: u64,
    /// Bytes that make it whole.
    wanted: u64,
}

impl Pace {
    pub(super) fn new(said: Rate, most_hidden: u64) -> Self {
        let (busy, window) = (Busy::default(), Window::default());
        Self { rate: said, grade: Grade::Said, busy, window, most_hidden, buffer: 0 }
    }

    pub(super) const fn rate(&self) -> Rate {
        self.rate
    }

    pub(super) fn is_measured(&self) -> bool {
        self.grade > Grade::Said
    }

    /// Takes over a rate that was reckoned from that of another rail, if nothing better is known.
    pub(super) fn reckon(&mut self, rate: Rate) {
        if self.grade == Grade::Said {
            self.rate = rate;
        }
    }

    /// The idle rail begins to work.
    pub(super) fn begin(&mut self, now: u64) {
        let carried = self.ahead(now, self.rate);
        self.busy = Busy { since: now, carried, ..Busy::default() };
    }

    /// Bytes that are on the way though their sends have ended, if the rail does `rate`: they wait in a buffer, or
    /// at a receiver that is slower than the sender.
    pub(super) fn hidden(&self, now: u64, rate: Rate) -> u64 {
        if self.is_measured() { self.ahead(now, rate) } else { 0 }
    }

    /// Bytes that have ended before the rail can have carried them.
    fn ahead(&self, now: u64, rate: Rate) -> u64 {
        let Busy { carried, quick: (quick, time), .. } = self.busy;
        let could = rate.bytes(time);
        // A little faster is no sign of it but the way that rails are, unless it was so before.
        let gained = if quick / 3 * 2 > could { quick - could } else { 0 };
        (carried + gained).max(self.buffer).min(self.most_hidden).min(self.excess(now, rate))
    }

    /// Bytes that ended since the rail was idle, or before, and that it cannot have carried since.
    fn excess(&self, now: u64, rate: Rate) -> u64 {
        let Busy { since, carried, bytes, .. } = self.busy;
        (carried + bytes).saturating_sub(rate.bytes(now.saturating_sub(since)))
    }

    /// The rail had too little to do for so long.
    pub(super) fn slack(&mut self, nanoseconds: u64) {
        self.busy.slack = self.busy.slack.saturating_add(nanoseconds);
        self.window.slack = self.window.slack.saturating_add(nanoseconds);
    }

    /// Something of `in_flight` bytes ends, after nothing did for so long. True if all of them should have ended
    /// by now, so that the rate has to change.
    pub(super) fn late(&mut self, in_flight: u64, nanoseconds: u64) -> bool {
        let found = Rate::measured(in_flight, nanoseconds);
        let late = in_flight >= SHORT && found < self.rate;
        if late {
            self.rate = match self.grade {
                Grade::Said => found,
                Grade::Short => self.rate.towards(found, 2),
                Grade::Sustained => self.rate.towards(found, 4),
            };
            self.busy.late |= self.grade < Grade::Sustained;
            self.grade = self.grade.max(Grade::Short);
        }
        late
    }

    /// So many bytes ended, and so many are in flight behind them. True if the rate has changed.
    pub(super) fn ended(&mut self, now: u64, bytes: u64, behind: u64, best: Rate) -> bool {
        let before = self.rate;
        let time = now.saturating_sub(self.busy.since);
        let first = self.busy.first.get_or_insert(bytes + behind);
        if *first > 0 {
            *first = first.saturating_sub(bytes);
            if *first == 0 {
                self.open(now, behind);
            }
        } else if now > self.window.from {
            self.count(now, bytes, behind);
        }
        self.busy.bytes += bytes;
        let start = *self.busy.start.get_or_insert(Rate::measured(bytes, time));
        if self.busy.bytes >= start.bytes(time) / 2 {
            self.busy.quick = (self.busy.bytes, time);
        }
        if behind == 0 {
            self.idle(now, best);
        }
        self.rate != before
    }

    fn open(&mut self, now: u64, in_flight: u64) {
        self.window = Window { from: now, to: now, bytes: 0, slack: 0, wanted: in_flight.max(SHORT) };
    }

    fn count(&mut self, now: u64, bytes: u64, behind: u64) {
        // Others may end at the same moment: a window closes when a later one comes.
        if now > self.window.to && self.window.bytes >= self.window.wanted {
            let to = self.window.to;
            self.close();
            self.open(to, bytes + behind);
        }
        self.window.to = now;
        self.window.bytes += bytes;
    }

    fn close(&mut self) {
        let Window { from, to, bytes, slack, .. } = self.window;
        let found = Rate::measured(bytes, to.saturating_sub(from));
        if found < self.rate && is_slack(slack, to.saturating_sub(from)) || self.is_buffered(found, to) {
            return;
        }
        self.busy.sustained = true;
        self.rate = if self.grade == Grade::Sustained { self.rate.towards(found, 2) } else { found };
        self.grade = Grade::Sustained;
        let (quick, time) = self.busy.quick;
        if found.bytes(time) < quick / 2 {
            // All that ended faster than it can have been carried still waits somewhere.
            self.buffer = self.ahead(to, self.rate);
        } else if self.busy.bytes > 2 * self.buffer {
            // It should be full by now.
            self.buffer = (self.buffer + self.excess(to, self.rate).min(self.buffer)) / 2;
        }
    }

    /// Whether the rail looks faster than it is because its sends end before they are carried, as they did before:
    /// until the buffer is full, which is early.
    fn is_buffered(&mut self, found: Rate, now: u64) -> bool {
        let Busy { carried, bytes, .. } = self.busy;
        let buffered = self.grade == Grade::Sustained
            && found > self.rate
            && carried + bytes <= 4 * self.buffer
            && self.excess(now, self.rate) <= self.buffer + self.buffer / 4;
        if buffered {
            // It may have become faster after all: what is not seen again is forgotten in the end.
            self.buffer -= self.buffer / FORGETTING;
        }
        buffered
    }

    fn idle(&mut self, now: u64, best: Rate) {
        if self.busy.first == Some(0) && self.window.bytes >= self.window.wanted {
            self.close();
        }
        if !self.busy.sustained && self.busy.bytes >= SHORT && now > self.busy.since {
            self.short(now, best);
        }
    }

    fn short(&mut self, now: u64, best: Rate) {
        let time = now - self.busy.since;
        let found = Rate::measured(self.busy.bytes, time);
        if found < self.rate && is_slack(self.busy.slack, time) || self.is_buffered(found, now) {
            return;
        }
        self.rate = match self.grade {
            Grade::Said => found,
            Grade::Short if self.busy.late => found,
            Grade::Short => self.rate.towards(found, 2),
            Grade::Sustained if found < self.rate => self.rate.towards(found, 4),
            // Sends that were handed over only look fast: nothing rises above its equals for them.
            Grade::Sustained => self.rate.towards(found.min(best).max(self.rate), 8),
        };
        self.grade = self.grade.max(Grade::Short);
    }
}

const fn is_slack(slack: u64, time: u64) -> bool {
    slack > time / SLACK
}
