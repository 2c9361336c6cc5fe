//! The next message of a stream that is cut anywhere, and no byte more.

use super::HelloError;
use super::message::{self, HEAD, MAGIC};
use crate::wire::reader::{Reader, Rule};

/// Collects one message after another. What it holds is never more than the message that its head announces.
#[derive(Default)]
pub(super) struct Intake {
    bytes: Vec<u8>,
    /// Whether a whole message has come: before that, a head that is wrong is that of a stranger.
    known: bool,
}

impl Intake {
    /// Takes from the front of `bytes` what the message still needs; returns it with its kind when it is whole.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Result<Option<(u16, Vec<u8>)>, HelloError> {
        self.fill(HEAD, bytes);
        let head = head(&self.bytes).map_err(|rule| match self.known {
            true => HelloError::Rule { message: "next", rule },
            false => HelloError::Stranger,
        })?;
        let Some((length, kind)) = head else { return Ok(None) };
        self.fill(length, bytes);
        if self.bytes.len() < length {
            return Ok(None);
        }
        self.known = true;
        Ok(Some((kind, std::mem::take(&mut self.bytes))))
    }

    /// What has come of a message that is not whole.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    fn fill(&mut self, length: usize, bytes: &mut &[u8]) {
        let missing = length.saturating_sub(self.bytes.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(missing);
        self.bytes.extend_from_slice(first);
        *bytes = rest;
    }
}

/// Length and kind of a message; `None` if its head is not whole. So much of it as there is is checked.
fn head(bytes: &[u8]) -> Result<Option<(usize, u16)>, Rule> {
    let mut reader = Reader(bytes);
    let Ok(length) = reader.u32() else { return Ok(None) };
    let length = length as usize;
    if !(HEAD..=message::LONGEST).contains(&length) {
        return Err("no message has its length");
    }
    let Ok(kind) = reader.u16() else { return Ok(None) };
    let (_, longest) = message::known(kind).ok_or("its kind is not known")?;
    if length > longest {
        return Err("no message of its kind has its length");
    }
    let Ok(flags) = reader.u16() else { return Ok(None) };
    if flags != 0 {
        return Err("a flag that is not known");
    }
    if !reader.0.iter().zip(MAGIC).all(|(said, expected)| *said == expected) {
        return Err("it does not begin as a message of a handshake");
    }
    Ok((bytes.len() >= HEAD).then_some((length, kind)))
}
