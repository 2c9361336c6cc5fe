//! Kernel, clock, and the cores that this process may use.

use std::collections::BTreeSet;

use tcpx_core::config::Bindings;

use super::line::{Fault, Line, judged};
use super::machine::Machine;

const KERNEL: &str = "kernel";
const CLOCK: &str = "clock";
const CORES: &str = "cores";
/// Oldest kernel with which GPUDirect-TCPX was seen in the field.
const TCPX_KERNEL: (u32, u32) = (6, 6);
/// Oldest kernel on which plain TCP was tried.
const KERNEL_AT_LEAST: (u32, u32) = (4, 14);
/// Clocks that are read without a system call.
const FAST_CLOCKS: [&str; 4] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];

/// Whether the kernel is as new as is known to work.
pub(super) fn kernel(machine: &Machine) -> Vec<Line> {
    let release = match machine.text("/proc/sys/kernel/osrelease") {
        Ok(release) => release,
        Err(why) => return vec![Line::warn(KERNEL, why, "see whether /proc is mounted and readable")],
    };
    let mut faults = Vec::new();
    match version(&release) {
        None => faults.push(Fault::warn("its version cannot be told", "use a kernel with a usual version")),
        Some(version) if machine.uses_tcpx() && version < TCPX_KERNEL => faults.push(Fault::warn(
            "GPUDirect-TCPX was seen with 6.6 and later; an older one may lack the receive queues into GPU memory",
            "use the image that Google names for A3-high (Container-Optimized OS)",
        )),
        Some(version) if version < KERNEL_AT_LEAST => {
            faults.push(Fault::warn("older than any that was tried", "use kernel 4.14 or later"));
        }
        Some(_) => {}
    }
    vec![judged(KERNEL, &release, faults)]
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether the time can be read fast: every poll does.
pub(super) fn clock(machine: &Machine) -> Vec<Line> {
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let Ok(current) = machine.text(&format!("{folder}/current_clocksource")) else {
        return vec![Line::ok(CLOCK, "its source is not shown here")];
    };
    let mut faults = Vec::new();
    if !FAST_CLOCKS.contains(&current.as_str()) {
        let available = machine.text(&format!("{folder}/available_clocksource")).unwrap_or_default();
        let is_there = |name: &&str| available.split_whitespace().any(|entry| entry == *name);
        let better = FAST_CLOCKS.into_iter().find(is_there);
        let mend = match better {
            Some(better) => format!("echo {better} > {folder}/current_clocksource"),
            None => "boot with tsc=reliable, if the machine's own clock is steady".to_owned(),
        };
        faults.push(Fault::warn("each reading is a system call, and polls read it", mend));
    }
    vec![judged(CLOCK, &current, faults)]
}

/// Cores that this process may use, and how much of them.
pub(super) fn cores(machine: &Machine) -> Vec<Line> {
    let status = match machine.text("/proc/self/status") {
        Ok(status) => status,
        Err(why) => return vec![Line::warn(CORES, why, "see whether /proc is mounted and readable")],
    };
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let Some(allowed) = list.and_then(|list| parse(list.trim())) else {
        let found = "/proc/self/status does not say which cores this process may use";
        return vec![Line::warn(CORES, found, "see whether /proc is mounted and readable")];
    };
    let list = list.unwrap_or_default().trim();
    let mut found = format!("{} allowed ({list})", allowed.len());
    let mut faults = Vec::new();
    let quota = quota(machine);
    if let Some(quota) = quota {
        found.push_str(&format!(", of which the control group grants the time of {quota:.1}"));
    }
    let usable = quota.map_or(allowed.len() as f64, |quota| quota.min(allowed.len() as f64));
    if usable < 2.0 {
        let mend = "allow this process more cores (taskset, docker --cpus, limits.cpu of a pod)";
        faults.push(Fault::warn("polling and moving bytes take turns on less than two cores", mend));
    }
    for (variable, bindings) in [
        ("NCCL_GPUDIRECTTCPX_TX_BINDINGS", &machine.config.tx_bindings.value),
        ("NCCL_GPUDIRECTTCPX_RX_BINDINGS", &machine.config.rx_bindings.value),
    ] {
        if let Some(core) = bindings.as_ref().and_then(|bindings| forbidden(bindings, &allowed)) {
            let text = format!("{variable} names core {core}, which this process may not use");
            faults
                .push(Fault::warn(text, format!("correct {variable}, or allow the core (taskset, cpuset)")));
        }
    }
    vec![judged(CORES, &found, faults)]
}

/// The first core of some bindings that is not among these.
fn forbidden(bindings: &Bindings, allowed: &BTreeSet<u32>) -> Option<u32> {
    let ranges = bindings.entries().iter().flat_map(|binding| &binding.ranges);
    let mut cores = ranges.flat_map(|range| (range.first()..=range.last()).map(u32::from));
    cores.find(|core| !allowed.contains(core))
}

/// The cores in a list such as `0-3,8`.
fn parse(list: &str) -> Option<BTreeSet<u32>> {
    let mut cores = BTreeSet::new();
    for entry in list.split(',') {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // No kernel has more.
        if last > 1 << 16 {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores)
}

/// Cores whose time the control groups of this process grant it, of both versions; `None` for all.
fn quota(machine: &Machine) -> Option<f64> {
    let groups = machine.text("/proc/self/cgroup").ok()?;
    let mut least: Option<f64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        let mount = if is_v2 { "/sys/fs/cgroup".to_owned() } else { format!("/sys/fs/cgroup/{controllers}") };
        // The groups above bind as well.
        for group in std::path::Path::new(path).ancestors() {
            let folder = format!("{mount}{}", group.display());
            let granted = if is_v2 { of_v2(machine, &folder) } else { of_v1(machine, &folder) };
            least = match (least, granted) {
                (Some(least), Some(granted)) => Some(least.min(granted)),
                (least, granted) => least.or(granted),
            };
        }
    }
    least
}

fn of_v2(machine: &Machine, folder: &str) -> Option<f64> {
    let text = machine.text(&format!("{folder}/cpu.max")).ok()?;
    let (quota, period) = text.split_once(' ')?;
    ratio(quota, period)
}

fn of_v1(machine: &Machine, folder: &str) -> Option<f64> {
    let read = |name: &str| machine.text(&format!("{folder}/cpu.{name}")).ok();
    ratio(&read("cfs_quota_us")?, &read("cfs_period_us")?)
}

/// Time per period; `None` for words such as `max` and for -1.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (u64, u64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_whole_or_not_at_all() {
        assert_eq!(parse("0-2,8"), Some([0, 1, 2, 8].into()));
        for bad in ["", "a", "1-", "0-4294967295"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn versions_and_quotas_have_their_own_forms() {
        assert_eq!(version("6.6.72+"), Some((6, 6)));
        assert_eq!(version("5.15.0-1030-gcp"), Some((5, 15)));
        assert_eq!(version("unknown"), None);
        assert_eq!((ratio("150000", "100000"), ratio("max", "100000")), (Some(1.5), None));
        assert_eq!((ratio("-1", "100000"), ratio("1", "0")), (None, None));
    }
}
