//! Messages back: where they lie, and their names.

use p2p_transport::Token;

/// Bytes of the longest message back.
pub(super) const BACK_BYTES: usize = 128;
/// Messages back under way in a group at most.
pub(super) const BACK_SLOTS: usize = 8;
/// One slot on its own cache lines.
const BACK_STRIDE: usize = 256;
/// Bytes of memory that the messages back of one group take.
pub(super) const BACK_MEMORY: usize = BACK_SLOTS * BACK_STRIDE;

/// Marks the token of a message back.
const BACK: u64 = 1 << 63;
const GROUP_SHIFT: u32 = 8;

/// The place of one message back. Over several channels they end in any order, so that a place is free again
/// only when the message that lay there has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BackSlot {
    pub(super) group: usize,
    index: usize,
}

impl BackSlot {
    /// Where it lies in the memory for messages back.
    pub(super) const fn offset(self) -> usize {
        self.group * BACK_MEMORY + self.index * BACK_STRIDE
    }

    pub(super) const fn to_token(self) -> Token {
        Token(BACK | (self.group as u64) << GROUP_SHIFT | self.index as u64)
    }

    /// `None` for the token of another message, which is its number.
    pub(super) const fn of(token: Token) -> Option<Self> {
        if token.0 & BACK == 0 {
            return None;
        }
        let rest = token.0 ^ BACK;
        Some(Self {
            group: (rest >> GROUP_SHIFT) as usize,
            index: (rest & ((1 << GROUP_SHIFT) - 1)) as usize,
        })
    }
}

/// Which places of a group are taken.
#[derive(Debug, Default)]
pub(super) struct BackSlots {
    taken: [bool; BACK_SLOTS],
}

impl BackSlots {
    /// A free place of this group, which is taken from here on.
    pub(super) fn take(&mut self, group: usize) -> Option<BackSlot> {
        let index = self.taken.iter().position(|taken| !taken)?;
        self.taken[index] = true;
        Some(BackSlot { group, index })
    }

    pub(super) fn give(&mut self, slot: BackSlot) {
        self.taken[slot.index] = false;
    }

    /// Whether no message back is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.taken.iter().all(|taken| !taken)
    }
}

#[cfg(test)]
mod tests {
    use super::{BACK_BYTES, BACK_SLOTS, BackSlot, BackSlots};
    use p2p_transport::Token;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the order in which messages end, no two that are under way lie in one place.
        #[test]
        fn no_two_messages_lie_in_one_place(steps in proptest::collection::vec(any::<prop::sample::Index>(), 1..100)) {
            let mut slots = BackSlots::default();
            let mut under_way: Vec<BackSlot> = Vec::new();
            for step in steps {
                prop_assert_eq!(slots.is_empty(), under_way.is_empty());
                match slots.take(3) {
                    Some(slot) => {
                        let clear = |other: &BackSlot| other.offset().abs_diff(slot.offset()) >= BACK_BYTES;
                        prop_assert!(under_way.iter().all(clear));
                        prop_assert_eq!(BackSlot::of(slot.to_token()), Some(slot));
                        under_way.push(slot);
                    }
                    None => {
                        prop_assert_eq!(under_way.len(), BACK_SLOTS);
                        slots.give(under_way.remove(step.index(BACK_SLOTS)));
                    }
                }
            }
        }
    }

    #[test]
    fn other_messages_have_other_names() {
        assert_eq!(BackSlot::of(Token(0)), None);
        assert_eq!(BackSlot::of(Token(u64::MAX >> 1)), None);
    }
}
