//! Result codes as data.

use core::ffi::c_int;
use core::fmt;

/// What a plugin call returned (`ncclResult_t`). Any value is kept, known or not.
#[repr(transparent)]
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Code(pub c_int);

impl Code {
    /// The call did what was asked.
    pub const SUCCESS: Self = Self(0);
    /// A CUDA call failed.
    pub const UNHANDLED_CUDA_ERROR: Self = Self(1);
    /// A system call failed, or the peer closed.
    pub const SYSTEM_ERROR: Self = Self(2);
    /// A rule was broken, a ring was full, or the plugin has a bug.
    pub const INTERNAL_ERROR: Self = Self(3);
    /// An argument was out of range.
    pub const INVALID_ARGUMENT: Self = Self(4);
    /// A call came at the wrong time.
    pub const INVALID_USAGE: Self = Self(5);
    /// The remote end failed.
    pub const REMOTE_ERROR: Self = Self(6);
    /// Still running.
    pub const IN_PROGRESS: Self = Self(7);

    /// Whether the call succeeded.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// The name NCCL gives the code, or `None` for a value it does not define.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "success",
            1 => "unhandled CUDA error",
            2 => "system error",
            3 => "internal error",
            4 => "invalid argument",
            5 => "invalid usage",
            6 => "remote error",
            7 => "in progress",
            _ => return None,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.0),
            None => write!(f, "{} (unknown result code)", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn unknown_codes_are_kept_and_named_as_unknown() {
        assert_eq!(Code(3).to_string(), "3 (internal error)");
        assert_eq!(Code(-77).to_string(), "-77 (unknown result code)");
        assert!(!Code(-77).is_success());
    }
}
