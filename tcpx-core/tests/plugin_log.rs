//! Lines of a plugin on their way to `tracing` and to a file. One test, because the filter is the process's.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::ffi::c_int;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tcpx_core::{Error, LOG_TARGET, Plugin, Source};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[path = "support/pair.rs"]
mod pair;
#[path = "support/spy.rs"]
mod spy;

/// Keeps level and text of the plugin's events.
struct Keeper;

static EVENTS: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == LOG_TARGET
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        EVENTS.lock().unwrap().push((*event.metadata().level(), text.0));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message of an event.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

fn say(level: c_int, subsystems: u64, number: c_int) {
    let logger = tcpx_sys::log::logger().unwrap();
    // SAFETY: the format takes one `int`; both strings are zero-terminated.
    unsafe { logger(level, subsystems, c"where".as_ptr(), 7, c"line %d".as_ptr(), number) };
}

#[test]
fn lines_are_filtered_limited_and_passed_on() {
    tracing::subscriber::set_global_default(Keeper).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.%p");
    let config = pair::config(&[
        ("NCCL_DEBUG", "INFO"),
        ("NCCL_DEBUG_SUBSYS", "NET"),
        ("NCCL_DEBUG_FILE", file.to_str().unwrap()),
    ]);
    let missing = Plugin::open(Source::File(folder.path().join("none.so")), &config).unwrap_err();
    assert!(matches!(missing, Error::Preflight(_)) && missing.to_string().contains("none.so"), "{missing}");
    let broken = Plugin::open(Source::Static(spy::without_test()), &config).unwrap_err();
    assert!(matches!(broken, Error::MissingEntry { entry: "test", .. }), "{broken}");

    let _session = spy::session();
    Plugin::open(Source::Static(spy::plugin()), &config).unwrap();
    say(2, 1, 1);
    say(3, 0x10, 2);
    say(3, 0x1, 3);
    say(5, 0x10, 4);
    say(4, 0x1, 5);
    let expected = [(Level::WARN, "line 1"), (Level::INFO, "line 2"), (Level::ERROR, "line 5")];
    let events = std::mem::take(&mut *EVENTS.lock().unwrap());
    let events: Vec<_> = events.iter().map(|(level, text)| (*level, text.as_str())).collect();
    assert_eq!(events, expected);
    let path = folder.path().join(format!("log.{}", std::process::id()));
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "WARN where:7 line 1\nINFO where:7 line 2\nABORT where:7 line 5\n"
    );

    // A flood: most of it is dropped before it is formatted, and the next line that passes says so.
    for number in 0..100_000 {
        say(2, 0x10, number);
    }
    let passed = EVENTS.lock().unwrap().len();
    assert!(passed < 50_000, "{passed} of 100000 passed");
    say(3, 0x10, -1);
    assert_eq!(EVENTS.lock().unwrap().last().unwrap().1, "line -1", "another level is not held up");
    let until = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(&path).unwrap().contains("lines of this level were dropped") {
        say(2, 0x10, -2);
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(20));
    }
}
