//! Good backends keep all laws.

mod reference;

use reference::{Bug, Reference};

p2p_conformance::conformance!(ordered, Reference::new(Bug::None));
p2p_conformance::conformance!(unordered, Reference::unordered());
p2p_conformance::conformance!(poor, Reference::poor());
