//! Bounce pages and scatter lists: what a receiver on an unpacking device finds in them.

mod support;

use std::ffi::c_void;

use support::child::in_child;
use support::drive::{
    self, Memory, Random, close, error_of, finish, post_receive, post_send_of, start, until,
};
use support::{Net, Pointer, pattern};
use tcpx_sys::device::{
    DEVICE_UNPACK, DeviceHandle, LoadMeta, UNPACK_MAX_ENTRIES, UNPACK_PAGE, UNPACK_SLOTS, UNPACK_VERSION,
    UnpackQueue,
};
use tcpx_sys::{PTR_CUDA, PTR_HOST};

const POISON: u8 = 0xDB;

/// A pair whose receiver unpacks.
struct Unpacking {
    net: Net,
    send: Pointer,
    receive: Pointer,
    queue: UnpackQueue,
    posted: usize,
}

impl Unpacking {
    fn new(net: Net) -> Self {
        let mut device = DeviceHandle::zeroed();
        let (send, receive) = net.pair(0, &mut device);
        assert_eq!((device.device_type, device.device_version), (DEVICE_UNPACK, UNPACK_VERSION));
        assert_eq!((device.size, device.needs_proxy_progress), (24, 1));
        assert!(!device.handle.is_null());
        // SAFETY: the handle of an unpacking device points to its queue.
        let queue = unsafe { device.handle.cast::<UnpackQueue>().read() };
        Self { net, send, receive, queue, posted: 0 }
    }

    /// The list of the receive that was posted `which`-th on this comm.
    fn list(&self, which: usize) -> Vec<LoadMeta> {
        let slot = which % UNPACK_SLOTS;
        // SAFETY: the lists live as long as the comm, and the receive of this slot is done.
        let counts = unsafe { &(*self.queue.meta).cnt };
        let count = counts[slot];
        assert!(count <= UNPACK_MAX_ENTRIES as u64);
        // SAFETY: as above.
        let entries = unsafe { &(*self.queue.meta).mem[slot] };
        entries[..count as usize].to_vec()
    }

    fn bounce(&self, entry: &LoadMeta) -> Vec<u8> {
        let from = self.queue.bounce_buf.cast::<u8>().wrapping_add(entry.src_off as usize);
        // SAFETY: the entry of a done receive names bytes of the bounce buffer.
        unsafe { std::slice::from_raw_parts(from, entry.len as usize) }.to_vec()
    }

    /// What the list says that arrived, after checking that it covers each byte once.
    fn gather(&self, which: usize) -> Vec<u8> {
        let mut list = self.list(which);
        list.sort_by_key(|entry| entry.dst_off);
        let mut message = Vec::new();
        for entry in &list {
            assert_eq!(entry.dst_off as usize, message.len(), "entries are disjoint and leave no gap");
            assert!(entry.len > 0 && entry.len as usize <= UNPACK_PAGE);
            message.extend(self.bounce(entry));
        }
        message
    }

    /// Sends one message and returns its receive, done and not consumed, with its number.
    fn transfer(&mut self, message: &[u8]) -> (Pointer, usize) {
        let net = self.net;
        let mut bytes = message.to_vec();
        bytes.push(0);
        let from = Memory::new(net, self.send, bytes);
        let mut into = Memory::zeroed(net, self.receive, message.len() + 1);
        let receive = post_receive(net, self.receive, &mut into);
        let which = self.posted;
        self.posted += 1;
        let send = post_send_of(net, self.send, &from, message.len());
        let mut sent = false;
        until("a message in bounce pages", || {
            sent = sent || net.test(send).1;
            let (code, done, size) = net.test(receive);
            assert_eq!(code, 0, "{:?}", drive::log().last());
            assert!(!done || size as usize == message.len());
            done.then_some(())
        });
        if !sent {
            finish(net, send, "the send");
        }
        assert!(into.bytes.iter().all(|&byte| byte == 0), "the posted buffer is left to the unpacking");
        net.dereg_mr(self.send, from.handle);
        net.dereg_mr(self.receive, into.handle);
        (receive, which)
    }

    fn consume(&self, receive: Pointer) {
        assert_eq!(self.net.consumed(self.receive, receive), 0);
    }

    fn close(self) {
        close(self.net, (self.send, self.receive));
        drive::no_panic();
    }
}

const UNPACK: (&str, &str) = ("TCPX_SOFT_MODE", "unpack");

#[test]
fn the_device_says_what_it_is() {
    in_child("the_device_says_what_it_is", &[UNPACK], || {
        let net = start();
        let (_, support, device, max_recvs) = net.properties(0).expect("device 0");
        assert_eq!((support, device, max_recvs), (PTR_HOST | PTR_CUDA, DEVICE_UNPACK, 1));
        let unpacking = Unpacking::new(net);
        assert!(!unpacking.queue.meta.is_null() && unpacking.queue.meta.is_aligned());
        assert!((unpacking.queue.bounce_buf as usize).is_multiple_of(UNPACK_PAGE));
        assert_eq!(unpacking.queue.head, u64::MAX, "the kernel counts up before it uses it");
        let bytes = vec![0u8; 8192];
        let start = bytes.as_ptr().align_offset(4096);
        let aligned = net.reg_mr(unpacking.receive, &bytes[start..start + 4096], PTR_CUDA);
        net.dereg_mr(unpacking.receive, aligned.expect("device memory on a page"));
        let odd = net.reg_mr(unpacking.receive, &bytes[start + 8..start + 4096], PTR_CUDA);
        assert_eq!(odd.expect_err("device memory off a page"), 3);
        unpacking.close();
    });
}

/// Sizes about every boundary, each in the slot of its turn.
fn every_size(net: Net) {
    let mut unpacking = Unpacking::new(net);
    let sizes =
        [0, 1, 100, 4095, 4096, 4097, 0, 16_384, 16_385, 65_537, 131_073, 524_288, 1_000_003, 2 << 20];
    for turn in 0..5 {
        for size in sizes {
            let message = pattern(turn * 100 + size as u64, size);
            let (receive, which) = unpacking.transfer(&message);
            assert!(unpacking.gather(which) == message, "message {which} of {size} bytes");
            unpacking.consume(receive);
        }
    }
    assert!(unpacking.posted > 64, "the slots were used several times");
    unpacking.close();
}

#[test]
fn the_list_makes_the_message_in_every_size() {
    in_child("the_list_makes_the_message_in_every_size", &[UNPACK], || every_size(start()));
}

#[test]
fn the_list_makes_the_message_when_strict() {
    let strict = ("TCPX_SOFT_STRICT", "1");
    in_child("the_list_makes_the_message_when_strict", &[UNPACK, strict], || {
        let mut unpacking = Unpacking::new(start());
        let net = unpacking.net;
        let from = Memory::patterned(net, unpacking.send, 1, 300_000);
        let mut into = Memory::zeroed(net, unpacking.receive, 300_000);
        let receive = post_receive(net, unpacking.receive, &mut into);
        finish(net, post_send_of(net, unpacking.send, &from, 300_000), "the send");
        assert_eq!(finish(net, receive, "the receive"), -1, "the size is for the list to say");
        assert!(unpacking.gather(0) == from.bytes);
        unpacking.consume(receive);
        unpacking.posted = 1;
        unpacking.close();
    });
}

#[test]
fn a_list_is_in_no_order_when_shuffled() {
    let seed = ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "7");
    in_child("a_list_is_in_no_order_when_shuffled", &[UNPACK, seed], || {
        let net = start();
        let mut unpacking = Unpacking::new(net);
        let message = pattern(1, 400_000);
        let (receive, which) = unpacking.transfer(&message);
        let list = unpacking.list(which);
        assert!(!list.is_sorted_by_key(|entry| entry.dst_off), "by place in the message");
        assert!(!list.is_sorted_by_key(|entry| entry.src_off), "by page");
        let mut by_place = list;
        by_place.sort_by_key(|entry| entry.dst_off);
        assert!(!by_place.is_sorted_by_key(|entry| entry.src_off), "pages are handed out in no order");
        assert!(unpacking.gather(which) == message);
        unpacking.consume(receive);
        unpacking.close();
        every_size(net);
    });
}

#[test]
fn fragments_can_be_short_and_misaligned() {
    for bytes in ["1500", "4095", "2048"] {
        let test = "fragments_can_be_short_and_misaligned";
        let variables =
            [UNPACK, ("TCPX_SOFT_FAULT_FRAGMENT_BYTES", bytes), ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "3")];
        in_child(test, &variables, || {
            let most: u32 = std::env::var("TCPX_SOFT_FAULT_FRAGMENT_BYTES")
                .ok()
                .and_then(|bytes| bytes.parse().ok())
                .expect("set by the parent");
            let net = start();
            let mut unpacking = Unpacking::new(net);
            for size in [3, 5000, 200_000, 1 << 20] {
                let message = pattern(size as u64, size);
                let (receive, which) = unpacking.transfer(&message);
                let list = unpacking.list(which);
                assert!(list.iter().all(|entry| entry.len <= most));
                let page = UNPACK_PAGE as u32;
                assert!(list.iter().all(|e| e.src_off % page + e.len <= page), "inside a page");
                if size > 100_000 {
                    assert!(list.iter().any(|entry| entry.src_off % 16 != 0), "odd places in pages");
                    assert!(list.iter().any(|entry| entry.dst_off % 16 != 0), "odd places in the message");
                    assert!(list.iter().any(|entry| entry.len < most), "lengths differ");
                }
                assert!(unpacking.gather(which) == message);
                unpacking.consume(receive);
            }
            unpacking.close();
        });
        if support::child::is_child(test) {
            return;
        }
    }
}

#[test]
fn consumed_pages_are_poisoned_and_others_are_not() {
    let poison = ("TCPX_SOFT_FAULT_POISON", "1");
    in_child("consumed_pages_are_poisoned_and_others_are_not", &[UNPACK, poison], || {
        let mut unpacking = Unpacking::new(start());
        let (first, second) = (pattern(1, 50_000), pattern(2, 9000));
        let (receive, which) = unpacking.transfer(&first);
        let (next, next_which) = unpacking.transfer(&second);
        let list = unpacking.list(which);
        unpacking.consume(receive);
        for entry in &list {
            assert!(unpacking.bounce(entry).iter().all(|&byte| byte == POISON), "reading too late shows");
        }
        assert!(unpacking.gather(next_which) == second, "the other receive keeps its pages");
        unpacking.consume(next);
        unpacking.close();
    });
}

#[test]
fn without_the_fault_consumed_pages_are_left_alone() {
    in_child("without_the_fault_consumed_pages_are_left_alone", &[UNPACK], || {
        let mut unpacking = Unpacking::new(start());
        let message = pattern(1, 50_000);
        let (receive, which) = unpacking.transfer(&message);
        unpacking.consume(receive);
        assert!(unpacking.gather(which) == message);
        unpacking.close();
    });
}

#[test]
fn pages_in_use_are_never_handed_out_twice() {
    let faults = [("TCPX_SOFT_FAULT_POOL_PAGES", "64"), ("TCPX_SOFT_FAULT_SHUFFLE_SEED", "5")];
    in_child("pages_in_use_are_never_handed_out_twice", &[&[UNPACK], &faults[..]].concat(), || {
        let mut random = Random::seeded();
        let mut unpacking = Unpacking::new(start());
        let mut held: Vec<(Pointer, usize, Vec<u8>)> = Vec::new();
        let mut used = 0;
        for seed in 0..300 {
            let message = pattern(seed, random.below(30_000));
            let pages = message.len().div_ceil(UNPACK_PAGE);
            // A soft message in two chunks may use one page more.
            while !held.is_empty() && (held.len() == 15 || used + pages + 1 > 64) {
                let (receive, which, expected) = held.remove(0);
                assert!(unpacking.gather(which) == expected);
                used -= expected.len().div_ceil(UNPACK_PAGE) + 1;
                unpacking.consume(receive);
            }
            let (receive, which) = unpacking.transfer(&message);
            held.push((receive, which, message));
            used += pages + 1;
        }
        for (receive, which, expected) in held {
            assert!(unpacking.gather(which) == expected);
            unpacking.consume(receive);
        }
        unpacking.close();
    });
}

#[test]
fn a_message_past_the_list_is_an_error() {
    in_child("a_message_past_the_list_is_an_error", &[UNPACK], || {
        let net = start();
        for size in [(4 << 20) + 1, 8 << 20, (8 << 20) + 4096, 9 << 20] {
            let unpacking = Unpacking::new(net);
            let from = Memory::patterned(net, unpacking.send, 1, size);
            let mut into = Memory::zeroed(net, unpacking.receive, size);
            let receive = post_receive(net, unpacking.receive, &mut into);
            let send = post_send_of(net, unpacking.send, &from, size);
            let answer = until("an answer", || {
                // The sender may see the end.
                let _ = net.test(send);
                match net.test(receive) {
                    (0, false, _) => None,
                    answer => Some(answer),
                }
            });
            if size > 8 << 20 {
                assert_eq!((answer.0, answer.1), (6, false), "{size} bytes need more than 2048 entries");
                let named = |line: &String| line.contains("more than 2048 scatter entries");
                assert!(drive::log().iter().any(named));
            } else {
                assert_eq!(answer, (0, true, size as i32), "2048 pages are enough for {size} bytes");
                assert!(unpacking.gather(0) == from.bytes);
            }
            unpacking.close();
        }
        // The process goes on.
        let mut unpacking = Unpacking::new(net);
        let (receive, which) = unpacking.transfer(&pattern(1, 2 << 20));
        assert!(unpacking.gather(which) == pattern(1, 2 << 20));
        unpacking.consume(receive);
        unpacking.close();
    });
}

#[test]
fn small_fragments_run_out_of_entries_first() {
    let fragment = ("TCPX_SOFT_FAULT_FRAGMENT_BYTES", "100");
    in_child("small_fragments_run_out_of_entries_first", &[UNPACK, fragment], || {
        let net = start();
        let unpacking = Unpacking::new(net);
        let from = Memory::patterned(net, unpacking.send, 1, 300_000);
        let mut into = Memory::zeroed(net, unpacking.receive, 300_000);
        let receive = post_receive(net, unpacking.receive, &mut into);
        post_send_of(net, unpacking.send, &from, 300_000);
        let send = net.isend(unpacking.send, from.bytes.as_ptr(), 0, from.handle, 0).1;
        let code = until("an error", || {
            // Moves the sender; the answer is about its second message.
            let _ = net.test(send);
            match net.test(receive) {
                (0, done, _) => {
                    assert!(!done);
                    None
                }
                (code, ..) => Some(code),
            }
        });
        assert_eq!(code, 6);
        unpacking.close();
    });
}

#[test]
fn an_empty_pool_holds_receives_up_until_pages_come_back() {
    let pool = ("TCPX_SOFT_FAULT_POOL_PAGES", "8");
    in_child("an_empty_pool_holds_receives_up_until_pages_come_back", &[UNPACK, pool], || {
        let net = start();
        let unpacking = Unpacking::new(net);
        // Inside the control stream (2 pages), and as a chunk (8 pages).
        for size in [8192, 32_768] {
            let from = Memory::patterned(net, unpacking.send, 4, size);
            let mut into: Vec<_> = (0..6).map(|_| Memory::zeroed(net, unpacking.receive, size)).collect();
            let receives: Vec<_> =
                into.iter_mut().map(|into| post_receive(net, unpacking.receive, into)).collect();
            let sends: Vec<_> = (0..6).map(|_| post_send_of(net, unpacking.send, &from, size)).collect();
            let fit = 8 * UNPACK_PAGE / size;
            let (mut sent, mut done) = (0, 0);
            let mut step = |done: usize| {
                if sent < 6 && net.test(sends[sent]).1 {
                    sent += 1;
                }
                let (code, finished, _) = net.test(receives[done]);
                assert_eq!(code, 0);
                finished
            };
            until("as many receives as pages fit", || {
                done += usize::from(step(done));
                (done == fit).then_some(())
            });
            for _ in 0..2000 {
                assert!(!step(done), "no page is left for the next");
            }
            for (which, receive) in receives.iter().enumerate() {
                if which == done {
                    until("a receive whose pages came back", || step(which).then_some(()));
                    done += 1;
                }
                assert_eq!(net.consumed(unpacking.receive, *receive), 0);
            }
            until("all sends", || {
                if sent < 6 && net.test(sends[sent]).1 {
                    sent += 1;
                }
                (sent == 6).then_some(())
            });
        }
        unpacking.close();
    });
}

#[test]
fn a_longer_message_is_refused_before_a_page_is_taken() {
    in_child("a_longer_message_is_refused_before_a_page_is_taken", &[UNPACK], || {
        let net = start();
        let unpacking = Unpacking::new(net);
        let from = Memory::patterned(net, unpacking.send, 1, 5001);
        let mut into = Memory::zeroed(net, unpacking.receive, 5000);
        let receive = post_receive(net, unpacking.receive, &mut into);
        finish(net, post_send_of(net, unpacking.send, &from, 5001), "the send");
        assert_eq!(error_of(net, receive, "the receive"), 6);
        assert!(unpacking.list(0).is_empty());
        unpacking.close();
    });
}

#[test]
fn requests_show_the_list_in_the_real_plugins_places() {
    in_child("requests_show_the_list_in_the_real_plugins_places", &[UNPACK], || {
        let mut unpacking = Unpacking::new(start());
        let message = pattern(1, 70_000);
        for _ in 0..3 {
            let (receive, which) = unpacking.transfer(&message);
            let at = |offset: usize| receive.cast::<u8>().wrapping_add(offset);
            // SAFETY: callers in the field read these places of a live request: size at 36.
            let size = unsafe { at(36).cast::<u32>().read() };
            // SAFETY: as above: active at 56.
            let active = unsafe { at(56).read() };
            // SAFETY: as above: index at 64.
            let index = unsafe { at(64).cast::<u64>().read() };
            // SAFETY: as above: entries at 72.
            let entries = unsafe { at(72).cast::<*mut c_void>().read() };
            // SAFETY: as above: count at 80.
            let count = unsafe { at(80).cast::<*const u64>().read() };
            // SAFETY: the count lives as long as the comm.
            let count = unsafe { count.read() };
            assert_eq!((size as usize, active, index as usize), (message.len(), 1, which));
            assert_eq!(count as usize, unpacking.list(which).len());
            // SAFETY: the lists live as long as the comm.
            let slot = unsafe { &raw mut (*unpacking.queue.meta).mem[which] };
            assert_eq!(entries, slot.cast());
            unpacking.consume(receive);
        }
        unpacking.close();
    });
}

#[test]
fn a_receive_of_slices_is_refused() {
    in_child("a_receive_of_slices_is_refused", &[UNPACK], || {
        let net = start();
        let unpacking = Unpacking::new(net);
        let mut memory = Memory::zeroed(net, unpacking.receive, 100);
        let address = memory.bytes.as_mut_ptr().cast();
        let slice = tcpx_sys::extension::Slice { address, length: 100, mhandle: memory.handle };
        let extension = tcpx_soft::plugin().extension.expect("the extension");
        let post = extension.irecv_slices.expect("present");
        let mut request = std::ptr::null_mut();
        // SAFETY: a live comm and one slice of registered memory.
        assert_eq!(unsafe { post(unpacking.receive, &slice, 1, &mut request) }, 3);
        unpacking.close();
    });
}
