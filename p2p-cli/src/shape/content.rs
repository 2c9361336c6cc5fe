//! What lies in the memory of a pair: written, made wrong, and checked byte by byte.

use benches::pattern;
use p2p_memory::{OutOfBounds, SharedHost};

use crate::failure::Failure;

/// Bytes handled at a time; small enough to stay in the cache, a multiple of eight.
const BLOCK: usize = 64 << 10;

/// A part of a region: offset and length in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// What the bytes of a pair are in a pass.
pub(super) const fn seed(pass: u64, pair: usize) -> u64 {
    pattern::seed(pass, pair, 0)
}

/// Writes the bytes that `seed` makes.
pub(super) fn fill(region: &SharedHost, place: Place, seed: u64) -> Result<(), Failure> {
    write(region, place, |block, at| pattern::fill(block, seed, at))
}

/// Writes bytes none of which is as `seed` makes it.
pub(super) fn poison(region: &SharedHost, place: Place, seed: u64) -> Result<(), Failure> {
    write(region, place, |block, at| pattern::poison(block, seed, at))
}

/// Checks every byte. The text of the failure says where the first wrong one is.
pub(super) fn check(region: &SharedHost, place: Place, seed: u64, what: &str) -> Result<(), Failure> {
    let mut block = vec![0; BLOCK.min(place.bytes)];
    let mut at = 0;
    while at < place.bytes {
        let part = &mut block[..BLOCK.min(place.bytes - at)];
        region.copy_out(place.offset + at, part).map_err(outside)?;
        pattern::check(part, seed, at)
            .map_err(|wrong| Failure::new(format!("WRONG DATA from {what}: {wrong}")))?;
        at += part.len();
    }
    Ok(())
}

fn write(region: &SharedHost, place: Place, make: impl Fn(&mut [u8], usize)) -> Result<(), Failure> {
    let mut block = vec![0; BLOCK.min(place.bytes)];
    let mut at = 0;
    while at < place.bytes {
        let part = &mut block[..BLOCK.min(place.bytes - at)];
        make(part, at);
        region.copy_in(place.offset + at, part).map_err(outside)?;
        at += part.len();
    }
    Ok(())
}

fn outside(error: OutOfBounds) -> Failure {
    Failure::new(format!("a pair lies outside of its region: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Place, check, fill, poison, seed};
    use p2p_memory::SharedHost;

    #[test]
    fn what_is_filled_checks_and_one_changed_byte_is_found() {
        let region = SharedHost::new(300_000).expect("memory");
        let place = Place { offset: 8, bytes: 200_001 };
        let other = Place { offset: 8 + 200_008, bytes: 50_000 };
        fill(&region, place, seed(1, 7)).expect("inside");
        fill(&region, other, seed(1, 8)).expect("inside");
        check(&region, place, seed(1, 7), "a pair").expect("as filled");
        check(&region, place, seed(2, 7), "a pair").expect_err("of another pass");
        let (last, mut byte) = (place.offset + place.bytes - 1, [0]);
        region.copy_out(last, &mut byte).expect("inside");
        region.copy_in(last, &[!byte[0]]).expect("inside");
        let text = check(&region, place, seed(1, 7), "a pair").expect_err("changed").to_string();
        assert!(text.starts_with("WRONG DATA from a pair"), "{text}");
        poison(&region, other, seed(1, 8)).expect("inside");
        let text = check(&region, other, seed(1, 8), "a pair").expect_err("poisoned").to_string();
        assert!(text.contains("byte 0 "), "{text}");
    }
}
