//! `Faulty` damages without breaking a law, and does what it says.

mod support;

use std::collections::BTreeMap;

use p2p_transport::{
    Accepted, ConnId, Damage, ErrorKind, Event, Events, Faulty, Next, Now, Op, OpFault, Outcome, Stop,
    Strikes, Token, Transport,
};
use support::{Loopback, NIC, RAIL, memory, pair, pattern};

const WINDOW: u16 = 8;

fn only(seed: u64, set: impl FnOnce(&mut Damage)) -> Damage {
    let mut damage = Damage::none(seed);
    set(&mut damage);
    damage
}

/// Polls until nothing is in flight. Fails if it would sleep while something is.
fn settle<T: Transport>(transport: &mut T, room: usize, mut seen: impl FnMut(&mut T, Event)) {
    let mut events = Events::with_capacity(room);
    for _ in 0..10_000 {
        let next = transport.poll(Now::default(), &mut events);
        let drained: Vec<_> = events.drain().collect();
        let quiet = drained.is_empty();
        drained.into_iter().for_each(|event| seen(transport, event));
        match next {
            Next::Idle(_) if quiet => return,
            Next::Wait(_) if quiet => panic!("asleep with work in flight"),
            Next::Again | Next::Spin | Next::Wait(_) | Next::Idle(_) => {}
        }
    }
    panic!("never settled");
}

/// Moves messages both ways with full windows, and checks each byte, count and order. Returns the order of the
/// completions.
fn exchange(transport: &mut impl Transport, fifo: bool, seed: u64, room: usize) -> Vec<(usize, u64)> {
    const COUNT: u64 = 60;
    const LENGTH: u32 = 64;
    let (here, there) = pair(transport);
    let total = COUNT as usize * LENGTH as usize;
    let (from, source) = memory(total);
    source.copy_in(0, &pattern(seed, total)).expect("fits");
    let (into, target) = memory(total);
    let from = transport.register(NIC, from).expect("registers");
    let into = transport.register(NIC, into).expect("registers");
    let slice =
        |region, at: u64| p2p_transport::Slice { region, offset: at * u64::from(LENGTH), len: LENGTH };
    let mut posted = [0_u64; 2];
    let mut done: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
    let mut order = Vec::new();
    let mut events = Events::with_capacity(room);
    for _ in 0..20_000 {
        for (side, conn) in [(0, here), (1, there)] {
            let limits = *transport.limits(conn).expect("connected");
            let window = if side == 0 { limits.max_sends } else { limits.max_recvs };
            loop {
                let slices: Vec<_> = (posted[side]..(posted[side] + 3).min(COUNT))
                    .map(|at| [slice(if side == 0 { from } else { into }, at)])
                    .collect();
                let ops: Vec<_> = slices
                    .iter()
                    .zip(posted[side]..)
                    .map(|(slices, at)| match side {
                        0 => Op::Send { token: Token(at), from: slices },
                        _ => Op::Recv { token: Token(at), into: slices },
                    })
                    .collect();
                let accepted = transport.submit(conn, &ops);
                posted[side] += accepted.count as u64;
                let in_flight = posted[side] - done[side].len() as u64;
                assert!(in_flight <= u64::from(window), "seed {seed}: {in_flight} in a window of {window}");
                match accepted.stopped {
                    Some(Stop::Busy) => {
                        assert!(in_flight > 0, "seed {seed}: Busy that nothing would clear");
                        break;
                    }
                    Some(Stop::Closed) => panic!("seed {seed}: closed"),
                    None if posted[side] == COUNT => break,
                    None => {}
                }
            }
        }
        let next = transport.poll(Now::default(), &mut events);
        let mut quiet = true;
        for event in events.drain() {
            quiet = false;
            let Event::Completed { conn, token, outcome } = event else { panic!("seed {seed}: {event:?}") };
            assert_eq!(outcome, Outcome::Done { len: LENGTH }, "seed {seed}");
            let side = usize::from(conn == there);
            assert!(!done[side].contains(&token.0), "seed {seed}: twice");
            done[side].push(token.0);
            order.push((side, token.0));
            if side == 1 {
                let mut bytes = [0; LENGTH as usize];
                target.copy_out(token.0 as usize * bytes.len(), &mut bytes).expect("inside");
                assert_eq!(bytes, pattern(seed, total)[token.0 as usize * bytes.len()..][..bytes.len()]);
            }
        }
        if done.iter().all(|done| done.len() as u64 == COUNT) {
            let sorted = done.iter().all(|done| done.is_sorted());
            assert!(!fifo || sorted, "seed {seed}: out of order");
            transport.retire(from).expect("live");
            assert!(transport.reclaim(from).is_none(), "seed {seed}: before its event");
            let mut retired = 0;
            settle(transport, room, |transport, event| {
                assert_eq!(event, Event::Retired(from));
                assert!(transport.reclaim(from).is_some());
                retired += 1;
            });
            assert_eq!(retired, 1);
            return order;
        }
        let asleep = quiet && matches!(next, Next::Wait(None) | Next::Idle(None));
        assert!(!asleep, "seed {seed}: asleep with work in flight");
    }
    panic!("seed {seed}: never ended");
}

#[test]
fn legal_damage_breaks_no_promise_and_every_kind_strikes() {
    let mut sum = Strikes::default();
    for seed in 0..60 {
        for fifo in [true, false] {
            let mut transport = Faulty::new(Loopback::new(WINDOW, fifo), Damage::legal(seed));
            exchange(&mut transport, fifo, seed, if seed % 3 == 0 { 1 } else { 16 });
            let strikes = transport.strikes();
            sum.held += strikes.held;
            sum.reordered += strikes.reordered;
            sum.narrowed += strikes.narrowed;
            sum.starved += strikes.starved;
            assert_eq!((strikes.killed, strikes.shortened), (0, 0));
        }
    }
    assert!(sum.held > 0 && sum.reordered > 0 && sum.narrowed > 0 && sum.starved > 0, "{sum:?}");
}

#[test]
fn the_same_seed_strikes_the_same_and_another_one_does_not() {
    let run = |seed| {
        let mut transport = Faulty::new(Loopback::new(WINDOW, false), Damage::legal(seed));
        (exchange(&mut transport, false, 1, 4), *transport.strikes())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn without_damage_nothing_changes() {
    let mut plain = Loopback::new(WINDOW, true);
    let mut wrapped = Faulty::new(Loopback::new(WINDOW, true), Damage::none(1));
    assert_eq!(exchange(&mut plain, true, 1, 16), exchange(&mut wrapped, true, 1, 16));
    assert_eq!(*wrapped.strikes(), Strikes::default());
}

#[test]
fn completions_overtake_only_where_no_order_is_promised() {
    let damage = |seed| only(seed, |damage| damage.reorder = 1);
    let ways = |order: &[(usize, u64)], side| {
        order.iter().filter(|(of, _)| *of == side).map(|(_, token)| *token).collect::<Vec<_>>()
    };
    let mut unsorted = 0;
    for seed in 0..20 {
        let mut transport = Faulty::new(Loopback::new(WINDOW, false), damage(seed));
        let order = exchange(&mut transport, false, seed, 16);
        unsorted += usize::from(!ways(&order, 0).is_sorted());
        let mut transport = Faulty::new(Loopback::new(WINDOW, true), damage(seed));
        let order = exchange(&mut transport, true, seed, 16);
        assert!(ways(&order, 0).is_sorted() && ways(&order, 1).is_sorted(), "seed {seed}");
    }
    assert!(unsorted > 0);
}

#[test]
fn a_held_completion_comes_after_so_many_polls_and_nobody_sleeps() {
    let damage = only(3, |damage| (damage.hold, damage.hold_polls) = (1, 5));
    let mut transport = Faulty::new(Loopback::new(WINDOW, true), damage);
    let (conn, _) = pair(&mut transport);
    // Without a slice it ends at once, inside.
    assert_eq!(transport.send(conn, Token(1), &[]), Accepted::all(1));
    let mut events = Events::with_capacity(4);
    let mut polls = 0;
    while events.as_slice().is_empty() {
        let next = transport.poll(Now::default(), &mut events);
        polls += 1;
        assert!(polls <= 6, "held for longer than 5 polls");
        assert!(!events.as_slice().is_empty() || next == Next::Again, "{next:?}");
    }
    assert!(polls > 1);
    assert_eq!(transport.strikes().held, 1);
}

#[test]
fn retired_waits_behind_a_held_completion_and_nothing_is_reclaimed_before_it() {
    let mut waited = 0;
    for seed in 0..20 {
        let damage = only(seed, |damage| (damage.hold, damage.hold_polls) = (1, 30));
        let mut transport = Faulty::new(Loopback::new(WINDOW, true), damage);
        let (conn, _) = pair(&mut transport);
        let (memory, host) = memory(8);
        let region = transport.register(NIC, memory).expect("registers");
        // Without a slice it ends at once, inside, and so does the region.
        assert_eq!(transport.send(conn, Token(1), &[]), Accepted::all(1));
        transport.retire(region).expect("live");
        let mut events = Events::with_capacity(4);
        while !events.as_slice().contains(&Event::Retired(region)) {
            assert!(transport.reclaim(region).is_none(), "seed {seed}: before its event");
            assert_eq!(host.owners(), 2, "seed {seed}");
            let _ = transport.poll(Now::default(), &mut events);
            waited += 1;
            assert!(waited < 1000, "never retired");
        }
        let completed =
            Event::Completed { conn, token: Token(1), outcome: Outcome::Failed(OpFault::SliceCount) };
        assert_eq!(events.as_slice(), [completed, Event::Retired(region)], "seed {seed}");
        assert!(transport.reclaim(region).is_some(), "seed {seed}");
    }
    assert!(waited > 100, "{waited}: nothing was held back");
}

#[test]
fn closed_stays_the_last_event_behind_held_completions() {
    for seed in 0..20 {
        let damage = only(seed, |damage| (damage.hold, damage.hold_polls, damage.reorder) = (2, 30, 2));
        let mut transport = Faulty::new(Loopback::new(WINDOW, seed % 2 == 0), damage);
        let (conn, _) = pair(&mut transport);
        let (memory, _host) = memory(8);
        let region = transport.register(NIC, memory).expect("registers");
        let slices = [p2p_transport::Slice { region, offset: 0, len: 8 }];
        for token in 0..u64::from(WINDOW) {
            assert_eq!(transport.send(conn, Token(token), &slices), Accepted::all(1));
        }
        transport.close(conn).expect("open");
        // Full or not: it is closing.
        assert_eq!(transport.send(conn, Token(99), &slices), Accepted::prefix(0, Stop::Closed));
        let mut seen = Vec::new();
        settle(&mut transport, 3, |_, event| {
            if let Event::Completed { conn: of, .. } | Event::Closed(of) = event
                && of == conn
            {
                seen.push(event);
            }
        });
        assert_eq!(seen.len(), usize::from(WINDOW) + 1, "seed {seed}");
        assert_eq!(seen.last(), Some(&Event::Closed(conn)), "seed {seed}");
    }
}

#[test]
fn a_narrow_window_is_exact() {
    for seed in 0..20 {
        let damage = only(seed, |damage| damage.narrow = 1);
        let mut transport = Faulty::new(Loopback::new(WINDOW, true), damage);
        let (conn, _) = pair(&mut transport);
        let window = transport.limits(conn).expect("connected").max_sends;
        assert!((1..=WINDOW).contains(&window));
        let (memory, _host) = memory(8);
        let region = transport.register(NIC, memory).expect("registers");
        let slices = [p2p_transport::Slice { region, offset: 0, len: 8 }];
        let ops = [Op::Send { token: Token(0), from: &slices }; 2 * WINDOW as usize];
        assert_eq!(transport.submit(conn, &ops), Accepted::prefix(window.into(), Stop::Busy), "seed {seed}");
    }
}

#[test]
fn short_acceptance_takes_at_least_one_and_clears() {
    let mut shortened = 0;
    for seed in 0..20 {
        let damage = only(seed, |damage| damage.short = 2);
        let mut transport = Faulty::new(Loopback::new(WINDOW, true), damage);
        exchange(&mut transport, true, seed, 16);
        shortened += transport.strikes().shortened;
    }
    assert!(shortened > 0);
}

#[test]
fn a_refused_registration_returns_its_memory() {
    let mut transport =
        Faulty::new(Loopback::new(WINDOW, true), only(1, |damage| damage.refuse_register = 1));
    let (memory, host) = memory(8);
    let refused = transport.register(NIC, memory).expect_err("refused");
    assert_eq!(refused.error.kind(), ErrorKind::Exhausted);
    assert!(refused.error.text().contains("Faulty"));
    assert_eq!(host.owners(), 2);
    drop(refused.memory);
    assert_eq!((host.owners(), transport.strikes().refused_registrations), (1, 1));
}

#[test]
fn a_refused_connection_is_closed_with_a_reason_and_then_stale() {
    let mut transport = Faulty::new(Loopback::new(WINDOW, true), only(1, |damage| damage.refuse_connect = 1));
    let (_, address) = transport.listen(RAIL).expect("listens");
    let conn = transport.connect(RAIL, &address).expect("ends by an event");
    assert_eq!(transport.send(conn, Token(1), &[]), Accepted::prefix(0, Stop::Closed));
    assert!(transport.why(conn).is_none() && transport.limits(conn).is_none());
    transport.close(conn).expect("not stale before its event");
    let mut seen = Vec::new();
    settle(&mut transport, 1, |_, event| seen.push(event));
    assert_eq!(seen, [Event::Closed(conn)]);
    assert!(transport.why(conn).expect("has a reason").text().contains("Faulty"));
    assert_eq!(transport.close(conn).expect_err("stale").kind(), ErrorKind::Misuse);
    assert_eq!(transport.strikes().refused_connections, 1);
}

#[test]
fn a_killed_connection_ends_all_its_operations_and_says_who_did_it() {
    for seed in 0..40 {
        let mut damage = Damage::legal(seed);
        (damage.kill, damage.kill_after) = (1, 3);
        let mut transport = Faulty::new(Loopback::new(WINDOW, seed % 2 == 0), damage);
        let (here, there) = pair(&mut transport);
        let (memory, _host) = memory(8);
        let region = transport.register(NIC, memory).expect("registers");
        let slices = [p2p_transport::Slice { region, offset: 0, len: 8 }];
        let mut open: BTreeMap<(ConnId, u64), ()> = BTreeMap::new();
        let mut closed = 0;
        let mut submitted = 0;
        let mut reasons = 0;
        for _ in 0..2000 {
            for (conn, send) in [(here, true), (there, false)] {
                let token = Token(submitted);
                let accepted = if send {
                    transport.send(conn, token, &slices)
                } else {
                    transport.recv(conn, token, &slices)
                };
                if accepted.count == 1 {
                    open.insert((conn, submitted), ());
                    submitted += 1;
                }
            }
            let mut events = Events::with_capacity(2);
            let _ = transport.poll(Now::default(), &mut events);
            for event in events.drain() {
                match event {
                    Event::Completed { conn, token, outcome } => {
                        assert!(open.remove(&(conn, token.0)).is_some(), "seed {seed}: {token:?}");
                        if outcome == Outcome::ConnLost {
                            assert!(transport.why(conn).is_some(), "seed {seed}: lost for no reason");
                        }
                    }
                    Event::Closed(conn) => {
                        closed += 1;
                        assert!(open.keys().all(|(of, _)| *of != conn), "seed {seed}: after Closed");
                        let why = transport.why(conn).expect("has a reason").text();
                        reasons += u64::from(why.contains("Faulty"));
                    }
                    Event::Connected(_) | Event::Retired(_) | Event::Notified { .. } => panic!("{event:?}"),
                    _ => panic!("{event:?}"),
                }
            }
        }
        assert_eq!((closed, open.len()), (2, 0), "seed {seed}");
        assert!(reasons > 0 && reasons == transport.strikes().killed, "seed {seed}: {reasons}");
    }
}

#[test]
fn cancel_withdraws_the_newest_of_that_name() {
    let mut transport = Faulty::new(Loopback::new(WINDOW, true), Damage::none(1));
    let (here, _) = pair(&mut transport);
    let (memory, _host) = memory(8);
    let region = transport.register(NIC, memory).expect("registers");
    let slice = |len| [p2p_transport::Slice { region, offset: 0, len }];
    for len in 1..=3 {
        assert_eq!(transport.send(here, Token(5), &slice(len)), Accepted::all(1));
    }
    assert_eq!(transport.send(here, Token(6), &slice(4)), Accepted::all(1));
    assert!(transport.cancel(here, Token(5)));
    assert!(!transport.cancel(here, Token(7)));
    let inner = transport.inside(here).expect("open");
    // Inside, the third one is gone.
    let left: Vec<_> = transport.inner().waiting(inner).collect();
    assert_eq!(left, [1, 2, 4]);
    let mut events = Events::with_capacity(8);
    let _ = transport.poll(Now::default(), &mut events);
    let expected = Event::Completed { conn: here, token: Token(5), outcome: Outcome::Cancelled };
    assert_eq!(events.as_slice(), [expected]);
}

#[test]
fn what_carries_a_connection_is_asked_of_the_one_inside() {
    let mut checked = 0;
    for seed in 0..40 {
        let mut transport =
            Faulty::new(Loopback::new(WINDOW, true), only(seed, |damage| damage.refuse_connect = 2));
        let (listener, address) = transport.listen(RAIL).expect("listens");
        // One that exists outside only, so that those after it have other ids inside.
        let refused = transport.connect(RAIL, &address).expect("ends by an event");
        let there = transport.accept(listener).expect("accepts");
        let here = transport.connect(RAIL, &address).expect("ends by an event");
        let (None, Some(inside)) = (transport.inside(refused), transport.inside(here)) else { continue };
        assert_ne!(inside, here);
        assert_eq!(transport.describe(here), Some(format!("over {inside:?}")));
        assert_ne!(transport.describe(there), transport.describe(here));
        assert_eq!(transport.describe(refused), None);
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn the_data_plane_allocates_nothing_after_a_warm_up() {
    let mut transport = Faulty::new(Loopback::new(WINDOW, false), Damage::legal(9));
    let (here, there) = pair(&mut transport);
    let (memory, _host) = memory(64);
    let region = transport.register(NIC, memory).expect("registers");
    let slices = [p2p_transport::Slice { region, offset: 0, len: 8 }];
    let other = [p2p_transport::Slice { region, offset: 32, len: 8 }];
    let mut events = Events::with_capacity(8);
    let mut done = 0;
    let mut run = |rounds| {
        for at in 0..rounds {
            let _ = transport.submit(here, &[Op::Send { token: Token(at), from: &slices }; 3]);
            let _ = transport.submit(there, &[Op::Recv { token: Token(at), into: &other }; 3]);
            let _ = transport.poll(Now::default(), &mut events);
            done += events.drain().count();
        }
    };
    run(500);
    let info = allocation_counter::measure(|| run(2000));
    assert_eq!(info.count_total, 0);
    assert!(done > 100);
}
