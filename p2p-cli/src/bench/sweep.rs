//! The client of a sweep: every combination of a few values, round after round, each in processes of its own.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use p2p_transport_tcpx::Choice;
use tcpx_core::config::Config;

use super::Options;
use super::about::About;
use super::bootstrap::Peer;
use super::live::Live;
use super::session::greet_alone;
use super::swept::Swept;
use super::trial::{self, Setting};
use super::words::{Answer, Command};
use crate::failure::Failure;

/// Rounds at least, whatever the time, and at most.
const LEAST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 15;

/// What can be varied.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Knob {
    /// Channels to the peer (UCCL_TCPX_NUM_CHANNELS)
    Channels,
    /// Bytes of a chunk (UCCL_TCPX_CHUNK_BYTES; TCPX_SOFT_CHUNK_BYTES of the soft plugin)
    Chunk,
    /// Messages under way on a channel (UCCL_TCPX_MAX_SEND_INFLIGHT, UCCL_TCPX_MAX_RECV_INFLIGHT)
    Window,
}

/// Every combination of the values of these knobs; the defaults first.
fn grid(knobs: &[Knob], soft: bool) -> Vec<Setting> {
    let chunks: &[u64] = if soft { &[1 << 20, 4 << 20] } else { &[256 << 10, 1 << 20] };
    let mut settings = vec![Setting { soft, ..Setting::default() }];
    let vary = |settings: &mut Vec<Setting>, with: &dyn Fn(Setting, usize) -> Setting| {
        let varied: Vec<Setting> =
            settings.iter().flat_map(|one| [*one, with(*one, 0), with(*one, 1)]).collect();
        *settings = varied;
    };
    for knob in knobs {
        match knob {
            Knob::Channels => vary(&mut settings, &|one, at| Setting { channels: Some([2, 4][at]), ..one }),
            Knob::Chunk => vary(&mut settings, &|one, at| Setting { chunk_bytes: Some(chunks[at]), ..one }),
            Knob::Window => {
                vary(&mut settings, &|one, at| Setting { window: Some([(4, 4), (8, 8)][at]), ..one });
            }
        }
    }
    settings
}

/// Measures every combination.
pub(super) fn run(
    options: &Options,
    config: &Config,
    peer: &mut Peer,
    host: &str,
    live: &Live,
) -> Result<Swept, Failure> {
    let mut knobs = options.sweep.clone();
    knobs.sort_unstable();
    knobs.dedup();
    let soft = options.plugin.is_none() && Choice::of(config).file_below(Path::new("/")).is_none();
    let settings = grid(&knobs, soft);
    greet_alone(peer, options)?;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let device = u16::from(config.local_device.value.get());
    let mut rounds = Vec::new();
    while rounds.len() < LEAST_ROUNDS || (rounds.len() < MOST_ROUNDS && Instant::now() < until) {
        live.phase(&format!("round {} of {} settings", rounds.len() + 1, settings.len()));
        let mut round = vec![None; settings.len()];
        for turn in 0..settings.len() {
            // Nobody is always first.
            let at = (turn + rounds.len()) % settings.len();
            let setting = &settings[at];
            let typed = setting.typed();
            live.step(if typed.is_empty() { "defaults" } else { &typed });
            peer.say(&Command::Trial(*setting))?;
            let port = match peer.hear()? {
                Answer::Listening { port } => port,
                Answer::Failed(text) => return Err(Failure::new(text)),
                Answer::Ready | Answer::Passed { .. } | Answer::Nics(_) => {
                    return Err(Failure::peer("the server answered what was not asked"));
                }
            };
            round[at] = Some(trial::client(options, setting, host, port, device)?);
        }
        rounds.push(round.into_iter().flatten().collect());
    }
    peer.say(&Command::End)?;
    Swept::of(About::here(), &settings, &rounds).ok_or_else(|| Failure::new("the sweep came to no figures"))
}

#[cfg(test)]
mod tests {
    use super::{Knob, grid};

    #[test]
    fn every_combination_is_there_once_and_the_defaults_are_first() {
        for soft in [true, false] {
            for (knobs, count) in [
                (&[Knob::Window][..], 3),
                (&[Knob::Channels, Knob::Chunk], 9),
                (&[Knob::Channels, Knob::Chunk, Knob::Window], 27),
            ] {
                let settings = grid(knobs, soft);
                assert_eq!(settings.len(), count);
                assert_eq!(settings[0].typed(), "");
                let mut typed: Vec<String> = settings.iter().map(|setting| setting.typed()).collect();
                typed.sort_unstable();
                typed.dedup();
                assert_eq!(typed.len(), count);
                assert!(settings.iter().all(|setting| setting.is_possible() && setting.soft == soft));
            }
        }
    }
}
