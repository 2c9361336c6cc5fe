//! Names of things that a transport owns: small, `Copy`, and never reused for something else.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

/// An id that consists of a position and of the generation of what lies there.
pub trait Id: Copy {
    /// The id with this position and generation.
    fn of(index: u32, generation: NonZeroU32) -> Self;
    /// The position.
    fn index(self) -> usize;
    /// Tells apart what lay at one position one after another.
    fn generation(self) -> NonZeroU32;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// A stale id is refused and never names something else (law 9).
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name {
            index: u32,
            generation: NonZeroU32,
        }

        impl $name {
            /// The position: ids that live at the same time have different ones, all small, so that they can
            /// index an array.
            pub const fn index(self) -> usize {
                self.index as usize
            }
        }

        impl Id for $name {
            fn of(index: u32, generation: NonZeroU32) -> Self {
                Self { index, generation }
            }

            fn index(self) -> usize {
                self.index as usize
            }

            fn generation(self) -> NonZeroU32 {
                self.generation
            }
        }
    };
}

id!(
    /// Something that waits for one peer.
    ListenerId
);
id!(
    /// One connection to a peer, for messages both ways.
    ConnId
);
id!(
    /// Registered memory.
    RegionId
);
id!(
    /// A control stream.
    StreamId
);
id!(
    /// Something that waits for control streams.
    DoorId
);

/// A NIC, as the backend counts its NICs from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NicId(pub u16);

/// Chosen by the caller and returned untouched with the completion. It need not be unique.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Token(pub u64);

/// Values found by their [`Id`] in constant time, for whoever implements a backend.
///
/// Removing a value makes its id stale; its position is used again with another generation.
pub struct Slab<I, T> {
    places: Vec<(NonZeroU32, Option<T>)>,
    free: Vec<u32>,
    ids: PhantomData<fn() -> I>,
}

impl<I: Id, T> Slab<I, T> {
    /// An empty one.
    pub const fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), ids: PhantomData }
    }

    /// Puts a value in. Allocates only if more values live at once than ever before.
    pub fn insert(&mut self, value: T) -> I {
        self.insert_with(|_| value)
    }

    /// Puts in what `make` returns for the id it will have.
    pub fn insert_with(&mut self, make: impl FnOnce(I) -> T) -> I {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((NonZeroU32::MIN, None));
            // Every position may become free at once without an allocation.
            self.free.reserve(self.places.len() - self.free.len());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        let id = I::of(index, place.0);
        place.1 = Some(make(id));
        id
    }

    /// The value, unless the id is stale.
    #[inline]
    pub fn get(&self, id: I) -> Option<&T> {
        let place = self.places.get(id.index())?;
        if place.0 == id.generation() { place.1.as_ref() } else { None }
    }

    /// The value, unless the id is stale.
    #[inline]
    pub fn get_mut(&mut self, id: I) -> Option<&mut T> {
        let place = self.places.get_mut(id.index())?;
        if place.0 == id.generation() { place.1.as_mut() } else { None }
    }

    /// Takes the value out; its id is stale from here on.
    pub fn remove(&mut self, id: I) -> Option<T> {
        let (generation, value) =
            self.places.get_mut(id.index()).filter(|(generation, _)| *generation == id.generation())?;
        let value = value.take()?;
        *generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.free.push(id.index() as u32);
        Some(value)
    }

    /// The id of what lies at a position now.
    pub fn id_at(&self, index: usize) -> Option<I> {
        let (generation, value) = self.places.get(index)?;
        value.as_ref().map(|_| I::of(index as u32, *generation))
    }

    /// What lies at a position now.
    #[inline]
    pub fn at_mut(&mut self, index: usize) -> Option<&mut T> {
        self.places.get_mut(index)?.1.as_mut()
    }

    /// Positions that are or were in use: those of all live ids are smaller.
    pub const fn positions(&self) -> usize {
        self.places.len()
    }

    /// Live ids and their values, by position.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.places.iter().zip(0..).filter_map(|((generation, value), index)| {
            value.as_ref().map(|value| (I::of(index, *generation), value))
        })
    }

    /// Live ids and their values, by position.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (I, &mut T)> {
        self.places.iter_mut().zip(0..).filter_map(|((generation, value), index)| {
            value.as_mut().map(|value| (I::of(index, *generation), value))
        })
    }

    /// Live values.
    pub const fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no live value.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<I: Id, T> Default for Slab<I, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<I: Id + fmt::Debug, T: fmt::Debug> fmt::Debug for Slab<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnId, Slab};

    #[test]
    fn a_stale_id_never_names_what_came_after() {
        let mut slab: Slab<ConnId, &str> = Slab::new();
        let first = slab.insert("first");
        let other = slab.insert("other");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!(second.index(), first.index());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!((slab.get(second), slab.get(other)), (Some(&"second"), Some(&"other")));
        assert_eq!((slab.len(), slab.positions()), (2, 2));
        assert_eq!(slab.id_at(first.index()), Some(second));
    }
}
