//! Where messages lie in the region.

use super::words::Shape;

/// A part of the region: offset and length in bytes.
pub(super) type Range = (usize, usize);

/// Slots of the region for messages of one size and shape. Slots never overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    region: usize,
    size: usize,
    shape: Shape,
}

impl Placement {
    pub(super) const fn new(region: usize, size: usize, shape: Shape) -> Self {
        Self { region, size, shape }
    }

    /// Messages that fit.
    pub(super) const fn slots(&self) -> u64 {
        let slots = match self.shape {
            Shape::Contiguous => self.region / self.size,
            Shape::Scattered(slice) => self.region / slice / self.size.div_ceil(slice),
        };
        slots as u64
    }

    /// The parts of the region that make slot number `slot`, in the order of the message's bytes.
    pub(super) fn ranges(&self, slot: u64) -> impl Iterator<Item = Range> + use<> {
        let Self { region, size, shape } = *self;
        let slice = match shape {
            Shape::Contiguous => size,
            Shape::Scattered(slice) => slice,
        };
        let (blocks, per_message) = (region / slice, size.div_ceil(slice));
        let stride = if shape == Shape::Contiguous { 1 } else { stride(blocks) };
        let first = slot as usize * per_message;
        (0..per_message).map(move |index| {
            let block = (first + index) * stride % blocks;
            (block * slice, slice.min(size - index * slice))
        })
    }
}

/// A step through `blocks` that meets each of them once and leaves no two neighbours together.
fn stride(blocks: usize) -> usize {
    let golden = (blocks as f64 * 0.618) as usize;
    (golden.max(1)..).find(|step| gcd(*step, blocks) == 1).unwrap_or(1)
}

const fn gcd(one: usize, other: usize) -> usize {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use super::{Placement, Shape};

    #[test]
    fn slots_cover_whole_messages_and_never_overlap() {
        let cases = [
            (1 << 20, 1 << 16, Shape::Contiguous),
            (1 << 20, 100_000, Shape::Contiguous),
            (1 << 20, 1 << 18, Shape::Scattered(1 << 14)),
            (1_000_000, 100_000, Shape::Scattered(1 << 12)),
        ];
        for (region, size, shape) in cases {
            let placement = Placement::new(region, size, shape);
            assert!(placement.slots() > 1, "{shape:?}");
            let mut used = vec![false; region];
            for slot in 0..placement.slots() {
                let mut length = 0;
                for (offset, part) in placement.ranges(slot) {
                    length += part;
                    for byte in &mut used[offset..offset + part] {
                        assert!(!*byte, "{shape:?}: slot {slot} overlaps");
                        *byte = true;
                    }
                }
                assert_eq!(length, size);
            }
        }
    }

    #[test]
    fn scattered_slices_are_no_neighbours() {
        let placement = Placement::new(512 << 20, 64 << 20, Shape::Scattered(16 << 10));
        assert_eq!(placement.slots(), 8);
        let offsets: Vec<usize> = placement.ranges(3).map(|(offset, _)| offset).collect();
        assert_eq!(offsets.len(), 4096);
        assert!(offsets.windows(2).all(|pair| pair[0].abs_diff(pair[1]) > 16 << 10));
    }
}
