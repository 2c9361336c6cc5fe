//! Lines for the logger that the caller gave to `init`.

use core::ffi::{c_int, c_ulong};
use std::ffi::CString;
use std::sync::RwLock;

use tcpx_sys::table::Logger;

const WARN: c_int = 2;
const INFO: c_int = 3;
const SUBSYSTEM_NET: c_ulong = 0x10;

static LOGGER: RwLock<Logger> = RwLock::new(None);

/// Sets the logger; the last `init` wins.
pub(crate) fn set(logger: Logger) {
    *LOGGER.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = logger;
}

/// A line about something that went wrong.
pub(crate) fn warn(text: &str) {
    line(WARN, text);
}

/// A line about something worth knowing.
pub(crate) fn info(text: &str) {
    line(INFO, text);
}

fn line(level: c_int, text: &str) {
    let Some(logger) = *LOGGER.read().unwrap_or_else(|poisoned| poisoned.into_inner()) else { return };
    let Ok(text) = CString::new(text.replace('\0', " ")) else { return };
    // SAFETY: `init` received it as a logger of this type, which must be callable from any thread; the
    // format takes one string, which is passed and lives until the call returns.
    unsafe {
        logger(level, SUBSYSTEM_NET, c"tcpx-soft".as_ptr(), 0, c"%s".as_ptr(), text.as_ptr());
    }
}
