//! A set of positions, of which the next one is found without looking at the others.

/// See the module documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// Makes room for positions below `count`.
    pub(crate) fn grow(&mut self, count: usize) {
        if self.0.len() * 64 < count {
            self.0.resize(count.div_ceil(64), 0);
        }
    }

    /// Puts a position in, for which there must be room.
    #[inline]
    pub(crate) fn set(&mut self, position: usize) {
        if let Some(word) = self.0.get_mut(position / 64) {
            *word |= 1 << (position % 64);
        }
    }

    pub(crate) fn clear(&mut self, position: usize) {
        if let Some(word) = self.0.get_mut(position / 64) {
            *word &= !(1 << (position % 64));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The first position that is not below `from`.
    #[inline]
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        let mut at = from / 64;
        let mut word = self.0.get(at)? & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = *self.0.get(at)?;
        }
        Some(at * 64 + word.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(steps in proptest::collection::vec((0..200_usize, any::<bool>()), 0..60)) {
            let (mut bits, mut oracle) = (Bits::default(), BTreeSet::new());
            bits.grow(200);
            for (position, put) in steps {
                if put {
                    bits.set(position);
                    oracle.insert(position);
                } else {
                    bits.clear(position);
                    oracle.remove(&position);
                }
            }
            let mut found = BTreeSet::new();
            let mut from = 0;
            while let Some(position) = bits.next(from) {
                found.insert(position);
                from = position + 1;
            }
            prop_assert_eq!(bits.is_empty(), oracle.is_empty());
            prop_assert_eq!(found, oracle);
        }
    }
}
