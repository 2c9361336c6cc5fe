//! A peer that breaks the protocol: the link ends, with a word about why, and nothing else breaks.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use p2p_proto::frame::{
    Chunk, Frame, Kind, LONGEST_NOTIFICATION, LONGEST_PIECE, Owner, Refusal, Repeat, Run, Verdict,
};
use p2p_proto::id::{LocalRegion, RailIndex, RegionKey, TransferId};
use p2p_proto::list::{List, LocalRange, RemoteRange};
use p2p_proto::peer::{Caps, Exports, Happened, Landing, Loss, Outcome, Peer, Side, Waiting};
use p2p_proto::stripe::RailLimits;
use p2p_proto::wire::{Decoder, encode};
use proptest::prelude::*;

const NOW: Duration = Duration::ZERO;
const KEY: RegionKey = RegionKey { index: 7, generation: 1, secret: 5 };
const RAIL: RailLimits =
    RailLimits { max_message: 100, max_slices: 2, max_sends: 4, max_recvs: 4, peer_slices: 2, megabits: 0 };

/// Opens anything under one key.
struct Open;

impl Exports for Open {
    fn open(&self, key: RegionKey, offset: u64, len: u64, _: bool) -> Result<LocalRange, Refusal> {
        let range = LocalRange { region: LocalRegion(1), offset, len };
        if key == KEY { Ok(range) } else { Err(Refusal::UnknownKey) }
    }
}

/// A link that has begun a write (1), a read (2), a send (3) and a receive (4), of 300 bytes each.
fn link() -> Peer {
    let mut peer = Peer::new(vec![RAIL, RAIL], Caps::default());
    peer.write(local(300), remote(300), None).expect("there is room");
    peer.read(local(300), remote(300)).expect("there is room");
    peer.send(local(300)).expect("there is room");
    peer.recv(local(300)).expect("there is room");
    peer.drive(NOW);
    peer
}

fn local(len: u64) -> List<LocalRange> {
    List::of([LocalRange { region: LocalRegion(0), offset: 0, len }]).expect("it breaks no limit")
}

fn remote(len: u64) -> List<RemoteRange> {
    List::of([RemoteRange { key: KEY, offset: 0, len }]).expect("it breaks no limit")
}

fn begin(transfer: u64, kind: Kind, total: u64, ranges: u32) -> Frame {
    Frame::Begin { transfer: TransferId(transfer), kind, total, ranges, counter: None }
}

fn ranges(transfer: u64, ranges: &[(u64, u64)]) -> Frame {
    Frame::Ranges { transfer: TransferId(transfer), runs: vec![Run { key: KEY, ranges: ranges.to_vec() }] }
}

fn shape(owner: Owner, transfer: u64, length: u64, count: u32) -> Frame {
    Frame::Shape { owner, transfer: TransferId(transfer), parts: vec![Repeat { length, count }] }
}

fn chunks(rail: u8, before: u64, chunks: &[(Owner, u64, u64, u32)]) -> Frame {
    let chunk = |&(owner, transfer, start, length): &(Owner, u64, u64, u32)| Chunk {
        owner,
        transfer: TransferId(transfer),
        start,
        length,
    };
    Frame::Chunks { rail: RailIndex(rail), before, chunks: chunks.iter().map(chunk).collect() }
}

fn fin(owner: Owner, transfer: u64, verdict: Verdict) -> Frame {
    Frame::Fin { owner, transfer: TransferId(transfer), verdict }
}

fn notify(after: Option<u64>, more: bool, length: usize) -> Frame {
    Frame::Notify { after: after.map(TransferId), more, bytes: Bytes::from(vec![1; length]) }
}

fn hear(peer: &mut Peer, frames: &[Frame]) -> Result<(), String> {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| encode(frame, &mut bytes));
    peer.receive(NOW, &bytes, &Open).map_err(|breach| breach.text().to_owned())
}

fn last_frame(peer: &Peer) -> Option<Frame> {
    said(peer).pop()
}

fn said(peer: &Peer) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    decoder.push(peer.control());
    std::iter::from_fn(|| decoder.next().expect("what is said is well-formed")).collect()
}

fn says(peer: &Peer, frame: &Frame) -> bool {
    said(peer).contains(frame)
}

fn says_about(peer: &Peer, number: TransferId) -> bool {
    said(peer).iter().any(|frame| matches!(frame, Frame::Fin { transfer, .. } if *transfer == number))
}

/// How the transfers ended, in the order of their numbers.
fn outcomes(peer: &mut Peer) -> Vec<Outcome> {
    let mut ended = Vec::new();
    while let Some(happened) = peer.happened() {
        if let Happened::Ended { transfer, outcome } = happened {
            ended.push((transfer, outcome));
        }
    }
    ended.sort_by_key(|(transfer, _)| *transfer);
    ended.into_iter().map(|(_, outcome)| outcome).collect()
}

use Owner::{Hearer, Speaker};

#[test]
fn breaches_end_the_link() {
    let write = || [begin(1, Kind::Write, 300, 2), ranges(1, &[(0, 100), (200, 200)])];
    let half = || [begin(1, Kind::Write, 300, 2), ranges(1, &[(0, 100)])];
    let two = |one: [Frame; 2], more: Frame| [one.to_vec(), vec![more]].concat();
    let read_whole = [begin(1, Kind::Read, 10, 1), ranges(1, &[(0, 10)]), shape(Speaker, 1, 10, 1)];
    let cases: Vec<(&str, Vec<Frame>)> = vec![
        ("number 0", vec![begin(0, Kind::Send, 1, 0)]),
        ("a number again", vec![begin(2, Kind::Send, 1, 0), begin(2, Kind::Send, 1, 0)]),
        ("a smaller number", vec![begin(2, Kind::Send, 1, 0), begin(1, Kind::Send, 1, 0)]),
        ("more ranges than bytes", vec![begin(1, Kind::Write, 2, 3)]),
        ("bytes without ranges", vec![begin(1, Kind::Write, 2, 0)]),
        ("ranges without bytes", vec![begin(1, Kind::Read, 0, 1)]),
        ("ranges of nothing", vec![ranges(1, &[(0, 1)])]),
        ("ranges of a send", vec![begin(1, Kind::Send, 9, 0), ranges(1, &[(0, 1)])]),
        ("more ranges than said", two(write(), ranges(1, &[(900, 1)]))),
        ("fewer ranges than said", vec![begin(1, Kind::Write, 300, 2), ranges(1, &[(0, 300)])]),
        ("more bytes than said", vec![begin(1, Kind::Write, 300, 2), ranges(1, &[(0, 301)])]),
        ("fewer bytes than said", vec![begin(1, Kind::Write, 300, 1), ranges(1, &[(0, 299)])]),
        ("shape of a write here", vec![shape(Hearer, 1, 300, 1)]),
        ("shape of a read here", vec![shape(Hearer, 2, 300, 1)]),
        ("shape of a receive here", vec![shape(Hearer, 4, 300, 1)]),
        ("shape of nothing", vec![shape(Hearer, 5, 300, 1)]),
        ("shape of its own write", two(write(), shape(Speaker, 1, 300, 1))),
        ("a longer shape", vec![shape(Hearer, 3, 301, 1)]),
        ("a longer shape, in two", vec![shape(Hearer, 3, 100, 2), shape(Hearer, 3, 101, 1)]),
        ("a shape again", vec![shape(Hearer, 3, 300, 1), shape(Hearer, 3, 1, 1)]),
        ("a shape of too many parts", vec![begin(1, Kind::Read, 1 << 40, 1), shape(Speaker, 1, 1, 1 << 23)]),
        ("a read's shape again", [read_whole.to_vec(), vec![shape(Speaker, 1, 1, 1)]].concat()),
        ("no such rail", two(write(), chunks(2, 0, &[(Speaker, 1, 0, 10)]))),
        ("a gap on the rail", two(write(), chunks(0, 1, &[(Speaker, 1, 0, 10)]))),
        (
            "no count on the rail",
            [
                write().to_vec(),
                vec![chunks(0, 0, &[(Speaker, 1, 0, 10)]), chunks(0, 0, &[(Speaker, 1, 10, 10)])],
            ]
            .concat(),
        ),
        ("too long for the rail", two(write(), chunks(0, 0, &[(Speaker, 1, 0, 101)]))),
        ("a chunk of nothing", two(write(), chunks(0, 0, &[(Speaker, 2, 0, 10)]))),
        ("a chunk of a write here", vec![chunks(0, 0, &[(Hearer, 1, 0, 10)])]),
        ("a chunk of a receive here", vec![chunks(0, 0, &[(Hearer, 4, 0, 10)])]),
        (
            "a chunk of its own read",
            [read_whole.to_vec(), vec![chunks(0, 0, &[(Speaker, 1, 0, 10)])]].concat(),
        ),
        ("bytes twice", two(write(), chunks(0, 0, &[(Speaker, 1, 0, 10), (Speaker, 1, 9, 10)]))),
        ("bytes behind the end", two(write(), chunks(0, 0, &[(Speaker, 1, 290, 11)]))),
        ("bytes far away", two(write(), chunks(0, 0, &[(Speaker, 1, u64::MAX - 4, 11)]))),
        ("ranges not told", two(half(), chunks(0, 0, &[(Speaker, 1, 95, 10)]))),
        (
            "too many slices",
            vec![
                begin(1, Kind::Write, 6, 3),
                ranges(1, &[(0, 2), (4, 2), (8, 2)]),
                chunks(0, 0, &[(Speaker, 1, 0, 6)]),
            ],
        ),
        (
            "a send that nobody met",
            vec![
                begin(1, Kind::Send, 400, 0),
                begin(2, Kind::Send, 9, 0),
                begin(3, Kind::Send, 9, 0),
                chunks(0, 0, &[(Speaker, 3, 0, 9)]),
            ],
        ),
        ("a send before its shape", vec![begin(1, Kind::Send, 9, 0), chunks(0, 0, &[(Speaker, 1, 0, 9)])]),
        ("landed, not announced", vec![fin(Hearer, 3, Verdict::Landed)]),
        ("landed here", two(write(), fin(Speaker, 1, Verdict::Landed))),
        (
            "landed, an empty send of nobody",
            vec![
                begin(1, Kind::Send, 301, 0),
                begin(2, Kind::Send, 1, 0),
                begin(3, Kind::Send, 0, 0),
                fin(Speaker, 3, Verdict::Landed),
            ],
        ),
        ("the end of nothing", vec![fin(Hearer, 5, Verdict::MemoryGone)]),
        ("the end of nothing of its own", vec![fin(Speaker, 1, Verdict::MemoryGone)]),
        ("the end of a receive", vec![fin(Hearer, 4, Verdict::MemoryGone)]),
        ("a notification after nothing", vec![notify(Some(1), false, 3)]),
        (
            "a notification after a send",
            vec![begin(1, Kind::Send, 400, 0), begin(2, Kind::Send, 300, 0), notify(Some(2), false, 3)],
        ),
        (
            "parts of two notifications",
            two(write(), notify(None, true, 3)).into_iter().chain([notify(Some(1), false, 3)]).collect(),
        ),
        (
            "a notification that never ends",
            std::iter::repeat_n(notify(None, true, LONGEST_PIECE), LONGEST_NOTIFICATION / LONGEST_PIECE + 1)
                .collect(),
        ),
    ];
    for (what, frames) in cases {
        let mut peer = link();
        let Some((last, before)) = frames.split_last() else { continue };
        assert_eq!(hear(&mut peer, before), Ok(()), "{what}: too early");
        let text = hear(&mut peer, std::slice::from_ref(last)).expect_err(what);
        assert!(!text.is_empty() && peer.is_over() && !peer.wants_control(), "{what}");
        let goodbye = last_frame(&peer);
        assert!(
            matches!(&goodbye, Some(Frame::Goodbye { why }) if why.contains(&text)),
            "{what}: {goodbye:?}"
        );
        let outcomes = outcomes(&mut peer);
        assert_eq!(outcomes.len(), 4, "{what}: every transfer ends");
        assert_eq!(peer.next_post(RailIndex(0), Side::Recv), None);
    }
}

#[test]
fn what_is_late_is_swallowed() {
    let mut peer = link();
    // A write under an unknown key is refused; what its owner said before it heard that is received anywhere.
    let run = Run { key: RegionKey { index: 8, ..KEY }, ranges: vec![(0, 10)] };
    let wrong = Frame::Ranges { transfer: TransferId(1), runs: vec![run] };
    let late = [
        begin(1, Kind::Write, 300, 2),
        wrong,
        ranges(1, &[(0, 290)]),
        chunks(1, 0, &[(Speaker, 1, 0, 77), (Speaker, 1, 0, 5)]),
        fin(Speaker, 1, Verdict::RailLost(RailIndex(0))),
        notify(Some(1), false, 3),
    ];
    assert_eq!(hear(&mut peer, &late), Ok(()));
    assert_eq!(last_frame(&peer), Some(fin(Hearer, 1, Verdict::Refused(Refusal::UnknownKey))));
    for length in [77, 5] {
        let post = peer.next_post(RailIndex(1), Side::Recv).expect("it is received");
        assert_eq!((post.parts, post.scratch), (&[][..], length));
        let token = post.token;
        peer.posted(NOW, RailIndex(1), Side::Recv);
        peer.ended(NOW, token, Landing::Done);
    }
    assert_eq!(peer.happened(), None, "its notification is not heard");
}

#[test]
fn a_transfer_that_is_over_waits_for_its_own_messages_only() {
    let mut peer = link();
    assert_eq!(hear(&mut peer, &[chunks(0, 0, &[(Hearer, 2, 0, 100), (Hearer, 2, 100, 100)])]), Ok(()));
    let first = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced");
    let (token, parts) = (first.token, first.parts.to_vec());
    assert_eq!(parts, [LocalRange { region: LocalRegion(0), offset: 0, len: 100 }]);
    peer.posted(NOW, RailIndex(0), Side::Recv);
    assert_eq!(hear(&mut peer, &[fin(Hearer, 2, Verdict::Refused(Refusal::OutOfRange))]), Ok(()));
    let second = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced");
    assert_eq!((second.parts, second.scratch), (&[][..], 100));
    peer.posted(NOW, RailIndex(0), Side::Recv);
    assert_eq!(outcomes(&mut peer), [], "its memory is with the transport");
    peer.ended(NOW, token, Landing::Done);
    assert_eq!(outcomes(&mut peer), [Outcome::Refused(Refusal::OutOfRange)]);
}

#[test]
fn more_than_there_is_room_for_is_refused() {
    let caps = Caps { peer_transfers: 2, peer_ranges: 4, ..Caps::default() };
    let mut peer = Peer::new(vec![RAIL], caps);
    let refused = |transfer| Some(fin(Hearer, transfer, Verdict::Refused(Refusal::TooMany)));
    assert_eq!(hear(&mut peer, &[begin(1, Kind::Write, 300, 5)]), Ok(()));
    assert_eq!(last_frame(&peer), refused(1));
    peer.control_sent(usize::MAX);
    let late = [ranges(1, &[(0, 300)]), chunks(0, 0, &[(Speaker, 1, 0, 100)]), notify(Some(1), false, 3)];
    assert_eq!(hear(&mut peer, &late), Ok(()), "it did not know yet");
    assert_eq!(peer.next_post(RailIndex(0), Side::Recv).map(|post| post.scratch), Some(100));
    assert_eq!(peer.happened(), None);
    let full = [begin(2, Kind::Write, 300, 4), begin(3, Kind::Send, 300, 0), begin(4, Kind::Send, 1, 0)];
    assert_eq!(hear(&mut peer, &full), Ok(()));
    assert_eq!(last_frame(&peer), refused(4));
    peer.control_sent(usize::MAX);
    // Room comes back with the end of what took it.
    let again =
        [fin(Speaker, 2, Verdict::MemoryGone), begin(5, Kind::Read, 300, 3), shape(Speaker, 5, 100, 1)];
    assert_eq!(hear(&mut peer, &again), Ok(()));
    assert!(peer.control().is_empty());
    assert_eq!(hear(&mut peer, &[shape(Speaker, 5, 100, 1)]), Ok(()));
    assert_eq!(last_frame(&peer), refused(5), "a shape takes room as well");
    peer.control_sent(usize::MAX);
    assert_eq!(hear(&mut peer, &[begin(6, Kind::Read, 300, 4)]), Ok(()));
    assert!(peer.control().is_empty(), "and gives it back");
}

#[test]
fn control_rests_while_much_is_announced() {
    let caps = Caps { announced: 2, unread: 100, ..Caps::default() };
    let mut peer = Peer::new(vec![RAIL], caps);
    let frames = [
        begin(1, Kind::Write, 30, 1),
        ranges(1, &[(0, 30)]),
        chunks(0, 0, &[(Speaker, 1, 0, 10), (Speaker, 1, 10, 10), (Speaker, 1, 20, 10)]),
    ];
    assert_eq!(hear(&mut peer, &frames), Ok(()));
    assert!(!peer.wants_control());
    let waiting = peer.recv(local(5)).expect("there is room");
    assert_eq!(peer.waits_for(waiting), Some(Waiting::Reading { unlanded: 3, unread: 0 }));
    let token = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced").token;
    peer.posted(NOW, RailIndex(0), Side::Recv);
    assert!(!peer.wants_control());
    peer.ended(NOW, token, Landing::Done);
    assert!(peer.wants_control());
    assert_eq!(hear(&mut peer, &[notify(None, false, 30), notify(None, false, 30)]), Ok(()));
    assert!(!peer.wants_control());
    assert!(matches!(peer.happened(), Some(Happened::Notified(_))));
    assert!(peer.wants_control());
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let owner = || prop_oneof![Just(Speaker), Just(Hearer)];
    let id = || 1u64..7;
    let kind = prop_oneof![Just(Kind::Write), Just(Kind::Read), Just(Kind::Send)];
    let length = || prop_oneof![Just(10u64), Just(20), Just(150), Just(300)];
    let verdict = prop_oneof![
        Just(Verdict::Landed),
        Just(Verdict::MemoryGone),
        Just(Verdict::RailLost(RailIndex(1))),
        Just(Verdict::Refused(Refusal::TooLong)),
    ];
    let chunk = (
        owner(),
        id(),
        prop_oneof![Just(0u64), Just(10), Just(100), Just(200)],
        prop_oneof![Just(10u32), Just(100)],
    );
    prop_oneof![
        4 => (id(), kind, length(), 1u32..3).prop_map(|(id, kind, total, count)| {
            begin(id, kind, total, if kind == Kind::Send { 0 } else { count })
        }),
        4 => (id(), prop::collection::vec((0u64..50, length()), 1..3)).prop_map(|(id, list)| ranges(id, &list)),
        4 => (owner(), id(), length(), 1u32..3).prop_map(|(owner, id, length, count)| shape(owner, id, length, count)),
        6 => (0u8..2, prop::collection::vec(chunk, 1..4)).prop_map(|(rail, list)| chunks(rail, 0, &list)),
        4 => (owner(), id(), verdict).prop_map(|(owner, id, verdict)| fin(owner, id, verdict)),
        1 => (prop::option::of(id()), 0usize..9).prop_map(|(after, length)| notify(after, false, length)),
        1 => Just(Frame::Ping { number: 1 }),
    ]
}

/// Lets a frame name what there is, so that it comes further than the first check.
fn make_likely(frame: &mut Frame, begun: &mut u64, announced: &mut [u64; 2]) {
    let known = |owner: Owner, transfer: &mut TransferId, begun: u64| {
        let last = if owner == Speaker { begun.max(1) } else { 3 };
        transfer.0 = 1 + transfer.0 % last;
    };
    match frame {
        Frame::Begin { transfer, .. } => {
            *begun += 1;
            transfer.0 = *begun;
        }
        Frame::Chunks { rail, before, chunks } => {
            let count = &mut announced[usize::from(rail.0)];
            *before = *count;
            *count += chunks.len() as u64;
            chunks.iter_mut().for_each(|chunk| known(chunk.owner, &mut chunk.transfer, *begun));
        }
        Frame::Ranges { transfer, .. } | Frame::Notify { after: Some(transfer), .. } => {
            known(Speaker, transfer, *begun);
        }
        Frame::Shape { owner, transfer, .. } | Frame::Fin { owner, transfer, .. } => {
            known(*owner, transfer, *begun);
        }
        Frame::Notify { after: None, .. }
        | Frame::Ping { .. }
        | Frame::Pong { .. }
        | Frame::Goodbye { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever well-formed frames come, each transfer here ends once, and no message meets memory of one that is over.
    #[test]
    fn frames_without_sense_break_nothing(
        frames in prop::collection::vec((any_frame(), any::<u8>()), 1..60),
        lost in any::<bool>(),
    ) {
        let mut peer = link();
        let mut announced = [0u64; 2];
        let mut posted = Vec::new();
        let mut ended = 0;
        let mut begun = 0;
        for (mut frame, act) in frames {
            make_likely(&mut frame, &mut begun, &mut announced);
            if hear(&mut peer, &[frame]).is_err() {
                break;
            }
            peer.drive(NOW);
            let rail = RailIndex(act % 2);
            for side in [Side::Send, Side::Recv] {
                if act & 4 > 0 && let Some(post) = peer.next_post(rail, side) {
                    posted.push(post.token);
                    peer.posted(NOW, rail, side);
                }
            }
            if act & 8 > 0 && !posted.is_empty() {
                let landing = if act > 250 { Landing::Failed } else { Landing::Done };
                peer.ended(NOW, posted.swap_remove(usize::from(act) % posted.len()), landing);
            }
            ended += outcomes(&mut peer).len();
        }
        if lost {
            peer.rail_lost(NOW, RailIndex(0));
        }
        peer.link_lost();
        posted.into_iter().for_each(|token| peer.ended(NOW, token, Landing::Lost));
        prop_assert_eq!(ended + outcomes(&mut peer).len(), 4);
        prop_assert!(peer.is_over());
    }
}

#[test]
fn a_peer_that_does_not_listen_is_not_answered_for_ever() {
    let mut peer = Peer::new(vec![RAIL], Caps { own_transfers: 1, peer_transfers: 0, ..Caps::default() });
    let breach = (1..100_000).find_map(|number| hear(&mut peer, &[begin(number, Kind::Send, 1, 0)]).err());
    assert!(breach.is_some_and(|text| text.contains("listen")));
    assert!(peer.control().len() < 1 << 20);
}

#[test]
fn counters_and_notifications_that_are_not_taken_rest_the_stream() {
    let mut peer = Peer::new(vec![RAIL], Caps { unread: 1000, ..Caps::default() });
    let mut number = 0;
    while peer.wants_control() {
        number += 1;
        let (transfer, kind) = (TransferId(number), Kind::Write);
        let write = Frame::Begin { transfer, kind, total: 0, ranges: 0, counter: Some(3) };
        assert_eq!(hear(&mut peer, &[write]), Ok(()));
        assert!(number < 100, "nothing stops it");
    }
    for _ in 0..number {
        assert_eq!(peer.happened(), Some(Happened::Counted(3)));
    }
    assert!(peer.happened().is_none() && peer.wants_control());
}

#[test]
fn memory_that_is_taken_away_ends_its_transfers() {
    let mut peer = link();
    peer.control_sent(usize::MAX);
    let theirs = [
        begin(1, Kind::Write, 300, 1),
        ranges(1, &[(0, 300)]),
        chunks(0, 0, &[(Speaker, 1, 0, 100), (Speaker, 1, 100, 100)]),
    ];
    assert_eq!(hear(&mut peer, &theirs), Ok(()));
    let token = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced").token;
    peer.posted(NOW, RailIndex(0), Side::Recv);
    peer.release(LocalRegion(1));
    assert_eq!(last_frame(&peer), Some(fin(Hearer, 1, Verdict::MemoryGone)));
    assert_eq!(peer.next_post(RailIndex(0), Side::Recv).map(|post| post.scratch), Some(100));
    assert!(peer.holds(LocalRegion(1)) && peer.holds(LocalRegion(0)));
    peer.ended(NOW, token, Landing::Done);
    assert!(!peer.holds(LocalRegion(1)));
    assert_eq!(outcomes(&mut peer), []);
    // Of the write here, messages are announced, so that they go.
    peer.release(LocalRegion(0));
    let gone = Outcome::MemoryGone { here: true };
    assert_eq!(outcomes(&mut peer), [gone, gone, gone]);
    assert!(!says_about(&peer, TransferId(4)), "the peer knows nothing of a receive");
    assert!(peer.holds(LocalRegion(0)));
    let mut sent = 0;
    for rail in [RailIndex(0), RailIndex(1)] {
        while let Some(post) = peer.next_post(rail, Side::Send) {
            let token = post.token;
            sent += post.parts.len();
            peer.posted(NOW, rail, Side::Send);
            peer.ended(NOW, token, Landing::Done);
        }
    }
    assert!(sent > 0);
    assert_eq!(outcomes(&mut peer), [gone]);
    assert!(!peer.holds(LocalRegion(0)) && !peer.is_over());
}

#[test]
fn a_send_stays_within_its_own_bytes() {
    let mut peer = link();
    assert_eq!(hear(&mut peer, &[begin(1, Kind::Send, 9, 0)]), Ok(()));
    peer.drive(NOW);
    assert_eq!(last_frame(&peer), Some(shape(Hearer, 1, 9, 1)), "the receive is longer");
    let text = hear(&mut peer, &[chunks(0, 0, &[(Speaker, 1, 5, 5)])]).expect_err("it has 9 bytes");
    assert!(text.contains("does not have"), "{text}");
    assert_eq!(peer.next_post(RailIndex(0), Side::Recv), None);
}

#[test]
fn a_write_stays_within_what_was_told_of_it() {
    let mut peer = link();
    let half = [begin(1, Kind::Write, 300, 2), ranges(1, &[(0, 100)])];
    assert_eq!(hear(&mut peer, &half), Ok(()));
    let text = hear(&mut peer, &[chunks(0, 0, &[(Speaker, 1, 95, 10)])]).expect_err("it told of 100 bytes");
    assert!(text.contains("not yet"), "{text}");
}

/// A link with a write of the peer, of which two messages are announced on rail 0 and the first is posted.
fn half_way() -> (Peer, u64) {
    let mut peer = link();
    let theirs = [
        begin(1, Kind::Write, 300, 1),
        ranges(1, &[(0, 300)]),
        chunks(0, 0, &[(Speaker, 1, 0, 100), (Speaker, 1, 100, 100)]),
    ];
    assert_eq!(hear(&mut peer, &theirs), Ok(()));
    let token = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced").token;
    peer.posted(NOW, RailIndex(0), Side::Recv);
    peer.control_sent(usize::MAX);
    (peer, token)
}

#[test]
fn a_rail_is_used_no_more_once_a_message_was_lost_on_it() {
    let (mut peer, token) = half_way();
    peer.ended(NOW, token, Landing::Lost);
    assert!(says(&peer, &fin(Hearer, 1, Verdict::RailLost(RailIndex(0)))));
    for side in [Side::Send, Side::Recv] {
        assert_eq!(peer.next_post(RailIndex(0), side), None);
    }
    peer.write(local(3000), remote(3000), None).expect("there is room");
    peer.drive(NOW);
    assert_eq!(peer.next_post(RailIndex(0), Side::Send), None);
    assert!(peer.next_post(RailIndex(1), Side::Send).is_some());
    assert!(peer.happened().is_none(), "the caller knows of the rail");
}

#[test]
fn a_message_that_fails_takes_its_rail_along() {
    let (mut peer, token) = half_way();
    peer.ended(NOW, token, Landing::Failed);
    assert!(says(&peer, &fin(Hearer, 1, Verdict::MemoryGone)));
    assert_eq!(peer.next_post(RailIndex(0), Side::Recv), None);
    assert_eq!(peer.happened(), Some(Happened::RailBroken(RailIndex(0))));
    peer.rail_lost(NOW, RailIndex(0));
    assert!(!peer.is_over());
    peer.rail_lost(NOW, RailIndex(1));
    assert!(peer.is_over());
    let lost = std::iter::from_fn(|| peer.happened()).find(|what| matches!(what, Happened::Lost(_)));
    assert_eq!(lost, Some(Happened::Lost(Loss::NoRail)));
}

#[test]
fn what_lands_behind_a_message_that_failed_is_not_trusted() {
    let (mut peer, first) = half_way();
    let second = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced").token;
    peer.posted(NOW, RailIndex(0), Side::Recv);
    let theirs = [begin(2, Kind::Write, 50, 1), ranges(2, &[(0, 50)]), chunks(0, 2, &[(Speaker, 2, 0, 50)])];
    assert_eq!(hear(&mut peer, &theirs), Ok(()));
    let third = peer.next_post(RailIndex(0), Side::Recv).expect("it is announced").token;
    peer.posted(NOW, RailIndex(0), Side::Recv);
    peer.ended(NOW, first, Landing::Failed);
    peer.ended(NOW, second, Landing::Done);
    peer.ended(NOW, third, Landing::Done);
    assert!(!says(&peer, &fin(Hearer, 2, Verdict::Landed)), "it may be the bytes of another message");
    assert!(says(&peer, &fin(Hearer, 2, Verdict::RailLost(RailIndex(0)))));
}

#[test]
fn a_read_is_checked_wholly_before_anything_is_sent() {
    let mut peer = Peer::new(vec![RAIL], Caps::default());
    let half = [begin(1, Kind::Read, 10, 2), shape(Speaker, 1, 10, 1), ranges(1, &[(0, 5)])];
    assert_eq!(hear(&mut peer, &half), Ok(()));
    peer.drive(NOW);
    assert_eq!(said(&peer), []);
    assert_eq!(hear(&mut peer, &[ranges(1, &[(50, 5)])]), Ok(()));
    peer.drive(NOW);
    assert_eq!(said(&peer), [chunks(0, 0, &[(Hearer, 1, 0, 10)])]);
}

#[test]
fn notifications_that_wait_for_a_write_are_bounded() {
    let mut peer = Peer::new(vec![RAIL], Caps { held: 1000, ..Caps::default() });
    assert_eq!(hear(&mut peer, &[begin(1, Kind::Write, 10, 1)]), Ok(()));
    let heard = (0..100).take_while(|_| hear(&mut peer, &[notify(Some(1), false, 100)]).is_ok()).count();
    assert!((4..100).contains(&heard), "{heard} notifications of 100 bytes wait");
    assert!(peer.is_over());
}
