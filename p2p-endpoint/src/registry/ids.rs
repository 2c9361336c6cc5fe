//! Where things lie that are found by a number.

/// Numbers of one page.
const PAGE: usize = 256;

/// Numbers from 1 on, each given out once, with the place of what it stands for.
///
/// Found in constant time. A page whose numbers have all ended takes eight bytes.
#[derive(Debug)]
pub(super) struct Ids {
    pages: Vec<Option<Box<Page>>>,
    next: u64,
}

#[derive(Debug)]
struct Page {
    live: usize,
    places: [Option<u32>; PAGE],
}

impl Default for Ids {
    fn default() -> Self {
        Self { pages: Vec::new(), next: 1 }
    }
}

impl Ids {
    /// The number that is given out next.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn give(&mut self, place: u32) -> u64 {
        let (page, at) = split(self.next);
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new(Page { live: 0, places: [None; PAGE] }));
        page.places[at] = Some(place);
        page.live += 1;
        self.next += 1;
        self.next - 1
    }

    pub(super) fn find(&self, id: u64) -> Option<u32> {
        let (page, at) = split(id);
        self.pages.get(page)?.as_ref()?.places[at]
    }

    pub(super) fn take(&mut self, id: u64) -> Option<u32> {
        let (page, at) = split(id);
        let known = self.pages.get_mut(page)?;
        let found = known.as_mut()?;
        let place = found.places[at].take()?;
        found.live -= 1;
        if found.live == 0 {
            *known = None;
        }
        Some(place)
    }
}

fn split(id: u64) -> (usize, usize) {
    // A page number that does not fit is that of no page.
    let page = usize::try_from(id / PAGE as u64).unwrap_or(usize::MAX);
    (page, (id % PAGE as u64) as usize)
}

/// Values by the place at which they lie; places are used again.
#[derive(Debug)]
pub(super) struct Places<T> {
    values: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Places<T> {
    pub(super) fn put(&mut self, value: T) -> u32 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            (self.values.len() - 1) as u32
        });
        self.values[place as usize] = Some(value);
        place
    }

    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.values.get(place as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.values.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn take(&mut self, place: u32) -> Option<T> {
        let value = self.values.get_mut(place as usize)?.take()?;
        self.free.push(place);
        Some(value)
    }

    pub(super) const fn len(&self) -> usize {
        self.values.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_twice_and_old_pages_are_given_back() {
        let mut ids = Ids::default();
        assert_eq!((ids.find(0), ids.find(1), ids.find(u64::MAX), ids.take(0)), (None, None, None, None));
        for id in 1..=1000 {
            assert_eq!((ids.next(), ids.give(id as u32 + 7)), (id, id));
        }
        for id in 1..=1000 {
            assert_eq!(ids.find(id), Some(id as u32 + 7));
        }
        for id in (1..=1000).filter(|id| *id != 300) {
            assert_eq!((ids.take(id), ids.take(id), ids.find(id)), (Some(id as u32 + 7), None, None));
        }
        assert_eq!(ids.find(300), Some(307));
        assert_eq!(ids.pages.iter().flatten().count(), 1, "that of 300");
        assert_eq!(ids.give(1), 1001);
    }
}
