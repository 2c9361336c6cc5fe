//! How the bytes of a receive get to where they belong.

use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use tcpx_sys::device::{DEVICE_UNPACK, DeviceHandle, LoadMeta, UNPACK_SLOTS, UnpackMeta, UnpackQueue};

use super::requests::Requests;
use crate::unpack::{self, ScatterError};

/// A place for bytes of a message, in the order of the message.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First byte.
    pub address: NonNull<u8>,
    /// Length in bytes.
    pub length: usize,
}

/// A message to be put in place. All entries were checked: they lie inside the pieces, and inside the
/// bounce buffer where its length is known.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Entries: `len` bytes at `src_off` of the bounce buffer belong at `dst_off` of the message.
    pub entries: &'a [LoadMeta],
    /// Start of the bounce buffer.
    pub bounce: NonNull<u8>,
    /// Where the message belongs.
    pub pieces: &'a [Piece],
}

/// Names a job that was started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket(pub u64);

/// Putting a message in place failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unpacking failed: {0}")]
pub struct UnpackError(pub String);

/// Who copies received pages to where they belong: the processor ([`CpuUnpack`]) or a GPU.
///
/// # Safety
///
/// `queue` returns what the handle points to, read with the means that fit the memory it lies in. From
/// the moment `finished` answers true for a ticket, or the executor is dropped, nothing of that job reads
/// the bounce buffer or writes the pieces any more. Entries and pieces are used by `start` alone.
pub unsafe trait Unpack: Send {
    /// Reads the queue that a comm's device handle names.
    ///
    /// # Errors
    ///
    /// [`UnpackError`], if it cannot be read.
    fn queue(&mut self, handle: &DeviceHandle) -> Result<UnpackQueue, UnpackError>;

    /// Length of the bounce buffer in bytes, if it is known.
    fn bounce_length(&self) -> Option<u64> {
        None
    }

    /// Starts a job; the ones of one executor finish in any order.
    ///
    /// # Errors
    ///
    /// [`UnpackError`]; the comm is lost then.
    fn start(&mut self, job: &Job<'_>) -> Result<Ticket, UnpackError>;

    /// Whether the job has finished and its bytes are visible.
    ///
    /// # Errors
    ///
    /// [`UnpackError`]; the comm is lost then.
    fn finished(&mut self, ticket: Ticket) -> Result<bool, UnpackError>;
}

/// Copies on the calling thread, for bounce buffers in host memory. A job is finished when it was
/// started.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuUnpack {
    _private: (),
}

impl CpuUnpack {
    /// The executor.
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

// SAFETY: used only where queue and bounce buffer lie in host memory (`Delivery::open` sees to it);
// `start` has copied everything when it returns.
unsafe impl Unpack for CpuUnpack {
    fn queue(&mut self, handle: &DeviceHandle) -> Result<UnpackQueue, UnpackError> {
        let queue: *const UnpackQueue = handle.handle.cast_const().cast();
        if queue.is_null() || !queue.is_aligned() || handle.size < size_of::<UnpackQueue>() {
            return Err(UnpackError("the plugin gave no scatter queue".to_owned()));
        }
        // SAFETY: not null, aligned and large enough (checked); the plugin keeps it until the comm closes.
        Ok(unsafe { *queue })
    }

    fn start(&mut self, job: &Job<'_>) -> Result<Ticket, UnpackError> {
        for entry in job.entries {
            copy_entry(job, entry);
        }
        Ok(Ticket(0))
    }

    fn finished(&mut self, _: Ticket) -> Result<bool, UnpackError> {
        Ok(true)
    }
}

/// Copies one entry, which may cross the border of two pieces.
fn copy_entry(job: &Job<'_>, entry: &LoadMeta) {
    let (mut from, mut left) = (entry.src_off as usize, entry.len as usize);
    let mut skip = entry.dst_off as usize;
    for piece in job.pieces {
        if left == 0 {
            return;
        }
        if skip >= piece.length {
            skip -= piece.length;
            continue;
        }
        let step = left.min(piece.length - skip);
        // SAFETY: the bounce buffer holds `src_off + len` bytes (checked, or the plugin's promise).
        let source = unsafe { job.bounce.add(from) };
        // SAFETY: `skip` lies inside the piece.
        let target = unsafe { piece.address.add(skip) };
        // SAFETY: `step` bytes lie inside both; the bounce buffer is the plugin's own memory, so that it
        // overlaps no registered piece.
        unsafe { source.copy_to_nonoverlapping(target, step) };
        (from, left, skip) = (from + step, left - step, 0);
    }
}

/// A device handle and the pointer to it, as `accept` wants them: zeroed, and alive as long as the comm.
pub(crate) struct DeviceHandlePlace {
    handle: NonNull<DeviceHandle>,
    pointer: NonNull<*mut DeviceHandle>,
}

// SAFETY: it owns two allocations that belong to no thread.
unsafe impl Send for DeviceHandlePlace {}

impl DeviceHandlePlace {
    pub(super) fn new() -> Self {
        let handle = NonNull::from(Box::leak(Box::new(DeviceHandle::zeroed())));
        Self { handle, pointer: NonNull::from(Box::leak(Box::new(handle.as_ptr()))) }
    }

    /// What to pass to `accept`.
    pub(super) const fn as_ptr(&self) -> *mut *mut DeviceHandle {
        self.pointer.as_ptr()
    }

    pub(crate) fn read(&self) -> DeviceHandle {
        // SAFETY: allocated in `new` and freed only in `drop`; the plugin writes it inside `accept` alone.
        unsafe { self.handle.read() }
    }

    /// Leaves the allocations to a plugin that may still write them.
    pub(super) const fn leak(self) {
        core::mem::forget(self);
    }
}

impl Drop for DeviceHandlePlace {
    fn drop(&mut self) {
        // SAFETY: from `Box::leak` in `new`, and freed only here.
        drop(unsafe { Box::from_raw(self.pointer.as_ptr()) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.handle.as_ptr()) });
    }
}

/// What a finished receive brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Delivered {
    /// Length of the message, if there is a way to know it.
    pub(crate) length: Option<usize>,
    /// The job that puts it in place, if there is anything to do.
    pub(crate) ticket: Option<Ticket>,
}

/// Why a finished receive has no usable bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum DeliveryError {
    /// This message alone is unusable; its scatter list was not followed.
    Scatter(ScatterError),
    /// The executor failed.
    Unpack(UnpackError),
}

/// How one receive comm delivers.
pub(crate) struct Delivery {
    /// Whether pages come scattered.
    scatters: bool,
    /// Whether pages come scattered and only the processor puts them in place.
    host_only: bool,
    /// Scatter lists and bounce buffer; `None` where the plugin writes straight into the buffer.
    lists: Option<Lists>,
    executor: Box<dyn Unpack>,
    pieces: Vec<Piece>,
}

struct Lists {
    meta: NonNull<UnpackMeta>,
    bounce: NonNull<u8>,
}

// SAFETY: the lists lie in memory of the plugin that belongs to no thread; pieces are only addresses,
// used while their request holds them.
unsafe impl Send for Delivery {}

impl Delivery {
    /// Finds out how the comm with this device handle delivers.
    ///
    /// Without an executor of the caller's, lists in host memory are read by the processor, and others are
    /// left alone: such a comm can receive into host memory only, which the plugin writes itself.
    pub(crate) fn open(
        handle: &DeviceHandle,
        host_lists: bool,
        executor: Option<Box<dyn Unpack>>,
    ) -> Result<Self, UnpackError> {
        let scatters = handle.device_type == DEVICE_UNPACK;
        let host_only = executor.is_none();
        let readable = !host_only || host_lists;
        let mut executor = executor.unwrap_or_else(|| Box::new(CpuUnpack::new()));
        let mut lists = None;
        if scatters && readable {
            let queue = executor.queue(handle)?;
            let (meta, bounce) = (NonNull::new(queue.meta), NonNull::new(queue.bounce_buf.cast()));
            let (Some(meta), Some(bounce)) = (meta.filter(|meta| meta.is_aligned()), bounce) else {
                return Err(UnpackError("the plugin's scatter queue is empty".to_owned()));
            };
            lists = Some(Lists { meta, bounce });
        }
        let host_only = scatters && host_only;
        Ok(Self { scatters, host_only, lists, executor, pieces: Vec::new() })
    }

    /// Whether pages come scattered. Such a comm takes one slice for each receive.
    pub(crate) const fn scatters(&self) -> bool {
        self.scatters
    }

    /// Whether pages come scattered and only the processor puts them in place.
    pub(crate) const fn host_only(&self) -> bool {
        self.host_only
    }

    /// Starts to put the receive in place that was reported done last: number `sequence` of its comm,
    /// posted with `posted` bytes, and `reported` bytes long if the plugin said so.
    pub(crate) fn start<T>(
        &mut self,
        requests: &mut Requests<T>,
        sequence: u64,
        posted: usize,
        reported: Option<usize>,
    ) -> Result<Delivered, DeliveryError> {
        let Some(lists) = &self.lists else { return Ok(Delivered { length: reported, ticket: None }) };
        let slot = (sequence % UNPACK_SLOTS as u64) as usize;
        let entries = lists.entries(slot).map_err(DeliveryError::Scatter)?;
        if entries.is_empty() {
            // An empty message; or one into host memory that a plugin for CUDA memory wrote itself.
            let empty = (self.host_only || requests.newest_is_in_cuda_memory()).then_some(0);
            return Ok(Delivered { length: reported.or(empty), ticket: None });
        }
        let length = unpack::check(entries, posted, self.executor.bounce_length(), reported)
            .map_err(DeliveryError::Scatter)?;
        requests.pieces(&mut self.pieces);
        let job = Job { entries, bounce: lists.bounce, pieces: &self.pieces };
        let ticket = self.executor.start(&job).map_err(DeliveryError::Unpack)?;
        Ok(Delivered { length: Some(length), ticket: Some(ticket) })
    }

    pub(crate) fn finished(&mut self, ticket: Ticket) -> Result<bool, UnpackError> {
        self.executor.finished(ticket)
    }
}

impl Lists {
    /// The list of a receive that was reported done and is not consumed.
    fn entries(&self, slot: usize) -> Result<&[LoadMeta], ScatterError> {
        let meta = self.meta.as_ptr();
        // SAFETY: the plugin keeps the lists until the comm closes; `slot` is below 16 (the caller's
        // remainder).
        let count = unsafe { &raw const (*meta).cnt[slot] };
        // SAFETY: as above. Volatile, because the plugin's threads write it.
        let count = unsafe { count.read_volatile() };
        // The plugin stores the entries before the count.
        fence(Ordering::Acquire);
        let count = unpack::entry_count(count)?;
        // SAFETY: as above.
        let list = unsafe { &raw const (*meta).mem[slot] };
        // SAFETY: `count` is at most the length of the list (checked); the plugin changes a slot only after
        // its receive was consumed, and the borrow ends before that.
        Ok(unsafe { core::slice::from_raw_parts(list.cast(), count) })
    }
}
