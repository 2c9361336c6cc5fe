//! How long the next message may be.

use super::Cursor;

/// What a list and a shape have in common: a row of parts, over which a cursor walks.
pub trait Parts {
    /// Bytes of all parts.
    fn total(&self) -> u64;

    /// Bytes from the cursor to the end of the part that it stands in; 0 only behind the last byte.
    ///
    /// A cursor at the end of a part moves to the start of the next one first.
    fn rest(&self, at: &mut Cursor) -> u64;

    /// Walks on by at most the [`rest`](Self::rest).
    fn walk(&self, at: &mut Cursor, bytes: u64);
}

/// The longest message that comes next: of at most `most_bytes`, over at most `own_slices` parts of this end and
/// `peer_slices` of the other one. A limit of 0 counts as 1. Both cursors, which stand at the same position, walk
/// on behind it.
///
/// It is 0 only where one of the two has no more bytes. It takes a step for each part of either end.
pub fn cut(
    own: &impl Parts,
    own_at: &mut Cursor,
    peer: &impl Parts,
    peer_at: &mut Cursor,
    most_bytes: u32,
    own_slices: u16,
    peer_slices: u16,
) -> u32 {
    let mut room = u64::from(most_bytes.max(1));
    let (mut own_slices, mut peer_slices) = (own_slices.max(1), peer_slices.max(1));
    let (mut own_rest, mut peer_rest) = (own.rest(own_at), peer.rest(peer_at));
    let mut length = 0;
    while own_rest > 0 && peer_rest > 0 {
        let step = own_rest.min(peer_rest).min(room);
        own.walk(own_at, step);
        peer.walk(peer_at, step);
        length += step as u32;
        room -= step;
        own_slices -= u16::from(step == own_rest);
        peer_slices -= u16::from(step == peer_rest);
        if room == 0 || own_slices == 0 || peer_slices == 0 {
            break;
        }
        own_rest = own.rest(own_at);
        peer_rest = peer.rest(peer_at);
    }
    length
}
