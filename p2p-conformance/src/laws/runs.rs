//! Laws 21 and 22: every run ends, and a deterministic one ends the same way again.

use p2p_transport::{Event, Next, Outcome};

use crate::flow::{Flow, Style, run};
use crate::rig::{Rig, Side, require};

/// Law 21.
pub(crate) fn end(rig: &mut Rig<'_>) {
    for _ in 0..4 {
        random_run(rig);
        rig.renew();
    }
    rig.connect();
    sleepers(rig);
}

/// Anything may happen; at the end everything is closed, and everything has ended.
fn random_run(rig: &mut Rig<'_>) {
    rig.connect();
    let length = rig.longest(4000);
    let buffers: Vec<usize> = (0..8).map(|number| rig.buffer(number % 2, length)).collect();
    let mut retiring = vec![false; buffers.len()];
    let actions = 60 + rig.random.below(100);
    for _ in 0..actions {
        let buffer = rig.random.below(buffers.len());
        let end = rig.buffers[buffers[buffer]].end;
        match rig.random.below(12) {
            0..=7 => {
                let side = if rig.random.one_in(2) { Side::Send } else { Side::Recv };
                // Equal lengths: the receiver of a backend may be unable to check them.
                let slice = rig.buffers[buffers[buffer]].slice(0, length);
                let _ = rig.post(end, side, &[slice]);
            }
            8 => {
                let pending: Vec<usize> =
                    (0..rig.works.len()).filter(|&work| rig.outcome(work).is_none()).collect();
                if !pending.is_empty() {
                    let work = pending[rig.random.below(pending.len())];
                    let _ = rig.cancel(work);
                }
            }
            9 if rig.random.one_in(4) && !retiring[buffer] => {
                rig.retire(buffers[buffer]);
                retiring[buffer] = true;
            }
            _ => {
                rig.turn();
            }
        }
    }
    // Close at one end or both, at a time or one after the other; or one of them dies.
    let victim = rig.random.below(2);
    match rig.random.below(4) {
        0 => rig.kill(victim),
        1 => rig.close(victim),
        2 => {
            rig.close(0);
            rig.close(1);
        }
        _ => {
            rig.close(victim);
            for _ in 0..rig.random.below(4) {
                rig.turn();
            }
            if !rig.is_closed(1 - victim) {
                rig.close(1 - victim);
            }
        }
    }
    let bound = rig.bounds.close + rig.bounds.death;
    let alive = [rig.is_alive(0), rig.is_alive(1)];
    rig.until("every connection is Closed", bound, |rig| (0..2).all(|end| !alive[end] || rig.is_closed(end)));
    for (number, &buffer) in buffers.iter().enumerate() {
        if alive[rig.buffers[buffer].end] {
            if !retiring[number] {
                rig.retire(buffer);
            }
            rig.until_retired(buffer);
            rig.reclaim(buffer);
        }
    }
    let left = rig.works.iter().find(|work| alive[work.end] && work.outcome.is_none());
    require!(rig, left.is_none(), "expected every operation to end, and {left:?} did not");
}

/// The run ends as well when each end is polled only when its last answer says that it needs it.
fn sleepers(rig: &mut Rig<'_>) {
    let style = Style { messages: 30, longest: 30_000, cut: false, slack: false };
    let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
    let mut submitted = [0; 2];
    let mut asleep = [false; 2];
    let bound = rig.bounds.progress;
    rig.until_with("a run ends whose ends sleep as their polls allow", bound, |rig| {
        for flow in &mut flows {
            flow.pump(rig);
        }
        rig.pass_time();
        for end in 0..2 {
            let works = rig.works.iter().filter(|work| work.end == end).count();
            let woken = works != submitted[end];
            submitted[end] = works;
            let due = match rig.ends[end].next {
                Next::Again | Next::Spin => true,
                // The descriptor is not looked at here: that an end without one sleeps is what matters.
                Next::Wait(until) | Next::Idle(until) => {
                    until.is_some_and(|until| rig.now >= until) || rig.has_descriptor(end)
                }
            };
            asleep[end] = !(due || woken);
            if asleep[end] {
                continue;
            }
            for work in rig.poll(end) {
                for flow in &flows {
                    flow.check(rig, work);
                }
            }
        }
        let pending = rig.pending(0) + rig.pending(1);
        // Work in flight that nobody will look at again is a run that never ends.
        let stuck = asleep == [true, true] && pending > 0 && flows.iter().all(Flow::is_submitted);
        let waits = rig.ends.iter().any(|end| matches!(end.next, Next::Wait(Some(_)) | Next::Idle(Some(_))));
        require!(
            rig,
            !stuck || waits,
            "expected somebody to poll while {pending} operations are pending, all sleep"
        );
        flows.iter().all(|flow| flow.is_submitted() && flow.is_done(rig))
    });
}

/// Law 22.
pub(crate) fn same(rig: &mut Rig<'_>) {
    let first = trace(rig);
    rig.renew();
    let second = trace(rig);
    let differs = (0..first.len().max(second.len())).find(|&at| first.get(at) != second.get(at));
    require!(
        rig,
        differs.is_none(),
        "expected two runs of one seed to report the same, and entry {differs:?} differs: {:?} and {:?}",
        differs.map(|at| first.get(at)),
        differs.map(|at| second.get(at))
    );
    let done = |entry: &&Entry| matches!(entry.2, Event::Completed { outcome: Outcome::Done { .. }, .. });
    require!(
        rig,
        first.iter().filter(done).count() > 10,
        "expected a trace of messages, {} entries came",
        first.len()
    );
}

/// The time, the end and the event.
type Entry = (p2p_transport::Now, usize, Event);

fn trace(rig: &mut Rig<'_>) -> Vec<Entry> {
    rig.random = crate::random::Random::new(rig.seed);
    rig.restart_tokens();
    rig.connect();
    let style = Style { messages: 40, longest: 5000, cut: true, slack: true };
    let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
    let mut trace = Vec::new();
    let mut seen = [0; 2];
    let collect = |rig: &Rig<'_>, seen: &mut [usize; 2], trace: &mut Vec<Entry>| {
        for (end, seen) in seen.iter_mut().enumerate() {
            for event in &rig.ends[end].log[*seen..] {
                trace.push((rig.now, end, *event));
            }
            *seen = rig.ends[end].log.len();
        }
    };
    run(rig, &mut flows, |rig, _, _| collect(rig, &mut seen, &mut trace));
    let target = rig.buffer(0, 8);
    let slice = rig.buffers[target].slice(0, 1);
    for _ in 0..rig.depth(4) {
        rig.must_post(0, Side::Recv, &[slice]);
    }
    rig.close(0);
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until_with("the runs end", bound, |rig| {
        rig.turn();
        collect(rig, &mut seen, &mut trace);
        rig.is_closed(0) && rig.is_closed(1)
    });
    trace
}
