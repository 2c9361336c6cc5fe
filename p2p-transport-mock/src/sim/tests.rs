//! The simulation finds nothing in the world as it is, and every bug that is planted in it.

use proptest::prelude::{ProptestConfig, proptest};

use super::{Options, Outcome, run, run_planted};
use crate::planted::Planted;
use crate::{At, Fault, FaultKind, Personality, Script, Strikes};

/// Fails with what was found, and how to see it again.
fn clean(outcome: &Outcome) {
    assert!(outcome.findings.is_empty(), "{:#?}\nto do it again: {}", outcome.findings, outcome.replay());
}

#[test]
fn hundreds_of_seeds_find_nothing() {
    let mut strikes = Strikes::default();
    for seed in 1..=400 {
        let outcome = run(seed, &Options::default());
        clean(&outcome);
        strikes.add(&outcome.strikes);
    }
    for kind in FaultKind::ALL {
        assert!(strikes.of(kind) > 0, "{kind:?} never struck");
    }
}

/// Receives that were posted just before the bound of a close, and connections that broke just then.
#[test]
fn seeds_that_once_found_something_find_nothing() {
    for seed in [130_196, 154_600, 156_807, 193_455, 212_601] {
        clean(&run(seed, &Options::default()));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=30 {
        let [first, second] = [0; 2].map(|_| run(seed, &Options::default()));
        assert_eq!((first.trace, first.steps, first.took), (second.trace, second.steps, second.took));
        let other = run(seed + 1, &Options::default());
        assert_ne!(first.trace, other.trace, "seeds {seed} and {}", seed + 1);
    }
}

#[test]
fn both_personalities_run_without_faults() {
    for personality in [Personality::Plugin, Personality::Rdma] {
        let options = Options { personality: Some(personality), script: Some(Script::default()) };
        for seed in 1..=60 {
            clean(&run(seed, &options));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A failing script is shrunk to fewer and milder faults.
    #[test]
    fn no_script_breaks_the_world(
        seed in 0_u64..1_000_000,
        script in Script::strategy(20, std::time::Duration::from_millis(1)),
    ) {
        clean(&run(seed, &Options { script: Some(script), ..Options::default() }));
    }
}

#[test]
fn a_replay_names_what_the_seed_does_not_decide() {
    assert_eq!(run(3, &Options::default()).replay(), "cargo xtask sim --seeds 1 --seed 3");
    let script = Script(vec![(At::Message(7), Fault::LinkDeath { link: 2 })]);
    let scripted = run(3, &Options { script: Some(script), ..Options::default() }).replay();
    let personal = run(3, &Options { personality: Some(Personality::Rdma), ..Options::default() }).replay();
    assert!(scripted.contains("Message(7), LinkDeath { link: 2 }"), "{scripted}");
    assert!(personal.contains("Some(Rdma)"), "{personal}");
    for replay in [scripted, personal] {
        assert!(replay.contains("the seed alone does not do it") && !replay.contains("xtask"), "{replay}");
    }
}

/// A run stops at the first thing the world itself finds, and says when.
#[test]
fn a_run_ends_with_the_first_finding() {
    let whole = run(1, &Options::default());
    let broken = run_planted(1, &Options::default(), Some(Planted::UsersMiscounted));
    let first = broken.findings.first().expect("a finding");
    assert!(first.contains("users, counts"), "{first}");
    assert!(2 * broken.steps < whole.steps, "{} of {} steps", broken.steps, whole.steps);
}

/// The first seed that finds the bug, out of so many.
fn found(bug: Planted, within: u64) {
    let finds = |seed: &u64| !run_planted(*seed, &Options::default(), Some(bug)).findings.is_empty();
    let first = (1..=within).find(finds);
    println!("{bug:?} is found by seed {first:?}");
    assert!(first.is_some(), "{bug:?} is not found within {within} seeds");
}

macro_rules! planted {
    ($($name:ident: $bug:ident within $seeds:literal,)*) => {$(
        #[test]
        fn $name() {
            found(Planted::$bug, $seeds);
        }
    )*};
}

planted! {
    a_completion_reported_twice_is_found: CompletionTwice within 10,
    a_region_freed_too_early_is_found: RegionFreedEarly within 20,
    a_region_reported_too_early_is_found: RetiredEarly within 20,
    a_lost_closed_is_found: ClosedLost within 10,
    a_closed_before_its_operations_is_found: ClosedEarly within 10,
    a_window_that_is_one_too_large_is_found: WindowTooLarge within 50,
    a_shifted_scatter_list_is_found: ScatterShifted within 10,
    a_completion_before_its_bytes_is_found: CompletionBeforeBytes within 10,
    a_message_lost_by_a_close_is_found: LostAfterClose within 50,
    a_stale_connection_that_is_accepted_is_found: StaleIdAccepted within 20,
    a_cancel_with_two_events_is_found: CancelReportsTwice within 10,
    a_cancel_of_what_has_started_is_found: CancelStarted within 10,
    a_notification_before_its_bytes_is_found: NotifyBeforeBytes within 20,
    a_swapped_order_is_found: OrderSwapped within 20,
    swapped_completions_are_found: CompletionsSwapped within 10,
    busy_that_never_clears_is_found: BusyForever within 20,
    a_retired_region_that_is_accepted_is_found: RetiredAccepted within 50,
    memory_read_after_its_send_was_done_is_found: ReadAfterDone within 10,
    a_wrong_length_is_found: WrongLength within 10,
    a_stale_key_that_is_accepted_is_found: StaleKeyAccepted within 50,
    a_lost_control_byte_is_found: ControlLost within 50,
    a_suffix_that_was_taken_is_found: SuffixTaken within 50,
    a_message_too_long_by_one_is_found: OverrunByOne within 1000,
    a_user_too_many_is_found_while_it_is_there: UsersMiscounted within 10,
}
