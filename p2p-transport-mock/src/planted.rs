//! Bugs that tests switch on, to show that the simulation finds them. Nothing outside a test can.

/// One bug.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Planted {
    CompletionTwice,
    RegionFreedEarly,
    RetiredEarly,
    ClosedLost,
    WindowTooLarge,
    ScatterShifted,
    CompletionBeforeBytes,
    LostAfterClose,
    StaleIdAccepted,
    CancelReportsTwice,
    CancelStarted,
    NotifyBeforeBytes,
    OrderSwapped,
    CompletionsSwapped,
    BusyForever,
    RetiredAccepted,
    ReadAfterDone,
    WrongLength,
    StaleKeyAccepted,
    ControlLost,
    SuffixTaken,
    ClosedEarly,
    OverrunByOne,
    UsersMiscounted,
}
