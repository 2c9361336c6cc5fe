//! Lost connections, closed ones, drivers that go away, and backends that err.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};

use p2p_transport::asynchronous::{AsyncTransport, TransferError};
use p2p_transport::{Address, ErrorKind, NicId, Now};

use super::support::{NIC, RAIL, memory};
use super::{ByHand, Woken, poll};

#[test]
fn a_lost_connection_ends_what_is_under_way_and_says_why() {
    let mut all = ByHand::new(2, 16);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    let slices = [region.slice(0, 8)];
    // Two fit into the window, two wait for room.
    let mut sends: Vec<_> = (0..4).map(|_| here.send(&slices)).collect();
    sends.iter_mut().for_each(|send| assert!(send.try_start()));
    all.turn();
    assert!(here.why().is_none());
    all.driver.transport_mut().cut(here.id());
    // Who waits for the end is woken by it.
    all.wait(here.closed());
    for mut send in sends {
        assert_eq!(poll(&mut send), Poll::Ready(Err(TransferError::Lost)));
    }
    assert!(here.why().expect("known").text().contains("cut"));
    assert!(there.why().expect("known").text().contains("cut"));
    assert_eq!(all.wait(here.send(&slices)), Err(TransferError::Lost), "too late");
    assert_eq!(all.handle.under_way(), 0);
}

#[test]
fn the_last_clone_closes_the_connection() {
    let mut all = ByHand::new(2, 16);
    let (here, there) = all.pair();
    let clone = here.clone();
    drop(here);
    all.turn();
    assert_eq!(all.driver.transport().live_connections(), 2);
    drop(clone);
    all.turn();
    all.wait(there.closed());
    assert!(there.why().expect("the peer did it").text().contains("peer"));
    assert_eq!(all.driver.transport().live_connections(), 0);
}

#[test]
fn close_waits_for_the_end() {
    let mut all = ByHand::new(2, 16);
    let (here, there) = all.pair();
    let handle = all.handle.clone();
    all.wait(handle.close(&here));
    assert!(here.why().is_none(), "closed by this end");
    assert_eq!(all.driver.transport().live_connections(), 0);
    all.wait(handle.close(&there));
}

#[test]
fn connections_are_counted_until_nobody_holds_them() {
    let (handle, driver) = {
        let mut options = super::options(1);
        options.connections = 2;
        p2p_transport::asynchronous::open(super::support::Loopback::new(2, true), options)
    };
    let mut all = ByHand { driver, handle };
    let (here, there) = all.pair();
    let handle = all.handle.clone();
    let listener = all.wait(handle.listen(RAIL)).expect("listens");
    let address = listener.address().clone();
    let refused = all.wait(handle.connect(RAIL, &address)).expect_err("one too many");
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    assert_eq!(all.wait(handle.accept(listener)).expect_err("one too many").kind(), ErrorKind::Exhausted);
    // What is closed and still held counts.
    all.wait(handle.close(&here));
    drop(there);
    all.turn();
    drop(here);
    for _ in 0..5 {
        let (here, there) = all.pair();
        let (region, _host) = all.region(8);
        let slices = [region.slice(0, 8)];
        // Left in the inbox, and passed over to nobody.
        assert!(here.send(&slices).try_start());
        drop((here, there));
        all.turn();
    }
    assert_eq!(all.handle.under_way(), 0);
}

#[test]
fn errors_of_the_transport_reach_who_asked() {
    let mut all = ByHand::new(2, 16);
    let handle = all.handle.clone();
    let nowhere = Address::new(&[1, 2, 3]).expect("short");
    assert_eq!(all.wait(handle.connect(RAIL, &nowhere)).expect_err("no address").kind(), ErrorKind::Misuse);
    let (memory, host) = memory(8);
    let refused = all.wait(handle.register(NicId(9), memory)).expect_err("no NIC");
    assert_eq!((refused.error.kind(), host.owners()), (ErrorKind::Misuse, 2));
    drop(refused.memory);
    assert_eq!(host.owners(), 1);
    assert_eq!(all.wait(handle.rails(None)).expect("has one"), [RAIL]);
    assert_eq!(handle.nics().len(), 1);
}

#[test]
fn without_a_driver_everything_ends() {
    let mut all = ByHand::new(1, 4);
    let (here, there) = all.pair();
    let (region, host) = all.region(8);
    let (reclaimed, _other) = all.region(8);
    let handle = all.handle.clone();
    let slices = [region.slice(0, 8)];
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut sends: Vec<_> = (0..5).map(|_| Box::pin(here.send(&slices))).collect();
    // In the transport, in the list, twice in the inbox, and one without a slot.
    for (at, send) in sends.iter_mut().enumerate() {
        assert!(send.as_mut().poll(&mut cx).is_pending());
        if at == 1 {
            all.turn();
        }
    }
    let mut closed = Box::pin(there.closed());
    assert!(closed.as_mut().poll(&mut cx).is_pending());
    let address = Address::new(&0_u64.to_le_bytes()).expect("short");
    let mut connect = handle.connect(RAIL, &address);
    assert!(connect.as_mut().poll(&mut cx).is_pending());
    let (unregistered, unregistered_host) = memory(8);
    let mut register = handle.register(NIC, unregistered);
    assert!(register.as_mut().poll(&mut cx).is_pending());
    let mut reclaim = Box::pin(reclaimed.reclaim());
    assert!(reclaim.as_mut().poll(&mut cx).is_pending());
    assert_eq!(woken.0.load(SeqCst), 0);
    let ByHand { driver, handle: other } = all;
    drop(driver);
    assert_eq!(woken.0.load(SeqCst), 9, "each of them is woken");
    for send in &mut sends {
        assert_eq!(send.as_mut().poll(&mut cx), Poll::Ready(Err(TransferError::Gone)));
    }
    assert_eq!(closed.as_mut().poll(&mut cx), Poll::Ready(()));
    let Poll::Ready(Err(error)) = connect.as_mut().poll(&mut cx) else { panic!("has to end") };
    assert_eq!(error.kind(), ErrorKind::Device);
    let Poll::Ready(Err(refused)) = register.as_mut().poll(&mut cx) else { panic!("has to end") };
    assert!(refused.memory.is_some() && unregistered_host.owners() == 2);
    let Poll::Ready(Err(error)) = reclaim.as_mut().poll(&mut cx) else { panic!("has to end") };
    assert_eq!((error.kind(), host.owners()), (ErrorKind::Device, 1));
    // So does what begins only now.
    assert!(other.is_gone());
    assert_eq!(Box::pin(here.send(&slices)).as_mut().poll(&mut cx), Poll::Ready(Err(TransferError::Gone)));
    let Poll::Ready(Err(error)) = other.listen(RAIL).as_mut().poll(&mut cx) else { panic!("has to end") };
    assert_eq!(error.kind(), ErrorKind::Device);
    let (unregistered, unregistered_host) = memory(8);
    let Poll::Ready(Err(refused)) = other.register(NIC, unregistered).as_mut().poll(&mut cx) else {
        panic!("has to end")
    };
    assert!(refused.memory.is_some() && unregistered_host.owners() == 2);
    assert_eq!(Box::pin(here.closed()).as_mut().poll(&mut cx), Poll::Ready(()));
}

#[test]
fn a_panic_of_the_transport_ends_everything() {
    let mut all = ByHand::new(1, 4);
    let (here, _there) = all.pair();
    let (region, host) = all.region(8);
    let slices = [region.slice(0, 8)];
    let mut send = here.send(&slices);
    assert!(poll(&mut send).is_pending());
    all.driver.transport_mut().panics = true;
    let panicked = catch_unwind(AssertUnwindSafe(move || all.turn()));
    assert!(panicked.is_err());
    assert_eq!(poll(&mut send), Poll::Ready(Err(TransferError::Gone)));
    assert_eq!(host.owners(), 1);
}

#[test]
fn a_completion_that_comes_twice_hits_nobody() {
    let mut all = ByHand::new(4, 2);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    all.driver.transport_mut().repeats = true;
    for len in 0..20 {
        let slices = [region.slice(0, len % 8)];
        let (mut send, mut recv) = (here.send(&slices), there.recv(&slices));
        assert!(send.try_start() && recv.try_start());
        assert_eq!((all.wait(send), all.wait(recv)), (Ok(len % 8), Ok(len % 8)));
    }
    assert_eq!((all.driver.strays(), all.handle.under_way()), (40, 0));
}

#[test]
fn a_completion_that_comes_late_does_not_hit_the_next_owner_of_the_slot() {
    let mut all = ByHand::new(4, 1);
    let (here, there) = all.pair();
    let (region, _host) = all.region(8);
    let (short, long) = ([region.slice(0, 3)], [region.slice(0, 5)]);
    all.driver.transport_mut().kept = Some(Vec::new());
    let (mut send, mut recv) = (here.send(&short), there.recv(&short));
    assert!(send.try_start() && recv.try_start());
    assert_eq!((all.wait(send), all.wait(recv)), (Ok(3), Ok(3)));
    // The only slot of each way is in use again, and its operation under way.
    let mut send = here.send(&long);
    assert!(send.try_start());
    all.turn();
    assert_eq!(all.driver.transport().waiting(here.id()).count(), 1);
    let late = all.driver.transport_mut().kept.take().expect("kept");
    assert_eq!(late.len(), 2);
    late.into_iter().for_each(|event| all.driver.transport_mut().lie(event));
    all.turn();
    assert!(poll(&mut send).is_pending(), "ended by the completion of another");
    assert_eq!(all.driver.strays(), 2);
    assert_eq!(all.wait(there.recv(&long)), Ok(5));
    assert_eq!(all.wait(send), Ok(5));
}

#[test]
fn why_is_known_when_the_first_transfer_is_lost() {
    let mut options = super::options(4);
    // One event a turn: the end of the connection comes later than that of its transfer.
    options.events = 1;
    let (handle, driver) = p2p_transport::asynchronous::open(super::support::Loopback::new(4, true), options);
    let mut all = ByHand { driver, handle };
    let (here, _there) = all.pair();
    let (region, _host) = all.region(8);
    let slices = [region.slice(0, 8)];
    let mut send = here.send(&slices);
    assert!(send.try_start());
    all.turn();
    all.driver.transport_mut().cut(here.id());
    let _ = all.driver.turn(Now::default(), Waker::noop());
    assert_eq!(poll(&mut send), Poll::Ready(Err(TransferError::Lost)));
    let mut closed = Box::pin(here.closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "too late to tell");
    assert!(here.why().expect("known by now").text().contains("cut"));
    all.wait(closed);
}
