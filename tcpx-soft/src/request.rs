//! The 16 requests of a comm.
//!
//! The first 128 bytes of a request have the layout of the real plugin's private one, because callers in
//! the field read the scatter list through it. Nothing here depends on what is written there.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::NonNull;

use tcpx_sys::device::LoadMeta;

use crate::comm::Comm;
use crate::lane::REQUESTS;
use crate::payload::IoSlice;
use crate::task::Span;

/// The real plugin's view of a receive's scatter list.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct UnpackView {
    pub(crate) active: u8,
    pub(crate) index: u64,
    pub(crate) entries: *mut LoadMeta,
    pub(crate) count: *mut u64,
    pub(crate) count_cache: u64,
    reserved: [u64; 4],
}

/// One request.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) comm: *mut Comm,
    pub(crate) data: *mut c_void,
    /// 0 send, 1 receive.
    pub(crate) operation: i32,
    pub(crate) memory_type: i32,
    next_socket: i32,
    next_size: i32,
    pub(crate) offset: u32,
    pub(crate) size: u32,
    pub(crate) size_pending: u32,
    gpu_fd: i32,
    gpu_offset: u64,
    pub(crate) unpack: UnpackView,

    /// Which post of the comm it is, counting from 0 and wrapping.
    pub(crate) sequence: u32,
    /// Bytes posted.
    pub(crate) posted: u32,
    /// Bytes that may be written from `data` on.
    pub(crate) room: usize,
    /// Position in the control stream up to which it must be written for a send to be done.
    pub(crate) control_end: u64,
    /// Pieces of a message of several slices, or the bounce pages of a receive.
    pub(crate) pieces: Vec<IoSlice>,
    /// Whether `pieces` holds the message.
    pub(crate) scattered: bool,
    /// Where in `pieces` the next chunk begins.
    cursor: (usize, usize),
    /// Bounce pages held until the receive is consumed.
    pub(crate) pages: Vec<u32>,
}

const _: () = {
    assert!(offset_of!(Request, data) == 8 && offset_of!(Request, operation) == 16);
    assert!(offset_of!(Request, memory_type) == 20 && offset_of!(Request, offset) == 32);
    assert!(offset_of!(Request, size) == 36 && offset_of!(Request, size_pending) == 40);
    assert!(offset_of!(Request, gpu_fd) == 44 && offset_of!(Request, gpu_offset) == 48);
    assert!(offset_of!(Request, unpack) == 56);
    assert!(offset_of!(Request, unpack.index) == 64 && offset_of!(Request, unpack.entries) == 72);
    assert!(offset_of!(Request, unpack.count) == 80 && offset_of!(Request, unpack.count_cache) == 88);
    assert!(offset_of!(Request, sequence) == 128);
};

impl Request {
    fn new(operation: i32) -> Self {
        Self {
            comm: core::ptr::null_mut(),
            data: core::ptr::null_mut(),
            operation,
            memory_type: 0,
            next_socket: 0,
            next_size: 0,
            offset: 0,
            size: 0,
            size_pending: 0,
            gpu_fd: -1,
            gpu_offset: 0,
            unpack: UnpackView {
                active: 0,
                index: 0,
                entries: core::ptr::null_mut(),
                count: core::ptr::null_mut(),
                count_cache: 0,
                reserved: [0; 4],
            },
            sequence: 0,
            posted: 0,
            room: 0,
            control_end: 0,
            pieces: Vec::new(),
            scattered: false,
            cursor: (0, 0),
            pages: Vec::new(),
        }
    }

    /// Begins a new life for one flat buffer.
    pub(crate) fn begin(&mut self, data: *mut c_void, posted: u32, memory_type: i32) {
        self.data = data;
        self.posted = posted;
        self.size = posted;
        self.size_pending = posted;
        self.offset = 0;
        self.memory_type = memory_type;
        self.pieces.clear();
        self.scattered = false;
        self.cursor = (0, 0);
    }

    /// The memory of the next `length` bytes of the message.
    pub(crate) fn take_span(&mut self, length: usize) -> Span {
        let span = if self.scattered {
            let (first, skip) = self.cursor;
            let count = self.pieces.len();
            Span::List { list: self.pieces.as_ptr(), count, first, skip, length }
        } else {
            Span::Flat { at: self.data.cast::<u8>().wrapping_add(self.offset as usize), length }
        };
        self.offset += length as u32;
        // SAFETY: the list is `self.pieces`, which is alive.
        if let Span::List { first, skip, .. } = unsafe { span.advance(length) } {
            self.cursor = (first, skip);
        }
        span
    }
}

/// The ring, in posting order.
///
/// ```text
/// freed <= done <= moving <= active <= posted <= freed + 16
/// ```
///
/// `[active, posted)` is POSTED, `[moving, active)` ACTIVE, `[done, moving)` TRANSMITTING and
/// `[freed, done)` INACTIVE, in the real plugin's words.
#[derive(Debug)]
pub(crate) struct Ring {
    /// A leaked boxed slice, freed with the ring: callers hold pointers into it, so it is reached through this
    /// pointer alone.
    requests: NonNull<[Request]>,
    pub(crate) posted: u32,
    pub(crate) active: u32,
    pub(crate) moving: u32,
    pub(crate) done: u32,
    pub(crate) freed: u32,
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it is the boxed slice leaked in `new`; the comm is closed, so no caller uses a request.
        drop(unsafe { Box::from_raw(self.requests.as_ptr()) });
    }
}

impl Ring {
    pub(crate) fn new(operation: i32) -> Self {
        let requests: Box<[Request]> = (0..REQUESTS).map(|_| Request::new(operation)).collect();
        let requests = NonNull::from(Box::leak(requests));
        Self { requests, posted: 0, active: 0, moving: 0, done: 0, freed: 0 }
    }

    /// Position of a sequence number.
    pub(crate) fn position(sequence: u32) -> usize {
        sequence as usize % REQUESTS
    }

    /// The caller's pointer to a request.
    pub(crate) fn pointer(&self, sequence: u32) -> *mut Request {
        self.requests.cast::<Request>().as_ptr().wrapping_add(Self::position(sequence))
    }

    pub(crate) fn at(&mut self, sequence: u32) -> &mut Request {
        // SAFETY: the position is below `REQUESTS`, the length of the slice, which lives as long as the ring;
        // the ring is borrowed mutably, and callers only read a request between calls on its comm.
        unsafe { &mut *self.pointer(sequence) }
    }

    /// Makes every request lead back to its comm.
    pub(crate) fn lead_to(&mut self, comm: *mut Comm) {
        for sequence in 0..REQUESTS as u32 {
            self.at(sequence).comm = comm;
        }
    }

    /// Requests posted and not freed.
    pub(crate) fn outstanding(&self) -> u32 {
        self.posted.wrapping_sub(self.freed)
    }

    /// Whether `sequence` lies in `[from, to)`.
    pub(crate) fn within(sequence: u32, from: u32, to: u32) -> bool {
        sequence.wrapping_sub(from) < to.wrapping_sub(from)
    }
}
