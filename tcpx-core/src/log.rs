//! Lines of a plugin as `tracing` events, and into `NCCL_DEBUG_FILE`.
//!
//! A line passes if its level and subsystem are wanted and its level's allowance for this second is not
//! used up. Both are asked before the line is formatted: some plugins warn hundreds of thousands of times
//! about one thing. How many were dropped is said with the next line that passes.
//!
//! Without `NCCL_DEBUG` warnings pass; with `UCCL_TCPX_DEBUG=1` information too, from every subsystem.
//! Warnings pass whatever the subsystem.
//!
//! During `init` the last warning of the calling thread is also kept, whatever passes, for the error that
//! follows if the plugin does not start.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tcpx_sys::log::{self, Level, Record, Sink, Subsystems};

use crate::config::Config;

/// Target of the events.
pub const TARGET: &str = "net_plugin";

/// Lines of one level that may pass in one second.
const ALLOWANCE: u32 = 500;

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Sends lines of plugins to `tracing` from here on. The first configuration of the process wins, because
/// the plugin's own reading of these variables is made once, too.
pub(crate) fn install(config: &Config) {
    if FILTER.set(Filter::new(config)).is_ok() && log::install(Sink { wants, take }).is_err() {
        tracing::debug!("another logger takes the plugin's lines");
    }
}

/// What [`keeping_warning`] keeps of this thread's lines.
#[derive(Default)]
struct Keeping {
    /// Whether the log wants the line that is being formatted, too.
    passes: bool,
    last: Option<String>,
}

thread_local! {
    /// `Some` while [`keeping_warning`] runs on this thread.
    static KEEPING: RefCell<Option<Keeping>> = const { RefCell::new(None) };
}

/// Runs `call`, and returns the last warning that a plugin logged on this thread meanwhile, also one that
/// the log does not want.
pub(crate) fn keeping_warning<T>(call: impl FnOnce() -> T) -> (T, Option<String>) {
    KEEPING.set(Some(Keeping::default()));
    let answer = call();
    (answer, KEEPING.take().and_then(|keeping| keeping.last))
}

fn wants(level: Level, subsystems: Subsystems) -> bool {
    let passes = FILTER.get().is_some_and(|filter| {
        filter.wants(level, subsystems) && filter.limits[limit_of(level)].admits(filter.seconds())
    });
    let kept = level == Level::WARN && of_keeping(|keeping| keeping.passes = passes).is_some();
    passes || kept
}

/// Keeps a warning where [`keeping_warning`] runs; whether the log wants the line, too.
fn keep(level: Level, text: &str) -> bool {
    let keep = |keeping: &mut Keeping| {
        keeping.last = Some(text.to_owned());
        keeping.passes
    };
    level != Level::WARN || of_keeping(keep).unwrap_or(true)
}

/// `None` where [`keeping_warning`] does not run, as in a thread that is ending.
fn of_keeping<T>(act: impl FnOnce(&mut Keeping) -> T) -> Option<T> {
    KEEPING.try_with(|keeping| keeping.try_borrow_mut().ok()?.as_mut().map(act)).ok().flatten()
}

fn take(record: Record<'_>) {
    let Some(filter) = FILTER.get() else { return };
    let text = String::from_utf8_lossy(record.text);
    let text = text.trim_end();
    if !keep(record.level, text) {
        return;
    }
    let dropped = filter.limits[limit_of(record.level)].take_dropped();
    let function = String::from_utf8_lossy(record.function);
    emit(record.level, text, &function, record.line, dropped);
    if let Some(file) = &filter.file {
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let name = level_name(record.level);
        // A log that cannot be written has nobody to tell.
        if dropped > 0 {
            let _ = writeln!(file, "{name} ({dropped} lines of this level were dropped before this one)");
        }
        let _ = writeln!(file, "{name} {function}:{} {text}", record.line);
    }
}

fn emit(level: Level, text: &str, function: &str, line: i32, dropped: u64) {
    match level {
        Level::ABORT => tracing::error!(target: TARGET, function, line, dropped, "{text}"),
        Level::WARN => tracing::warn!(target: TARGET, function, line, dropped, "{text}"),
        Level::TRACE => tracing::trace!(target: TARGET, function, line, dropped, "{text}"),
        _ => tracing::info!(target: TARGET, function, line, dropped, "{text}"),
    }
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::NONE => "NONE",
        Level::VERSION => "VERSION",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::ABORT => "ABORT",
        Level::TRACE => "TRACE",
        _ => "?",
    }
}

/// What passes.
struct Filter {
    level: Level,
    subsystems: Subsystems,
    file: Option<Mutex<File>>,
    limits: [Limit; 6],
    started: Instant,
}

impl Filter {
    fn new(config: &Config) -> Self {
        let debug = config.debug.value;
        let least = if debug { Level::INFO } else { Level::WARN };
        let level =
            config.nccl_debug.value.map_or(least, |level| if debug { level.max(least) } else { level });
        let subsystems = if debug { Subsystems::ALL } else { config.nccl_debug_subsys.value };
        let file = config.nccl_debug_file.value.as_ref().and_then(|file| {
            let host = rustix::system::uname();
            let host = std::ffi::OsString::from(host.nodename().to_string_lossy().into_owned());
            let path = file.path(&host, std::process::id());
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            opened
                .inspect_err(|error| {
                    tracing::warn!("NCCL_DEBUG_FILE={} cannot be opened: {error}", path.display());
                })
                .ok()
        });
        let limits = Default::default();
        Self { level, subsystems, file: file.map(Mutex::new), limits, started: Instant::now() }
    }

    const fn wants(&self, level: Level, subsystems: Subsystems) -> bool {
        // ABORT is above INFO in number and above everything in weight.
        let passes = level.0 <= self.level.0 || (level.0 == Level::ABORT.0 && self.level.0 >= Level::WARN.0);
        let severe = level.0 == Level::WARN.0 || level.0 == Level::ABORT.0 || level.0 == Level::VERSION.0;
        passes && level.0 > Level::NONE.0 && (severe || self.subsystems.0 & subsystems.0 != 0)
    }

    fn seconds(&self) -> u32 {
        self.started.elapsed().as_secs() as u32
    }
}

/// Unknown levels share the place of `NONE`, which no line has.
const fn limit_of(level: Level) -> usize {
    if level.0 >= 0 && level.0 <= Level::TRACE.0 { level.0 as usize } else { 0 }
}

/// How many lines passed in this second, and how many were dropped since one passed.
#[derive(Default)]
struct Limit {
    /// The second in the upper half, the lines in the lower.
    window: AtomicU64,
    dropped: AtomicU64,
}

impl Limit {
    /// Whether one more line may pass in the second `second`.
    fn admits(&self, second: u32) -> bool {
        let window = u64::from(second) << 32;
        let count = self.window.fetch_update(Relaxed, Relaxed, |old| {
            let fresh = old >> 32 != u64::from(second);
            let count = if fresh { 0 } else { old & u64::from(u32::MAX) };
            (count < u64::from(ALLOWANCE)).then_some(window | (count + 1))
        });
        if count.is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
        count.is_ok()
    }

    fn take_dropped(&self) -> u64 {
        if self.dropped.load(Relaxed) == 0 { 0 } else { self.dropped.swap(0, Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::FixedEnvironment;

    use super::*;

    fn filter(variables: &[(&str, &str)]) -> Filter {
        let environment: FixedEnvironment = variables.iter().copied().collect();
        Filter::new(&Config::from_environment(&environment).unwrap())
    }

    const NET: Subsystems = Subsystems(0x10);
    const INIT: Subsystems = Subsystems(0x1);

    #[test]
    fn warnings_pass_by_default_and_nothing_less() {
        let filter = filter(&[]);
        assert!(filter.wants(Level::WARN, NET));
        assert!(filter.wants(Level::ABORT, NET));
        assert!(!filter.wants(Level::INFO, INIT));
        assert!(!filter.wants(Level::TRACE, INIT));
        assert!(!filter.wants(Level::NONE, INIT));
        assert!(!filter.wants(Level(17), INIT));
    }

    #[test]
    fn nccl_debug_and_its_subsystems_choose() {
        let filter = filter(&[("NCCL_DEBUG", "INFO"), ("NCCL_DEBUG_SUBSYS", "NET")]);
        assert!(filter.wants(Level::INFO, NET));
        assert!(!filter.wants(Level::INFO, INIT));
        assert!(filter.wants(Level::WARN, INIT));
        assert!(!filter.wants(Level::TRACE, NET));
    }

    #[test]
    fn our_debug_variable_shows_everything_but_traces() {
        let filter = filter(&[("UCCL_TCPX_DEBUG", "1")]);
        assert!(filter.wants(Level::INFO, NET));
        assert!(filter.wants(Level::INFO, INIT));
        assert!(!filter.wants(Level::TRACE, INIT));
    }

    #[test]
    fn none_is_none() {
        let filter = filter(&[("NCCL_DEBUG", "NONE")]);
        assert!(!filter.wants(Level::WARN, NET));
        assert!(!filter.wants(Level::ABORT, NET));
    }

    #[test]
    fn a_flood_is_dropped_and_counted_until_the_next_second() {
        let limit = Limit::default();
        let passed = (0..10_000).filter(|_| limit.admits(7)).count();
        assert_eq!(passed, ALLOWANCE as usize);
        assert!(limit.admits(8));
        assert_eq!(limit.take_dropped(), 10_000 - u64::from(ALLOWANCE));
        assert_eq!(limit.take_dropped(), 0);
    }
}
