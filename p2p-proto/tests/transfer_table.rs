//! Every input in every state of a transfer, against the table that lies beside this file.

use std::fmt::Write as _;

use p2p_proto::transfer::{Input, Part, State, Step, step};

/// The table as text: one block for each part, one line for each input, one column for each state.
fn table() -> String {
    let mut text = String::from("What each input (line) does in each state (column). A point: nothing.\n");
    for part in Part::ALL {
        let _ = write!(text, "\n{:<14}", format!("{part:?}"));
        for state in State::ALL {
            let _ = write!(text, " {:<10}", format!("{state:?}"));
        }
        for input in Input::ALL {
            let _ = write!(text, "\n{:<14}", format!("{input:?}"));
            for state in State::ALL {
                let _ = write!(text, " {:<10}", step(part, state, input).to_string());
            }
        }
        text.push('\n');
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn the_table_is_as_reviewed() {
    let now = table();
    assert_eq!(now, include_str!("transfer_table.txt"), "if this change is wanted, the table is now:\n{now}");
}

#[test]
fn what_is_over_never_opens_again() {
    for part in Part::ALL {
        for state in State::ALL.into_iter().filter(|state| !state.is_open()) {
            for input in Input::ALL {
                if let Step::To(next) = step(part, state, input) {
                    assert!(!next.is_open(), "{part:?} {state:?} {input:?} -> {next:?}");
                }
            }
        }
    }
}

#[test]
fn only_words_of_the_peer_are_breaches() {
    let here = [
        Input::Ready,
        Input::Covered,
        Input::Landed,
        Input::Quiet,
        Input::Refuse,
        Input::Lose,
        Input::Abandon,
    ];
    for part in Part::ALL {
        for state in State::ALL {
            for input in here {
                assert_ne!(step(part, state, input), Step::Breach, "{part:?} {state:?} {input:?}");
            }
        }
    }
}
