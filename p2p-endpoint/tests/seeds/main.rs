//! What went wrong in the hand-written engines before this one, as tests: each fails when the mistake is made again.
//! `tests/planted` at the top of the workspace has the mistakes, as patches.

#[path = "../support/mod.rs"]
mod support;

mod accounting;
mod both_wait;
mod buffers;
mod closing;
mod concurrent;
mod listening;
mod lives;
mod window;

use p2p_transport_mock::Settings;

/// Runs a test in a world of either personality.
fn both(mut test: impl FnMut(Settings)) {
    test(Settings::plugin());
    test(Settings::rdma());
}

/// Runs a test in a process of its own, because it counts what its process has.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "P2P_TEST_ALONE";
    if std::env::var(ALONE).is_ok_and(|running| running == name) {
        return test();
    }
    let this = std::env::current_exe().expect("this test");
    let mut command = std::process::Command::new(this);
    let output = command.args(["--exact", name, "--nocapture"]).env(ALONE, name).output();
    let output = output.expect("a process");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success() && said[0].contains("1 passed"), "{}\n{}", said[0], said[1]);
}
