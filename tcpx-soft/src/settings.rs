//! The plugin's variables, read once per `init` into typed values.

use std::net::IpAddr;
use std::time::Duration;

use crate::fault::Faults;
use crate::interface::{Family, InterfaceRule};
use crate::wire::MAX_SOCKETS;

/// How received bytes reach the posted buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// Straight into it; the device type is HOST.
    Host,
    /// Into bounce pages with a scatter list; the device type is UNPACK.
    Unpack,
}

/// Sockets and threads as the user named them, in the real plugin's terms.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Threading {
    /// Threads of each comm.
    pub(crate) threads: usize,
    /// Data sockets of each comm.
    pub(crate) sockets: usize,
}

/// Cores by interface name, from a `..._BINDINGS` variable.
pub(crate) type Bindings = Vec<(String, Vec<usize>)>;

/// Everything a user can set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) mode: Mode,
    pub(crate) strict: bool,
    pub(crate) congestion: Option<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) interfaces: InterfaceRule,
    pub(crate) family: Family,
    pub(crate) control_device: Option<String>,
    pub(crate) lanes: Option<usize>,
    pub(crate) chunk_bytes: Option<u32>,
    pub(crate) threading: Option<Threading>,
    pub(crate) recv_sync: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) send_bindings: Bindings,
    pub(crate) recv_bindings: Bindings,
    pub(crate) faults: Faults,
}

/// Reads one variable.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Checks the values of the variables that this plugin reads, as its `init` does. `lookup` is asked for each of
/// them by name until one is bad, so that it also learns their names.
///
/// # Errors
///
/// The variable, its value and what is allowed.
pub fn check_variables(lookup: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    Settings::read(lookup).map(drop)
}

impl Settings {
    /// Reads every variable; the error names the variable, its value and what is allowed.
    pub(crate) fn read(lookup: Lookup<'_>) -> Result<Self, String> {
        let unpack = choice(lookup, "TCPX_SOFT_MODE", &["host", "unpack"])? == Some(1);
        let per_thread = number(lookup, "NCCL_NSOCKS_PERTHREAD", 1, 8)?;
        let threads = number(lookup, "NCCL_SOCKET_NTHREADS", 1, 8)?;
        let threading = (per_thread.is_some() || threads.is_some()).then(|| {
            let (per_thread, threads) = (per_thread.unwrap_or(1) as usize, threads.unwrap_or(1) as usize);
            Threading { threads, sockets: per_thread.min(MAX_SOCKETS / threads) * threads }
        });
        // The real plugin's chunk of 0 means that it was never set, which there is fatal; here the
        // plugin then chooses by itself.
        let plugin_chunk = number(lookup, "NCCL_DYNAMIC_CHUNK_SIZE", 0, u64::from(u32::MAX))?;
        let chunk = number(lookup, "TCPX_SOFT_CHUNK_BYTES", 4096, 1 << 30)?;
        Ok(Self {
            mode: if unpack { Mode::Unpack } else { Mode::Host },
            strict: flag(lookup, "TCPX_SOFT_STRICT")?,
            congestion: text(lookup, "TCPX_SOFT_CONGESTION"),
            addresses: addresses(lookup)?,
            interfaces: InterfaceRule::parse(text(lookup, "NCCL_GPUDIRECTTCPX_SOCKET_IFNAME").as_deref()),
            family: match choice(lookup, "NCCL_GPUDIRECTTCPX_SOCKET_FAMILY", &["AF_INET", "AF_INET6"])? {
                None => Family::Any,
                Some(0) => Family::V4,
                Some(_) => Family::V6,
            },
            control_device: text(lookup, "NCCL_GPUDIRECTTCPX_CTRL_DEV"),
            lanes: number(lookup, "TCPX_SOFT_LANES", 1, 64)?.map(|n| n as usize),
            chunk_bytes: chunk.or(plugin_chunk.filter(|&n| n > 0)).map(|n| n as u32),
            threading,
            recv_sync: flag(lookup, "NCCL_GPUDIRECTTCPX_RECV_SYNC")?,
            connect_timeout: milliseconds(lookup, "TCPX_SOFT_CONNECT_TIMEOUT_MS", 20_000)?,
            handshake_timeout: milliseconds(lookup, "TCPX_SOFT_HANDSHAKE_TIMEOUT_MS", 10_000)?,
            send_bindings: bindings(lookup, "NCCL_GPUDIRECTTCPX_TX_BINDINGS")?,
            recv_bindings: bindings(lookup, "NCCL_GPUDIRECTTCPX_RX_BINDINGS")?,
            faults: faults(lookup)?,
        })
    }
}

fn faults(lookup: Lookup<'_>) -> Result<Faults, String> {
    let any = u64::MAX;
    Ok(Faults {
        connect_delay: milliseconds(lookup, "TCPX_SOFT_FAULT_CONNECT_DELAY_MS", 0)?,
        accept_delay: milliseconds(lookup, "TCPX_SOFT_FAULT_ACCEPT_DELAY_MS", 0)?,
        accept_fails: flag(lookup, "TCPX_SOFT_FAULT_ACCEPT_FAILS")?,
        null_request_every: number(lookup, "TCPX_SOFT_FAULT_NULL_REQUEST_EVERY", 1, any)?,
        data_socket_dies_at: number(lookup, "TCPX_SOFT_FAULT_DATA_SOCKET_DIES_AT", 0, any)?,
        lane_stalls_at: number(lookup, "TCPX_SOFT_FAULT_LANE_STALLS_AT", 0, any)?,
        ring_size: number(lookup, "TCPX_SOFT_FAULT_RING_SIZE", 1, 16)?.map(|n| n as u32),
        silent_after: number(lookup, "TCPX_SOFT_FAULT_SILENT_AFTER", 0, any)?,
        oversize: number(lookup, "TCPX_SOFT_FAULT_OVERSIZE_BYTES", 0, 1 << 20)?.unwrap_or(0) as u32,
        pool_pages: number(lookup, "TCPX_SOFT_FAULT_POOL_PAGES", 1, 1 << 20)?.map(|n| n as usize),
        poison: flag(lookup, "TCPX_SOFT_FAULT_POISON")?,
        shuffle: number(lookup, "TCPX_SOFT_FAULT_SHUFFLE_SEED", 0, any)?,
        fragment_bytes: number(lookup, "TCPX_SOFT_FAULT_FRAGMENT_BYTES", 1, 4096)?.map(|n| n as usize),
    })
}

fn text(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn number(lookup: Lookup<'_>, name: &str, low: u64, high: u64) -> Result<Option<u64>, String> {
    let Some(value) = text(lookup, name) else { return Ok(None) };
    value
        .parse()
        .ok()
        .filter(|n| (low..=high).contains(n))
        .map(Some)
        .ok_or_else(|| format!("{name}={value} is not a whole number from {low} to {high}"))
}

fn milliseconds(lookup: Lookup<'_>, name: &str, default: u64) -> Result<Duration, String> {
    let value = number(lookup, name, 0, 3_600_000)?;
    Ok(Duration::from_millis(value.unwrap_or(default)))
}

fn flag(lookup: Lookup<'_>, name: &str) -> Result<bool, String> {
    Ok(number(lookup, name, 0, 1)? == Some(1))
}

fn choice(lookup: Lookup<'_>, name: &str, allowed: &[&str]) -> Result<Option<usize>, String> {
    let Some(value) = text(lookup, name) else { return Ok(None) };
    let position = allowed.iter().position(|candidate| *candidate == value);
    position.map(Some).ok_or_else(|| format!("{name}={value} is unknown; it can be {}", allowed.join(" or ")))
}

fn addresses(lookup: Lookup<'_>) -> Result<Vec<IpAddr>, String> {
    let name = "TCPX_SOFT_ADDRESSES";
    let Some(value) = text(lookup, name) else { return Ok(Vec::new()) };
    let parse =
        |part: &str| part.trim().parse().map_err(|_| format!("{name}={value}: '{part}' is no IP address"));
    value.split(',').map(parse).collect()
}

/// `eth1:8-21,112-125;eth2:60-73`.
fn bindings(lookup: Lookup<'_>, name: &str) -> Result<Bindings, String> {
    let Some(value) = text(lookup, name) else { return Ok(Vec::new()) };
    let bad = |part: &str| format!("{name}={value}: '{part}' is not like eth1:8-21,112-125");
    let mut all = Vec::new();
    for part in value.split(';').filter(|part| !part.trim().is_empty()) {
        let (interface, ranges) = part.trim().split_once(':').ok_or_else(|| bad(part))?;
        let mut cores = Vec::new();
        for range in ranges.split(',') {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let low: usize = low.trim().parse().map_err(|_| bad(part))?;
            let high: usize = high.trim().parse().map_err(|_| bad(part))?;
            if low > high || high >= 4096 {
                return Err(bad(part));
            }
            cores.extend(low..=high);
        }
        all.push((interface.to_owned(), cores));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(&|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_means_the_plugin_chooses() {
        let settings = read(&[]).expect("defaults");
        assert_eq!(settings.mode, Mode::Host);
        assert!(!settings.strict && settings.threading.is_none() && settings.chunk_bytes.is_none());
        assert_eq!(settings.faults, Faults::default());
    }

    #[test]
    fn sockets_and_threads_follow_the_real_plugin() {
        let of = |per_thread, threads| {
            read(&[("NCCL_NSOCKS_PERTHREAD", per_thread), ("NCCL_SOCKET_NTHREADS", threads)])
                .expect("in range")
                .threading
        };
        assert_eq!(of("4", "1"), Some(Threading { threads: 1, sockets: 4 }));
        assert_eq!(of("8", "4"), Some(Threading { threads: 4, sockets: 8 }), "at most 8 sockets");
        assert_eq!(of("8", "3"), Some(Threading { threads: 3, sockets: 6 }), "the same on each thread");
        let one = read(&[("NCCL_NSOCKS_PERTHREAD", "2")]).expect("in range").threading;
        assert_eq!(one, Some(Threading { threads: 1, sockets: 2 }));
    }

    #[test]
    fn a_bad_value_names_variable_value_and_range() {
        for (name, value, says) in [
            ("TCPX_SOFT_STRICT", "yes", "from 0 to 1"),
            ("NCCL_SOCKET_NTHREADS", "9", "from 1 to 8"),
            ("TCPX_SOFT_MODE", "gpu", "host or unpack"),
            ("TCPX_SOFT_ADDRESSES", "127.0.0.1,lo", "'lo' is no IP address"),
            ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", "eth1:9-3", "is not like"),
            ("NCCL_GPUDIRECTTCPX_SOCKET_FAMILY", "inet", "AF_INET or AF_INET6"),
        ] {
            let error = read(&[(name, value)]).expect_err(name);
            assert!(error.contains(name) && error.contains(value) && error.contains(says), "{error}");
        }
    }

    #[test]
    fn bindings_are_read_as_the_field_writes_them() {
        let settings = read(&[("NCCL_GPUDIRECTTCPX_RX_BINDINGS", "eth1:2-4,8;eth2:9-9")]).expect("good");
        let eth1 = ("eth1".to_owned(), vec![2, 3, 4, 8]);
        assert_eq!(settings.recv_bindings, [eth1, ("eth2".to_owned(), vec![9])]);
    }
}
