//! NCCL's own variables for the lines of a plugin.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use tcpx_sys::log::{Level, Subsystems};

use super::Value;

impl Value for Level {
    fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str()?.to_ascii_uppercase().as_str() {
            "NONE" => Some(Self::NONE),
            "VERSION" => Some(Self::VERSION),
            "WARN" => Some(Self::WARN),
            "INFO" => Some(Self::INFO),
            "ABORT" => Some(Self::ABORT),
            "TRACE" => Some(Self::TRACE),
            _ => None,
        }
    }

    fn range() -> String {
        "NONE, VERSION, WARN, INFO, ABORT or TRACE".to_owned()
    }
}

impl Value for Subsystems {
    fn parse(text: &OsStr) -> Option<Self> {
        let text = text.to_str()?;
        let (inverted, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let mut bits = 0;
        for name in text.split(',') {
            bits |= subsystem(&name.to_ascii_uppercase())?;
        }
        Some(Self(if inverted { !bits } else { bits }))
    }

    fn range() -> String {
        let names: Vec<_> = Self::NAMES.iter().map(|(name, _)| *name).collect();
        format!("a comma-separated list of {} or ALL; a leading ^ means all but these", names.join(", "))
    }
}

fn subsystem(name: &str) -> Option<u64> {
    if name == "ALL" {
        return Some(Subsystems::ALL.0);
    }
    Subsystems::NAMES.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit)
}

/// File for the lines of a plugin, with places for the host's name and the process id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogFile(OsString);

impl LogFile {
    /// The path for this host and process: `%h`, `%p` and `%%` are replaced, anything else is kept.
    pub fn path(&self, host: &OsStr, process: u32) -> PathBuf {
        let mut path = Vec::new();
        let mut bytes = self.0.as_bytes().iter();
        while let Some(&byte) = bytes.next() {
            match (byte, bytes.as_slice().first()) {
                (b'%', Some(b'h')) => path.extend_from_slice(host.as_bytes()),
                (b'%', Some(b'p')) => path.extend_from_slice(process.to_string().as_bytes()),
                (b'%', Some(b'%')) => path.push(b'%'),
                _ => {
                    path.push(byte);
                    continue;
                }
            }
            bytes.next();
        }
        PathBuf::from(OsString::from_vec(path))
    }
}

impl Value for LogFile {
    fn parse(text: &OsStr) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    fn range() -> String {
        "a path, in which %h stands for the host and %p for the process".to_owned()
    }
}
