//! One-sided operations, over a simulated network that has them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use p2p_memory::SharedHost;
use p2p_transport::asynchronous::{
    AsyncTransport, Connection, Driver, Handle, Notification, Options, Region, Transfer, TransferError, open,
};
use p2p_transport::{ErrorKind, OpFault, RemoteSlice};
use p2p_transport_mock::{Fault, MockTransport, NicModel, Settings, World};

use super::support::{NIC, RAIL, memory};
use super::{Woken, options, poll};

/// Two ends in a world, each with a driver that is turned by hand.
pub(super) struct Two {
    world: World,
    drivers: Vec<Driver<MockTransport>>,
    pub(super) handles: Vec<Handle>,
}

impl Two {
    fn new(settings: Settings, options: Options) -> Self {
        let world = World::new(7, settings);
        let ends = [(); 2].map(|()| open(world.add_node(&[NicModel::FAST]).transport(), options));
        let (handles, drivers) = ends.into_iter().unzip();
        Self { world, drivers, handles }
    }

    fn turn(&mut self) {
        self.world.advance(self.world.now().after(Duration::from_micros(5)));
        for driver in &mut self.drivers {
            let _ = driver.turn(self.world.now(), Waker::noop());
        }
    }

    pub(super) fn settle(&mut self) {
        (0..200).for_each(|_| self.turn());
    }

    pub(super) fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        for _ in 0..10_000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return output;
            }
            self.turn();
        }
        panic!("never ended");
    }

    fn pair(&mut self) -> (Connection, Connection) {
        let [one, other] = &self.handles[..] else { panic!("two ends") };
        let (one, other) = (one.clone(), other.clone());
        let listener = self.wait(one.listen(RAIL)).expect("listens");
        let address = listener.address().clone();
        let both = async { futures::join!(one.accept(listener), other.connect(RAIL, &address)) };
        let (here, there) = self.wait(both);
        (here.expect("accepts"), there.expect("connects"))
    }

    fn region(&mut self, end: usize, length: usize) -> (Region, SharedHost) {
        let (memory, host) = memory(length);
        let handle = self.handles[end].clone();
        (self.wait(handle.register(NIC, memory)).expect("registers"), host)
    }
}

/// Two connected ends, memory of 64 bytes at each, and what the second one has exported.
pub(super) fn exported(
    settings: Settings,
    options: Options,
) -> (Two, [Connection; 2], [(Region, SharedHost); 2], RemoteSlice) {
    let mut all = Two::new(settings, options);
    let (here, there) = all.pair();
    let regions = [all.region(0, 64), all.region(1, 64)];
    let access = there.one_sided().expect("has them");
    let remote = all.wait(access.export(regions[1].0.slice(0, 64))).expect("exports");
    (all, [here, there], regions, remote)
}

pub(super) fn part(of: RemoteSlice, offset: u64, len: u32) -> RemoteSlice {
    RemoteSlice { addr: of.addr + offset, len, ..of }
}

fn bytes(host: &SharedHost, offset: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    host.copy_out(offset, &mut bytes).expect("inside");
    bytes
}

#[test]
fn bytes_are_written_read_and_told_of() {
    let (mut all, [here, there], [(own, local), (_exported, target)], remote) =
        exported(Settings::rdma(), options(4));
    local.copy_in(0, &[5; 8]).expect("fits");
    target.copy_in(32, &[6; 8]).expect("fits");
    let access = here.one_sided().expect("has them");
    assert_eq!(access.limits().max_ops, Settings::rdma().one_sided_ops);
    let mut told = there.one_sided().expect("has them").next_notification();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(pin!(&mut told).poll(&mut cx).is_pending());
    assert_eq!(all.wait(access.write(own.slice(0, 8), part(remote, 8, 8), Some(77))), Ok(8));
    assert_eq!(all.wait(access.read(part(remote, 32, 8), own.slice(16, 8))), Ok(8));
    assert_eq!(all.wait(access.write(own.slice(0, 8), part(remote, 16, 8), None)), Ok(8));
    assert_eq!((bytes(&target, 0), bytes(&target, 8), bytes(&target, 16)), ([0; 8], [5; 8], [5; 8]));
    assert_eq!(bytes(&local, 16), [6; 8]);
    assert_eq!(all.wait(told), Some(Notification::Value(77)));
    let mut more = there.one_sided().expect("has them").next_notification();
    all.settle();
    assert!(pin!(&mut more).poll(&mut cx).is_pending(), "only one of the writes told anything");
    assert_eq!(all.handles[0].under_way(), 0);
}

#[test]
fn a_write_that_is_dropped_goes_on() {
    let (mut all, [here, there], [(own, local), (_exported, target)], remote) =
        exported(Settings::rdma(), options(4));
    local.copy_in(0, &[5; 8]).expect("fits");
    let access = here.one_sided().expect("has them");
    assert!(access.write(own.slice(0, 8), part(remote, 0, 8), Some(1)).try_start());
    drop(own);
    assert_eq!(
        all.wait(there.one_sided().expect("has them").next_notification()),
        Some(Notification::Value(1))
    );
    assert_eq!(bytes(&target, 0), [5; 8]);
    all.settle();
    assert_eq!((all.handles[0].under_way(), local.owners()), (0, 1));
}

#[test]
fn what_the_peer_refuses_ends_that_transfer_alone() {
    let (mut all, [here, there], [(own, _local), (exported, target)], remote) =
        exported(Settings::rdma(), options(4));
    let access = here.one_sided().expect("has them");
    let length = all.wait(access.write(own.slice(0, 4), part(remote, 0, 8), Some(1)));
    assert_eq!(length, Err(OpFault::TooLong.into()));
    let outside = all.wait(access.read(part(remote, 60, 8), own.slice(0, 8)));
    assert_eq!(outside, Err(OpFault::Remote.into()));
    let own_slice = all.wait(access.read(part(remote, 0, 8), own.slice(60, 8)));
    assert_eq!(own_slice, Err(OpFault::BadSlice.into()));
    // A key ends with its region, and none is given for one that goes.
    let gone = exported.slice(0, 8);
    drop(exported);
    let refused = all.wait(there.one_sided().expect("has them").export(gone)).expect_err("dropped");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    all.settle();
    assert_eq!(target.owners(), 1);
    let stale = all.wait(access.write(own.slice(0, 8), part(remote, 0, 8), Some(1)));
    assert_eq!(stale, Err(OpFault::Remote.into()));
    // Messages go on.
    let (into, _into) = all.region(1, 8);
    let (from, to) = ([own.slice(0, 8)], [into.slice(0, 8)]);
    let both = async { futures::join!(here.send(&from), there.recv(&to)) };
    assert_eq!(all.wait(both), (Ok(8), Ok(8)));
}

#[test]
fn a_region_that_is_dropped_is_not_exported_though_transfers_still_wait_for_it() {
    let mut settings = Settings::rdma();
    settings.one_sided_ops = 1;
    let (mut all, [here, _there], [(own, local), _exported], remote) = exported(settings, options(4));
    let access = here.one_sided().expect("has them");
    let slice = own.slice(0, 8);
    let mut writes: Vec<_> = (0..4).map(|_| access.write(slice, part(remote, 0, 8), None)).collect();
    writes.iter_mut().for_each(|write| assert!(write.try_start()));
    let export = access.export(slice);
    drop(own);
    let mut export = pin!(export);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(export.as_mut().poll(&mut cx).is_pending());
    // One turn without any time: nothing has ended, and the transport does not know yet that the region goes.
    let _ = all.drivers[0].turn(all.world.now(), Waker::noop());
    let Poll::Ready(Err(refused)) = export.as_mut().poll(&mut cx) else { panic!("has to be refused") };
    assert_eq!((refused.kind(), local.owners()), (ErrorKind::Misuse, 2));
    assert!(refused.text().contains("dropped"));
    for ended in all.wait(futures::future::join_all(writes)) {
        assert_eq!(ended, Ok(8));
    }
    all.settle();
    assert_eq!(local.owners(), 1);
}

#[test]
fn a_transfer_that_was_dropped_gives_its_slot_back_to_its_own_kind() {
    let (mut all, [here, there], [(own, _local), (_exported, _target)], remote) =
        exported(Settings::rdma(), options(2));
    let (into, _into) = all.region(1, 8);
    let access = here.one_sided().expect("has them");
    let (from, to) = ([own.slice(0, 8)], [into.slice(0, 8)]);
    for _ in 0..5 {
        assert!(access.read(part(remote, 0, 8), own.slice(8, 8)).try_start());
        assert!(here.send(&from).try_start() && there.recv(&to).try_start());
        all.settle();
        assert_eq!((all.handles[0].under_way(), all.handles[1].under_way()), (0, 0));
        // As many of each kind as there are slots, and no more.
        let write = || access.write(own.slice(0, 8), part(remote, 0, 8), None);
        let (mut writes, mut sends, mut recvs) = (
            [(); 3].map(|()| write()),
            [(); 3].map(|()| here.send(&from)),
            [(); 3].map(|()| there.recv(&to)),
        );
        for kind in [&mut writes, &mut sends, &mut recvs] {
            assert_eq!(kind.each_mut().map(Transfer::try_start), [true, true, false]);
        }
        drop((writes, sends, recvs));
        all.settle();
    }
}

#[test]
fn they_have_slots_of_their_own_and_wait_for_room() {
    let mut settings = Settings::rdma();
    settings.one_sided_ops = 2;
    let (mut all, [here, there], [(own, local), (_exported, target)], remote) =
        exported(settings, options(6));
    let access = here.one_sided().expect("has them");
    let write = |at: u64| access.write(own.slice(at, 1), part(remote, at, 1), Some(at as u32));
    local.copy_in(0, &[1, 2, 3, 4, 5, 6, 7, 8]).expect("fits");
    let mut writes: Vec<_> = (0..8).map(write).collect();
    let started = writes.iter_mut().map(Transfer::try_start).filter(|started| *started).count();
    assert_eq!(started, 6, "as many as there are slots");
    let slices = [own.slice(0, 0)];
    let (mut send, mut recv) = (here.send(&slices), here.recv(&slices));
    assert!(send.try_start() && recv.try_start(), "messages do not need the same slots");
    // One that waits for room is withdrawn.
    let _ = all.drivers[0].turn(all.world.now(), Waker::noop());
    writes[5].cancel();
    let ended = all.wait(futures::future::join_all(writes));
    let expected = (0..8).map(|at| if at == 5 { Err(TransferError::Cancelled) } else { Ok(1) });
    assert_eq!(ended, expected.collect::<Vec<_>>());
    assert_eq!(bytes(&target, 0), [1, 2, 3, 4, 5, 0, 7, 8]);
    let access = there.one_sided().expect("has them");
    let mut told: Vec<_> = (0..7).map(|_| all.wait(access.next_notification())).collect();
    told.sort_by_key(|told| match told {
        Some(Notification::Value(value)) => *value,
        Some(Notification::Lost(_) | _) | None => panic!("{told:?}"),
    });
    let expected = [0, 1, 2, 3, 4, 6, 7].map(|value| Some(Notification::Value(value)));
    assert_eq!(told, expected);
}

#[test]
fn a_lost_connection_ends_those_that_wait_for_room_as_well() {
    let mut settings = Settings::rdma();
    settings.one_sided_ops = 1;
    let (mut all, [here, there], [(own, _local), _exported], remote) = exported(settings, options(4));
    let access = here.one_sided().expect("has them");
    let mut writes: Vec<_> =
        (0..4).map(|_| access.write(own.slice(0, 8), part(remote, 0, 8), None)).collect();
    writes.iter_mut().for_each(|write| assert!(write.try_start()));
    let _ = all.drivers[0].turn(all.world.now(), Waker::noop());
    all.world.inject(Fault::LinkDeath { link: 0 });
    // No turn between the last completion and the end of the connection.
    all.world.advance(all.world.now().after(Duration::from_secs(1)));
    all.settle();
    for write in &mut writes {
        assert_eq!(poll(write), Poll::Ready(Err(TransferError::Lost)));
    }
    all.wait(async { futures::join!(here.closed(), there.closed()) });
    assert!(here.why().is_some());
    assert_eq!(all.handles[0].under_way(), 0);
}

#[test]
fn without_a_driver_they_end() {
    let (all, [here, there], [(own, _local), _exported], remote) = exported(Settings::rdma(), options(1));
    let access = there.one_sided().expect("has them");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut told = access.next_notification();
    assert!(pin!(&mut told).poll(&mut Context::from_waker(&waker)).is_pending());
    let reach = here.one_sided().expect("has them");
    let write = || reach.write(own.slice(0, 1), part(remote, 0, 1), None);
    let (mut started, mut waits) = (write(), write());
    assert!(poll(&mut started).is_pending() && poll(&mut waits).is_pending());
    drop(all);
    assert_eq!(woken.0.load(SeqCst), 1);
    assert_eq!(pin!(&mut told).poll(&mut Context::from_waker(&waker)), Poll::Ready(None));
    assert_eq!(poll(&mut started), Poll::Ready(Err(TransferError::Gone)));
    assert_eq!(poll(&mut waits), Poll::Ready(Err(TransferError::Gone)));
    let mut export = pin!(access.export(own.slice(0, 1)));
    let Poll::Ready(Err(error)) = export.as_mut().poll(&mut Context::from_waker(&waker)) else {
        panic!("has to end")
    };
    assert_eq!(error.kind(), ErrorKind::Device);
}

#[test]
fn a_backend_without_them_offers_none() {
    let mut all = Two::new(Settings::plugin(), options(4));
    let (here, there) = all.pair();
    assert!(here.one_sided().is_none() && there.one_sided().is_none());
}

#[test]
fn an_access_allocates_nothing() {
    let (mut all, [here, there], [(own, _local), _exported], remote) = exported(Settings::rdma(), options(1));
    let (from, to) = (here.one_sided().expect("has them"), there.one_sided().expect("has them"));
    let round = |all: &mut Two, value| {
        let mut allocated = 0;
        // The second one has to wait for a slot.
        let mut write = from.write(own.slice(0, 8), part(remote, 0, 8), Some(value));
        let mut read = from.read(part(remote, 8, 8), own.slice(8, 8));
        let mut told = to.next_notification();
        let (mut wrote, mut was_read, mut heard) = (false, false, false);
        for _ in 0..2000 {
            // What the simulated network itself needs is not counted.
            all.world.advance(all.world.now().after(Duration::from_micros(5)));
            let info = allocation_counter::measure(|| {
                let mut cx = Context::from_waker(Waker::noop());
                wrote = wrote || poll(&mut write) == Poll::Ready(Ok(8));
                was_read = was_read || poll(&mut read) == Poll::Ready(Ok(8));
                heard = heard || pin!(&mut told).poll(&mut cx).is_ready();
                for driver in &mut all.drivers {
                    let _ = driver.turn(all.world.now(), Waker::noop());
                }
            });
            allocated += info.count_total;
            if wrote && was_read && heard {
                return allocated;
            }
        }
        panic!("never ended");
    };
    let _warm_up: u64 = (0..20).map(|value| round(&mut all, value)).sum();
    let allocated: u64 = (0..50).map(|value| round(&mut all, value)).sum();
    assert_eq!(allocated, 0);
}
