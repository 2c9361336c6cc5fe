//! Bounce pages and scatter lists: received bytes land where they may, and a list says where they belong.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ptr::NonNull;

use tcpx_sys::Code;
use tcpx_sys::device::{
    DEVICE_UNPACK, DeviceHandle, LoadMeta, UNPACK_MAX_ENTRIES, UNPACK_MAX_MESSAGE, UNPACK_PAGE, UNPACK_SLOTS,
    UNPACK_VERSION, UnpackMeta, UnpackQueue,
};

use crate::failure::Failure;
use crate::fault::Faults;
use crate::payload::IoSlice;
use crate::request::Request;

/// Byte that poisons a returned page.
pub(crate) const POISON: u8 = 0xDB;

/// The bounce side of a receive comm.
pub(crate) struct Bounce {
    /// The pages, and room to begin them on a page.
    memory: Box<[UnsafeCell<u8>]>,
    /// The first page.
    base: *mut c_void,
    free: Vec<u32>,
    /// Leaked boxes, freed with this value: the caller holds pointers to them.
    meta: NonNull<UnpackMeta>,
    queue: NonNull<UnpackQueue>,
    random: Random,
    shuffle: bool,
    poison: bool,
    fragment: usize,
}

// SAFETY: what it points to belongs to it alone, or to the comm's one caller at a time.
unsafe impl Send for Bounce {}

impl core::fmt::Debug for Bounce {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Bounce").field("bytes", &self.memory.len()).field("free", &self.free.len()).finish()
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: the box leaked in `new`; the comm is closed, so the caller reads it no more.
        drop(unsafe { Box::from_raw(self.queue.as_ptr()) });
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.meta.as_ptr()) });
    }
}

impl Bounce {
    /// Room for 16 messages of the largest size, or what the fault says.
    pub(crate) fn new(faults: &Faults) -> Self {
        let pages = faults.pool_pages.unwrap_or(UNPACK_SLOTS * UNPACK_MAX_MESSAGE / UNPACK_PAGE);
        // Without an alignment of its own, so that the system maps it untouched instead of having it zeroed.
        let memory = Box::<[UnsafeCell<u8>]>::new_zeroed_slice((pages + 1) * UNPACK_PAGE);
        // SAFETY: all zeros are valid bytes.
        let memory = unsafe { memory.assume_init() };
        // SAFETY: all zeros is a valid list.
        let meta = unsafe { Box::<UnpackMeta>::new_zeroed().assume_init() };
        let meta = NonNull::from(Box::leak(meta));
        let start = memory.as_ptr().cast_mut().cast::<c_void>();
        let base = start.wrapping_byte_add((start as usize).next_multiple_of(UNPACK_PAGE) - start as usize);
        let queue = UnpackQueue { meta: meta.as_ptr(), bounce_buf: base, head: u64::MAX };
        Self {
            memory,
            base,
            free: (0..pages as u32).rev().collect(),
            meta,
            queue: NonNull::from(Box::leak(Box::new(queue))),
            random: Random(faults.shuffle.unwrap_or(0)),
            shuffle: faults.shuffle.is_some(),
            poison: faults.poison,
            fragment: faults.fragment_bytes.unwrap_or(UNPACK_PAGE),
        }
    }

    /// Fills the caller's device handle.
    pub(crate) fn describe(&self, handle: &mut DeviceHandle) {
        handle.device_type = DEVICE_UNPACK;
        handle.device_version = UNPACK_VERSION;
        handle.handle = self.queue.as_ptr().cast();
        handle.size = size_of::<UnpackQueue>();
        handle.needs_proxy_progress = c_int::from(true);
    }

    /// Gives the k-th receive its slot.
    pub(crate) fn open_slot(&mut self, request: &mut Request) {
        let slot = request.sequence as usize % UNPACK_SLOTS;
        self.lists().cnt[slot] = 0;
        request.unpack.active = 1;
        request.unpack.index = u64::from(request.sequence);
        request.unpack.entries = self.lists().mem[slot].as_mut_ptr();
        request.unpack.count = &raw mut self.lists().cnt[slot];
        request.unpack.count_cache = 0;
        request.scattered = true;
        // Tasks point into these lists, so they must never move while the receive runs.
        request.pieces.reserve_exact(UNPACK_MAX_ENTRIES);
        request.pages.reserve_exact(UNPACK_MAX_ENTRIES);
    }

    /// Reserves pages for the next `length` bytes of the message and lists them. `Ok(false)`: not enough
    /// free pages at the moment.
    pub(crate) fn place(&mut self, request: &mut Request, length: u32) -> Result<bool, Failure> {
        let shortest = if self.fragment < UNPACK_PAGE { self.fragment.div_ceil(2) } else { UNPACK_PAGE };
        if self.free.len() < (length as usize).div_ceil(shortest) {
            return Ok(false);
        }
        let slot = request.sequence as usize % UNPACK_SLOTS;
        let mut done = 0;
        while done < length {
            let used = request.unpack.count_cache as usize;
            if used == UNPACK_MAX_ENTRIES {
                return Err(Failure::peer(
                    Code::REMOTE_ERROR,
                    format!(
                        "a message of {} bytes needs more than {UNPACK_MAX_ENTRIES} scatter entries; send at most \
                     {UNPACK_MAX_MESSAGE} bytes in fragments of a page",
                        request.size
                    ),
                ));
            }
            let fragment = self.fragment_length().min((length - done) as usize);
            let Some(page) = self.take_page() else { return Ok(false) };
            let inside =
                if self.fragment < UNPACK_PAGE { self.random.below(UNPACK_PAGE - fragment + 1) } else { 0 };
            let entry = LoadMeta {
                src_off: page * UNPACK_PAGE as u32 + inside as u32,
                len: fragment as u32,
                dst_off: u64::from(request.offset + done),
            };
            self.lists().mem[slot][used] = entry;
            request.unpack.count_cache += 1;
            request.pages.push(page);
            let at = self.page(page).wrapping_byte_add(inside);
            request.pieces.push(IoSlice { iov_base: at, iov_len: fragment });
            done += fragment as u32;
        }
        Ok(true)
    }

    /// Publishes the list of a finished receive.
    pub(crate) fn publish(&mut self, request: &Request) {
        let slot = request.sequence as usize % UNPACK_SLOTS;
        let count = request.unpack.count_cache as usize;
        if self.shuffle {
            for i in (1..count).rev() {
                let j = self.random.below(i + 1);
                self.lists().mem[slot].swap(i, j);
            }
        }
        // The entries are there before the count says so.
        core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
        self.lists().cnt[slot] = count as u64;
    }

    /// The lists, which the caller reads through its own pointer between calls.
    fn lists(&mut self) -> &mut UnpackMeta {
        // SAFETY: leaked in `new` and freed with this value; borrowed mutably, so this is the only access from
        // here, and the caller reads only between calls on the comm.
        unsafe { self.meta.as_mut() }
    }

    /// Takes the pages of a consumed receive back.
    pub(crate) fn recycle(&mut self, request: &mut Request) {
        request.unpack.active = 0;
        for page in request.pages.drain(..) {
            if self.poison {
                let at = self.page(page).cast::<u8>();
                // SAFETY: the page belongs to the pool again: no lane has a task on it, since its receive
                // is done, and the caller gave up reading it by consuming.
                unsafe { at.write_bytes(POISON, UNPACK_PAGE) };
            }
            self.free.push(page);
        }
    }

    fn page(&self, page: u32) -> *mut c_void {
        self.base.wrapping_byte_add(page as usize * UNPACK_PAGE)
    }

    fn fragment_length(&mut self) -> usize {
        match self.fragment {
            UNPACK_PAGE => UNPACK_PAGE,
            // At least half of it, so that the number of entries is bounded.
            most => most - self.random.below(most / 2 + 1),
        }
    }

    fn take_page(&mut self) -> Option<u32> {
        let last = self.free.len().checked_sub(1)?;
        if self.shuffle {
            let pick = self.random.below(last + 1);
            self.free.swap(pick, last);
        }
        self.free.pop()
    }
}

/// SplitMix64: a few seeded choices for faults.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}
