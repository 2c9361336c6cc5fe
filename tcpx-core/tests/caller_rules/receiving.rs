//! Rules 17 to 23: what was received, and giving it back.

use std::path::Path;
use std::time::Instant;

use tcpx_core::preflight::{Check, Nature, check};
use tcpx_core::{OperationFault, Outcome, Reason, Release};
use tcpx_sys::device::{DeviceHandle, LoadMeta, UnpackQueue};

use crate::pair::{bytes_of, channels, config, done, filled, memory, next, open, post};
use crate::raw::child::in_child;
use crate::raw::drive::{self, Memory};
use crate::raw::{Net, Pointer, pattern};
use crate::spy::{self, Call};
use crate::{STRICT_UNPACK, spied_channels};

/// Tests a send and its receive until the receive is done; the size told.
fn received(net: Net, (send, receive): (Pointer, Pointer)) -> i32 {
    drive::until("a receive", || {
        // The sender moves by its own tests, and may be done before.
        let _ = net.test(send);
        let (code, done, size) = net.test(receive);
        assert_eq!(code, 0);
        done.then_some(size)
    })
}

/// The scatter list in a slot, as raw as it lies there.
fn list(handle: &DeviceHandle, slot: usize) -> (Vec<LoadMeta>, *const u8) {
    let queue: *const UnpackQueue = handle.handle.cast_const().cast();
    // SAFETY: in unpack mode the soft plugin's handle points to a queue in host memory.
    let queue = unsafe { queue.read() };
    // SAFETY: the lists live as long as the comm; the slot is below 16.
    let meta = unsafe { &*queue.meta };
    let count = meta.cnt[slot] as usize;
    let entries = meta.mem[slot][..count].to_vec();
    (entries, queue.bounce_buf.cast_const().cast())
}

/// One byte of the bounce buffer for each entry.
fn first_bytes(entries: &[LoadMeta], bounce: *const u8) -> Vec<u8> {
    let first = |entry: &LoadMeta| bounce.wrapping_add(entry.src_off as usize);
    // SAFETY: each entry lies inside the bounce buffer, which lives as long as the comm.
    entries.iter().map(|entry| unsafe { first(entry).read() }).collect()
}

#[test]
fn rule_17_lengths_come_from_the_list_and_are_checked() {
    in_child("receiving::rule_17_lengths_come_from_the_list_and_are_checked", STRICT_UNPACK, || {
        // Broken: whoever believes the size, or trusts the sender, copies beyond the buffer.
        let net = drive::start();
        let mut handle = DeviceHandle::zeroed();
        let comms = net.pair(0, &mut handle);
        let from = Memory::zeroed(net, comms.0, 9_000);
        let mut into = Memory::zeroed(net, comms.1, 10_000);
        let (code, receive) = net.irecv(comms.1, into.bytes.as_mut_ptr(), 1_000, into.handle);
        assert_eq!(code, 0);
        let send = drive::post_send(net, comms.0, &from);
        assert_eq!(received(net, (send, receive)), -1, "the size was not written");
        let (entries, _) = list(&handle, 0);
        assert_eq!(entries.iter().map(|entry| entry.len).sum::<u32>(), 9_000, "and 1000 were posted");
        drive::close(net, comms);

        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let message = pattern(1, 9_000);
        let (_, from) = filled(&mut sender, &message);
        let (buffer, into) = memory(&mut receiver, 10_000);
        post(&mut receiver, 0, tcpx_core::Slice { length: 1_000, ..into });
        post(&mut sender, 0, from);
        let completion = next(&mut receiver, &mut sender);
        let Outcome::Failed(OperationFault::Scatter(error)) = completion.outcome else {
            panic!("{completion:?}")
        };
        assert!(error.to_string().contains("more than was posted"), "{error}");
        assert!(bytes_of(&buffer).iter().all(|&byte| byte == 0xa5), "nothing was copied");
        post(&mut receiver, 1, into);
        post(&mut sender, 1, from);
        assert_eq!(next(&mut receiver, &mut sender), done(1, 9_000), "shorter than posted, and known");
        assert!(bytes_of(&buffer)[..9_000] == message[..]);
    });
    // A size that the plugin writes is checked against what was posted as well; untouched, it is unknown.
    let (_session, _sender, mut receiver) = spied_channels();
    let (_, into) = memory(&mut receiver, 100);
    spy::script().test.extend([
        (0, true, Some(101)),
        (0, true, None),
        (0, true, Some(7)),
        (0, true, Some(-5)),
    ]);
    (0..4).for_each(|token| post(&mut receiver, token, into));
    let outcomes: Vec<Outcome> = (0..4)
        .map(|_| match receiver.release() {
            Release::Released(completion) => completion.outcome,
            other => panic!("{other:?}"),
        })
        .collect();
    let done = |length| Outcome::Done { length };
    let too_long = Outcome::Failed(OperationFault::TooLong { posted: 100, arrived: 101 });
    assert_eq!(outcomes, [too_long, done(None), done(Some(7)), done(None)]);
}

#[test]
fn rule_18_no_inline_messages() {
    let findings = check(&config(&[("NCCL_INLINE_THRESHOLD", "64")]), Nature::Tcpx, Path::new("/"));
    assert!(findings.refusals.iter().any(|refusal| refusal.check == Check::InlineThreshold));
    let findings = check(&config(&[]), Nature::Tcpx, Path::new("/"));
    assert!(!findings.refusals.iter().any(|refusal| refusal.check == Check::InlineThreshold));
}

#[test]
fn rule_19_empty_messages_take_a_slot_and_are_consumed() {
    in_child("receiving::rule_19_empty_messages_take_a_slot_and_are_consumed", STRICT_UNPACK, || {
        // Broken: 16 empty receives that are done and not consumed.
        let net = drive::start();
        let comms = drive::pair(net);
        let from = Memory::zeroed(net, comms.0, 1);
        let mut into = Memory::zeroed(net, comms.1, 1);
        let at = into.bytes.as_mut_ptr();
        for _ in 0..16 {
            let receive = drive::post_receive(net, comms.1, &mut into);
            drive::finish(net, drive::post_send_of(net, comms.0, &from, 0), "a send");
            drive::finish(net, receive, "a receive");
        }
        assert_eq!(net.irecv(comms.1, at, 1, into.handle).0, 3);
        drive::close(net, comms);

        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let (_, from) = filled(&mut sender, &[]);
        let (buffer, into) = memory(&mut receiver, 64);
        for round in 0..50 {
            post(&mut receiver, round, into);
            post(&mut sender, round, from);
            assert_eq!(next(&mut receiver, &mut sender), done(round, 0));
            assert_eq!(next(&mut sender, &mut receiver), done(round, 0));
        }
        assert_eq!(bytes_of(&buffer), [0xa5; 64]);
    });
}

#[test]
fn rule_20_the_list_is_read_after_done_and_before_consumed() {
    in_child("receiving::rule_20_the_list_is_read_after_done_and_before_consumed", STRICT_UNPACK, || {
        // Broken: the pages are read after they were given back, and hold poison.
        let net = drive::start();
        let mut handle = DeviceHandle::zeroed();
        let comms = net.pair(0, &mut handle);
        let from = Memory::new(net, comms.0, vec![0x11; 20_000]);
        let mut into = Memory::zeroed(net, comms.1, 20_000);
        let receive = drive::post_receive(net, comms.1, &mut into);
        let send = drive::post_send(net, comms.0, &from);
        received(net, (send, receive));
        let (entries, bounce) = list(&handle, 0);
        assert!(first_bytes(&entries, bounce).iter().all(|&byte| byte == 0x11));
        assert_eq!(net.consumed(comms.1, receive), 0);
        assert!(first_bytes(&entries, bounce).iter().all(|&byte| byte != 0x11));
        drive::close(net, comms);

        // Kept, through every slot twice and a bit, with full windows.
        let plugin = open();
        let (mut sender, mut receiver) = channels(&plugin);
        let rounds = 40;
        let mut buffers = Vec::new();
        let mut sent = 0;
        for round in 0..rounds {
            while buffers.len() < rounds && receiver.free() > 0 {
                let (buffer, into) = memory(&mut receiver, 20_000);
                post(&mut receiver, buffers.len() as u64, into);
                buffers.push(buffer);
            }
            while sent < buffers.len() && sender.free() > 0 {
                let (_, from) = filled(&mut sender, &pattern(sent as u64, 20_000 - sent));
                post(&mut sender, sent as u64, from);
                sent += 1;
            }
            assert_eq!(next(&mut receiver, &mut sender), done(round as u64, 20_000 - round));
            next(&mut sender, &mut receiver);
            assert!(bytes_of(&buffers[round])[..20_000 - round] == pattern(round as u64, 20_000 - round)[..]);
        }
    });
}

#[test]
fn rule_21_consumed_once_for_each_receive_and_in_order() {
    // Broken: the second first, and one twice.
    let net = drive::start();
    let comms = drive::pair(net);
    let from = Memory::zeroed(net, comms.0, 10);
    let mut into = Memory::zeroed(net, comms.1, 10);
    let receives = [0; 2].map(|_| drive::post_receive(net, comms.1, &mut into));
    for receive in receives {
        drive::finish(net, drive::post_send(net, comms.0, &from), "a send");
        drive::finish(net, receive, "a receive");
    }
    assert_eq!(net.consumed(comms.1, receives[1]), 3);
    assert_eq!(net.consumed(comms.1, receives[0]), 0);
    assert_eq!(net.consumed(comms.1, receives[0]), 3);
    drive::close(net, comms);

    // Kept, also for receives that failed, and never for sends.
    let (_session, mut sender, mut receiver) = spied_channels();
    let (_, into) = memory(&mut receiver, 10);
    let (_, from) = memory(&mut sender, 10);
    spy::script().test.extend((0..16).map(|n| (0, true, Some(if n % 3 == 0 { 11 } else { 10 }))));
    (0..16).for_each(|token| post(&mut receiver, token, into));
    let posted = spy::script().requests();
    post(&mut sender, 0, from);
    while let Release::Released(_) = receiver.release() {}
    assert!(matches!(sender.release(), Release::Released(_)));
    let consumed: Vec<usize> = spy::take_calls()
        .iter()
        .filter_map(|call| match call {
            Call::Consumed { request, .. } => Some(*request),
            _ => None,
        })
        .collect();
    assert_eq!(consumed, posted);
    // An answer of 3 is believed: the comm is lost, and not consumed again.
    spy::script().consumed.push_back(3);
    post(&mut receiver, 17, into);
    let Release::Failed(fault) = receiver.release() else { panic!("3 is an error") };
    assert_eq!(fault.reason, Reason::OutOfOrder);
    assert!(matches!(receiver.release(), Release::Failed(_)));
    let again = spy::take_calls().iter().filter(|call| matches!(call, Call::Consumed { .. })).count();
    assert_eq!(again, 1);
}

#[test]
fn rule_22_iflush_is_never_called() {
    let (_session, mut sender, mut receiver) = spied_channels();
    let (_, from) = memory(&mut sender, 10);
    let (_, into) = memory(&mut receiver, 10);
    for round in 0..20 {
        post(&mut receiver, round, into);
        post(&mut sender, round, from);
        assert!(matches!(receiver.release(), Release::Released(_)));
        assert!(matches!(sender.release(), Release::Released(_)));
    }
    drop((sender, receiver));
    assert!(!spy::take_calls().contains(&Call::Iflush));
}

#[test]
fn rule_23_a_done_request_is_forgotten() {
    // Broken: it is never done again.
    let net = drive::start();
    let comms = drive::pair(net);
    let from = Memory::zeroed(net, comms.0, 10);
    let mut into = Memory::zeroed(net, comms.1, 10);
    let receive = drive::post_receive(net, comms.1, &mut into);
    let send = drive::post_send(net, comms.0, &from);
    drive::finish(net, send, "the send");
    drive::finish(net, receive, "the receive");
    for request in [send, receive] {
        let (code, done, _) = net.test(request);
        assert!(!done && (code == 0 || code == 3), "{code} {done}");
    }
    drive::close(net, comms);

    let (_session, mut sender, mut receiver) = spied_channels();
    let (_, from) = memory(&mut sender, 10);
    let (_, into) = memory(&mut receiver, 10);
    for round in 0..40 {
        for (channel, slice) in [(&mut sender, from), (&mut receiver, into)] {
            post(channel, round, slice);
            channel.progress(Instant::now());
            assert!(matches!(channel.release(), Release::Released(_)));
            channel.progress(Instant::now());
        }
    }
    let tests: Vec<usize> = spy::take_calls()
        .iter()
        .filter_map(|call| match call {
            Call::Test { request } => Some(*request),
            _ => None,
        })
        .collect();
    let mut once = tests.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), tests.len(), "each was tested once, because it was done at once");
    assert_eq!(tests.len(), 80);
}
