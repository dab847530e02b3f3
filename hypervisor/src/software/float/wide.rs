//! A float with a 128-bit significand, for intermediate results of elementary functions.
//!
//! Operations truncate with a sticky lowest bit, so each has a relative error below `2^-126`. The
//! exponent is an `i32` and cannot overflow here.

use super::environment::FloatEnv;
use super::format::{F80, Format};
use super::round::{round_full, shift_right_sticky};
use super::unpacked::Unpacked;

/// `significand / 2^127 * 2^exponent`; bit 127 is set except for zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub(super) sign: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

impl Wide {
    pub(super) const ZERO: Self = Self {
        sign: false,
        exponent: 0,
        significand: 0,
    };
    pub(super) const ONE: Self = Self::constant(0, 1 << 127);

    /// A positive constant.
    pub(super) const fn constant(exponent: i32, significand: u128) -> Self {
        Self {
            sign: false,
            exponent,
            significand,
        }
    }

    /// A normalised value from any significand.
    pub(super) fn new(sign: bool, exponent: i32, significand: u128) -> Self {
        if significand == 0 {
            return Self::ZERO;
        }
        let shift = significand.leading_zeros();
        Self {
            sign,
            exponent: exponent - shift as i32,
            significand: significand << shift,
        }
    }

    /// A zero or finite value.
    pub(super) fn from_unpacked(value: Unpacked) -> Self {
        Self::new(
            value.sign,
            value.exponent,
            u128::from(value.significand) << 64,
        )
    }

    /// A small integer.
    pub(super) fn from_i32(value: i32) -> Self {
        Self::new(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    pub(super) fn is_zero(self) -> bool {
        self.significand == 0
    }

    pub(super) fn negated(self) -> Self {
        Self {
            sign: !self.sign,
            ..self
        }
    }

    pub(super) fn with_sign(self, sign: bool) -> Self {
        Self { sign, ..self }
    }

    /// Whether the magnitude is less than that of `other`.
    pub(super) fn is_smaller(self, other: Self) -> bool {
        match (self.is_zero(), other.is_zero()) {
            (_, true) => false,
            (true, false) => true,
            _ => (self.exponent, self.significand) < (other.exponent, other.significand),
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (large, small) = if self.is_smaller(other) {
            (other, self)
        } else {
            (self, other)
        };
        let distance = (large.exponent - small.exponent) as u32;
        let high = large.significand >> 1 | large.significand & 1;
        let low = shift_right_sticky(small.significand, distance.saturating_add(1));
        let sum = if large.sign == small.sign {
            high + low
        } else {
            high - low
        };
        Self::new(large.sign, large.exponent + 1, sum)
    }

    pub(super) fn subtract(self, other: Self) -> Self {
        self.add(other.negated())
    }

    pub(super) fn multiply(self, other: Self) -> Self {
        let (high, low) = product(self.significand, other.significand);
        let significand = high | u128::from(low != 0);
        Self::new(
            self.sign ^ other.sign,
            self.exponent + other.exponent + 1,
            significand,
        )
    }

    /// Divides; the divisor is not zero.
    pub(super) fn divide(self, other: Self) -> Self {
        if self.is_zero() {
            return Self::ZERO;
        }
        let divisor = other.significand;
        let below = self.significand < divisor;
        // Long division, one bit of the quotient at a time; the remainder stays below the divisor.
        let mut remainder = if below {
            self.significand
        } else {
            self.significand - divisor
        };
        let mut quotient = u128::from(!below);
        for _ in 0..127 + u32::from(below) {
            let carry = remainder >> 127 != 0;
            remainder <<= 1;
            quotient <<= 1;
            if carry || remainder >= divisor {
                remainder = remainder.wrapping_sub(divisor);
                quotient |= 1;
            }
        }
        let exponent = self.exponent - other.exponent - i32::from(below);
        Self::new(
            self.sign ^ other.sign,
            exponent,
            quotient | u128::from(remainder != 0),
        )
    }

    /// Divides by a small integer that is not zero.
    pub(super) fn divide_by(self, divisor: u32) -> Self {
        let divisor = u128::from(divisor);
        let quotient = self.significand / divisor;
        let remainder = self.significand % divisor;
        // The quotient lost as many bits as the divisor has; they come from the remainder.
        let shift = quotient.leading_zeros();
        let scaled = remainder << shift;
        let (rest, lost) = (scaled / divisor, scaled % divisor);
        let significand = quotient << shift | rest | u128::from(lost != 0);
        Self::new(self.sign, self.exponent - shift as i32, significand)
    }

    /// Rounds an exact value to the extended format.
    pub(super) fn round(self, env: &mut FloatEnv) -> F80 {
        if self.is_zero() {
            return F80::zero(self.sign);
        }
        round_full(self.sign, self.exponent, self.significand, env)
    }

    /// Rounds the approximation of an irrational value to the extended format.
    pub(super) fn round_inexact(self, env: &mut FloatEnv) -> F80 {
        Self {
            significand: self.significand | u128::from(!self.is_zero()),
            ..self
        }
        .round(env)
    }
}

/// The 256-bit product as high and low halves.
fn product(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 64);
    let cross = a0 * b1 + (middle & LOW);
    let high = a1 * b1 + (middle >> 64) + (cross >> 64);
    (high, cross << 64 | low & LOW)
}
