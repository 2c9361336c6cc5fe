//! Limits of the kernel and of this process: socket buffers, congestion control, locked memory, open files.

use tcpx_core::preflight::Nature;

use super::line::{Fault, Line, judged};
use super::machine::Machine;
use super::show;

const BUFFERS: &str = "socket buffers";
const CONGESTION: &str = "congestion control";
const LOCKED: &str = "locked memory";
const FILES: &str = "open files";
/// Congestion control of the soft plugin.
const SOFT_CONGESTION: &str = "TCPX_SOFT_CONGESTION";
/// Bytes to which a socket's buffers have to be able to grow; the kernel's own default for sending.
const LEAST_BUFFER: u64 = 4 << 20;
/// Bytes of locked memory with which GPU work was seen to start.
const LEAST_LOCKED: u64 = 64 << 20;
/// Open files with which a few peers work, and with which nothing does.
const FEW_FILES: u64 = 1024;
const TOO_FEW_FILES: u64 = 128;

/// To what the buffers of a socket can grow.
pub(super) fn buffers(machine: &Machine) -> Vec<Line> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for (name, usual) in [("tcp_rmem", "4096 131072 6291456"), ("tcp_wmem", "4096 16384 4194304")] {
        let sysctl = format!("sysctl -w net.ipv4.{name}=\"{usual}\"");
        match machine.text(&format!("/proc/sys/net/ipv4/{name}")).and_then(|text| largest(name, &text)) {
            Ok(bytes) => {
                found.push(format!("{name} up to {}", show::bytes(bytes)));
                if bytes < LEAST_BUFFER {
                    let text = format!(
                        "{name} is less than {}, which limits each socket",
                        show::bytes(LEAST_BUFFER)
                    );
                    faults.push(Fault::warn(text, sysctl));
                }
            }
            Err(why) => faults.push(Fault::warn(why, "see whether /proc is mounted and readable")),
        }
    }
    // These bind only who fixes a size, and are not shown in every network namespace.
    for name in ["rmem_max", "wmem_max"] {
        if let Ok(bytes) = machine.number(&format!("/proc/sys/net/core/{name}")) {
            found.push(format!("{name} {}", show::bytes(bytes)));
        }
    }
    vec![judged(BUFFERS, &found.join(", "), faults)]
}

/// The last of least, default and largest.
fn largest(name: &str, text: &str) -> Result<u64, String> {
    let fields: Vec<Option<u64>> = text.split_whitespace().map(|field| field.parse().ok()).collect();
    match fields[..] {
        [Some(_), Some(_), Some(largest)] => Ok(largest),
        _ => Err(format!("{name} says {text:?}, which are no three numbers")),
    }
}

/// Which congestion control sockets have, and whether the one that was asked for may be used.
pub(super) fn congestion(machine: &Machine) -> Vec<Line> {
    let read = |name: &str| machine.text(&format!("/proc/sys/net/ipv4/tcp_{name}congestion_control"));
    let (own, available, allowed) = match (read(""), read("available_"), read("allowed_")) {
        (Ok(own), Ok(available), Ok(allowed)) => (own, available, allowed),
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => {
            return vec![Line::warn(CONGESTION, why, "see whether /proc is mounted and readable")];
        }
    };
    let has = |list: &str, name: &str| list.split_whitespace().any(|entry| entry == name);
    let mut faults = Vec::new();
    if !has(&available, &own) {
        let found = format!("the default {own} is not among those that the kernel has ({available})");
        faults.push(Fault::warn(
            found,
            format!("modprobe tcp_{own}, or sysctl -w net.ipv4.tcp_congestion_control=cubic"),
        ));
    }
    let wanted = std::env::var(SOFT_CONGESTION).ok().filter(|name| !name.is_empty());
    let wanted = wanted.filter(|_| machine.nature_of_plugin() == Nature::Soft);
    if let Some(wanted) = wanted {
        if !has(&available, &wanted) {
            let found = format!("{SOFT_CONGESTION}={wanted} is not among those that the kernel has");
            faults
                .push(Fault::fail(found, format!("modprobe tcp_{wanted}, or set it to one of: {available}")));
        } else if !has(&allowed, &wanted) {
            let found = format!("{SOFT_CONGESTION}={wanted} needs root here");
            let mend = format!(
                "sysctl -w net.ipv4.tcp_allowed_congestion_control=\"{allowed} {wanted}\", or set it to one of: {allowed}"
            );
            faults.push(Fault::warn(found, mend));
        }
    }
    vec![judged(CONGESTION, &format!("{own} by default; the kernel has {available}"), faults)]
}

/// How much memory this process may lock.
pub(super) fn locked(machine: &Machine) -> Vec<Line> {
    let limit = match limit(machine, "Max locked memory") {
        Ok(limit) => limit,
        Err(why) => return vec![unread(LOCKED, &why)],
    };
    let found = limit.map_or_else(|| "unlimited".to_owned(), show::bytes);
    if !machine.uses_tcpx() {
        return vec![Line::ok(LOCKED, format!("{found}; plain TCP locks none"))];
    }
    let faults = limit.filter(|&bytes| bytes < LEAST_LOCKED).map(|_| {
        let text = "pinned buffers may be refused";
        Fault::warn(text, "ulimit -l unlimited (containers: --ulimit memlock=-1)")
    });
    vec![judged(LOCKED, &found, faults.into_iter().collect())]
}

/// How many files, sockets among them, this process may have open.
pub(super) fn files(machine: &Machine) -> Vec<Line> {
    let limit = match limit(machine, "Max open files") {
        Ok(limit) => limit,
        Err(why) => return vec![unread(FILES, &why)],
    };
    let found = limit.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    let mend = "ulimit -n 65536 (systemd: LimitNOFILE=65536; containers: --ulimit nofile=65536)";
    let faults = match limit {
        Some(files) if files < TOO_FEW_FILES => {
            vec![Fault::fail("too few for the sockets of one peer", mend)]
        }
        Some(files) if files < FEW_FILES => {
            vec![Fault::warn("each channel to a peer takes up to 18, so that few peers can be had", mend)]
        }
        Some(_) | None => Vec::new(),
    };
    vec![judged(FILES, &found, faults)]
}

/// The soft limit of this name; `None` where there is none.
fn limit(machine: &Machine, name: &str) -> Result<Option<u64>, String> {
    let text = machine.text("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => Ok(None),
        Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number.parse().ok()),
        Some(_) | None => Err(format!("/proc/self/limits says nothing about {name:?}")),
    }
}

fn unread(subject: &str, why: &str) -> Line {
    Line::warn(subject, why, "see whether /proc is mounted and readable")
}
