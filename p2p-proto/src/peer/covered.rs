//! Which bytes of a transfer were announced.

/// Stretches that neither touch nor overlap, in order. Chunks of one transfer are announced rail by rail, so that
/// there are a few at times; in the end there is one.
#[derive(Debug, Default)]
pub(super) struct Covered {
    stretches: Vec<(u64, u64)>,
    bytes: u64,
}

/// Stretches of one transfer at most.
pub(super) const MOST_STRETCHES: usize = 4096;

/// Why a chunk is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Uncovered {
    /// Bytes of it were announced before.
    Twice,
    /// There would be more than [`MOST_STRETCHES`].
    Scattered,
}

impl Covered {
    /// Adds the bytes from `start` to `end`, which is larger.
    pub(super) fn add(&mut self, start: u64, end: u64) -> Result<(), Uncovered> {
        let next = match self.stretches.last() {
            Some(&(_, last)) if last <= start => self.stretches.len(),
            _ => self.stretches.partition_point(|&(from, _)| from < start),
        };
        let before = next.checked_sub(1).map(|index| self.stretches[index]);
        let after = self.stretches.get(next).copied();
        if before.is_some_and(|(_, to)| to > start) || after.is_some_and(|(from, _)| from < end) {
            return Err(Uncovered::Twice);
        }
        let touches_before = before.is_some_and(|(_, to)| to == start);
        match (touches_before, after.is_some_and(|(from, _)| from == end)) {
            (true, true) => {
                self.stretches[next - 1].1 = self.stretches[next].1;
                self.stretches.remove(next);
            }
            (true, false) => self.stretches[next - 1].1 = end,
            (false, true) => self.stretches[next].0 = start,
            (false, false) if self.stretches.len() >= MOST_STRETCHES => return Err(Uncovered::Scattered),
            (false, false) => self.stretches.insert(next, (start, end)),
        }
        self.bytes += end - start;
        Ok(())
    }

    /// Bytes of all stretches.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_single_bytes_say(chunks in prop::collection::vec((0u64..40, 1u64..8), 0..60)) {
            let mut bytes = [false; 64];
            let mut covered = Covered::default();
            for (start, length) in chunks {
                let range = start as usize..(start + length) as usize;
                let free = bytes[range.clone()].iter().all(|taken| !taken);
                prop_assert_eq!(covered.add(start, start + length).is_ok(), free);
                if free {
                    bytes[range].fill(true);
                }
                prop_assert_eq!(covered.bytes(), bytes.iter().filter(|taken| **taken).count() as u64);
                let runs = bytes.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
                prop_assert_eq!(covered.stretches.len(), runs);
            }
        }
    }

    #[test]
    fn scattered_bytes_are_bounded() {
        let mut covered = Covered::default();
        for nth in 0..MOST_STRETCHES as u64 {
            assert_eq!(covered.add(2 * nth, 2 * nth + 1), Ok(()));
        }
        assert_eq!(covered.add(u64::MAX - 1, u64::MAX), Err(Uncovered::Scattered));
        assert_eq!(covered.add(1, 2), Ok(()));
    }
}
