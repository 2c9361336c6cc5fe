//! What waits without a transfer keeps no task alive once it is dropped.

use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use p2p_transport::asynchronous::{Connection, Notification, Transfer};
use p2p_transport_mock::Settings;

use super::one_sided::{exported, part};
use super::{ByHand, Woken, limited, options};

/// How often a task was woken, and how many of its wakers others keep.
fn seen(task: &Arc<Woken>) -> (usize, usize) {
    (task.0.load(SeqCst), Arc::strong_count(task) - 2)
}

fn ask<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

#[test]
fn whoever_gave_up_waiting_for_the_end_leaves_nothing_behind() {
    let mut all = ByHand::new(2, 2);
    let (here, _there) = all.pair();
    let tasks = [(); 3].map(|()| Arc::new(Woken::default()));
    let [gone, old, new] = tasks.clone().map(Waker::from);
    let mut stays = here.closed();
    assert!(ask(pin!(&mut stays), &old).is_pending());
    for _ in 0..1000 {
        let mut closed = here.closed();
        assert!(ask(pin!(&mut closed), &gone).is_pending());
        assert!(ask(pin!(&mut closed), &gone).is_pending());
        assert_eq!(seen(&tasks[0]), (0, 1));
    }
    assert_eq!((seen(&tasks[0]), seen(&tasks[1])), ((0, 0), (0, 1)));
    // Another task goes on waiting.
    assert!(ask(pin!(&mut stays), &new).is_pending());
    assert_eq!((seen(&tasks[1]), seen(&tasks[2])), ((0, 0), (0, 1)));
    all.driver.transport_mut().cut(here.id());
    all.turn();
    assert_eq!(tasks.each_ref().map(seen), [(0, 0), (0, 0), (1, 0)]);
    assert_eq!(ask(pin!(&mut stays), &new), Poll::Ready(()));
    assert_eq!(ask(pin!(here.closed()), &gone), Poll::Ready(()));
    assert_eq!(seen(&tasks[0]), (0, 0));
}

#[test]
fn whoever_gave_up_waiting_for_a_notification_leaves_nothing_behind() {
    let (mut all, [here, there], [(own, _local), _exported], remote) = exported(Settings::rdma(), options(4));
    let tasks = [(); 3].map(|()| Arc::new(Woken::default()));
    let [gone, old, new] = tasks.clone().map(Waker::from);
    let access = there.one_sided().expect("has them");
    let mut stays = access.next_notification();
    assert!(ask(pin!(&mut stays), &old).is_pending());
    for _ in 0..1000 {
        let mut next = access.next_notification();
        assert!(ask(pin!(&mut next), &gone).is_pending());
        assert!(ask(pin!(&mut next), &gone).is_pending());
        assert_eq!(seen(&tasks[0]), (0, 1));
    }
    assert!(ask(pin!(&mut stays), &new).is_pending());
    assert_eq!(tasks.each_ref().map(seen), [(0, 0), (0, 0), (0, 1)]);
    let tell =
        |value| here.one_sided().expect("has them").write(own.slice(0, 1), part(remote, 0, 1), Some(value));
    assert_eq!(all.wait(tell(1)), Ok(1));
    all.settle();
    assert_eq!(tasks.each_ref().map(seen), [(0, 0), (0, 0), (1, 0)]);
    // Asked by another task, it is kept there no more when it is ready.
    assert_eq!(ask(pin!(&mut stays), &old), Poll::Ready(Some(Notification::Value(1))));
    // It can be asked for more, and one that was not woken since leaves as well when it is ready.
    assert!(ask(pin!(&mut stays), &new).is_pending());
    let mut other = access.next_notification();
    assert_eq!(all.wait(tell(2)), Ok(1));
    all.settle();
    assert!(ask(pin!(&mut stays), &new).is_ready() && ask(pin!(&mut other), &old).is_pending());
    drop((stays, other));
    assert_eq!(tasks.each_ref().map(seen), [(0, 0), (0, 0), (2, 0)]);
}

/// A task that keeps something until nobody keeps the task.
struct Keeps<T>(Mutex<Option<T>>);

impl<T: Send + 'static> Wake for Keeps<T> {
    fn wake(self: Arc<Self>) {}
}

/// A waker that has a future of the same connection, which leaves when the waker is dropped.
fn keeping<T: Send + 'static>(future: T) -> Waker {
    Arc::new(Keeps(Mutex::new(Some(future)))).into()
}

#[test]
fn the_last_waker_of_a_task_may_end_its_other_waits() {
    limited(|| {
        let mut all = ByHand::new(1, 1);
        let (here, _there) = all.pair();
        // Wakers have to live as long as anything.
        let here: &'static Connection = Box::leak(Box::new(here));
        let (region, _host) = all.region(8);
        let slices: &'static [_] = Box::leak(Box::new([region.slice(0, 8)]));
        let waits = || {
            let mut closed = here.closed();
            assert!(ask(pin!(&mut closed), Waker::noop()).is_pending());
            closed
        };
        // By another waker, and by the end of the wait.
        let mut closed = here.closed();
        assert!(ask(pin!(&mut closed), &keeping(waits())).is_pending());
        assert!(ask(pin!(&mut closed), &keeping(waits())).is_pending());
        drop(closed);
        // The only slot is taken, and all others wait for it.
        assert!(here.send(slices).try_start());
        let transfer = || -> Transfer<'static> {
            let mut send = here.send(slices);
            assert!(ask(pin!(&mut send), Waker::noop()).is_pending());
            send
        };
        let mut send = here.send(slices);
        assert!(ask(pin!(&mut send), &keeping(transfer())).is_pending());
        assert!(ask(pin!(&mut send), &keeping(transfer())).is_pending());
        drop(send);
    });
}
