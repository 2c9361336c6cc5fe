//! Names of things.

use std::fmt;

/// An endpoint, as long as its process lives: chosen at random.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointId(pub [u8; 16]);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointId({self})")
    }
}

/// A life of an endpoint. Keys and frames of another life are refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Epoch(pub u64);

/// A transfer, by the number that the end gave it that started it. Numbers count up from 1 for each link, and
/// none is used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransferId(pub u64);

/// A rail of a link, by its position; both ends count alike.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RailIndex(pub u8);

/// Registered memory of this end, by a number that means something to the caller.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LocalRegion(pub u32);

/// What opens memory of an endpoint to its peers. It cannot be guessed, and is refused once it was taken back.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct RegionKey {
    /// Its place in the table of the endpoint that gave it out.
    pub index: u32,
    /// Tells apart what lay at one place one after another.
    pub generation: u32,
    /// Random.
    pub secret: u64,
}

impl fmt::Debug for RegionKey {
    /// Without the secret: a log must not open memory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionKey({}.{})", self.index, self.generation)
    }
}
