//! Errors of the control plane, grouped by what has to be thrown away.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use p2p_memory::Memory;

/// How much has to be thrown away after an error.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorKind {
    /// The caller broke a documented rule. Nothing changed.
    Misuse,
    /// A limit was reached: release something and try again.
    Exhausted,
    /// The connection, or the attempt to get one, is lost.
    Conn,
    /// The whole transport is unusable: make a new one.
    Device,
    /// This backend or this machine cannot do it.
    Unsupported,
}

/// What went wrong, for whom, and what to do about it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    during: &'static str,
    code: Option<i32>,
    text: Box<str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind during an operation, such as `"connect"`. The text says what happened, to whom,
    /// and what to do.
    pub fn new(kind: ErrorKind, during: &'static str, text: impl Into<Box<str>>) -> Self {
        Self { kind, during, code: None, text: text.into(), source: None }
    }

    /// A broken rule; nothing changed.
    pub fn misuse(during: &'static str, text: impl Into<Box<str>>) -> Self {
        Self::new(ErrorKind::Misuse, during, text)
    }

    /// An id that is stale, or was never given out by this transport.
    pub fn stale(during: &'static str, what: &str) -> Self {
        Self::misuse(
            during,
            format!("the {what} id is stale or of another transport: use the one that lives"),
        )
    }

    /// With the backend's own code.
    #[must_use]
    pub const fn with_code(mut self, code: i32) -> Self {
        self.code = Some(code);
        self
    }

    /// With the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// How much has to be thrown away.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was attempted.
    pub const fn during(&self) -> &'static str {
        self.during
    }

    /// The backend's own code, if it had one.
    pub const fn code(&self) -> Option<i32> {
        self.code
    }

    /// What happened, to whom, and what to do.
    pub const fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.during, self.text)?;
        self.code.map_or(Ok(()), |code| write!(f, " (code {code})"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Registration failed; the memory comes back.
pub struct RegisterError {
    /// Why.
    pub error: Error,
    /// The owner that was passed in.
    pub memory: Box<dyn Memory>,
}

impl fmt::Debug for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl StdError for RegisterError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}
