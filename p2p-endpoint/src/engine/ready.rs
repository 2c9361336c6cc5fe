//! The word between the handshake and the frames of a link: the speaker's rails are up, and so much each of them takes.
//!
//! Its bytes are the number of rails (`u16`), and for each rail the slices that the speaker takes for a message (`u16`)
//! and the longest message (`u32`), all little-endian. It comes once.

use bytes::{Buf, BytesMut};

/// Bytes for one rail.
const EACH: usize = 6;

/// What an end takes on one rail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Takes {
    /// Slices of a message, at least 1.
    pub(super) slices: u16,
    /// Bytes of a message, at least 1.
    pub(super) message: u32,
}

/// Puts the word at the end of `into`.
pub(super) fn say(rails: &[Takes], into: &mut BytesMut) {
    into.extend_from_slice(&(rails.len() as u16).to_le_bytes());
    for takes in rails {
        into.extend_from_slice(&takes.slices.to_le_bytes());
        into.extend_from_slice(&takes.message.to_le_bytes());
    }
}

/// Takes the word from the front of what came; `None` until all of it is there.
///
/// # Errors
///
/// What is wrong with it: another number of rails than both ends agreed on, or a rail that takes nothing.
pub(super) fn hear(came: &mut BytesMut, rails: usize) -> Result<Option<Vec<Takes>>, &'static str> {
    let Some(count) = came.first_chunk::<2>() else { return Ok(None) };
    if usize::from(u16::from_le_bytes(*count)) != rails {
        return Err("it has another number of rails than was agreed");
    }
    if came.len() < 2 + EACH * rails {
        return Ok(None);
    }
    came.advance(2);
    let takes: Vec<Takes> =
        (0..rails).map(|_| Takes { slices: came.get_u16_le(), message: came.get_u32_le() }).collect();
    if takes.iter().any(|takes| takes.slices == 0 || takes.message == 0) {
        return Err("it has a rail that takes nothing");
    }
    Ok(Some(takes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAILS: [Takes; 2] =
        [Takes { slices: 1, message: 512 << 10 }, Takes { slices: 4096, message: 16 << 20 }];

    #[test]
    fn the_word_arrives_in_any_pieces_and_leaves_what_follows() {
        let mut whole = BytesMut::new();
        say(&RAILS, &mut whole);
        whole.extend_from_slice(b"frames");
        for cut in 0..2 + 2 * EACH {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(hear(&mut part, 2), Ok(None));
            assert_eq!(part.len(), cut);
        }
        assert_eq!(hear(&mut whole, 2), Ok(Some(RAILS.to_vec())));
        assert_eq!(whole, b"frames"[..]);
    }

    #[test]
    fn a_wrong_word_is_refused() {
        for wrong in [Takes { slices: 0, message: 1 }, Takes { slices: 1, message: 0 }] {
            let mut word = BytesMut::new();
            say(&[RAILS[0], wrong], &mut word);
            assert!(hear(&mut word.clone(), 3).is_err());
            assert!(hear(&mut word, 2).is_err());
        }
    }
}
