//! Numbers that nobody can guess.

use hmac::{Hmac, KeyInit, Mac};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;

/// A sequence of numbers made of one seed from the system, so that only its beginning can fail.
pub(crate) struct Unguessable {
    seed: [u8; 32],
    given: u64,
}

impl Unguessable {
    /// # Errors
    ///
    /// What the system says: a kernel or a sandbox without `getrandom`.
    pub(crate) fn new() -> Result<Self, Errno> {
        let mut seed = [0; 32];
        let mut filled = 0;
        while filled < seed.len() {
            match getrandom(&mut seed[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { seed, given: 0 })
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.given += 1;
        // HMAC takes a key of any length.
        let Ok(mut keyed) = Hmac::<Sha256>::new_from_slice(&self.seed) else { return 0 };
        keyed.update(&self.given.to_le_bytes());
        let digest = keyed.finalize().into_bytes();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::Unguessable;
    use std::collections::BTreeSet;

    #[test]
    fn no_number_comes_twice_and_no_sequence_is_another() {
        let mut sequences =
            [Unguessable::new(), Unguessable::new()].map(|made| made.expect("a random system"));
        let numbers: BTreeSet<u64> =
            sequences.iter_mut().flat_map(|one| (0..1000).map(|_| one.next()).collect::<Vec<_>>()).collect();
        assert_eq!(numbers.len(), 2000);
        assert!(!numbers.contains(&0));
    }
}
