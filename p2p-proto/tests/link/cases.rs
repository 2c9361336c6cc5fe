//! Single things that a script seldom meets.

use std::time::Duration;

use bytes::Bytes;
use p2p_proto::frame::Refusal;
use p2p_proto::id::{RailIndex, TransferId};
use p2p_proto::list::{List, LocalRange};
use p2p_proto::peer::{Caps, Happened, Landing, Loss, Outcome, Peer, Rejected, Side, Waiting};
use p2p_proto::stripe::RailLimits;

use crate::run::Run;
use crate::script::{Act, What, Wrong};
use crate::world::End;

const RAIL: RailLimits =
    RailLimits { max_message: 1000, max_slices: 4, max_sends: 4, max_recvs: 4, peer_slices: 4, megabits: 0 };

fn run(rails: usize, caps: Caps) -> Run {
    Run::new(1, [vec![RAIL; rails], vec![RAIL; rails]], [caps; 2])
}

fn act(run: &mut Run, end: usize, what: What) -> TransferId {
    run.act(&Act { end, what, steps: 0 });
    run.jobs.last().expect("it has begun").transfer
}

const fn write(total: u64, pieces: usize) -> What {
    What::Write { total, pieces: [pieces, pieces], counter: None, wrong: Wrong::Nothing, notices: 0 }
}

const fn send(total: u64) -> What {
    What::Send { total, pieces: 1 }
}

const fn recv(capacity: u64) -> What {
    What::Recv { capacity, pieces: 1 }
}

/// All that one end has to say arrives, once.
fn talk(run: &mut Run, from: usize) {
    run.world.ends[from].peer.drive(run.world.now);
    run.world.say(from, usize::MAX);
    run.world.hear(1 - from, usize::MAX);
}

fn waits(run: &Run, end: usize, transfer: TransferId) -> Option<Waiting> {
    let waiting = run.world.ends[end].peer.waits_for(transfer);
    assert!(waiting.is_none_or(|waiting| waiting.to_string().len() > 10));
    waiting
}

fn no_memory() -> List<LocalRange> {
    List::new()
}

#[test]
fn a_stall_says_what_it_waits_for() {
    let mut run = run(1, Caps::default());
    let sent = act(&mut run, 0, send(6000));
    assert_eq!(
        waits(&run, 0, sent),
        Some(Waiting::Control { bytes: run.world.ends[0].peer.control().len() })
    );
    talk(&mut run, 0);
    assert_eq!(waits(&run, 0, sent), Some(Waiting::PeerReceives));
    let received = act(&mut run, 1, recv(6000));
    let second = act(&mut run, 1, recv(7));
    talk(&mut run, 1);
    assert_eq!(waits(&run, 1, second), Some(Waiting::PeerSends { before: 0 }));
    assert_eq!(waits(&run, 1, received), Some(Waiting::PeerAnnounces { announced: 0, total: 6000 }));
    run.world.ends[0].peer.drive(run.world.now);
    let post = Waiting::Post { rail: RailIndex(0), side: Side::Send, messages: 4, full: false };
    assert_eq!(waits(&run, 0, sent), Some(post));
    talk(&mut run, 0);
    run.world.post(0, 0, Side::Send, u64::MAX);
    let since = run.world.now;
    let with = Waiting::Transport { rail: RailIndex(0), side: Side::Send, messages: 4, since };
    assert_eq!(waits(&run, 0, sent), Some(with));
    let post = Waiting::Post { rail: RailIndex(0), side: Side::Recv, messages: 4, full: false };
    assert_eq!(waits(&run, 1, received), Some(post));
    run.world.settle();
    assert_eq!(waits(&run, 0, sent), None);
    // An answer that does not come.
    let written = act(&mut run, 0, write(500, 1));
    talk(&mut run, 0);
    run.world.post(0, 0, Side::Send, u64::MAX);
    run.world.post(1, 0, Side::Recv, u64::MAX);
    while run.world.carry(0, 0) {}
    while run.world.report(0, 0) {}
    assert!(matches!(waits(&run, 0, written), Some(Waiting::PeerAnswers { .. })));
    assert_eq!(waits(&run, 0, TransferId(99)), None);
}

#[test]
fn a_transfer_behind_full_windows_says_so() {
    let mut run = run(1, Caps::default());
    let first = act(&mut run, 0, write(4000, 1));
    let second = act(&mut run, 0, What::Read { total: 10, pieces: [1, 1], wrong: Wrong::Nothing });
    talk(&mut run, 0);
    assert_eq!(waits(&run, 0, second), Some(Waiting::PeerAnnounces { announced: 0, total: 10 }));
    run.world.post(0, 0, Side::Send, u64::MAX);
    let third = act(&mut run, 0, write(10, 1));
    talk(&mut run, 0);
    assert_eq!(waits(&run, 0, third), Some(Waiting::Window { full: Some(RailIndex(0)), uncut: 10 }));
    assert!(waits(&run, 0, first).is_some());
    run.world.settle();
    assert_eq!(run.world.outcome(0, third), Some(Outcome::Done { bytes: 10 }));
}

#[test]
fn a_small_transfer_is_not_behind_a_large_one() {
    let mut run = run(1, Caps::default());
    let large = act(&mut run, 0, write(1_000_000, 1));
    let small = act(&mut run, 0, write(900, 1));
    let after = act(&mut run, 0, write(900, 1));
    for _ in 0..4 {
        talk(&mut run, 0);
        run.world.post(0, 0, Side::Send, u64::MAX);
        run.world.post(1, 0, Side::Recv, u64::MAX);
        while run.world.carry(0, 0) {}
        while run.world.report(0, 0) {}
        talk(&mut run, 1);
    }
    run.world.collect(0);
    assert_eq!(run.world.outcome(0, small), Some(Outcome::Done { bytes: 900 }));
    assert_eq!(run.world.outcome(0, after), Some(Outcome::Done { bytes: 900 }));
    assert_eq!(run.world.outcome(0, large), None);
}

#[test]
fn a_hundred_thousand_ranges_are_said_in_pieces() {
    let mut run = run(2, Caps { control: 100_000, ..Caps::default() });
    let long = act(&mut run, 0, write(3_000_000, 100_000));
    let read =
        act(&mut run, 1, What::Read { total: 3_000_000, pieces: [100_000, 100_000], wrong: Wrong::Nothing });
    let mut moved_early = false;
    for _ in 0..20 {
        for end in 0..2 {
            run.world.ends[end].peer.drive(run.world.now);
            assert!(run.world.ends[end].peer.control().len() < 170_000, "more waits than may");
            moved_early |= run.world.ends[end].peer.next_post(RailIndex(0), Side::Send).is_some();
            talk(&mut run, end);
        }
        if moved_early {
            break;
        }
    }
    assert!(moved_early, "bytes of a write move before all of its ranges are said");
    run.world.settle();
    let bytes = 3_000_000;
    assert_eq!(run.world.outcome(0, long), Some(Outcome::Done { bytes }));
    assert_eq!(run.world.outcome(1, read), Some(Outcome::Done { bytes }));
    run.finish();
}

#[test]
fn bytes_move_beside_a_long_list() {
    let mut run = run(1, Caps { control: 400_000, ..Caps::default() });
    let long = act(&mut run, 0, write(3_000_000, 100_000));
    let short = act(&mut run, 0, write(500, 1));
    run.world.ends[0].peer.drive(run.world.now);
    assert!(run.world.ends[0].peer.control().len() < 400_000);
    assert!(run.world.ends[0].peer.next_post(RailIndex(0), Side::Send).is_some(), "announcements find room");
    for _ in 0..2 {
        talk(&mut run, 0);
        run.world.post(0, 0, Side::Send, u64::MAX);
        run.world.post(1, 0, Side::Recv, u64::MAX);
        while run.world.carry(0, 0) {}
        while run.world.report(0, 0) {}
        talk(&mut run, 1);
    }
    run.world.collect(0);
    assert_eq!(run.world.outcome(0, short), Some(Outcome::Done { bytes: 500 }), "it waits for a long list");
    assert_eq!(run.world.outcome(0, long), None);
    run.finish();
}

#[test]
fn announcements_wait_for_the_control_stream() {
    let rail = RailLimits { max_message: 16, max_sends: 60_000, ..RAIL };
    let mut run = Run::new(3, [vec![rail], vec![rail]], [Caps { control: 10_000, ..Caps::default() }; 2]);
    act(&mut run, 0, write(100_000, 1));
    run.world.ends[0].peer.drive(run.world.now);
    let waits = run.world.ends[0].peer.control().len();
    assert!((5000..20_000).contains(&waits), "{waits} bytes wait");
    run.finish();
}

#[test]
fn no_message_is_longer_than_what_the_peer_knows_of() {
    let rail = RailLimits { max_message: 4 << 20, max_slices: u16::MAX, peer_slices: u16::MAX, ..RAIL };
    let caps = Caps { control: 40_000, ..Caps::default() };
    let mut run = Run::new(3, [vec![rail], vec![rail]], [caps; 2]);
    let written = act(&mut run, 0, write(200_000, 5000));
    run.world.settle();
    assert_eq!(run.world.outcome(0, written), Some(Outcome::Done { bytes: 200_000 }));
    run.finish();
}

#[test]
fn who_loses_a_rail_with_announced_bytes_says_so() {
    let mut run = run(2, Caps::default());
    run.faulty = true;
    let written = act(&mut run, 0, write(8000, 1));
    talk(&mut run, 0);
    run.world.lose_rail(0, 0);
    talk(&mut run, 0);
    assert_eq!(run.world.outcome(0, written), None, "what is announced on the other rail has to go");
    for _ in 0..8 {
        run.world.post(0, 1, Side::Send, u64::MAX);
        run.world.post(1, 1, Side::Recv, u64::MAX);
        while run.world.carry(1, 0) {}
        while run.world.report(1, 0) {}
    }
    assert_eq!(run.world.outcome(0, written), Some(Outcome::RailLost(RailIndex(0))), "nobody answered");
    assert!(run.world.ends[1].peer.next_post(RailIndex(0), Side::Recv).is_some_and(|post| post.scratch > 0));
    run.finish();
}

#[test]
fn memory_that_is_gone_breaks_the_rail_and_no_more() {
    for side in [Side::Send, Side::Recv] {
        let mut run = run(2, Caps::default());
        let lost = act(&mut run, 0, write(500, 1));
        talk(&mut run, 0);
        let end = usize::from(side == Side::Recv);
        let now = run.world.now;
        let on = |peer: &mut Peer, rail| peer.next_post(RailIndex(rail), side).map(|post| (rail, post.token));
        let peer = &mut run.world.ends[end].peer;
        let (rail, token) = on(peer, 0).or_else(|| on(peer, 1)).expect("it is announced");
        peer.posted(now, RailIndex(rail), side);
        peer.ended(now, token, Landing::Failed);
        peer.drive(now);
        run.world.collect(end);
        assert!(run.world.ends[end].happened.contains(&Happened::RailBroken(RailIndex(rail))));
        run.world.lose_rail(end, usize::from(rail));
        run.faulty = true;
        run.world.settle_faults();
        run.world.settle();
        let here = side == Side::Send;
        let outcome = run.world.outcome(0, lost);
        let by_rail = outcome == Some(Outcome::RailLost(RailIndex(rail)));
        assert!(outcome == Some(Outcome::MemoryGone { here }) || !here && by_rail, "{outcome:?}");
        run.jobs.clear();
        run.finish();
    }
}

#[test]
fn what_is_withdrawn_takes_no_place() {
    let mut run = run(1, Caps::default());
    let first = act(&mut run, 0, send(10));
    let second = act(&mut run, 0, send(20));
    let never = act(&mut run, 1, recv(5));
    run.world.ends[0].peer.abandon(first);
    run.world.ends[1].peer.abandon(never);
    run.world.settle();
    let third = act(&mut run, 1, recv(30));
    run.world.settle();
    assert_eq!(run.world.outcome(0, first), Some(Outcome::Abandoned));
    assert_eq!(run.world.outcome(1, never), Some(Outcome::Abandoned));
    assert_eq!(run.world.outcome(0, second), Some(Outcome::Done { bytes: 20 }));
    assert_eq!(run.world.outcome(1, third), Some(Outcome::Done { bytes: 20 }));
}

#[test]
fn a_receive_that_has_met_a_send_is_withdrawn_with_it() {
    let mut run = run(1, Caps::default());
    let sent = act(&mut run, 0, send(10));
    talk(&mut run, 0);
    let received = act(&mut run, 1, recv(10));
    run.world.ends[1].peer.abandon(received);
    run.world.settle();
    assert_eq!(run.world.outcome(1, received), Some(Outcome::Abandoned));
    assert_eq!(run.world.outcome(0, sent), Some(Outcome::Refused(Refusal::Withdrawn)));
    let sent = act(&mut run, 0, send(10));
    let received = act(&mut run, 1, recv(10));
    talk(&mut run, 0);
    run.world.ends[0].peer.abandon(sent);
    run.world.settle();
    assert_eq!(run.world.outcome(0, sent), Some(Outcome::Abandoned));
    assert_eq!(run.world.outcome(1, received), Some(Outcome::Refused(Refusal::Withdrawn)));
}

#[test]
fn a_goodbye_ends_both_ends() {
    let mut run = run(1, Caps::default());
    let written = act(&mut run, 0, write(5000, 1));
    let waiting = act(&mut run, 1, recv(50));
    talk(&mut run, 0);
    run.world.post(0, 0, Side::Send, 3);
    // A word that is half said is said to its end.
    run.world.ends[1].peer.notify(None, Bytes::from_static(b"last")).expect("there is room");
    run.world.ends[1].peer.drive(run.world.now);
    run.world.say(1, 5);
    run.world.ends[1].peer.goodbye("the other one has what it wanted");
    run.world.collect(1);
    assert_eq!(run.world.outcome(1, waiting), Some(Outcome::LinkLost));
    talk(&mut run, 1);
    run.world.collect(0);
    let goodbye = Happened::Goodbye("the other one has what it wanted".into());
    assert!(run.world.ends[0].happened.contains(&goodbye));
    run.faulty = true;
    run.world.settle_faults();
    assert_eq!(run.world.outcome(0, written), Some(Outcome::LinkLost));
    for End { peer, .. } in &mut run.world.ends {
        assert!(peer.is_over() && peer.deadline().is_none());
        assert_eq!(peer.send(no_memory()), Err(Rejected::Over));
        assert_eq!(peer.notify(None, Bytes::new()), Err(Rejected::Over));
    }
}

#[test]
fn calls_that_cannot_be_are_rejected() {
    let mut run = run(1, Caps { own_transfers: 2, held: 1000, ..Caps::default() });
    let one = List::of([LocalRange { region: p2p_proto::id::LocalRegion(0), offset: 0, len: 1 }]);
    let peer = &mut run.world.ends[0].peer;
    assert_eq!(
        peer.write(one.expect("it is short"), List::new(), None),
        Err(Rejected::Unequal { here: 1, there: 0 })
    );
    let first = peer.recv(no_memory()).expect("there is room");
    assert_eq!(peer.room(), 1);
    assert_eq!(peer.notify(Some(first), Bytes::new()), Err(Rejected::NotAWrite));
    assert_eq!(peer.notify(Some(TransferId(7)), Bytes::new()), Err(Rejected::NotAWrite));
    assert_eq!(peer.notify(None, Bytes::from(vec![0; (1 << 20) + 1])), Err(Rejected::TooLong));
    assert_eq!(peer.notify(None, Bytes::from(vec![0; 1000])), Err(Rejected::Full));
    let write = peer.write(List::new(), List::new(), None).expect("there is room");
    assert_eq!(peer.send(no_memory()), Err(Rejected::Full));
    assert_eq!(peer.notify(Some(write), Bytes::from(vec![0; 900])), Ok(()));
    assert_eq!(peer.notify(None, Bytes::from(vec![0; 100])), Err(Rejected::Full));
    peer.abandon(first);
    run.world.ends[0].live.extend([(first, Vec::new()), (write, Vec::new())]);
    run.world.settle();
    let peer = &mut run.world.ends[0].peer;
    assert_eq!(peer.room(), 2, "room comes back");
    assert_eq!(peer.notify(Some(write), Bytes::new()), Err(Rejected::NotAWrite), "it is over");
    assert_eq!(peer.notify(None, Bytes::from(vec![0; 900])), Ok(()), "room comes back");
}

/// Looks of both ends, `every` so often, of which the second one listens or does not.
fn idle(run: &mut Run, every: Duration, times: u32, listens: bool) {
    for _ in 0..times {
        run.world.now += every;
        run.world.ends[0].peer.drive(run.world.now);
        run.world.say(0, usize::MAX);
        if listens {
            run.world.hear(1, usize::MAX);
            run.world.ends[1].peer.drive(run.world.now);
            run.world.say(1, usize::MAX);
            run.world.hear(0, usize::MAX);
        }
        run.world.collect(0);
    }
}

#[test]
fn silence_ends_a_link() {
    let mut run = run(1, Caps::default());
    let second = Duration::from_millis(500);
    idle(&mut run, second, 40, true);
    assert!(!run.world.ends[0].peer.is_over(), "a peer that answers is there");
    let waiting = act(&mut run, 0, recv(5));
    idle(&mut run, second, 9, false);
    assert!(!run.world.ends[0].peer.is_over());
    assert!(run.world.ends[0].peer.deadline().is_some_and(|next| next <= run.world.now + second));
    idle(&mut run, second, 2, false);
    let silent = Duration::from_secs(5);
    assert!(run.world.ends[0].happened.contains(&Happened::Lost(Loss::Silent(silent))));
    assert_eq!(run.world.outcome(0, waiting), Some(Outcome::LinkLost));
}

#[test]
fn time_in_which_nobody_looked_is_no_silence() {
    let mut run = run(1, Caps::default());
    idle(&mut run, Duration::from_millis(500), 4, false);
    idle(&mut run, Duration::from_secs(3600), 1, false);
    assert!(!run.world.ends[0].peer.is_over());
    idle(&mut run, Duration::from_millis(500), 40, true);
    assert!(!run.world.ends[0].peer.is_over());
}

#[test]
fn who_does_not_listen_hears_no_silence() {
    let mut run = run(1, Caps { unread: 10, ..Caps::default() });
    run.world.ends[1].peer.notify(None, Bytes::from_static(b"more than ten bytes")).expect("there is room");
    run.world.ends[1].peer.drive(run.world.now);
    run.world.say(1, usize::MAX);
    run.world.hear(0, usize::MAX);
    for _ in 0..40 {
        run.world.now += Duration::from_millis(500);
        for end in 0..2 {
            run.world.ends[end].peer.drive(run.world.now);
        }
        run.world.say(0, usize::MAX);
        run.world.hear(1, usize::MAX);
    }
    assert!(!run.world.ends[0].peer.is_over(), "it heard nothing because it did not listen");
    assert!(!run.world.ends[1].peer.is_over(), "it hears that the other one is there");
}

#[test]
fn what_lands_is_a_sign_of_life() {
    let mut run = run(1, Caps::default());
    act(&mut run, 1, write(4000, 1));
    talk(&mut run, 1);
    run.world.post(1, 0, Side::Send, u64::MAX);
    run.world.post(0, 0, Side::Recv, u64::MAX);
    // The control stream is stuck, and bytes come.
    for _ in 0..4 {
        idle(&mut run, Duration::from_millis(900), 4, false);
        assert!(run.world.carry(0, 1));
        while run.world.report(0, 1) {}
    }
    idle(&mut run, Duration::from_millis(900), 4, false);
    assert!(!run.world.ends[0].peer.is_over());
    idle(&mut run, Duration::from_millis(900), 4, false);
    assert!(run.world.ends[0].peer.is_over());
}

#[test]
fn who_looks_at_the_deadline_only_notices_silence_in_time() {
    let mut run = run(1, Caps::default());
    run.world.ends[0].peer.drive(Duration::ZERO);
    let mut looks = 0;
    while let Some(deadline) = run.world.ends[0].peer.deadline() {
        assert!(deadline > run.world.now, "it asks for a call that changes nothing");
        run.world.now = deadline;
        run.world.ends[0].peer.drive(deadline);
        looks += 1;
        assert!(looks < 100, "it is looked at for ever");
    }
    assert_eq!((run.world.now, looks), (Duration::from_secs(5), 5));
    let pings = run.world.ends[0].peer.control();
    assert!(pings.is_empty(), "nothing is said on a link that is over");
}

#[test]
fn a_peer_is_asked_before_it_is_given_up() {
    let second = Duration::from_secs(1);
    let mut run = run(1, Caps { ping_after: 9 * second, silence: 4 * second, ..Caps::default() });
    run.world.ends[0].peer.drive(Duration::ZERO);
    run.world.ends[0].peer.drive(second);
    assert_eq!(run.world.ends[0].peer.deadline(), Some(2 * second));
    run.world.ends[0].peer.drive(60 * second);
    assert!(!run.world.ends[0].peer.control().is_empty(), "it is asked");
    assert_eq!(run.world.ends[0].peer.deadline(), Some(61 * second));
    run.world.ends[0].peer.drive(61 * second);
    assert!(run.world.ends[0].peer.is_over());
}

#[test]
fn an_idle_link_asks_once_a_second() {
    let mut run = run(1, Caps::default());
    idle(&mut run, Duration::from_millis(10), 1, true);
    let mut asked = 0;
    for _ in 0..1000 {
        run.world.now += Duration::from_millis(10);
        run.world.ends[0].peer.drive(run.world.now);
        asked += usize::from(!run.world.ends[0].peer.control().is_empty());
        talk(&mut run, 0);
        let End { peer, .. } = &mut run.world.ends[1];
        let alive = peer.deadline().is_some();
        assert!(alive);
        talk(&mut run, 1);
    }
    assert!((5..=11).contains(&asked), "asked {asked} times in ten seconds");
}
