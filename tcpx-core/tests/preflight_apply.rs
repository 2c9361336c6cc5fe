//! Writing the preflight's values into the environment; alone in its process, because it changes it.

use std::env;
use std::path::PathBuf;

use tcpx_core::config::Config;
use tcpx_core::preflight::{Assignment, Check, Findings, Refusal, Subject, apply};

const CHUNK: &str = "NCCL_DYNAMIC_CHUNK_SIZE";
const WAIT: &str = "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS";

#[test]
fn assignments_reach_the_environment_unless_something_is_refused() {
    let assign = |variable, value: &str| Assignment { variable, value: value.to_owned(), reason: "a test" };
    let mut findings =
        Findings { assignments: vec![assign(CHUNK, "524288"), assign(WAIT, "50000")], ..Findings::default() };
    findings.refusals.push(Refusal {
        check: Check::NoDriver,
        subject: Subject::File(PathBuf::from("/proc/driver/nvidia/version")),
        consequence: "it does not exist".to_owned(),
        mend: "install the driver".to_owned(),
    });
    let before: Vec<_> = env::vars_os().collect();

    // SAFETY: the only test of this process; its other thread waits for this one.
    let refused = unsafe { apply(&findings) }.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the net plugin is not started: /proc/driver/nvidia/version: it does not exist; install the driver"
    );
    assert_eq!(env::vars_os().collect::<Vec<_>>(), before);

    findings.refusals.clear();
    // SAFETY: as above.
    unsafe { apply(&findings) }.unwrap();
    assert_eq!(env::var(CHUNK).unwrap(), "524288");
    assert_eq!(env::var(WAIT).unwrap(), "50000");
    let config = Config::from_process().unwrap();
    assert_eq!(config.dynamic_chunk_size.value.get(), 524_288);
    assert_eq!(config.flow_steering_wait_micros.value.get(), 50_000);
}
