//! The contract between whoever moves bytes between hosts and whoever wants them moved.
//!
//! [`Transport`] is the data seam: connections on NICs, registered memory, messages that gather and scatter,
//! and a poll that says how to sleep. [`OneSided`] is what a backend with remote memory access hands out
//! besides. [`Control`] is the seam for control streams, so that a whole endpoint can run in a simulation.
//! [`Slab`] and [`Regions`] are the parts of a backend that are the same in all of them.
//!
//! # The laws
//!
//! Every backend keeps them; `p2p-conformance` has a test for each, and the words of this crate name them.
//!
//! 1. Every accepted operation completes exactly once.
//! 2. A rejected suffix of a batch has no effect and no events.
//! 3. The k-th send meets the k-th receive; completions are in order where [`Limits::fifo`].
//! 4. `Done` implies that the bytes are equal and visible.
//! 5. Bytes outside the slices never change.
//! 6. Close: all operations end, then `Closed`, then silence.
//! 7. `Retired` only at quiescence; `reclaim` returns the same owner.
//! 8. Retire during flight lets what flies end; submit after retire ends `BadSlice`.
//! 9. Stale ids are misuse, and change nothing.
//! 10. An event buffer of size 1 loses nothing.
//! 11. `Busy` clears after a completion.
//! 12. A data-plane call does bounded work.
//! 13. Exactly `max_sends` and `max_recvs` fit.
//! 14. Messages of length zero and of maximum length, of one slice and of `max_slices`, cut differently at
//!     both ends, arrive.
//! 15. Where [`Limits::checks_length`]: too long a message is a fault of its receive, at most of its
//!     connection, and overruns nothing.
//! 16. Traffic both ways at full windows does not deadlock.
//! 17. The death of a peer is noticed within a bound.
//! 18. Cancel yields exactly one event either way.
//! 19. Drop in any state leaks nothing and frees nothing wrongly.
//! 20. No allocation after a warm-up.
//! 21. Every run ends.
//! 22. Same seed, same trace, of backends that are deterministic.
//!
//! # What it never does
//!
//! It never touches a device, a socket or a clock, and knows no backend. It contains no `unsafe`.

#![forbid(unsafe_code)]

mod address;
pub mod asynchronous;
mod control;
mod error;
mod event;
mod faulty;
mod id;
mod limits;
mod one_sided;
mod operation;
mod regions;
mod traced;
mod transport;

pub use address::{Address, AddressTooLong};
pub use control::{Control, ControlEvent, Received};
pub use error::{Error, ErrorKind, RegisterError};
pub use event::{Event, Events, Next, Now};
pub use faulty::{Damage, Faulty, Strikes};
pub use id::{ConnId, DoorId, Id, ListenerId, NicId, RegionId, Slab, StreamId, Token};
pub use limits::{Limits, Nic, Rail};
pub use one_sided::{OneSided, OneSidedLimits, OneSidedOp, RemoteSlice};
pub use operation::{Accepted, Op, OpFault, Outcome, Slice, Stop};
pub use p2p_memory::{Memory, MemoryKind};
pub use regions::Regions;
pub use traced::{Call, Counts, Traced};
pub use transport::Transport;
