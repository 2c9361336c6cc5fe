//! How fast.

/// Fractions of a byte per nanosecond: 20 bits.
const FRACTION: u32 = 20;
/// 16 terabytes per second.
const MOST: u64 = 1 << 34;
/// Bytes that a product or a quotient may have.
const MOST_BYTES: u64 = 1 << 43;

/// Bytes per time, of one rail or of several.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rate(u64);

impl Rate {
    /// Of no rail.
    pub(super) const ZERO: Self = Self(0);

    /// What a NIC says.
    pub(super) fn of_megabits(megabits: u32) -> Self {
        // 125 000 bytes in 1 000 000 000 ns.
        Self(((u64::from(megabits) << FRACTION) / 8000).clamp(1, MOST))
    }

    /// So many bytes in so many nanoseconds.
    pub(super) fn measured(bytes: u64, nanoseconds: u64) -> Self {
        Self(((bytes.min(MOST_BYTES) << FRACTION) / nanoseconds.max(1)).clamp(1, MOST))
    }

    /// Nanoseconds that so many bytes take.
    pub(super) fn time(self, bytes: u64) -> u64 {
        (bytes.min(MOST_BYTES) << FRACTION) / self.0.max(1)
    }

    /// Bytes in so many nanoseconds.
    pub(super) fn bytes(self, nanoseconds: u64) -> u64 {
        let bytes = (u128::from(self.0) * u128::from(nanoseconds)) >> FRACTION;
        bytes.min(u128::from(MOST_BYTES)) as u64
    }

    /// Of two rails together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// As much faster or slower as `to` is than `from`.
    pub(super) fn scaled(self, to: Self, from: Self) -> Self {
        let scaled = u128::from(self.0) * u128::from(to.0) / u128::from(from.0.max(1));
        Self(scaled.clamp(1, u128::from(MOST)) as u64)
    }

    /// Between this one and another one, nearer to it by one part of `parts`.
    pub(super) const fn towards(self, other: Self, parts: u64) -> Self {
        if other.0 >= self.0 {
            Self(self.0 + (other.0 - self.0) / parts)
        } else {
            Self(self.0 - (self.0 - other.0) / parts)
        }
    }
}
