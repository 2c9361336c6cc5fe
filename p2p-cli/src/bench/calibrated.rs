//! Plain TCP alone, under each congestion control.

use std::collections::BTreeMap;
use std::fmt;

use benches::distance::Distance;
use benches::raw_tcp::Round;
use benches::statistics::{cpu_seconds_per_gigabyte, median};
use serde::Serialize;

use super::figures::same_state;
use super::text::counted;

/// Plain TCP under several congestion controls.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Calibrated {
    names: Vec<String>,
    /// For each layout and congestion control, GB/s and CPU s/GB of each round.
    layouts: BTreeMap<String, Vec<Vec<(f64, f64)>>>,
    /// Distance of cores before and after each round, in nanoseconds, and the state if it was the same.
    distances: Vec<(Option<f64>, Option<f64>, Option<&'static str>)>,
}

impl Calibrated {
    pub(super) const fn rounds(&self) -> usize {
        self.distances.len()
    }

    pub(super) fn add(&mut self, layout: String, name: &str, index: usize, round: &Round) {
        if self.names.len() <= index {
            self.names.push(name.to_owned());
        }
        let of_layout = self.layouts.entry(layout).or_default();
        of_layout.resize(of_layout.len().max(index + 1), Vec::new());
        let cpu = cpu_seconds_per_gigabyte(round.sender_cpu + round.receiver_cpu, round.bytes);
        of_layout[index].push((round.gigabytes_per_second(), cpu));
    }

    pub(super) fn end_round(&mut self, before: Distance, after: Distance) {
        let state = same_state(before, after);
        self.distances.push((before.nanoseconds, after.nanoseconds, state));
    }
}

impl fmt::Display for Calibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "plain TCP, one 64 MiB buffer, each message acknowledged; median GB/s (CPU s/GB)")?;
        let states: Vec<&'static str> =
            self.distances.iter().map(|(_, _, state)| state.unwrap_or("changing")).collect();
        let mut known = states.clone();
        known.sort_unstable();
        known.dedup();
        for state in known {
            let rounds = states.iter().filter(|one| **one == state).count();
            writeln!(f, "\ncores {state}, {}", counted(rounds, "round"))?;
            writeln!(
                f,
                "{:44}{}",
                "",
                self.names.iter().map(|name| format!("{name:>16}")).collect::<String>()
            )?;
            for (layout, by_name) in &self.layouts {
                write!(f, "{layout:44}")?;
                for rounds in by_name {
                    let of_state = rounds.iter().zip(&states).filter(|(_, one)| **one == state);
                    let (speeds, cpus): (Vec<f64>, Vec<f64>) = of_state.map(|(round, _)| *round).unzip();
                    let cell = format!(
                        "{:.1} ({:.2})",
                        median(&speeds).unwrap_or(0.0),
                        median(&cpus).unwrap_or(0.0)
                    );
                    write!(f, "{cell:>16}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
