//! What many measurements say together.

use std::time::Duration;

/// The value in the middle; of an even number of values, the mean of the two in the middle. `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + upper) / 2.0 } else { upper })
}

/// How far the values lie apart: largest less smallest, over the median. `None` of none.
pub fn spread(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    Some((sorted.last()? - sorted.first()?) / median(values)?)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// Durations of single messages, kept to ask for percentiles.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    nanoseconds: Vec<u64>,
}

impl Latencies {
    /// Room for `count` durations, so that adding that many allocates nothing.
    pub fn with_capacity(count: usize) -> Self {
        Self { nanoseconds: Vec::with_capacity(count) }
    }

    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        self.nanoseconds.push(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.nanoseconds.len()
    }

    /// The smallest duration that at least `percent` of all do not exceed; zero of none.
    pub fn percentile(&self, percent: f64) -> Duration {
        let mut sorted = self.nanoseconds.clone();
        sorted.sort_unstable();
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        let index = rank.saturating_sub(1).min(sorted.len().saturating_sub(1));
        Duration::from_nanos(sorted.get(index).copied().unwrap_or(0))
    }
}

/// Gigabytes (10^9 bytes) per second; zero of no time.
pub fn gigabytes_per_second(bytes: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { bytes as f64 / 1e9 / seconds } else { 0.0 }
}

/// CPU seconds per gigabyte (10^9 bytes); zero of no bytes.
pub fn cpu_seconds_per_gigabyte(cpu: Duration, bytes: u64) -> f64 {
    if bytes > 0 { cpu.as_secs_f64() / (bytes as f64 / 1e9) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_any_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), Some(3.0));
    }

    #[test]
    fn spread_is_relative_to_the_median() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[2.0, 3.0, 1.0]), Some(1.0));
    }

    #[test]
    fn percentiles_are_durations_that_were_measured() {
        let mut latencies = Latencies::with_capacity(100);
        for n in (1..=100).rev() {
            latencies.add(Duration::from_nanos(n));
        }
        assert_eq!(latencies.percentile(50.0), Duration::from_nanos(50));
        assert_eq!(latencies.percentile(99.0), Duration::from_nanos(99));
        assert_eq!(latencies.percentile(100.0), Duration::from_nanos(100));
        assert_eq!(latencies.percentile(0.0), Duration::from_nanos(1));
        assert_eq!(Latencies::default().percentile(50.0), Duration::ZERO);
    }

    #[test]
    fn rates_are_decimal() {
        assert_eq!(gigabytes_per_second(4_000_000_000, Duration::from_secs(2)), 2.0);
        assert_eq!(cpu_seconds_per_gigabyte(Duration::from_secs(1), 4_000_000_000), 0.25);
        assert_eq!(gigabytes_per_second(1, Duration::ZERO), 0.0);
        assert_eq!(cpu_seconds_per_gigabyte(Duration::from_secs(1), 0), 0.0);
    }
}
