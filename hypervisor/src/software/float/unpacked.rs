//! A floating-point value taken apart: one form for all three formats.

/// What kind of value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Positive or negative zero.
    Zero,
    /// A finite number that is not zero.
    Finite,
    /// An infinity.
    Infinity,
    /// A NaN that passes through operations silently.
    QuietNan,
    /// A NaN that raises IE when used.
    SignalingNan,
    /// An encoding of the extended format that the x87 rejects (unnormal, pseudo-infinity,
    /// pseudo-NaN).
    Unsupported,
}

/// A value as sign, class, exponent and significand.
///
/// A finite value is `significand / 2^63 * 2^exponent` with bit 63 set, denormals included. A NaN
/// keeps its significand left-aligned, as in the extended format: bit 63 set, bit 62 the quiet
/// bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Negative.
    pub sign: bool,
    /// Kind of value.
    pub class: Class,
    /// Exponent of a finite value.
    pub exponent: i32,
    /// Significand of a finite value or a NaN.
    pub significand: u64,
    /// The encoding was denormal (or pseudo-denormal).
    pub denormal: bool,
}

/// The quiet bit of a left-aligned NaN significand.
pub(super) const QUIET: u64 = 1 << 62;

impl Unpacked {
    /// A zero.
    #[inline]
    pub const fn zero(sign: bool) -> Self {
        Self {
            sign,
            class: Class::Zero,
            exponent: 0,
            significand: 0,
            denormal: false,
        }
    }

    /// An infinity.
    #[inline]
    pub const fn infinity(sign: bool) -> Self {
        Self {
            sign,
            class: Class::Infinity,
            exponent: 0,
            significand: 1 << 63,
            denormal: false,
        }
    }

    /// A finite value from any nonzero significand, or zero.
    #[inline]
    pub const fn finite(sign: bool, exponent: i32, significand: u64) -> Self {
        if significand == 0 {
            return Self::zero(sign);
        }
        let shift = significand.leading_zeros();
        Self {
            sign,
            class: Class::Finite,
            exponent: exponent - shift as i32,
            significand: significand << shift,
            denormal: false,
        }
    }

    /// A NaN from its left-aligned significand.
    #[inline]
    pub const fn nan(sign: bool, significand: u64) -> Self {
        let quiet = significand & QUIET != 0;
        let class = if quiet {
            Class::QuietNan
        } else {
            Class::SignalingNan
        };
        Self {
            sign,
            class,
            exponent: 0,
            significand,
            denormal: false,
        }
    }

    /// The exact value of a signed integer.
    #[inline]
    pub const fn from_i64(value: i64) -> Self {
        Self::finite(value < 0, 63, value.unsigned_abs())
    }

    /// Whether it is a NaN of either kind.
    #[inline]
    pub const fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignalingNan)
    }

    /// Whether using it raises IE whatever the operation.
    #[inline]
    pub const fn is_signaling(&self) -> bool {
        matches!(self.class, Class::SignalingNan | Class::Unsupported)
    }

    /// Whether it is a number: zero, finite or infinite.
    #[inline]
    pub const fn is_number(&self) -> bool {
        matches!(self.class, Class::Zero | Class::Finite | Class::Infinity)
    }
}
