//! Scatter lists: what a plugin that delivers bounce pages says about a finished receive, checked before
//! anything is copied.

use tcpx_sys::device::{LoadMeta, UNPACK_MAX_ENTRIES};

/// Why a scatter list cannot be used. Nothing was copied.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScatterError {
    /// More entries than a slot can hold.
    #[error("a list of {count} entries, of which a slot holds 2048")]
    TooManyEntries {
        /// Entries.
        count: u64,
    },
    /// An entry reaches beyond the posted buffer.
    #[error(
        "entry {entry} puts {length} bytes at {offset} of a buffer of {posted}: the peer sent more than was posted"
    )]
    BeyondBuffer {
        /// Number of the entry.
        entry: usize,
        /// Offset in the posted buffer.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Bytes posted.
        posted: usize,
    },
    /// An entry reaches beyond the bounce buffer.
    #[error("entry {entry} takes {length} bytes from {offset}, beyond the bounce buffer")]
    BeyondBounce {
        /// Number of the entry.
        entry: usize,
        /// Offset in the bounce buffer.
        offset: u32,
        /// Bytes.
        length: u32,
    },
    /// The entries do not cover the message exactly once.
    #[error("the list holds {sum} bytes and ends at {end}: entries overlap or are missing")]
    Gap {
        /// Sum of all lengths.
        sum: u64,
        /// End of the last byte in the posted buffer.
        end: u64,
    },
    /// The list and the size that the plugin reports differ.
    #[error("the list holds {sum} bytes and the plugin reports {reported}")]
    Size {
        /// Sum of all lengths.
        sum: u64,
        /// Size reported by `test`.
        reported: usize,
    },
}

/// The number of entries in a slot, if it can be one.
///
/// # Errors
///
/// [`ScatterError::TooManyEntries`].
pub fn entry_count(count: u64) -> Result<usize, ScatterError> {
    match usize::try_from(count) {
        Ok(entries) if entries <= UNPACK_MAX_ENTRIES => Ok(entries),
        _ => Err(ScatterError::TooManyEntries { count }),
    }
}

/// Checks every entry of a scatter list, and returns the length of the message.
///
/// `posted` is the length of the buffer, `bounce` that of the bounce buffer where it is known, `reported`
/// the size that `test` wrote, if any.
///
/// # Errors
///
/// The first rule that the list breaks.
pub fn check(
    entries: &[LoadMeta],
    posted: usize,
    bounce: Option<u64>,
    reported: Option<usize>,
) -> Result<usize, ScatterError> {
    entry_count(entries.len() as u64)?;
    let (mut sum, mut end) = (0_u64, 0_u64);
    for (number, entry) in entries.iter().enumerate() {
        let &LoadMeta { src_off, len, dst_off } = entry;
        let last = dst_off.checked_add(u64::from(len)).filter(|&last| last <= posted as u64);
        let Some(last) = last else {
            let beyond = ScatterError::BeyondBuffer { entry: number, offset: dst_off, length: len, posted };
            return Err(beyond);
        };
        if bounce.is_some_and(|bounce| u64::from(src_off) + u64::from(len) > bounce) {
            return Err(ScatterError::BeyondBounce { entry: number, offset: src_off, length: len });
        }
        sum += u64::from(len);
        end = end.max(last);
    }
    if sum != end {
        return Err(ScatterError::Gap { sum, end });
    }
    match reported {
        Some(reported) if reported as u64 != sum => Err(ScatterError::Size { sum, reported }),
        _ => Ok(sum as usize),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(src_off: u32, len: u32, dst_off: u64) -> LoadMeta {
        LoadMeta { src_off, len, dst_off }
    }

    #[test]
    fn the_sum_of_an_unsorted_list_is_the_length() {
        let list = [entry(8192, 100, 4096), entry(0, 4096, 0)];
        assert_eq!(check(&list, 8192, None, None), Ok(4196));
        assert_eq!(check(&list, 4196, Some(8292), Some(4196)), Ok(4196));
        assert_eq!(check(&[], 0, None, None), Ok(0));
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let one = [entry(10, 100, 0)];
        assert!(matches!(check(&one, 99, None, None), Err(ScatterError::BeyondBuffer { entry: 0, .. })));
        assert!(matches!(check(&one, 100, Some(109), None), Err(ScatterError::BeyondBounce { .. })));
        assert_eq!(check(&one, 100, None, Some(99)), Err(ScatterError::Size { sum: 100, reported: 99 }));
        let late = [entry(0, 100, 1)];
        assert_eq!(check(&late, 200, None, None), Err(ScatterError::Gap { sum: 100, end: 101 }));
        let far = [entry(0, 2, u64::MAX - 1)];
        assert!(matches!(check(&far, 100, None, None), Err(ScatterError::BeyondBuffer { .. })));
        let full = vec![entry(0, 0, 0); UNPACK_MAX_ENTRIES + 1];
        assert!(matches!(check(&full, 1, None, None), Err(ScatterError::TooManyEntries { count: 2049 })));
        assert!(check(&full[1..], 1, None, None).is_ok());
        assert!(entry_count(u64::MAX).is_err());
    }

    proptest! {
        /// Nothing that passes can be copied outside its two buffers.
        #[test]
        fn what_passes_lies_inside(
            list in proptest::collection::vec((0..400_u32, 0..100_u32, 0..300_u64), 0..8),
            posted in 0..400_usize,
            bounce in 0..500_u64,
        ) {
            let list: Vec<_> = list.iter().map(|&(src, len, dst)| entry(src, len, dst)).collect();
            if let Ok(length) = check(&list, posted, Some(bounce), None) {
                prop_assert!(length <= posted);
                for entry in &list {
                    prop_assert!(entry.dst_off + u64::from(entry.len) <= posted as u64);
                    prop_assert!(u64::from(entry.src_off) + u64::from(entry.len) <= bounce);
                }
            }
        }

        #[test]
        fn any_cut_of_a_message_in_any_order_has_its_length(
            lengths in proptest::collection::vec(1..5000_u32, 0..40),
            seed in any::<u64>(),
        ) {
            let mut list = Vec::new();
            let mut at = 0_u64;
            for length in lengths {
                list.push(entry(at as u32, length, at));
                at += u64::from(length);
            }
            list.sort_by_key(|entry| (entry.dst_off + 1).wrapping_mul(seed | 1));
            prop_assert_eq!(check(&list, at as usize, Some(at), Some(at as usize)), Ok(at as usize));
        }
    }
}
