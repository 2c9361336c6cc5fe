//! Whether the plugin starts, and whether bytes move through it: tried in children, which may crash or hang.

use std::process::Command;
use std::time::Duration;

use tcpx_core::preflight::Nature;

use super::child::{self, Outcome};
use super::line::{Fault, Line, judged};
use super::machine::Machine;
use super::probe::{Answer, Device, Probe};
use super::{plugin, show};

const START: &str = "plugin start";
const TRANSFER: &str = "loopback transfer";
/// How long the plugin may take to start. Google's makes a CUDA context for each GPU.
pub(super) const START_LIMIT: Duration = Duration::from_secs(6);
/// How long the transfer may take, in which the plugin starts once more.
pub(super) const TRANSFER_LIMIT: Duration = Duration::from_secs(6);

/// How the plugin started, for what comes after it.
#[derive(Clone, Debug)]
pub(super) struct Started {
    line: Line,
    is_well: bool,
}

/// Starts the plugin in a child, and shows its devices.
pub(super) fn start(machine: &Machine) -> Vec<Line> {
    vec![started(machine).line.clone()]
}

/// Moves a few MiB between two ends of one connection in a child.
pub(super) fn transfer(machine: &Machine) -> Vec<Line> {
    let skip = |why: &str| vec![Line::skip(TRANSFER, why)];
    if let Some(why) = obstacle(machine) {
        return skip(&why);
    }
    if machine.uses_tcpx() {
        return skip(
            "not tried: GPUDirect-TCPX carries nothing between two ends of one host; use a second host",
        );
    }
    if !started(machine).is_well {
        return skip("not tried: the plugin has to start first");
    }
    let outcome = try_out(Probe::Transfer, TRANSFER_LIMIT);
    let mend =
        "see docs/troubleshooting.md; a firewall of this host or a NIC that is down is the usual reason";
    vec![match answer(&outcome) {
        Some(Answer::Moved { bytes, micros, over }) => {
            let found = format!(
                "{} MiB over {over} in {} ms, every byte compared",
                bytes >> 20,
                micros.div_ceil(1000)
            );
            judged(TRANSFER, &found, at_the_end(&outcome))
        }
        Some(Answer::Failed(text)) => Line::fail(TRANSFER, text, mend),
        Some(Answer::Started { .. }) | None => {
            Line::fail(TRANSFER, format!("the transfer {}; {}", outcome.how(), outcome.said()), mend)
        }
    }]
}

fn started(machine: &Machine) -> &Started {
    machine.started.get_or_init(|| {
        let line = match obstacle(machine) {
            Some(why) => Line::skip(START, why),
            None => tried(machine),
        };
        let is_well = matches!(line.status, super::line::Status::Ok | super::line::Status::Warn);
        Started { line, is_well }
    })
}

/// Why nothing is tried, if so.
fn obstacle(machine: &Machine) -> Option<String> {
    if !machine.is_this_one() {
        return Some("not tried: --root shows another machine".to_owned());
    }
    if !machine.problems.is_empty() {
        return Some("not tried: the variables have to be corrected first".to_owned());
    }
    if !plugin::is_loadable(machine) {
        return Some("not tried: the plugin file has to be mended first".to_owned());
    }
    if plugin::transport(machine).iter().any(|line| line.status == super::line::Status::Fail) {
        return Some("not tried: UCCL_P2P_REQUIRE forbids this plugin".to_owned());
    }
    let refusals = machine.findings().refusals.len();
    (refusals > 0)
        .then(|| format!("not tried: the plugin would crash, hang or fail for {refusals} reasons told here"))
}

fn tried(machine: &Machine) -> Line {
    let outcome = try_out(Probe::Start, START_LIMIT);
    let built_in = machine.plugin().file.is_none();
    let mend = match (machine.nature_of_plugin(), built_in) {
        (Nature::Tcpx, _) => {
            "set NCCL_DEBUG=INFO and try again to hear more; UCCL_P2P_TRANSPORT=tcp uses plain TCP meanwhile"
        }
        (Nature::Soft, true) => "correct the variable or the interface that it names",
        (Nature::Soft | Nature::Other, _) => {
            "use another build of the plugin (UCCL_TCPX_PLUGIN_PATH), or plain TCP (UCCL_P2P_TRANSPORT=tcp)"
        }
    };
    match answer(&outcome) {
        Some(Answer::Started { plugin, devices }) if devices.is_empty() => {
            let mend = "name interfaces that exist in NCCL_GPUDIRECTTCPX_SOCKET_IFNAME";
            Line::fail(START, format!("{plugin} starts and finds no NIC"), mend)
        }
        Some(Answer::Started { plugin, devices }) => {
            // The soft plugin says a speed where the kernel knows none.
            let is_soft = machine.nature_of_plugin() == Nature::Soft;
            let names: Vec<_> = devices
                .iter()
                .map(|device| if is_soft { device.name.clone() } else { named(device) })
                .collect();
            let found = format!("{plugin} starts with {}", names.join(", "));
            judged(START, &found, at_the_end(&outcome))
        }
        Some(Answer::Failed(text)) => Line::fail(START, text, mend),
        Some(Answer::Moved { .. }) | None => {
            Line::fail(START, format!("the plugin {}; {}", outcome.how(), outcome.said()), mend)
        }
    }
}

fn named(device: &Device) -> String {
    match u32::try_from(device.megabits) {
        Ok(megabits @ 1..) => format!("{} ({})", device.name, show::speed(megabits)),
        Ok(0) | Err(_) => device.name.clone(),
    }
}

/// What did its work may crash or hang all the same when the process ends.
fn at_the_end(outcome: &Outcome) -> Vec<Fault> {
    if outcome.is_well() {
        return Vec::new();
    }
    let found = format!("afterwards, while its process ended, it {}", outcome.how());
    vec![Fault::warn(found, "use another build of the plugin: every program ends that way with this one")]
}

fn answer(outcome: &Outcome) -> Option<Answer> {
    serde_json::from_str(outcome.result.as_deref()?).ok()
}

/// This program again, as a child that tries one thing.
fn try_out(probe: Probe, limit: Duration) -> Outcome {
    let program = std::env::current_exe().unwrap_or_else(|_| "p2p".into());
    let probe = match probe {
        Probe::Start => "start",
        Probe::Transfer => "transfer",
    };
    // Without colours in what it writes, since it is read here.
    child::run(Command::new(program).args(["doctor", "--probe", probe]).env("NO_COLOR", "1"), limit)
}
