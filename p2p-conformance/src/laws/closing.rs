//! Laws 6 and 17: how connections end, by a goodbye and without one.

use p2p_transport::{Event, Outcome, Stop};

use crate::HarnessFault;
use crate::random::pattern;
use crate::rig::{Rig, Side, require};

/// Law 6.
pub(crate) fn close(rig: &mut Rig<'_>) {
    for closer in 0..2 {
        idle(rig, closer);
        rig.renew();
        for aborts in [false, true] {
            busy(rig, closer, aborts);
            rig.renew();
        }
        last_message(rig, closer, true);
        rig.renew();
        last_message(rig, closer, false);
        rig.renew();
    }
    while_connecting(rig);
    rig.renew();
    cut(rig);
}

/// A connection with nothing to do.
fn idle(rig: &mut Rig<'_>, closer: usize) {
    rig.connect();
    rig.close(closer);
    ends(rig, closer);
}

/// A connection with operations that will never meet.
fn busy(rig: &mut Rig<'_>, closer: usize, aborts: bool) {
    rig.connect();
    let length = rig.longest(20_000);
    let count = rig.depth(6);
    for end in 0..2 {
        let buffer = rig.buffer(end, length);
        let slice = rig.buffers[buffer].slice(0, length);
        for _ in 0..count {
            rig.must_post(end, Side::Recv, &[slice]);
        }
    }
    // Some messages are under way; the receives that are left have nothing to wait for.
    let source = rig.buffer(1 - closer, length);
    let slice = rig.buffers[source].slice(0, length);
    for _ in 0..count / 2 {
        rig.must_post(1 - closer, Side::Send, &[slice]);
    }
    let turns = rig.random.below(5);
    for _ in 0..turns {
        rig.turn();
    }
    let works = rig.works.len();
    let conn = rig.conn(closer);
    if aborts {
        let aborted = rig.transport(closer).abort(conn);
        require!(rig, aborted.is_ok(), "expected abort of a live connection to work, and {aborted:?} came");
    } else {
        rig.close(closer);
    }
    let slice = rig.works.iter().find(|work| work.end == closer).map(|work| work.slices[0]);
    let (accepted, _) = rig.batch(closer, &[(Side::Recv, 1, slice.into_iter().collect())]);
    rig.require_stop(accepted, Stop::Closed);
    // Closing what is closing does nothing.
    let again = rig.transport(closer).close(conn);
    require!(rig, again.is_ok(), "expected to close what is closing to do nothing, and {again:?} came");
    ends(rig, closer);
    for work in 0..works {
        let (of, outcome) = (&rig.works[work], rig.outcome(work));
        let fine = matches!(outcome, Some(Outcome::ConnLost | Outcome::Done { .. }));
        require!(rig, fine, "expected Done or ConnLost of what close met, and {of:?} came");
    }
    let lost = rig.works.iter().filter(|work| work.outcome == Some(Outcome::ConnLost)).count();
    require!(rig, lost >= count, "expected {count} receives without a message to end ConnLost, {lost} did");
}

/// Both ends reach `Closed`, with the right reason, and then silence.
fn ends(rig: &mut Rig<'_>, closer: usize) {
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until_closed(closer, rig.bounds.close);
    rig.until_closed(1 - closer, bound);
    for end in 0..2 {
        let conn = rig.conn(end);
        require!(rig, rig.pending(end) == 0, "end {end}: expected all operations to end before Closed");
        let why = rig.transport(end).why(conn).map(ToString::to_string);
        let fine = why.is_none() == (end == closer);
        require!(rig, fine, "end {end}: expected why only at the end that did not close, and {why:?} came");
        let limits = rig.transport(end).limits(conn).copied();
        require!(rig, limits.is_none(), "expected no limits of a closed connection, and {limits:?} came");
    }
    rig.silence();
}

/// What was reported `Done` before the close still arrives.
fn last_message(rig: &mut Rig<'_>, closer: usize, posted_before: bool) {
    rig.connect();
    let peer = 1 - closer;
    let count = rig.depth(4);
    let length = rig.longest(10_000);
    let (source, target) = (rig.buffer(closer, count * length), rig.buffer(peer, count * length));
    let bytes = pattern(rig.seed, 1, count * length);
    rig.buffers[source].probe.write(0, &bytes);
    let post = |rig: &mut Rig<'_>| -> Vec<usize> {
        (0..count)
            .filter_map(|number| {
                let slice = rig.buffers[target].slice(number * length, length);
                rig.post(peer, Side::Recv, &[slice])
            })
            .collect()
    };
    let mut recvs = if posted_before { post(rig) } else { Vec::new() };
    let mut sends = Vec::new();
    for number in 0..count {
        let slice = rig.buffers[source].slice(number * length, length);
        sends.push(rig.must_post(closer, Side::Send, &[slice]));
    }
    if posted_before {
        // Only the closing end is polled on: what it says alone must hold.
        let bound = rig.bounds.progress;
        rig.until_with("the sends complete", bound, |rig| {
            rig.turn();
            sends.iter().all(|&send| rig.outcome(send).is_some())
        });
    } else {
        rig.wait_a_little();
    }
    let done = sends.iter().take_while(|&&send| rig.outcome(send).is_some()).count();
    rig.close(closer);
    rig.turn();
    if !posted_before {
        recvs = post(rig);
    }
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until_closed(closer, rig.bounds.close);
    rig.until_closed(peer, bound);
    let came = rig.buffers[target].bytes(0, done * length);
    for &recv in recvs.iter().take(done) {
        rig.require_outcome(recv, Outcome::Done { len: length as u32 });
    }
    require!(
        rig,
        recvs.len() >= done && came == bytes[..done * length],
        "expected the {done} messages whose send was Done before the close to arrive, and bytes differ"
    );
    rig.silence();
}

/// Close before there is a connection.
fn while_connecting(rig: &mut Rig<'_>) {
    for closer in 0..2 {
        rig.start_connecting();
        let turns = rig.random.below(4);
        for _ in 0..turns {
            rig.turn();
        }
        rig.close(closer);
        let bound = rig.bounds.close + rig.bounds.connect;
        rig.until_closed(closer, bound);
        let bound = bound + rig.bounds.death;
        rig.until_closed(1 - closer, bound);
        rig.silence();
        rig.renew();
    }
}

/// The link is cut, where the harness can do that.
fn cut(rig: &mut Rig<'_>) {
    rig.connect();
    let buffers = [rig.buffer(0, 10), rig.buffer(1, 10)];
    for (end, buffer) in buffers.into_iter().enumerate() {
        let length = rig.longest(10);
        let slice = rig.buffers[buffer].slice(0, length);
        rig.must_post(end, Side::Recv, &[slice]);
    }
    if !rig.inject(HarnessFault::CutLink, "a connection that is cut while both ends live") {
        return;
    }
    for end in 0..2 {
        rig.until_closed(end, rig.bounds.death);
        let conn = rig.conn(end);
        let why = rig.transport(end).why(conn).is_some();
        require!(rig, why, "end {end}: expected a reason for a connection that was lost, and none came");
    }
    rig.silence();
}

/// Law 17.
pub(crate) fn death(rig: &mut Rig<'_>) {
    for victim in 0..2 {
        for load in [Load::Idle, Load::Recvs, Load::Sends] {
            dies(rig, victim, load);
            rig.renew();
        }
    }
    nobody_there(rig);
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Load {
    Idle,
    Recvs,
    Sends,
}

/// The peer dies while the survivor has this to do.
fn dies(rig: &mut Rig<'_>, victim: usize, load: Load) {
    rig.connect();
    let survivor = 1 - victim;
    if load != Load::Idle {
        let length = rig.longest(50_000);
        let count = rig.depth(5);
        let buffer = rig.buffer(survivor, length);
        let slice = rig.buffers[buffer].slice(0, length);
        let side = if load == Load::Recvs { Side::Recv } else { Side::Send };
        for _ in 0..count {
            rig.must_post(survivor, side, &[slice]);
        }
    }
    for _ in 0..3 {
        rig.turn();
    }
    let _ = rig.inject(HarnessFault::KillPeer { end: victim }, "a peer that falls silent, not only dropped");
    rig.drop_end(victim);
    rig.until_closed(survivor, rig.bounds.death);
    let conn = rig.conn(survivor);
    let why = rig.transport(survivor).why(conn).is_some();
    require!(rig, why, "expected a reason for the loss of the connection, and none came");
    for work in &rig.works {
        let fine = match work.side {
            Side::Recv => work.outcome == Some(Outcome::ConnLost),
            Side::Send => matches!(work.outcome, Some(Outcome::ConnLost | Outcome::Done { .. })),
        };
        require!(
            rig,
            work.end != survivor || fine,
            "expected ConnLost after the peer died, and {work:?} came"
        );
    }
    rig.silence();
}

/// Connecting to where nobody is, and waiting for somebody who never comes, end within a bound.
fn nobody_there(rig: &mut Rig<'_>) {
    let rails = [rig.harness.rail(0), rig.harness.rail(1)];
    let Ok((listener, address)) = rig.transport(0).listen(rails[0]) else {
        rig.fail(format_args!("expected listen to work, and it failed"));
    };
    if let Err(error) = rig.transport(0).unlisten(listener) {
        rig.fail(format_args!("expected unlisten of a live listener to work: {error}"));
    }
    // A backend may say at once that nobody is there.
    if let Ok(conn) = rig.transport(1).connect(rails[1], &address) {
        rig.adopt(1, conn);
        rig.until_closed(1, rig.bounds.connect);
        let connected = rig.ends[1].log.contains(&Event::Connected(conn));
        require!(rig, !connected, "expected no connection to an address that leads nowhere");
        require!(rig, rig.transport(1).why(conn).is_some(), "expected a reason for a connection never made");
    }
    let Ok((listener, _)) = rig.transport(0).listen(rails[0]) else {
        rig.fail(format_args!("expected listen to work again, and it failed"));
    };
    match rig.transport(0).accept(listener) {
        Ok(conn) => rig.adopt(0, conn),
        Err(error) => rig.fail(format_args!("expected accept to wait for its peer: {error}")),
    }
    rig.until_closed(0, rig.bounds.connect);
}
