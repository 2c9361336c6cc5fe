//! Messages of several slices, cut differently at the two ends.

mod support;

use std::ffi::c_int;
use std::ptr::null_mut;

use proptest::prelude::*;
use support::child::in_child;
use support::drive::{self, Memory, Random, close, finish, pair, post_receive, post_send, start, until};
use support::{Net, Pointer, pattern};
use tcpx_sys::extension::{ExtensionV1, Slice};

fn extension() -> &'static ExtensionV1 {
    tcpx_soft::plugin().extension.expect("the soft plugin has it")
}

fn post(comm: Pointer, slices: &[Slice], receive: bool) -> (c_int, Pointer) {
    let post = if receive { extension().irecv_slices } else { extension().isend_slices };
    let mut request = 0xbad as Pointer;
    // SAFETY: the slices lie in registered memory of the test that outlives the request, or must be refused.
    let code = unsafe { post.expect("present")(comm, slices.as_ptr(), slices.len() as c_int, &mut request) };
    (code, request)
}

/// Slices of `lengths`, which lie in `memory` in another order than in the message and with gaps between.
/// Returns the slices in message order.
fn scatter(memory: &mut Memory, lengths: &[usize], random: &mut Random) -> Vec<Slice> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i + 1));
    }
    let base = memory.bytes.as_mut_ptr();
    let mut at = vec![0; lengths.len()];
    let mut next = 0;
    for &which in &order {
        at[which] = next;
        next += lengths[which] + 1;
    }
    assert!(next <= memory.bytes.len() + 1);
    let slice = |(&at, &length): (&usize, &usize)| Slice {
        address: base.wrapping_add(at).cast(),
        length,
        mhandle: memory.handle,
    };
    at.iter().zip(lengths).map(slice).collect()
}

fn offset(memory: &Memory, slice: &Slice) -> usize {
    slice.address as usize - memory.bytes.as_ptr() as usize
}

/// Cuts `total` into `pieces` lengths, some of them 0.
fn cut(total: usize, pieces: usize, random: &mut Random) -> Vec<usize> {
    let mut marks: Vec<usize> = (1..pieces).map(|_| random.below(total + 1)).collect();
    marks.push(0);
    marks.push(total);
    marks.sort_unstable();
    let mut lengths: Vec<usize> = marks.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if pieces > 2 {
        // Empty slices at the ends and inside.
        for place in [0, lengths.len() / 2, lengths.len()] {
            if lengths.len() < extension().max_slices {
                lengths.insert(place, 0);
            }
        }
    }
    lengths
}

/// One message of `total` bytes, in `from` slices at one end and `into` at the other; 0 means flat.
fn transfer(
    net: Net,
    comms: (Pointer, Pointer),
    total: usize,
    from: usize,
    into: usize,
    random: &mut Random,
) {
    let message = pattern(random.next(), total);
    let room = total + 2 * from.max(into) + 16;
    let mut source = Memory::new(net, comms.0, vec![0x11; room]);
    let mut target = Memory::new(net, comms.1, vec![0xA5; room]);

    let (code, send) = if from == 0 {
        source.bytes[..total].copy_from_slice(&message);
        net.isend(comms.0, source.bytes.as_ptr(), total, source.handle, 0)
    } else {
        let lengths = cut(total, from, random);
        let slices = scatter(&mut source, &lengths, random);
        let mut done = 0;
        for slice in &slices {
            let at = offset(&source, slice);
            source.bytes[at..at + slice.length].copy_from_slice(&message[done..done + slice.length]);
            done += slice.length;
        }
        post(comms.0, &slices, false)
    };
    assert_eq!(code, 0, "{:?}", drive::log().last());
    let mut expected = vec![0xA5; room];
    let (code, receive) = if into == 0 {
        expected[..total].copy_from_slice(&message);
        net.irecv(comms.1, target.bytes.as_mut_ptr(), total, target.handle)
    } else {
        let lengths = cut(total, into, random);
        let slices = scatter(&mut target, &lengths, random);
        let mut done = 0;
        for slice in &slices {
            let at = offset(&target, slice);
            expected[at..at + slice.length].copy_from_slice(&message[done..done + slice.length]);
            done += slice.length;
        }
        post(comms.1, &slices, true)
    };
    assert_eq!(code, 0, "{:?}", drive::log().last());

    let (mut sent, mut received) = (false, false);
    until("a vectored message", || {
        if !sent {
            let (code, done, size) = net.test(send);
            assert_eq!(code, 0);
            assert!(!done || size as usize == total);
            sent = done;
        }
        if !received {
            let (code, done, size) = net.test(receive);
            assert_eq!(code, 0, "{:?}", drive::log().last());
            assert!(!done || size as usize == total);
            received = done;
        }
        (sent && received).then_some(())
    });
    assert_eq!(net.consumed(comms.1, receive), 0);
    assert!(target.bytes == expected, "{total} bytes from {from} slices into {into}");
    net.dereg_mr(comms.0, source.handle);
    net.dereg_mr(comms.1, target.handle);
}

fn every_way(net: Net) {
    let mut random = Random::seeded();
    let comms = pair(net);
    let sizes = [0, 1, 100, 16_383, 16_384, 16_385, 65_537, 262_144, 262_145, 1_000_003, 5 << 20];
    for total in sizes {
        for (from, into) in [(1, 1), (0, 3), (3, 0), (7, 7), (5, 100), (300, 2), (1024, 1025), (1, 4000)] {
            transfer(net, comms, total, from, into, &mut random);
        }
    }
    close(net, comms);
    drive::no_panic();
}

#[test]
fn slices_make_the_message_in_every_size() {
    every_way(start());
}

#[test]
fn slices_make_the_message_on_one_socket_in_small_chunks() {
    let variables = [("NCCL_NSOCKS_PERTHREAD", "1"), ("TCPX_SOFT_CHUNK_BYTES", "65536")];
    in_child("slices_make_the_message_on_one_socket_in_small_chunks", &variables, || every_way(start()));
}

#[test]
fn slices_make_the_message_on_many_sockets_and_when_strict() {
    let variables = [("NCCL_NSOCKS_PERTHREAD", "8"), ("TCPX_SOFT_STRICT", "1")];
    in_child("slices_make_the_message_on_many_sockets_and_when_strict", &variables, || {
        let net = start();
        let mut random = Random::seeded();
        let comms = pair(net);
        let mut source = Memory::patterned(net, comms.0, 5, 3 << 20);
        let mut target = Memory::zeroed(net, comms.1, 4 << 20);
        let from = scatter(&mut source, &cut(2 << 20, 50, &mut random), &mut random);
        let into = scatter(&mut target, &cut(2 << 20, 70, &mut random), &mut random);
        let (_, receive) = post(comms.1, &into, true);
        let (_, send) = post(comms.0, &from, false);
        finish(net, send, "the send");
        finish(net, receive, "the receive");
        let gather = |memory: &Memory, slices: &[Slice]| -> Vec<u8> {
            let bytes = |slice: &Slice| {
                let at = offset(memory, slice);
                memory.bytes[at..at + slice.length].to_vec()
            };
            slices.iter().flat_map(bytes).collect()
        };
        assert!(gather(&source, &from) == gather(&target, &into));
        close(net, comms);
    });
}

#[test]
fn the_most_slices_work_and_one_more_is_refused() {
    let net = start();
    let comms = pair(net);
    let most = extension().max_slices;
    assert_eq!(most, 4096);
    let mut random = Random::seeded();
    // The empty slices that `cut` adds have no place beside that many.
    for total in [16_000, 4 << 20, most * 16_384] {
        let piece = total / most;
        let message = Memory::patterned(net, comms.0, 3, piece * most);
        let target = Memory::zeroed(net, comms.1, piece * most);
        let slices = |memory: &Memory| -> Vec<Slice> {
            let address = |i: usize| memory.bytes.as_ptr().wrapping_add(i * piece).cast_mut().cast();
            // Backwards, so that no two are neighbours in order.
            let slice = |i| Slice { address: address(i), length: piece, mhandle: memory.handle };
            (0..most).rev().map(slice).collect()
        };
        let (code, receive) = post(comms.1, &slices(&target), true);
        assert_eq!(code, 0);
        let (code, send) = post(comms.0, &slices(&message), false);
        assert_eq!(code, 0);
        let (mut sent, mut received) = (false, false);
        until("the most slices", || {
            sent = sent || net.test(send).1;
            received = received || net.test(receive).1;
            (sent && received).then_some(())
        });
        assert_eq!(net.consumed(comms.1, receive), 0);
        assert!(target.bytes == message.bytes);
        net.dereg_mr(comms.0, message.handle);
        net.dereg_mr(comms.1, target.handle);
    }
    let memory = Memory::zeroed(net, comms.0, 8192);
    let one = Slice { address: memory.bytes.as_ptr().cast_mut().cast(), length: 1, mhandle: memory.handle };
    assert_eq!(post(comms.0, &vec![one; most + 1], false), (3, 0xbad as Pointer));
    transfer(net, comms, 30_000, 3, 4, &mut random);
    close(net, comms);
}

#[test]
fn bad_lists_are_refused_and_take_no_slot() {
    let net = start();
    let comms = pair(net);
    let mut memory = Memory::zeroed(net, comms.0, 100);
    let good = Slice { address: memory.bytes.as_mut_ptr().cast(), length: 100, mhandle: memory.handle };
    let past = Slice { length: 101, ..good };
    let before = Slice { address: good.address.wrapping_byte_sub(1), ..good };
    let nowhere = Slice { mhandle: null_mut(), ..good };
    for (send, receive) in [(past, past), (before, before), (nowhere, nowhere)] {
        assert_eq!(post(comms.0, &[good, send], false).0, 3);
        assert_eq!(post(comms.1, &[receive, good], true).0, 3);
    }
    assert_eq!(post(comms.0, &[], false).0, 3, "no slices");
    assert_eq!(post(comms.0, &[good], true).0, 3, "the wrong direction");
    assert_eq!(post(comms.1, &[good], false).0, 3, "the wrong direction");
    assert_eq!(post(null_mut(), &[good], false).0, 3, "no comm");
    let mut into = Memory::zeroed(net, comms.1, 1000);
    let receives: Vec<_> = (0..16).map(|_| post_receive(net, comms.1, &mut into)).collect();
    let sends: Vec<_> = (0..16).map(|_| post(comms.0, &[good, good], false)).collect();
    assert_eq!(post(comms.0, &[good], false).0, 3, "the ring is full");
    for (code, send) in sends {
        assert_eq!(code, 0);
        finish(net, send, "a send");
    }
    for receive in receives {
        assert_eq!(finish(net, receive, "a receive"), 200, "the same memory twice in a message");
    }
    close(net, comms);
}

#[test]
fn a_longer_message_than_the_slices_is_refused() {
    let net = start();
    for total in [1001, 20_000, 600_000] {
        let comms = pair(net);
        let from = Memory::patterned(net, comms.0, 1, total);
        let into = Memory::new(net, comms.1, vec![0xA5; 2000]);
        let slice = |at: usize, length: usize| Slice {
            address: into.bytes.as_ptr().wrapping_add(at).cast_mut().cast(),
            length,
            mhandle: into.handle,
        };
        let (_, receive) = post(comms.1, &[slice(0, 500), slice(600, 500)], true);
        let send = post_send(net, comms.0, &from);
        let code = until("a refusal", || {
            // The sender may be done before.
            let _ = net.test(send);
            let (code, done, _) = net.test(receive);
            assert!(!done);
            (code != 0).then_some(code)
        });
        assert_eq!(code, 6);
        close(net, comms);
        assert!(into.bytes.iter().all(|&byte| byte == 0xA5));
    }
}

#[test]
fn slices_and_flat_messages_keep_their_order_in_one_window() {
    let net = start();
    let comms = pair(net);
    let mut random = Random::seeded();
    let sizes: Vec<usize> = (0..12).map(|i| [50, 16_384, 40_000, 700_000][i % 4]).collect();
    let mut sources: Vec<_> =
        sizes.iter().map(|&n| Memory::patterned(net, comms.0, n as u64, n * 2)).collect();
    let mut targets: Vec<_> = sizes.iter().map(|&n| Memory::zeroed(net, comms.1, n * 2)).collect();
    let mut lists = Vec::new();
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    for (which, &size) in sizes.iter().enumerate() {
        let vectored = which % 2 == 0;
        let list = |memory: &mut Memory, random: &mut Random| {
            let lengths = if vectored { cut(size, 9, random) } else { vec![size] };
            scatter(memory, &lengths, random)
        };
        let (from, into) = (list(&mut sources[which], &mut random), list(&mut targets[which], &mut random));
        receives.push(post(comms.1, &into, true).1);
        sends.push(post(comms.0, &from, false).1);
        lists.push((from, into));
    }
    let (mut sent, mut received) = (0, 0);
    until("a window of both kinds", || {
        sent += usize::from(sent < sends.len() && net.test(sends[sent]).1);
        received += usize::from(received < receives.len() && net.test(receives[received]).1);
        (sent == sends.len() && received == receives.len()).then_some(())
    });
    for (which, (from, into)) in lists.iter().enumerate() {
        let gather = |memory: &Memory, slices: &[Slice]| -> Vec<u8> {
            let bytes = |slice: &Slice| {
                let at = offset(memory, slice);
                memory.bytes[at..at + slice.length].to_vec()
            };
            slices.iter().flat_map(bytes).collect()
        };
        assert!(gather(&sources[which], from) == gather(&targets[which], into), "message {which}");
    }
    close(net, comms);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_at_either_end(
        seed in any::<u64>(),
        total in prop_oneof![0usize..200, 16_300usize..16_500, 0usize..2_000_000],
        from in prop_oneof![Just(0usize), 1usize..20, 1usize..2000],
        into in prop_oneof![Just(0usize), 1usize..20, 1usize..2000],
    ) {
        let net = start();
        let comms = pair(net);
        transfer(net, comms, total, from, into, &mut Random(seed));
        close(net, comms);
    }
}
