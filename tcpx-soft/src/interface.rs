//! The devices of the plugin: real network interfaces chosen by name, or listed local addresses.

use std::ffi::CString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::settings::Settings;

/// NICs at most, as in the real plugin.
const MAX_NICS: usize = 16;
/// Speed reported where the kernel knows none, in Mbit/s.
const UNKNOWN_SPEED: i32 = 10_000;

/// Which address families are looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    /// IPv4 where an interface has it, else IPv6.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// The `NCCL_..._SOCKET_IFNAME` rule: a list of prefixes, `^` to exclude them, `=` for exact names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct InterfaceRule {
    names: Vec<String>,
    exclude: bool,
    exact: bool,
}

impl InterfaceRule {
    pub(crate) fn parse(value: Option<&str>) -> Self {
        let value = value.unwrap_or("");
        let (exclude, value) = match value.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let (exact, value) = match value.strip_prefix('=') {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self { names: names.map(str::to_owned).collect(), exclude, exact }
    }

    /// Whether the user named anything.
    fn is_set(&self) -> bool {
        !self.names.is_empty()
    }

    fn takes(&self, interface: &str) -> bool {
        let named = self.names.iter().any(|name| match self.exact {
            true => interface == name,
            false => interface.starts_with(name.as_str()),
        });
        named != self.exclude
    }
}

/// A device of the plugin.
#[derive(Debug)]
pub(crate) struct Nic {
    /// Unique among the devices.
    pub(crate) name: CString,
    /// Interface it lies on.
    pub(crate) interface: String,
    /// Address that its sockets are bound to.
    pub(crate) address: IpAddr,
    /// Real path of the PCI device; `None` for a virtual interface.
    pub(crate) pci_path: Option<CString>,
    /// In Mbit/s.
    pub(crate) speed: i32,
}

/// Finds the devices that `settings` ask for, in the real plugin's order: sorted by name.
pub(crate) fn discover(settings: &Settings) -> Result<Vec<Nic>, String> {
    let mut found = interfaces()?;
    if !settings.addresses.is_empty() {
        return settings.addresses.iter().map(|&address| listed(&found, address)).collect();
    }
    found.retain(|(_, address)| match settings.family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    });
    // One address per interface, IPv4 first.
    found.sort_by(|a, b| (&a.0, a.1.is_ipv6()).cmp(&(&b.0, b.1.is_ipv6())));
    found.dedup_by(|later, first| later.0 == first.0);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    let chosen = choose(&names, &settings.interfaces);
    if chosen.is_empty() {
        return Err(format!(
            "no network interface fits NCCL_GPUDIRECTTCPX_SOCKET_IFNAME and _SOCKET_FAMILY; those with an \
             address are {}",
            names.join(", ")
        ));
    }
    let nics = found.iter().filter(|(name, _)| chosen.contains(&name.as_str()));
    nics.take(MAX_NICS).map(|(name, address)| nic(name.clone(), name, *address)).collect()
}

/// The interfaces that the rule takes. Without a rule: those that are neither loopback nor a container
/// bridge, else bridges, else loopback.
fn choose<'a>(names: &[&'a str], rule: &InterfaceRule) -> Vec<&'a str> {
    if rule.is_set() {
        return names.iter().copied().filter(|name| rule.takes(name)).collect();
    }
    let bridge =
        |name: &str| name.starts_with("docker") || name.starts_with("br-") || name.starts_with("veth");
    let class = |name: &str| match name {
        "lo" => 2,
        _ if bridge(name) => 1,
        _ => 0,
    };
    let best = names.iter().map(|name| class(name)).min();
    names.iter().copied().filter(|name| Some(class(name)) == best).collect()
}

/// The address of the interface `name`, for control sockets.
pub(crate) fn address_of(name: &str, family: Family) -> Result<IpAddr, String> {
    let found = interfaces()?;
    let fits = |address: &IpAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let mut candidates: Vec<IpAddr> =
        found.iter().filter(|(n, address)| n == name && fits(address)).map(|(_, a)| *a).collect();
    candidates.sort_by_key(IpAddr::is_ipv6);
    candidates.first().copied().ok_or_else(|| {
        let names: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
        format!(
            "NCCL_GPUDIRECTTCPX_CTRL_DEV={name} is no interface with an address; there are {}",
            names.join(", ")
        )
    })
}

/// Interfaces that are up, with each of their usable addresses.
fn interfaces() -> Result<Vec<(String, IpAddr)>, String> {
    let all = getifaddrs().map_err(|error| format!("cannot list network interfaces: {error}"))?;
    let mut found = Vec::new();
    for entry in all {
        if !entry.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let Some(storage) = entry.address else { continue };
        let address = if let Some(v4) = storage.as_sockaddr_in() {
            IpAddr::V4(v4.ip())
        } else if let Some(v6) = storage.as_sockaddr_in6() {
            // A link-local address means nothing without its interface, which a handle cannot name.
            if v6.ip().is_unicast_link_local() {
                continue;
            }
            IpAddr::V6(v6.ip())
        } else {
            continue;
        };
        found.push((entry.interface_name, address));
    }
    Ok(found)
}

/// A device for a listed address, which must be one of this machine's; all of 127/8 is.
fn listed(found: &[(String, IpAddr)], address: IpAddr) -> Result<Nic, String> {
    let loopback = |name: &str| name == "lo" && address.is_loopback() && address.is_ipv4();
    let interface = found.iter().find(|(name, have)| *have == address || loopback(name));
    let Some((interface, _)) = interface else {
        return Err(format!("TCPX_SOFT_ADDRESSES: {address} is no address of this machine"));
    };
    nic(format!("{interface}-{address}"), interface, address)
}

fn nic(name: String, interface: &str, address: IpAddr) -> Result<Nic, String> {
    let sysfs = Path::new("/sys/class/net").join(interface);
    let text = |path: PathBuf| {
        CString::new(path.into_os_string().into_encoded_bytes()).map_err(|_| "a zero in a path".to_owned())
    };
    let pci_path = sysfs.join("device").canonicalize().ok().map(text).transpose()?;
    let speed = std::fs::read_to_string(sysfs.join("speed")).ok();
    let speed = speed.and_then(|text| text.trim().parse().ok()).filter(|&speed: &i32| speed > 0);
    Ok(Nic {
        name: CString::new(name).map_err(|_| "a zero in an interface name".to_owned())?,
        interface: interface.to_owned(),
        address,
        pci_path,
        speed: speed.unwrap_or(UNKNOWN_SPEED),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_reads_prefixes_exclusions_and_exact_names() {
        let names = ["docker0", "eth0", "eth1", "eth10", "lo"];
        let chosen = |rule: &str| choose(&names, &InterfaceRule::parse(Some(rule)));
        assert_eq!(chosen("eth1"), ["eth1", "eth10"]);
        assert_eq!(chosen("=eth1"), ["eth1"]);
        assert_eq!(chosen("^eth,docker"), ["lo"]);
        assert_eq!(chosen("^=eth1"), ["docker0", "eth0", "eth10", "lo"]);
        assert!(chosen("wlan").is_empty());
    }

    #[test]
    fn without_a_rule_loopback_is_the_last_resort() {
        let rule = InterfaceRule::default();
        assert_eq!(choose(&["docker0", "eth0", "lo"], &rule), ["eth0"]);
        assert_eq!(choose(&["docker0", "lo"], &rule), ["docker0"]);
        assert_eq!(choose(&["lo"], &rule), ["lo"]);
    }

    #[test]
    fn a_listed_loopback_address_needs_no_interface_of_its_own() {
        let found = [("lo".to_owned(), IpAddr::from([127, 0, 0, 1]))];
        let nic = listed(&found, IpAddr::from([127, 0, 0, 3])).expect("127/8 is local");
        assert_eq!(nic.name.as_c_str(), c"lo-127.0.0.3");
        assert!(listed(&found, IpAddr::from([192, 0, 2, 1])).is_err());
    }
}
