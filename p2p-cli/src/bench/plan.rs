//! How much is measured in the time given.

use std::time::Duration;

use super::words::{Pass, Shape};

/// The message size at which the product and plain TCP are compared.
pub(super) const COMPARED: usize = 64 << 20;
/// The longer size at which writes are compared as well, and the messages of one such comparison.
pub(super) const LONG: usize = 256 << 20;
pub(super) const LONG_MESSAGES: u64 = 4;
/// Messages of that size under way, in the product and in plain TCP.
pub(super) const IN_FLIGHT: u64 = 3;
/// Transfers of 64 MiB and more of an endpoint under way.
pub(super) const ENDPOINT_IN_FLIGHT: u64 = 2;
/// Smaller ones under way at most.
const ENDPOINT_MOST_IN_FLIGHT: u64 = 16;
/// Rounds over all sizes that there shall be time for.
pub(super) const SIZE_ROUNDS_WANTED: u32 = 5;
/// Rounds over all sizes at most.
pub(super) const SIZE_ROUNDS: usize = 9;
/// Least bytes that messages rotate over, more than a last-level cache holds.
const REGION: usize = 512 << 20;
/// Slice of a scattered message.
pub(super) const SLICE: usize = 16 << 10;
/// Messages of one comparison.
pub(super) const COMPARED_MESSAGES: u64 = 16;
/// Rounds of one state that settle a ratio.
pub(super) const SETTLED: usize = 5;
/// Other programs' threads ready to run, on average, up to which a round is undisturbed.
pub(super) const QUIET: f64 = 0.25;
/// Round trips of one ping-pong.
pub(super) const PINGS: u64 = 2000;
/// Time for one layout in one round of the calibration, and the messages of one try.
pub(super) const CALIBRATED: Duration = Duration::from_millis(250);
pub(super) const CALIBRATED_MESSAGES: u64 = 6;
/// Plain TCP layouts that are measured in every round, the fastest of the qualification.
pub(super) const FINALISTS: usize = 2;

/// What messages travel over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    /// Of each connection.
    pub(super) channels: usize,
    /// With a connection each.
    pub(super) nics: usize,
}

/// The times of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Until endpoints are measured over sizes.
    pub(super) matrix: Duration,
    /// Until the first comparison.
    pub(super) sizes: Duration,
    /// The whole run.
    pub(super) whole: Duration,
    /// How much longer it may take when the machine is restless.
    pub(super) extension: Duration,
    /// Each plain TCP layout in the qualification.
    pub(super) qualification: Duration,
}

impl Plan {
    pub(super) fn new(seconds: u64) -> Self {
        let whole = Duration::from_secs(seconds);
        Self {
            matrix: whole.mul_f64(0.27),
            sizes: whole.mul_f64(0.5),
            whole,
            extension: whole.min(Duration::from_secs(60)),
            qualification: (whole / 200).clamp(Duration::from_millis(1), Duration::from_millis(300)),
        }
    }
}

/// Bytes that messages rotate over.
pub(super) fn region(sizes: &[usize]) -> usize {
    let largest = sizes.iter().copied().max().unwrap_or(0).max(COMPARED);
    REGION.max((largest * (IN_FLIGHT as usize + 1)).next_multiple_of(SLICE))
}

/// A pass of `messages` messages.
pub(super) fn pass(size: usize, lanes: Lanes, messages: u64, verified: bool, number: u64) -> Pass {
    let in_flight = in_flight(size, lanes);
    let Lanes { channels, nics } = lanes;
    Pass { size, shape: Shape::Contiguous, channels, nics, messages, in_flight, verified, number }
}

/// As many as give the same bytes under way, but not fewer than three or more than the windows hold.
pub(super) fn in_flight(size: usize, lanes: Lanes) -> u64 {
    let window = 12 * lanes.channels * lanes.nics;
    ((COMPARED / size) as u64).clamp(IN_FLIGHT, window as u64)
}

/// Transfers of an endpoint under way: as many as give the same bytes, within bounds.
pub(super) fn endpoint_in_flight(size: usize) -> u64 {
    ((COMPARED / size) as u64).clamp(ENDPOINT_IN_FLIGHT, ENDPOINT_MOST_IN_FLIGHT)
}

/// Messages of a verified pass: enough to fill the windows twice, or for large ones a few.
pub(super) fn verified_messages(size: usize, lanes: Lanes) -> u64 {
    let twice = 2 * in_flight(size, lanes) + 1;
    let affordable = ((256 << 20) / size) as u64;
    twice.min(affordable).max(IN_FLIGHT + 1)
}

/// Messages of a timed pass that shall take about `time`, after `messages` took `took`.
pub(super) fn timed_messages(messages: u64, took: Duration, time: Duration) -> u64 {
    let each = took.as_secs_f64() / messages.max(1) as f64;
    let fitting = (time.as_secs_f64() / each.max(1e-9)) as u64;
    fitting.clamp(IN_FLIGHT + 1, 200_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_fits_windows_and_region() {
        for size in [1, 4096, 65536, 1 << 20, 16 << 20, 64 << 20, 256 << 20] {
            for (channels, nics) in [(1, 1), (2, 1), (4, 1), (16, 1), (1, 2), (16, 16)] {
                let lanes = Lanes { channels, nics };
                let under_way = in_flight(size, lanes);
                assert!((3..=12 * (channels * nics) as u64).contains(&under_way));
                assert!(region(&[size]) as u64 / size as u64 > under_way.min(3), "{size}");
                assert!(verified_messages(size, lanes) > IN_FLIGHT);
            }
        }
        assert_eq!(in_flight(COMPARED, Lanes { channels: 4, nics: 1 }), IN_FLIGHT);
        assert_eq!([256, 16 << 20, COMPARED, 1 << 30].map(endpoint_in_flight), [16, 4, 2, 2]);
        assert_eq!(region(&[4096]), 512 << 20);
        assert_eq!(region(&[256 << 20]), 1 << 30);
    }

    #[test]
    fn a_pass_lasts_about_as_long_as_asked() {
        let second = Duration::from_secs(1);
        assert_eq!(timed_messages(10, second, 2 * second), 20);
        assert_eq!(timed_messages(10, second, Duration::from_millis(1)), IN_FLIGHT + 1);
        assert_eq!(timed_messages(10, Duration::ZERO, second), 200_000);
    }
}
