//! Good backends keep all laws.

mod reference;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use p2p_conformance::{Bounds, Harness, Law, SEED_VARIABLE, SKIPS_VARIABLE, check};
use p2p_transport::{Now, Transport};
use reference::{Bug, Reference};

p2p_conformance::conformance!(ordered, Reference::new(Bug::None));
p2p_conformance::conformance!(unordered, Reference::unordered());
p2p_conformance::conformance!(poor, Reference::poor());
p2p_conformance::conformance!(incapable, Incapable(Reference::new(Bug::None)));

/// A harness that can do no more than it must.
struct Incapable(Reference);

impl Harness for Incapable {
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2] {
        self.0.ends(seed)
    }

    fn step(&mut self) -> Now {
        self.0.step()
    }

    fn bounds(&self) -> Bounds {
        self.0.bounds()
    }

    fn not_applicable(&self, law: Law) -> Option<&'static str> {
        (law == Law::SameTrace).then_some("nobody knows whether it is deterministic")
    }
}

/// A harness that wants to leave out laws that it can take.
struct Excuse(Reference);

impl Harness for Excuse {
    fn ends(&mut self, seed: u64) -> [Box<dyn Transport>; 2] {
        self.0.ends(seed)
    }

    fn step(&mut self) -> Now {
        self.0.step()
    }

    fn bounds(&self) -> Bounds {
        self.0.bounds()
    }

    fn not_applicable(&self, _: Law) -> Option<&'static str> {
        Some("no time")
    }

    fn deterministic(&self) -> bool {
        true
    }
}

#[test]
fn an_excuse_is_refused() {
    for law in Law::ALL {
        let run = AssertUnwindSafe(|| check(law, &mut Excuse(Reference::new(Bug::None))));
        assert!(catch_unwind(run).is_err(), "{law:?}");
    }
}

#[test]
fn who_allocates_may_leave_that_law_out_and_who_is_broken_may_not() {
    check(Law::NoAllocation, &mut Excuse(Reference::new(Bug::ListPerPoll)));
    let lost =
        AssertUnwindSafe(|| check(Law::NoAllocation, &mut Excuse(Reference::new(Bug::BusyAfterCancel))));
    let panic = catch_unwind(lost).expect_err("it breaks another law");
    let text = panic.downcast::<String>().expect("a law fails with a formatted message");
    assert!(text.contains("a round of the allocation law completes") || text.contains("fit"), "{text}");
}

/// Runs tests of this program, and returns what they listed as not tested.
fn listed(filter: &str) -> Vec<String> {
    let name = format!("p2p-laws-left-out-{}-{}", filter.replace(':', "-"), std::process::id());
    let list = std::env::temp_dir().join(name);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let output = command.arg(filter).env(SKIPS_VARIABLE, &list).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&list).expect("the list was written");
    std::fs::remove_file(&list).expect("the list can be removed");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_law_left_out_is_listed_with_its_reason() {
    assert_eq!(listed("poor::"), ["poor::law_15_too_long: this variant checks no lengths"]);
}

/// Once for each test, however many seeds it runs with.
#[test]
fn parts_of_laws_that_are_left_out_are_listed_with_their_reasons() {
    let silent = "a peer that falls silent, not only dropped, because the harness cannot inject KillPeer";
    let part = |law: &str, part: &str| format!("incapable::{law}: in part: not checked: {part}");
    let cut = "a connection that is cut while both ends live, because the harness cannot inject CutLink";
    let refused = "a registration that fails, because the harness cannot inject FailRegistration";
    let expected = [
        part("law_06_close", cut),
        part("law_07_retired", refused),
        part("law_12_bounded_work", "what a call costs, because the harness counts no work"),
        part("law_17_death", silent),
        "incapable::law_22_same_trace: nobody knows whether it is deterministic".to_owned(),
    ];
    assert_eq!(listed("incapable::"), expected);
}

#[test]
fn one_seed_is_replayed() {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["ordered::law_03_order", "--exact", "--nocapture"]).env(SEED_VARIABLE, "77");
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr);
    let runs: Vec<&str> = text.lines().filter(|line| line.starts_with("law 03")).collect();
    assert_eq!(runs, ["law 03, seed 77: P2P_LAW_SEED=77 replays it"]);
}

#[test]
fn a_seed_that_is_no_number_is_a_failure() {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["ordered::law_03_order", "--exact"]).env(SEED_VARIABLE, "seven");
    let output = command.output().expect("it starts");
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("P2P_LAW_SEED=seven is no seed"), "{text}");
}
