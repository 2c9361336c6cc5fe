//! Memory of a simulated workload: blocks in which every byte is accounted for.

use p2p_memory::SharedHost;
use p2p_transport::{RegionId, Slice};

use crate::Random;

/// Bytes of a block, which one operation has to itself.
pub(super) const BLOCK: usize = 512;
pub(super) const BLOCKS: usize = 16;
/// Longest message.
pub(super) const LONGEST: u32 = 400;
/// Most slices of a message; with a gap before each, they fit a block.
pub(super) const SLICES: u64 = 16;
const CANARY: u8 = 0xa5;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BedState {
    Live,
    Retiring,
    Gone,
}

/// A registered region.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) region: RegionId,
    pub(super) nic: u16,
    pub(super) memory: SharedHost,
    pub(super) state: BedState,
    pub(super) free: Vec<usize>,
}

impl Bed {
    pub(super) fn new(region: RegionId, nic: u16, memory: SharedHost) -> Self {
        Self { region, nic, memory, state: BedState::Live, free: (0..BLOCKS).collect() }
    }

    /// Slices of a block for `len` bytes, cut anywhere, with gaps.
    pub(super) fn slices(&self, block: usize, len: u32, random: &mut Random) -> Vec<Slice> {
        let most = if random.one_in(8) { SLICES } else { 3 };
        let count = random.between(1, most);
        let mut left = len;
        let mut offset = (block * BLOCK) as u64;
        (1..=count)
            .map(|index| {
                offset += random.between(1, 6);
                let part = if index == count { left } else { random.between(0, u64::from(left)) as u32 };
                let slice = Slice { region: self.region, offset, len: part };
                left -= part;
                offset += u64::from(part);
                slice
            })
            .collect()
    }

    /// Canaries everywhere in a block.
    pub(super) fn clear(&self, block: usize) {
        // The block lies inside.
        let _ = self.memory.fill(block * BLOCK, BLOCK, CANARY);
    }

    /// The pattern of `uid` in these slices.
    pub(super) fn fill(&self, slices: &[Slice], uid: u64) {
        let total: u32 = slices.iter().map(|slice| slice.len).sum();
        let bytes = pattern(uid, total as usize);
        let mut rest = &bytes[..];
        for slice in slices {
            let (part, after) = rest.split_at(slice.len as usize);
            rest = after;
            let _ = self.memory.copy_in(slice.offset as usize, part);
        }
    }

    /// Whether the slices of a block hold the first bytes of the pattern (`None`: anything), and all the rest
    /// of the block is as [`clear`](Self::clear) left it.
    pub(super) fn holds(
        &self,
        block: usize,
        slices: &[Slice],
        what: Option<(u64, usize)>,
    ) -> Result<(), String> {
        let mut seen = [0; BLOCK];
        let base = block * BLOCK;
        let _ = self.memory.copy_out(base, &mut seen);
        let mut expected = [CANARY; BLOCK];
        let bytes = what.map(|(uid, len)| pattern(uid, len));
        let mut rest = bytes.as_deref().unwrap_or_default();
        for slice in slices {
            let from = slice.offset as usize - base;
            let place = from..from + slice.len as usize;
            let part = rest.len().min(place.len());
            if what.is_none() || part < place.len() {
                // What a shorter message left, and a failed one, may be anything or untouched.
                let free = if what.is_none() { place.clone() } else { place.start + part..place.end };
                expected[free.clone()].copy_from_slice(&seen[free]);
            }
            let (now, after) = rest.split_at(part);
            rest = after;
            expected[from..from + part].copy_from_slice(now);
        }
        match seen.iter().zip(&expected).position(|(seen, expected)| seen != expected) {
            None => Ok(()),
            Some(at) => Err(format!("byte {at} of block {block} is {}, not {}", seen[at], expected[at])),
        }
    }
}

fn pattern(uid: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(uid);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
