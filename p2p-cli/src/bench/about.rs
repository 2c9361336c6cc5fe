//! Where, when and how something was measured.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use benches::cores;
use serde::Serialize;

use super::text::date;

/// The commit that the program was built from; empty if it was built elsewhere than in its repository.
const COMMIT: &str = env!("P2P_COMMIT");

/// What a reader has to know before comparing figures with others.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct About {
    /// In UTC.
    pub(super) date: String,
    pub(super) version: String,
    pub(super) commit: String,
    /// Whether the compiler optimised it.
    pub(super) optimised: bool,
    /// As it was started.
    pub(super) command: Vec<String>,
    pub(super) host: String,
    pub(super) processor: String,
    /// Cores that it may use.
    pub(super) cores: usize,
    pub(super) memory_gigabytes: f64,
    pub(super) kernel: String,
}

impl About {
    /// This machine, now.
    pub(super) fn here() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let names = rustix::system::uname();
        Self {
            date: date(seconds),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.to_owned(),
            optimised: !cfg!(debug_assertions),
            command: asked(std::env::args()),
            host: names.nodename().to_string_lossy().into_owned(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: cores::allowed().map_or(0, |allowed| allowed.len()),
            memory_gigabytes: field("/proc/meminfo", "MemTotal")
                .and_then(|text| gigabytes(&text))
                .unwrap_or(0.0),
            kernel: names.release().to_string_lossy().into_owned(),
        }
    }

    /// Each thing with its name, for people.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let commit = if self.commit.is_empty() { "unknown" } else { &self.commit };
        let speed = if self.optimised { "" } else { ", not optimised: these figures are no measure" };
        vec![
            ("date", self.date.clone()),
            ("version", format!("{} (commit {commit}{speed})", self.version)),
            ("command", self.command.join(" ")),
            ("host", self.host.clone()),
            ("processor", format!("{}, {} cores allowed", self.processor, self.cores)),
            ("memory", format!("{:.0} GB", self.memory_gigabytes)),
            ("kernel", self.kernel.clone()),
        ]
    }
}

/// The arguments as the user wrote them: without those that one `p2p` gives another.
fn asked(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let name = |first: String| first.rsplit('/').next().unwrap_or_default().to_owned();
    let mut all = arguments;
    let first = all.next().map(name);
    first.into_iter().chain(all.take_while(|argument| argument != "--child")).collect()
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    found.map(|(_, value)| value.trim().to_owned())
}

fn gigabytes(text: &str) -> Option<f64> {
    let kilobytes: f64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::{About, asked, gigabytes};

    #[test]
    fn a_command_is_as_the_user_wrote_it() {
        let line = ["/usr/bin/p2p", "bench", "--seconds", "9", "--child", "--role", "client"];
        assert_eq!(asked(line.map(str::to_owned).into_iter()), ["p2p", "bench", "--seconds", "9"]);
        assert!(asked(std::iter::empty()).is_empty());
    }

    #[test]
    fn this_machine_has_all_of_it() {
        let about = About::here();
        assert!(about.cores > 0 && about.memory_gigabytes > 0.0, "{about:?}");
        assert!(about.lines().iter().all(|(_, text)| !text.is_empty()), "{about:?}");
        assert_eq!(gigabytes("1000000 kB"), Some(1.024));
        assert_eq!(gigabytes("1000000"), None);
    }
}
