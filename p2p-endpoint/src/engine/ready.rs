//! The word between the handshake and the frames of a link: the speaker's rails are up, and so many slices it takes
//! for a message on each.
//!
//! Its bytes are the number of rails and that many numbers of slices, each `u16`, little-endian. It comes once.

use bytes::{Buf, BytesMut};

/// Most rails of a link.
pub(super) const MOST_RAILS: usize = 64;

/// Puts the word at the end of `into`.
pub(super) fn say(slices: &[u16], into: &mut BytesMut) {
    into.extend_from_slice(&(slices.len() as u16).to_le_bytes());
    for slices in slices {
        into.extend_from_slice(&slices.to_le_bytes());
    }
}

/// Takes the word from the front of what came; `None` until all of it is there.
///
/// # Errors
///
/// What is wrong with it: another number of rails than both ends agreed on, or a rail that takes nothing.
pub(super) fn hear(came: &mut BytesMut, rails: usize) -> Result<Option<Vec<u16>>, &'static str> {
    let Some(count) = came.first_chunk::<2>() else { return Ok(None) };
    if usize::from(u16::from_le_bytes(*count)) != rails {
        return Err("it has another number of rails than was agreed");
    }
    if came.len() < 2 + 2 * rails {
        return Ok(None);
    }
    came.advance(2);
    let slices: Vec<u16> = (0..rails).map(|_| came.get_u16_le()).collect();
    if slices.contains(&0) {
        return Err("it has a rail that takes no slice");
    }
    Ok(Some(slices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_arrives_in_any_pieces_and_leaves_what_follows() {
        let mut whole = BytesMut::new();
        say(&[1, 4096], &mut whole);
        whole.extend_from_slice(b"frames");
        for cut in 0..6 {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(hear(&mut part, 2), Ok(None));
            assert_eq!(part.len(), cut);
        }
        assert_eq!(hear(&mut whole, 2), Ok(Some(vec![1, 4096])));
        assert_eq!(whole, b"frames"[..]);
    }

    #[test]
    fn a_wrong_word_is_refused() {
        let mut word = BytesMut::new();
        say(&[1, 0], &mut word);
        assert!(hear(&mut word.clone(), 3).is_err());
        assert!(hear(&mut word, 2).is_err());
    }
}
