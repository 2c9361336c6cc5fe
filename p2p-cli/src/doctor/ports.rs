//! Ports: those that are fixed by variables, and those that the kernel gives away.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, TcpListener};
use std::ops::RangeInclusive;

use super::line::{Fault, Line, judged};
use super::machine::Machine;

const BOOTSTRAP: &str = "bootstrap port";
const CONTROL: &str = "control ports";
const EPHEMERAL: &str = "ephemeral ports";
/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";
/// Ports with which many connections can be had.
const ENOUGH: usize = 4096;

/// The port on which two ends find each other.
pub(super) fn bootstrap(machine: &Machine) -> Vec<Line> {
    let gpu = machine.config.local_device.value.get();
    let port = machine.config.bootstrap_port_base.value.get() + u16::from(gpu);
    let found = format!("{port} for GPU {gpu}");
    let taken = match Taken::of(machine) {
        Ok(taken) => taken,
        Err(why) => return vec![Line::skip(BOOTSTRAP, format!("{found}: not tried: {why}"))],
    };
    vec![if taken.has(machine, port) {
        let wrong = Fault::fail(
            "a program listens there",
            format!(
                "end that program (ss -ltnp sport = :{port}), or set UCCL_TCPX_BOOTSTRAP_PORT_BASE at every end"
            ),
        );
        judged(BOOTSTRAP, &found, vec![wrong])
    } else {
        Line::ok(BOOTSTRAP, format!("{found} is free"))
    }]
}

/// The ports of which a control connection listens on the first that is free.
pub(super) fn control(machine: &Machine) -> Vec<Line> {
    let range = control_range(machine);
    let shown = format!("{} to {}", range.start(), range.end());
    let taken = match Taken::of(machine) {
        Ok(taken) => taken,
        Err(why) => return vec![Line::skip(CONTROL, format!("{shown}: not tried: {why}"))],
    };
    let first = range.clone().find(|&port| !taken.has(machine, port));
    vec![match first {
        Some(free) if free == *range.start() => Line::ok(CONTROL, format!("{shown}: {free} is free")),
        Some(free) => Line::ok(CONTROL, format!("{shown}: {free} is the first that is free")),
        None => {
            let mend = "end the programs that listen there (ss -ltnp), or set UCCL_TCPX_OOB_PORT or UCCL_TCPX_PORT_RETRIES";
            Line::fail(CONTROL, format!("{shown}: all are taken"), mend)
        }
    }]
}

fn control_range(machine: &Machine) -> RangeInclusive<u16> {
    let first = machine.config.oob_port.value.get();
    let more = u16::try_from(machine.config.port_retries.value.get()).unwrap_or(u16::MAX);
    first..=first.saturating_add(more)
}

/// The ports that the kernel gives to sockets without one: those of the exchange and of the data.
pub(super) fn ephemeral(machine: &Machine) -> Vec<Line> {
    let unread = |why: String| vec![Line::warn(EPHEMERAL, why, "see whether /proc is mounted and readable")];
    let text = match machine.text("/proc/sys/net/ipv4/ip_local_port_range") {
        Ok(text) => text,
        Err(why) => return unread(why),
    };
    let fields: Vec<Option<u16>> = text.split_whitespace().map(|field| field.parse().ok()).collect();
    let [Some(low), Some(high)] = fields[..] else {
        return unread(format!("ip_local_port_range says {text:?}, which are no two ports"));
    };
    let given = low..=high;
    let reserved = machine.text("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let is_given = |port: &u16| given.contains(port) && !is_reserved(&reserved, *port);
    let base = machine.config.bootstrap_port_base.value.get();
    let mut faults = Vec::new();
    let fixed =
        [("UCCL_TCPX_BOOTSTRAP_PORT_BASE", base), ("UCCL_TCPX_OOB_PORT", *control_range(machine).start())];
    for (variable, port) in fixed.into_iter().filter(|(_, port)| is_given(port)) {
        let mend = format!(
            "sysctl -w net.ipv4.ip_local_reserved_ports={port}, or set {variable} to a port below {low}"
        );
        faults.push(Fault::warn(
            format!("{port} ({variable}) is among them and may be taken at any time"),
            mend,
        ));
    }
    if given.len() < ENOUGH {
        let mend = "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"";
        faults
            .push(Fault::warn(format!("only {} ports, so that connections can run out", given.len()), mend));
    }
    let found =
        format!("{low} to {high}, for the exchange and the data; a firewall has to let peers reach them");
    vec![judged(EPHEMERAL, &found, faults)]
}

/// Whether a list such as `28900,30000-30100` holds a port.
fn is_reserved(list: &str, port: u16) -> bool {
    list.split(',').any(|entry| {
        let (low, high) = entry.split_once('-').unwrap_or((entry, entry));
        let range = low.trim().parse::<u16>().ok().zip(high.trim().parse::<u16>().ok());
        range.is_some_and(|(low, high)| (low..=high).contains(&port))
    })
}

/// The ports on which programs of a machine listen.
struct Taken(BTreeSet<u16>);

impl Taken {
    /// What the machine's tables say. Of this machine they may say nothing, since its ports are tried as well.
    fn of(machine: &Machine) -> Result<Self, String> {
        let v6 = machine.text("/proc/net/tcp6").unwrap_or_default();
        let v4 = match machine.text("/proc/net/tcp") {
            Ok(table) => table,
            Err(_) if machine.is_this_one() || !v6.is_empty() => String::new(),
            Err(why) => return Err(why),
        };
        Ok(Self([v4, v6].iter().flat_map(|table| table.lines().filter_map(listening)).collect()))
    }

    /// Whether the port cannot be had. On this machine it is also tried, since a listener may be where no table
    /// shows it.
    fn has(&self, machine: &Machine, port: u16) -> bool {
        self.0.contains(&port) || (machine.is_this_one() && is_refused(port))
    }
}

fn is_refused(port: u16) -> bool {
    let bound = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The port of a listening socket's line: number, local address, far address, state.
fn listening(line: &str) -> Option<u16> {
    let fields: Vec<&str> = line.split_whitespace().take(4).collect();
    let &[_, local, _, LISTENING] = fields.as_slice() else { return None };
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_take_a_port() {
        let line =
            |state: &str| format!("0: 00000000:4E20 00000000:0000 {state} 00000000:00000000 00:00000000 0");
        assert_eq!(listening(&line("0A")), Some(20000));
        assert_eq!(listening(&line("01")), None);
        assert_eq!(listening("sl local_address rem_address st tx_queue"), None);
    }

    #[test]
    fn reserved_ports_are_a_list_of_ranges() {
        let list = "28900,30000-30100";
        assert!([28900, 30000, 30100].into_iter().all(|port| is_reserved(list, port)));
        assert!(![28901, 29999, 30101].into_iter().any(|port| is_reserved(list, port)));
        assert!(!is_reserved("", 0));
    }
}
