//! The floating-point environment of one operation: rounding, precision, masks, flags.

use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

use super::format::Format;
use super::unpacked::Unpacked;

/// A set of the six floating-point exceptions, in the bit order of MXCSR and of the x87.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exceptions(u8);

impl Exceptions {
    /// No exception.
    pub const NONE: Self = Self(0);
    /// IE: an operand or operation without a meaningful result.
    pub const INVALID: Self = Self(1);
    /// DE: an operand is denormal.
    pub const DENORMAL: Self = Self(2);
    /// ZE: a finite operand divided by zero.
    pub const DIVIDE_BY_ZERO: Self = Self(4);
    /// OE: the rounded result is too large for its format.
    pub const OVERFLOW: Self = Self(8);
    /// UE: the result is tiny (and, if masked, inexact).
    pub const UNDERFLOW: Self = Self(16);
    /// PE: the result was rounded.
    pub const PRECISION: Self = Self(32);
    /// All six.
    pub const ALL: Self = Self(63);
    /// Those found before computing; unmasked, they leave no result and no later exception.
    pub const BEFORE: Self = Self(7);

    /// The set whose bits are the low six of `bits`.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 63)
    }

    /// The set as bits.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether the set is empty.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is in the set.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Exceptions {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Exceptions {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Exceptions {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Exceptions {
    type Output = Self;

    #[inline]
    fn not(self) -> Self {
        Self(!self.0 & 63)
    }
}

/// Rounding direction, in the encoding of MXCSR.RC and of the x87 control word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoundingMode {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
    /// Toward zero.
    Zero,
}

impl RoundingMode {
    /// The mode of the low two bits of `field`.
    #[inline]
    pub const fn from_field(field: u8) -> Self {
        match field & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// Precision control of the x87: significand bits of add, subtract, multiply, divide, square root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits.
    Single,
    /// 53 bits.
    Double,
    /// 64 bits.
    #[default]
    Extended,
}

impl Precision {
    /// The precision of the control word's PC field; the reserved value 1 acts as extended.
    #[inline]
    pub const fn from_field(field: u8) -> Self {
        match field & 3 {
            0 => Self::Single,
            2 => Self::Double,
            _ => Self::Extended,
        }
    }

    /// Significand bits.
    #[inline]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Single => 24,
            Self::Double => 53,
            Self::Extended => 64,
        }
    }
}

/// What an operation reads besides its operands, and what it reports besides its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatEnv {
    /// Rounding direction.
    pub rounding: RoundingMode,
    /// Precision of results in the extended format; the other formats ignore it.
    pub precision: Precision,
    /// Exceptions with a masked response.
    pub masks: Exceptions,
    /// Denormal operands are taken as zero (SSE only).
    pub denormals_are_zero: bool,
    /// Tiny results become zero while underflow is masked (SSE only).
    pub flush_to_zero: bool,
    /// Exceptions raised so far.
    pub flags: Exceptions,
    /// The last rounding increased the magnitude (C1 of the x87).
    pub rounded_up: bool,
}

impl Default for FloatEnv {
    /// Nearest, extended precision, everything masked, no flags.
    fn default() -> Self {
        Self {
            rounding: RoundingMode::Nearest,
            precision: Precision::Extended,
            masks: Exceptions::ALL,
            denormals_are_zero: false,
            flush_to_zero: false,
            flags: Exceptions::NONE,
            rounded_up: false,
        }
    }
}

impl FloatEnv {
    /// Adds to the flags.
    #[inline]
    pub fn raise(&mut self, flags: Exceptions) {
        self.flags |= flags;
    }

    /// Takes an operand apart, as zero if it is denormal and denormals are zero.
    #[inline]
    pub fn unpack<F: Format>(&self, value: F) -> Unpacked {
        let mut unpacked = value.unpack();
        if self.denormals_are_zero && unpacked.denormal {
            unpacked = Unpacked::zero(unpacked.sign);
        }
        unpacked
    }

    /// Raises DE if the operand is denormal.
    #[inline]
    pub fn note_denormal(&mut self, operand: Unpacked) {
        if operand.denormal {
            self.raise(Exceptions::DENORMAL);
        }
    }

    /// Raises IE and answers the default NaN of the result format.
    #[inline]
    pub fn invalid<F: Format>(&mut self) -> F {
        self.raise(Exceptions::INVALID);
        F::indefinite()
    }
}
