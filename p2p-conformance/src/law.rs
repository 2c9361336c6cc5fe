//! The laws by number, and how one of them is checked.

use std::env::VarError;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::Harness;
use crate::laws;
use crate::rig::Rig;

/// Environment variable: the one seed to run a law with, to replay a failure.
pub const SEED_VARIABLE: &str = "P2P_LAW_SEED";
/// Environment variable: the file to which a law that does not apply, or of which the harness cannot do a part,
/// adds a line with the reason.
pub const SKIPS_VARIABLE: &str = "P2P_TEST_SKIPS";

macro_rules! laws {
    ($($number:literal $name:ident $function:path, $words:literal;)*) => {
        /// One of the 22 laws of [`p2p_transport`].
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Law {
            $(#[doc = $words] $name = $number,)*
        }

        impl Law {
            /// All of them, in order.
            pub const ALL: [Self; 22] = [$(Self::$name,)*];

            /// Its words.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }

            /// Its body, for one seed.
            fn body(self) -> fn(&mut Rig<'_>) {
                match self { $(Self::$name => $function,)* }
            }
        }
    };
}

laws! {
    1 CompletesOnce laws::completion::once, "Every accepted operation completes exactly once.";
    2 RejectedSuffix laws::windows::rejected, "A rejected suffix of a batch has no effect and no events.";
    3 Order laws::completion::order,
        "The k-th send meets the k-th receive; completions are in order where `Limits::fifo`.";
    4 DoneIsVisible laws::completion::visible, "`Done` implies that the bytes are equal and visible.";
    5 NothingOutside laws::memory::outside, "Bytes outside the slices never change.";
    6 Close laws::closing::close, "Close: all operations end, then `Closed`, then silence.";
    7 Retired laws::memory::retired, "`Retired` only at quiescence; `reclaim` returns the same owner.";
    8 RetireInFlight laws::memory::in_flight,
        "Retire during flight lets what flies end; submit after retire ends `BadSlice`.";
    9 StaleIds laws::stale::stale, "Stale ids are misuse, and change nothing.";
    10 OneEvent laws::completion::one_event, "An event buffer of size 1 loses nothing.";
    11 BusyClears laws::windows::busy, "`Busy` clears after a completion.";
    12 BoundedWork laws::effort::bounded, "A data-plane call does bounded work.";
    13 Windows laws::windows::exact, "Exactly `max_sends` and `max_recvs` fit.";
    14 Messages laws::messages::shapes,
        "Messages of length zero and of maximum length, of one slice and of `max_slices`, cut differently \
         at both ends, arrive.";
    15 TooLong laws::messages::too_long,
        "Where `Limits::checks_length`: too long a message is a fault of its receive, at most of its \
         connection, and overruns nothing.";
    16 BothWays laws::windows::both_ways, "Traffic both ways at full windows does not deadlock.";
    17 Death laws::closing::death, "The death of a peer is noticed within a bound.";
    18 Cancel laws::cancel::cancel, "Cancel yields exactly one event either way.";
    19 Drop laws::dropping::dropping, "Drop in any state leaks nothing and frees nothing wrongly.";
    20 NoAllocation laws::effort::allocation, "No allocation after a warm-up.";
    21 RunsEnd laws::runs::end, "Every run ends.";
    22 SameTrace laws::runs::same, "Same seed, same trace, of backends that are deterministic.";
}

impl Law {
    /// Its number, from 1.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether a backend may be such that the law does not apply: one that cannot check lengths (15), that is
    /// not deterministic (22), or whose plugin allocates behind its back (20). All other laws need nothing
    /// but the trait.
    pub const fn may_be_left_out(self) -> bool {
        matches!(self, Self::TooLong | Self::SameTrace | Self::NoAllocation)
    }
}

/// Checks one law, with as many seeds as the harness wants or with the one in [`SEED_VARIABLE`]. What
/// [`conformance!`](crate::conformance) expands to.
///
/// # Panics
///
/// If the law is broken: the message names the law, what was expected, what came, and the seed. Also if the law
/// is left out and could be taken, or if [`SEED_VARIABLE`] is no number.
pub fn check(law: Law, harness: &mut dyn Harness) {
    if let Some(reason) = harness.not_applicable(law) {
        refuse_wrong_reason(law, harness, reason);
        println!("{}: not applicable: {} {reason}", test(), law.words());
        list(reason);
        return;
    }
    let number = law.number();
    if law == Law::SameTrace {
        assert!(
            harness.deterministic(),
            "law {number:02}: the harness says that it is not deterministic; expected a reason from \
             Harness::not_applicable, and none came"
        );
    }
    let seeds = replayed().map_or(1..=harness.seeds().max(1), |seed| seed..=seed);
    let mut left_out = Vec::new();
    for seed in seeds {
        eprintln!("law {number:02}, seed {seed}: {SEED_VARIABLE}={seed} replays it");
        let mut rig = Rig::new(law, harness, seed);
        law.body()(&mut rig);
        for part in rig.into_left_out() {
            // Each seed leaves out the same.
            if !left_out.contains(&part) {
                println!("{}: in part: {} {part}", test(), law.words());
                list(&format!("in part: {part}"));
                left_out.push(part);
            }
        }
    }
}

/// The one seed that is asked for.
fn replayed() -> Option<u64> {
    match std::env::var(SEED_VARIABLE) {
        Ok(seed) => match seed.parse() {
            Ok(seed) => Some(seed),
            Err(error) => panic!("{SEED_VARIABLE}={seed} is no seed: {error}"),
        },
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("{SEED_VARIABLE} is no seed: {error}"),
    }
}

/// A law that could run must run.
fn refuse_wrong_reason(law: Law, harness: &mut dyn Harness, reason: &str) {
    let number = law.number();
    assert!(!reason.is_empty(), "law {number:02}: not applicable without a reason");
    assert!(
        law.may_be_left_out(),
        "law {number:02} applies to every backend; it cannot be left out: {reason}"
    );
    if law == Law::SameTrace {
        assert!(!harness.deterministic(), "law {number:02}: a deterministic harness can take it: {reason}");
    }
    if law == Law::TooLong {
        let mut rig = Rig::new(law, harness, 1);
        rig.connect();
        let checks = rig.limits(0).checks_length && rig.limits(1).checks_length;
        assert!(!checks, "law {number:02}: the backend checks lengths, so it can take it: {reason}");
    }
    if law == Law::NoAllocation {
        let broken = (1..=harness.seeds().max(1)).any(|seed| allocates(law, harness, seed));
        assert!(broken, "law {number:02}: the backend allocates nothing, so it can take it: {reason}");
    }
}

/// Whether the law of no allocation is broken by an allocation; any other failure goes on.
fn allocates(law: Law, harness: &mut dyn Harness, seed: u64) -> bool {
    let run = AssertUnwindSafe(|| law.body()(&mut Rig::new(law, harness, seed)));
    let Err(panic) = catch_unwind(run) else { return false };
    let text = panic.downcast_ref::<String>();
    if text.is_some_and(|text| text.contains(laws::effort::NONE_EXPECTED)) {
        true
    } else {
        resume_unwind(panic)
    }
}

/// The name of the test that runs.
fn test() -> String {
    std::thread::current().name().unwrap_or("a law").to_owned()
}

/// Adds a line to the list of what was not tested.
fn list(reason: &str) {
    let test = test();
    let Some(path) = std::env::var_os(SKIPS_VARIABLE) else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| writeln!(file, "{test}: {reason}"));
    written.expect("the file of skipped tests can be written");
}
