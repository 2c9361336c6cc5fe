//! The window against two queues: one of what is in flight, one of what is held.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{Full, Window};

#[derive(Clone, Copy, Debug)]
enum Step {
    Post,
    Finish,
    Release,
}

fn origin() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), (0..40_u32).prop_map(|back| u32::MAX - back), any::<u32>()]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![4 => Just(Step::Post), 3 => Just(Step::Finish), 3 => Just(Step::Release)];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn behaves_like_two_queues(origin in origin(), limit in 1..=16_usize, steps in steps()) {
        let mut window = Window::<u32, 16>::at(origin).with_limit(limit).unwrap();
        let (mut in_flight, mut held) = (VecDeque::new(), VecDeque::new());
        for (value, step) in (0..).zip(steps) {
            match step {
                Step::Post if in_flight.len() + held.len() < limit => {
                    prop_assert_eq!(window.post(value), Ok(()));
                    in_flight.push_back(value);
                }
                Step::Post => prop_assert_eq!(window.post(value), Err(Full(value))),
                Step::Finish => {
                    prop_assert_eq!(window.finish_oldest(), !in_flight.is_empty());
                    held.extend(in_flight.pop_front());
                }
                Step::Release => prop_assert_eq!(window.release_oldest(), held.pop_front()),
            }
            prop_assert_eq!(window.oldest_in_flight().copied(), in_flight.front().copied());
            prop_assert_eq!(window.oldest_held().copied(), held.front().copied());
            prop_assert_eq!(window.newest_held().copied(), held.back().copied());
            prop_assert_eq!(window.in_flight(), in_flight.len());
            prop_assert_eq!(window.held(), held.len());
            prop_assert_eq!(window.free(), limit - in_flight.len() - held.len());
            prop_assert_eq!(window.is_empty(), in_flight.is_empty() && held.is_empty());
            let outstanding: Vec<u32> = window.outstanding().copied().collect();
            let expected: Vec<u32> = held.iter().chain(&in_flight).copied().collect();
            prop_assert_eq!(outstanding, expected);
        }
    }
}

#[test]
fn a_limit_lies_between_one_and_the_ring() {
    assert!(Window::<(), 16>::new().with_limit(0).is_none());
    assert!(Window::<(), 16>::new().with_limit(17).is_none());
    assert_eq!(Window::<(), 16>::new().with_limit(16).unwrap().free(), 16);
    assert_eq!(Window::<(), 16>::new().with_limit(1).unwrap().limit(), 1);
}
