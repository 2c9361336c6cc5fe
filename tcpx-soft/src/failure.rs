//! What goes wrong, as a result code for the caller and a line for its log.

use std::fmt::Display;
use std::io;

use tcpx_sys::Code;

/// A failed call.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) text: String,
}

impl Failure {
    /// A rule of the interface was broken.
    pub(crate) fn rule(text: impl Into<String>) -> Self {
        Self { code: Code::INTERNAL_ERROR, text: text.into() }
    }

    /// A system call failed.
    pub(crate) fn system(during: impl Display, error: io::Error) -> Self {
        Self { code: Code::SYSTEM_ERROR, text: format!("{during}: {error}") }
    }

    /// The peer did what it must not do, or is gone.
    pub(crate) fn peer(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}
