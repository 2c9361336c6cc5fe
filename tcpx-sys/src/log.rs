//! The logger that is handed to a plugin.
//!
//! A plugin calls it from any of its threads with a C format string. The C shim asks the gate before it
//! formats anything, then passes the finished text to the sink. Neither may unwind into the plugin: a
//! panic in either is caught and the line is dropped.

use core::ffi::{CStr, c_char, c_int, c_ulong};
use std::panic::catch_unwind;
use std::sync::OnceLock;

use crate::table::Logger;

/// Severity of a line (`ncclDebugLogLevel`). Any value is kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Level(pub c_int);

impl Level {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Version lines.
    pub const VERSION: Self = Self(1);
    /// Warnings.
    pub const WARN: Self = Self(2);
    /// Information.
    pub const INFO: Self = Self(3);
    /// A communicator was aborted.
    pub const ABORT: Self = Self(4);
    /// Every call.
    pub const TRACE: Self = Self(5);
}

/// Subsystem bits of a line (`ncclDebugLogSubSys`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subsystems(pub u64);

impl Subsystems {
    /// Names and bits that `NCCL_DEBUG_SUBSYS` knows.
    pub const NAMES: [(&'static str, u64); 18] = [
        ("INIT", 0x1),
        ("COLL", 0x2),
        ("P2P", 0x4),
        ("SHM", 0x8),
        ("NET", 0x10),
        ("GRAPH", 0x20),
        ("TUNING", 0x40),
        ("ENV", 0x80),
        ("ALLOC", 0x100),
        ("CALL", 0x200),
        ("PROXY", 0x400),
        ("NVLS", 0x800),
        ("BOOTSTRAP", 0x1000),
        ("REG", 0x2000),
        ("PROFILE", 0x4000),
        ("RAS", 0x8000),
        ("DESTROY", 0x10000),
        ("ALLOC_HOST", 0x20000),
    ];
    /// Every subsystem.
    pub const ALL: Self = Self(u64::MAX);
}

/// A formatted line.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Severity.
    pub level: Level,
    /// Subsystems it belongs to.
    pub subsystems: Subsystems,
    /// What the plugin passed as its place: Google's passes a function signature.
    pub function: &'a [u8],
    /// Source line.
    pub line: i32,
    /// Text, without a terminating zero; not always UTF-8, cut at 2047 bytes.
    pub text: &'a [u8],
}

/// Where lines go.
#[derive(Clone, Copy, Debug)]
pub struct Sink {
    /// Whether a line is wanted; asked before formatting, from any thread.
    pub wants: fn(Level, Subsystems) -> bool,
    /// Takes a formatted line, from any thread.
    pub take: fn(Record<'_>),
}

static SINK: OnceLock<Sink> = OnceLock::new();

/// Sets where lines go, once per process. Lines before that are dropped.
///
/// # Errors
///
/// Returns the sink if another one was set before.
pub fn install(sink: Sink) -> Result<(), Sink> {
    SINK.set(sink)?;
    // SAFETY: both functions have the types that the shim declares and live as long as the process.
    unsafe { uccl_tcpx_sys_log_to(wanted, take) };
    Ok(())
}

/// The function to hand to a plugin's `init`: thread-safe and never null.
pub fn logger() -> Logger {
    Some(uccl_tcpx_sys_log)
}

type Wanted = extern "C" fn(c_int, c_ulong) -> c_int;
type Take = extern "C" fn(c_int, c_ulong, *const c_char, c_int, *const u8, usize);

unsafe extern "C" {
    fn uccl_tcpx_sys_log_to(wanted: Wanted, take: Take);
    fn uccl_tcpx_sys_log(
        level: c_int,
        subsystems: c_ulong,
        function: *const c_char,
        line: c_int,
        format: *const c_char,
        ...
    );
}

extern "C" fn wanted(level: c_int, subsystems: c_ulong) -> c_int {
    let Some(sink) = SINK.get() else { return 0 };
    let wants = catch_unwind(|| (sink.wants)(Level(level), Subsystems(subsystems)));
    c_int::from(wants.unwrap_or(false))
}

extern "C" fn take(
    level: c_int,
    subsystems: c_ulong,
    function: *const c_char,
    line: c_int,
    text: *const u8,
    length: usize,
) {
    let Some(sink) = SINK.get() else { return };
    let function = if function.is_null() {
        &[]
    } else {
        // SAFETY: not null, and a plugin passes a zero-terminated literal (`__PRETTY_FUNCTION__`).
        unsafe { CStr::from_ptr(function) }.to_bytes()
    };
    // SAFETY: the only caller is the shim, whose stack buffer holds `length` initialised bytes for the
    // duration of this call.
    let text = unsafe { core::slice::from_raw_parts(text, length) };
    let record = Record { level: Level(level), subsystems: Subsystems(subsystems), function, line, text };
    // A panic must not unwind into the plugin; the line is lost, which is all a logger may lose.
    let _ = catch_unwind(|| (sink.take)(record));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

    fn wants(level: Level, _: Subsystems) -> bool {
        assert!(level != Level::ABORT, "a gate that panics");
        level <= Level::WARN
    }

    fn keep(record: Record<'_>) {
        let text = String::from_utf8_lossy(record.text).into_owned();
        assert!(!text.contains("panic"), "a sink that panics");
        LINES.lock().unwrap().push((record.level, text));
    }

    #[test]
    fn lines_are_formatted_only_when_wanted_and_panics_stay_inside() {
        let log = |level: Level, format: &CStr, value: c_int| {
            // SAFETY: each format takes at most one int.
            unsafe { uccl_tcpx_sys_log(level.0, 0x10, c"here".as_ptr(), 7, format.as_ptr(), value) };
        };
        log(Level::WARN, c"before there is a sink %d", 1);
        install(Sink { wants, take: keep }).unwrap();
        assert!(install(Sink { wants, take: keep }).is_err());
        log(Level::WARN, c"number %d", 42);
        log(Level::INFO, c"not wanted %d", 1);
        log(Level::ABORT, c"the gate panics %d", 1);
        log(Level::WARN, c"the sink has a panic %d", 1);
        log(Level::WARN, c"%02000d and cut here: not seen", 9);
        let long =
            c"%01990d then the end of what fits in a line of two thousand and forty-seven bytes, cut here";
        log(Level::WARN, long, 9);
        // SAFETY: a null format is what a broken plugin might pass.
        unsafe { uccl_tcpx_sys_log(2, 0, std::ptr::null(), 0, std::ptr::null()) };
        let lines = LINES.lock().unwrap();
        assert_eq!(lines[0], (Level::WARN, "number 42".to_owned()));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2].1.len(), 2047, "cut at the shim's buffer");
    }
}
