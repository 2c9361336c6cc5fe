//! Laws 2, 11, 13 and 16: how much fits, and what happens to the rest.

use p2p_transport::{OpFault, Outcome, Slice, Stop};

use crate::flow::{CANARY, Flow, Style, run};
use crate::rig::{Rig, Side, require};

/// Law 2.
pub(crate) fn rejected(rig: &mut Rig<'_>) {
    // Before Connected nothing is taken, and nothing comes of it.
    rig.start_connecting();
    let length = rig.harness.bounds().largest_message.min(8) as usize;
    let early = rig.buffer(1, length);
    let slice = rig.buffers[early].slice(0, 1);
    let token = rig.token();
    let (accepted, _) = rig.batch(1, &[(Side::Send, token, vec![slice])]);
    rig.require_stop(accepted, Stop::Busy);
    rig.until_connected();

    for receiver in 0..2 {
        let peer = 1 - receiver;
        let window = usize::from(rig.limits(receiver).max_recvs);
        let (taken, left) = (rig.buffer(receiver, 8), rig.buffer(receiver, 8));
        let whole = rig.buffers[left].length;
        rig.buffers[left].probe.write(0, &vec![CANARY; whole]);
        let (good, bad) = (rig.buffers[taken].slice(0, 1), rig.buffers[left].slice(0, 1));
        let never = rig.buffers[left].slice(1, 1);
        // The window and three more; behind them one that a full receive window would not stop.
        let mut batch: Vec<_> = (0..window).map(|_| (Side::Recv, rig.token(), vec![good])).collect();
        batch.extend((0..3).map(|_| (Side::Recv, 5, vec![bad])));
        batch.push((Side::Send, 6, vec![never]));
        let (accepted, first) = rig.batch(receiver, &batch);
        let fine = accepted.count == window && accepted.stopped == Some(Stop::Busy);
        require!(rig, fine, "expected the first {window} operations and Busy, and {accepted:?} came");
        // The rest uses nothing: its region retires while the window is full.
        rig.retire(left);
        rig.until_retired(left);
        rig.wait_a_little();
        // It is not pending either.
        let conn = rig.conn(receiver);
        let cancelled = rig.transport(receiver).cancel(conn, p2p_transport::Token(5));
        require!(rig, !cancelled, "expected a rejected operation to be unknown, and it could be cancelled");
        // Its peer receives what is sent next, not the rejected message.
        let (source, target) = (rig.buffer(peer, 8), rig.buffer(peer, 8));
        let (from, into) = (rig.buffers[source].slice(0, 1), rig.buffers[target].slice(0, 1));
        let recv = rig.must_post(peer, Side::Recv, &[into]);
        let other = rig.buffer(receiver, 8);
        rig.buffers[other].probe.write(0, &[42]);
        let real = rig.buffers[other].slice(0, 1);
        rig.must_post(receiver, Side::Send, &[real]);
        rig.until_done(&[recv]);
        let came = rig.buffers[target].bytes(0, 1);
        require!(
            rig,
            came == [42],
            "expected the first accepted message, and the rejected one came: {came:?}"
        );
        // All that was taken completes, and no more.
        let works: Vec<usize> = (first..first + window).collect();
        let mut sent = 0;
        let bound = rig.bounds.progress;
        rig.until_with("the accepted receives complete", bound, |rig| {
            while sent < window && rig.post(peer, Side::Send, &[from]).is_some() {
                sent += 1;
            }
            rig.turn();
            works.iter().all(|&work| rig.outcome(work).is_some())
        });
        rig.until_idle();
        rig.silence();
        let clean = rig.buffers[left].bytes(0, whole).iter().all(|&byte| byte == CANARY);
        require!(rig, clean, "expected the memory of rejected receives to stay as it was");
    }
}

/// Law 11.
pub(crate) fn busy(rig: &mut Rig<'_>) {
    rig.start_connecting();
    rig.until_connected();
    for end in 0..2 {
        let buffers = [rig.buffer(end, 8), rig.buffer(1 - end, 8)];
        let [here, there] = buffers.map(|buffer| rig.buffers[buffer].slice(0, 1));
        let full = fill(rig, end, Side::Recv, here);
        // One completes, one fits, again and again.
        for number in 0..3 {
            rig.must_post(1 - end, Side::Send, &[there]);
            rig.until("one receive completes", rig.bounds.progress, |rig| {
                full.iter().filter(|&&work| rig.outcome(work).is_some()).count() > number
            });
            if number + 1 == full.len() {
                break;
            }
        }
        let done = full.iter().filter(|&&work| rig.outcome(work).is_some()).count();
        for _ in 0..done {
            rig.must_post(end, Side::Recv, &[here]);
        }
        drain(rig, end, there);
        // Failed operations, and the sends.
        for side in [Side::Recv, Side::Send] {
            let window = window(rig, end, side);
            let bad = Slice { offset: 1 << 40, ..here };
            for _ in 0..2 {
                let failed: Vec<usize> =
                    (0..window.min(300)).map(|_| rig.must_post(end, side, &[bad])).collect();
                rig.until_done(&failed);
                for &work in &failed {
                    rig.require_outcome(work, Outcome::Failed(OpFault::BadSlice));
                }
            }
        }
        fill(rig, end, Side::Send, here);
        let mut left = rig.pending(end);
        let bound = rig.bounds.progress;
        rig.until_with("the sends complete", bound, |rig| {
            if left > 0 && rig.post(1 - end, Side::Recv, &[there]).is_some() {
                left -= 1;
            }
            rig.turn();
            rig.pending(end) == 0
        });
        rig.until_idle();
        let again = fill(rig, end, Side::Recv, here);
        // Withdrawn ones make room as well.
        let withdrawn: Vec<usize> = again.iter().rev().copied().filter(|&work| rig.cancel(work)).collect();
        rig.until_done(&withdrawn);
        for _ in 0..withdrawn.len() {
            rig.must_post(end, Side::Recv, &[here]);
        }
        drain(rig, end, there);
    }
}

fn window(rig: &mut Rig<'_>, end: usize, side: Side) -> usize {
    let limits = rig.limits(end);
    usize::from(if side == Side::Send { limits.max_sends } else { limits.max_recvs })
}

/// Submits until Busy, without a poll; what was taken.
#[track_caller]
fn fill(rig: &mut Rig<'_>, end: usize, side: Side, slice: Slice) -> Vec<usize> {
    let window = window(rig, end, side);
    let mut works = Vec::new();
    while let Some(work) = rig.post(end, side, &[slice]) {
        works.push(work);
        require!(
            rig,
            works.len() <= window,
            "expected Busy after {window} {side:?}s, and one more was taken"
        );
    }
    require!(rig, works.len() == window, "expected {window} {side:?}s to fit, and {} did", works.len());
    works
}

/// Sends to `end` until its receives are used up.
#[track_caller]
fn drain(rig: &mut Rig<'_>, end: usize, from: Slice) {
    let mut left = rig.pending(end);
    let bound = rig.bounds.progress;
    rig.until_with("the receives complete", bound, |rig| {
        while left > 0 && rig.post(1 - end, Side::Send, &[from]).is_some() {
            left -= 1;
        }
        rig.turn();
        rig.pending(0) + rig.pending(1) == 0
    });
}

/// Law 13.
pub(crate) fn exact(rig: &mut Rig<'_>) {
    rig.connect();
    for end in 0..2 {
        let buffers = [rig.buffer(end, 8), rig.buffer(1 - end, 8)];
        let [here, there] = buffers.map(|buffer| rig.buffers[buffer].slice(0, 1));
        for round in 0..3 {
            // Nothing moves without a poll, so exactly the windows fit; each has its own.
            let recvs = fill(rig, end, Side::Recv, here);
            let sends = fill(rig, end, Side::Send, here);
            if round == 1 {
                let withdrawn = recvs.iter().rev().take(3).filter(|&&work| rig.cancel(work)).count();
                rig.until("the withdrawn complete", rig.bounds.progress, |rig| {
                    let cancelled = |work: &&usize| rig.outcome(**work) == Some(Outcome::Cancelled);
                    recvs.iter().filter(cancelled).count() == withdrawn
                });
                for _ in 0..withdrawn {
                    rig.must_post(end, Side::Recv, &[here]);
                }
                let (accepted, _) = rig.batch(end, &[(Side::Recv, 1, vec![here])]);
                rig.require_stop(accepted, Stop::Busy);
            }
            let mut owed = [sends.len(), recvs.len()];
            let bound = rig.bounds.progress;
            rig.until_with("full windows drain", bound, |rig| {
                for (side, owed) in [Side::Recv, Side::Send].into_iter().zip(&mut owed) {
                    while *owed > 0 && rig.post(1 - end, side, &[there]).is_some() {
                        *owed -= 1;
                    }
                }
                rig.turn();
                owed == [0, 0] && rig.pending(0) + rig.pending(1) == 0
            });
        }
        // In one batch, too.
        let window = usize::from(rig.limits(end).max_sends);
        let batch: Vec<_> = (0..window + 1).map(|_| (Side::Send, rig.token(), vec![here])).collect();
        let (accepted, _) = rig.batch(end, &batch);
        let fine = accepted.count == window && accepted.stopped == Some(Stop::Busy);
        require!(rig, fine, "expected exactly {window} of a batch of {}, and {accepted:?} came", window + 1);
        let mut owed = window;
        let bound = rig.bounds.progress;
        rig.until_with("the batch drains", bound, |rig| {
            while owed > 0 && rig.post(1 - end, Side::Recv, &[there]).is_some() {
                owed -= 1;
            }
            rig.turn();
            rig.pending(0) + rig.pending(1) == 0
        });
    }
}

/// Law 16.
pub(crate) fn both_ways(rig: &mut Rig<'_>) {
    rig.connect();
    let length = rig.longest(200_000);
    let source_and_target = [0, 1].map(|end| (rig.buffer(end, length), rig.buffer(end, length)));
    // Both fill their send windows before either has posted a receive.
    let count = rig.depth(64);
    for (end, (source, _)) in source_and_target.into_iter().enumerate() {
        let slice = rig.buffers[source].slice(0, length);
        for _ in 0..count {
            rig.must_post(end, Side::Send, &[slice]);
        }
    }
    rig.wait_a_little();
    for (end, (_, target)) in source_and_target.into_iter().enumerate() {
        let slice = rig.buffers[target].slice(0, length);
        for _ in 0..count {
            rig.must_post(end, Side::Recv, &[slice]);
        }
    }
    rig.until_idle();
    // Windows that stay full both ways.
    let style = Style { messages: 4 * count.min(32), longest: 20_000, cut: true, slack: false };
    let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
    run(rig, &mut flows, |rig, flows, work| {
        for flow in flows {
            flow.check(rig, work);
        }
    });
}
