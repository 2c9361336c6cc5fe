//! What this thread logs.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::Level;

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Runs `test`, which is given what was logged in this thread meanwhile.
    pub(crate) fn of<T>(test: impl FnOnce(&Self) -> T) -> T {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(Level::INFO)
            .with_ansi(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, || test(&log))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no writer panics").clone()).expect("text")
    }

    /// Lines of this level that have this in them.
    pub(crate) fn lines(&self, level: Level, part: &str) -> Vec<String> {
        let level = level.to_string();
        let fits = |line: &&str| line.trim_start().starts_with(&level) && line.contains(part);
        self.text().lines().filter(fits).map(str::to_owned).collect()
    }
}
