//! Memory that the messages of a measurement rotate over.

/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes at the start of a page, all of them touched, so that no page fault falls into a measurement.
///
/// A transfer that reuses one small buffer measures the cache. Both sides of a comparison rotate over a
/// working set larger than the last-level cache.
#[derive(Debug)]
pub struct WorkingSet {
    bytes: Vec<u8>,
    first: usize,
    length: usize,
}

impl WorkingSet {
    /// Allocates and touches `length` bytes.
    pub fn new(length: usize) -> Self {
        // A value other than zero, since zeroed memory would come untouched from the system.
        let bytes = vec![0xa5; length + PAGE];
        let first = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, first, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.first..][..self.length]
    }

    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.first..][..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, WorkingSet};

    #[test]
    fn begins_at_a_page_and_has_the_length() {
        let mut set = WorkingSet::new(PAGE + 1);
        assert_eq!(set.bytes().len(), PAGE + 1);
        assert_eq!(set.bytes_mut().as_ptr().addr() % PAGE, 0);
    }
}
