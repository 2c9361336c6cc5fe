//! The transport over net plugins: Google's GPUDirect-TCPX on A3-high, the soft plugin over plain TCP
//! everywhere else, and any other plugin of NCCL's kind with host pointers.
//!
//! [`Choice`] says which plugin, and never takes another one quietly. [`Tcpx`] implements
//! [`Transport`](p2p_transport::Transport) over it:
//!
//! - A **connection** lies on one NIC and has some channels there, each with a send and a receive comm of the
//!   plugin at both ends. Operation k uses channel k modulo their number, so that nobody above names one.
//! - Beside its channels a connection has one **exchange stream**, an ordinary TCP connection, however many
//!   channels there are. Over it both ends trade the plugin's handles, agree on the end (whoever closes waits
//!   until the other end has received what was sent, so that the last message is never lost), and notice each
//!   other's death. All listeners of a process share one port.
//! - A **region** is registered once on every comm of its NIC, in pieces where the plugin takes fewer bytes at
//!   once.
//! - The rules of plugins stay here and in the core: windows, order, one listen comm for each accept, who may
//!   use which NIC.
//!
//! ```no_run
//! use std::time::Instant;
//! use p2p_transport::{Event, Events, Now, Token, Slice, Transport};
//! use p2p_transport_tcpx::Tcpx;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let received = Vec::new();
//! let origin = Instant::now();
//! let mut transport = Tcpx::from_process(origin)?;
//! let rail = transport.rails(None)?[0];
//! let memory = p2p_memory::SharedHost::new(1 << 20)?;
//! let region = transport.register(rail.nic, Box::new(memory.clone())).map_err(|refused| refused.error)?;
//! let conn = transport.connect(rail, &p2p_transport::Address::new(&received)?)?;
//! let mut events = Events::with_capacity(64);
//! loop {
//!     let _ = transport.poll(Now(origin.elapsed()), &mut events);
//!     for event in events.drain() {
//!         match event {
//!             Event::Connected(_) => {
//!                 let _ = transport.send(conn, Token(1), &[Slice { region, offset: 0, len: 1 << 20 }]);
//!             }
//!             Event::Completed { outcome, .. } => println!("{outcome:?}"),
//!             Event::Closed(_) => return Ok(()),
//!             _ => {}
//!         }
//!     }
//! }
//! # }
//! ```
//!
//! It never decides what is sent where: it knows no transfer, no key and no endpoint. It contains no `unsafe`.

#![forbid(unsafe_code)]

mod bits;
mod connection;
mod counters;
mod establish;
mod exchange;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod operations;
mod options;
mod progress;
mod rails;
mod regions;
mod register;
mod select;
mod transport;
mod watch;

pub use counters::{ConnCounters, Counters, NicCounters, Tally, Traffic};
pub use exchange::places::addresses_of_host;
pub use options::{Options, Unpackers};
pub use select::{Choice, usual_places};
pub use transport::Tcpx;
