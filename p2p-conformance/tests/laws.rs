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
        assert_eq!(catch_unwind(run).is_err(), law != Law::NoAllocation, "{law:?}");
    }
}

#[test]
fn a_law_left_out_is_listed_with_its_reason() {
    let list = std::env::temp_dir().join(format!("p2p-laws-left-out-{}", std::process::id()));
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let output = command.arg("poor::law_15").env(SKIPS_VARIABLE, &list).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&list).expect("the list was written");
    std::fs::remove_file(&list).expect("the list can be removed");
    assert_eq!(text, "poor::law_15_too_long: this variant checks no lengths\n");
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
