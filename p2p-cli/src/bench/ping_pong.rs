//! Small messages to and fro, over one connection, both ends polling without blocking in the calling thread.

use std::time::Duration;

use benches::raw_tcp::PING_BYTES;
use benches::statistics::Latencies;
use p2p_memory::SharedHost;

use super::back::{BACK_BYTES, BackSlot};
use super::link::{Link, Work};
use super::placement::Range;
use crate::failure::Failure;

/// Messages may lie in this many places of the region, so that one is written while another lies.
const PLACES: u64 = 8;
const PLACE: usize = 4096;
/// The group with the fewest channels, and its first rail.
const GROUP: usize = 0;
const RAIL: usize = 0;

/// Sends messages, each after the answer to the one before it, and times each round trip.
pub(super) struct Calling<'a> {
    region: &'a SharedHost,
    messages: u64,
    /// Messages sent, sends that ended, and answers that came.
    posted: u64,
    ended: u64,
    answered: u64,
    start: Duration,
    latencies: Latencies,
}

impl<'a> Calling<'a> {
    pub(super) fn new(region: &'a SharedHost, messages: u64) -> Self {
        let latencies = Latencies::with_capacity(messages as usize);
        Self { region, messages, posted: 0, ended: 0, answered: 0, start: Duration::ZERO, latencies }
    }

    pub(super) fn latencies(self) -> Latencies {
        self.latencies
    }
}

impl Work for Calling<'_> {
    fn submit(&mut self, link: &mut Link) -> Result<(), Failure> {
        let number = self.posted;
        if number == self.messages || self.answered < number || self.ended < number {
            return Ok(());
        }
        self.region.copy_in(place(number).0, &message(number)).map_err(failed)?;
        self.start = link.now();
        if !link.send(GROUP, RAIL, number, [place(number)].into_iter())? {
            return Err(Failure::new("a connection with nothing under way takes no message"));
        }
        self.posted += 1;
        Ok(())
    }

    fn message_ended(&mut self, _: &mut Link, _: u64, _: u32) -> Result<(), Failure> {
        self.ended += 1;
        Ok(())
    }

    fn back_ended(&mut self, link: &mut Link, slot: BackSlot, len: u32) -> Result<(), Failure> {
        self.latencies.add(link.now().saturating_sub(self.start));
        link.whole(len, PING_BYTES, BACK_BYTES)?;
        let mut answer = [0; PING_BYTES];
        link.read_back(slot, &mut answer)?;
        if answer != message(self.answered) {
            let text = format!("WRONG DATA: answer {} of the ping-pong differs", self.answered);
            return Err(Failure::new(text));
        }
        self.answered += 1;
        link.recv_back(GROUP)
    }

    fn is_over(&self, _: &Link) -> bool {
        self.answered == self.messages && self.ended == self.messages
    }
}

/// Sends back what comes.
pub(super) struct Answering<'a> {
    region: &'a SharedHost,
    messages: u64,
    posted: u64,
    answered: u64,
}

impl<'a> Answering<'a> {
    /// Submits the first receive.
    pub(super) fn new(link: &mut Link, region: &'a SharedHost, messages: u64) -> Result<Self, Failure> {
        let mut answering = Self { region, messages, posted: 0, answered: 0 };
        answering.submit(link)?;
        Ok(answering)
    }
}

impl Work for Answering<'_> {
    fn submit(&mut self, link: &mut Link) -> Result<(), Failure> {
        let number = self.posted;
        if number < self.messages && number == self.answered {
            let posted = link.recv(GROUP, RAIL, number, [place(number)].into_iter())?;
            self.posted += u64::from(posted);
        }
        Ok(())
    }

    fn message_ended(&mut self, link: &mut Link, number: u64, len: u32) -> Result<(), Failure> {
        link.whole(len, PING_BYTES, PING_BYTES)?;
        let mut message = [0; PING_BYTES];
        self.region.copy_out(place(number).0, &mut message).map_err(failed)?;
        if !link.send_back(GROUP, &message)? {
            return Err(Failure::new("a connection with nothing under way takes no answer"));
        }
        self.answered += 1;
        Ok(())
    }

    fn is_over(&self, link: &Link) -> bool {
        self.answered == self.messages && link.backs_are_over(GROUP)
    }
}

const fn place(number: u64) -> Range {
    ((number % PLACES) as usize * PLACE, PING_BYTES)
}

const fn message(number: u64) -> [u8; PING_BYTES] {
    [number as u8; PING_BYTES]
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}
