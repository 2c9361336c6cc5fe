//! One pass: the messages of one size over some channels, sent, received, acknowledged.
//!
//! Message k travels over rail k modulo their number and lies in slot k modulo the number of slots, at both
//! ends. The receiver tells which messages have arrived so far, on the way back. Timed and verified passes run
//! through the same code; a verified one writes and checks inside it.

use std::time::Duration;

use benches::cpu_time;
use benches::statistics::Latencies;

use super::arrived::{Arrived, REACH};
use super::back::{BACK_BYTES, BackSlot};
use super::content::Content;
use super::link::{Link, Work};
use super::placement::{Placement, Range};
use super::text::counted;
use super::words::Pass;
use crate::failure::Failure;

/// What one end saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) time: Duration,
    pub(super) cpu: Duration,
    /// From submission to acknowledgement; empty at the receiver.
    pub(super) latencies: Latencies,
}

/// How far ahead of the oldest unfinished message an end may go.
fn reach(pass: &Pass, placement: &Placement) -> u64 {
    let lanes = (pass.channels * pass.nics) as u64;
    (pass.in_flight * 2).max(lanes).min(placement.slots()).min(REACH)
}

/// Messages of a timed pass that are written, poisoned or checked outside of it.
fn outside(pass: &Pass, placement: &Placement) -> std::ops::Range<u64> {
    0..if pass.verified { 0 } else { pass.messages.min(placement.slots()) }
}

/// Writes what a timed pass sends.
pub(super) fn prepare_send(content: &mut Content, pass: &Pass, placement: &Placement) -> Result<(), Failure> {
    outside(pass, placement).try_for_each(|slot| content.fill(pass, placement, slot))
}

/// Poisons what a timed pass receives into.
pub(super) fn prepare_receive(
    content: &mut Content,
    pass: &Pass,
    placement: &Placement,
) -> Result<(), Failure> {
    outside(pass, placement).try_for_each(|slot| content.poison(pass, placement, slot))
}

/// Checks what lies in the slots after a timed pass.
pub(super) fn check_received(
    content: &mut Content,
    pass: &Pass,
    placement: &Placement,
) -> Result<(), Failure> {
    outside(pass, placement).try_for_each(|slot| content.check(pass, placement, slot))
}

fn group(link: &Link, pass: &Pass) -> Result<usize, Failure> {
    let none = || Failure::new(format!("there is no connection of {}", counted(pass.channels, "channel")));
    link.group(pass.channels).ok_or_else(none)
}

/// The rail of a message, and the parts of the region where it lies.
fn place(pass: &Pass, placement: &Placement, number: u64) -> (usize, impl Iterator<Item = Range> + use<>) {
    ((number % pass.nics as u64) as usize, placement.ranges(number % placement.slots()))
}

/// Sends every message of a pass and waits until all are acknowledged.
pub(super) struct Sending<'a> {
    content: &'a mut Content,
    pass: &'a Pass,
    placement: &'a Placement,
    group: usize,
    reach: u64,
    posted: u64,
    filled: u64,
    /// Sends that the transport reported.
    ended: u64,
    arrived: Arrived,
    begin: Duration,
    cpu: Duration,
    started: Vec<Duration>,
    latencies: Latencies,
    /// Until the last acknowledgement.
    time: Option<(Duration, Duration)>,
}

impl<'a> Sending<'a> {
    /// Time counts from here.
    pub(super) fn new(
        link: &Link,
        content: &'a mut Content,
        pass: &'a Pass,
        placement: &'a Placement,
    ) -> Result<Self, Failure> {
        let reach = reach(pass, placement);
        let (begin, cpu) = (link.now(), cpu_time::process());
        Ok(Self {
            content,
            pass,
            placement,
            group: group(link, pass)?,
            reach,
            posted: 0,
            filled: 0,
            ended: 0,
            arrived: Arrived::default(),
            begin,
            cpu,
            started: vec![begin; reach as usize],
            latencies: Latencies::with_capacity(pass.messages as usize),
            time: None,
        })
    }

    pub(super) fn seen(self) -> Seen {
        let (time, cpu) = self.time.unwrap_or_default();
        Seen { time, cpu, latencies: self.latencies }
    }

    fn hear(&mut self, told: &Arrived, now: Duration) -> Result<(), Failure> {
        let Self { arrived, posted, latencies, started, reach, .. } = self;
        let mut strange = told.oldest() > *posted;
        if !strange {
            let before = arrived.clone();
            before.missing(told, |number| {
                if number >= *posted {
                    strange = true;
                } else if arrived.add(number) {
                    latencies.add(now.saturating_sub(started[(number % *reach) as usize]));
                }
            });
        }
        if strange {
            return Err(Failure::new("WRONG DATA: the other end acknowledged what was never sent"));
        }
        Ok(())
    }
}

impl Work for Sending<'_> {
    fn submit(&mut self, link: &mut Link) -> Result<(), Failure> {
        let Self { pass, placement, .. } = *self;
        while self.posted < pass.messages
            && self.posted - self.arrived.total() < pass.in_flight
            && self.posted - self.arrived.oldest() < self.reach
        {
            if pass.verified && self.filled == self.posted {
                self.content.fill(pass, placement, self.posted)?;
                self.filled += 1;
            }
            let now = link.now();
            let (rail, ranges) = place(pass, placement, self.posted);
            if !link.send(self.group, rail, self.posted, ranges)? {
                break;
            }
            self.started[(self.posted % self.reach) as usize] = now;
            self.posted += 1;
        }
        Ok(())
    }

    fn message_ended(&mut self, _: &mut Link, _: u64, _: u32) -> Result<(), Failure> {
        self.ended += 1;
        Ok(())
    }

    fn back_ended(&mut self, link: &mut Link, slot: BackSlot, len: u32) -> Result<(), Failure> {
        link.whole(len, BACK_BYTES, BACK_BYTES)?;
        let mut bytes = [0; BACK_BYTES];
        link.read_back(slot, &mut bytes)?;
        let now = link.now();
        self.hear(&Arrived::from_bytes(&bytes), now)?;
        if self.arrived.total() == self.pass.messages && self.time.is_none() {
            self.time = Some((now.saturating_sub(self.begin), cpu_time::process().saturating_sub(self.cpu)));
        }
        link.recv_back(self.group)
    }

    fn is_over(&self, _: &Link) -> bool {
        self.arrived.total() == self.pass.messages && self.ended == self.pass.messages
    }
}

/// Receives every message of a pass and acknowledges each.
pub(super) struct Receiving<'a> {
    content: &'a mut Content,
    pass: &'a Pass,
    placement: &'a Placement,
    group: usize,
    reach: u64,
    posted: u64,
    poisoned: u64,
    arrived: Arrived,
    told: u64,
    begin: Duration,
    cpu: Duration,
}

impl<'a> Receiving<'a> {
    /// Submits the first receives.
    pub(super) fn new(
        link: &mut Link,
        content: &'a mut Content,
        pass: &'a Pass,
        placement: &'a Placement,
    ) -> Result<Self, Failure> {
        let mut receiving = Self {
            content,
            pass,
            placement,
            group: group(link, pass)?,
            reach: reach(pass, placement),
            posted: 0,
            poisoned: 0,
            arrived: Arrived::default(),
            told: 0,
            begin: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        receiving.submit(link)?;
        Ok(receiving)
    }

    /// Time counts from here.
    pub(super) fn begin(&mut self, link: &Link) {
        self.begin = link.now();
        self.cpu = cpu_time::process();
    }

    pub(super) fn seen(self, link: &Link) -> Seen {
        let time = link.now().saturating_sub(self.begin);
        let cpu = cpu_time::process().saturating_sub(self.cpu);
        Seen { time, cpu, latencies: Latencies::default() }
    }
}

impl Work for Receiving<'_> {
    fn submit(&mut self, link: &mut Link) -> Result<(), Failure> {
        let Self { pass, placement, .. } = *self;
        while self.posted < pass.messages && self.posted - self.arrived.oldest() < self.reach {
            if pass.verified && self.poisoned == self.posted {
                self.content.poison(pass, placement, self.posted)?;
                self.poisoned += 1;
            }
            let (rail, ranges) = place(pass, placement, self.posted);
            if !link.recv(self.group, rail, self.posted, ranges)? {
                break;
            }
            self.posted += 1;
        }
        if self.told < self.arrived.total() && link.send_back(self.group, &self.arrived.to_bytes())? {
            self.told = self.arrived.total();
        }
        Ok(())
    }

    fn message_ended(&mut self, link: &mut Link, number: u64, len: u32) -> Result<(), Failure> {
        link.whole(len, self.pass.size, self.pass.size)?;
        if self.pass.verified {
            self.content.check(self.pass, self.placement, number)?;
        }
        self.arrived.add(number);
        Ok(())
    }

    fn is_over(&self, link: &Link) -> bool {
        self.told == self.pass.messages && link.backs_are_over(self.group)
    }
}
