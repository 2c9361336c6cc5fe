//! The client of a calibration: plain TCP alone.

use std::fs;
use std::time::{Duration, Instant};

use benches::distance::Probe;
use benches::raw_tcp;

use super::Options;
use super::bootstrap::Peer;
use super::calibrated::Calibrated;
use super::live::Live;
use super::plan::{self, COMPARED};
use super::session::{greet_alone, machine, open_raw};
use super::words::Command;
use crate::failure::{Doing, Failure};

/// Plain TCP alone: every layout under every congestion control this user may choose.
pub(super) fn run(options: &Options, peer: &mut Peer, live: &Live) -> Result<Calibrated, Failure> {
    let there = greet_alone(peer, options)?.machine;
    live.phase("measuring plain TCP");
    let mut probe = Probe::new().doing("reading which cores this process may use")?;
    let names = options.congestion.clone().map_or_else(congestion_controls, |name| vec![name]);
    let until = Instant::now() + Duration::from_secs(options.seconds.min(60));
    let mut calibrated = Calibrated::default();
    let mut senders = Vec::new();
    while calibrated.rounds() == 0 || Instant::now() < until {
        let before = probe.measure().doing("measuring the distance of cores")?;
        for (index, name) in names.iter().enumerate() {
            live.step(&format!("{name}, cores {}", before.state));
            // One congestion control at a time: the server keeps one baseline open.
            drop(senders.pop());
            senders.push(open_raw(peer, Some(name.clone()), COMPARED, 1, there == machine())?);
            let Some(sender) = senders.last_mut() else { continue };
            peer.say(&Command::Raw { pinned: false })?;
            for (layout, shape) in sender.layouts().iter().enumerate() {
                let mut best: Option<raw_tcp::Round> = None;
                let begin = Instant::now();
                // The first messages of fresh sockets are slow, so the fastest of several rounds counts.
                while best.is_none() || begin.elapsed() < plan::CALIBRATED {
                    let round = sender
                        .round(layout, plan::CALIBRATED_MESSAGES, COMPARED)
                        .doing("measuring plain TCP")?;
                    if best.as_ref().is_none_or(|best| round.sender_time < best.sender_time) {
                        best = Some(round);
                    }
                }
                if let Some(best) = best {
                    calibrated.add(shape.to_string(), name, index, &best);
                }
            }
            sender.pause().doing("measuring plain TCP")?;
        }
        let after = probe.measure().doing("measuring the distance of cores")?;
        calibrated.end_round(before, after);
    }
    peer.say(&Command::End)?;
    Ok(calibrated)
}

/// Those that this user may choose.
fn congestion_controls() -> Vec<String> {
    let root = rustix::process::geteuid().is_root();
    let list = if root { "tcp_available_congestion_control" } else { "tcp_allowed_congestion_control" };
    let names = fs::read_to_string(format!("/proc/sys/net/ipv4/{list}")).unwrap_or_default();
    let mut names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() {
        names.push("reno".to_owned());
    }
    names
}
