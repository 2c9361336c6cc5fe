//! Bytes through `dyn Transport`, over a backend of our own and over the library's, watched and damaged, and
//! through the asynchronous face.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use consumer::Pipes;
use p2p_memory::SharedHost;
use p2p_transport::asynchronous::{self, AsyncTransport, Driver, Options};
use p2p_transport::{
    Damage, Event, Events, Faulty, NicId, Now, Op, Outcome, Rail, Slice, Token, Traced, Transport,
};
use p2p_transport_tcpx::Tcpx;

const NIC: NicId = NicId(0);
const RAIL: Rail = Rail { nic: NIC, device: None, channels: 2 };
const COUNT: u64 = 200;
const LENGTH: usize = 1000;

fn pattern() -> Vec<u8> {
    (0..COUNT as usize * LENGTH).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Moves many messages from end 1 to end 0, gathered from two slices and scattered to one, and compares.
fn moves(ends: &mut [&mut dyn Transport; 2]) {
    let origin = Instant::now();
    let memory = [(); 2].map(|()| SharedHost::new(COUNT as usize * LENGTH).expect("memory"));
    memory[1].copy_in(0, &pattern()).expect("inside");
    let mut registered = memory.clone().into_iter();
    let regions = ends
        .each_mut()
        .map(|end| end.register(NIC, Box::new(registered.next().expect("two"))).expect("taken"));
    let (listener, address) = ends[0].listen(RAIL).expect("listens");
    let conns =
        [ends[0].accept(listener).expect("lives"), ends[1].connect(RAIL, &address).expect("leads there")];
    let mut events = Events::with_capacity(16);
    let (mut connected, mut closed) = ([false; 2], [false; 2]);
    let (mut posted, mut done) = ([0; 2], [0; 2]);
    while !(closed[0] && closed[1]) {
        assert!(origin.elapsed().as_secs() < 60, "{connected:?} {posted:?} {done:?} {closed:?}");
        for end in 0..2 {
            let _ = ends[end].poll(Now(origin.elapsed()), &mut events);
            for event in events.drain() {
                match event {
                    Event::Connected(conn) => connected[end] = conn == conns[end],
                    Event::Completed { outcome, .. } => {
                        assert_eq!(outcome, Outcome::Done { len: LENGTH as u32 });
                        done[end] += 1;
                    }
                    Event::Closed(conn) => closed[end] = conn == conns[end],
                    other => panic!("nobody asked for {other:?}"),
                }
            }
            if connected[end] && posted[end] < COUNT {
                let region = regions[end];
                let slice =
                    |at: u64, len: u32| Slice { region, offset: posted[end] * LENGTH as u64 + at, len };
                let (whole, pieces) = ([slice(0, LENGTH as u32)], [slice(0, 333), slice(333, 667)]);
                let token = Token(posted[end]);
                let most = ends[end].limits(conns[end]).expect("connected").max_slices;
                let op = match end {
                    0 => Op::Recv { token, into: &whole },
                    _ if most < 2 => Op::Send { token, from: &whole },
                    _ => Op::Send { token, from: &pieces },
                };
                posted[end] += ends[end].submit(conns[end], &[op]).count as u64;
            }
            if done == [COUNT; 2] && !closed[end] {
                let _ = ends[end].close(conns[end]);
            }
        }
        std::thread::yield_now();
    }
    let mut came = vec![0; COUNT as usize * LENGTH];
    memory[0].copy_out(0, &mut came).expect("inside");
    assert!(came == pattern(), "other bytes came");
}

#[test]
fn over_our_own_backend() {
    moves(&mut [&mut Pipes::new(), &mut Pipes::new()]);
}

#[test]
fn watched_and_damaged() {
    let mut ends = [1, 2].map(|seed| Traced::new(Faulty::new(Pipes::new(), Damage::legal(seed))));
    let [first, second] = &mut ends;
    moves(&mut [first, second]);
    let counts = ends[1].counts();
    assert_eq!(counts.completions, COUNT, "{counts:?}");
}

#[test]
fn over_the_backend_of_the_library() {
    let open = || Tcpx::from_process(Instant::now()).expect("the soft plugin, or a real one");
    let mut ends: [Box<dyn Transport>; 2] = [Box::new(open()), Box::new(open())];
    let [first, second] = &mut ends;
    moves(&mut [first.as_mut(), second.as_mut()]);
}

struct Never;

impl Wake for Never {
    fn wake(self: Arc<Self>) {}
}

/// An executor of a few lines: turns both drivers until the future has ended.
fn turn<T: Transport, O>(drivers: &mut [Driver<T>; 2], future: impl Future<Output = O>) -> O {
    let (origin, waker) = (Instant::now(), Waker::from(Arc::new(Never)));
    let mut future = pin!(future);
    loop {
        assert!(origin.elapsed().as_secs() < 60, "it never ended");
        for driver in drivers.iter_mut() {
            let _ = driver.turn(Now(origin.elapsed()), &waker);
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
}

#[test]
fn through_the_asynchronous_face() {
    let ((here, first), (there, second)) = (
        asynchronous::open(Pipes::new(), Options::default()),
        asynchronous::open(Pipes::new(), Options::default()),
    );
    let memory = [(); 2].map(|()| SharedHost::new(LENGTH).expect("memory"));
    memory[1].fill(0, LENGTH, 42).expect("inside");
    let (into, from) = (memory[0].clone(), memory[1].clone());
    let mut drivers = [first, second];
    let receiver = async move {
        let listener = here.listen(RAIL).await.expect("listens");
        let address = listener.address().clone();
        (here, listener, address)
    };
    let (here, listener, address) = turn(&mut drivers, receiver);
    let mut accepted = pin!(here.accept(listener));
    let mut connected = pin!(there.connect(RAIL, &address));
    let (mut ours, mut theirs) = (None, None);
    let both = std::future::poll_fn(|cx| {
        if ours.is_none()
            && let Poll::Ready(conn) = accepted.as_mut().poll(cx)
        {
            ours = Some(conn.expect("accepted"));
        }
        if theirs.is_none()
            && let Poll::Ready(conn) = connected.as_mut().poll(cx)
        {
            theirs = Some(conn.expect("connected"));
        }
        if ours.is_some() && theirs.is_some() { Poll::Ready(()) } else { Poll::Pending }
    });
    turn(&mut drivers, both);
    let (ours, theirs) = (ours.expect("accepted"), theirs.expect("connected"));
    let into = turn(&mut drivers, here.register(NIC, Box::new(into))).expect("registered");
    let from = turn(&mut drivers, there.register(NIC, Box::new(from))).expect("registered");
    let whole = |region| [Slice { region, offset: 0, len: LENGTH as u32 }];
    let (into_slices, from_slices) = (whole(into.id()), whole(from.id()));
    let mut recv = pin!(ours.recv(&into_slices));
    let sent = turn(&mut drivers, async {
        // Started first, so that both are under way at once.
        recv.as_mut().get_mut().start().await;
        theirs.send(&from_slices).await
    });
    assert_eq!(sent, Ok(LENGTH as u32));
    assert_eq!(turn(&mut drivers, recv), Ok(LENGTH as u32));
    let mut bytes = [0; LENGTH];
    memory[0].copy_out(0, &mut bytes).expect("inside");
    assert_eq!(bytes, [42; LENGTH]);
}
