//! Addresses of this host that a peer may reach.

use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// An address and the interface that has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Local {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

/// Addresses of the interfaces that are up, without those that only mean something beside an interface.
pub(crate) fn all() -> Vec<Local> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let up = interfaces.filter(|one| one.flags.contains(InterfaceFlags::IFF_UP));
    up.filter_map(|one| {
        let address = one.address?;
        let ip: IpAddr = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => v4.ip().into(),
            (_, Some(v6)) if !is_link_local(v6.ip()) => v6.ip().into(),
            _ => return None,
        };
        Some(Local { interface: one.interface_name, ip })
    })
    .collect()
}

const fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}

/// Orders addresses for a peer: those of the preferred interfaces first, in the order of preference, IPv4
/// before IPv6; loopback only where there is nothing else, because at another host it leads astray.
pub(crate) fn ordered(mut all: Vec<Local>, preferred: &[&str]) -> Vec<IpAddr> {
    if all.iter().any(|local| !local.ip.is_loopback()) {
        all.retain(|local| !local.ip.is_loopback());
    }
    let rank = |local: &Local| preferred.iter().position(|name| *name == local.interface);
    all.sort_by_key(|local| (rank(local).unwrap_or(preferred.len()), local.ip.is_ipv6()));
    all.into_iter().map(|local| local.ip).collect()
}

#[cfg(test)]
mod tests {
    use super::{Local, all, ordered};

    fn local(interface: &str, ip: &str) -> Local {
        Local { interface: interface.to_owned(), ip: ip.parse().expect("an address") }
    }

    #[test]
    fn the_preferred_interface_comes_first_and_loopback_only_alone() {
        let found = vec![
            local("lo", "127.0.0.1"),
            local("docker0", "172.17.0.1"),
            local("eth1", "fd00::1"),
            local("eth1", "10.0.1.1"),
            local("eth0", "10.0.0.1"),
        ];
        let order = |preferred: &[&str]| -> Vec<String> {
            ordered(found.clone(), preferred).iter().map(ToString::to_string).collect()
        };
        assert_eq!(order(&["eth0", "eth1"]), ["10.0.0.1", "10.0.1.1", "fd00::1", "172.17.0.1"]);
        assert_eq!(order(&["eth9"]), ["172.17.0.1", "10.0.1.1", "10.0.0.1", "fd00::1"]);
        assert_eq!(ordered(vec![local("lo", "::1")], &[]).len(), 1);
    }

    #[test]
    fn this_machine_has_an_address() {
        assert!(!ordered(all(), &[]).is_empty());
    }
}
