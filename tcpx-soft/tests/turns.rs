//! Sockets of one lane take turns, and none of them waits for ever for another one.

mod support;

use support::child::in_child;
use support::drive::{self, Memory, close, pair, post_receive, post_send, start, until};
use support::{Net, Pointer, pattern};

const ONE_LANE: &[(&str, &str)] = &[("TCPX_SOFT_LANES", "1")];
/// More than a connection of this machine takes in while nobody receives.
const LONG: usize = 64 << 20;
/// One chunk that is longer than a turn.
const MEDIUM: usize = 12 << 20;

/// A message on its way, on comms of its own.
struct Message {
    comms: (Pointer, Pointer),
    from: Memory,
    into: Memory,
    left: Vec<Pointer>,
    seed: u64,
}

impl Message {
    fn new(net: Net, seed: u64, length: usize) -> Self {
        let comms = pair(net);
        let from = Memory::patterned(net, comms.0, seed, length);
        let into = Memory::zeroed(net, comms.1, length);
        Self { comms, from, into, left: Vec::new(), seed }
    }

    /// Received from the beginning on.
    fn start(&mut self, net: Net) {
        let receive = post_receive(net, self.comms.1, &mut self.into);
        self.left = vec![post_send(net, self.comms.0, &self.from), receive];
    }

    fn is_over(&mut self, net: Net) -> bool {
        self.left.retain(|request| !net.test(*request).1);
        self.left.is_empty()
    }

    fn check(self, net: Net) {
        let Self { comms, from, into, seed, .. } = self;
        assert!(into.bytes == pattern(seed, into.bytes.len()), "message {seed}");
        net.dereg_mr(comms.0, from.handle);
        net.dereg_mr(comms.1, into.handle);
        close(net, comms);
    }
}

#[test]
fn who_is_not_received_from_keeps_nobody_waiting() {
    in_child("who_is_not_received_from_keeps_nobody_waiting", ONE_LANE, || {
        let net = start();
        let mut stuck = Vec::new();
        for seed in 0..3 {
            let comms = pair(net);
            let from = Memory::patterned(net, comms.0, seed, LONG);
            let send = post_send(net, comms.0, &from);
            // Until this one is made, the lane has long been asleep, and then nothing but the time wakes it again.
            let mut beside = Message::new(net, 100 + seed, MEDIUM);
            beside.start(net);
            until("a message beside one that is stuck", || beside.is_over(net).then_some(()));
            beside.check(net);
            assert!(!net.test(send).1, "nobody receives it");
            stuck.push((comms, from, send));
        }
        for (seed, (comms, from, send)) in (0..).zip(stuck) {
            let mut into = Memory::zeroed(net, comms.1, LONG);
            let left = vec![post_receive(net, comms.1, &mut into), send];
            let mut message = Message { comms, from, into, left, seed };
            until("a message that was stuck", || message.is_over(net).then_some(()));
            message.check(net);
        }
        drive::no_panic();
    });
}

/// A lane that sleeps while one socket keeps another one waiting is woken by nothing but the time.
#[test]
fn who_begins_to_be_stuck_keeps_nobody_waiting() {
    in_child("who_begins_to_be_stuck_keeps_nobody_waiting", ONE_LANE, || {
        let net = start();
        let mut random = drive::Random::seeded();
        for seed in 0..40 {
            let comms = pair(net);
            let from = Memory::zeroed(net, comms.0, LONG);
            let mut beside = Message::new(net, seed, MEDIUM);
            let send = post_send(net, comms.0, &from);
            for _ in 0..random.below(10_000) {
                assert!(!net.test(send).1, "nobody receives it");
            }
            beside.start(net);
            until("a message beside one that is stuck", || beside.is_over(net).then_some(()));
            beside.check(net);
            assert_eq!(net.close_send(comms.0), 0);
            assert_eq!(net.close_recv(comms.1), 0);
        }
        drive::no_panic();
    });
}

#[test]
fn whoever_ends_in_the_middle_of_a_turn_passes_it_on() {
    in_child("whoever_ends_in_the_middle_of_a_turn_passes_it_on", ONE_LANE, || {
        let net = start();
        let mut random = drive::Random::seeded();
        for _ in 0..12 {
            let mut messages: Vec<_> = (0..6).map(|seed| Message::new(net, seed, MEDIUM)).collect();
            messages.iter_mut().for_each(|message| message.start(net));
            for closes_receiver in [false, true] {
                // Nothing moves that nobody asks for.
                for _ in 0..1 + random.below(100) {
                    for message in &mut messages {
                        message.is_over(net);
                    }
                }
                let gone = messages.swap_remove(random.below(messages.len()));
                let (send, receive) = gone.comms;
                if closes_receiver {
                    assert_eq!(net.close_recv(receive), 0);
                    assert_eq!(net.close_send(send), 0);
                } else {
                    assert_eq!(net.close_send(send), 0);
                    assert_eq!(net.close_recv(receive), 0);
                }
            }
            for mut message in messages {
                until("one of those that stay", || message.is_over(net).then_some(()));
                message.check(net);
            }
        }
        drive::no_panic();
    });
}
