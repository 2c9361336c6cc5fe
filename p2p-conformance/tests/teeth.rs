//! Each mistake is killed by the law that is named beside it.

mod reference;

use std::panic::{AssertUnwindSafe, catch_unwind};

use p2p_conformance::{Law, check};
use reference::{Bug, Reference};

/// The law must fail by itself and say so.
fn killed(bug: Bug, law: Law) {
    let run = AssertUnwindSafe(|| check(law, &mut Reference::new(bug)));
    let Err(panic) = catch_unwind(run) else { panic!("{bug:?} survives law {}", law.number()) };
    let text = panic.downcast::<String>().expect("a law fails with a formatted message");
    let expected = format!("law {:02} broken", law.number());
    assert!(text.starts_with(&expected), "{bug:?}: expected {expected:?}, and this came: {text}");
    println!("{bug:?}: {text}");
}

macro_rules! tests {
    ($($name:ident $law:ident $test:ident $words:literal;)*) => {
        $(
            #[doc = $words]
            #[test]
            fn $test() {
                killed(Bug::$name, Law::$law);
            }
        )*
    };
}
reference::bug::table!(tests);

#[test]
fn every_law_kills_at_least_one() {
    for law in Law::ALL {
        assert!(Bug::ALL.iter().any(|(_, by)| *by == law), "no mistake is made for law {}", law.number());
    }
}
