//! Copies against plain vectors, and who frees what when.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use p2p_memory::{ForeignSpan, HostBuffer, HostView, Memory, MemoryKind, OutOfBounds, Shared, SharedHost};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    In { offset: usize, bytes: Vec<u8> },
    Out { offset: usize, length: usize },
    Fill { offset: usize, length: usize, value: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![0..80_usize, Just(usize::MAX), Just(usize::MAX - 3)];
    let length = prop_oneof![0..80_usize, Just(usize::MAX)];
    prop_oneof![
        (offset.clone(), proptest::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(offset, bytes)| Step::In { offset, bytes }),
        (offset.clone(), 0..80_usize).prop_map(|(offset, length)| Step::Out { offset, length }),
        (offset, length, any::<u8>()).prop_map(|(offset, length, value)| Step::Fill {
            offset,
            length,
            value
        }),
    ]
}

proptest! {
    #[test]
    fn checked_copies_do_what_a_vector_does(
        size in 1..70_usize,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let shared = SharedHost::new(size).unwrap();
        let mut owned = HostBuffer::with_alignment(size, 8).unwrap();
        let mut oracle = vec![0_u8; size];
        for step in steps {
            match step {
                Step::In { offset, bytes } => {
                    let range = offset.checked_add(bytes.len()).filter(|&end| end <= size);
                    prop_assert_eq!(shared.copy_in(offset, &bytes).is_ok(), range.is_some());
                    prop_assert_eq!(owned.copy_in(offset, &bytes).is_ok(), range.is_some());
                    if let Some(end) = range {
                        oracle[offset..end].copy_from_slice(&bytes);
                    }
                }
                Step::Out { offset, length } => {
                    let range = offset.checked_add(length).filter(|&end| end <= size);
                    for copy in [
                        &|target: &mut [u8]| shared.copy_out(offset, target),
                        &|target: &mut [u8]| owned.copy_out(offset, target),
                    ] as [&dyn Fn(&mut [u8]) -> Result<(), OutOfBounds>; 2] {
                        let mut target = vec![0xee; length];
                        prop_assert_eq!(copy(&mut target).is_ok(), range.is_some());
                        match range {
                            Some(end) => prop_assert_eq!(&target, &oracle[offset..end]),
                            None => prop_assert!(target.iter().all(|&byte| byte == 0xee)),
                        }
                    }
                }
                Step::Fill { offset, length, value } => {
                    let range = offset.checked_add(length).filter(|&end| end <= size);
                    prop_assert_eq!(shared.fill(offset, length, value).is_ok(), range.is_some());
                    prop_assert_eq!(owned.fill(offset, length, value).is_ok(), range.is_some());
                    if let Some(end) = range {
                        oracle[offset..end].fill(value);
                    }
                }
            }
            let mut whole = vec![0; size];
            shared.copy_out(0, &mut whole).unwrap();
            prop_assert_eq!(&whole, &oracle);
            prop_assert_eq!(owned.bytes(), &oracle[..]);
        }
    }
}

#[test]
fn a_fill_longer_than_a_block_reaches_both_ends_and_no_further() {
    let shared = SharedHost::new(20_000).unwrap();
    shared.fill(3, 19_990, 0xa5).unwrap();
    let mut bytes = vec![0; 20_000];
    shared.copy_out(0, &mut bytes).unwrap();
    assert_eq!(&bytes[..3], [0; 3]);
    assert!(bytes[3..19_993].iter().all(|&byte| byte == 0xa5));
    assert_eq!(&bytes[19_993..], [0; 7]);
}

#[test]
fn two_threads_writing_neighbouring_bytes_lose_none() {
    let shared = SharedHost::new(64).unwrap();
    std::thread::scope(|scope| {
        for start in 0..2 {
            let shared = shared.clone();
            scope.spawn(move || {
                for round in 0..200_u8 {
                    for offset in (start..64).step_by(2) {
                        shared.copy_in(offset, &[round]).unwrap();
                    }
                }
            });
        }
    });
    let mut bytes = [0; 64];
    shared.copy_out(0, &mut bytes).unwrap();
    assert_eq!(bytes, [199; 64]);
}

#[test]
fn a_shared_buffer_comes_back_whole_from_its_last_owner_only() {
    let first = SharedHost::new(8).unwrap();
    let second: Box<dyn Memory> = Box::new(first.clone());
    assert_eq!(first.owners(), 2);
    assert_eq!(first.span(), second.span());
    let first = first.try_into_buffer().unwrap_err();
    drop(second);
    first.copy_in(0, &[7; 8]).unwrap();
    assert_eq!(first.try_into_buffer().unwrap().bytes(), [7; 8]);
}

/// Counts its drops.
#[derive(Debug)]
struct Probe(Arc<AtomicUsize>, #[allow(dead_code, reason = "keeps the bytes alive")] Box<[u8]>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn probe(drops: &Arc<AtomicUsize>) -> ForeignSpan<Probe> {
    let mut bytes = vec![0_u8; 32].into_boxed_slice();
    let base = NonNull::from(&mut *bytes).cast();
    let kind = MemoryKind::Cuda { ordinal: 1, dmabuf: None };
    // SAFETY: the boxed bytes live in the owner and stay where they are when it moves; nobody uses them.
    unsafe { ForeignSpan::new(Probe(drops.clone(), bytes), base, 32, kind) }
}

#[test]
fn a_foreign_owner_is_dropped_once_and_with_its_span() {
    let drops = Arc::new(AtomicUsize::new(0));
    let memory: Box<dyn Memory> = Box::new(probe(&drops));
    assert_eq!(memory.span().1, 32);
    assert_eq!(memory.kind(), MemoryKind::Cuda { ordinal: 1, dmabuf: None });
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    drop(memory);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn a_foreign_owner_can_be_taken_back_alive() {
    let drops = Arc::new(AtomicUsize::new(0));
    let memory: Box<dyn Memory> = Box::new(probe(&drops));
    let span = memory.into_any().downcast::<ForeignSpan<Probe>>().unwrap();
    assert!(Arc::ptr_eq(&span.owner().0, &drops));
    let owner = span.into_owner();
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    drop(owner);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

proptest! {
    /// Oracle: two vectors. Parts make bases that are no whole words.
    #[test]
    fn a_view_copies_any_range_and_nothing_else(
        from in (0_usize..40, 0_usize..1500),
        to in (0_usize..40, 0_usize..1500),
        length in 0_usize..2200,
        written in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let (source, target) = (SharedHost::new(2048).unwrap(), SharedHost::new(2048).unwrap());
        let bytes: Vec<u8> = (0..2048_u32).map(|n| (n * 7 % 251) as u8).collect();
        source.copy_in(0, &bytes).unwrap();
        let part = |memory: &SharedHost, start| {
            Shared::new(Box::new(memory.clone())).part(start, 2048 - start).unwrap()
        };
        let (from_part, to_part) = (part(&source, from.0), part(&target, to.0));
        let (a, b) = (HostView::of(&from_part).unwrap(), HostView::of(&to_part).unwrap());
        let mut expected = vec![0; 2048];
        let fits = from.0 + from.1 + length <= 2048 && to.0 + to.1 + length <= 2048;
        prop_assert_eq!(a.copy_to(from.1, &b, to.1, length).is_ok(), fits);
        if fits {
            let start = from.0 + from.1;
            expected[to.0 + to.1..][..length].copy_from_slice(&bytes[start..][..length]);
        }
        if to.0 + to.1 + written.len() <= 2048 {
            b.copy_in(to.1, &written).unwrap();
            expected[to.0 + to.1..][..written.len()].copy_from_slice(&written);
            let mut back = vec![0; written.len()];
            b.copy_out(to.1, &mut back).unwrap();
            prop_assert_eq!(back, written);
        }
        let mut found = vec![0; 2048];
        target.copy_out(0, &mut found).unwrap();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn only_host_memory_has_a_view() {
    let drops = Arc::new(AtomicUsize::new(0));
    assert!(HostView::of(&probe(&drops)).is_none());
}

#[test]
fn a_memory_in_parts_comes_back_when_the_last_part_is_gone() {
    let drops = Arc::new(AtomicUsize::new(0));
    let shared = Shared::new(Box::new(probe(&drops)));
    let (base, kind) = (shared.part(0, 32).unwrap().span().0, shared.kind());
    let part: Box<dyn Memory> = Box::new(shared.part(8, 20).unwrap());
    assert_eq!((part.span().0.addr().get() - base.addr().get(), part.span().1), (8, 20));
    assert_eq!(part.kind(), kind);
    assert!(shared.part(8, 25).is_err() && shared.part(33, 0).is_err());
    let shared = shared.try_into_inner().err().unwrap();
    drop(part);
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    let whole = shared.try_into_inner().unwrap();
    assert_eq!(whole.span(), (base, 32));
    drop(whole);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}
