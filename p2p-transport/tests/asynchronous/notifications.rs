//! Notifications: kept, counted where they get lost, and waited for.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};

use p2p_transport::asynchronous::{AsyncTransport, Notification, TransferError};
use p2p_transport_mock::Settings;

use super::one_sided::{exported, part};
use super::{Woken, options};

#[test]
fn notifications_that_nobody_reads_are_counted_where_they_are_lost() {
    let mut options = options(8);
    options.notifications = 2;
    let (mut all, [here, there], [(own, _local), _exported], remote) = exported(Settings::rdma(), options);
    let tell =
        |value| here.one_sided().expect("has them").write(own.slice(0, 1), part(remote, 0, 1), Some(value));
    // One after the other: no order is promised among those that are under way at once.
    for value in 0..5 {
        assert_eq!(all.wait(tell(value)), Ok(1));
        all.settle();
    }
    let access = there.one_sided().expect("has them");
    assert_eq!(all.wait(access.next_notification()), Some(Notification::Value(0)));
    // There is room, and still it comes behind the gap.
    assert_eq!(all.wait(tell(5)), Ok(1));
    all.settle();
    assert_eq!(all.wait(access.next_notification()), Some(Notification::Value(1)));
    assert_eq!(all.wait(access.next_notification()), Some(Notification::Lost(4)));
    assert_eq!(all.wait(tell(6)), Ok(1));
    assert_eq!(all.wait(access.next_notification()), Some(Notification::Value(6)));
}

#[test]
fn whoever_waits_for_a_notification_is_woken_by_it_and_by_the_end() {
    let (mut all, [here, there], [(own, _local), _exported], remote) = exported(Settings::rdma(), options(4));
    let woken = [(); 2].map(|()| Arc::new(Woken::default()));
    let wakers = woken.clone().map(Waker::from);
    let access = there.one_sided().expect("has them");
    let mut waiting = [(); 2].map(|()| access.next_notification());
    let mut ask = |at: usize| pin!(&mut waiting[at]).poll(&mut Context::from_waker(&wakers[at]));
    let count = |at: usize| woken[at].0.load(SeqCst);
    assert!(ask(0).is_pending() && ask(1).is_pending() && ask(0).is_pending());
    let write = here.one_sided().expect("has them").write(own.slice(0, 1), part(remote, 0, 1), Some(3));
    assert_eq!(all.wait(write), Ok(1));
    all.settle();
    assert_eq!((count(0), count(1)), (1, 1), "each of them, once");
    assert_eq!(ask(1), Poll::Ready(Some(Notification::Value(3))));
    assert!(ask(0).is_pending());
    // What came before the end is read after it.
    let write = here.one_sided().expect("has them").write(own.slice(0, 1), part(remote, 0, 1), Some(4));
    assert_eq!(all.wait(write), Ok(1));
    all.settle();
    assert_eq!(count(0), 2);
    let handle = all.handles[1].clone();
    all.wait(handle.close(&there));
    assert_eq!(ask(0), Poll::Ready(Some(Notification::Value(4))));
    assert_eq!((ask(0), ask(1)), (Poll::Ready(None), Poll::Ready(None)));
    let late = here.one_sided().expect("has them").write(own.slice(0, 1), part(remote, 0, 1), None);
    all.wait(here.closed());
    assert_eq!(all.wait(late), Err(TransferError::Lost));
}
