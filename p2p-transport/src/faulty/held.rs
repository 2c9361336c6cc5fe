//! Events on their way to the caller, some of them held back.

use std::collections::VecDeque;

use super::damage::{Dice, Strikes};
use crate::{ConnId, Event, RegionId};

/// Events that wait at most.
pub(super) const CAPACITY: usize = 256;
/// How far ahead an event that may overtake is looked for: a poll does bounded work.
const LOOK_AHEAD: usize = 16;

/// What an operation is, as far as order and windows are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    Send,
    Recv,
    OneSided,
}

/// One event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) event: Event,
    /// Of a completion: what completed. Nothing else is ever held back or overtaken.
    pub(super) way: Option<(ConnId, Way)>,
    /// Whether the connection promises an order.
    pub(super) fifo: bool,
    /// The poll from which on it may go.
    pub(super) until: u64,
}

impl Held {
    /// Whether this completion may be reported before one that happened earlier.
    fn may_overtake(&self, earlier: &Self) -> bool {
        let (Some((conn, way)), Some((other, other_way))) = (self.way, earlier.way) else { return false };
        let ordered = conn == other && way == other_way && self.fifo && way != Way::OneSided;
        !ordered
    }
}

/// The queue. What is no completion waits for everything before it, and everything after it waits for it: so
/// `Closed` stays the last event of its connection, and `Retired` stays behind the operations.
#[derive(Debug)]
pub(super) struct Queue {
    events: VecDeque<Held>,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { events: VecDeque::with_capacity(CAPACITY) }
    }

    pub(super) fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.events.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn push(&mut self, held: Held) {
        self.events.push_back(held);
    }

    pub(super) fn has_retired(&self, region: RegionId) -> bool {
        self.events.iter().any(|held| held.event == Event::Retired(region))
    }

    /// Takes the next event that may go in this poll.
    pub(super) fn take(
        &mut self,
        poll: u64,
        reorder: u32,
        dice: &mut Dice,
        strikes: &mut Strikes,
    ) -> Option<Held> {
        let mut chosen = None;
        let mut candidates = 0;
        let shuffle = dice.strikes(reorder);
        for (at, held) in self.events.iter().enumerate().take(LOOK_AHEAD) {
            if held.way.is_none() {
                if at == 0 {
                    chosen = Some(0);
                }
                break;
            }
            let free =
                held.until <= poll && self.events.iter().take(at).all(|earlier| held.may_overtake(earlier));
            if !free {
                continue;
            }
            candidates += 1;
            if chosen.is_none() || dice.strikes(candidates) {
                strikes.reordered += u64::from(candidates == 2);
                chosen = Some(at);
            }
            if !shuffle {
                break;
            }
        }
        self.events.remove(chosen?)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::{Dice, Held, Queue, Strikes, Way};
    use crate::{ConnId, Event, Id, Outcome, RegionId, Token};

    fn conn(at: u32) -> ConnId {
        ConnId::of(at, NonZeroU32::MIN)
    }

    fn completion(of: u32, token: u64, until: u64) -> Held {
        let event = Event::Completed { conn: conn(of), token: Token(token), outcome: Outcome::Cancelled };
        Held { event, way: Some((conn(of), Way::Send)), fifo: false, until }
    }

    fn control(event: Event) -> Held {
        Held { event, way: None, fifo: true, until: 0 }
    }

    fn take(queue: &mut Queue, poll: u64, seed: u64) -> Option<Event> {
        let (mut dice, mut strikes) = (Dice::new(seed), Strikes::default());
        queue.take(poll, 1, &mut dice, &mut strikes).map(|held| held.event)
    }

    #[test]
    fn what_is_no_completion_overtakes_nothing_and_is_not_overtaken() {
        let retired = Event::Retired(RegionId::of(0, NonZeroU32::MIN));
        let notified = Event::Notified { conn: conn(0), value: 1 };
        for control_event in [retired, notified, Event::Closed(conn(0)), Event::Connected(conn(2))] {
            for seed in 0..20 {
                let mut queue = Queue::new();
                let (before, after) = (completion(0, 1, 5), completion(1, 2, 0));
                [before, control(control_event), after].into_iter().for_each(|held| queue.push(held));
                assert_eq!(take(&mut queue, 4, seed), None, "{control_event:?}: the first one is held back");
                assert_eq!(take(&mut queue, 5, seed), Some(before.event));
                assert_eq!(take(&mut queue, 5, seed), Some(control_event));
                assert_eq!(take(&mut queue, 5, seed), Some(after.event));
            }
        }
    }

    #[test]
    fn completions_overtake_others_unless_an_order_is_promised() {
        let mut queue = Queue::new();
        [completion(0, 1, 5), completion(0, 2, 0)].into_iter().for_each(|held| queue.push(held));
        assert_eq!(take(&mut queue, 1, 1), Some(completion(0, 2, 0).event));
        let mut queue = Queue::new();
        let ordered = |token, until| Held { fifo: true, ..completion(0, token, until) };
        [ordered(1, 5), ordered(2, 0)].into_iter().for_each(|held| queue.push(held));
        assert_eq!(take(&mut queue, 1, 1), None);
        // Another connection, or the other way, has an order of its own.
        queue.push(Held { way: Some((conn(0), Way::Recv)), ..ordered(3, 0) });
        assert_eq!(take(&mut queue, 1, 1), Some(ordered(3, 0).event));
    }
}
