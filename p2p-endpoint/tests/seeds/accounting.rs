//! Bytes are counted once, those that moved and no others, however many channels there are.

use p2p_endpoint::counters::{EndpointCounters, Tally};
use p2p_endpoint::endpoint::Progress;
use p2p_endpoint::engine::{Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::Fault;
use tcpx_core::config::{Config, FixedEnvironment};

use crate::both;
use crate::support::sockets::link;
use crate::support::{Pair, filled};

const LEN: u64 = 5 << 20;

/// Bytes that all NICs have sent and received.
fn moved(counters: &EndpointCounters) -> (u64, u64) {
    counters.by_nic.iter().fold((0, 0), |(sent, received), nic| {
        (sent + nic.messages.sent.bytes, received + nic.messages.received.bytes)
    })
}

/// "Every GPU counted the whole": over several rails, each counts its part.
#[test]
fn the_parts_of_all_rails_are_the_whole() {
    both(|settings| {
        for rails in [1, 2, 4] {
            let mut pair = Pair::new(settings.clone(), rails);
            let (here, there) = pair.connect(0, 1);
            let from = pair.reg(0, &filled(LEN as usize, 1));
            let to = pair.reg(1, &SharedHost::new(2 * LEN as usize).expect("memory"));
            let into = pair.item(1, to, 0, LEN);
            let part = Part { mr: from, offset: 0, len: LEN };
            pair.start(0, here, 1, &[part], Request::Write { into: &[into], counter: None });
            assert_eq!(pair.outcome(0, 1), Outcome::Done { bytes: LEN });
            // A receive has more room than the message has bytes.
            pair.start(1, there, 2, &[Part { mr: to, offset: 0, len: 2 * LEN }], Request::Recv);
            pair.start(0, here, 3, &[Part { len: 1000, ..part }], Request::Send);
            assert_eq!(pair.outcome(1, 2), Outcome::Done { bytes: 1000 });
            assert_eq!(pair.outcome(0, 3), Outcome::Done { bytes: 1000 });
            let (one, other) = (pair.engines[0].counters(), pair.engines[1].counters());
            assert_eq!((moved(&one), moved(&other)), ((LEN + 1000, 0), (0, LEN + 1000)), "{rails} rails");
            assert_eq!(one.traffic.written, Tally { count: 1, bytes: LEN });
            assert_eq!(one.traffic.sent, Tally { count: 1, bytes: 1000 });
            assert_eq!(other.traffic.received, Tally { count: 1, bytes: 1000 });
            assert_eq!(one.by_link[0].traffic, one.traffic, "one link is all there is");
        }
    });
}

/// "19 GB/s", of a transfer that had stopped after a part of it.
#[test]
fn a_transfer_that_failed_counts_no_bytes_as_moved_by_it() {
    both(|mut settings| {
        settings.max_message = 64 << 10;
        let mut pair = Pair::new(settings, 1);
        let (here, _) = pair.connect(0, 1);
        let from = pair.reg(0, &filled(LEN as usize, 1));
        let to = pair.reg(1, &SharedHost::new(LEN as usize).expect("memory"));
        let into = pair.item(1, to, 0, LEN);
        let part = Part { mr: from, offset: 0, len: LEN };
        pair.start(0, here, 1, &[part], Request::Write { into: &[into], counter: None });
        pair.until("some chunks", |pair| moved(&pair.engines[1].counters()).1 > LEN / 4);
        pair.world.inject(Fault::LinkDeath { link: 0 });
        let outcome = pair.outcome(0, 1);
        assert!(!matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        let (one, other) = (pair.engines[0].counters(), pair.engines[1].counters());
        assert_eq!((one.traffic.written, one.traffic.failed), (Tally::default(), 1));
        let came = moved(&other).1;
        assert!((LEN / 4..LEN).contains(&came), "{came} bytes have landed, and no more are counted");
    });
}

/// Both ends ask for different numbers of channels; what moves is counted once.
#[test]
fn channels_that_were_asked_for_and_are_not_there_count_nothing() {
    let channels = |count| [("UCCL_TCPX_NUM_CHANNELS", count)];
    for (asked, has) in [("1", "1"), ("8", "1"), ("3", "8"), ("16", "16")] {
        let [here, there] = link(Progress::Thread, [&channels(asked), &channels(has)]);
        let (source, target) = (here.area(LEN as usize, 1), there.area(LEN as usize, 2));
        let item = there.item(&target);
        here.run(source.whole(), Request::Write { into: &[item], counter: None });
        here.run(source.whole(), Request::Read { from: &[item] });
        assert!(target.is(&source.memory));
        // What was posted last may be reported a moment after it has landed.
        here.run(
            source.part(0, 1),
            Request::Write { into: &[item.narrow(item.address(), 1).expect("a part")], counter: None },
        );
        let counted = here.endpoint.counters();
        assert_eq!(counted.traffic.written, Tally { count: 2, bytes: LEN + 1 }, "{asked} and {has} channels");
        assert_eq!(counted.traffic.read, Tally { count: 1, bytes: LEN });
        let begin = std::time::Instant::now();
        loop {
            let (one, other) = (moved(&here.endpoint.counters()), moved(&there.endpoint.counters()));
            if (one, other) == ((LEN + 1, LEN), (LEN, LEN + 1)) {
                break;
            }
            assert!(
                one.0 <= LEN + 1 && one.1 <= LEN && other.0 <= LEN && other.1 <= LEN + 1,
                "{one:?} {other:?}"
            );
            assert!(begin.elapsed() < crate::support::sockets::PATIENCE, "{one:?} {other:?}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn no_channels_are_refused_by_name() {
    for count in ["0", "17", "-1"] {
        let environment: FixedEnvironment = [("UCCL_TCPX_NUM_CHANNELS", count)].into_iter().collect();
        let refused = Config::from_environment(&environment).expect_err("no such number").to_string();
        assert!(refused.contains("UCCL_TCPX_NUM_CHANNELS") && refused.contains(count), "{refused}");
    }
}
