//! Addresses of this host that a peer may reach.

use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use tcpx_core::config::{Config, ControlAddress};

/// An address and the interface that has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Local {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

/// Addresses of this host to give to a peer, best first: the one that the user named, if he did; otherwise those of
/// the control NIC, of the NICs with these names, and of the others. Loopback only where there is nothing else,
/// because at another host it leads astray.
pub fn addresses_of_host(config: &Config, nics: &[&str]) -> Vec<IpAddr> {
    if let ControlAddress::Fixed(ip) = config.control_ip.value {
        return vec![ip];
    }
    let all = all();
    let control = config.control_device.value.as_ref();
    let is_control = |local: &&Local| control.is_some_and(|filter| filter.matches(&local.interface));
    let control: Vec<String> = all.iter().filter(is_control).map(|local| local.interface.clone()).collect();
    let mut preferred: Vec<&str> = control.iter().map(String::as_str).collect();
    for name in nics {
        preferred.extend([interface_of(name), name]);
    }
    ordered(all, &preferred)
}

/// The interface of a NIC: the soft plugin calls a listed address `interface-address`.
pub(crate) fn interface_of(nic: &str) -> &str {
    nic.split_once('-').map_or(nic, |(interface, _)| interface)
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
    use tcpx_core::config::{Config, FixedEnvironment};

    use super::{Local, addresses_of_host, all, interface_of, ordered};

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
    fn a_named_address_is_the_only_one_and_a_named_nic_comes_first() {
        let read = |name: &str, value: &str| {
            let environment: FixedEnvironment = [(name, value)].into_iter().collect();
            Config::from_environment(&environment).expect("good settings")
        };
        let named = read("UCCL_TCPX_CTRL_IP", "127.0.0.1");
        assert_eq!(
            addresses_of_host(&named, &["eth0"]),
            ["127.0.0.1".parse::<std::net::IpAddr>().expect("one")]
        );
        let open = |config: &Config, nics: &[&str]| addresses_of_host(config, nics);
        let any = read("UCCL_TCPX_CTRL_IP", "auto");
        assert_eq!(open(&any, &[]), ordered(all(), &[]));
        for local in ordered(all(), &[]) {
            let of = all().into_iter().find(|one| one.ip == local).expect("it is there").interface;
            let first = |ips: Vec<std::net::IpAddr>| {
                all().into_iter().find(|one| Some(one.ip) == ips.first().copied()).map(|one| one.interface)
            };
            assert_eq!(first(open(&any, &[&of])), Some(of.clone()));
            assert_eq!(first(open(&any, &[&format!("{of}-127.0.0.9")])), Some(of.clone()));
            let control = read("NCCL_GPUDIRECTTCPX_CTRL_DEV", &format!("={of}"));
            assert_eq!(first(open(&control, &["another"])), Some(of));
        }
        assert_eq!((interface_of("eth1"), interface_of("eth1-10.0.0.1")), ("eth1", "eth1"));
    }

    #[test]
    fn this_machine_has_an_address() {
        assert!(!ordered(all(), &[]).is_empty());
    }
}
