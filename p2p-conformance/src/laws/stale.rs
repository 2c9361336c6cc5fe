//! Law 9: ids that name nothing any more.

use p2p_transport::{Address, Error, ErrorKind, NicId, OpFault, Outcome, Rail, Stop, Token};

use crate::rig::{Rig, Side, require};

/// Law 9.
pub(crate) fn stale(rig: &mut Rig<'_>) {
    bad_arguments(rig);
    listeners(rig);
    rig.connect();
    regions(rig);
    connections(rig);
}

#[track_caller]
fn misuse<T>(rig: &Rig<'_>, what: &str, answer: Result<T, Error>) {
    let came = match answer {
        Ok(_) => "success".to_owned(),
        Err(error) if error.kind() == ErrorKind::Misuse => return,
        Err(error) => format!("{:?}: {error}", error.kind()),
    };
    rig.fail(format_args!("{what}: expected Misuse, and {came} came"));
}

fn bad_arguments(rig: &mut Rig<'_>) {
    for end in 0..2 {
        let good = rig.harness.rail(end);
        let nics = rig.transport(end).nics().len();
        require!(
            rig,
            usize::from(good.nic.0) < nics,
            "expected the rail's NIC among the {nics} of the transport"
        );
        let far = Rail { nic: NicId(nics as u16), ..good };
        let none = Rail { channels: 0, ..good };
        let garbage = Address::new(b"this is no address").expect("a short one");
        for (what, rail) in [("a NIC that is not there", far), ("no channels", none)] {
            let answer = rig.transport(end).listen(rail);
            misuse(rig, &format!("listen with {what}"), answer);
            let answer = rig.transport(end).connect(rail, &garbage);
            misuse(rig, &format!("connect with {what}"), answer);
        }
        let long = Address::new(&[0x5a; Address::MAX]).expect("the longest");
        for bad in [garbage, Address::new(&[]).expect("an empty one"), long] {
            let answer = rig.transport(end).connect(good, &bad);
            misuse(rig, &format!("connect to {bad:?} that is none"), answer);
        }
    }
}

fn listeners(rig: &mut Rig<'_>) {
    let rail = rig.harness.rail(0);
    let listening = rig.transport(0).listen(rail);
    let Ok((first, _)) = listening else { rig.fail(format_args!("expected listen to work: {listening:?}")) };
    let gone = rig.transport(0).unlisten(first);
    require!(rig, gone.is_ok(), "expected unlisten of a live listener to work, and {gone:?} came");
    let listening = rig.transport(0).listen(rail);
    let Ok((second, address)) = listening else {
        rig.fail(format_args!("expected listen to work: {listening:?}"))
    };
    let answer = rig.transport(0).unlisten(first);
    misuse(rig, "unlisten of a stale listener", answer);
    let answer = rig.transport(0).accept(first);
    misuse(rig, "accept of a stale listener", answer);
    // The second one, which may have the place of the first, is unharmed.
    let accepted = rig.transport(0).accept(second);
    let Ok(conn) = accepted else { rig.fail(format_args!("expected accept to work, and {accepted:?} came")) };
    rig.adopt(0, conn);
    let answer = rig.transport(0).accept(second);
    misuse(rig, "accept of a listener that was used up", answer);
    let answer = rig.transport(0).unlisten(second);
    misuse(rig, "unlisten of a listener that was used up", answer);
    let rail = rig.harness.rail(1);
    let connecting = rig.transport(1).connect(rail, &address);
    let Ok(conn) = connecting else {
        rig.fail(format_args!("expected connect to work, and {connecting:?} came"))
    };
    rig.adopt(1, conn);
    rig.until_connected();
    rig.close(0);
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until("both ends are Closed", bound, |rig| rig.is_closed(0) && rig.is_closed(1));
}

fn regions(rig: &mut Rig<'_>) {
    let old = rig.buffer(0, 64);
    let stale = rig.buffers[old].region;
    rig.retire(old);
    let answer = rig.transport(0).retire(stale);
    misuse(rig, "retire of a region that retires", answer);
    rig.until_retired(old);
    let answer = rig.transport(0).retire(stale);
    misuse(rig, "retire of a retired region", answer);
    rig.reclaim(old);
    // A new region may have the place of the old one: the old id does not reach it.
    let new = rig.buffer(0, 64);
    let before = rig.buffers[new].bytes(0, 64);
    let answer = rig.transport(0).retire(stale);
    misuse(rig, "retire of a stale region", answer);
    let none = rig.transport(0).reclaim(stale).is_none();
    require!(rig, none, "expected reclaim of a stale region to return nothing, and an owner came");
    let slice = rig.buffers[old].slice(0, 1);
    let peer = rig.buffer(1, 8);
    let from = rig.buffers[peer].slice(0, 1);
    for side in [Side::Recv, Side::Send] {
        let work = rig.must_post(0, side, &[slice]);
        rig.until_done(&[work]);
        rig.require_outcome(work, Outcome::Failed(OpFault::BadSlice));
    }
    let into = rig.buffers[new].slice(8, 1);
    let recv = rig.must_post(0, Side::Recv, &[into]);
    rig.buffers[peer].probe.write(0, &[9]);
    rig.must_post(1, Side::Send, &[from]);
    rig.until_done(&[recv]);
    let after = rig.buffers[new].bytes(0, 64);
    let fine = after[8] == 9 && after[..8] == before[..8] && after[9..] == before[9..];
    require!(
        rig,
        fine,
        "expected the new region to be used by its own id alone, and its bytes are {after:?}"
    );
    require!(
        rig,
        !rig.buffers[new].retired && rig.buffers[new].probe.held() > 0,
        "expected the new region to live"
    );
}

fn connections(rig: &mut Rig<'_>) {
    let stale = [rig.conn(0), rig.conn(1)];
    rig.close(1);
    let bound = rig.bounds.close + rig.bounds.death;
    rig.until("both ends are Closed", bound, |rig| rig.is_closed(0) && rig.is_closed(1));
    let all_misuse = |rig: &mut Rig<'_>, pending: Option<u64>| {
        for (end, conn) in stale.into_iter().enumerate() {
            let answer = rig.transport(end).close(conn);
            misuse(rig, "close of a stale connection", answer);
            let token = Token(pending.unwrap_or(1));
            let answer = rig.transport(end).cancel(conn, token);
            require!(rig, !answer, "expected cancel on a stale connection to find nothing, and it did");
            let accepted = rig.transport(end).send(conn, Token(1), &[]);
            rig.require_stop(accepted, Stop::Closed);
            let accepted = rig.transport(end).recv(conn, Token(1), &[]);
            rig.require_stop(accepted, Stop::Closed);
            let limits = rig.transport(end).limits(conn).copied();
            require!(rig, limits.is_none(), "expected no limits of a stale connection, and {limits:?} came");
        }
    };
    all_misuse(rig, None);
    // A new connection may have the place of the old one: the old id does not reach it.
    rig.connect();
    let buffer = rig.buffer(0, 8);
    let slice = rig.buffers[buffer].slice(0, 1);
    let token = rig.token();
    let recv = rig.post_as(0, Side::Recv, token, &[slice]);
    all_misuse(rig, Some(token));
    rig.silence();
    let source = rig.buffer(1, 8);
    let slice = rig.buffers[source].slice(0, 1);
    rig.must_post(1, Side::Send, &[slice]);
    rig.until_idle();
    require!(
        rig,
        recv.is_some_and(|recv| rig.outcome(recv) == Some(Outcome::Done { len: 1 })),
        "expected it to go on"
    );
    rig.prove_alive(0);
}
