//! The window in front of the soft plugin: whatever order things are done in, what it hands out is what the
//! plugin accepts.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "../../tcpx-soft/tests/support/mod.rs"]
mod raw;

use std::collections::VecDeque;

use proptest::prelude::*;
use raw::Pointer;
use raw::child::in_child;
use raw::drive::{self, Memory};
use tcpx_core::window::Window;

#[derive(Clone, Copy, Debug)]
enum Step {
    Send,
    Receive,
    TestSend,
    TestReceive,
    Consume,
}

fn origin() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), (0..40_u32).prop_map(|back| u32::MAX - back), any::<u32>()]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Send),
        3 => Just(Step::Receive),
        4 => Just(Step::TestSend),
        4 => Just(Step::TestReceive),
        2 => Just(Step::Consume),
    ];
    proptest::collection::vec(step, 1..300)
}

/// Runs the steps over a fresh pair of comms, with the windows' cursors starting at `origin`.
fn run(origin: u32, steps: &[Step]) -> Result<(), TestCaseError> {
    let net = drive::start();
    let comms = drive::pair(net);
    let from = Memory::patterned(net, comms.0, 1, 3_000);
    let mut into = Memory::zeroed(net, comms.1, 3_000);
    let mut sends = Window::<Pointer, 16>::at(origin).with_limit(12).unwrap();
    let mut receives = Window::<Pointer, 16>::at(origin);
    let (mut sent, mut posted, mut held) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    for step in steps {
        match step {
            Step::Send if sends.free() > 0 => {
                let request = drive::post_send(net, comms.0, &from);
                prop_assert!(sends.post(request).is_ok());
                sent.push_back(request);
            }
            Step::Receive if receives.free() > 0 => {
                let request = drive::post_receive(net, comms.1, &mut into);
                prop_assert!(receives.post(request).is_ok());
                posted.push_back(request);
            }
            Step::Send => prop_assert_eq!(sent.len(), 12),
            Step::Receive => prop_assert_eq!(posted.len() + held.len(), 16),
            Step::TestSend => {
                let oldest = sends.oldest_in_flight().copied();
                prop_assert_eq!(oldest, sent.front().copied());
                let Some(oldest) = oldest else { continue };
                let (code, done, _) = net.test(oldest);
                prop_assert_eq!(code, 0);
                if done {
                    prop_assert!(sends.finish_oldest());
                    prop_assert_eq!(sends.release_oldest(), sent.pop_front());
                }
            }
            Step::TestReceive => {
                let oldest = receives.oldest_in_flight().copied();
                prop_assert_eq!(oldest, posted.front().copied());
                let Some(oldest) = oldest else { continue };
                let (code, done, _) = net.test(oldest);
                prop_assert_eq!(code, 0);
                if done {
                    prop_assert!(receives.finish_oldest());
                    held.extend(posted.pop_front());
                }
            }
            Step::Consume => {
                let oldest = receives.release_oldest();
                prop_assert_eq!(oldest, held.pop_front());
                if let Some(oldest) = oldest {
                    prop_assert_eq!(net.consumed(comms.1, oldest), 0);
                }
            }
        }
    }
    drive::close(net, comms);
    Ok(())
}

fn many() {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(origin in origin(), steps in steps())| run(origin, &steps)?);
}

#[test]
fn the_plugin_accepts_whatever_the_window_hands_out() {
    many();
}

#[test]
fn strict_the_plugin_accepts_whatever_the_window_hands_out() {
    let variables = [("TCPX_SOFT_STRICT", "1"), ("TCPX_SOFT_MODE", "unpack")];
    in_child("strict_the_plugin_accepts_whatever_the_window_hands_out", &variables, many);
}
