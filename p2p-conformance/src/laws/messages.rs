//! Laws 14 and 15: messages of every shape, and too long ones.

use p2p_transport::{OpFault, Outcome, Slice};

use crate::flow::CANARY;
use crate::random::pattern;
use crate::rig::{Rig, Side, require};

/// Slices of a list that a law spells out in full; more are not needed to see a list handled wrongly.
const MOST_SLICES: usize = 1024;

/// Law 14.
pub(crate) fn shapes(rig: &mut Rig<'_>) {
    rig.connect();
    let largest = rig.longest(usize::MAX);
    let most = [0, 1].map(|end| usize::from(rig.limits(end).max_slices).min(MOST_SLICES));
    let mut lengths =
        vec![0, 1, 2, 7, 8, 9, 63, 1000, 4095, 4096, 4097, 70_001, largest.saturating_sub(1), largest];
    lengths.retain(|&length| length <= largest);
    lengths.dedup();
    let room = 2 * largest.min(1 << 20) + largest + 4 * MOST_SLICES + 64;
    let buffers = [rig.buffer(0, room), rig.buffer(1, room)];
    for (number, &length) in lengths.iter().enumerate() {
        let shapes = [(1, 1), (1, most[1]), (most[0], 1), (most[0], most[1])];
        for (shape, &(gather, scatter)) in shapes.iter().enumerate() {
            if shapes[..shape].contains(&(gather, scatter)) {
                continue;
            }
            if length > 1 << 20 && shape == 1 {
                continue;
            }
            let from = (number + shape) % 2;
            let cuts = [(from, gather.min(most[from])), (1 - from, scatter.min(most[1 - from]))];
            let bytes = pattern(rig.seed, (number * 10 + shape) as u64, length);
            let [gather, scatter] = cuts.map(|(end, count)| cut(rig, buffers[end], length, count));
            let mut done = 0;
            for slice in &gather {
                let next = done + slice.len as usize;
                rig.buffers[buffers[from]].probe.write(slice.offset as usize, &bytes[done..next]);
                done = next;
            }
            let recv = rig.must_post(1 - from, Side::Recv, &scatter);
            let send = rig.must_post(from, Side::Send, &gather);
            rig.until_done(&[recv, send]);
            for work in [recv, send] {
                rig.require_outcome(work, Outcome::Done { len: length as u32 });
            }
            let mut done = 0;
            for (at, slice) in scatter.iter().enumerate() {
                let next = done + slice.len as usize;
                let came = rig.buffers[buffers[1 - from]].bytes(slice.offset as usize, slice.len as usize);
                require!(
                    rig,
                    came == bytes[done..next],
                    "expected {length} bytes from {} slices in {} slices to arrive, and slice {at} ({slice:?}) differs",
                    gather.len(),
                    scatter.len()
                );
                done = next;
            }
        }
    }
    refused(rig, buffers);
}

/// `count` slices of `length` bytes in all, some of them empty, with a gap between any two.
fn cut(rig: &mut Rig<'_>, buffer: usize, length: usize, count: usize) -> Vec<Slice> {
    let mut places: Vec<usize> = (1..count).map(|_| rig.random.below(length + 1)).collect();
    places.sort_unstable();
    places.push(length);
    let mut before = 0;
    let slices = places.into_iter().enumerate().map(|(number, place)| {
        let slice = rig.buffers[buffer].slice(before + 3 * number, place - before);
        before = place;
        slice
    });
    slices.collect()
}

/// What is above the limits fails by itself.
fn refused(rig: &mut Rig<'_>, buffers: [usize; 2]) {
    for (end, buffer) in buffers.into_iter().enumerate() {
        let limits = rig.limits(end);
        let one = rig.buffers[buffer].slice(0, 0);
        let too_many = vec![one; usize::from(limits.max_slices) + 1];
        let mut wrong = vec![(OpFault::SliceCount, Vec::new()), (OpFault::SliceCount, too_many)];
        if limits.max_message <= rig.bounds.largest_message {
            let long = rig.buffers[buffer].slice(0, limits.max_message as usize + 1);
            wrong.push((OpFault::TooLong, vec![long]));
        }
        for (fault, slices) in wrong {
            for side in [Side::Send, Side::Recv] {
                let work = rig.must_post(end, side, &slices);
                rig.until_done(&[work]);
                rig.require_outcome(work, Outcome::Failed(fault));
            }
        }
    }
    rig.prove_alive(0);
    rig.prove_alive(1);
}

/// Law 15.
pub(crate) fn too_long(rig: &mut Rig<'_>) {
    rig.connect();
    let checks = rig.limits(0).checks_length && rig.limits(1).checks_length;
    require!(
        rig,
        checks,
        "the connection does not check lengths: expected Harness::not_applicable to say why"
    );
    let largest = rig.longest(60_000);
    for receiver in 0..2 {
        for (sent, posted) in [(1, 0), (10, 9), (largest, largest / 2), (largest, 1)] {
            let cuts = usize::from(rig.limits(receiver).max_slices).min(3);
            one_too_long(rig, receiver, sent.min(largest), posted, cuts);
            if rig.is_closed(receiver) || rig.is_closed(1 - receiver) {
                rig.renew();
                rig.connect();
            }
        }
    }
}

fn one_too_long(rig: &mut Rig<'_>, receiver: usize, sent: usize, posted: usize, cuts: usize) {
    let sender = 1 - receiver;
    let (source, target) = (rig.buffer(sender, sent), rig.buffer(receiver, posted + sent + 64));
    let whole = rig.buffers[target].length;
    rig.buffers[target].probe.write(0, &vec![CANARY; whole]);
    rig.buffers[source].probe.write(0, &vec![0x11; sent]);
    let mut into = cut(rig, target, posted, cuts);
    for slice in &mut into {
        slice.offset += 16;
    }
    let from = rig.buffers[source].slice(0, sent);
    let recv = rig.must_post(receiver, Side::Recv, &into);
    let send = rig.must_post(sender, Side::Send, &[from]);
    rig.until_done(&[recv, send]);
    let (came, at_sender) = (rig.outcome(recv), rig.outcome(send));
    let truncated = came == Some(Outcome::Failed(OpFault::Truncated));
    require!(
        rig,
        truncated || came == Some(Outcome::ConnLost),
        "{sent} bytes for a receive of {posted}: expected Truncated, or the connection lost, and {came:?} came"
    );
    let fine = matches!(at_sender, Some(Outcome::Done { .. } | Outcome::ConnLost));
    require!(
        rig,
        fine,
        "expected the send of a too long message to end Done or ConnLost, and {at_sender:?} came"
    );
    rig.wait_a_little();
    let bytes = rig.buffers[target].bytes(0, whole);
    for (at, byte) in bytes.iter().enumerate() {
        let inside = into
            .iter()
            .any(|slice| (slice.offset..slice.offset + u64::from(slice.len)).contains(&(at as u64)));
        require!(
            rig,
            inside || *byte == CANARY,
            "{sent} bytes for a receive of {posted}: byte {at} was overrun"
        );
    }
    if truncated
        && !rig.is_closed(receiver)
        && !rig.is_closed(sender)
        && rig.outcome(send) != Some(Outcome::ConnLost)
    {
        // It took its place in the order, and the connection goes on, unless it is lost a little later.
        let lost = [0, 1].map(|end| {
            let conn = rig.conn(end);
            rig.transport(end).why(conn).is_some()
        });
        if lost == [false, false] {
            rig.prove_alive(sender);
            rig.prove_alive(receiver);
        }
        return;
    }
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until_closed(receiver, bound);
    rig.until_closed(sender, bound);
}
