//! Verified passes of everything, and the connections below the endpoints over sizes and channels.

use std::time::{Duration, Instant};

use super::Options;
use super::endpoints::Way;
use super::figures::Entry;
use super::live::Live;
use super::placement::Placement;
use super::plan::{self, COMPARED, ENDPOINT_IN_FLIGHT, IN_FLIGHT, Plan, SLICE};
use super::report::Report;
use super::session::Session;
use super::text::{counted, human};
use super::words::{Command, Shape};
use crate::failure::Failure;

/// Verified messages of an endpoint have fewer bytes together, unless one has more.
const VERIFIED: usize = 256 << 20;

/// Every combination to be measured: channels and size.
fn combinations(options: &Options) -> Vec<(usize, usize)> {
    let channels = options.channels.iter().copied();
    channels
        .flat_map(|channels| options.sizes.iter().map(move |size| (usize::from(channels), *size)))
        .collect()
}

impl Session {
    /// Moves messages of every kind and checks every byte. Returns how many there were.
    pub(super) fn verify(&mut self, options: &Options, live: &Live) -> Result<u64, Failure> {
        live.phase("verifying every byte");
        let mut verified = 0;
        for (channels, size) in combinations(options) {
            live.step(&format!("{} over {}", human(size), counted(channels, "channel")));
            let messages = plan::verified_messages(size, self.lanes(channels));
            let pass = self.pass(size, channels, messages, true);
            self.run(&pass)?;
            verified += messages;
        }
        self.scattered(1, IN_FLIGHT + 1, true)?;
        let mut sizes = options.sizes.clone();
        sizes.extend([1, COMPARED]);
        sizes.sort_unstable();
        sizes.dedup();
        for way in [Way::Write, Way::Read] {
            for size in &sizes {
                live.step(&format!("{} between endpoints", human(*size)));
                verified += self.verify_endpoint(way, *size, Shape::Contiguous)?;
            }
            verified += self.verify_endpoint(way, COMPARED, Shape::Scattered(SLICE))?;
        }
        Ok(verified)
    }

    /// Moves messages between the endpoints and checks every byte. Returns how many there were.
    fn verify_endpoint(&mut self, way: Way, size: usize, shape: Shape) -> Result<u64, Failure> {
        let messages = ((VERIFIED / size) as u64).clamp(1, ENDPOINT_IN_FLIGHT + 1);
        let mut pass = self.endpoint_pass(size, messages);
        pass.shape = shape;
        let placement = Placement::new(self.region.len(), size, shape);
        let slots = 0..pass.messages.min(placement.slots());
        match way {
            Way::Write => {
                self.ask(&Command::Poison(pass))?;
                slots.clone().try_for_each(|slot| self.content.fill(&pass, &placement, slot))?;
                self.active.run(way, &pass, &placement)?;
                self.ask(&Command::Check(pass))?;
            }
            Way::Read => {
                self.ask(&Command::Fill(pass))?;
                slots.clone().try_for_each(|slot| self.content.poison(&pass, &placement, slot))?;
                self.active.run(way, &pass, &placement)?;
                slots.clone().try_for_each(|slot| self.content.check(&pass, &placement, slot))?;
            }
        }
        Ok(pass.messages)
    }

    /// The connections over every size and number of channels, in the time up to the end of the plan's matrix.
    pub(super) fn matrix(
        &mut self,
        options: &Options,
        plan: &Plan,
        began: Instant,
        live: &Live,
        report: &mut Report,
    ) -> Result<(), Failure> {
        live.phase("timing messages over channels");
        let combinations = combinations(options);
        let left = plan.matrix.saturating_sub(began.elapsed());
        for (index, (channels, size)) in combinations.iter().enumerate() {
            let each = plan.matrix.saturating_sub(began.elapsed()).max(left / 20)
                / (combinations.len() - index) as u32;
            live.step(&format!("{} over {}", human(*size), counted(*channels, "channel")));
            report.entries.push(self.timed(*size, *channels, each)?);
        }
        Ok(())
    }

    /// A timed pass of about `time`, after a short one that says how many messages that is.
    fn timed(&mut self, size: usize, channels: usize, time: Duration) -> Result<Entry, Failure> {
        let few = self.pass(size, channels, 2 * plan::in_flight(size, self.lanes(channels)), false);
        let first = self.run(&few)?;
        // Writing, poisoning and checking what is rotated over takes about as long as three transfers of it.
        let messages = plan::timed_messages(few.messages, first.time, time / 2);
        if messages <= few.messages {
            return Ok(first.entry);
        }
        let pass = self.pass(size, channels, messages, false);
        Ok(self.run(&pass)?.entry)
    }

    /// The compared bytes in slices all over the region; `None` where the plugin takes no lists.
    pub(super) fn scattered(
        &mut self,
        channels: usize,
        messages: u64,
        verified: bool,
    ) -> Result<Option<Entry>, Failure> {
        // As few messages as the plugin's lists allow.
        let pieces = COMPARED / SLICE;
        let most = self.link.max_slices();
        if most < 2 {
            return Ok(None);
        }
        let cuts = pieces.div_ceil(most).next_power_of_two();
        let mut pass = self.pass(COMPARED / cuts, channels, messages * cuts as u64, verified);
        pass.shape = Shape::Scattered(SLICE);
        Ok(Some(self.run(&pass)?.entry))
    }
}
