//! Registered memory. In host mode a registration is a promise: these bytes exist, and requests stay
//! inside them.

use core::ffi::{c_int, c_void};

use tcpx_sys::{PTR_CUDA, PTR_HOST};

use crate::failure::Failure;
use crate::settings::{Mode, Settings};

const MAGIC: u64 = 0x7463_7078_2d6d_7231;
/// Alignment that the real plugin asks of device memory, in bytes.
const DEVICE_ALIGNMENT: usize = 4096;

/// What a memory handle points to.
#[derive(Debug)]
pub(crate) struct Registration {
    magic: u64,
    base: usize,
    length: usize,
    pub(crate) kind: c_int,
}

impl Registration {
    /// Registers `length` bytes at `data` and returns the handle.
    pub(crate) fn register(
        data: *mut c_void,
        length: usize,
        kind: c_int,
        settings: &Settings,
    ) -> Result<*mut c_void, Failure> {
        if data.is_null() || (data as usize).checked_add(length).is_none() {
            return Err(Failure::rule(format!("regMr: {length} bytes at {data:p} are no memory")));
        }
        match kind {
            PTR_HOST => {}
            PTR_CUDA if settings.mode == Mode::Unpack => {
                if !(data as usize).is_multiple_of(DEVICE_ALIGNMENT) {
                    return Err(Failure::rule(format!(
                        "regMr: device memory at {data:p} does not start on a multiple of 4096"
                    )));
                }
            }
            _ => {
                return Err(Failure::rule(format!(
                    "regMr: memory type {kind} is not supported; this plugin takes host memory (1)"
                )));
            }
        }
        let registration = Self { magic: MAGIC, base: data as usize, length, kind };
        Ok(Box::into_raw(Box::new(registration)).cast())
    }

    /// Frees a handle.
    ///
    /// # Safety
    ///
    /// `handle` must be null or come from [`register`](Self::register) and not have been freed.
    pub(crate) unsafe fn deregister(handle: *mut c_void) {
        if !handle.is_null() {
            // SAFETY: the caller says that it is a live `Box` of this type.
            drop(unsafe { Box::from_raw(handle.cast::<Self>()) });
        }
    }

    /// The registration behind `handle`, once `length` bytes at `data` were found to lie inside it.
    ///
    /// # Safety
    ///
    /// `handle` must be null or a live handle.
    pub(crate) unsafe fn check<'a>(
        handle: *mut c_void,
        data: *mut c_void,
        length: usize,
    ) -> Result<&'a Self, Failure> {
        if handle.is_null() {
            return Err(Failure::rule("a request without a memory handle"));
        }
        // SAFETY: not null, and live by the caller's promise.
        let registration = unsafe { &*handle.cast::<Self>() };
        if registration.magic != MAGIC {
            return Err(Failure::rule(format!("{handle:p} is no memory handle of this plugin")));
        }
        let start = (data as usize).checked_sub(registration.base);
        let end = start.and_then(|start| start.checked_add(length));
        if end.is_none_or(|end| end > registration.length) {
            return Err(Failure::rule(format!(
                "{length} bytes at {data:p} lie outside the registered {} bytes at {:#x}",
                registration.length, registration.base
            )));
        }
        Ok(registration)
    }

    /// Bytes from `data`, which lies inside, to the end.
    pub(crate) fn bytes_from(&self, data: *mut c_void) -> usize {
        self.base + self.length - data as usize
    }
}
