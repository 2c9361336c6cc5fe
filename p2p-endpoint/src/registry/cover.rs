//! Which span of memory lies inside of which.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::MrId;

/// Addresses from `base` up to, and without, `end`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span {
    pub(super) base: usize,
    pub(super) end: usize,
}

/// Spans with numbers, several at one span if need be, and the question which of them lies around another.
///
/// Those that lie inside of no other are the **outer** ones. They are in order of their ends too, so that of all
/// that begin at or before an address the last one reaches farthest.
#[derive(Debug, Default)]
pub(super) struct Cover {
    /// By base; of those with one base the longest first.
    spans: BTreeMap<(usize, Reverse<usize>), BTreeSet<MrId>>,
    /// Ends of the outer ones, by base.
    outer: BTreeMap<usize, usize>,
}

impl Cover {
    pub(super) const fn new() -> Self {
        Self { spans: BTreeMap::new(), outer: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// One whose span has all of this one.
    pub(super) fn around(&self, span: Span) -> Option<MrId> {
        let outer = self.outer_around(span)?;
        self.spans.get(&(outer.base, Reverse(outer.end)))?.first().copied()
    }

    pub(super) fn insert(&mut self, span: Span, mr: MrId) {
        self.spans.entry((span.base, Reverse(span.end))).or_default().insert(mr);
        if self.outer_around(span).is_some() {
            return;
        }
        while let Some((&base, &end)) = self.outer.range(span.base..).next()
            && end <= span.end
        {
            self.outer.remove(&base);
        }
        self.outer.insert(span.base, span.end);
    }

    pub(super) fn remove(&mut self, span: Span, mr: MrId) {
        let Some(numbers) = self.spans.get_mut(&(span.base, Reverse(span.end))) else { return };
        numbers.remove(&mr);
        if !numbers.is_empty() {
            return;
        }
        self.spans.remove(&(span.base, Reverse(span.end)));
        if self.outer.get(&span.base) != Some(&span.end) {
            return;
        }
        self.outer.remove(&span.base);
        // Those become outer ones that lay inside of this one only: they reach farther than all that begin before
        // them, and begin before the next outer one.
        let mut reach = self.outer.range(..span.base).next_back().map_or(0, |(_, end)| *end);
        let next = self.outer.range(span.base..).next().map_or(usize::MAX, |(base, _)| *base);
        for &(base, Reverse(end)) in
            self.spans.range((span.base, Reverse(usize::MAX))..).map(|(span, _)| span)
        {
            if base >= next {
                break;
            }
            if end > reach {
                self.outer.insert(base, end);
                reach = end;
            }
        }
    }

    fn outer_around(&self, span: Span) -> Option<Span> {
        let (&base, &end) = self.outer.range(..=span.base).next_back()?;
        (end >= span.end).then_some(Span { base, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list that is searched from end to end.
        #[test]
        fn it_finds_what_a_search_finds(
            steps in proptest::collection::vec((any::<bool>(), 0_usize..20, 1_usize..12), 1..60),
        ) {
            let mut cover = Cover::default();
            let mut list: Vec<(Span, MrId)> = Vec::new();
            for (number, (add, at, length)) in (1..).zip(steps) {
                if add || list.is_empty() {
                    let span = Span { base: at, end: at + length };
                    cover.insert(span, MrId(number));
                    list.push((span, MrId(number)));
                } else {
                    let (span, mr) = list.remove(at % list.len());
                    cover.remove(span, mr);
                }
                prop_assert_eq!(cover.is_empty(), list.is_empty());
                for base in 0..32 {
                    for end in base..33 {
                        let around = |of: &&(Span, MrId)| of.0.base <= base && end <= of.0.end;
                        match cover.around(Span { base, end }) {
                            Some(mr) => prop_assert!(list.iter().filter(around).any(|of| of.1 == mr)),
                            None => prop_assert!(list.iter().find(around).is_none(), "{base} to {end}"),
                        }
                    }
                }
            }
        }
    }
}
