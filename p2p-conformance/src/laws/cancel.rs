//! Law 18: what is withdrawn, and what is not.

use p2p_transport::{Outcome, Token};

use crate::random::pattern;
use crate::rig::{Rig, Side, require};

/// Law 18.
pub(crate) fn cancel(rig: &mut Rig<'_>) {
    rig.connect();
    for end in 0..2 {
        newest(rig, end);
        race(rig, end, 100, 8);
        race(rig, end, 60_000, 6);
    }
    // Nothing is withdrawn that is not there.
    let conn = rig.conn(0);
    for token in [0, 77, u64::MAX] {
        let came = rig.transport(0).cancel(conn, Token(token));
        require!(rig, !came, "expected no operation with token {token}, and it was withdrawn");
    }
    rig.prove_alive(0);
    rig.silence();
}

/// Of two with one token the newer one goes, if one goes.
fn newest(rig: &mut Rig<'_>, end: usize) {
    if rig.depth(2) < 2 {
        return;
    }
    let (source, target) = (rig.buffer(1 - end, 8), rig.buffer(end, 8));
    let slices = [0, 1].map(|at| rig.buffers[target].slice(at, 1));
    let token = rig.token();
    let conn = rig.conn(end);
    let works = slices.map(|slice| rig.post_as(end, Side::Recv, token, &[slice]));
    require!(rig, works.iter().all(Option::is_some), "expected two receives to be taken, and {works:?} came");
    let cancelled = rig.transport(end).cancel(conn, Token(token));
    if cancelled {
        // Completions with this token are noted oldest first, so look at the memory as well.
        rig.until("one of the two is withdrawn", rig.bounds.progress, |rig| rig.pending(end) == 1);
    }
    rig.buffers[source].probe.write(0, &[33]);
    let from = rig.buffers[source].slice(0, 1);
    rig.must_post(1 - end, Side::Send, &[from]);
    if !cancelled {
        rig.must_post(1 - end, Side::Send, &[from]);
    }
    rig.until_idle();
    let came = rig.buffers[target].bytes(0, 2);
    let expected = if cancelled { [33, 0] } else { [33, 33] };
    require!(
        rig,
        came == expected,
        "cancel answered {cancelled}: expected {expected:?} in memory, and {came:?} came"
    );
}

/// Receives and sends are withdrawn at any time while messages flow.
fn race(rig: &mut Rig<'_>, end: usize, longest: usize, rounds: u64) {
    let length = rig.longest(longest);
    let count = rig.depth(12);
    let (source, target) = (rig.buffer(1 - end, count * length), rig.buffer(end, count * length));
    for round in 0..rounds {
        let bytes = pattern(rig.seed, round, count * length);
        rig.buffers[source].probe.write(0, &bytes);
        let mut recvs = Vec::new();
        let mut sends = Vec::new();
        for number in 0..count {
            let slice = rig.buffers[target].slice(number * length, length);
            recvs.push(rig.must_post(end, Side::Recv, &[slice]));
        }
        let mut answers = vec![None; rig.works.len()];
        // Some before any message is there.
        withdraw(rig, &recvs, &mut answers);
        for number in 0..count {
            let slice = rig.buffers[source].slice(number * length, length);
            sends.push(rig.must_post(1 - end, Side::Send, &[slice]));
            answers.resize(rig.works.len(), None);
            if rig.random.one_in(3) {
                withdraw(rig, &sends[number..], &mut answers);
            }
            if rig.random.one_in(2) {
                rig.turn();
            }
            withdraw(rig, &recvs, &mut answers);
        }
        // Withdrawals at both ends leave some without a counterpart: as many as are needed are added.
        let mut balance = [Vec::new(), Vec::new()];
        rig.wait_a_little();
        withdraw(rig, &recvs, &mut answers);
        let left = |answers: &[Option<bool>], works: &[usize]| -> Vec<usize> {
            works.iter().copied().filter(|&work| answers[work] != Some(true)).collect()
        };
        let (kept_recvs, kept_sends) = (left(&answers, &recvs), left(&answers, &sends));
        let extra = kept_recvs.len().abs_diff(kept_sends.len());
        let spare = [rig.buffer(end, length), rig.buffer(1 - end, length)];
        let (side, at, spare) = if kept_recvs.len() < kept_sends.len() {
            (Side::Recv, end, spare[0])
        } else {
            (Side::Send, 1 - end, spare[1])
        };
        let mut owed = extra;
        let bound = rig.bounds.progress;
        rig.until_with("what was not withdrawn completes", bound, |rig| {
            let slice = rig.buffers[spare].slice(0, length);
            while owed > 0 {
                let Some(work) = rig.post(at, side, &[slice]) else { break };
                balance[0].push(work);
                owed -= 1;
            }
            rig.turn();
            owed == 0 && rig.pending(0) + rig.pending(1) == 0
        });
        for &work in recvs.iter().chain(&sends) {
            let (answer, came) = (answers[work], rig.outcome(work));
            let expected =
                if answer == Some(true) { Outcome::Cancelled } else { Outcome::Done { len: length as u32 } };
            require!(
                rig,
                came == Some(expected),
                "cancel answered {answer:?}: expected {expected:?}, {came:?} came"
            );
        }
        // What was withdrawn takes no place: the k-th of the rest met the k-th of the rest.
        for (&recv, &send) in kept_recvs.iter().zip(&kept_sends) {
            let (into, from) =
                (rig.works[recv].slices[0].offset as usize, rig.works[send].slices[0].offset as usize);
            let came = rig.buffers[target].bytes(into, length);
            require!(
                rig,
                came == bytes[from..from + length],
                "expected withdrawn operations to take no place in the order, and a message went elsewhere"
            );
        }
    }
}

/// Tries to withdraw some that are pending, and notes the answers.
fn withdraw(rig: &mut Rig<'_>, works: &[usize], answers: &mut [Option<bool>]) {
    for &work in works {
        if rig.random.one_in(4) && answers[work] != Some(true) {
            let pending = rig.outcome(work).is_none();
            let answer = rig.cancel(work);
            require!(
                rig,
                pending || !answer,
                "expected a completed operation not to be withdrawn: {:?}",
                rig.works[work]
            );
            answers[work] = Some(answer);
            if answer {
                let twice = rig.cancel(work);
                require!(
                    rig,
                    !twice,
                    "expected an operation to be withdrawn once, and it was withdrawn twice"
                );
            }
        }
    }
}
