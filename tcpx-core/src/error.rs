//! Errors, grouped by what has to be thrown away.

use std::time::Duration;

use p2p_memory::Memory;
use tcpx_sys::{Code, LoadError, Version};

use crate::preflight::Refused;

/// How much has to be thrown away after an error.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// The caller broke a documented rule. Nothing changed.
    Misuse,
    /// A limit was reached; try again after releasing something.
    Exhausted,
    /// The comm, or the attempt to get one, is lost.
    Comm,
    /// The plugin is unusable in this process.
    Plugin,
    /// This plugin or this machine cannot do it.
    Unsupported,
}

/// Entries of a plugin's table, as their messages name them.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Call {
    /// `init`.
    Init,
    /// `devices`.
    Devices,
    /// `getProperties`.
    GetProperties,
    /// `listen`.
    Listen,
    /// `connect`.
    Connect,
    /// `accept`.
    Accept,
    /// `regMr` or `regMrDmaBuf`.
    RegMr,
    /// `deregMr`.
    DeregMr,
    /// `isend`.
    Isend,
    /// `irecv`.
    Irecv,
    /// `test`.
    Test,
    /// `irecvConsumed`.
    IrecvConsumed,
    /// A call of the extension table about waiters.
    Waiter,
}

impl Call {
    /// The name of the entry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Devices => "devices",
            Self::GetProperties => "getProperties",
            Self::Listen => "listen",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::RegMr => "regMr",
            Self::DeregMr => "deregMr",
            Self::Isend => "isend",
            Self::Irecv => "irecv",
            Self::Test => "test",
            Self::IrecvConsumed => "irecvConsumed",
            Self::Waiter => "waiter",
        }
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule that the caller broke. Nothing was posted and nothing changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Misuse {
    /// The registration was never made on this comm, or has been given back.
    #[error("the registration does not belong to this comm, or was deregistered: register the memory here")]
    StaleRegistration,
    /// A slice reaches beyond its registration.
    #[error("{length} bytes at offset {offset} do not lie inside a registration of {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: usize,
        /// Bytes.
        length: usize,
        /// Bytes of the registration.
        size: usize,
    },
    /// A message longer than this comm may carry.
    #[error(
        "a message of {length} bytes is longer than this comm may carry: cut it into messages of at most {max}"
    )]
    TooLong {
        /// Bytes.
        length: usize,
        /// Most bytes.
        max: usize,
    },
    /// A message without slices. An empty message has one slice of length 0.
    #[error("a message needs at least one slice; an empty one has a slice of length 0")]
    NoSlices,
    /// More slices than the plugin takes.
    #[error("a message of {given} slices: this plugin takes at most {max}")]
    TooManySlices {
        /// Slices given.
        given: usize,
        /// Most slices.
        max: usize,
    },
    /// The registration is used by requests that have not been released.
    #[error(
        "the registration is used by {users} requests that have not been released: drain the channel first"
    )]
    InUse {
        /// Requests.
        users: u32,
    },
    /// CUDA memory whose address or length is not a multiple of 4 KiB.
    #[error(
        "CUDA memory must start and end at a multiple of 4096 bytes; this is {length} bytes at {address:#x}"
    )]
    Unaligned {
        /// Address.
        address: usize,
        /// Bytes.
        length: usize,
    },
    /// Memory of zero bytes.
    #[error("memory of zero bytes cannot be registered")]
    Empty,
    /// A window outside what the plugin can hold.
    #[error("a window of {given} requests: a plugin holds 1 to {max} per comm")]
    Window {
        /// Requests asked for.
        given: usize,
        /// Most requests.
        max: usize,
    },
    /// A device number that the plugin does not have.
    #[error("there is no device {index}: the plugin has {count}, numbered from 0")]
    NoDevice {
        /// Number asked for.
        index: usize,
        /// Devices there are.
        count: usize,
    },
    /// A channel that is not in the set, or was taken out of it.
    #[error("the channel is not in this set, or was taken out of it")]
    StaleChannel,
    /// A channel of another plugin.
    #[error("the channel belongs to another plugin than the set: make one set for each plugin")]
    ForeignChannel,
}

/// Why a comm cannot be used any more.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The peer closed, and what was still under way did not finish in the time allowed for that.
    PeerClosed,
    /// Requests were in flight and none finished for the silence limit.
    Silent {
        /// The limit.
        limit: Duration,
    },
    /// The plugin says that requests were tested or consumed out of order. That is a defect here or there.
    OutOfOrder,
    /// The plugin refuses requests although none, or none that finishes, is under way.
    Refused,
    /// The peer sent what was not agreed, for instance a message longer than was posted for it.
    Remote,
    /// A CUDA call of the plugin failed.
    Cuda,
    /// Received pages could not be put in place.
    Unpack,
    /// A code without a meaning for this call.
    Unknown,
}

/// Why a comm is lost, and on which device it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Why.
    pub reason: Reason,
    /// The call that showed it.
    pub during: Call,
    /// What the call answered.
    pub code: Option<Code>,
    /// Name of the device that the comm was on.
    pub device: &'static str,
}

impl Fault {
    /// How much has to be thrown away.
    pub const fn kind(&self) -> ErrorKind {
        match self.reason {
            Reason::Cuda => ErrorKind::Plugin,
            Reason::PeerClosed
            | Reason::Silent { .. }
            | Reason::OutOfOrder
            | Reason::Refused
            | Reason::Remote
            | Reason::Unpack
            | Reason::Unknown => ErrorKind::Comm,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reason, during, code, device } = self;
        write!(f, "comm on {device} lost in {during}: ")?;
        match reason {
            Reason::PeerClosed => {
                f.write_str("the peer closed or died before everything posted had arrived; connect anew")?;
            }
            Reason::Silent { limit } => write!(
                f,
                "nothing finished for {} s: the peer is stopped, or a data socket died; connect anew",
                limit.as_secs_f32()
            )?,
            Reason::OutOfOrder => f.write_str(
                "the plugin reports requests out of order, which is a defect: report it with the log lines \
                 before this one",
            )?,
            Reason::Refused => f.write_str("the plugin refuses requests for good; connect anew")?,
            Reason::Remote => f.write_str(
                "the peer sent a longer message than was posted for it, or no message at all; both ends must \
                 agree on lengths and order",
            )?,
            Reason::Cuda => f.write_str(
                "a CUDA call of the plugin failed; see the driver's log, and start the process anew",
            )?,
            Reason::Unpack => f.write_str("received pages could not be put in place; see the log")?,
            Reason::Unknown => f.write_str("the plugin answered with a code that has no meaning here")?,
        }
        code.map_or(Ok(()), |code| write!(f, " (code {code})"))
    }
}

impl std::error::Error for Fault {}

/// A post that was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PostError {
    /// The caller broke a rule; nothing changed.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The comm is lost.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// An error outside the data path.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin's file could not be loaded.
    #[error(
        "{0}; give the path of Google's plugin in UCCL_TCPX_PLUGIN_PATH, install it again, or choose the soft \
         plugin, which needs no file, with UCCL_P2P_TRANSPORT=tcp"
    )]
    Load(#[from] LoadError),
    /// The preflight refuses to start the plugin.
    #[error(transparent)]
    Preflight(#[from] Refused),
    /// A required entry of the plugin's table is null.
    #[error("net plugin {plugin} is broken: {entry} is missing from its {version} table; use another build")]
    MissingEntry {
        /// Name of the plugin.
        plugin: String,
        /// Version of the table.
        version: Version,
        /// The entry.
        entry: &'static str,
    },
    /// The plugin did not start. It is not tried again in this process.
    #[error("net plugin {plugin} did not start: init answered {code}{}{hint}", said_of(said))]
    Init {
        /// Name of the plugin.
        plugin: String,
        /// What `init` answered.
        code: Code,
        /// The last warning that the plugin logged meanwhile.
        said: Option<String>,
        /// What is known to cause that, and the mend.
        hint: &'static str,
    },
    /// The plugin does not tell its devices.
    #[error("net plugin {plugin} does not tell its devices: {call} of {index:?} answered {code}")]
    Devices {
        /// Name of the plugin.
        plugin: String,
        /// `devices` or `getProperties`.
        call: Call,
        /// The device, for `getProperties`.
        index: Option<usize>,
        /// What the call answered.
        code: Code,
    },
    /// The plugin speaks a version of the scatter lists that nobody published.
    #[error("device {device} delivers scattered pages of version {version}, and only version 7 is known")]
    DeviceVersion {
        /// Name of the device.
        device: &'static str,
        /// The version it has.
        version: i32,
    },
    /// `listen`, `connect` or `accept` failed for good.
    #[error("{call} on {device} failed: code {code}{hint}")]
    Establish {
        /// The call.
        call: Call,
        /// Name of the device.
        device: &'static str,
        /// What the call answered.
        code: Code,
        /// What is known to cause that, and the mend.
        hint: &'static str,
    },
    /// The deadline for a connection passed.
    #[error(
        "{call} on {device} was not done after {waited:.1?} and {attempts} attempts{}; see that the peer \
         runs, listens on this handle and is reachable from this NIC",
        last_of(last)
    )]
    Deadline {
        /// The call.
        call: Call,
        /// Name of the device.
        device: &'static str,
        /// Time since the first poll.
        waited: Duration,
        /// Attempts made.
        attempts: u32,
        /// What the last failed attempt answered.
        last: Option<Code>,
    },
    /// `listen` or `regMr` was not called, because another first call is not to be interrupted by it.
    #[error(
        "{call} on {device} was not called: for {waited:.1?} another call that sets up a plugin of this process \
         was running, most likely a connect that waits for its peer to accept; see that the peer accepts, \
         listen before connecting, and try again"
    )]
    SetupBusy {
        /// The call that was not made.
        call: Call,
        /// Name of the device.
        device: &'static str,
        /// Time waited.
        waited: Duration,
    },
    /// Memory could not be registered or deregistered.
    #[error("{call} on {device} failed for {length} bytes: code {code}")]
    Registration {
        /// `regMr` or `deregMr`.
        call: Call,
        /// Name of the device.
        device: &'static str,
        /// Bytes of the memory.
        length: usize,
        /// What the call answered.
        code: Code,
    },
    /// Memory larger than one registration of this plugin can be.
    #[error(
        "{length} bytes are more than the {max} that one registration on {device} can hold (table {version}): split the memory, or use a plugin with table v8 or later"
    )]
    RegistrationTooLarge {
        /// Name of the device.
        device: &'static str,
        /// Version of the table.
        version: Version,
        /// Bytes of the memory.
        length: usize,
        /// Most bytes.
        max: usize,
    },
    /// The device cannot use this kind of memory.
    #[error("{device} cannot use {kind} memory: {hint}")]
    MemoryKind {
        /// Name of the device.
        device: &'static str,
        /// `host` or `CUDA`.
        kind: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Sleeping until something moves failed.
    #[error("the waiter failed: {reason}")]
    Waiter {
        /// What happened.
        reason: String,
    },
    /// The caller broke a rule; nothing changed.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// A comm is lost.
    #[error(transparent)]
    Fault(#[from] Fault),
}

fn said_of(said: &Option<String>) -> String {
    said.as_ref().map_or_else(String::new, |said| format!(" and said \"{said}\""))
}

fn last_of(last: &Option<Code>) -> String {
    last.map_or_else(String::new, |code| format!(" (last answer {code})"))
}

impl Error {
    /// How much has to be thrown away.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Load(_) | Self::MissingEntry { .. } | Self::Init { .. } | Self::Devices { .. } => {
                ErrorKind::Plugin
            }
            Self::Preflight(_) | Self::DeviceVersion { .. } | Self::MemoryKind { .. } => {
                ErrorKind::Unsupported
            }
            Self::Establish { .. } | Self::Deadline { .. } => ErrorKind::Comm,
            Self::Registration { .. } | Self::SetupBusy { .. } | Self::Waiter { .. } => ErrorKind::Exhausted,
            Self::RegistrationTooLarge { .. } | Self::Misuse(_) => ErrorKind::Misuse,
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// A registration that was not made. The memory comes back.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct RegisterError {
    /// Why.
    #[source]
    pub error: Error,
    /// What was passed in.
    pub memory: Box<dyn Memory>,
}

impl std::fmt::Debug for RegisterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}
