//! Transfers, regions and connections that are dropped at every stage.

use std::task::Poll;

use p2p_transport::asynchronous::{AsyncTransport, TransferError};
use p2p_transport::{OpFault, Transport};

use super::support::{NIC, RAIL, memory, pattern};
use super::{ByHand, poll};

#[test]
fn dropped_before_its_first_poll_nothing_was_sent() {
    let mut all = ByHand::new(4, 4);
    let (here, _there) = all.pair();
    let (region, _host) = all.region(8);
    drop(here.send(&[region.slice(0, 8)]));
    all.turn();
    assert_eq!(all.driver.transport().waiting(here.id()).count(), 0);
    assert_eq!(all.handle.under_way(), 0);
}

#[test]
fn dropped_in_the_inbox_it_is_still_sent() {
    let mut all = ByHand::new(4, 4);
    let (here, there) = all.pair();
    let (region, host) = all.region(16);
    host.copy_in(0, &pattern(1, 8)).expect("fits");
    assert!(here.send(&[region.slice(0, 8)]).try_start());
    assert_eq!(all.handle.under_way(), 1);
    assert_eq!(all.wait(there.recv(&[region.slice(8, 8)])), Ok(8));
    let mut bytes = [0; 8];
    host.copy_out(8, &mut bytes).expect("inside");
    assert_eq!(bytes[..], pattern(1, 8));
    assert_eq!(all.handle.under_way(), 0);
}

#[test]
fn dropped_in_the_transport_it_keeps_slot_and_memory_until_it_ends() {
    let mut all = ByHand::new(4, 4);
    let (here, there) = all.pair();
    let (region, host) = all.region(8);
    let (other, _host) = all.region(8);
    assert!(here.send(&[region.slice(0, 8)]).try_start());
    all.turn();
    assert_eq!(all.driver.transport().waiting(here.id()).count(), 1);
    drop(region);
    all.turn();
    assert_eq!((all.handle.under_way(), host.owners()), (1, 2));
    assert_eq!(all.wait(there.recv(&[other.slice(0, 8)])), Ok(8));
    all.turn();
    assert_eq!((all.handle.under_way(), host.owners()), (0, 1));
}

#[test]
fn dropped_after_its_end_its_slot_is_free_at_once() {
    let mut all = ByHand::new(4, 1);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    let slices = [region.slice(0, 0)];
    let (mut send, mut recv) = (here.send(&slices), there.recv(&slices));
    assert!(send.try_start() && recv.try_start());
    all.turn();
    assert_eq!(all.handle.under_way(), 2);
    assert!(!here.send(&slices).try_start());
    drop(send);
    assert_eq!(all.handle.under_way(), 1);
    assert!(here.send(&slices).try_start());
    assert_eq!(poll(&mut recv), Poll::Ready(Ok(0)));
    assert_eq!(poll(&mut recv), Poll::Ready(Err(TransferError::Gone)), "asked again");
}

#[test]
fn dropped_while_it_waits_for_a_slot_the_next_one_gets_it() {
    let mut all = ByHand::new(4, 1);
    let (here, _there) = all.pair();
    let (region, _host) = all.region(8);
    let slices = [region.slice(0, 4)];
    let mut holder = here.send(&slices);
    assert!(holder.try_start());
    let (mut first, mut second, mut third) = (here.send(&slices), here.send(&slices), here.send(&slices));
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
    assert!(poll(&mut third).is_pending());
    drop(second);
    holder.cancel();
    all.turn();
    assert_eq!(poll(&mut holder), Poll::Ready(Err(TransferError::Cancelled)));
    // The first one has been handed the slot, and does not use it.
    assert!(!here.send(&slices).try_start(), "others wait");
    assert!(here.recv(&slices).try_start(), "the other way");
    drop(first);
    assert!(poll(&mut third).is_pending());
    all.turn();
    assert_eq!(all.driver.transport().waiting(here.id()).count(), 1);
    third.cancel();
    all.turn();
    assert_eq!(poll(&mut third), Poll::Ready(Err(TransferError::Cancelled)));
    // The receive is left.
    assert_eq!(all.handle.under_way(), 1);
}

#[test]
fn a_region_is_retired_behind_what_waits_for_room() {
    let mut all = ByHand::new(1, 16);
    let (here, there) = all.pair();
    let (region, host) = all.region(16);
    let (into, _into) = all.region(16);
    let slices = [region.slice(0, 8), region.slice(8, 8)];
    let mut sends: Vec<_> = (0..4).map(|_| here.send(&slices)).collect();
    sends.iter_mut().for_each(|send| assert!(send.try_start()));
    drop(region);
    all.turn();
    let mut late = here.send(&slices);
    assert!(late.try_start());
    all.turn();
    assert_eq!(poll(&mut late), Poll::Ready(Err(OpFault::BadSlice.into())));
    for mut send in sends {
        assert_eq!(host.owners(), 2);
        assert!(poll(&mut send).is_pending());
        assert_eq!(all.wait(there.recv(&[into.slice(0, 16)])), Ok(16));
        assert_eq!(all.wait(send), Ok(16));
    }
    all.turn();
    assert_eq!(host.owners(), 1);
}

#[test]
fn reclaim_returns_the_memory_when_nothing_uses_it() {
    let mut all = ByHand::new(1, 16);
    let (here, there) = all.pair();
    let (region, host) = all.region(8);
    let (other, _host) = all.region(8);
    assert!(here.send(&[region.slice(0, 8)]).try_start());
    let mut reclaim = Box::pin(region.reclaim());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(reclaim.as_mut().poll(&mut cx).is_pending());
    all.turn();
    assert!(reclaim.as_mut().poll(&mut cx).is_pending(), "in use");
    assert_eq!(all.wait(there.recv(&[other.slice(0, 8)])), Ok(8));
    let memory = all.wait(reclaim).expect("comes back");
    assert_eq!(host.owners(), 2);
    assert_eq!(memory.span().1, 8);
    drop(memory);
    assert_eq!(host.owners(), 1);
}

#[test]
fn control_futures_that_are_dropped_leave_nothing_behind() {
    let mut all = ByHand::new(1, 16);
    let handle = all.handle.clone();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let listener = all.wait(handle.listen(RAIL)).expect("listens");
    let address = listener.address().clone();
    {
        let mut accept = handle.accept(listener);
        let mut connect = handle.connect(RAIL, &address);
        assert!(accept.as_mut().poll(&mut cx).is_pending() && connect.as_mut().poll(&mut cx).is_pending());
    }
    let (memory, host) = memory(8);
    assert!(handle.register(NIC, memory).as_mut().poll(&mut cx).is_pending());
    assert_eq!(host.owners(), 2);
    let unused = all.wait(handle.listen(RAIL)).expect("listens");
    all.turn();
    assert_eq!((all.driver.transport().live_connections(), host.owners()), (0, 1));
    assert_eq!(all.driver.transport().live_listeners(), 1);
    drop(unused);
    all.turn();
    assert_eq!(all.driver.transport().live_listeners(), 0);
    drop(handle);
    assert!(!all.driver.is_finished());
    let ByHand { driver, handle } = all;
    drop(handle);
    assert!(driver.is_finished());
}

#[test]
fn what_a_slot_cannot_hold_is_refused_and_the_limit_says_so() {
    let mut all = ByHand::new(4, 4);
    let (here, _there) = all.pair();
    let (region, _host) = all.region(8);
    let most = here.limits().max_slices;
    assert!(most <= 4 && most <= all.driver.transport().limits(here.id()).expect("open").max_slices);
    let slices = vec![region.slice(0, 1); usize::from(most) + 1];
    assert_eq!(all.wait(here.send(&slices)), Err(OpFault::SliceCount.into()));
    assert_eq!(all.wait(here.send(&[])), Err(OpFault::SliceCount.into()));
    assert_eq!(all.wait(here.send(&[region.slice(4, 5)])), Err(OpFault::BadSlice.into()));
    assert_eq!(all.handle.under_way(), 0);
}
