//! Memory of one end, as regions of bytes, and what opens it.

use p2p_proto::frame::Refusal;
use p2p_proto::id::{LocalRegion, RegionKey};
use p2p_proto::list::{LocalRange, RemoteRange};
use p2p_proto::peer::Exports;

use crate::random::Random;

/// What is in memory that nothing was written to.
const CANARY: u8 = 0xee;

/// Regions of one end; each belongs to one transfer.
#[derive(Default)]
pub(crate) struct Memory {
    regions: Vec<Region>,
    /// Regions that were taken back.
    pub(crate) gone: Vec<LocalRegion>,
}

struct Region {
    bytes: Vec<u8>,
    /// As it was in the beginning.
    before: Vec<u8>,
    /// Which bytes may change.
    open: Vec<bool>,
}

impl Memory {
    /// Ranges of together `total` bytes in up to two new regions, cut anywhere, with gaps between them, in any order.
    /// Of a destination only the ranges may change; a source has its own bytes, and nothing of it may.
    pub(crate) fn lay_out(
        &mut self,
        random: &mut Random,
        total: u64,
        pieces: usize,
        source: bool,
    ) -> Vec<LocalRange> {
        let first = self.regions.len() as u32;
        let regions = 1 + random.below(2) as u32;
        let mut ends = vec![random.below(8); regions as usize];
        let mut ranges = Vec::new();
        let mut left = total;
        for piece in (0..pieces.max(1) as u64).rev() {
            let len = if piece == 0 { left } else { random.below(2 * left / (piece + 1) + 1).min(left) };
            left -= len;
            let place = random.below(u64::from(regions)) as usize;
            let gap = if random.chance(2) { 0 } else { 1 + random.below(16) };
            if len > 0 {
                let region = LocalRegion(first + place as u32);
                ranges.push(LocalRange { region, offset: ends[place] + gap, len });
                ends[place] += gap + len;
            }
        }
        for end in ends {
            let length = (end + random.below(8)) as usize;
            let bytes: Vec<u8> = if source {
                (0..length).map(|_| random.next() as u8).collect()
            } else {
                vec![CANARY; length]
            };
            self.regions.push(Region { before: bytes.clone(), bytes, open: vec![false; length] });
        }
        if random.chance(3) {
            ranges.reverse();
        }
        if !source {
            for range in &ranges {
                self.regions[range.region.0 as usize].open[span(range)].fill(true);
            }
        }
        ranges
    }

    pub(crate) fn gather(&self, ranges: &[LocalRange]) -> Vec<u8> {
        ranges
            .iter()
            .flat_map(|range| &self.regions[range.region.0 as usize].bytes[span(range)])
            .copied()
            .collect()
    }

    pub(crate) fn scatter(&mut self, ranges: &[LocalRange], mut bytes: &[u8]) {
        for range in ranges {
            let (now, rest) = bytes.split_at(range.len as usize);
            self.regions[range.region.0 as usize].bytes[span(range)].copy_from_slice(now);
            bytes = rest;
        }
        assert!(bytes.is_empty(), "a message is longer than its receive");
    }

    /// Nothing was written where nothing may be.
    pub(crate) fn check(&self) {
        for (index, region) in self.regions.iter().enumerate() {
            let places = region.before.iter().zip(&region.bytes).zip(&region.open);
            let good = places.into_iter().all(|((before, now), open)| *open || before == now);
            assert!(good, "bytes of region {index} changed outside of every transfer");
        }
    }

    /// The same memory, as the other end names it.
    pub(crate) fn advertise(ranges: &[LocalRange]) -> Vec<RemoteRange> {
        let remote =
            |range: &LocalRange| RemoteRange { key: key(range.region), offset: range.offset, len: range.len };
        ranges.iter().map(remote).collect()
    }
}

fn key(region: LocalRegion) -> RegionKey {
    RegionKey { index: region.0, generation: 1, secret: u64::from(region.0) * 7 }
}

fn span(range: &LocalRange) -> std::ops::Range<usize> {
    range.offset as usize..(range.offset + range.len) as usize
}

impl Exports for Memory {
    fn open(&self, asked: RegionKey, offset: u64, len: u64, write: bool) -> Result<LocalRange, Refusal> {
        let region = LocalRegion(asked.index);
        let opens = asked == key(region) && !self.gone.contains(&region);
        let Some(found) = self.regions.get(asked.index as usize).filter(|_| opens) else {
            return Err(Refusal::UnknownKey);
        };
        if offset + len > found.bytes.len() as u64 {
            return Err(Refusal::OutOfRange);
        }
        let open = found.open.get(offset as usize).is_some_and(|open| *open);
        assert!(!write || open, "a write into memory that no transfer of the test writes to");
        Ok(LocalRange { region, offset, len })
    }
}
