//! Law 19: a transport dropped in any state.

use p2p_transport::Event;

use crate::rig::{Rig, Side, require};

/// Where the world stands when a transport is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    New,
    Listening,
    Accepting,
    Connecting,
    Connected,
    Receiving,
    Sending,
    Flowing,
    Retiring,
    Retired,
    Failed,
    Closing,
    Closed,
    PeerDied,
}

const STATES: [State; 14] = [
    State::New,
    State::Listening,
    State::Accepting,
    State::Connecting,
    State::Connected,
    State::Receiving,
    State::Sending,
    State::Flowing,
    State::Retiring,
    State::Retired,
    State::Failed,
    State::Closing,
    State::Closed,
    State::PeerDied,
];

/// Law 19.
pub(crate) fn dropping(rig: &mut Rig<'_>) {
    for state in STATES {
        for end in 0..2 {
            drop_in(rig, state, end);
            rig.renew();
        }
    }
}

fn drop_in(rig: &mut Rig<'_>, state: State, end: usize) {
    let leaked = rig.harness.leaked();
    reach(rig, state, end);
    for buffer in rig.buffers.iter().filter(|buffer| rig.is_alive(buffer.end)) {
        let held = buffer.probe.held();
        require!(
            rig,
            held > 0,
            "{state:?}: expected memory to live while it is registered, and it was dropped"
        );
    }
    rig.drop_end(end);
    // The backend may need the peer's polls, or a thread's time, to be sure that no device reaches the memory.
    let bound = rig.bounds.close + rig.bounds.death;
    let lost = |rig: &Rig<'_>, end: usize| {
        rig.buffers.iter().filter(|buffer| buffer.end == end && buffer.probe.held() > 0).count()
    };
    let what = format!("{state:?}: dropping transport {end} drops its memory, or says that it leaked it");
    rig.until(&what, bound, |rig| lost(rig, end) <= rig.harness.leaked() - leaked);
    // Nothing is written once the owner is gone, whatever the peer still sends.
    let gone: Vec<usize> = (0..rig.buffers.len())
        .filter(|&buffer| rig.buffers[buffer].end == end && rig.buffers[buffer].probe.held() == 0)
        .collect();
    for &buffer in &gone {
        let whole = rig.buffers[buffer].length;
        rig.buffers[buffer].probe.write(0, &vec![0x77; whole]);
    }
    let peer = 1 - end;
    if rig.is_alive(peer) && rig.is_connected(peer) && !rig.is_closed(peer) {
        let source = rig.buffer(peer, 64);
        let slice = rig.buffers[source].slice(0, 1);
        let _ = rig.post(peer, Side::Send, &[slice]);
    }
    rig.wait_a_little();
    for &buffer in &gone {
        let clean = rig.buffers[buffer].bytes(0, rig.buffers[buffer].length).iter().all(|&byte| byte == 0x77);
        require!(rig, clean, "{state:?}: expected nothing to be written after the memory was given up");
    }
    // The survivor is unharmed: its connection ends, and its memory comes back.
    if rig.is_alive(peer) {
        if rig.is_connected(peer) {
            rig.until_closed(peer, rig.bounds.death + rig.bounds.close);
        }
        for buffer in 0..rig.buffers.len() {
            if rig.buffers[buffer].end == peer && rig.is_closed(peer) {
                rig.retire(buffer);
                rig.until_retired(buffer);
                rig.reclaim(buffer);
            }
        }
        rig.drop_end(peer);
    }
    let what = format!("{state:?}: dropping both transports leaves no owner but those said to be leaked");
    rig.until(&what, bound, |rig| lost(rig, 0) + lost(rig, 1) <= rig.harness.leaked() - leaked);
}

fn reach(rig: &mut Rig<'_>, state: State, end: usize) {
    let length = rig.bounds.largest_message.min(40_000) as usize;
    let buffers = [0, 1].map(|end| [rig.buffer(end, length), rig.buffer(end, length)]);
    let rail = rig.harness.rail(end);
    match state {
        State::New => return,
        State::Listening | State::Accepting => {
            let Ok((listener, _)) = rig.transport(end).listen(rail) else {
                rig.fail(format_args!("expected listen to work, and it failed"));
            };
            if state == State::Accepting {
                let accepted = rig.transport(end).accept(listener);
                let Ok(conn) = accepted else {
                    rig.fail(format_args!("expected accept to work: {accepted:?}"))
                };
                rig.adopt(end, conn);
                rig.turn();
            }
            return;
        }
        State::Connecting => {
            rig.start_connecting();
            let turns = rig.random.below(4);
            for _ in 0..turns {
                rig.turn();
            }
            return;
        }
        State::Connected
        | State::Receiving
        | State::Sending
        | State::Flowing
        | State::Retiring
        | State::Retired
        | State::Failed
        | State::Closing
        | State::Closed
        | State::PeerDied => rig.connect(),
    }
    let count = rig.depth(4);
    let length = rig.longest(length);
    let slices = buffers.map(|[a, b]| [a, b].map(|buffer| rig.buffers[buffer].slice(0, length)));
    let many = |rig: &mut Rig<'_>, end: usize, side: Side| {
        let slice = slices[end][usize::from(side == Side::Send)];
        for _ in 0..count {
            rig.must_post(end, side, &[slice]);
        }
    };
    match state {
        State::Receiving | State::Closing | State::Closed | State::PeerDied => many(rig, end, Side::Recv),
        State::Sending => many(rig, end, Side::Send),
        State::Flowing | State::Retiring => {
            many(rig, end, Side::Recv);
            many(rig, 1 - end, Side::Send);
            many(rig, end, Side::Send);
            many(rig, 1 - end, Side::Recv);
            let turns = 1 + rig.random.below(6);
            for _ in 0..turns {
                rig.turn();
            }
        }
        State::Failed => {
            let bad = rig.buffers[buffers[end][0]].slice(usize::MAX / 2, 1);
            rig.must_post(end, Side::Recv, &[bad]);
        }
        State::Retired => {
            rig.retire(buffers[end][0]);
            rig.until_retired(buffers[end][0]);
        }
        State::New | State::Listening | State::Accepting | State::Connecting | State::Connected => {}
    }
    if state == State::Retiring {
        rig.retire(buffers[end][0]);
        rig.retire(buffers[end][1]);
    }
    if matches!(state, State::Closing | State::Closed) {
        rig.close(end);
    }
    if state == State::Closed {
        rig.until_closed(end, rig.bounds.close);
    }
    if state == State::PeerDied {
        rig.kill(1 - end);
        let turns = rig.random.below(3);
        for _ in 0..turns {
            rig.turn();
        }
    }
    let conn = rig.conn(end);
    let log = &rig.ends[end].log;
    require!(rig, log.contains(&Event::Connected(conn)), "expected a connection for {state:?}");
}
