//! The laws, in a file per subject.

pub(crate) mod cancel;
pub(crate) mod closing;
pub(crate) mod completion;
pub(crate) mod dropping;
pub(crate) mod effort;
pub(crate) mod memory;
pub(crate) mod messages;
pub(crate) mod runs;
pub(crate) mod stale;
pub(crate) mod windows;
