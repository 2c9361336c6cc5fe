//! What happened, in short.

use std::fmt::{Debug, Write};

use crate::random::mix;
use crate::state::Nanos;

/// Adds up what happened to one number, and keeps the lines if asked to.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) sum: u64,
    pub(crate) lines: Option<Vec<String>>,
    text: Text,
}

/// Adds up text as it is written, and stores none of it.
#[derive(Debug, Default)]
struct Text(u64);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    pub(crate) fn add(&mut self, at: Nanos, number: u64, what: &impl Debug) {
        // Writing into a sum cannot fail.
        let _ = write!(self.text, "{what:?}");
        self.sum = mix(self.sum ^ self.text.0 ^ mix(at) ^ number.rotate_left(32));
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{at} ns, {number}: {what:?}"));
        }
    }
}
