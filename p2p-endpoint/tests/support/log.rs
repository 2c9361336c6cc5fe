//! What a thread logs.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Once;

use tracing::Level;

/// One subscriber for all threads, because what one thread finds nobody interested in is switched off for all.
static SUBSCRIBER: Once = Once::new();

thread_local! {
    static CURRENT: RefCell<Option<Log>> = const { RefCell::new(None) };
}

#[derive(Clone, Default)]
pub(crate) struct Log(Rc<RefCell<Vec<u8>>>);

/// Writes to the log of the thread, if it has one.
struct Here;

impl Write for Here {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        CURRENT.with_borrow(|log| {
            if let Some(log) = log {
                log.0.borrow_mut().extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Runs `test`, which is given what was logged in this thread meanwhile.
    pub(crate) fn of<T>(test: impl FnOnce(&Self) -> T) -> T {
        SUBSCRIBER.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .with_writer(|| Here)
                .with_max_level(Level::INFO)
                .with_ansi(false)
                .without_time()
                .finish();
            tracing::subscriber::set_global_default(subscriber).expect("it is the only one");
        });
        let log = Self::default();
        CURRENT.set(Some(log.clone()));
        let tested = test(&log);
        CURRENT.set(None);
        tested
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).expect("text")
    }

    /// Lines of this level that have this in them.
    pub(crate) fn lines(&self, level: Level, part: &str) -> Vec<String> {
        let level = level.to_string();
        let fits = |line: &&str| line.trim_start().starts_with(&level) && line.contains(part);
        self.text().lines().filter(fits).map(str::to_owned).collect()
    }
}
