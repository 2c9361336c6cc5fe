//! One pass: the messages of one size over some channels, sent, received, acknowledged.
//!
//! Message k travels on channel k modulo their number and lies in slot k modulo the number of slots, at both
//! ends. The receiver answers each message that has arrived by the number of messages arrived so far on each
//! channel, on the back channel. Timed and verified passes run through the same code; a verified one
//! writes and checks inside it.

use std::time::{Duration, Instant};

use benches::cpu_time;
use benches::statistics::Latencies;
use tcpx_core::{ChannelId, Completion, RegistrationId, Slice};

use super::content::Content;
use super::link::{BACK_BYTES, Link, MOST_CHANNELS, whole};
use super::placement::Placement;
use super::words::Pass;
use crate::failure::Failure;

/// What one end saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) time: Duration,
    pub(super) cpu: Duration,
    /// From post to acknowledgement; empty at the receiver.
    pub(super) latencies: Latencies,
}

/// Messages arrived on each channel.
#[derive(Clone, Copy, Debug, Default)]
struct Counts([u64; MOST_CHANNELS]);

impl Counts {
    fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The oldest message of a pass over `channels` that has not arrived.
    fn oldest(&self, channels: usize) -> u64 {
        let oldest =
            self.0[..channels].iter().zip(0..).map(|(count, channel)| count * channels as u64 + channel);
        oldest.min().unwrap_or(0)
    }

    fn to_bytes(self) -> [u8; BACK_BYTES] {
        let mut bytes = [0; BACK_BYTES];
        for (bytes, count) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *bytes = count.to_le_bytes();
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; BACK_BYTES]) -> Self {
        let mut counts = Self::default();
        for (count, bytes) in counts.0.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *count = u64::from_le_bytes(*bytes);
        }
        counts
    }
}

/// How far ahead of the oldest unfinished message an end may post.
fn reach(pass: &Pass, placement: &Placement) -> u64 {
    (pass.in_flight * 2).max(pass.channels as u64).min(placement.slots())
}

/// Writes what a timed pass sends.
pub(super) fn prepare_send(content: &mut Content, pass: &Pass, placement: &Placement) -> Result<(), Failure> {
    let slots = if pass.verified { 0 } else { pass.messages.min(placement.slots()) };
    (0..slots).try_for_each(|slot| content.fill(pass, placement, slot))
}

/// Poisons what a timed pass receives into.
pub(super) fn prepare_receive(
    content: &mut Content,
    pass: &Pass,
    placement: &Placement,
) -> Result<(), Failure> {
    let slots = if pass.verified { 0 } else { pass.messages.min(placement.slots()) };
    (0..slots).try_for_each(|slot| content.poison(pass, placement, slot))
}

/// Checks what lies in the slots after a timed pass.
pub(super) fn check_received(
    content: &mut Content,
    pass: &Pass,
    placement: &Placement,
) -> Result<(), Failure> {
    let slots = if pass.verified { 0 } else { pass.messages.min(placement.slots()) };
    (0..slots).try_for_each(|slot| content.check(pass, placement, slot))
}

/// Sends every message of a pass and waits until all are acknowledged.
pub(super) fn send(
    link: &mut Link,
    content: &mut Content,
    pass: &Pass,
    placement: &Placement,
) -> Result<Seen, Failure> {
    let reach = reach(pass, placement);
    let cpu = cpu_time::process();
    let begin = Instant::now();
    let mut slices = Vec::new();
    let mut started = vec![begin; reach as usize];
    let mut latencies = Latencies::with_capacity(pass.messages as usize);
    let mut arrived = Counts::default();
    let (mut posted, mut filled) = (0, 0);
    while arrived.total() < pass.messages {
        while posted < pass.messages
            && posted - arrived.total() < pass.in_flight
            && posted - arrived.oldest(pass.channels) < reach
        {
            if pass.verified && filled == posted {
                content.fill(pass, placement, posted)?;
                filled += 1;
            }
            let id = cut(link, placement, pass, posted, &mut slices);
            let now = Instant::now();
            if !link.post(id, posted, &slices, now)? {
                break;
            }
            started[(posted % reach) as usize] = now;
            posted += 1;
        }
        link.wait(|link, id, completion| {
            if id != link.back {
                return Ok(());
            }
            let told = told(link, &completion)?;
            let now = Instant::now();
            for channel in 0..pass.channels {
                while arrived.0[channel] < told.0[channel] {
                    let message = arrived.0[channel] * pass.channels as u64 + channel as u64;
                    if message >= posted {
                        return Err(Failure::peer("the other end acknowledged what was never sent"));
                    }
                    latencies.add(now.saturating_duration_since(started[(message % reach) as usize]));
                    arrived.0[channel] += 1;
                }
            }
            link.post_back(BACK_BYTES).map(drop)
        })?;
    }
    Ok(Seen { time: begin.elapsed(), cpu: cpu_time::process().saturating_sub(cpu), latencies })
}

/// Receives every message of a pass and acknowledges each. Calls `ready` once the first receives are posted.
pub(super) fn receive(
    link: &mut Link,
    content: &mut Content,
    pass: &Pass,
    placement: &Placement,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<Seen, Failure> {
    let reach = reach(pass, placement);
    let mut ready = Some(ready);
    let mut start = None;
    let mut slices = Vec::new();
    let (mut arrived, mut told) = (Counts::default(), 0);
    let (mut posted, mut poisoned) = (0, 0);
    while told < pass.messages {
        while posted < pass.messages && posted - arrived.oldest(pass.channels) < reach {
            if pass.verified && poisoned == posted {
                content.poison(pass, placement, posted)?;
                poisoned += 1;
            }
            let id = cut(link, placement, pass, posted, &mut slices);
            if !link.post(id, posted, &slices, Instant::now())? {
                break;
            }
            posted += 1;
        }
        if let Some(ready) = ready.take() {
            ready()?;
            start = Some((Instant::now(), cpu_time::process()));
        }
        if told < arrived.total() && link.send_back(&arrived.to_bytes())? {
            told = arrived.total();
        }
        if told < pass.messages {
            link.wait(|link, id, completion| {
                if id == link.back {
                    return Ok(());
                }
                whole(&completion, pass.size)?;
                if pass.verified {
                    content.check(pass, placement, completion.token)?;
                }
                arrived.0[(completion.token % pass.channels as u64) as usize] += 1;
                Ok(())
            })?;
        }
    }
    while link.set.channel(link.back).is_ok_and(|back| back.has_work()) {
        link.wait(|_, _, _| Ok(()))?;
    }
    let (begin, cpu) = start.unwrap_or((Instant::now(), Duration::ZERO));
    let cpu = cpu_time::process().saturating_sub(cpu);
    Ok(Seen { time: begin.elapsed(), cpu, latencies: Latencies::default() })
}

/// The slices of a message and the channel it takes.
fn cut(link: &Link, placement: &Placement, pass: &Pass, number: u64, slices: &mut Vec<Slice>) -> ChannelId {
    let (id, registration): (ChannelId, RegistrationId) = link.data[(number % pass.channels as u64) as usize];
    slices.clear();
    let ranges = placement.ranges(number % placement.slots());
    slices.extend(ranges.map(|(offset, length)| Slice { registration, offset, length }));
    id
}

/// What the receiver says has arrived.
fn told(link: &Link, completion: &Completion) -> Result<Counts, Failure> {
    whole(completion, BACK_BYTES)?;
    let mut bytes = [0; BACK_BYTES];
    link.read_back(completion.token, &mut bytes)?;
    Ok(Counts::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_survive_the_wire_and_know_the_oldest() {
        let mut counts = Counts::default();
        counts.0[..3].copy_from_slice(&[5, 4, 6]);
        let counts = Counts::from_bytes(&counts.to_bytes());
        assert_eq!(counts.total(), 15);
        assert_eq!(counts.oldest(3), 4 * 3 + 1);
        assert_eq!(counts.oldest(1), 5);
    }
}
