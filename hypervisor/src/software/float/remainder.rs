//! The partial remainders of the x87: FPREM (quotient truncated) and FPREM1 (to nearest even).

use super::environment::FloatEnv;
use super::format::{F80, Format};
use super::round::round_full;
use super::unpacked::{Class, Unpacked};
use super::{arithmetic, convert};

/// How far one partial remainder step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not a division of numbers: the value is a NaN.
    None,
    /// The exponent was reduced, but the value is not the remainder yet.
    Partial,
    /// The value is the remainder of a division with this quotient (its low bits).
    Complete(u64),
}

/// Outcome of one partial remainder step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The remainder, the partly reduced dividend, or a NaN.
    pub value: F80,
    /// What the value is.
    pub progress: Progress,
}

impl Remainder {
    fn complete(value: F80, quotient: u64) -> Self {
        Self {
            value,
            progress: Progress::Complete(quotient),
        }
    }
}

/// One step of FPREM, or of FPREM1 if `nearest`. Flags: IE, DE, UE.
///
/// If the exponents differ by 64 or more, the difference is lowered by 32 to 63 (by `32 + d % 32`
/// for a difference of `d`) and the step is to be repeated.
pub fn remainder(a: Unpacked, b: Unpacked, nearest: bool, env: &mut FloatEnv) -> Remainder {
    if let Some(value) = arithmetic::nan_result(a, b, env) {
        return Remainder {
            value,
            progress: Progress::None,
        };
    }
    if a.class == Class::Infinity || b.class == Class::Zero {
        return Remainder {
            value: env.invalid(),
            progress: Progress::None,
        };
    }
    env.note_denormal(a);
    env.note_denormal(b);
    let distance = a.exponent - b.exponent;
    let too_small = if nearest { distance < -1 } else { distance < 0 };
    if a.class == Class::Zero || b.class == Class::Infinity || too_small {
        return Remainder::complete(convert::convert(a, env), 0);
    }
    if distance >= 64 {
        let step = 32 + (distance & 31);
        let dividend = u128::from(a.significand) << step;
        let rest = (dividend % u128::from(b.significand)) as u64;
        let value = pack(a.sign, a.exponent - step, rest, env);
        return Remainder {
            value,
            progress: Progress::Partial,
        };
    }
    if distance < 0 {
        return below_half_or_above(a, b, env);
    }
    let divisor = u128::from(b.significand);
    let dividend = u128::from(a.significand) << distance;
    let (mut quotient, mut rest) = (dividend / divisor, dividend % divisor);
    let mut sign = a.sign;
    if nearest && (2 * rest > divisor || (2 * rest == divisor && quotient & 1 != 0)) {
        rest = divisor - rest;
        quotient += 1;
        sign = !sign;
    }
    let value = pack(sign, b.exponent, rest as u64, env);
    Remainder::complete(value, quotient as u64)
}

/// FPREM1 of a dividend between a quarter of the divisor and the divisor.
fn below_half_or_above(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> Remainder {
    // `a` is `a.significand` at half the weight of `b.significand`.
    if a.significand <= b.significand {
        return Remainder::complete(convert::convert(a, env), 0);
    }
    // The difference has at most 64 bits, because a > b / 2.
    let rest = 2 * u128::from(b.significand) - u128::from(a.significand);
    let value = pack(!a.sign, a.exponent, rest as u64, env);
    Remainder::complete(value, 1)
}

/// An exact value from an integer significand; zero keeps the sign.
fn pack(sign: bool, exponent: i32, significand: u64, env: &mut FloatEnv) -> F80 {
    let value = Unpacked::finite(sign, exponent, significand);
    match value.class {
        Class::Zero => F80::zero(sign),
        _ => round_full(
            sign,
            value.exponent,
            u128::from(value.significand) << 64,
            env,
        ),
    }
}
