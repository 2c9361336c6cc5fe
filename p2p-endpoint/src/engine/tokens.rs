//! What callers call the transfers of this end, and what is remembered of each until it ends.

use std::collections::VecDeque;
use std::time::Duration;

use p2p_proto::id::TransferId;
use p2p_proto::peer::Waiting;
use p2p_transport::Now;

use super::event::{OpToken, TransferKind};

/// A transfer of this end that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Started {
    pub(super) token: OpToken,
    pub(super) kind: TransferKind,
    pub(super) bytes: u64,
    /// When; `None` until the next poll, because whoever starts it does not say the time.
    pub(super) at: Option<Now>,
    pub(super) watch: Watch,
}

/// What was seen of a transfer by whoever looks for stalls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// What it waited for at the last look.
    pub(super) seen: Option<Waiting>,
    /// Time for which it has waited for just that, as far as somebody looked.
    pub(super) standing: Duration,
    /// What was logged.
    pub(super) told: Option<Waiting>,
    /// It is to be logged in this look.
    pub(super) is_new: bool,
}

impl Started {
    pub(super) fn new(token: OpToken, kind: TransferKind, bytes: u64) -> Self {
        Self { token, kind, bytes, at: None, watch: Watch::default() }
    }
}

/// The transfers of a link. They are numbered one after another, so that a place is found by counting.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    first: u64,
    row: VecDeque<Option<Started>>,
    /// Places at the end whose time is not known.
    fresh: usize,
}

impl Tokens {
    pub(super) fn put(&mut self, transfer: TransferId, started: Started) {
        if self.row.is_empty() {
            self.first = transfer.0;
        }
        let place = (transfer.0 - self.first) as usize;
        while self.row.len() <= place {
            self.row.push_back(None);
            self.fresh += 1;
        }
        self.row[place] = Some(started);
    }

    /// What was started since the last time began now.
    pub(super) fn began(&mut self, now: Now) {
        let fresh = std::mem::take(&mut self.fresh);
        for started in self.row.iter_mut().rev().take(fresh).flatten() {
            started.at = Some(now);
        }
    }

    /// The transfer that has ended; it is forgotten.
    pub(super) fn take(&mut self, transfer: TransferId) -> Option<Started> {
        let place = transfer.0.checked_sub(self.first)?;
        let started = self.row.get_mut(usize::try_from(place).ok()?)?.take();
        while let Some(None) = self.row.front() {
            self.drop_first();
        }
        started
    }

    /// Takes the oldest that is left.
    pub(super) fn pop(&mut self) -> Option<Started> {
        while let Some(place) = self.row.front().copied() {
            self.drop_first();
            if place.is_some() {
                return place;
            }
        }
        None
    }

    /// All of them, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TransferId, &Started)> {
        let numbered = (self.first..).zip(&self.row);
        numbered.filter_map(|(number, place)| Some((TransferId(number), place.as_ref()?)))
    }

    /// All of them, oldest first.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (TransferId, &mut Started)> {
        let numbered = (self.first..).zip(&mut self.row);
        numbered.filter_map(|(number, place)| Some((TransferId(number), place.as_mut()?)))
    }

    fn drop_first(&mut self) {
        self.row.pop_front();
        self.first += 1;
        self.fresh = self.fresh.min(self.row.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(token: u64) -> Started {
        Started::new(OpToken(token), TransferKind::Send, 1)
    }

    fn number(started: Option<Started>) -> Option<u64> {
        started.map(|started| started.token.0)
    }

    #[test]
    fn each_transfer_has_its_name_whatever_ends_first() {
        let mut tokens = Tokens::default();
        for number in [7, 8, 10] {
            tokens.put(TransferId(number), started(100 + number));
        }
        assert_eq!(number(tokens.take(TransferId(8))), Some(108));
        assert_eq!(number(tokens.take(TransferId(8))), None);
        assert_eq!(number(tokens.take(TransferId(6))), None);
        assert_eq!(number(tokens.take(TransferId(9))), None);
        assert_eq!(number(tokens.take(TransferId(7))), Some(107));
        assert_eq!(number(tokens.take(TransferId(7))), None);
        tokens.put(TransferId(11), started(111));
        let all: Vec<_> = tokens.iter().map(|(transfer, started)| (transfer.0, started.token.0)).collect();
        assert_eq!(all, [(10, 110), (11, 111)]);
        assert_eq!(
            (number(tokens.pop()), number(tokens.pop()), number(tokens.pop())),
            (Some(110), Some(111), None)
        );
        tokens.put(TransferId(20), started(1));
        assert_eq!(number(tokens.take(TransferId(20))), Some(1));
    }

    #[test]
    fn a_time_is_given_once_whatever_ended_before() {
        let mut tokens = Tokens::default();
        let second = |count| Now(Duration::from_secs(count));
        tokens.put(TransferId(1), started(1));
        tokens.put(TransferId(2), started(2));
        tokens.began(second(1));
        tokens.put(TransferId(3), started(3));
        tokens.put(TransferId(5), started(5));
        tokens.began(second(2));
        tokens.put(TransferId(6), started(6));
        assert_eq!(number(tokens.take(TransferId(1))), Some(1));
        let times: Vec<_> = tokens.iter().map(|(_, started)| started.at).collect();
        assert_eq!(times, [Some(second(1)), Some(second(2)), Some(second(2)), None]);
        while tokens.pop().is_some() {}
        tokens.put(TransferId(9), started(9));
        tokens.began(second(3));
        tokens.began(second(4));
        assert_eq!(tokens.pop().and_then(|started| started.at), Some(second(3)));
    }
}
