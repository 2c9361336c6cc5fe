//! The 22 laws of [`p2p_transport`] as tests, for every backend.
//!
//! # How to mount them
//!
//! Implement [`Harness`] for a type of the backend's tests: three methods are enough. Then write, in a file of
//! `tests/`:
//!
//! ```ignore
//! p2p_conformance::conformance!(my_backend, MyHarness::new());
//! ```
//!
//! It expands to a module of that name with one `#[test]` per law, `law_01_completes_once` to
//! `law_22_same_trace`. The expression is evaluated once in each of them, and may use what is in scope where
//! the macro stands. [`check`] checks one law, for those who want no macro.
//!
//! A law runs with several seeds. A failure says which law was broken, what was expected, what came, and the
//! seed; `P2P_LAW_SEED=7` runs the same again with that seed alone. Each law ends: it gives up after a bound
//! on the harness's own clock ([`Bounds`]) or a number of steps, whichever comes first.
//!
//! A law that the backend cannot take is left out with a reason ([`Harness::not_applicable`]), which is
//! printed and added to the file that `P2P_TEST_SKIPS` names. The suite refuses a reason for a law that the
//! backend could take. A part of a law that needs what the harness cannot do is listed in the same way.
//!
//! Law 20 counts what the test's thread allocates. The counting allocator comes with the crate
//! `allocation-counter` and is installed by linking this one: a test binary that mounts the laws must have no
//! `#[global_allocator]` of its own.
//!
//! # What it never does
//!
//! It never looks behind [`Transport`](p2p_transport::Transport), measures no time, and contains no `unsafe`.

#![forbid(unsafe_code)]

mod flow;
mod harness;
mod law;
mod laws;
mod random;
mod rig;

pub use harness::{Bounds, Harness, HarnessFault, Probe};
pub use law::{Law, SEED_VARIABLE, SKIPS_VARIABLE, check};

/// Expands to a module with one test per law: `conformance!(name_of_the_module, harness_expression)`.
#[macro_export]
macro_rules! conformance {
    ($name:ident, $harness:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "the expression may name what is in scope")]
            use super::*;

            $crate::conformance!(@tests $harness;
                law_01_completes_once CompletesOnce,
                law_02_rejected_suffix RejectedSuffix,
                law_03_order Order,
                law_04_done_is_visible DoneIsVisible,
                law_05_nothing_outside NothingOutside,
                law_06_close Close,
                law_07_retired Retired,
                law_08_retire_in_flight RetireInFlight,
                law_09_stale_ids StaleIds,
                law_10_one_event OneEvent,
                law_11_busy_clears BusyClears,
                law_12_bounded_work BoundedWork,
                law_13_windows Windows,
                law_14_messages Messages,
                law_15_too_long TooLong,
                law_16_both_ways BothWays,
                law_17_death Death,
                law_18_cancel Cancel,
                law_19_drop Drop,
                law_20_no_allocation NoAllocation,
                law_21_runs_end RunsEnd,
                law_22_same_trace SameTrace,
            );
        }
    };
    (@tests $harness:expr; $($test:ident $law:ident,)*) => {
        $(
            #[test]
            fn $test() {
                $crate::check($crate::Law::$law, &mut $harness);
            }
        )*
    };
}
