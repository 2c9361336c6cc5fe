//! Bytes of a fuzzer as a program: numbers, one after another, until there are none.

/// What is left to read. Behind its end there are zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'a>(pub(crate) &'a [u8]);

impl<'a> Program<'a> {
    pub(crate) const fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// At most 255.
    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound.max(1)
    }

    /// So many bytes, or those that are left.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        first
    }

    /// Mostly the likely one, sometimes one near it, and sometimes any.
    pub(crate) fn number(&mut self, likely: u64) -> u64 {
        match self.byte() {
            0..=191 => likely,
            192..=207 => likely.wrapping_add(1),
            208..=223 => likely.wrapping_sub(1),
            224..=239 => self.byte().into(),
            240..=247 => u64::from(self.byte()) << 12,
            248..=251 => u64::MAX - u64::from(self.byte()),
            252..=255 => {
                let mut bytes = [0; 8];
                bytes.iter_mut().for_each(|byte| *byte = self.byte());
                u64::from_le_bytes(bytes)
            }
        }
    }
}
