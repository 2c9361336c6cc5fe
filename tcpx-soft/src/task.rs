//! Work for a lane: a span of user memory that belongs on one data socket, and the queue it waits in.

use core::sync::atomic::Ordering;

use crate::payload::{IO_SLICES, IoSlice, QUANTUM};
use crate::sync::{AtomicU32, UnsafeCell};

/// Tasks one data socket can hold. A model explores every interleaving, so there the ring is tiny, to be
/// full and to wrap around within a few steps.
pub(crate) const TASKS: usize = if cfg!(loom) { 2 } else { 64 };

/// Memory of a task.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span {
    /// One piece.
    Flat { at: *mut u8, length: usize },
    /// `length` bytes of a list of `count` pieces, from byte `skip` of piece `first`.
    List { list: *const IoSlice, count: usize, first: usize, skip: usize, length: usize },
}

impl Span {
    pub(crate) fn length(&self) -> usize {
        match *self {
            Self::Flat { length, .. } | Self::List { length, .. } => length,
        }
    }

    /// At most the first `n` bytes of the span.
    pub(crate) fn first(self, n: usize) -> Self {
        match self {
            Self::Flat { at, length } => Self::Flat { at, length: length.min(n) },
            Self::List { list, count, first, skip, length } => {
                Self::List { list, count, first, skip, length: length.min(n) }
            }
        }
    }

    /// The span without its first `n` bytes; `n` is at most its length.
    ///
    /// # Safety
    ///
    /// The list of a `List` must be alive.
    pub(crate) unsafe fn advance(self, n: usize) -> Self {
        match self {
            Self::Flat { at, length } => Self::Flat { at: at.wrapping_add(n), length: length - n },
            Self::List { list, count, mut first, mut skip, length } => {
                skip += n;
                while first < count {
                    // SAFETY: `first < count`, and the list holds `count` pieces (the caller keeps it alive).
                    let piece = unsafe { list.add(first) };
                    // SAFETY: as above; pieces are plain values written before the task was queued.
                    let piece = unsafe { *piece };
                    if skip < piece.iov_len {
                        break;
                    }
                    skip -= piece.iov_len;
                    first += 1;
                }
                Self::List { list, count, first, skip, length: length - n }
            }
        }
    }

    /// The first piece that is not empty.
    ///
    /// # Safety
    ///
    /// The list of a `List` must be alive.
    pub(crate) unsafe fn front(&self) -> Option<IoSlice> {
        if self.length() == 0 {
            return None;
        }
        match *self {
            Self::Flat { at, length } => Some(IoSlice { iov_base: at.cast(), iov_len: length }),
            Self::List { list, count, mut first, mut skip, length } => {
                while first < count {
                    // SAFETY: `first < count`, the number of pieces of the list.
                    let piece = unsafe { list.add(first) };
                    // SAFETY: as above; the caller keeps the list alive.
                    let piece = unsafe { *piece };
                    if piece.iov_len > skip {
                        let iov_base = piece.iov_base.wrapping_byte_add(skip);
                        return Some(IoSlice { iov_base, iov_len: (piece.iov_len - skip).min(length) });
                    }
                    first += 1;
                    skip = 0;
                }
                None
            }
        }
    }

    /// Writes the pieces of the next system call into `out`.
    ///
    /// # Safety
    ///
    /// The list of a `List` must be alive.
    pub(crate) unsafe fn pieces(&self, out: &mut Vec<IoSlice>) {
        out.clear();
        let Self::List { list, count, first, mut skip, length } = *self else { return };
        let mut rest = length.min(QUANTUM);
        for index in first..count {
            if rest == 0 || out.len() == IO_SLICES {
                break;
            }
            // SAFETY: `index < count`, the number of pieces of the list.
            let piece = unsafe { list.add(index) };
            // SAFETY: as above; the caller keeps the list alive.
            let piece = unsafe { *piece };
            let take = (piece.iov_len - skip).min(rest);
            if take > 0 {
                out.push(IoSlice { iov_base: piece.iov_base.wrapping_byte_add(skip), iov_len: take });
            }
            rest -= take;
            skip = 0;
        }
    }
}

/// One chunk on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// Ring position of the request it belongs to.
    pub(crate) request: usize,
    /// Its memory.
    pub(crate) span: Span,
}

/// A bounded queue with one producer, the thread that tests the comm, and one consumer, the lane.
///
/// The producer writes slot `head % TASKS` and then `head`; the consumer reads slots in
/// `tail..head` and then writes `tail`. Each cursor has one writer. A slot belongs to the consumer
/// while `tail <= i < head` and to the producer otherwise.
#[derive(Debug)]
pub(crate) struct TaskQueue {
    slots: [UnsafeCell<Task>; TASKS],
    head: AtomicU32,
    tail: AtomicU32,
}

// SAFETY: cursors say which side owns a slot (see above); the pointers in a task are only addresses here.
unsafe impl Sync for TaskQueue {}
// SAFETY: as above.
unsafe impl Send for TaskQueue {}

impl TaskQueue {
    pub(crate) fn new() -> Self {
        let empty = Task { request: 0, span: Span::Flat { at: core::ptr::null_mut(), length: 0 } };
        Self {
            slots: core::array::from_fn(|_| UnsafeCell::new(empty)),
            head: AtomicU32::new(0),
            tail: AtomicU32::new(0),
        }
    }

    /// Producer: tasks queued and not finished.
    pub(crate) fn len(&self) -> usize {
        self.head.load(Ordering::Relaxed).wrapping_sub(self.tail.load(Ordering::Acquire)) as usize
    }

    /// Producer: appends; false if the queue is full.
    pub(crate) fn push(&self, task: Task) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        if head.wrapping_sub(self.tail.load(Ordering::Acquire)) as usize == TASKS {
            return false;
        }
        let slot = &self.slots[head as usize % TASKS];
        // SAFETY: the queue is not full, so the slot is the producer's; only one thread produces.
        slot.with_mut(|slot| unsafe { slot.write(task) });
        self.head.store(head.wrapping_add(1), Ordering::Release);
        true
    }

    /// Consumer: the oldest task.
    pub(crate) fn front(&self) -> Option<Task> {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail == self.head.load(Ordering::Acquire) {
            return None;
        }
        let slot = &self.slots[tail as usize % TASKS];
        // SAFETY: `tail < head`, so the slot was written and is the consumer's; only one thread consumes.
        Some(slot.with(|slot| unsafe { slot.read() }))
    }

    /// Consumer: drops the oldest task, which [`front`](Self::front) returned.
    pub(crate) fn pop(&self) {
        let tail = self.tail.load(Ordering::Relaxed);
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use std::sync::Arc;

    /// Slots change hands only through the cursors: loom sees every access to them.
    #[test]
    fn tasks_arrive_once_and_in_order() {
        loom::model(|| {
            let queue = Arc::new(TaskQueue::new());
            let consumer = queue.clone();
            let thread = loom::thread::spawn(move || {
                let mut next = 0;
                while next < 3 {
                    match consumer.front() {
                        Some(task) => {
                            assert_eq!(task.request, next);
                            consumer.pop();
                            next += 1;
                        }
                        None => loom::thread::yield_now(),
                    }
                }
            });
            let mut next = 0;
            while next < 3 {
                let span = Span::Flat { at: core::ptr::null_mut(), length: 1 };
                match queue.push(Task { request: next, span }) {
                    true => next += 1,
                    false => loom::thread::yield_now(),
                }
            }
            thread.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_keeps_order_over_wrap_around() {
        let queue = TaskQueue::new();
        queue.head.store(u32::MAX - 3, Ordering::Relaxed);
        queue.tail.store(u32::MAX - 3, Ordering::Relaxed);
        let task = |request| Task { request, span: Span::Flat { at: core::ptr::null_mut(), length: 1 } };
        assert!((0..TASKS).all(|i| queue.push(task(i))));
        assert!(!queue.push(task(99)));
        for i in 0..TASKS {
            assert_eq!(queue.front().map(|t| t.request), Some(i));
            queue.pop();
        }
        assert!(queue.front().is_none());
    }

    #[test]
    fn a_list_is_walked_across_pieces() {
        let bytes = [0u8; 100];
        let piece = |at: usize, length: usize| IoSlice {
            iov_base: bytes.as_ptr().wrapping_add(at).cast_mut().cast(),
            iov_len: length,
        };
        let list = [piece(0, 10), piece(50, 0), piece(60, 5), piece(20, 30)];
        let span = Span::List { list: list.as_ptr(), count: 4, first: 0, skip: 4, length: 31 };
        let mut out = Vec::new();
        // SAFETY: `list` outlives both calls.
        unsafe { span.pieces(&mut out) };
        let lengths = |out: &[IoSlice]| out.iter().map(|p| p.iov_len).collect::<Vec<_>>();
        assert_eq!(lengths(&out), [6, 5, 20]);
        // SAFETY: as above.
        let rest = unsafe { span.advance(11) };
        // SAFETY: as above.
        unsafe { rest.pieces(&mut out) };
        assert_eq!((lengths(&out), rest.length()), (vec![20], 20));
        assert_eq!(out[0].iov_base.cast_const().cast(), bytes.as_ptr().wrapping_add(20));
    }
}
