//! A bounded FIFO of requests with three monotone cursors.
//!
//! ```text
//! released <= done <= posted <= released + limit,  limit <= N
//! ```
//!
//! A slot in `[done, posted)` is in flight, one in `[released, done)` has finished on the wire but
//! still holds resources, and everything else is free. A plugin accepts `test` and `irecvConsumed` only
//! for the oldest request of each range, so the window hands out nothing else. It knows no plugin, no
//! pointer and no clock.

#[cfg(test)]
mod tests;

/// The window has no free slot; carries the value back to the caller.
#[derive(Debug, Eq, PartialEq)]
pub struct Full<T>(pub T);

/// See the module documentation.
#[derive(Debug)]
pub struct Window<T, const N: usize> {
    slots: [Option<T>; N],
    posted: u32,
    done: u32,
    released: u32,
    limit: u32,
}

impl<T, const N: usize> Default for Window<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const N: usize> Window<T, N> {
    /// Also asserts that a cursor finds its slot by masking, across the wrap of `u32`.
    const MASK: u32 = {
        assert!(N.is_power_of_two() && N <= 1 << 16);
        N as u32 - 1
    };

    /// Creates an empty window that holds `N` requests.
    pub const fn new() -> Self {
        Self::at(0)
    }

    /// Creates an empty window whose cursors start at `origin`, so that tests reach the wrap.
    pub const fn at(origin: u32) -> Self {
        let _ = Self::MASK;
        Self { slots: [const { None }; N], posted: origin, done: origin, released: origin, limit: N as u32 }
    }

    /// Holds at most `limit` requests (12 sends in a ring of 16, say); `None` outside `1..=N`.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Option<Self> {
        if limit == 0 || limit > N {
            return None;
        }
        self.limit = limit as u32;
        Some(self)
    }

    /// Requests the window may hold.
    pub const fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Requests that can still be posted.
    pub const fn free(&self) -> usize {
        (self.limit - self.posted.wrapping_sub(self.released)) as usize
    }

    /// Requests posted and not yet reported done.
    pub const fn in_flight(&self) -> usize {
        self.posted.wrapping_sub(self.done) as usize
    }

    /// Requests done and not yet released.
    pub const fn held(&self) -> usize {
        self.done.wrapping_sub(self.released) as usize
    }

    /// Whether no request is in flight or held.
    pub const fn is_empty(&self) -> bool {
        self.posted == self.released
    }

    /// Appends a request.
    ///
    /// # Errors
    ///
    /// [`Full`] hands the request back.
    pub fn post(&mut self, request: T) -> Result<(), Full<T>> {
        if self.free() == 0 {
            return Err(Full(request));
        }
        self.slots[(self.posted & Self::MASK) as usize] = Some(request);
        self.posted = self.posted.wrapping_add(1);
        Ok(())
    }

    /// The only request it is legal to test.
    pub fn oldest_in_flight(&mut self) -> Option<&mut T> {
        (self.in_flight() > 0).then(|| self.slots[(self.done & Self::MASK) as usize].as_mut())?
    }

    /// Records that [`oldest_in_flight`](Self::oldest_in_flight) finished; false if there was none.
    #[must_use]
    pub fn finish_oldest(&mut self) -> bool {
        let any = self.in_flight() > 0;
        self.done = self.done.wrapping_add(u32::from(any));
        any
    }

    /// The only request it is legal to release.
    pub fn oldest_held(&mut self) -> Option<&mut T> {
        (self.held() > 0).then(|| self.slots[(self.released & Self::MASK) as usize].as_mut())?
    }

    /// The request that [`finish_oldest`](Self::finish_oldest) recorded last, if it is still held.
    pub fn newest_held(&mut self) -> Option<&mut T> {
        let newest = self.done.wrapping_sub(1) & Self::MASK;
        (self.held() > 0).then(|| self.slots[newest as usize].as_mut())?
    }

    /// Frees the oldest finished slot and returns its request.
    pub fn release_oldest(&mut self) -> Option<T> {
        if self.held() == 0 {
            return None;
        }
        let request = self.slots[(self.released & Self::MASK) as usize].take();
        self.released = self.released.wrapping_add(1);
        request
    }

    /// Requests held and in flight, oldest first.
    pub fn outstanding(&self) -> impl Iterator<Item = &T> {
        (0..self.posted.wrapping_sub(self.released))
            .filter_map(|k| self.slots[(self.released.wrapping_add(k) & Self::MASK) as usize].as_ref())
    }
}
