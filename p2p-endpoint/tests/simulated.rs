//! Whole endpoints in a simulated world, both personalities of it.

mod support;

use p2p_endpoint::engine::{Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::{NicModel, Settings};
use support::{Pair, bytes, filled, pattern};

const MIB: u64 = 1 << 20;

fn both(mut test: impl FnMut(Settings)) {
    test(Settings::plugin());
    test(Settings::rdma());
}

#[test]
fn a_write_lands_whole_and_nothing_else_changes() {
    both(|settings| {
        let mut pair = Pair::new(settings, 2);
        let (link, _) = pair.connect(0, 1);
        let (from, to) = (filled(8 << 20, 1), filled(9 << 20, 2));
        let (local, remote) = (pair.reg(0, &from), pair.reg(1, &to));
        let item = pair.item(1, remote, 4096, 8 * MIB);
        let part = Part { mr: local, offset: 0, len: 8 * MIB };
        pair.start(0, link, 7, &[part], Request::Write { into: &[item], counter: Some(3) });
        assert_eq!(pair.outcome(0, 7), Outcome::Done { bytes: 8 * MIB });
        assert!(bytes(&to, 4096, 8 << 20) == bytes(&from, 0, 8 << 20));
        assert!((0..4096).all(|at| bytes(&to, at, 1)[0] == pattern(at, 2)));
        let after = 4096 + (8 << 20);
        assert!(bytes(&to, after, 4096).iter().zip(after..).all(|(byte, at)| *byte == pattern(at, 2)));
        pair.until("the counter", |pair| pair.said[1].counted == [3]);
    });
}

#[test]
fn a_read_fetches_what_was_advertised() {
    both(|settings| {
        let mut pair = Pair::new(settings, 1);
        let (_, link) = pair.connect(0, 1);
        let (from, to) = (filled(3 << 20, 1), SharedHost::new(3 << 20).expect("memory"));
        let (remote, local) = (pair.reg(0, &from), pair.reg(1, &to));
        let item = pair.item(0, remote, 0, 3 * MIB);
        let part = Part { mr: local, offset: 0, len: 3 * MIB };
        pair.start(1, link, 1, &[part], Request::Read { from: &[item] });
        assert_eq!(pair.outcome(1, 1), Outcome::Done { bytes: 3 * MIB });
        assert!(bytes(&to, 0, 3 << 20) == bytes(&from, 0, 3 << 20));
    });
}

#[test]
fn a_receive_takes_what_fits() {
    both(|settings| {
        let mut pair = Pair::new(settings, 1);
        let (here, there) = pair.connect(0, 1);
        let (from, to) = (filled(1 << 20, 1), filled(2 << 20, 9));
        let (sends, receives) = (pair.reg(0, &from), pair.reg(1, &to));
        let whole = Part { mr: receives, offset: 0, len: 2 * MIB };
        pair.start(1, there, 1, &[whole], Request::Recv);
        let message = Part { mr: sends, offset: 5, len: MIB - 5 };
        pair.start(0, here, 2, &[message], Request::Send);
        assert_eq!(pair.outcome(1, 1), Outcome::Done { bytes: MIB - 5 });
        assert_eq!(pair.outcome(0, 2), Outcome::Done { bytes: MIB - 5 });
        assert!(bytes(&to, 0, (1 << 20) - 5) == bytes(&from, 5, (1 << 20) - 5));
        assert_eq!(bytes(&to, (1 << 20) - 5, 1)[0], pattern((1 << 20) - 5, 9));
    });
}

#[test]
fn notifications_of_any_length_arrive_in_order() {
    both(|settings| {
        let mut pair = Pair::new(settings, 1);
        let (link, _) = pair.connect(0, 1);
        let lengths = [0, 5, 305, 100_000, 1 << 20, 1];
        for length in lengths {
            let text: Vec<u8> = (0..length).map(|at| pattern(at, 4)).collect();
            pair.engines[0].notify(link, None, text.into()).expect("not too long");
        }
        pair.until("notifications", |pair| pair.said[1].notified.len() == lengths.len());
        for length in lengths {
            let came = pair.said[1].notified.pop_front().expect("counted");
            assert!(
                came.iter().enumerate().all(|(at, byte)| *byte == pattern(at, 4)) && came.len() == length
            );
        }
        assert!(pair.engines[0].notify(link, None, vec![0; (1 << 20) + 1].into()).is_err());
    });
}

/// Judged in virtual time: how much longer than the ideal a GiB takes.
fn excess(nics: &[NicModel], megabytes: u64) -> f64 {
    let mut pair = Pair::of(1, Settings::plugin(), &[nics, nics]);
    let (link, _) = pair.connect(0, 1);
    let size = (megabytes * MIB) as usize;
    let (from, to) = (SharedHost::new(size).expect("memory"), SharedHost::new(size).expect("memory"));
    let (local, remote) = (pair.reg(0, &from), pair.reg(1, &to));
    let item = pair.item(1, remote, 0, size as u64);
    let begin = pair.world.now().0;
    let part = Part { mr: local, offset: 0, len: size as u64 };
    pair.start(0, link, 1, &[part], Request::Write { into: &[item], counter: None });
    assert_eq!(pair.outcome(0, 1), Outcome::Done { bytes: size as u64 });
    let took = (pair.world.now().0 - begin).as_secs_f64();
    let ideal = size as f64 / nics.iter().map(|nic| nic.bytes_per_second as f64).sum::<f64>();
    took / ideal
}

#[test]
fn four_nics_finish_together() {
    let equal = excess(&[NicModel::FAST; 4], 1024);
    assert!(equal <= 1.05, "1 GiB over 4 equal NICs takes {equal:.3} of the ideal");
    let mut nics = [NicModel::FAST; 4];
    nics[2].bytes_per_second /= 4;
    let unequal = excess(&nics, 1024);
    assert!(unequal <= 1.10, "with one NIC at a quarter of its speed {unequal:.3}");
}

/// Whoever drives an engine says where memory is dropped that nothing uses any more.
#[test]
fn memory_that_is_gone_is_its_drivers_to_drop() {
    let mut pair = Pair::new(Settings::plugin(), 1);
    let memory = filled(100, 1);
    let (outer, inner) = (pair.reg(0, &memory), pair.reg(0, &memory));
    pair.engines[0].dereg(inner).expect("registered");
    assert_eq!(memory.owners(), 3, "nothing was dropped");
    assert_eq!(pair.engines[0].take_gone().len(), 1);
    assert_eq!(memory.owners(), 2);
    pair.engines[0].dereg(outer).expect("registered");
    pair.poll();
    assert_eq!(memory.owners(), 2, "nothing uses it, and it is not dropped");
    drop(pair.engines[0].take_gone());
    assert_eq!(memory.owners(), 1);
    let outer = pair.reg(0, &memory);
    pair.engines[0].dereg(outer).expect("registered");
    pair.until("what is not taken is dropped", |_| memory.owners() == 1);
}

/// What peers open takes no place of what this end opens, and the other way round.
#[test]
fn those_who_come_leave_room_for_those_who_are_asked() {
    let mut pair = Pair::with(1, Settings::plugin(), &[&[NicModel::FAST], &[NicModel::FAST]], |options| {
        options.most_links = 2;
    });
    for _ in 0..2 {
        pair.connect(0, 1);
    }
    let doors = [pair.door(0), pair.door(1)];
    let refused = pair.engines[0].connect(doors[1]).expect_err("it has two");
    assert!(refused.text().contains("has opened 2 links"), "{refused}");
    let (first, _) = pair.connect(1, 0);
    pair.engines[1].close(first).expect("it is up");
    pair.until("its end", |pair| !pair.engines[1].is_up(first) && pair.said[1].closed.len() == 1);
    for _ in 0..2 {
        pair.connect(1, 0);
    }
    assert!(pair.engines[1].connect(doors[0]).is_err());
}

/// More come at once than are let in at once.
#[test]
fn a_crowd_at_the_door_is_let_in_whole() {
    const CROWD: usize = 150;
    let mut pair = Pair::new(Settings::plugin(), 1);
    let door = pair.door(1);
    for _ in 0..CROWD {
        pair.engines[0].connect(door).expect("there is room");
    }
    // Nobody drives the second one while all of them knock.
    for _ in 0..2000 {
        while pair.poll_first(1) {}
        if !pair.world.step() {
            break;
        }
    }
    pair.until("all links", |pair| pair.said[1].up.len() == CROWD || !pair.said[0].closed.is_empty());
    assert_eq!((pair.said[1].up.len(), pair.said[0].closed.len()), (CROWD, 0));
}
