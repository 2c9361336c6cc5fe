//! Laws 1, 3, 4 and 10: every operation completes once, in its place, with its bytes, however small the room.

use p2p_transport::{Event, OpFault, Outcome, Slice};

use crate::flow::{Flow, Style, run};
use crate::random::pattern;
use crate::rig::{Rig, Side, require};

const STYLE: Style = Style { messages: 60, longest: 3000, cut: true, slack: true };

/// Law 1.
pub(crate) fn once(rig: &mut Rig<'_>) {
    rig.connect();
    let mut flows = [Flow::new(rig, 0, STYLE), Flow::new(rig, 1, STYLE)];
    run(rig, &mut flows, |rig, flows, work| {
        for flow in flows {
            flow.check(rig, work);
        }
    });
    rig.silence();
    // Tokens need not be unique, and failed operations complete too.
    let depth = rig.depth(8);
    let length = rig.longest(64);
    let (source, target) = (rig.buffer(0, length), rig.buffer(1, length));
    let (from, into) = (rig.buffers[source].slice(0, length), rig.buffers[target].slice(0, length));
    let outside = rig.buffers[target].slice(rig.buffers[target].length, length.max(1));
    for _ in 0..3 {
        let works: Vec<usize> = (0..depth)
            .map(|number| (number, if number % 3 == 2 { outside } else { into }))
            .filter_map(|(_, into)| rig.post_as(1, Side::Recv, 7, &[into]))
            .collect();
        require!(
            rig,
            works.len() == depth,
            "expected {depth} receives to be taken, and {} were",
            works.len()
        );
        let good = works.iter().filter(|&&work| rig.works[work].slices[0] == into).count();
        for _ in 0..good {
            rig.must_post(0, Side::Send, &[from]);
        }
        rig.until_idle();
        let log = &rig.ends[1].log;
        let failed =
            log[log.len() - depth..].iter().filter(|event| is(event, Outcome::Failed(OpFault::BadSlice)));
        let failed = failed.count();
        require!(
            rig,
            failed == depth - good,
            "expected {} of {depth} to fail, and {failed} did",
            depth - good
        );
    }
    rig.silence();
}

fn is(event: &Event, expected: Outcome) -> bool {
    matches!(event, Event::Completed { outcome, .. } if *outcome == expected)
}

/// Law 3.
pub(crate) fn order(rig: &mut Rig<'_>) {
    rig.connect();
    let mut flows = [Flow::new(rig, 0, STYLE), Flow::new(rig, 1, STYLE)];
    let mut newest = [[None; 2]; 2];
    run(rig, &mut flows, |rig, flows, work| {
        for flow in flows {
            flow.check(rig, work);
        }
        let (end, side) = (rig.works[work].end, rig.works[work].side);
        let newest = &mut newest[end][usize::from(side == Side::Send)];
        if rig.limits(end).fifo {
            require!(
                rig,
                newest.is_none_or(|newest| newest < work),
                "expected the {side:?}s of a connection in order, and operation {work} came after {newest:?}"
            );
        }
        *newest = Some(work);
    });
    unstarted_take_no_place(rig);
}

/// Failed operations lie between good ones at both ends, and count at neither.
fn unstarted_take_no_place(rig: &mut Rig<'_>) {
    let length = rig.longest(40);
    let count = rig.depth(4);
    let (source, target) = (rig.buffer(0, 10 * length + 1), rig.buffer(1, 10 * length + 1));
    let mut good = Vec::new();
    for number in 0..count {
        let bytes = pattern(rig.seed, number as u64, length);
        rig.buffers[source].probe.write(number * length, &bytes);
        for (end, side, buffer) in [(1, Side::Recv, target), (0, Side::Send, source)] {
            let bad: Vec<Slice> = match rig.random.below(4) {
                0 => vec![rig.buffers[buffer].slice(rig.buffers[buffer].length - 1, 2)],
                1 => vec![rig.buffers[buffer].slice(usize::MAX / 2, 1)],
                2 => Vec::new(),
                _ => vec![rig.buffers[buffer].slice(0, 0); usize::from(rig.limits(end).max_slices) + 1],
            };
            let fault = if bad.len() == 1 { OpFault::BadSlice } else { OpFault::SliceCount };
            let failed = rig.must_post(end, side, &bad);
            rig.until_done(&[failed]);
            rig.require_outcome(failed, Outcome::Failed(fault));
            let slice = rig.buffers[buffer].slice(number * length, length);
            good.push(rig.must_post(end, side, &[slice]));
        }
        rig.until_done(&good);
    }
    for &work in &good {
        rig.require_outcome(work, Outcome::Done { len: length as u32 });
    }
    let (sent, came) =
        (rig.buffers[source].bytes(0, count * length), rig.buffers[target].bytes(0, count * length));
    require!(
        rig,
        sent == came,
        "expected failed operations to take no place in the order, and messages moved"
    );
}

/// Law 4.
pub(crate) fn visible(rig: &mut Rig<'_>) {
    rig.connect();
    // One event at a time, so that nothing has happened between a completion and the look at its bytes.
    rig.room(1);
    let longest = rig.longest(100_000);
    for style in [STYLE, Style { messages: 12, longest, cut: true, slack: false }] {
        let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
        run(rig, &mut flows, |rig, flows, work| {
            for flow in flows {
                flow.check(rig, work);
                let Some(number) = flow.number_of(work) else { continue };
                // A send that is done has given its memory back: what is written now must not arrive.
                if flow.messages[number].send == Some(work) {
                    for slice in &flow.messages[number].from {
                        rig.buffers[flow.source]
                            .probe
                            .write(slice.offset as usize, &vec![0xee; slice.len as usize]);
                    }
                }
            }
        });
        for flow in &flows {
            for number in 0..flow.messages.len() {
                flow.check_bytes(rig, number);
            }
        }
    }
}

/// Law 10.
pub(crate) fn one_event(rig: &mut Rig<'_>) {
    rig.room(1);
    rig.connect();
    let style = Style { messages: 40, ..STYLE };
    let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
    run(rig, &mut flows, |rig, flows, work| {
        for flow in flows {
            flow.check(rig, work);
        }
    });
    // Many events that are ready at once: completions without a room, then one by one.
    let idle: Vec<usize> = (0..4).map(|_| rig.buffer(1, 64)).collect();
    let bad = rig.buffers[idle[0]].slice(usize::MAX / 2, 1);
    for _ in 0..rig.depth(6) {
        rig.must_post(1, Side::Recv, &[bad]);
    }
    for &buffer in &idle {
        rig.retire(buffer);
    }
    rig.room(0);
    rig.wait_a_little();
    rig.room(1);
    rig.until_idle();
    for &buffer in &idle {
        rig.until_retired(buffer);
    }
    // What a connection's end reports, likewise.
    let posted = rig.depth(5);
    let target = rig.buffer(0, 64);
    let slice = rig.buffers[target].slice(0, 1);
    for _ in 0..posted {
        rig.must_post(0, Side::Recv, &[slice]);
    }
    rig.retire(target);
    rig.close(0);
    rig.room(0);
    rig.wait_a_little();
    rig.room(1);
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until_closed(0, bound);
    rig.until_closed(1, bound);
    rig.until_retired(target);
    require!(rig, rig.pending(0) == 0, "expected all operations to end, and {} did not", rig.pending(0));
}
