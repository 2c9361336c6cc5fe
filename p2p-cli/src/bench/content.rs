//! Writing messages into the region, poisoning them, and checking every byte.

use benches::pattern::{self, Mismatch};
use p2p_memory::{OutOfBounds, SharedHost};

use super::placement::{Placement, Range};
use super::words::Pass;
use crate::failure::Failure;

/// Bytes handled at a time; small enough to stay in the cache, a multiple of eight.
const BLOCK: usize = 64 << 10;

/// The region and room to work.
#[derive(Debug)]
pub(super) struct Content {
    region: SharedHost,
    block: Vec<u8>,
    /// The run's seed.
    run: u64,
}

impl Content {
    pub(super) fn new(region: SharedHost, run: u64) -> Self {
        Self { region, block: vec![0; BLOCK], run }
    }

    /// Writes message `number` of a pass into its slot.
    pub(super) fn fill(&mut self, pass: &Pass, placement: &Placement, number: u64) -> Result<(), Failure> {
        let (slot, seed) = self.slot_and_seed(pass, placement, number);
        self.write(placement.ranges(slot), seed, pattern::fill)
    }

    /// Makes every byte of the slot of message `number` wrong.
    pub(super) fn poison(&mut self, pass: &Pass, placement: &Placement, number: u64) -> Result<(), Failure> {
        let (slot, seed) = self.slot_and_seed(pass, placement, number);
        self.write(placement.ranges(slot), seed, pattern::poison)
    }

    /// Checks every byte of message `number`.
    pub(super) fn check(&mut self, pass: &Pass, placement: &Placement, number: u64) -> Result<(), Failure> {
        let (slot, seed) = self.slot_and_seed(pass, placement, number);
        let mut at = 0;
        for (offset, length) in placement.ranges(slot) {
            let mut done = 0;
            while done < length {
                let block = &mut self.block[..BLOCK.min(length - done)];
                self.region.copy_out(offset + done, block).map_err(outside)?;
                pattern::check(block, seed, at).map_err(|wrong| differs(pass, number, &wrong))?;
                done += block.len();
                at += block.len();
            }
        }
        Ok(())
    }

    /// A verified pass gives each message a seed of its own. In a timed one nothing is written between the
    /// messages that share a slot, so the slot has the seed.
    fn slot_and_seed(&self, pass: &Pass, placement: &Placement, number: u64) -> (u64, u64) {
        let slot = number % placement.slots();
        let run = pattern::seed(self.run, 0, pass.number);
        let nic = (number % pass.nics as u64) as usize;
        let seed = if pass.verified { pattern::seed(run, nic, number) } else { pattern::seed(run, 0, slot) };
        (slot, seed)
    }

    fn write(
        &mut self,
        ranges: impl Iterator<Item = Range>,
        seed: u64,
        make: impl Fn(&mut [u8], u64, usize),
    ) -> Result<(), Failure> {
        let mut at = 0;
        for (offset, length) in ranges {
            let mut done = 0;
            while done < length {
                let block = &mut self.block[..BLOCK.min(length - done)];
                make(block, seed, at);
                self.region.copy_in(offset + done, block).map_err(outside)?;
                done += block.len();
                at += block.len();
            }
        }
        Ok(())
    }
}

fn outside(error: OutOfBounds) -> Failure {
    Failure::new(format!("the bench placed a message outside its region: {error}"))
}

fn differs(pass: &Pass, number: u64, wrong: &Mismatch) -> Failure {
    Failure::new(format!(
        "WRONG DATA: message {number} of {} bytes on NIC {} of {}, with {} channels: {wrong}",
        pass.size,
        number % pass.nics as u64,
        pass.nics,
        pass.channels
    ))
}

#[cfg(test)]
mod tests {
    use super::super::words::{Pass, Shape};
    use super::{Content, Placement};
    use p2p_memory::SharedHost;

    const REGION: usize = 1 << 20;

    fn pass(shape: Shape, verified: bool) -> Pass {
        Pass { size: 200_000, shape, channels: 1, nics: 2, messages: 9, in_flight: 3, verified, number: 4 }
    }

    #[test]
    fn a_filled_message_checks_and_a_poisoned_or_changed_one_is_named() {
        for shape in [Shape::Contiguous, Shape::Scattered(4096)] {
            let pass = pass(shape, true);
            let placement = Placement::new(REGION, pass.size, shape);
            let region = SharedHost::new(REGION).expect("memory");
            let mut content = Content::new(region.clone(), 1);
            content.fill(&pass, &placement, 7).expect("it fits");
            content.check(&pass, &placement, 7).expect("as filled");
            let (offset, _) = placement.ranges(7 % placement.slots()).last().expect("a slice");
            region.fill(offset + 5, 1, 0).expect("inside");
            let text = content.check(&pass, &placement, 7).expect_err("changed").to_string();
            assert!(text.starts_with("WRONG DATA: message 7 of 200000 bytes on NIC 1 of 2"), "{text}");
            content.poison(&pass, &placement, 7).expect("it fits");
            assert!(
                content.check(&pass, &placement, 7).expect_err("poisoned").to_string().contains("byte 0 ")
            );
        }
    }

    #[test]
    fn messages_that_share_a_slot_differ_only_where_each_is_verified() {
        let region = SharedHost::new(REGION).expect("memory");
        let mut content = Content::new(region, 1);
        for verified in [true, false] {
            let pass = pass(Shape::Contiguous, verified);
            let placement = Placement::new(REGION, pass.size, pass.shape);
            content.fill(&pass, &placement, 1).expect("it fits");
            let later = content.check(&pass, &placement, 1 + placement.slots());
            assert_eq!(later.is_err(), verified);
        }
    }
}
