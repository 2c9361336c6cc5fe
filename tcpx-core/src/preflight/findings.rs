//! What the preflight found.

use std::fmt;
use std::path::PathBuf;

/// Everything found; empty when all is well.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Findings {
    /// Reasons not to start the plugin.
    pub refusals: Vec<Refusal>,
    /// What is odd and yet runs.
    pub notes: Vec<Note>,
    /// Variables to set before the plugin starts.
    pub assignments: Vec<Assignment>,
}

/// A reason not to start the plugin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Which rule refuses.
    pub check: Check,
    /// The variable or file.
    pub subject: Subject,
    /// What would happen.
    pub consequence: String,
    /// What to do.
    pub mend: String,
}

/// Something odd that does not stop the plugin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// The variable or file.
    pub subject: Subject,
    /// What is odd.
    pub text: String,
}

/// A value for a variable that the user left unset.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment {
    /// The variable.
    pub variable: &'static str,
    /// The value.
    pub value: String,
    /// Why.
    pub reason: &'static str,
}

/// What a finding is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// An environment variable.
    Variable(&'static str),
    /// A file or folder.
    File(PathBuf),
}

/// The rules.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Check {
    /// The plugin's chunk is zero bytes: transfers never finish.
    PluginChunkZero,
    /// A message is larger than a scatter list can describe: the process ends.
    MessageTooLarge,
    /// A message is larger than the plugin's chunk: bounce pages leak until receives stall.
    MessageAbovePluginChunk,
    /// Inline messages: the CPU reads and writes device pointers.
    InlineThreshold,
    /// More workers than sockets: no connection comes about.
    SocketThreads,
    /// A flow steering strategy that the plugin refuses.
    FlowSteering,
    /// The plugin is switched off.
    SocketDisabled,
    /// GPU memory cannot be registered.
    DmaBufDisabled,
    /// No attempt to connect is allowed.
    ConnectionRetryZero,
    /// The plugin's CUDA context does not know our memory.
    PrivateContext,
    /// Flow rules work for IPv4 only.
    AddressFamily,
    /// The control NIC does not exist: an uninitialised address is used.
    ControlDeviceMissing,
    /// No data NIC is chosen.
    DataNicMissing,
    /// No data NIC is on the PCI bus: registration dereferences null.
    NoPciNic,
    /// A NIC's NUMA node is one the plugin reads wrongly and crashes on.
    NumaNode,
    /// A NUMA node's list of cores holds no range the plugin can read, or too many.
    CpuList,
    /// A NIC outside PCI domain 0000 cannot be registered with.
    PciDomain,
    /// A binding of workers without a range of cores: division by zero.
    BindingEmpty,
    /// A binding with more ranges than the plugin has room for: memory is overwritten.
    BindingTooLong,
    /// The paths of rxdm's sockets do not fit into a socket address.
    PrefixTooLong,
    /// The folder of rxdm's sockets does not exist.
    PrefixMissing,
    /// Sockets of rxdm are missing.
    RxdmSockets,
    /// Statistics are to be written where no folder is: the process ends.
    TelemetryPath,
    /// NCCL's buffer is smaller than the receive window.
    BufferTooSmall,
    /// The plugin's file does not exist or is no file.
    PluginMissing,
    /// The plugin's file cannot be read.
    PluginUnreadable,
    /// The plugin's file lies on a file system from which nothing may be executed.
    PluginNoexec,
    /// There is no NVIDIA driver: the plugin ends the process.
    NoDriver,
    /// There is no NVIDIA GPU.
    NoGpu,
    /// A peer that goes away ends this process, because it does not ignore SIGPIPE.
    BrokenPipe,
    /// Sysfs cannot be read.
    TreeUnreadable,
}

/// The plugin is not started, because it would crash, hang or fail.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the net plugin is not started: {}", list(refusals))]
pub struct Refused {
    /// The reasons; at least one.
    pub refusals: Vec<Refusal>,
}

impl Findings {
    /// The refusals as an error.
    ///
    /// # Errors
    ///
    /// [`Refused`] when there is any.
    pub fn refused(&self) -> Result<(), Refused> {
        if self.refusals.is_empty() { Ok(()) } else { Err(Refused { refusals: self.refusals.clone() }) }
    }

    /// Adds what another check found.
    pub fn extend(&mut self, other: Self) {
        self.refusals.extend(other.refusals);
        self.notes.extend(other.notes);
        self.assignments.extend(other.assignments);
    }

    pub(super) fn refuse(
        &mut self,
        check: Check,
        subject: Subject,
        consequence: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.refusals.push(Refusal { check, subject, consequence: consequence.into(), mend: mend.into() });
    }

    pub(super) fn note(&mut self, subject: Subject, text: impl Into<String>) {
        self.notes.push(Note { subject, text: text.into() });
    }

    pub(super) fn assign(&mut self, variable: &'static str, value: impl Into<String>, reason: &'static str) {
        self.assignments.push(Assignment { variable, value: value.into(), reason });
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.subject, self.consequence, self.mend)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)
    }
}

impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}: {}", self.variable, self.value, self.reason)
    }
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(Refusal::to_string).collect::<Vec<_>>().join("; ")
}
