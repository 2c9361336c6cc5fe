//! The window of a plugin: it holds 16 messages, which once was looked at after the 17th was posted.

use std::time::Duration;

use p2p_endpoint::endpoint::Progress;
use p2p_endpoint::engine::{Part, Request};
use p2p_memory::SharedHost;
use p2p_proto::peer::Outcome;
use p2p_transport_mock::{Fault, Settings};

use crate::both;
use crate::support::sockets::{PATIENCE, link};
use crate::support::{Pair, bytes, filled};

const CHUNK: u64 = 64 << 10;

/// Moves so many chunks of one message over one rail, each way that there is.
fn move_chunks(settings: &Settings, chunks: u64, busy: bool) {
    let mut settings = settings.clone();
    settings.max_message = CHUNK as u32;
    let mut pair = Pair::new(settings, 1);
    let (here, there) = pair.connect(0, 1);
    let len = chunks * CHUNK;
    let source = filled(len as usize, 1);
    let from = pair.reg(0, &source);
    let part = Part { mr: from, offset: 0, len };
    let check = |pair: &mut Pair, token: u64, start: &dyn Fn(&mut Pair, Part)| {
        let target = SharedHost::new(len as usize).expect("memory");
        let to = Part { mr: pair.reg(1, &target), offset: 0, len };
        if busy {
            for node in 0..2 {
                // It says that it is busy although there is room.
                pair.world.inject(Fault::ShortAcceptance { node, room: 2, lasts: Duration::from_millis(1) });
            }
        }
        start(pair, to);
        for engine in 0..2 {
            if pair.engines[engine].counters().by_link[0].under_way > 0 {
                assert_eq!(pair.outcome(engine, token), Outcome::Done { bytes: len }, "{chunks} chunks");
            }
        }
        assert!(bytes(&target, 0, len as usize) == bytes(&source, 0, len as usize), "{chunks} chunks");
    };
    check(&mut pair, 1, &|pair, to| {
        let item = pair.item(1, to.mr, 0, len);
        pair.start(0, here, 1, &[part], Request::Write { into: &[item], counter: None });
    });
    check(&mut pair, 2, &|pair, to| {
        let item = pair.item(0, from, 0, len);
        pair.start(1, there, 2, &[to], Request::Read { from: &[item] });
    });
    check(&mut pair, 3, &|pair, to| {
        pair.start(1, there, 3, &[to], Request::Recv);
        pair.start(0, here, 3, &[part], Request::Send);
    });
}

/// "The server handles 17 chunks and stops."
#[test]
fn a_message_of_more_chunks_than_the_window_has_places_goes_on() {
    both(|mut settings| {
        // Also where the receiver has fewer places than the sender, so that what is announced waits for one.
        for recvs in [settings.recvs_per_channel, 5] {
            settings.recvs_per_channel = recvs;
            for chunks in [16, 17, 18, 33, 257, 300] {
                move_chunks(&settings, chunks, false);
            }
        }
    });
}

#[test]
fn a_transport_that_is_busy_is_waited_for_and_not_given_up() {
    both(|settings| {
        for chunks in [3, 17, 40] {
            move_chunks(&settings, chunks, true);
        }
    });
}

/// Each receive holds its place in the plugin until it is consumed, which has to happen, and in order.
#[test]
fn one_channel_carries_more_than_sixteen_chunks() {
    let window = [
        ("UCCL_TCPX_NUM_CHANNELS", "1"),
        ("UCCL_TCPX_MAX_SEND_INFLIGHT", "16"),
        ("UCCL_TCPX_MAX_RECV_INFLIGHT", "16"),
    ];
    let [here, there] = link(Progress::Thread, [&window, &window]);
    // Forty messages at once, each a transfer of its own.
    let (source, target) = (here.area(1 << 20, 1), there.area(1 << 20, 2));
    let item = there.item(&target);
    let at = |offset, len| item.narrow(item.address() + offset, len).expect("a part of it");
    let writes: Vec<_> = (0..40)
        .map(|nth| {
            let into = [at(nth * 1000, 1000)];
            here.start(source.part(nth * 1000, 1000), Request::Write { into: &into, counter: None })
        })
        .collect();
    writes.into_iter().for_each(|id| here.done(id, 1000));
    assert!(bytes(&target.memory, 0, 40_000) == bytes(&source.memory, 0, 40_000));
    // One transfer of many chunks, because its bytes lie scattered at both ends: a message has few parts.
    let pieces = (0..1 << 17).map(|nth| nth * 8);
    let parts: Vec<Part> = pieces.clone().map(|offset| source.part(offset, 4)).collect();
    let into: Vec<_> = pieces.clone().map(|offset| at(offset, 4)).collect();
    let write = Request::Write { into: &into, counter: None };
    let written = here.endpoint.run(here.link, &parts, write, PATIENCE).expect("it starts");
    assert_eq!(written, Some(Outcome::Done { bytes: 4 << 17 }));
    let (sent, came) = (bytes(&source.memory, 0, 1 << 20), bytes(&target.memory, 0, 1 << 20));
    assert!(pieces.map(|offset| offset as usize).all(|at| sent[at..at + 4] == came[at..at + 4]));
    let moved = &here.endpoint.counters().by_link[0].rails;
    assert_eq!(moved.len(), 1, "one NIC is one rail");
    assert!(moved[0].messages.sent.count > 40 + 16, "{moved:?}");
}

/// The window is nearly empty, and whoever waits for it to fill waits for ever.
#[test]
fn a_single_message_moves_although_nothing_is_full() {
    both(|settings| move_chunks(&settings, 1, false));
    for progress in [Progress::Thread, Progress::Caller] {
        let ends = link(progress, [&[], &[]]);
        for len in [1, 5000, 200_000] {
            one_message(&ends, len);
        }
    }
}

fn one_message([here, there]: &[crate::support::sockets::End; 2], len: usize) {
    let (source, target) = (here.area(len, 1), there.area(len, 2));
    std::thread::scope(|scope| {
        scope.spawn(|| there.run(target.whole(), Request::Recv));
        scope.spawn(|| here.run(source.whole(), Request::Send));
    });
    assert!(target.is(&source.memory));
}
