//! Laws 5, 7 and 8: bytes outside the slices, and when memory comes back.

use p2p_transport::{OpFault, Outcome};

use crate::HarnessFault;
use crate::flow::{CANARY, Flow, Style, run};
use crate::random::pattern;
use crate::rig::{Rig, Side, require};

/// Law 5.
pub(crate) fn outside(rig: &mut Rig<'_>) {
    rig.connect();
    for (longest, cut) in [(40, true), (3000, true), (17, false)] {
        let style = Style { messages: 50, longest, cut, slack: true };
        let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
        run(rig, &mut flows, |_, _, _| ());
        for flow in &flows {
            flow.check_outside(rig);
        }
    }
    // An operation with a bad slice touches nothing, not even its good slices.
    let length = rig.longest(64).max(1);
    let (source, target) = (rig.buffer(0, length), rig.buffer(1, length));
    let whole = rig.buffers[target].length;
    rig.buffers[target].probe.write(0, &vec![CANARY; whole]);
    let bad = [rig.buffers[target].slice(0, 1), rig.buffers[target].slice(whole, 1)];
    let bad = if rig.limits(1).max_slices > 1 { &bad[..] } else { &bad[1..] };
    let failed = rig.must_post(1, Side::Recv, bad);
    let from = rig.buffers[source].slice(0, 1);
    rig.must_post(0, Side::Send, &[from]);
    rig.until_done(&[failed]);
    rig.require_outcome(failed, Outcome::Failed(OpFault::BadSlice));
    rig.wait_a_little();
    let clean = rig.buffers[target].bytes(0, whole).iter().all(|&byte| byte == CANARY);
    require!(rig, clean, "expected an operation with a bad slice to touch nothing, and bytes changed");
}

/// Law 7.
pub(crate) fn retired(rig: &mut Rig<'_>) {
    rig.connect();
    failed_registration(rig);
    // Unused regions, several at once: each owner comes back by itself.
    let unused: Vec<usize> = (0..3).map(|number| rig.buffer(0, 100 * (number + 1))).collect();
    for &buffer in &unused {
        early(rig, buffer);
        rig.retire(buffer);
    }
    for &buffer in &unused {
        rig.until_retired(buffer);
        rig.reclaim(buffer);
        let (end, region) = (0, rig.buffers[buffer].region);
        let again = rig.transport(end).reclaim(region).is_none();
        require!(rig, again, "expected a reclaimed region to be gone, and it came back twice");
    }
    // Used ones: each operation is a user, also one that names the region twice.
    let uses = rig.depth(5);
    let twice = rig.limits(1).max_slices > 1;
    let length = rig.longest(64).max(2);
    for end in 0..2 {
        let peer = 1 - end;
        let (source, target) = (rig.buffer(peer, length), rig.buffer(end, uses * length));
        let mut works = Vec::new();
        for number in 0..uses {
            let all = rig.buffers[target].slice(number * length, length);
            let halves = [
                rig.buffers[target].slice(number * length, 1),
                rig.buffers[target].slice(number * length + 1, length - 1),
            ];
            let use_halves = rig.limits(end).max_slices > 1 && twice && number % 2 == 0;
            works.push(rig.must_post(
                end,
                Side::Recv,
                if use_halves { &halves } else { std::slice::from_ref(&all) },
            ));
        }
        rig.retire(target);
        early(rig, target);
        for (number, &work) in works.iter().enumerate() {
            rig.wait_a_little();
            require!(
                rig,
                !rig.buffers[target].retired,
                "expected no Retired with {} receives left",
                uses - number
            );
            early(rig, target);
            require!(
                rig,
                rig.buffers[target].probe.held() > 0,
                "expected the owner to live while it is used"
            );
            let from = rig.buffers[source].slice(0, length);
            let send = rig.must_post(peer, Side::Send, &[from]);
            rig.until_done(&[work, send]);
        }
        rig.until_retired(target);
        require!(
            rig,
            rig.buffers[target].probe.held() > 0,
            "expected the owner to live until it is reclaimed"
        );
        rig.reclaim(target);
        // A source that is retired while its messages are under way.
        let count = rig.depth(4);
        let from = rig.buffers[source].slice(0, length);
        let sends: Vec<usize> = (0..count).map(|_| rig.must_post(peer, Side::Send, &[from])).collect();
        rig.retire(source);
        let target = rig.buffer(end, length);
        let into = rig.buffers[target].slice(0, length);
        for _ in 0..count {
            rig.wait_a_little();
            rig.must_post(end, Side::Recv, &[into]);
        }
        rig.until_done(&sends);
        rig.until_retired(source);
        rig.reclaim(source);
        rig.until_idle();
    }
}

/// Nothing is reclaimed before its `Retired`.
fn early(rig: &mut Rig<'_>, buffer: usize) {
    let (end, region) = (rig.buffers[buffer].end, rig.buffers[buffer].region);
    let came = rig.transport(end).reclaim(region);
    require!(rig, came.is_none(), "expected reclaim to return nothing before Retired, and an owner came");
}

/// A registration that fails gives the memory back, and registers nothing.
fn failed_registration(rig: &mut Rig<'_>) {
    if !rig.inject(HarnessFault::FailRegistration { end: 0 }, "a registration that fails") {
        return;
    }
    let align = rig.harness.kind();
    let align = rig.transport(0).region_align(align).max(64);
    let (memory, probe) = rig.harness.memory(align);
    let (span, nic) = (memory.span(), rig.harness.rail(0).nic);
    match rig.transport(0).register(nic, memory) {
        Ok(_) => rig.fail(format_args!("expected the registration to fail as it was told to, and it worked")),
        Err(refused) => {
            require!(rig, refused.memory.span() == span, "expected the owner back, and another one came");
            drop(refused);
        }
    }
    require!(rig, probe.held() == 0, "expected nothing to be kept of a registration that failed");
}

/// Law 8.
pub(crate) fn in_flight(rig: &mut Rig<'_>) {
    rig.connect();
    let uses = rig.depth(6);
    let length = rig.longest(5000);
    for end in 0..2 {
        let peer = 1 - end;
        let (source, target) = (rig.buffer(peer, uses * length), rig.buffer(end, uses * length));
        let bytes = pattern(rig.seed, end as u64, uses * length);
        rig.buffers[source].probe.write(0, &bytes);
        let mut flying = Vec::new();
        // These never start, so they complete at any time, also where completions are in order.
        let mut bad = Vec::new();
        for number in 0..uses {
            let slice = rig.buffers[target].slice(number * length, length);
            flying.push(rig.must_post(end, Side::Recv, &[slice]));
        }
        // Some start before the region retires, some after it.
        let early = rig.random.below(uses + 1);
        for number in 0..uses {
            if number == early {
                let turns = rig.random.below(4);
                for _ in 0..turns {
                    rig.turn();
                }
                rig.retire(target);
                rig.wait_a_little();
                bad.extend(submit_retired(rig, target));
            }
            let slice = rig.buffers[source].slice(number * length, length);
            flying.push(rig.must_post(peer, Side::Send, &[slice]));
        }
        if early == uses {
            rig.retire(target);
            bad.extend(submit_retired(rig, target));
            rig.retire(source);
            bad.extend(submit_retired(rig, source));
        }
        rig.until_done(&flying);
        rig.until_done(&bad);
        for &work in &bad {
            rig.require_outcome(work, Outcome::Failed(OpFault::BadSlice));
        }
        for &work in &flying {
            rig.require_outcome(work, Outcome::Done { len: length as u32 });
        }
        let came = rig.buffers[target].bytes(0, uses * length);
        require!(
            rig,
            came == bytes,
            "expected what flew at the retirement to arrive whole, and bytes differ"
        );
        rig.until_retired(target);
        // Retired, not reclaimed: still refused, and the connection goes on.
        refused(rig, target);
        rig.prove_alive(0);
        rig.prove_alive(1);
    }
}

/// Submitting with a retired region is taken, and ends `BadSlice`.
fn refused(rig: &mut Rig<'_>, buffer: usize) {
    let bad = submit_retired(rig, buffer);
    rig.until_done(&bad);
    for &work in &bad {
        rig.require_outcome(work, Outcome::Failed(OpFault::BadSlice));
    }
}

/// Submits a send and a receive with a retired region, where the windows have room.
fn submit_retired(rig: &mut Rig<'_>, buffer: usize) -> Vec<usize> {
    let end = rig.buffers[buffer].end;
    let limits = rig.limits(end);
    let pending = rig.pending(end);
    let slice = rig.buffers[buffer].slice(0, 1);
    let mut works = Vec::new();
    for (side, window) in [(Side::Send, limits.max_sends), (Side::Recv, limits.max_recvs)] {
        if pending < usize::from(window) {
            works.push(rig.must_post(end, side, &[slice]));
        }
    }
    works
}
