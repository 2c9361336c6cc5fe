//! The order of messages, and what is withdrawn from it.

use std::task::Poll;

use p2p_transport::asynchronous::TransferError;

use super::{ByHand, poll};

#[test]
fn a_withdrawn_transfer_no_longer_keeps_its_region() {
    let mut all = ByHand::new(1, 16);
    let (here, _there) = all.pair();
    let (region, host) = all.region(8);
    let slices = [region.slice(0, 8)];
    let (mut first, mut second) = (here.send(&slices), here.send(&slices));
    assert!(first.try_start() && second.try_start());
    all.turn();
    drop(region);
    all.turn();
    second.cancel();
    first.cancel();
    all.turn();
    assert_eq!(host.owners(), 1);
    assert_eq!(poll(&mut first), Poll::Ready(Err(TransferError::Cancelled)));
    assert_eq!(poll(&mut second), Poll::Ready(Err(TransferError::Cancelled)));
}

#[test]
fn cancel_withdraws_what_has_not_started_and_nothing_else() {
    let mut all = ByHand::new(2, 16);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    let slices: Vec<_> = (0..6).map(|len| [region.slice(0, len)]).collect();
    let mut sends: Vec<_> = slices.iter().map(|slices| here.send(slices)).collect();
    sends.iter_mut().for_each(|send| assert!(send.try_start()));
    // In the inbox.
    sends[2].cancel();
    all.turn();
    // In the list: in the middle, and at its end. In the transport.
    sends[4].cancel();
    sends[5].cancel();
    sends[0].cancel();
    all.turn();
    let got: Vec<_> = (0..2).map(|_| all.wait(there.recv(&[region.slice(0, 8)]))).collect();
    assert_eq!(got, [Ok(1), Ok(3)]);
    // After its end.
    sends[1].cancel();
    all.turn();
    let ended: Vec<_> = sends.into_iter().map(|send| all.wait(send).ok()).collect();
    assert_eq!(ended, [None, Some(1), None, Some(3), None, None]);
    // The list is whole: another one passes through it.
    let (mut send, mut recv) = (here.send(&slices[5]), there.recv(&slices[5]));
    assert!(send.try_start() && recv.try_start());
    assert_eq!((all.wait(send), all.wait(recv)), (Ok(5), Ok(5)));
    assert_eq!(all.handle.under_way(), 0);
}

#[test]
fn what_waits_for_room_stays_in_order_whatever_is_withdrawn() {
    // Of those that wait, numbered from 1 on: the last one, the last two, one in the middle, the first, all.
    for withdrawn in [&[3][..], &[2, 3], &[3, 2], &[2], &[1], &[1, 3], &[3, 2, 1]] {
        let mut all = ByHand::new(1, 16);
        let (here, there) = all.pair();
        let (region, _host) = all.region(8);
        let slices: Vec<_> = (0..6).map(|len| [region.slice(0, len)]).collect();
        let mut sends: Vec<_> = slices.iter().map(|slices| here.send(slices)).collect();
        // The first one is under way, and three wait for room.
        sends[..4].iter_mut().for_each(|send| assert!(send.try_start()));
        all.turn();
        for &at in withdrawn {
            sends[at].cancel();
            all.turn();
        }
        // Others come behind what is left.
        sends[4..].iter_mut().for_each(|send| assert!(send.try_start()));
        all.turn();
        let left: Vec<_> = (0..6).filter(|at| !withdrawn.contains(at)).collect();
        let got: Vec<_> = left.iter().map(|_| all.wait(there.recv(&[region.slice(0, 8)]))).collect();
        let expected: Vec<_> = left.iter().map(|&at| Ok(at as u32)).collect();
        assert_eq!(got, expected, "without {withdrawn:?}");
        assert!(left.iter().all(|&at| poll(&mut sends[at]).is_ready()), "without {withdrawn:?}");
    }
}

#[test]
fn a_late_request_to_cancel_does_not_hit_the_next_owner_of_the_slot() {
    let mut all = ByHand::new(2, 1);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    let slices = [region.slice(0, 1)];
    let (mut send, mut recv) = (here.send(&slices), there.recv(&slices));
    assert!(send.try_start() && recv.try_start());
    all.turn();
    send.cancel();
    drop((send, recv));
    // Both slots have new owners before the request is seen.
    let (mut send, mut recv) = (here.send(&slices), there.recv(&slices));
    assert!(send.try_start() && recv.try_start());
    assert_eq!((all.wait(send), all.wait(recv)), (Ok(1), Ok(1)));
}

#[test]
fn messages_go_in_the_order_in_which_they_started() {
    let mut all = ByHand::new(3, 40);
    let (here, there) = all.pair();
    let (region, _host) = all.region(64);
    let slices: Vec<_> = (0..30).map(|len| [region.slice(0, len)]).collect();
    let mut sends: Vec<_> = slices.iter().map(|slices| here.send(slices)).collect();
    // Not in the order in which they were made.
    for at in (0..30).rev() {
        assert!(sends[at].try_start());
        if at % 7 == 0 {
            all.turn();
        }
    }
    for len in (0..30).rev() {
        assert_eq!(all.wait(there.recv(&[region.slice(0, 64)])), Ok(len));
    }
}

#[test]
fn a_full_way_does_not_block_the_other_one() {
    let mut all = ByHand::new(1, 16);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    let slices = [region.slice(0, 8)];
    let mut sends: Vec<_> = (0..4).map(|_| here.send(&slices)).collect();
    sends.iter_mut().for_each(|send| assert!(send.try_start()));
    all.turn();
    let mut back = there.send(&slices);
    assert!(back.try_start());
    assert_eq!(all.wait(here.recv(&slices)), Ok(8));
    assert_eq!(all.wait(back), Ok(8));
    assert!(sends.iter_mut().all(|send| poll(send).is_pending()));
}
