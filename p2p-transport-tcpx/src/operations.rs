//! The operations of one direction of a connection, from submission to the report of their completion.
//!
//! Each lies in a slot that was made with the connection. Slots go round: free, *waiting* (accepted, and in
//! the order of submission), *started* (handed to a channel; only the oldest waiting one can be), *ended*
//! (with an outcome), and free again when the completion is reported. An operation counts in the order of
//! messages when it starts: the k-th that starts uses channel k modulo their number. So one that is withdrawn
//! or refused before it starts takes no place in that order.

use std::collections::VecDeque;

use p2p_transport::{OpFault, Outcome, Slice, Token};

/// A position among the slots of a direction.
pub(crate) type SlotIndex = u16;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Operations {
    slots: Box<[Slot]>,
    free: Vec<SlotIndex>,
    waiting: VecDeque<SlotIndex>,
    /// Those to be reported, in this order.
    ended: VecDeque<SlotIndex>,
    started: u64,
    channels: u64,
}

#[derive(Debug)]
struct Slot {
    token: Token,
    /// Kept, so that a list of the same length later allocates nothing.
    slices: Vec<Slice>,
    state: State,
    /// Its number among all that were submitted.
    submitted: u64,
    /// Its number among all that started.
    sequence: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Free,
    Waiting,
    Started,
    Ended(Outcome),
}

impl Operations {
    /// Slots for `window` operations on each of `channels` channels.
    pub(crate) fn new(channels: u16, window: usize) -> Self {
        let count = usize::from(channels) * window;
        let slot = || Slot {
            token: Token(0),
            slices: Vec::with_capacity(1),
            state: State::Free,
            submitted: 0,
            sequence: 0,
        };
        Self {
            slots: (0..count).map(|_| slot()).collect(),
            free: (0..count as SlotIndex).rev().collect(),
            waiting: VecDeque::with_capacity(count),
            ended: VecDeque::with_capacity(count),
            started: 0,
            channels: u64::from(channels),
        }
    }

    /// Operations it holds at most.
    pub(crate) const fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is a free slot.
    pub(crate) const fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether no slot is in use.
    #[cfg(test)]
    const fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Takes an operation in, at the end of those that wait; or, with a fault, as one that has ended already.
    /// False if there is no room.
    ///
    /// `submitted` is its number among all of its connection.
    pub(crate) fn accept(
        &mut self,
        token: Token,
        slices: &[Slice],
        fault: Option<OpFault>,
        submitted: u64,
    ) -> bool {
        let Some(index) = self.free.pop() else { return false };
        let slot = &mut self.slots[usize::from(index)];
        slot.token = token;
        slot.submitted = submitted;
        slot.slices.clear();
        slot.state = State::Waiting;
        match fault {
            None => {
                slot.slices.extend_from_slice(slices);
                self.waiting.push_back(index);
            }
            // It uses no region, so that nothing is released with it.
            Some(fault) => self.end(index, Outcome::Failed(fault)),
        }
        true
    }

    /// The operation that starts next: its slot, its slices, and the channel it belongs on.
    pub(crate) fn next_to_start(&self) -> Option<(SlotIndex, &[Slice], usize)> {
        let &index = self.waiting.front()?;
        let channel = (self.started % self.channels) as usize;
        Some((index, &self.slots[usize::from(index)].slices, channel))
    }

    /// The operation of [`next_to_start`](Self::next_to_start) was handed to its channel.
    pub(crate) fn started(&mut self) {
        if let Some(index) = self.waiting.pop_front() {
            let slot = &mut self.slots[usize::from(index)];
            (slot.state, slot.sequence) = (State::Started, self.started);
            self.started += 1;
        }
    }

    /// The operation of [`next_to_start`](Self::next_to_start) cannot start.
    pub(crate) fn refused(&mut self, fault: OpFault) {
        if let Some(index) = self.waiting.pop_front() {
            self.end(index, Outcome::Failed(fault));
        }
    }

    /// Whether an operation waits to start.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A started operation ended; returns its length as posted. What is no started one is left alone.
    pub(crate) fn end_started(&mut self, index: SlotIndex, outcome: impl FnOnce(u32) -> Outcome) {
        let Some(slot) = self.slots.get(usize::from(index)) else { return };
        if slot.state == State::Started {
            let posted = slot.slices.iter().map(|slice| slice.len).sum();
            self.end(index, outcome(posted));
        }
    }

    /// When the newest operation with this token that waits was submitted.
    pub(crate) fn newest_waiting(&self, token: Token) -> Option<u64> {
        let waiting = self.waiting.iter().rev().map(|&index| &self.slots[usize::from(index)]);
        waiting.filter(|slot| slot.token == token).map(|slot| slot.submitted).next()
    }

    /// Withdraws the newest operation with this token that waits.
    pub(crate) fn cancel(&mut self, token: Token) -> bool {
        let slots = &self.slots;
        let found = self.waiting.iter().rposition(|&index| slots[usize::from(index)].token == token);
        let Some(index) = found.and_then(|at| self.waiting.remove(at)) else { return false };
        self.end(index, Outcome::Cancelled);
        true
    }

    /// Ends what waits.
    pub(crate) fn flush_waiting(&mut self) {
        while let Some(index) = self.waiting.pop_front() {
            self.end(index, Outcome::ConnLost);
        }
    }

    /// Ends everything, what has started in the order in which it did.
    pub(crate) fn flush(&mut self) {
        loop {
            let started = self.slots.iter().zip(0..).filter(|(slot, _)| slot.state == State::Started);
            let Some((_, oldest)) = started.min_by_key(|(slot, _)| slot.sequence) else { break };
            self.end(oldest, Outcome::ConnLost);
        }
        self.flush_waiting();
    }

    /// Whether a completion can be reported.
    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// The next completion to report, with the slices that its operation used. Its slot is free from here on.
    pub(crate) fn report(&mut self) -> Option<(Token, Outcome, &[Slice])> {
        let index = self.ended.pop_front()?;
        let slot = &mut self.slots[usize::from(index)];
        let State::Ended(outcome) = slot.state else { return None };
        slot.state = State::Free;
        self.free.push(index);
        // `accept` clears the list, so that it can still be read here.
        let slot = &self.slots[usize::from(index)];
        Some((slot.token, outcome, &slot.slices))
    }

    fn end(&mut self, index: SlotIndex, outcome: Outcome) {
        self.slots[usize::from(index)].state = State::Ended(outcome);
        self.ended.push_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn reports(operations: &mut Operations) -> Vec<(u64, Outcome)> {
        std::iter::from_fn(|| operations.report().map(|(token, outcome, _)| (token.0, outcome))).collect()
    }

    const DONE: Outcome = Outcome::Done { len: 0 };

    #[test]
    fn what_never_started_takes_no_place_in_the_order() {
        let mut operations = Operations::new(2, 4);
        assert!(operations.accept(Token(0), &[], None, 0));
        assert!(operations.accept(Token(1), &[], Some(OpFault::BadSlice), 0));
        assert!(operations.accept(Token(2), &[], None, 0));
        assert!(operations.accept(Token(3), &[], None, 0));
        assert!(operations.cancel(Token(2)) && !operations.cancel(Token(2)));
        let mut channels = Vec::new();
        while let Some((_, _, channel)) = operations.next_to_start() {
            channels.push(channel);
            operations.started();
        }
        assert_eq!(channels, [0, 1]);
        let bad = Outcome::Failed(OpFault::BadSlice);
        assert_eq!(reports(&mut operations), [(1, bad), (2, Outcome::Cancelled)]);
    }

    #[test]
    fn the_newest_of_equal_tokens_is_withdrawn() {
        let mut operations = Operations::new(1, 4);
        for _ in 0..2 {
            assert!(operations.accept(Token(7), &[], None, 0));
        }
        let (first, ..) = operations.next_to_start().expect("two wait");
        assert!(operations.cancel(Token(7)));
        assert_eq!(operations.next_to_start().map(|(index, ..)| index), Some(first));
    }

    #[test]
    fn what_never_started_is_reported_at_once_and_the_rest_in_order() {
        let mut operations = Operations::new(1, 4);
        for token in 0..3 {
            assert!(operations.accept(Token(token), &[], None, 0));
            operations.started();
        }
        assert!(operations.accept(Token(3), &[], Some(OpFault::TooLong), 0));
        assert_eq!(reports(&mut operations), [(3, Outcome::Failed(OpFault::TooLong))]);
        operations.flush();
        assert_eq!(reports(&mut operations), [0, 1, 2].map(|token| (token, Outcome::ConnLost)));
        assert!(operations.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Accept(bool),
        Start,
        End(prop::sample::Index),
        Cancel(u64),
        Report,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<bool>().prop_map(Step::Accept),
            4 => Just(Step::Start),
            3 => any::<prop::sample::Index>().prop_map(Step::End),
            1 => (0..40_u64).prop_map(Step::Cancel),
            3 => Just(Step::Report),
        ]
    }

    proptest! {
        /// Oracle: lists of tokens. Every accepted one is reported once, with the outcome that the oracle has
        /// for it, and as many fit as there are slots.
        #[test]
        fn each_operation_is_reported_once(
            channels in 1..4_u16,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let window = 3;
            let mut operations = Operations::new(channels, window);
            let capacity = usize::from(channels) * window;
            prop_assert_eq!(operations.capacity(), capacity);
            let (mut waiting, mut started) = (Vec::new(), Vec::new());
            let mut outcomes = BTreeMap::new();
            let (mut next, mut reported, mut begun) = (0_u64, Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Accept(bad) => {
                        let held = next as usize - reported.len();
                        let fault = bad.then_some(OpFault::BadSlice);
                        prop_assert_eq!(operations.has_room(), held < capacity);
                        prop_assert_eq!(operations.accept(Token(next), &[], fault, 0), held < capacity);
                        if held < capacity {
                            match fault {
                                Some(fault) => drop(outcomes.insert(next, Outcome::Failed(fault))),
                                None => waiting.push(next),
                            }
                            next += 1;
                        }
                    }
                    Step::Start => {
                        let found = operations.next_to_start().map(|(index, _, channel)| (index, channel));
                        prop_assert_eq!(found.is_some(), !waiting.is_empty());
                        if let Some((index, channel)) = found {
                            prop_assert_eq!(channel as u64, begun % u64::from(channels));
                            begun += 1;
                            operations.started();
                            started.push((waiting.remove(0), index));
                        }
                    }
                    Step::End(which) if !started.is_empty() => {
                        let (token, index) = started.remove(which.index(started.len()));
                        operations.end_started(index, |_| DONE);
                        operations.end_started(index, |_| Outcome::ConnLost);
                        outcomes.insert(token, DONE);
                    }
                    Step::End(_) => {}
                    Step::Cancel(token) => {
                        let at = waiting.iter().position(|&have| have == token);
                        prop_assert_eq!(operations.cancel(Token(token)), at.is_some());
                        if let Some(at) = at {
                            waiting.remove(at);
                            outcomes.insert(token, Outcome::Cancelled);
                        }
                    }
                    Step::Report => reported.extend(operations.report().map(|(token, outcome, _)| (token.0, outcome))),
                }
            }
            for token in waiting.drain(..).chain(started.drain(..).map(|(token, _)| token)) {
                outcomes.insert(token, Outcome::ConnLost);
            }
            operations.flush();
            reported.extend(reports(&mut operations));
            prop_assert!(operations.is_empty() && !operations.has_ended());
            reported.sort_by_key(|(token, _)| *token);
            prop_assert_eq!(reported, outcomes.into_iter().collect::<Vec<_>>());
        }
    }
}
