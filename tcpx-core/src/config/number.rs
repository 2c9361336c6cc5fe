//! Numbers that cannot be out of range.

use std::ffi::OsStr;

use super::Value;

/// A count from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Number<const MIN: u64, const MAX: u64>(u64);

/// A whole number from `MIN` to `MAX` as Google's plugin reads it: decimal, `0x` hexadecimal, or octal
/// after a leading zero.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PluginInteger<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    /// `value`, if it is in range.
    pub const fn new(value: u64) -> Option<Self> {
        if value < MIN || value > MAX { None } else { Some(Self(value)) }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Value for Number<MIN, MAX> {
    fn parse(text: &OsStr) -> Option<Self> {
        Self::new(decimal(text.to_str()?)?)
    }

    fn range() -> String {
        format!("{MIN} to {MAX}")
    }
}

impl<const MIN: u64, const MAX: u64> PluginInteger<MIN, MAX> {
    /// `value`, if it is in range.
    pub const fn new(value: u64) -> Option<Self> {
        if value < MIN || value > MAX { None } else { Some(Self(value)) }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Value for PluginInteger<MIN, MAX> {
    fn parse(text: &OsStr) -> Option<Self> {
        let text = text.to_str()?.trim();
        let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => digits_in(digits, 16)?,
            None if text.len() > 1 && text.starts_with('0') => digits_in(text, 8)?,
            None => digits_in(text, 10)?,
        };
        Self::new(value)
    }

    fn range() -> String {
        format!("{MIN} to {MAX}, as a plain number without a unit")
    }
}

/// Defines a number type of its own, so that one kind of count cannot stand for another.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $min:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name($inner);

        impl $name {
            /// Smallest value.
            pub const MIN: Self = Self($min);
            /// Largest value.
            pub const MAX: Self = Self($max);

            /// `value`, if it is in range.
            pub fn new(value: $inner) -> Option<Self> {
                ($min..=$max).contains(&value).then_some(Self(value))
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl Value for $name {
            fn parse(text: &OsStr) -> Option<Self> {
                Self::new(decimal(text.to_str()?)?.try_into().ok()?)
            }

            fn range() -> String {
                format!("{} to {}", $min, $max)
            }
        }
    };
}

number! {
    /// Messages in flight on one comm. The plugin's ring has 16 places.
    WindowSize, u8, 1, 16
}
number! {
    /// Channels of a connection.
    Channels, u8, 1, 16
}
number! {
    /// A TCP port that can be listened on.
    Port, u16, 1, 65535
}
number! {
    /// Index of a GPU, in PCI address order.
    GpuIndex, u8, 0, 255
}
number! {
    /// Bootstrap port of GPU 0; leaves room for every GPU above it.
    PortBase, u16, 1, 65280
}

impl PortBase {
    /// Bootstrap port of `gpu`.
    pub const fn of(self, gpu: GpuIndex) -> Port {
        Port(self.0 + gpu.0 as u16)
    }
}

/// Bytes of one message on a comm: a multiple of 4 KiB, from 4 KiB to 64 MiB.
///
/// With scattered pages a message may have 4 MiB at most; the preflight refuses more for such a plugin.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ChunkBytes(u32);

impl ChunkBytes {
    /// Smallest chunk and the unit of all chunks, in bytes.
    pub const UNIT: u64 = 4 << 10;
    /// Largest chunk, in bytes.
    pub const MAX: u64 = 64 << 20;

    /// `bytes`, if they make a chunk.
    pub fn new(bytes: u64) -> Option<Self> {
        let fits = (Self::UNIT..=Self::MAX).contains(&bytes) && bytes.is_multiple_of(Self::UNIT);
        if fits { u32::try_from(bytes).ok().map(Self) } else { None }
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0 as u64
    }
}

impl Value for ChunkBytes {
    fn parse(text: &OsStr) -> Option<Self> {
        Self::new(bytes(text.to_str()?)?)
    }

    fn range() -> String {
        "a multiple of 4096 from 4096 to 64M bytes (K, M and G may follow the number)".to_owned()
    }
}

/// Bytes of a benchmark message, 1 byte to 1 GiB.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct MessageBytes(u64);

impl MessageBytes {
    /// Largest message, in bytes.
    pub const MAX: u64 = 1 << 30;

    /// `bytes`, if they make a message.
    pub fn new(bytes: u64) -> Option<Self> {
        (1..=Self::MAX).contains(&bytes).then_some(Self(bytes))
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Value for MessageBytes {
    fn parse(text: &OsStr) -> Option<Self> {
        Self::new(bytes(text.to_str()?)?)
    }

    fn range() -> String {
        "1 to 1G bytes (K, M and G may follow the number)".to_owned()
    }
}

fn decimal(text: &str) -> Option<u64> {
    digits_in(text.trim(), 10)
}

/// A number of bytes with an optional K, M or G (powers of 1024).
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    decimal(digits)?.checked_mul(1 << shift)
}

/// Digits and nothing else: no sign, no separator.
fn digits_in(text: &str, radix: u32) -> Option<u64> {
    let digits_only = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    if digits_only { u64::from_str_radix(text, radix).ok() } else { None }
}
