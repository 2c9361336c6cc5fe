//! Fields from the front of bytes.

/// What is wrong, in words that follow "breaks a rule:".
pub(crate) type Rule = &'static str;

/// Bytes not read yet.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Rule> {
        let (first, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Rule> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Rule> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Rule> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Rule> {
        let (first, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(first)
    }

    /// `count` records of `N` bytes, and at least one.
    pub(crate) fn records<const N: usize>(&mut self, count: u32) -> Result<&'a [[u8; N]], Rule> {
        if count == 0 {
            return Err("a list without anything in it");
        }
        let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(N));
        let bytes = bytes.filter(|bytes| *bytes <= self.0.len()).ok_or("a list longer than the frame")?;
        Ok(self.bytes(bytes)?.as_chunks().0)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(crate) fn end(&self) -> Result<(), Rule> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes after its end") }
    }
}

/// A text for people. Control characters become blanks, so that a peer cannot write to a terminal.
pub(crate) fn text(bytes: &[u8], most: usize) -> Result<String, Rule> {
    if bytes.len() > most {
        return Err("a text that is too long");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "a text that is not UTF-8")?;
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// An unused field.
pub(crate) fn unused(value: impl Into<u64>) -> Result<(), Rule> {
    if value.into() == 0 { Ok(()) } else { Err("a field that is not used and not 0") }
}
