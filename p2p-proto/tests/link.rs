//! Two links, each the other's peer, over rails and a control stream that do anything they may.

#[path = "link/cases.rs"]
mod cases;
#[path = "link/check.rs"]
mod check;
#[path = "link/memory.rs"]
mod memory;
#[path = "link/random.rs"]
mod random;
#[path = "link/run.rs"]
mod run;
#[path = "link/script.rs"]
mod script;
#[path = "link/world.rs"]
mod world;

use proptest::prelude::*;

use crate::script::Faults;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_where_it_belongs(script in script::scripts(Faults::None)) {
        script.run();
    }

    #[test]
    fn lost_rails_fail_what_was_on_them(script in script::scripts(Faults::Rails)) {
        script.run();
    }

    #[test]
    fn a_lost_link_ends_everything(script in script::scripts(Faults::Link)) {
        script.run();
    }
}
