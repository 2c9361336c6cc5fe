//! Bytes that tell one message from every other, and their check.
//!
//! Word `i` of a message is a mix of the message's seed and `i`, so any part of a message can be made or
//! checked by itself, eight bytes at a time. A message whose length is no multiple of eight ends in the
//! first bytes of its last word.

const WORD: usize = size_of::<u64>();
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: u64 = 0xd6e8_feb8_6659_fd93;

/// The first byte that is not what was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mismatch {
    /// Position in the message, in bytes.
    pub offset: usize,
    /// What was sent.
    pub expected: u8,
    /// What is there.
    pub found: u8,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, expected, found } = self;
        write!(f, "byte {offset} is {found:#04x} instead of {expected:#04x}")
    }
}

impl std::error::Error for Mismatch {}

/// The seed of message `number` on `channel` in a run with `run` as its seed.
pub const fn seed(run: u64, channel: usize, number: u64) -> u64 {
    mix(run ^ mix(channel as u64 + 1).wrapping_add(number.wrapping_mul(MIX)))
}

/// Fills `part` with the bytes from `offset` on of the message that has `seed`.
///
/// # Panics
///
/// `offset` is no multiple of eight.
pub fn fill(part: &mut [u8], seed: u64, offset: usize) {
    let mut at = first_word(offset);
    let (words, tail) = part.as_chunks_mut::<WORD>();
    for bytes in words {
        *bytes = word(seed, at).to_le_bytes();
        at += 1;
    }
    let rest = word(seed, at).to_le_bytes();
    tail.copy_from_slice(&rest[..tail.len()]);
}

/// Checks that `part` holds the bytes from `offset` on of the message that has `seed`.
///
/// # Errors
///
/// The first byte that differs; its position counts from the message's start.
///
/// # Panics
///
/// `offset` is no multiple of eight.
pub fn check(part: &[u8], seed: u64, offset: usize) -> Result<(), Mismatch> {
    let mut at = first_word(offset);
    let (words, tail) = part.as_chunks::<WORD>();
    let differs = |position: usize, found: &[u8], expected: [u8; WORD]| {
        let byte = found.iter().zip(expected).position(|(found, expected)| *found != expected)?;
        Some(Mismatch { offset: offset + position + byte, expected: expected[byte], found: found[byte] })
    };
    for (index, bytes) in words.iter().enumerate() {
        let expected = word(seed, at);
        if u64::from_le_bytes(*bytes) != expected {
            return differs(index * WORD, bytes, expected.to_le_bytes()).map_or(Ok(()), Err);
        }
        at += 1;
    }
    differs(words.len() * WORD, tail, word(seed, at).to_le_bytes()).map_or(Ok(()), Err)
}

/// Overwrites `part` with the opposite of what [`fill`] would write, so that a byte that nobody wrote is
/// wrong for certain.
///
/// # Panics
///
/// `offset` is no multiple of eight.
pub fn poison(part: &mut [u8], seed: u64, offset: usize) {
    fill(part, seed, offset);
    for byte in part {
        *byte = !*byte;
    }
}

const fn first_word(offset: usize) -> u64 {
    assert!(offset.is_multiple_of(WORD), "a part of a message begins at a whole word");
    (offset / WORD) as u64
}

const fn word(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(index.wrapping_mul(STEP)))
}

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 32)).wrapping_mul(MIX);
    value ^ (value >> 32)
}

#[cfg(test)]
mod tests {
    use super::{Mismatch, check, fill, poison, seed};

    #[test]
    fn what_is_filled_checks_at_every_length() {
        for length in 0..200 {
            let mut bytes = vec![0; length];
            fill(&mut bytes, 7, 0);
            assert_eq!(check(&bytes, 7, 0), Ok(()), "length {length}");
        }
    }

    #[test]
    fn every_single_wrong_byte_is_named() {
        for length in [1, 7, 8, 9, 64, 101] {
            let mut good = vec![0; length];
            fill(&mut good, 9, 0);
            for offset in 0..length {
                let mut bytes = good.clone();
                bytes[offset] ^= 1;
                let wrong = Mismatch { offset, expected: good[offset], found: good[offset] ^ 1 };
                assert_eq!(check(&bytes, 9, 0), Err(wrong));
            }
        }
    }

    #[test]
    fn parts_are_the_whole() {
        let mut whole = vec![0; 1003];
        fill(&mut whole, 3, 0);
        for offset in (0..whole.len()).step_by(8) {
            assert_eq!(check(&whole[offset..], 3, offset), Ok(()));
            let mut part = vec![0; whole.len() - offset];
            fill(&mut part, 3, offset);
            assert_eq!(part, whole[offset..]);
        }
        let moved = check(&whole[8..], 3, 0).expect_err("shifted by a word");
        assert_eq!(moved.offset, 0, "{moved}");
    }

    #[test]
    fn a_poisoned_byte_is_never_right() {
        for length in [1, 8, 1001] {
            let mut good = vec![0; length];
            fill(&mut good, 5, 0);
            let mut bytes = good.clone();
            poison(&mut bytes, 5, 0);
            assert!(good.iter().zip(&bytes).all(|(good, bad)| good != bad));
        }
    }

    #[test]
    fn messages_have_seeds_of_their_own() {
        let mut seeds: Vec<u64> =
            (0..4).flat_map(|channel| (0..1000).map(move |number| seed(1, channel, number))).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 4000);
        assert_ne!(seed(1, 0, 0), seed(2, 0, 0));
    }
}
