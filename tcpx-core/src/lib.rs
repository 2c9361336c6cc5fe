//! The safe core over a net plugin: what a plugin's rules allow, and nothing else.
//!
//! The way through it:
//!
//! 1. [`Config`](config::Config) reads the environment, and [`Plugin::open`] checks, loads and initialises a
//!    plugin from a [`Source`]. [`Plugin::devices`] are its NICs; [`topology`] says which of them a GPU
//!    may use. That is a pure function which nothing here consults by itself: the caller makes a
//!    [`NicMap`](topology::NicMap), which also refuses NICs under a foreign PCIe root, and picks the device.
//! 2. [`Plugin::listen`] gives a [`Handle`] for the peer and a [`Listening`], [`Plugin::connect`] a
//!    [`Connecting`]. Both are polled, or waited for, until there is a [`RecvComm`] or a [`SendComm`].
//! 3. [`Channel::receiving`] and [`Channel::sending`] put a window over the comm. Memory is registered on it;
//!    [`Channel::post`], [`Channel::progress`] and [`Channel::release`] move messages.
//! 4. [`ChannelSet`] drives many channels from one thread and sleeps where the plugin lets it.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//! use p2p_memory::SharedHost;
//! use tcpx_core::{Channel, Handle, Plugin, Release, Slice, Source, config::Config};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let received = Handle::new([0; 128]);
//! let config = Config::from_process()?;
//! let plugin = Plugin::open(Source::File("/usr/local/tcpx/lib64/libnccl-net-tcpx.so".into()), &config)?;
//! let deadline = Instant::now() + plugin.connect_timeout();
//! let comm = plugin.connect(0, &received, deadline)?.wait()?;
//! let mut channel = Channel::sending(comm, plugin.send_window())?;
//! let buffer = SharedHost::new(1 << 20)?;
//! buffer.copy_in(0, b"hello")?;
//! let registration = channel.register(Box::new(buffer.clone()))?;
//! let _ = channel.post(7, Slice { registration, offset: 0, length: 5 }, Instant::now())?;
//! while let Release::NotYet = channel.release() {
//!     channel.progress(Instant::now());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Threads.** [`Plugin`] is shared; a comm, a channel and a set belong to one thread at a time (`Send`, not
//! `Sync`). Nothing here starts a thread. Only what is called `wait` or `post_within` waits, each with a
//! deadline; [`Plugin::listen`] and a channel's `register` may also wait, with a bound, for the first
//! `connect` of the process.
//!
//! **Memory.** A comm owns the memory registered on it. Dropping a comm deregisters, closes, and then frees;
//! what a plugin does not give back is leaked and counted ([`leaked_objects`]) rather than freed under it.
//!
//! **What it never does.** It knows no peer, no protocol and no transfer, and invents no device. It never
//! calls `iflush`, which crashes the plugin it is made for.

mod api;
mod channel;
mod comm;
pub mod config;
mod device;
mod error;
mod establish;
mod gate;
mod log;
mod plugin;
pub mod preflight;
mod set;
pub mod topology;
pub mod unpack;
pub mod verdict;
pub mod window;

pub use api::CALLS_TARGET;
pub use api::Side;
pub use api::comm::leaked_objects;
pub use api::delivery::{CpuUnpack, Job, Piece, Ticket, Unpack, UnpackError};
pub use api::registration::{RegistrationId, Slice};
pub use channel::{Channel, Completion, Counters, OperationFault, Outcome, Post, Release};
pub use comm::{RecvComm, SendComm};
pub use device::{Device, DeviceType, PtrSupport};
pub use error::{Call, Error, ErrorKind, Fault, Misuse, PostError, Reason, RegisterError};
pub use establish::{Accept, Connect, Connecting, Handle, Listening};
pub use log::TARGET as LOG_TARGET;
pub use plugin::{Plugin, Source};
pub use set::{ChannelId, ChannelSet, Event, Round, Sleep};
