//! Small messages to and fro, both ends polling without blocking in the calling thread.

use std::time::Instant;

use benches::raw_tcp::PING_BYTES;
use benches::statistics::Latencies;
use p2p_memory::SharedHost;
use tcpx_core::{ChannelId, Completion, Release, Slice};

use super::link::{BACK_BYTES, Link, SILENCE, whole};
use crate::failure::Failure;

/// Messages may be posted in this many places of the region, so that one is written while another lies.
const PLACES: u64 = 8;
const PLACE: usize = 4096;
/// Polls between two looks at the clock for silence.
const POLLS: u32 = 1 << 14;

/// Sends messages, each after the answer to the one before it, and times each round trip.
pub(super) fn call(link: &mut Link, region: &SharedHost, messages: u64) -> Result<Latencies, Failure> {
    let mut latencies = Latencies::with_capacity(messages as usize);
    let id = link.data[0].0;
    let mut answer = [0; PING_BYTES];
    for number in 0..messages {
        let message = [number as u8; PING_BYTES];
        region.copy_in(place(number), &message).map_err(|error| Failure::new(error.to_string()))?;
        let slice = small(link, number);
        let start = Instant::now();
        if !link.post(id, number, &[slice], start)? {
            return Err(Failure::new("a channel with nothing under way takes no message"));
        }
        let completion = poll(link, link.back)?;
        latencies.add(start.elapsed());
        whole(&completion, PING_BYTES)?;
        link.read_back(completion.token, &mut answer)?;
        if answer != message {
            return Err(Failure::new(format!("WRONG DATA: answer {number} of the ping-pong differs")));
        }
        link.post_back(BACK_BYTES)?;
        poll(link, id)?;
    }
    Ok(latencies)
}

/// Sends back what comes. Calls `ready` once the first receive is posted.
pub(super) fn echo(
    link: &mut Link,
    region: &SharedHost,
    messages: u64,
    ready: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let id = link.data[0].0;
    let post = |link: &mut Link, number: u64| {
        let slice = small(link, number);
        link.post(id, number, &[slice], Instant::now()).map(drop)
    };
    post(link, 0)?;
    ready()?;
    let mut message = [0; PING_BYTES];
    for number in 0..messages {
        let completion = poll(link, id)?;
        whole(&completion, PING_BYTES)?;
        region.copy_out(place(number), &mut message).map_err(|error| Failure::new(error.to_string()))?;
        link.send_back(&message)?;
        if number + 1 < messages {
            post(link, number + 1)?;
        }
        poll(link, link.back)?;
    }
    Ok(())
}

const fn place(number: u64) -> usize {
    (number % PLACES) as usize * PLACE
}

fn small(link: &Link, number: u64) -> Slice {
    Slice { registration: link.data[0].1, offset: place(number), length: PING_BYTES }
}

/// Polls one channel until its oldest message ends.
fn poll(link: &mut Link, id: ChannelId) -> Result<Completion, Failure> {
    let channel = link.set.channel(id).map_err(|misuse| Failure::new(misuse.to_string()))?;
    let begin = Instant::now();
    let mut polls = 0_u32;
    let mut now = begin;
    loop {
        match channel.release() {
            Release::Released(completion) => return Ok(completion),
            Release::Failed(fault) => return Err(Failure::peer(fault.to_string())),
            Release::NotYet => {}
        }
        channel.progress_oldest(now);
        polls += 1;
        if polls.is_multiple_of(POLLS) {
            now = Instant::now();
            if now - begin > SILENCE {
                return Err(Failure::peer("the other end of the ping-pong is silent"));
            }
        }
    }
}
