//! The async face: what it promises, under two executors and by hand.

#[path = "../support/mod.rs"]
mod support;

mod drops;
mod ends;
mod executors;
mod notifications;
mod one_sided;
mod order;
mod threads;
mod wakers;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use p2p_transport::asynchronous::{
    AsyncTransport, Connection, Driver, Handle, Options, Region, Transfer, open,
};
use p2p_transport::{Next, Now, Transport};
use support::{Loopback, NIC, RAIL, memory};

fn options(slots: u16) -> Options {
    let mut options = Options::default();
    options.slots = slots;
    options.slices = 4;
    options
}

/// A driver that is turned by hand, until it would sleep.
struct ByHand<T: Transport> {
    driver: Driver<T>,
    handle: Handle,
}

impl ByHand<Loopback> {
    fn new(window: u16, slots: u16) -> Self {
        Self::over(Loopback::new(window, true), slots)
    }
}

impl<T: Transport> ByHand<T> {
    fn over(transport: T, slots: u16) -> Self {
        let (handle, driver) = open(transport, options(slots));
        Self { driver, handle }
    }

    fn turn(&mut self) {
        for _ in 0..10_000 {
            match self.driver.turn(Now::default(), Waker::noop()) {
                Next::Again | Next::Spin => {}
                Next::Wait(_) | Next::Idle(_) => return,
            }
        }
        panic!("never settled");
    }

    /// Turns until the future ends.
    fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            self.turn();
        }
        panic!("never ended");
    }

    fn pair(&mut self) -> (Connection, Connection) {
        let handle = self.handle.clone();
        self.wait(connected(&handle))
    }

    fn region(&mut self, length: usize) -> (Region, p2p_memory::SharedHost) {
        let (memory, host) = memory(length);
        let handle = self.handle.clone();
        let region = self.wait(handle.register(NIC, memory)).expect("registers");
        (region, host)
    }
}

/// Two ends of one connection.
async fn connected(transport: &dyn AsyncTransport) -> (Connection, Connection) {
    let listener = transport.listen(RAIL).await.expect("listens");
    let address = listener.address().clone();
    let (here, there) = futures::join!(transport.accept(listener), transport.connect(RAIL, &address));
    (here.expect("accepts"), there.expect("connects"))
}

fn poll(transfer: &mut Transfer<'_>) -> Poll<<Transfer<'static> as Future>::Output> {
    pin!(transfer).poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs a test that sleeps until it is woken. One that never is fails by its name, instead of hanging.
fn limited(test: impl FnOnce() + Send + 'static) {
    let (over, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        over.send(()).expect("somebody waits");
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs: something sleeps and is never woken"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
    }
    if let Err(panicked) = thread.join() {
        std::panic::resume_unwind(panicked);
    }
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}
