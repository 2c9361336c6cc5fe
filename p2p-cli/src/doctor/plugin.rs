//! Which net plugin is used and why, its file, and the settings that it gets.

use std::collections::BTreeSet;
use std::path::Path;

use p2p_transport_tcpx::{Choice, usual_places};
use tcpx_core::config::TransportName;
use tcpx_core::preflight::{self, Check, Nature, Subject};

use super::elf;
use super::line::{Fault, Line, judged};
use super::machine::Machine;

const TRANSPORT: &str = "transport";
const FILE: &str = "plugin file";
const SETTINGS: &str = "plugin settings";
/// PCI vendor of gVNICs.
const GOOGLE: &str = "0x1ae0";
/// Versions of the plugin's table that can be used.
const VERSIONS: std::ops::RangeInclusive<u32> = 7..=11;

/// What moves the bytes, and whether it is what `UCCL_P2P_REQUIRE` asks for.
pub(super) fn transport(machine: &Machine) -> Vec<Line> {
    let chosen = machine.plugin();
    let forced = machine.config.transport.is_from_user();
    let found = match (&chosen.file, &chosen.choice) {
        (None, Choice::Soft) => {
            "plain TCP is used (the soft plugin), because UCCL_P2P_TRANSPORT=tcp".to_owned()
        }
        (None, Choice::Auto | Choice::File(_)) => {
            let folders: BTreeSet<_> =
                usual_places().iter().filter_map(|place| place.parent().map(shown)).collect();
            let folders: Vec<_> = folders.into_iter().collect();
            format!(
                "plain TCP is used (the soft plugin), because Google's plugin is not in {}",
                folders.join(" or ")
            )
        }
        (Some(file), _) => {
            let why = if machine.config.plugin_path.is_from_user() {
                "UCCL_TCPX_PLUGIN_PATH names it"
            } else if forced && machine.config.transport.value == TransportName::Tcpx {
                "UCCL_P2P_TRANSPORT=tcpx"
            } else {
                "it is there"
            };
            let what = match chosen.nature {
                Nature::Tcpx => "GPUDirect-TCPX is chosen",
                Nature::Soft => "the soft plugin is chosen as a library, over plain TCP",
                Nature::Other => "another net plugin is chosen, with host memory",
            };
            format!("{what} ({}), because {why}", shown(file))
        }
    };
    let mut faults = Vec::new();
    let required = machine.config.require.value.unwrap_or(TransportName::Auto);
    let fits = match required {
        TransportName::Auto => true,
        TransportName::Tcpx => chosen.nature == Nature::Tcpx,
        TransportName::Tcp => chosen.nature == Nature::Soft,
    };
    if !fits {
        let mend = match required {
            TransportName::Tcpx => {
                "install Google's plugin, or name its file in UCCL_TCPX_PLUGIN_PATH, or allow plain TCP: unset \
                 UCCL_P2P_REQUIRE"
            }
            TransportName::Tcp | TransportName::Auto => {
                "set UCCL_P2P_TRANSPORT=tcp, or unset UCCL_P2P_REQUIRE"
            }
        };
        faults.push(Fault::fail(format!("UCCL_P2P_REQUIRE={} forbids it", required.name()), mend));
    } else if chosen.choice == Choice::Auto && chosen.file.is_none() && could_be_tcpx(machine) {
        faults.push(Fault::warn(
            "this machine has GPUs and gVNICs, which GPUDirect-TCPX could join",
            "install Google's plugin (its container copies it to /usr/local/tcpx/lib64), or set \
             UCCL_P2P_TRANSPORT=tcp to say that plain TCP is meant",
        ));
    }
    vec![judged(TRANSPORT, &found, faults)]
}

/// Whether there is a GPU, and a gVNIC beside the one that every such machine has.
fn could_be_tcpx(machine: &Machine) -> bool {
    let Ok(tree) = machine.tree() else { return false };
    let is_gvnic = |name: &str| {
        let vendor = machine.text(&format!("/sys/class/net/{name}/device/vendor"));
        vendor.is_ok_and(|vendor| vendor == GOOGLE)
    };
    !tree.gpus().is_empty() && tree.interfaces().iter().filter(|nic| is_gvnic(&nic.name)).count() > 1
}

/// Whether the plugin's file can be loaded, as far as can be told without loading it.
pub(super) fn file(machine: &Machine) -> Vec<Line> {
    let Some(path) = &machine.plugin().file else {
        return vec![Line::ok(FILE, "none is needed: the soft plugin is built in")];
    };
    if path.components().count() < 2 {
        let found = format!("{} is left to the search of the dynamic linker", shown(path));
        return vec![Line::ok(FILE, found)];
    }
    vec![match fault_of(machine, path) {
        Err(Fault { found, mend, .. }) => Line::fail(FILE, format!("{}: {found}", shown(path)), mend),
        Ok(tables) => Line::ok(FILE, format!("{} has {}", shown(path), tables.join(", "))),
    }]
}

/// Whether the file that was chosen can be loaded, as far as can be told without loading it.
pub(super) fn is_loadable(machine: &Machine) -> bool {
    let file = machine.plugin().file.as_deref();
    file.is_none_or(|path| path.components().count() < 2 || fault_of(machine, path).is_ok())
}

/// The plugin tables in a file, or what is wrong with it.
fn fault_of(machine: &Machine, path: &Path) -> Result<Vec<String>, Fault> {
    if let Some(refusal) = preflight::check_file(path, machine.root()).refusals.into_iter().next() {
        return Err(Fault::fail(refusal.consequence, refusal.mend));
    }
    let mend = "name the file of a net plugin in UCCL_TCPX_PLUGIN_PATH, or install it anew";
    let tables = elf::exports(&machine.at(path)).map_err(|why| Fault::fail(format!("it {why}"), mend))?;
    let version =
        |name: &String| name.strip_prefix(elf::TABLE).and_then(|version| version.parse::<u32>().ok());
    let usable: Vec<_> = tables
        .iter()
        .filter(|name| version(name).is_some_and(|version| VERSIONS.contains(&version)))
        .cloned()
        .collect();
    if usable.is_empty() {
        let there = if tables.is_empty() {
            "no table of one".to_owned()
        } else {
            format!("only {}", tables.join(", "))
        };
        let found = format!(
            "it is no net plugin that can be used: it exports {there}, and {}{} to {} are known",
            elf::TABLE,
            VERSIONS.start(),
            VERSIONS.end()
        );
        return Err(Fault::fail(found, mend));
    }
    Ok(usable)
}

/// Settings with which Google's plugin would crash, hang or fail.
pub(super) fn settings(machine: &Machine) -> Vec<Line> {
    if !machine.uses_tcpx() {
        return vec![Line::ok(SETTINGS, "nothing to check: only Google's plugin breaks on some of them")];
    }
    let findings = machine.findings();
    let refused = findings.refusals.into_iter().filter(|refusal| is_setting(refusal.check));
    let mut faults: Vec<_> = refused
        .map(|refusal| Fault::fail(format!("{}: {}", refusal.subject, refusal.consequence), refusal.mend))
        .collect();
    let notes = findings.notes.into_iter().filter(|note| matches!(note.subject, Subject::Variable(_)));
    faults.extend(notes.map(|note| {
        let mend = format!("correct or unset {}", note.subject);
        Fault::warn(note.to_string(), mend)
    }));
    let set: Vec<_> =
        findings.assignments.iter().map(|set| format!("{}={}", set.variable, set.value)).collect();
    let found = if set.is_empty() {
        "none of them breaks the plugin".to_owned()
    } else {
        format!("set by this library because they are unset: {}", set.join(", "))
    };
    vec![judged(SETTINGS, &found, faults)]
}

/// Whether a rule is about the plugin's settings alone; the others are told with the machine's part that they
/// are about.
fn is_setting(check: Check) -> bool {
    let of_the_machine = [
        Check::ControlDeviceMissing,
        Check::DataNicMissing,
        Check::NoPciNic,
        Check::NumaNode,
        Check::CpuList,
        Check::PciDomain,
        Check::PrefixTooLong,
        Check::PrefixMissing,
        Check::RxdmSockets,
        Check::NoDriver,
        Check::NoGpu,
        Check::TreeUnreadable,
    ];
    !of_the_machine.contains(&check)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
