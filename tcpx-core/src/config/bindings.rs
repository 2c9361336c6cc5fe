//! Cores of the plugin's workers, per NIC: `eth1:8-21,112-125;eth2:8-21`.

use std::ffi::OsStr;

use super::Value;
use super::interfaces::is_interface_name;

/// Cores that the kernel's CPU set can name.
const CPUS: u16 = 1024;

/// Bindings of several NICs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bindings(Vec<Binding>);

/// Cores for the workers of one NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Binding {
    /// Name of the NIC.
    pub interface: String,
    /// Ranges of cores. The plugin takes an empty list and then divides by zero.
    pub ranges: Vec<CpuRange>,
}

/// Cores `first` to `last`, both included; `first <= last`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CpuRange {
    first: u16,
    last: u16,
}

impl CpuRange {
    /// Parses `first-last`; a single number is no range to the plugin.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (cpu(first)?, cpu(last)?);
        (first <= last).then_some(Self { first, last })
    }

    /// First core.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Last core.
    pub const fn last(self) -> u16 {
        self.last
    }
}

impl Bindings {
    /// One entry per NIC, in the order given.
    pub fn entries(&self) -> &[Binding] {
        &self.0
    }
}

impl Value for Bindings {
    fn parse(text: &OsStr) -> Option<Self> {
        let groups = text.to_str()?.split(';').filter(|group| !group.is_empty());
        let bindings: Vec<_> = groups.map(binding).collect::<Option<_>>()?;
        (!bindings.is_empty()).then_some(Self(bindings))
    }

    fn range() -> String {
        "NICs with ranges of cores, such as eth1:8-21,112-125;eth2:8-21 (a single core n is n-n)".to_owned()
    }
}

fn binding(group: &str) -> Option<Binding> {
    let (interface, ranges) = group.split_once(':')?;
    if !is_interface_name(interface) {
        return None;
    }
    let ranges = match ranges {
        "" => Vec::new(),
        ranges => ranges.split(',').map(CpuRange::parse).collect::<Option<_>>()?,
    };
    Some(Binding { interface: interface.to_owned(), ranges })
}

pub(super) fn cpu(text: &str) -> Option<u16> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let cpu: u16 = if digits_only { text.parse().ok()? } else { return None };
    (cpu < CPUS).then_some(cpu)
}
