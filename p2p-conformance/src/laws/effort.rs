//! Laws 12 and 20: what a data-plane call costs.

use p2p_transport::{ConnId, Event, Events, Now, Op, Slice, Token, Transport};

use crate::flow::{Flow, Style};
use crate::rig::{Rig, Side, require};

/// Law 12.
pub(crate) fn bounded(rig: &mut Rig<'_>) {
    if rig.harness.work_done().is_none() {
        rig.leave_out("what a call costs", format_args!("the harness counts no work"));
    }
    rig.connect();
    // However much is ready, a poll stores what there is room for, and comes back.
    let length = rig.longest(200_000);
    let count = rig.depth(32);
    let style = Style { messages: count, longest: length, cut: true, slack: false };
    let mut flows = [Flow::new(rig, 0, style), Flow::new(rig, 1, style)];
    let bound = rig.bounds.progress;
    rig.until_with("all is through, at a bounded effort per call", bound, |rig| {
        for flow in &mut flows {
            let before = rig.harness.work_done();
            flow.pump_sends(rig);
            spent(rig, "a submission of at most 5 sends", before, 5);
            let before = rig.harness.work_done();
            flow.pump_recvs(rig);
            spent(rig, "a submission of at most 5 receives", before, 5);
        }
        rig.pass_time();
        for end in 0..2 {
            let room = 1 + rig.random.below(4);
            rig.room(room);
            let before = rig.harness.work_done();
            let reported = rig.ends[end].log.len();
            let completed = rig.poll(end);
            spent(rig, "a poll", before, 1);
            let reported = rig.ends[end].log.len() - reported;
            require!(rig, reported <= room, "expected at most {room} events of a poll, and {reported} came");
            for work in completed {
                for flow in &flows {
                    flow.check(rig, work);
                }
            }
        }
        flows.iter().all(|flow| flow.is_submitted() && flow.is_done(rig))
    });
    // A poll and a cancellation with full windows and nothing to do are bounded, too.
    let buffer = rig.buffer(0, 8);
    let slice = rig.buffers[buffer].slice(0, 1);
    let mut last = None;
    while let Some(work) = rig.post(0, Side::Recv, &[slice]) {
        last = Some(work);
    }
    for _ in 0..20 {
        rig.pass_time();
        let before = rig.harness.work_done();
        rig.poll(0);
        spent(rig, "a poll with full windows", before, 1);
    }
    let before = rig.harness.work_done();
    let _ = last.map(|work| rig.cancel(work));
    spent(rig, "a cancellation", before, 1);
    rig.close(0);
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until_closed(0, bound);
}

fn spent(rig: &Rig<'_>, what: &str, before: Option<u64>, calls: u64) {
    let (Some(before), Some(after)) = (before, rig.harness.work_done()) else { return };
    let (spent, most) = (after - before, calls * rig.bounds.work_per_call);
    require!(rig, spent <= most, "expected {what} to make at most {most} operations, and it made {spent}");
}

/// How law 20 begins to say that something was allocated.
pub(crate) const NONE_EXPECTED: &str = "expected no allocation after a warm-up";

/// Law 20.
pub(crate) fn allocation(rig: &mut Rig<'_>) {
    rig.connect();
    let length = rig.longest(9000).max(2);
    let count = rig.depth(16);
    let plans = [0, 1].map(|end| {
        let buffer = rig.buffer(end, 2 * length);
        let two = [rig.buffers[buffer].slice(0, 1), rig.buffers[buffer].slice(2, length - 1)];
        let slices = if rig.limits(end).max_slices > 1 {
            two.to_vec()
        } else {
            vec![rig.buffers[buffer].slice(0, length)]
        };
        Plan {
            conn: rig.conn(end),
            into: slices,
            from: vec![rig.buffers[buffer].slice(length, length)],
            bad: vec![rig.buffers[buffer].slice(usize::MAX / 2, 1)],
        }
    });
    let mut counter = Counter { events: Events::with_capacity(8), completed: [0; 2], allocations: [0; 3] };
    for _ in 0..6 {
        round(rig, &plans, count, &mut counter);
    }
    counter.allocations = [0; 3];
    for round_number in 0..20 {
        round(rig, &plans, count, &mut counter);
        let [submit, cancel, poll] = counter.allocations;
        require!(
            rig,
            submit + cancel + poll == 0,
            "{NONE_EXPECTED}, and round {round_number} made {submit} in submit, {cancel} in \
             cancel and {poll} in poll"
        );
    }
}

struct Plan {
    conn: ConnId,
    into: Vec<Slice>,
    from: Vec<Slice>,
    bad: Vec<Slice>,
}

struct Counter {
    events: Events,
    completed: [usize; 2],
    allocations: [u64; 3],
}

impl Counter {
    /// Makes one call, and counts what it allocates on this thread.
    fn call<T>(&mut self, which: usize, call: impl FnOnce(&mut Self) -> T) -> T {
        let mut answer = None;
        let info = allocation_counter::measure(|| answer = Some(call(self)));
        self.allocations[which] += info.count_total;
        answer.expect("the call was made")
    }

    fn submit(&mut self, transport: &mut dyn Transport, conn: ConnId, operation: &Op<'_>) -> bool {
        self.call(0, |_| transport.submit(conn, std::slice::from_ref(operation)).count == 1)
    }

    fn poll(&mut self, transport: &mut dyn Transport, end: usize, now: Now) {
        self.call(2, |this| {
            let _ = transport.poll(now, &mut this.events);
        });
        let completed = self.events.drain().filter(|event| matches!(event, Event::Completed { .. })).count();
        self.completed[end] += completed;
    }
}

/// Traffic both ways with full windows, failures, withdrawals and refusals.
fn round(rig: &mut Rig<'_>, plans: &[Plan; 2], count: usize, counter: &mut Counter) {
    let mut expected = [0; 2];
    counter.completed = [0; 2];
    for (end, plan) in plans.iter().enumerate() {
        let conn = plan.conn;
        let transport = rig.transport(end);
        let failing = Op::Recv { token: Token(1), into: &plan.bad };
        expected[end] += usize::from(counter.submit(transport, conn, &failing));
        let withdrawn = Op::Recv { token: Token(2), into: &plan.into };
        let taken = counter.submit(transport, conn, &withdrawn);
        expected[end] += usize::from(taken);
        if !counter.call(1, |_| transport.cancel(conn, Token(2))) && taken {
            // It has started: it needs a message.
            let message = Op::Send { token: Token(5), from: &plans[1 - end].from };
            let sent = counter.submit(rig.transport(1 - end), plans[1 - end].conn, &message);
            expected[1 - end] += usize::from(sent);
        }
    }
    settle(rig, &expected, counter);
    let (mut sends, mut recvs) = ([0; 2], [0; 2]);
    for (end, plan) in plans.iter().enumerate() {
        let transport = rig.transport(end);
        for _ in 0..count {
            let recv = Op::Recv { token: Token(3), into: &plan.into };
            recvs[end] += usize::from(counter.submit(transport, plan.conn, &recv));
            let send = Op::Send { token: Token(4), from: &plan.from };
            sends[end] += usize::from(counter.submit(transport, plan.conn, &send));
        }
    }
    require!(
        rig,
        recvs == sends && recvs == [count; 2],
        "expected {count} each way, {sends:?} and {recvs:?} fit"
    );
    for end in 0..2 {
        expected[end] += recvs[end] + sends[end];
    }
    settle(rig, &expected, counter);
}

fn settle(rig: &mut Rig<'_>, expected: &[usize; 2], counter: &mut Counter) {
    let bound = rig.bounds.progress;
    rig.until_with("a round of the allocation law completes", bound, |rig| {
        rig.pass_time();
        let now = rig.now;
        for end in 0..2 {
            counter.poll(rig.transport(end), end, now);
        }
        counter.completed == *expected
    });
}
