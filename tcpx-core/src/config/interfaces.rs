//! Choosing NICs by name.

use std::ffi::OsStr;

use super::Value;

/// Longest name of a network interface, in bytes.
const INTERFACE_NAME_BYTES: usize = 15;

/// Interfaces chosen by NCCL's rules: prefixes, `=` for exact names, `^` for all but these.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InterfaceFilter {
    exclude: bool,
    exact: bool,
    names: Vec<String>,
}

impl InterfaceFilter {
    /// Whether the rules choose `interface`.
    pub fn matches(&self, interface: &str) -> bool {
        let named = self
            .names
            .iter()
            .any(|name| if self.exact { interface == name } else { interface.starts_with(name.as_str()) });
        named != self.exclude
    }
}

impl Value for InterfaceFilter {
    fn parse(text: &OsStr) -> Option<Self> {
        let text = text.to_str()?;
        let (exclude, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (exact, text) = text.strip_prefix('=').map_or((false, text), |rest| (true, rest));
        let names = text.split(',').filter(|name| !name.is_empty()).map(without_port);
        let names: Vec<_> = names.collect::<Option<_>>()?;
        (!names.is_empty()).then_some(Self { exclude, exact, names })
    }

    fn range() -> String {
        "a comma-separated list of interface name prefixes without spaces, such as eth1,eth2; a leading = \
         means exact names, a leading ^ all but these"
            .to_owned()
    }
}

/// The name in `name` or `name:port`; the port means nothing here.
fn without_port(entry: &str) -> Option<String> {
    let name = entry.split_once(':').map_or(entry, |(name, _)| name);
    is_interface_name(name).then(|| name.to_owned())
}

/// A NIC, by the plugin's index or by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DeviceSelector {
    /// Index in the plugin's list of devices.
    Index(usize),
    /// Name of the interface.
    Name(String),
}

/// NICs to use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceChoice(Vec<DeviceSelector>);

impl DeviceChoice {
    /// The NICs, in the order given; at least one.
    pub fn selectors(&self) -> &[DeviceSelector] {
        &self.0
    }
}

impl Value for DeviceChoice {
    fn parse(text: &OsStr) -> Option<Self> {
        let selector = |text: &str| {
            let text = text.trim();
            if text.bytes().all(|b| b.is_ascii_digit()) {
                text.parse().ok().map(DeviceSelector::Index)
            } else {
                is_device_name(text).then(|| DeviceSelector::Name(text.to_owned()))
            }
        };
        text.to_str()?.split(',').map(selector).collect::<Option<_>>().map(Self)
    }

    fn range() -> String {
        "a comma-separated list of device indices or names, such as 0 or eth1,eth2".to_owned()
    }
}

/// Names of NICs; may be empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NicNames(Vec<String>);

impl NicNames {
    /// The names, in the order given.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }
}

impl Value for NicNames {
    fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str()? {
            "" => Some(Self::default()),
            text => nic_names(text).map(Self),
        }
    }

    fn range() -> String {
        "a comma-separated list of NIC names, such as eth2,eth3".to_owned()
    }
}

/// Names separated by commas; at least one, none empty, none twice.
pub(super) fn nic_names(text: &str) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if !is_device_name(name) || names.iter().any(|known| known == name) {
            return None;
        }
        names.push(name.to_owned());
    }
    Some(names)
}

/// Whether `name` can be a network interface.
pub(super) fn is_interface_name(name: &str) -> bool {
    name.len() <= INTERFACE_NAME_BYTES && is_device_name(name) && !name.contains([':', '/'])
}

/// Whether `name` can be a device of a plugin, which may be named by its address.
fn is_device_name(name: &str) -> bool {
    let is_plain = !name.contains([',', ';', '*']) && !name.contains(char::is_whitespace);
    !name.is_empty() && !name.starts_with('-') && is_plain
}
