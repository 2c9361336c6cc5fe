//! Rules 9 to 16: memory, posting and polling.

use std::ptr::{NonNull, null_mut, without_provenance_mut};
use std::time::Instant;

use p2p_memory::{ForeignSpan, HostBuffer, MemoryKind};
use tcpx_core::{Channel, ChannelSet, Error, Misuse, Post, PostError, Release, Slice};
use tcpx_sys::PTR_CUDA;

use crate::pair::{bytes_of, channels, deadline, done, filled, memory, next, open, post};
use crate::raw::child::in_child;
use crate::raw::drive::{self, Memory};
use crate::spy::{self, Call};
use crate::{STRICT, STRICT_UNPACK, spied_channels};

/// A span of CUDA memory that is never touched.
fn cuda(address: usize, length: usize) -> Box<ForeignSpan<()>> {
    let base = NonNull::new(without_provenance_mut(address)).unwrap();
    let kind = MemoryKind::Cuda { ordinal: 0, dmabuf: None };
    // SAFETY: only the spy sees the address, and it touches nothing.
    Box::new(unsafe { ForeignSpan::new((), base, length, kind) })
}

#[test]
fn rule_09_cuda_memory_is_aligned_and_below_2_gib() {
    in_child("posting::rule_09_cuda_memory_is_aligned_and_below_2_gib", STRICT_UNPACK, || {
        // Broken: a base that is no multiple of 4096.
        let net = drive::start();
        let comms = drive::pair(net);
        let bytes = vec![0; 3 * 4096];
        let odd = if bytes.as_ptr().addr().is_multiple_of(4096) { &bytes[1..] } else { &bytes[..] };
        assert_eq!(net.reg_mr(comms.0, odd, PTR_CUDA).unwrap_err(), 3);
        drive::close(net, comms);

        let (_session, mut sender, _receiver) = spied_channels();
        for (address, length) in [(4097, 4096), (4096, 4095), (8192 - 8, 8192)] {
            let error = sender.register(cuda(address, length)).unwrap_err().error;
            assert!(matches!(error, Error::Misuse(Misuse::Unaligned { .. })), "{error}");
        }
        let error = sender.register(cuda(4096, 1 << 31)).unwrap_err().error;
        assert!(error.to_string().contains("split the memory"), "{error}");
        assert_eq!(spy::take_calls(), [], "the plugin was not asked");
        sender.register(cuda(4096, (1 << 31) - 4096)).unwrap();
        // Host memory may start anywhere, and nothing beside it is registered.
        let owner = HostBuffer::new(4 * 4096).unwrap();
        let base = NonNull::from(&owner.bytes()[100]);
        // SAFETY: inside the owner's allocation, which nobody touches.
        let span = unsafe { ForeignSpan::new(owner, base, 5000, MemoryKind::Host) };
        sender.register(Box::new(span)).unwrap();
        let sizes: Vec<i32> = spy::take_calls()
            .iter()
            .filter_map(|call| match call {
                Call::Register { size, .. } => Some(*size),
                _ => None,
            })
            .collect();
        assert_eq!(sizes, [i32::MAX - 4095, 5000]);
    });
}

#[test]
fn rule_10_posts_name_their_registration_and_stay_inside() {
    // Broken: no memory handle, and beyond the end.
    let net = drive::start();
    let comms = drive::pair(net);
    let from = Memory::zeroed(net, comms.0, 100);
    assert_eq!(net.isend(comms.0, from.bytes.as_ptr(), 10, null_mut(), 0).0, 3);
    assert_eq!(net.isend(comms.0, from.bytes.as_ptr(), 101, from.handle, 0).0, 3);
    drive::close(net, comms);

    let (_session, mut sender, mut receiver) = spied_channels();
    let (_, from) = memory(&mut sender, 100);
    let (_, into) = memory(&mut receiver, 100);
    let made: Vec<usize> = spy::take_calls()
        .iter()
        .filter_map(|call| match call {
            Call::Register { made, .. } => Some(*made),
            _ => None,
        })
        .collect();
    for (offset, length) in [(1, 100), (101, 0), (usize::MAX, 1), (0, 101)] {
        let far = Slice { offset, length, ..from };
        let error = sender.post(0, far, Instant::now()).unwrap_err();
        assert!(matches!(error, PostError::Misuse(_)), "{offset} {length}: {error}");
    }
    assert_eq!(spy::take_calls(), [], "the plugin was not asked");
    post(&mut sender, 0, Slice { offset: 90, length: 10, ..from });
    post(&mut receiver, 0, into);
    let registrations: Vec<usize> = spy::take_calls()
        .iter()
        .filter_map(|call| match call {
            Call::Post { registration, .. } => Some(*registration),
            _ => None,
        })
        .collect();
    assert_eq!(registrations, made);
}

/// `impl` exists for every type; the second one as well for what is `Sync`, which makes the name ambiguous.
trait NotSync<Marker> {
    fn not_sync() {}
}
impl<T> NotSync<()> for T {}
struct IsSync;
impl<T: Sync> NotSync<IsSync> for T {}

const fn is_send<T: Send>() {}

/// The type system keeps it: comms move between threads and are never shared. A double cannot see who calls;
/// it is broken by no code that compiles without `unsafe`.
#[test]
fn rule_11_one_thread_for_each_comm() {
    <Channel as NotSync<_>>::not_sync();
    <ChannelSet as NotSync<_>>::not_sync();
    <tcpx_core::SendComm as NotSync<_>>::not_sync();
    <tcpx_core::RecvComm as NotSync<_>>::not_sync();
    const {
        is_send::<Channel>();
        is_send::<ChannelSet>();
        is_send::<tcpx_core::SendComm>();
        is_send::<tcpx_core::RecvComm>();
    }
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    for round in 0..8 {
        (sender, receiver) = std::thread::spawn(move || {
            let (_, from) = filled(&mut sender, &[round; 70_000]);
            let (buffer, into) = memory(&mut receiver, 70_000);
            post(&mut receiver, 0, into);
            post(&mut sender, 0, from);
            next(&mut receiver, &mut sender);
            next(&mut sender, &mut receiver);
            assert_eq!(bytes_of(&buffer), vec![round; 70_000]);
            (sender, receiver)
        })
        .join()
        .unwrap();
    }
}

#[test]
fn rule_12_never_more_than_the_ring_holds() {
    // Broken: the 17th, also while 16 done receives are not consumed.
    let net = drive::start();
    let comms = drive::pair(net);
    let from = Memory::zeroed(net, comms.0, 10);
    let mut into = Memory::zeroed(net, comms.1, 10);
    let requests: Vec<_> = (0..16).map(|_| drive::post_receive(net, comms.1, &mut into)).collect();
    assert_eq!(net.irecv(comms.1, into.bytes.as_mut_ptr(), 10, into.handle).0, 3);
    for request in requests {
        drive::finish(net, drive::post_send(net, comms.0, &from), "a send");
        drive::finish(net, request, "a receive");
    }
    assert_eq!(net.irecv(comms.1, into.bytes.as_mut_ptr(), 10, into.handle).0, 3);
    drive::close(net, comms);

    // Kept: counted, done receives included, and full is a value.
    let (_session, mut sender, mut receiver) = spied_channels();
    for (channel, window) in [(&mut sender, 12), (&mut receiver, 16)] {
        let (_, slice) = memory(channel, 10);
        spy::take_calls();
        spy::script().idle = true;
        let accepted = (0..40).filter(|&n| channel.post(n, slice, Instant::now()) == Ok(Post::Accepted));
        assert_eq!(accepted.count(), window);
        assert_eq!(spy::script().requests().len(), window);
        spy::script().idle = false;
        assert_eq!(channel.progress(Instant::now()), window);
        assert_eq!(channel.post(99, slice, Instant::now()), Ok(Post::Full), "done, and not yet released");
        assert!(matches!(channel.release(), Release::Released(_)));
        assert_eq!(channel.post(99, slice, Instant::now()), Ok(Post::Accepted));
    }
    let (_, plugin) = (spy::take_calls(), open());
    for window in [0, 17] {
        let error = Channel::sending(crate::pair::comms(&plugin).0, window).unwrap_err();
        assert!(matches!(error, Error::Misuse(Misuse::Window { max: 16, .. })), "{error}");
    }
}

#[test]
fn rule_13_one_buffer_for_each_receive() {
    // Broken: two, and none.
    let net = drive::start();
    let comms = drive::pair(net);
    let mut into = Memory::zeroed(net, comms.1, 10);
    for n in [0, 2] {
        assert_eq!(net.irecv_n(comms.1, n, into.bytes.as_mut_ptr(), 10, into.handle, 0).0, 3);
    }
    drive::close(net, comms);

    let (_session, _sender, mut receiver) = spied_channels();
    let (_, into) = memory(&mut receiver, 10);
    post(&mut receiver, 0, into);
    assert!(matches!(receiver.release(), Release::Released(_)));
    let counts: Vec<i32> = spy::take_calls()
        .iter()
        .filter_map(|call| match call {
            Call::Post { n, .. } | Call::Consumed { n, .. } => Some(*n),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [1, 1]);
}

#[test]
fn rule_14_messages_that_a_scatter_list_can_describe() {
    in_child("posting::rule_14_messages_that_a_scatter_list_can_describe", STRICT_UNPACK, || {
        // Broken: more pages than a list holds, which would end the process in the real plugin.
        let net = drive::start();
        let comms = drive::pair(net);
        let length = 9 << 20;
        let from = Memory::zeroed(net, comms.0, length);
        let mut into = Memory::zeroed(net, comms.1, length);
        let receive = drive::post_receive(net, comms.1, &mut into);
        let send = drive::post_send(net, comms.0, &from);
        let code = drive::until("a refusal", || {
            // Whatever the sender hears.
            let _ = net.test(send);
            match net.test(receive) {
                (0, done, _) => {
                    assert!(!done);
                    None
                }
                (code, ..) => Some(code),
            }
        });
        assert_eq!(code, 6, "a bad message is the peer's doing");
        drive::close(net, comms);

        let length = (4 << 20) + 1;
        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        assert_eq!((sender.max_message(), receiver.max_message()), (4 << 20, 4 << 20));
        for channel in [&mut sender, &mut receiver] {
            let (_, slice) = memory(channel, length);
            let error = channel.post(0, slice, Instant::now()).unwrap_err();
            assert_eq!(error, Misuse::TooLong { length, max: 4 << 20 }.into());
        }
        let (_, from) = memory(&mut sender, 4 << 20);
        let (buffer, into) = memory(&mut receiver, 4 << 20);
        buffer.fill(0, 4 << 20, 0).unwrap();
        post(&mut receiver, 0, into);
        post(&mut sender, 0, from);
        assert_eq!(next(&mut receiver, &mut sender), done(0, 4 << 20));
        assert!(bytes_of(&buffer).iter().all(|&byte| byte == 0xa5));
    });
}

/// The k-th send meets the k-th receive, whatever the sizes: the core posts in the order in which it is asked.
#[test]
fn rule_15_the_order_of_posting_is_the_order_of_matching() {
    let plugin = open();
    let (mut sender, mut receiver) = channels(&plugin);
    let lengths = [10, 100_000, 0, 17_000, 1, 300_000, 0, 16_384];
    let mut buffers = Vec::new();
    for (token, length) in (100..).zip(lengths) {
        let (buffer, into) = memory(&mut receiver, 300_000);
        post(&mut receiver, token, into);
        buffers.push((buffer, length));
    }
    for (token, length) in (0..).zip(lengths) {
        let (_, from) = filled(&mut sender, &vec![token as u8; length]);
        post(&mut sender, token, from);
    }
    for (number, (buffer, length)) in (0..).zip(buffers) {
        assert_eq!(next(&mut receiver, &mut sender), done(100 + number, length));
        assert_eq!(next(&mut sender, &mut receiver), done(number, length));
        let bytes = bytes_of(&buffer);
        assert!(bytes[..length].iter().all(|&byte| byte == number as u8));
        assert!(bytes[length..].iter().all(|&byte| byte == 0xa5));
    }
}

#[test]
fn rule_16_poll_all_the_time_and_only_the_oldest() {
    in_child("posting::rule_16_poll_all_the_time_and_only_the_oldest", STRICT, || {
        // Broken: the second one, while the first is under way.
        let net = drive::start();
        let comms = drive::pair(net);
        let from = Memory::zeroed(net, comms.0, 40_000);
        let mut into = [0; 2].map(|_| Memory::zeroed(net, comms.1, 40_000));
        let receives = into.each_mut().map(|into| drive::post_receive(net, comms.1, into));
        let sends = [0; 2].map(|_| drive::post_send(net, comms.0, &from));
        let code = drive::until("a refusal", || {
            let _ = net.test(sends[0]);
            match net.test(receives[1]) {
                (0, done, _) => {
                    assert!(!done);
                    None
                }
                (code, ..) => Some(code),
            }
        });
        assert_eq!(code, 3);
        drive::close(net, comms);

        // Kept: whatever is asked, only the oldest is tested, and 16 receives all become active.
        let (_session, _sender, mut receiver) = spied_channels();
        let (_, into) = memory(&mut receiver, 10);
        spy::script().idle = true;
        (0..16).for_each(|token| post(&mut receiver, token, into));
        for done in [true, false, true, true, false, false, true] {
            spy::script().test.extend([(0, done, None), (0, false, None)]);
            receiver.progress(Instant::now());
            spy::script().test.clear();
        }
        let requests = spy::script().requests();
        let mut oldest = 0;
        let mut tests = 0;
        for call in spy::take_calls() {
            if let Call::Test { request } = call {
                if request != requests[oldest] {
                    oldest += 1;
                }
                assert_eq!(request, requests[oldest], "only the oldest, or its successor");
                tests += 1;
            }
        }
        assert!(oldest == 4 && tests >= 16, "{oldest} {tests}");
        drop((_session, _sender, receiver));

        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let (_, from) = filled(&mut sender, &[1; 500]);
        let (_, into) = memory(&mut receiver, 500);
        (0..16).for_each(|token| post(&mut receiver, token, into));
        let until = deadline();
        for token in 0..16 {
            while sender.post(token, from, Instant::now()).unwrap() != Post::Accepted {
                let _ = sender.release();
                assert!(Instant::now() < until);
            }
        }
        (0..16).for_each(|token| assert_eq!(next(&mut receiver, &mut sender).token, token));
    });
}
