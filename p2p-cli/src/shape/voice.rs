//! To whom a process says what it comes to, as it goes on.

use serde::{Deserialize, Serialize};

use super::report::{Phase, Report};
use super::table;
use crate::failure::Failure;
use crate::output;

/// Who listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Voice {
    /// Nobody: another process of the run says the same.
    Silent,
    /// A person.
    Person,
    /// The process that started this one.
    Parent,
}

/// A line for the process that started this one.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Line {
    Phase(Phase),
    Moving { text: String },
    Report(Box<Report>),
}

impl Voice {
    pub(super) fn phase(self, phase: &Phase) -> Result<(), Failure> {
        match self {
            Self::Silent => Ok(()),
            Self::Person => output::print(&table::phase(phase)),
            Self::Parent => tell(&Line::Phase(phase.clone())),
        }
    }

    /// What is being moved.
    pub(super) fn moving(self, text: String) -> Result<(), Failure> {
        match self {
            Self::Silent => Ok(()),
            Self::Person => output::print(&table::moving(&text)),
            Self::Parent => tell(&Line::Moving { text }),
        }
    }

    /// The report goes to the parent; a person is shown it when all is done.
    pub(super) fn report(self, report: &Report) -> Result<(), Failure> {
        match self {
            Self::Silent | Self::Person => Ok(()),
            Self::Parent => tell(&Line::Report(Box::new(report.clone()))),
        }
    }
}

fn tell(line: &Line) -> Result<(), Failure> {
    let text = serde_json::to_string(line)
        .map_err(|error| Failure::new(format!("writing a line for the other process: {error}")))?;
    output::print(&format!("{text}\n"))
}
