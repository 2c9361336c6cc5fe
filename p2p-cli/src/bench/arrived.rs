//! Which messages of a pass have arrived, as both ends keep it and one tells the other.

use super::back::BACK_BYTES;

/// Messages after the oldest missing one that can be told apart.
pub(super) const REACH: u64 = (WORDS * 64) as u64;
const WORDS: usize = (BACK_BYTES - 8) / 8;

/// A set of message numbers: all below one, and some of those after it, which messages over several channels
/// or rails may overtake.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrived {
    /// The first that is missing.
    oldest: u64,
    total: u64,
    /// Number n at bit n modulo [`REACH`].
    later: [u64; WORDS],
}

impl Arrived {
    /// Messages in the set.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The first message that is missing.
    pub(super) const fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Adds a message less than [`REACH`] after the oldest missing one. False if it was there.
    pub(super) fn add(&mut self, number: u64) -> bool {
        if number < self.oldest || self.has_later(number) {
            return false;
        }
        let (word, bit) = place(number);
        self.later[word] |= bit;
        self.total += 1;
        while self.has_later(self.oldest) {
            let (word, bit) = place(self.oldest);
            self.later[word] &= !bit;
            self.oldest += 1;
        }
        true
    }

    /// Calls `each` with the messages that the other end says arrived and that are not in this set.
    pub(super) fn missing(&self, told: &Self, mut each: impl FnMut(u64)) {
        for number in self.oldest..told.oldest {
            if !self.has_later(number) {
                each(number);
            }
        }
        for (word, bits) in told.later.iter().enumerate() {
            let mut left = *bits;
            while left != 0 {
                let at = (word * 64) as u64 + u64::from(left.trailing_zeros());
                left &= left - 1;
                let number = told.oldest + (at + REACH - told.oldest % REACH) % REACH;
                if number >= self.oldest && !self.has_later(number) {
                    each(number);
                }
            }
        }
    }

    pub(super) fn to_bytes(&self) -> [u8; BACK_BYTES] {
        let mut bytes = [0; BACK_BYTES];
        let words = [self.oldest].into_iter().chain(self.later);
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        bytes
    }

    /// What the other end told. Its total is not.
    pub(super) fn from_bytes(bytes: &[u8; BACK_BYTES]) -> Self {
        let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let oldest = words.next().unwrap_or(0);
        Self { oldest, total: 0, later: std::array::from_fn(|_| words.next().unwrap_or(0)) }
    }

    const fn has_later(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.later[word] & bit != 0
    }
}

const fn place(number: u64) -> (usize, u64) {
    let at = number % REACH;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::{Arrived, REACH};

    fn told(one: &Arrived, other: &Arrived) -> Vec<u64> {
        let mut found = Vec::new();
        one.missing(&Arrived::from_bytes(&other.to_bytes()), |number| found.push(number));
        found.sort_unstable();
        found
    }

    #[test]
    fn what_overtakes_is_kept_until_the_oldest_comes() {
        let mut here = Arrived::default();
        for number in [0, 2, 3, 70] {
            assert!(here.add(number));
        }
        assert_eq!((here.oldest(), here.total()), (1, 4));
        assert!(!here.add(0) && !here.add(70));
        assert!(here.add(1));
        assert_eq!((here.oldest(), here.total()), (4, 5));
    }

    #[test]
    fn the_other_end_learns_each_message_once_whatever_comes_late() {
        // Messages in a fixed disorder, told after each; every third tale is lost until a later one, and every
        // fifth comes twice.
        let (mut here, mut there) = (Arrived::default(), Arrived::default());
        let mut learned = Vec::new();
        let mut late = Arrived::default();
        for step in 0..3 * REACH {
            let number = step ^ 1;
            assert!(here.add(number));
            if step % 3 != 0 {
                for tale in [&here, &late] {
                    for number in told(&there, tale) {
                        assert!(there.add(number));
                        learned.push(number);
                    }
                }
            }
            if step % 5 == 0 {
                late = here.clone();
            }
        }
        for number in told(&there, &here) {
            assert!(there.add(number));
            learned.push(number);
        }
        learned.sort_unstable();
        assert_eq!(learned, (0..3 * REACH).collect::<Vec<_>>());
        assert_eq!((there.oldest(), there.total()), (3 * REACH, 3 * REACH));
    }

    #[test]
    fn the_farthest_message_is_told_apart_from_the_oldest() {
        let mut here = Arrived::default();
        for number in 0..REACH + 7 {
            assert!(here.add(number));
        }
        let far = here.oldest() + REACH - 1;
        assert!(here.add(far));
        let mut there = Arrived::default();
        assert!((0..REACH).all(|number| there.add(number)));
        assert_eq!(told(&there, &here), [(REACH..REACH + 7).collect(), vec![far]].concat());
    }
}
