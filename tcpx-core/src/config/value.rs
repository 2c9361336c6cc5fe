//! What a setting can be made of.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A type that is parsed from the text of a variable.
pub trait Value: Sized {
    /// The value that `text` stands for; `None` when it is not allowed.
    fn parse(text: &OsStr) -> Option<Self>;
    /// Values that are allowed, in words.
    fn range() -> String;
}

/// Nothing when the text is empty.
impl<T: Value> Value for Option<T> {
    fn parse(text: &OsStr) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }

    fn range() -> String {
        T::range()
    }
}

impl Value for bool {
    fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str()?.trim() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }
    }

    fn range() -> String {
        "0 or 1".to_owned()
    }
}

impl Value for PathBuf {
    fn parse(text: &OsStr) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn range() -> String {
        "a path".to_owned()
    }
}

/// A path that starts with a slash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Value for AbsolutePath {
    fn parse(text: &OsStr) -> Option<Self> {
        let path = PathBuf::from(text);
        path.is_absolute().then_some(Self(path))
    }

    fn range() -> String {
        "an absolute path".to_owned()
    }
}

/// Address that peers are told to use for the control connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ControlAddress {
    /// The system's choice.
    Auto,
    /// This one.
    Fixed(IpAddr),
}

impl Value for ControlAddress {
    fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str()?.trim() {
            "auto" => Some(Self::Auto),
            address => address.parse().ok().map(Self::Fixed),
        }
    }

    fn range() -> String {
        "auto or an IPv4 or IPv6 address".to_owned()
    }
}

/// Text that is never printed.
#[derive(Clone, Eq, PartialEq)]
pub struct SharedSecret(OsString);

impl SharedSecret {
    /// The text.
    pub fn reveal(&self) -> &OsStr {
        &self.0
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

impl Value for SharedSecret {
    /// Takes any text: an error would print it.
    fn parse(text: &OsStr) -> Option<Self> {
        Some(Self(text.to_owned()))
    }

    fn range() -> String {
        "any text".to_owned()
    }
}

/// Which slowness the plugin watches.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SlownessChecks {
    /// Completions of sends (`TX_COMP`).
    pub send_completions: bool,
    /// Data sockets (`SENDRECV`).
    pub data: bool,
    /// Control messages on the receiving side (`RX_CTRL`).
    pub receive_control: bool,
}

impl Value for SlownessChecks {
    fn parse(text: &OsStr) -> Option<Self> {
        let mut checks = Self::default();
        for name in text.to_str()?.split(',') {
            match name.to_ascii_uppercase().as_str() {
                "TX_COMP" => checks.send_completions = true,
                "SENDRECV" => checks.data = true,
                "RX_CTRL" => checks.receive_control = true,
                "ALL" => checks = Self { send_completions: true, data: true, receive_control: true },
                "NONE" => {}
                _ => return None,
            }
        }
        Some(checks)
    }

    fn range() -> String {
        "a comma-separated list of TX_COMP, SENDRECV, RX_CTRL; ALL; or NONE".to_owned()
    }
}

/// Defines a choice between words.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Value for $name {
            fn parse(text: &OsStr) -> Option<Self> {
                match text.to_str()? {
                    $($text => Some(Self::$variant),)*
                    _ => None,
                }
            }

            fn range() -> String {
                [$($text),*].join(" or ")
            }
        }
    };
}

choice! {
    /// How received pages are put in place.
    UnpackMode {
        /// A kernel gathers them.
        Kernel = "kernel",
        /// One device copy per fragment.
        DeviceCopies = "d2d",
        /// Through host memory.
        Host = "host",
        /// Not at all: only the network is measured, and the data is wrong.
        Skip = "none",
    }
}
/// Which data plane to use, in the words of UCCL's own variable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransportName {
    /// The real plugin where there is one, else the soft plugin.
    Auto,
    /// The real plugin, or an error.
    Tcpx,
    /// The soft plugin, over plain TCP.
    Tcp,
}

impl TransportName {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tcpx => "tcpx",
            Self::Tcp => "tcp",
        }
    }
}

impl Value for TransportName {
    fn parse(text: &OsStr) -> Option<Self> {
        match text.to_str()?.trim() {
            "auto" => Some(Self::Auto),
            "tcpx" => Some(Self::Tcpx),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }

    fn range() -> String {
        "tcp (plain TCP), tcpx (Google's plugin) or auto (tcpx where the plugin is installed, else tcp); nothing \
         else is built in, so on a machine with RDMA use UCCL's own build"
            .to_owned()
    }
}

choice! {
    /// How the plugin spreads chunks over data sockets.
    Scheduler {
        /// One chunk per socket in turn.
        RoundRobin = "RR",
        /// The least loaded socket first, two chunks at a time.
        Katy = "KATY",
    }
}
choice! {
    /// Address family of the data NICs.
    AddressFamily {
        /// IPv4.
        V4 = "AF_INET",
        /// IPv6.
        V6 = "AF_INET6",
    }
}
