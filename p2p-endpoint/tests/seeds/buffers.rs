//! Memory is taken by what there is to do. It once came in buffers of 64 MiB, which longer messages ran over.

use p2p_endpoint::endpoint::Progress;
use p2p_endpoint::engine::{Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;

use crate::both;
use crate::support::sockets::link;
use crate::support::{Pair, bytes, filled};

/// Just above what was the length of the buffer.
const LONG: usize = (64 << 20) + 4097;

/// A link with its control stream, rails and transfers holds less than this.
const LINK: u64 = 1 << 20;

#[test]
fn a_link_and_its_transfers_take_no_memory_of_a_fixed_size() {
    both(|settings| {
        let mut pair = Pair::new(settings, 4);
        let (first, _) = pair.connect(0, 1);
        let (source, target) = (filled(4096, 1), SharedHost::new(4096).expect("memory"));
        let (from, to) = (pair.reg(0, &source), pair.reg(1, &target));
        let into = pair.item(1, to, 0, 4096);
        let part = Part { mr: from, offset: 0, len: 4096 };
        let mut token = 0;
        let mut write = |pair: &mut Pair, link| {
            token += 1;
            pair.start(0, link, token, &[part], Request::Write { into: &[into], counter: None });
            assert_eq!(pair.outcome(0, token), Outcome::Done { bytes: 4096 });
        };
        write(&mut pair, first);
        let links = 16;
        let taken = allocation_counter::measure(|| {
            for _ in 0..links {
                let (link, _) = pair.connect(0, 1);
                (0..20).for_each(|_| write(&mut pair, link));
            }
        });
        assert!(taken.bytes_max < links * LINK, "{} bytes for {links} links", taken.bytes_max);
        let more = allocation_counter::measure(|| (0..200).for_each(|_| write(&mut pair, first)));
        assert!(more.bytes_max < LINK, "{} bytes for 200 short writes", more.bytes_max);
    });
}

/// What is longer than the buffer once was arrives whole, and what moves it takes nothing of its length.
#[test]
fn a_message_longer_than_64_mib_arrives_whole_and_takes_no_buffer() {
    let mut pair = Pair::new(p2p_transport_mock::Settings::plugin(), 2);
    let (here, there) = pair.connect(0, 1);
    let (source, target) = (filled(LONG, 1), SharedHost::new(LONG).expect("memory"));
    let (from, to) = (pair.reg(0, &source), pair.reg(1, &target));
    pair.start(1, there, 1, &[Part { mr: to, offset: 0, len: LONG as u64 }], Request::Recv);
    pair.start(0, here, 2, &[Part { mr: from, offset: 0, len: LONG as u64 }], Request::Send);
    let taken = allocation_counter::measure(|| {
        assert_eq!(pair.outcome(1, 1), Outcome::Done { bytes: LONG as u64 });
        assert_eq!(pair.outcome(0, 2), Outcome::Done { bytes: LONG as u64 });
    });
    assert!(bytes(&target, 0, LONG) == bytes(&source, 0, LONG));
    // The simulated network holds what is under way.
    assert!(taken.bytes_max < 32 << 20, "{} bytes", taken.bytes_max);
}

#[test]
fn messages_reads_and_writes_longer_than_64_mib_arrive_whole_over_sockets() {
    let [here, there] = link(Progress::Thread, [&[], &[]]);
    let (source, target) = (here.area(LONG, 1), there.area(LONG, 2));
    let item = there.item(&target);
    here.run(source.whole(), Request::Write { into: &[item], counter: None });
    assert!(target.is(&source.memory), "what was written");
    target.memory.fill(0, LONG, 0).expect("in bounds");
    std::thread::scope(|scope| {
        scope.spawn(|| there.run(target.whole(), Request::Recv));
        scope.spawn(|| here.run(source.whole(), Request::Send));
    });
    assert!(target.is(&source.memory), "what was sent");
    source.memory.fill(0, LONG, 0).expect("in bounds");
    here.run(source.whole(), Request::Read { from: &[item] });
    assert!(source.is(&filled(LONG, 1)), "what was read");
}
