//! binary32 and binary64 arithmetic by the host's own operations, where that is provably equal.
//!
//! Used only when rounding to nearest with the precision exception masked. The operands must be
//! zero or normal and the result zero or comfortably normal (above the smallest normal number and
//! finite). Then no exception but PE is possible, denormal handling cannot matter, and every IEEE
//! 754 host computes the same bits: its add, subtract, multiply, divide and square root are
//! correctly rounded to nearest in the environment that Rust guarantees. Everything else answers
//! `None` and goes the soft way.
//!
//! The inexact flag comes out exactly too, without reading host flags:
//! - addition: the error of a rounded sum is itself a floating-point number, and Knuth's six
//!   operations compute it exactly when nothing overflows, which the range of the result implies
//!   (an operand near overflow with a smaller result is a subtraction, whose steps stay in range);
//! - multiplication: a product of significands with `i` and `j` trailing zeros has exactly `i + j`
//!   of them, so it is exact if and only if they cover the bits below the last kept one;
//! - division and square root: the result is exact if and only if multiplying back in integers
//!   gives the operand.
//!
//! A caller whose PE flag is set already (it is sticky, and in nearly every program set within
//! microseconds) asks for `TRACK = false` and saves that work.

use super::compare::Relation;

/// A result, and whether it was rounded (always false without `TRACK`).
pub type Fast<T> = Option<(T, bool)>;

/// Generates the operations of one format.
macro_rules! fast_format {
    ($module:ident, $bits:ty, $float:ty, $product:ty, $fraction_bits:literal, $doc:literal) => {
        #[doc = $doc]
        pub mod $module {
            use super::{Fast, Relation};

            const SIGN: $bits = 1 << (<$bits>::BITS - 1);
            const HIDDEN: $bits = 1 << $fraction_bits;
            const INFINITY: $bits = <$float>::INFINITY.to_bits();
            const SMALLEST: $bits = <$float>::MIN_POSITIVE.to_bits();

            /// Zero or normal.
            #[inline(always)]
            pub(super) fn usable(value: $bits) -> bool {
                let magnitude = value & !SIGN;
                magnitude == 0 || magnitude.wrapping_sub(SMALLEST) < INFINITY - SMALLEST
            }

            /// Finite and above the smallest normal number, so that no rounding was denormal.
            #[inline(always)]
            pub(super) fn comfortable(value: $bits) -> bool {
                let magnitude = value & !SIGN;
                magnitude.wrapping_sub(SMALLEST + 1) < INFINITY - SMALLEST - 1
            }

            /// The significand of a normal value as an integer.
            #[inline(always)]
            fn significand(value: $bits) -> $bits {
                (value & (HIDDEN - 1)) | HIDDEN
            }

            #[inline(always)]
            fn exponent(value: $bits) -> $bits {
                (value & !SIGN) >> $fraction_bits
            }

            /// `a + b`.
            #[inline]
            pub fn add<const TRACK: bool>(a: $bits, b: $bits) -> Fast<$bits> {
                let (x, y) = (<$float>::from_bits(a), <$float>::from_bits(b));
                let sum = x + y;
                let bits = sum.to_bits();
                if !usable(a) || !usable(b) || !(comfortable(bits) || bits & !SIGN == 0) {
                    return None;
                }
                if !TRACK {
                    return Some((bits, false));
                }
                let y_part = sum - x;
                let error = (x - (sum - y_part)) + (y - y_part);
                Some((bits, error != 0.0))
            }

            /// `a - b`.
            #[inline]
            pub fn subtract<const TRACK: bool>(a: $bits, b: $bits) -> Fast<$bits> {
                add::<TRACK>(a, b ^ SIGN)
            }

            /// `a * b`.
            #[inline]
            pub fn multiply<const TRACK: bool>(a: $bits, b: $bits) -> Fast<$bits> {
                let product = (<$float>::from_bits(a) * <$float>::from_bits(b)).to_bits();
                if !usable(a) || !usable(b) {
                    return None;
                }
                if (a & !SIGN) == 0 || (b & !SIGN) == 0 {
                    return Some((product, false));
                }
                if !comfortable(product) {
                    return None;
                }
                if !TRACK {
                    return Some((product, false));
                }
                let zeros = significand(a).trailing_zeros() + significand(b).trailing_zeros();
                // The product has one more bit if its exponent is not the sum of the exponents.
                // A carry by rounding looks the same, but such a product was inexact anyway.
                let bias = <$float>::MAX_EXP as $bits - 1;
                let longer = exponent(product) + bias != exponent(a) + exponent(b);
                Some((product, zeros < $fraction_bits + u32::from(longer)))
            }

            /// `a / b`.
            #[inline]
            pub fn divide<const TRACK: bool>(a: $bits, b: $bits) -> Fast<$bits> {
                let quotient = (<$float>::from_bits(a) / <$float>::from_bits(b)).to_bits();
                if !usable(a) || !usable(b) || b & !SIGN == 0 {
                    return None;
                }
                if a & !SIGN == 0 {
                    return Some((quotient, false));
                }
                if !comfortable(quotient) {
                    return None;
                }
                if !TRACK {
                    return Some((quotient, false));
                }
                let product =
                    <$product>::from(significand(quotient)) * <$product>::from(significand(b));
                let dividend = <$product>::from(significand(a)) << $fraction_bits;
                Some((quotient, product != dividend && product != dividend << 1))
            }

            /// How two numbers stand to each other; needs no environment and raises nothing.
            #[inline(always)]
            pub fn compare(a: $bits, b: $bits) -> Option<Relation> {
                if !usable(a) || !usable(b) {
                    return None;
                }
                let (x, y) = (<$float>::from_bits(a), <$float>::from_bits(b));
                Some(if x < y {
                    Relation::Less
                } else if x == y {
                    Relation::Equal
                } else {
                    Relation::Greater
                })
            }

            /// The value truncated to an integer, if its magnitude is below `2^63`.
            #[inline(always)]
            pub fn truncate(a: $bits) -> Option<(i64, bool)> {
                let x = <$float>::from_bits(a);
                if !usable(a) || x.abs() >= 9_223_372_036_854_775_808.0 {
                    return None;
                }
                let integer = x as i64;
                Some((integer, integer as $float != x))
            }

            /// The square root of `a`.
            #[inline]
            pub fn square_root<const TRACK: bool>(a: $bits) -> Fast<$bits> {
                if a & !SIGN == 0 {
                    return Some((a, false));
                }
                if a & SIGN != 0 || !usable(a) {
                    return None;
                }
                let root = <$float>::from_bits(a).sqrt().to_bits();
                if !TRACK {
                    return Some((root, false));
                }
                let square = <$product>::from(significand(root)).pow(2);
                let radicand = <$product>::from(significand(a)) << $fraction_bits;
                Some((root, square != radicand && square != radicand << 1))
            }
        }
    };
}

fast_format!(single, u32, f32, u64, 23, "binary32 operations on bits.");
fast_format!(double, u64, f64, u128, 52, "binary64 operations on bits.");

/// binary32 to binary64: exact for zeros and normal numbers.
#[inline(always)]
pub fn widen(a: u32) -> Option<u64> {
    single::usable(a).then(|| f64::from(f32::from_bits(a)).to_bits())
}

/// binary64 to binary32.
#[inline(always)]
pub fn narrow(a: u64) -> Fast<u32> {
    let x = f64::from_bits(a);
    let narrowed = x as f32;
    let bits = narrowed.to_bits();
    if a << 1 == 0 {
        return Some((bits, false));
    }
    (double::usable(a) && single::comfortable(bits)).then(|| (bits, f64::from(narrowed) != x))
}
