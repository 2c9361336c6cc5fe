//! Cores of a thread, by choice or by number: `auto`, `off`, or `0-3,8`.

use std::ffi::OsStr;

use super::Value;
use super::bindings::{CpuRange, cpu};

/// Where a thread shall run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Affinity {
    /// Near the NIC that it drives, where that is known.
    Auto,
    /// Wherever the system puts it.
    Off,
    /// On these cores, in increasing order, each once.
    Cores(Vec<u16>),
}

impl Value for Affinity {
    fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str()?.trim() {
            "auto" => Some(Self::Auto),
            "off" => Some(Self::Off),
            list => core_list(list).map(Self::Cores),
        }
    }

    fn range() -> String {
        "auto, off, or cores such as 0-3,8".to_owned()
    }
}

/// Reads a list of cores as the kernel writes it: `0-3,8`. In increasing order, each once; `None` if it is none, or
/// names no core.
pub fn core_list(text: &str) -> Option<Vec<u16>> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        let range = CpuRange::parse(part).map(|range| range.first()..=range.last());
        cores.extend(range.or_else(|| cpu(part).map(|one| one..=one))?);
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::{Affinity, core_list};
    use crate::config::Value;

    #[test]
    fn cores_are_listed_as_the_kernel_lists_them() {
        assert_eq!(core_list("0-3,8"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(core_list(" 8, 2-2,8 "), Some(vec![2, 8]));
        for bad in ["", ",", "1,", "3-1", "a", "1-", "-1", "0-5000", "1 2"] {
            assert_eq!(core_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_thread_is_placed_by_a_word_or_by_cores() {
        let parse = |text: &str| Affinity::parse(text.as_ref());
        assert_eq!(parse("auto"), Some(Affinity::Auto));
        assert_eq!(parse(" off "), Some(Affinity::Off));
        assert_eq!(parse("4-5"), Some(Affinity::Cores(vec![4, 5])));
        for bad in ["on", "Auto", "numa"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
