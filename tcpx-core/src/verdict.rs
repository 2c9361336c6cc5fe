//! What the answers of a plugin mean. This is the only place that gives a result code a meaning.
//!
//! Published source, shipped binary and field reports disagree on single codes; each function holds one
//! row, or a few, of the table that is right on all of them:
//!
//! | call | answer | meaning |
//! |---|---|---|
//! | init | not 0 | the plugin did not start |
//! | connect, accept | 0, no comm | pending |
//! | connect | 2, 3 | this attempt failed; another one may do |
//! | accept | 2 | failed; not ready to the plugin shipped on A3-high, where polling again is an option |
//! | accept | 3 | failed |
//! | isend, irecv | 0, no request | not taken; again in a later round |
//! | isend, irecv | 3 | with requests out: not taken; with none: the comm is lost |
//! | test | 0 | done or no news |
//! | test | 2 | done, or the control stream ended and older requests get a grace time |
//! | test, irecvConsumed | 3 | out of order |
//! | test | 1 | CUDA failed |
//! | test | 6 | the peer sent something else than was agreed (the soft plugin's answer) |
//! | any | other | unknown, and fatal for the object |
//!
//! A comm whose `test` said once that the control stream ended is lost after [`REFUSAL_LIMIT`] in which no
//! request finished, also if the answers after that were "no news": data that was announced before may still
//! move on a slow link then, but nothing tells that from a link on which it does not. A message that takes
//! longer than the limit and whose peer closes early is cut off by this.

use std::time::Duration;

use tcpx_sys::Code;

use crate::error::Reason;
use crate::preflight::Nature;

/// How long requests may go on without one finishing while `test` says that the control stream ended.
pub const GRACE: Duration = Duration::from_secs(1);

/// How long a plugin may refuse requests, or stay without news after the control stream ended, before
/// the comm is given up. Longer than a large message takes on a slow link.
pub const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

/// What an answer of `connect` or `accept` means for the attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Attempt<T> {
    /// There is a comm.
    Ready(T),
    /// Poll again with the same buffers.
    Pending,
    /// The attempt is over; a new one may succeed.
    Again,
    /// The attempt is over, and another one would end the same way.
    Failed,
}

pub(crate) fn connect<T>(code: Code, comm: Option<T>) -> Attempt<T> {
    match (code, comm) {
        (Code::SUCCESS, Some(comm)) => Attempt::Ready(comm),
        (Code::SUCCESS, None) => Attempt::Pending,
        (Code::SYSTEM_ERROR | Code::INTERNAL_ERROR, _) => Attempt::Again,
        _ => Attempt::Failed,
    }
}

/// `retry_code_2`: the plugin is known to mean "not ready" by it, so the listener is still alive.
pub(crate) fn accept<T>(code: Code, comm: Option<T>, retry_code_2: bool) -> Attempt<T> {
    match (code, comm) {
        (Code::SUCCESS, Some(comm)) => Attempt::Ready(comm),
        (Code::SUCCESS, None) => Attempt::Pending,
        (Code::SYSTEM_ERROR, _) if retry_code_2 => Attempt::Again,
        _ => Attempt::Failed,
    }
}

/// What an answer of `isend` or `irecv` means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Posted<T> {
    /// There is a request.
    Taken(T),
    /// Nothing was taken; try again in a later round.
    NotTaken,
    /// As `NotTaken`, but the plugin called it an error: to be counted and warned of once.
    Refused,
    /// The comm is lost.
    Lost(Reason),
}

/// `in_flight`: requests that may yet finish, and so make room.
pub(crate) fn post<T>(code: Code, request: Option<T>, in_flight: usize) -> Posted<T> {
    match (code, request) {
        (Code::SUCCESS, Some(request)) => Posted::Taken(request),
        (Code::SUCCESS, None) => Posted::NotTaken,
        (Code::INTERNAL_ERROR, _) if in_flight > 0 => Posted::Refused,
        (Code::INTERNAL_ERROR, _) => Posted::Lost(Reason::Refused),
        (Code::SYSTEM_ERROR, _) => Posted::Lost(Reason::PeerClosed),
        (Code::UNHANDLED_CUDA_ERROR, _) => Posted::Lost(Reason::Cuda),
        _ => Posted::Lost(Reason::Unknown),
    }
}

/// What an answer of `test` on the oldest request means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Progress {
    /// The request finished.
    Done,
    /// Not yet.
    NoNews,
    /// Not yet, and the peer announces nothing more.
    PeerEnded,
    /// The comm is lost.
    Lost(Reason),
}

pub(crate) const fn test(code: Code, done: bool) -> Progress {
    match (code, done) {
        (Code::SUCCESS | Code::SYSTEM_ERROR, true) => Progress::Done,
        (Code::SUCCESS, false) => Progress::NoNews,
        (Code::SYSTEM_ERROR, false) => Progress::PeerEnded,
        (Code::INTERNAL_ERROR, _) => Progress::Lost(Reason::OutOfOrder),
        (Code::UNHANDLED_CUDA_ERROR, _) => Progress::Lost(Reason::Cuda),
        (Code::REMOTE_ERROR, _) => Progress::Lost(Reason::Remote),
        _ => Progress::Lost(Reason::Unknown),
    }
}

/// What an answer of `irecvConsumed` means; `None` for success.
pub(crate) const fn consumed(code: Code) -> Option<Reason> {
    match code {
        Code::SUCCESS => None,
        Code::INTERNAL_ERROR => Some(Reason::OutOfOrder),
        Code::UNHANDLED_CUDA_ERROR => Some(Reason::Cuda),
        _ => Some(Reason::Unknown),
    }
}

/// What is known to make `init` of such a plugin answer this, and the mend.
pub(crate) const fn init_hint(code: Code, nature: Nature) -> &'static str {
    match (nature, code) {
        (Nature::Tcpx, Code::INTERNAL_ERROR) => {
            "; it was initialised before in this process, is disabled, found no GPU or no NIC, or rxdm refused"
        }
        (Nature::Tcpx, Code::UNHANDLED_CUDA_ERROR) => {
            "; a CUDA call failed: see that the driver runs (nvidia-smi)"
        }
        (Nature::Soft, _) => {
            "; mend what its log line names and start the process anew, because it is not started twice"
        }
        (Nature::Tcpx | Nature::Other, _) => "; see the plugin's own log lines (NCCL_DEBUG=INFO)",
    }
}

/// What is known to make `accept` answer this.
pub(crate) const fn accept_hint(code: Code) -> &'static str {
    match code {
        Code::INTERNAL_ERROR => {
            ": a connector broke off, or rxdm refused the flow rule; see that rxdm runs and \
             NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX names its folder"
        }
        Code::SYSTEM_ERROR => {
            ": the connection broke before it was complete; where the plugin means \"not ready\" by this, set \
             UCCL_TCPX_ACCEPT_RETRY=1"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: [Code; 7] = [Code(0), Code(1), Code(2), Code(3), Code(4), Code(7), Code(-77)];

    #[test]
    fn connect_row() {
        use Attempt::*;
        assert_eq!(connect(Code(0), Some(1)), Ready(1));
        assert_eq!(
            CODES.map(|c| connect::<()>(c, None)),
            [Pending, Failed, Again, Again, Failed, Failed, Failed]
        );
    }

    #[test]
    fn accept_row() {
        use Attempt::*;
        assert_eq!(accept(Code(0), Some(1), false), Ready(1));
        let failed_but_first = [Pending, Failed, Failed, Failed, Failed, Failed, Failed];
        assert_eq!(CODES.map(|c| accept::<()>(c, None, false)), failed_but_first);
        let retried = [Pending, Failed, Again, Failed, Failed, Failed, Failed];
        assert_eq!(CODES.map(|c| accept::<()>(c, None, true)), retried);
    }

    #[test]
    fn post_row() {
        use Posted::*;
        assert_eq!(post(Code(0), Some(1), 0), Taken(1));
        let lost = |reason| Lost(reason);
        let common = [
            NotTaken,
            lost(Reason::Cuda),
            lost(Reason::PeerClosed),
            Refused,
            lost(Reason::Unknown),
            lost(Reason::Unknown),
            lost(Reason::Unknown),
        ];
        assert_eq!(CODES.map(|c| post::<()>(c, None, 1)), common);
        assert_eq!(post::<()>(Code(3), None, 0), Lost(Reason::Refused));
        // A request beside an error code is not one.
        assert_eq!(post(Code(3), Some(1), 1), Refused);
    }

    #[test]
    fn test_row() {
        use Progress::*;
        let (ooo, cuda, unknown) = (Lost(Reason::OutOfOrder), Lost(Reason::Cuda), Lost(Reason::Unknown));
        let with_done = CODES.map(|c| test(c, true));
        assert_eq!(with_done, [Done, cuda, Done, ooo, unknown, unknown, unknown]);
        assert_eq!([false, true].map(|done| test(Code(6), done)), [Lost(Reason::Remote); 2]);
        let without = CODES.map(|c| test(c, false));
        assert_eq!(without, [NoNews, cuda, PeerEnded, ooo, unknown, unknown, unknown]);
    }

    #[test]
    fn consumed_row() {
        let unknown = Some(Reason::Unknown);
        let expected =
            [None, Some(Reason::Cuda), unknown, Some(Reason::OutOfOrder), unknown, unknown, unknown];
        assert_eq!(CODES.map(consumed), expected);
    }
}
