//! Rails in virtual time: each one serves what it was given at its own speed.

use std::collections::VecDeque;
use std::time::Duration;

use p2p_proto::id::RailIndex;
use p2p_proto::stripe::{RailLimits, Striper};

/// Bytes per nanosecond, which are gigabytes per second.
pub(crate) type Speed = f64;

/// What a rail is, and what it says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// From when on it is how fast, in nanoseconds; the first one is at 0.
    pub(crate) speeds: Vec<(f64, Speed)>,
    /// From the last byte sent to the last byte there, in nanoseconds. A completion comes with it.
    pub(crate) latency: f64,
    /// Sends in flight at most.
    pub(crate) max_sends: u16,
    /// Longest message.
    pub(crate) max_message: u32,
    /// Messages worked on at once, which share the speed.
    pub(crate) channels: usize,
    /// A send is reported done when no more than this is left of it and of all before it on its channel.
    pub(crate) buffer: f64,
    /// How fast the sender's own NIC is, behind which the buffer lies.
    pub(crate) line: Speed,
    /// What its NIC says.
    pub(crate) megabits: u32,
}

impl Model {
    /// 25 GB/s, 10 us away, as all the others of its kind.
    pub(crate) fn usual() -> Self {
        Self {
            speeds: vec![(0.0, 25.0)],
            latency: 10_000.0,
            max_sends: 16,
            // As the soft plugin has it: how long messages are is the striper's to choose.
            max_message: 16 << 20,
            channels: 1,
            buffer: 0.0,
            line: f64::INFINITY,
            megabits: 200_000,
        }
    }

    pub(crate) fn speed(self, speed: Speed) -> Self {
        Self { speeds: vec![(0.0, speed)], ..self }
    }

    fn speed_at(&self, time: f64) -> Speed {
        self.speeds.iter().rev().find(|(from, _)| *from <= time).map_or(0.0, |(_, speed)| *speed)
    }

    /// What a window of messages makes of it.
    fn does_at(&self, time: f64) -> Speed {
        let (speed, message) = (self.speed_at(time), f64::from(self.max_message.min(4 << 20)));
        speed.min(f64::from(self.max_sends) * message / (message / speed + self.latency))
    }

    fn next_change(&self, time: f64) -> f64 {
        self.speeds.iter().map(|(from, _)| *from).find(|from| *from > time).unwrap_or(f64::INFINITY)
    }

    fn limits(&self) -> RailLimits {
        RailLimits {
            max_message: self.max_message,
            max_slices: 1,
            max_sends: self.max_sends,
            max_recvs: self.max_sends,
            peer_slices: 1,
            megabits: self.megabits,
        }
    }
}

/// What was sent on a channel, its end counted in bytes of that channel.
#[derive(Debug)]
struct Message {
    bytes: u32,
    end: f64,
    /// When the sender's NIC is through with it.
    left: f64,
}

#[derive(Debug, Default)]
struct Channel {
    given: f64,
    served: f64,
    /// Not served.
    serving: VecDeque<Message>,
    /// Not reported.
    silent: VecDeque<Message>,
}

impl Channel {
    /// Bytes until something happens here.
    fn until(&self, buffer: f64) -> Option<f64> {
        let served = self.serving.front().map(|message| message.end - self.served);
        let reported = self.silent.front().map(|message| message.end - buffer - self.served);
        served.into_iter().chain(reported).map(|bytes| bytes.max(0.0)).min_by(f64::total_cmp)
    }
}

#[derive(Debug)]
struct Rail {
    model: Model,
    lives: bool,
    channels: Vec<Channel>,
    next: usize,
    /// Until when the sender's NIC has work.
    line_until: f64,
    in_flight: u16,
    bytes_in_flight: u64,
    /// Served and reported: when to say so, and its bytes.
    reports: Vec<(f64, u32)>,
    /// When the last byte so far is there.
    landed: f64,
    carried: u64,
}

/// What no rail may have in flight more of, in bytes.
const MOST_IN_FLIGHT: u64 = 32 << 20;
/// Slack of comparisons, in bytes.
const HAIR: f64 = 1e-3;

impl Rail {
    fn send(&mut self, now: f64, bytes: u32) {
        self.in_flight += 1;
        self.bytes_in_flight += u64::from(bytes);
        assert!(self.bytes_in_flight <= MOST_IN_FLIGHT, "{} bytes in flight", self.bytes_in_flight);
        self.carried += u64::from(bytes);
        let count = self.channels.len();
        let channel = &mut self.channels[self.next % count];
        self.next += 1;
        channel.given += f64::from(bytes);
        let end = channel.given;
        self.line_until = self.line_until.max(now) + f64::from(bytes) / self.model.line;
        let left = self.line_until;
        channel.serving.push_back(Message { bytes, end, left });
        channel.silent.push_back(Message { bytes, end, left });
    }

    fn share(&self, now: f64) -> Speed {
        let busy = self.channels.iter().filter(|channel| !channel.serving.is_empty()).count();
        self.model.speed_at(now) / busy.max(1) as f64
    }

    /// When something happens next.
    fn next(&self, now: f64) -> f64 {
        let share = self.share(now);
        let served = self.channels.iter().filter_map(|channel| channel.until(self.model.buffer));
        let served = served.map(|bytes| now + bytes / share).chain([self.model.next_change(now)]);
        served.chain(self.reports.iter().map(|(at, _)| *at)).fold(f64::INFINITY, f64::min)
    }

    /// Lets time pass in which nothing happens before its end.
    fn pass(&mut self, from: f64, to: f64) {
        let moved = self.share(from) * (to - from);
        let latency = self.model.latency;
        for channel in &mut self.channels {
            if !channel.serving.is_empty() {
                channel.served += moved;
            }
            let (served, buffer) = (channel.served, self.model.buffer);
            while channel.serving.front().is_some_and(|message| message.end <= served + HAIR) {
                channel.serving.pop_front();
                self.landed = to + latency;
            }
            while channel.silent.front().is_some_and(|message| message.end <= served + buffer + HAIR) {
                let message = channel.silent.pop_front().expect("looked at it");
                let late = if buffer > 0.0 { 0.0 } else { latency };
                self.reports.push((to.max(message.left) + late, message.bytes));
            }
        }
    }
}

/// All rails of one direction of a link, and who spreads bytes over them.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: f64,
    pub(crate) striper: Striper,
    rails: Vec<Rail>,
    /// Completions are seen only at multiples of this, in nanoseconds; 0: at once.
    pub(crate) round: f64,
    /// No message is longer, as if it had too many slices.
    pub(crate) most: u32,
    pub(crate) messages: usize,
}

impl World {
    pub(crate) fn new(models: &[Model]) -> Self {
        let limits: Vec<RailLimits> = models.iter().map(Model::limits).collect();
        let rail = |model: &Model| Rail {
            channels: (0..model.channels).map(|_| Channel::default()).collect(),
            model: model.clone(),
            lives: true,
            next: 0,
            line_until: 0.0,
            in_flight: 0,
            bytes_in_flight: 0,
            reports: Vec::new(),
            landed: 0.0,
            carried: 0,
        };
        Self {
            now: 0.0,
            striper: Striper::new(&limits),
            rails: models.iter().map(rail).collect(),
            round: 0.0,
            most: u32::MAX,
            messages: 0,
        }
    }

    /// Moves so many bytes, and returns how long it took until the last one was there.
    pub(crate) fn transfer(&mut self, bytes: u64) -> f64 {
        let (start, mut left) = (self.now, bytes);
        loop {
            left = self.give(left);
            if left == 0 && self.striper.is_idle() {
                break;
            }
            assert!(!self.striper.is_idle(), "nothing is in flight and {left} bytes are left");
            self.step();
        }
        while self.rails.iter().any(|rail| rail.channels.iter().any(|channel| !channel.serving.is_empty())) {
            self.step();
        }
        let landed = self.rails.iter().map(|rail| rail.landed).fold(self.now, f64::max);
        self.pass_until(landed);
        self.now - start
    }

    /// Lets nothing happen for so long.
    pub(crate) fn rest(&mut self, nanoseconds: f64) {
        self.pass_until(self.now + nanoseconds);
    }

    /// How long the rails take together at least, from now on, with full windows of the longest messages.
    pub(crate) fn ideal(&self, bytes: u64) -> f64 {
        let (mut now, mut left) = (self.now, bytes as f64);
        loop {
            let speed: f64 =
                self.rails.iter().filter(|rail| rail.lives).map(|rail| rail.model.does_at(now)).sum();
            let change =
                self.rails.iter().map(|rail| rail.model.next_change(now)).fold(f64::INFINITY, f64::min);
            if left <= speed * (change - now) {
                let latency = self.rails.iter().map(|rail| rail.model.latency).fold(f64::INFINITY, f64::min);
                return now + left / speed + latency - self.now;
            }
            left -= speed * (change - now);
            now = change;
        }
    }

    /// From now on a rail is as fast as this.
    pub(crate) fn change(&mut self, rail: usize, speed: Speed) {
        self.rails[rail].model.speeds = vec![(0.0, speed)];
    }

    /// A rail is gone, and what was on it is nobody's matter here.
    pub(crate) fn lose(&mut self, rail: usize) {
        self.striper.lost(RailIndex(rail as u8));
        let rail = &mut self.rails[rail];
        rail.lives = false;
        rail.reports.clear();
        rail.channels.iter_mut().for_each(|channel| *channel = Channel::default());
    }

    /// Bytes that each rail has carried.
    pub(crate) fn carried(&self) -> Vec<u64> {
        self.rails.iter().map(|rail| rail.carried).collect()
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.now as u64)
    }

    fn give(&mut self, mut left: u64) -> u64 {
        while let Some(choice) = self.striper.choose(self.time(), left) {
            let rail = &mut self.rails[usize::from(choice.rail.0)];
            assert!(choice.bytes > 0 && choice.bytes <= rail.model.max_message, "{choice:?}");
            assert!(rail.in_flight < rail.model.max_sends, "{choice:?}: no room");
            assert!(rail.lives, "{choice:?}: it is gone");
            let bytes = u64::from(choice.bytes.min(self.most)).min(left) as u32;
            left -= u64::from(bytes);
            self.messages += 1;
            rail.send(self.now, bytes);
            let now = self.time();
            self.striper.started(now, choice.rail, bytes);
        }
        left
    }

    /// Until something has happened, and says what has ended.
    fn step(&mut self) {
        let next = self.rails.iter().map(|rail| rail.next(self.now)).fold(f64::INFINITY, f64::min);
        assert!(next.is_finite(), "nothing will ever happen");
        let seen = if self.round > 0.0 { (next / self.round).ceil() * self.round } else { next };
        self.pass_until(seen.max(self.now));
        let now = self.time();
        for (index, rail) in self.rails.iter_mut().enumerate() {
            let mut still = Vec::new();
            for (at, bytes) in rail.reports.drain(..) {
                if at <= self.now + HAIR {
                    rail.in_flight -= 1;
                    rail.bytes_in_flight -= u64::from(bytes);
                    self.striper.ended(now, RailIndex(index as u8), bytes);
                } else {
                    still.push((at, bytes));
                }
            }
            rail.reports = still;
        }
    }

    fn pass_until(&mut self, end: f64) {
        loop {
            // What waits to be reported does not move by itself.
            let next = self.rails.iter().map(|rail| rail.next(self.now));
            let next = next.filter(|next| *next > self.now).fold(end, f64::min);
            for rail in &mut self.rails {
                rail.pass(self.now, next);
            }
            self.now = next;
            if next >= end {
                break;
            }
        }
    }
}
