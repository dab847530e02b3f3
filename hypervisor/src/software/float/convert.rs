//! Conversions: between formats, to and from integers, and to integral values.

use super::environment::{Exceptions, FloatEnv, RoundingMode};
use super::format::Format;
use super::round::{round_full, rounds_up};
use super::unpacked::{Class, Unpacked};

/// The value in another format. Flags: IE (signaling NaN), OE, UE, PE; never DE.
pub fn convert<F: Format>(a: Unpacked, env: &mut FloatEnv) -> F {
    match a.class {
        Class::Zero => F::zero(a.sign),
        Class::Infinity => F::infinity(a.sign),
        Class::QuietNan => F::quiet(a),
        Class::SignalingNan => {
            env.raise(Exceptions::INVALID);
            F::quiet(a)
        }
        Class::Unsupported => env.invalid(),
        Class::Finite => round_full(a.sign, a.exponent, u128::from(a.significand) << 64, env),
    }
}

/// A signed integer in a format. Flags: PE.
#[inline]
pub fn from_i64<F: Format>(value: i64, env: &mut FloatEnv) -> F {
    convert(Unpacked::from_i64(value), env)
}

/// An unsigned integer in a format. Flags: PE.
#[inline]
pub fn from_u64<F: Format>(value: u64, env: &mut FloatEnv) -> F {
    convert(Unpacked::finite(false, 63, value), env)
}

/// The magnitude of a finite value split into an integer and the rest below it.
///
/// The rest is aligned so that one half is `1 << 127`; its lowest bit is sticky. Needs an exponent
/// below 64.
fn split(a: Unpacked) -> (u64, u128) {
    let value = u128::from(a.significand) << 64;
    match a.exponent {
        63.. => (a.significand, 0),
        0.. => (
            a.significand >> (63 - a.exponent),
            value << (a.exponent + 1),
        ),
        _ => (
            0,
            super::round::shift_right_sticky(value, (-1 - a.exponent) as u32),
        ),
    }
}

/// A signed integer of `bits` bits, sign-extended. Flags: IE, PE.
///
/// NaNs, infinities and values out of range raise IE and give the most negative integer.
pub fn to_integer(a: Unpacked, bits: u32, mode: RoundingMode, env: &mut FloatEnv) -> i64 {
    let indefinite = i64::MIN >> (64 - bits);
    let (integer, rest) = match a.class {
        Class::Zero => return 0,
        Class::Finite if a.exponent < 64 => split(a),
        _ => {
            env.raise(Exceptions::INVALID);
            return indefinite;
        }
    };
    let up = rounds_up(mode, a.sign, integer & 1 != 0, rest);
    let magnitude = u128::from(integer) + u128::from(up);
    let limit = (1u128 << (bits - 1)) - u128::from(!a.sign);
    if magnitude > limit {
        env.raise(Exceptions::INVALID);
        return indefinite;
    }
    env.rounded_up = rest != 0 && up;
    if rest != 0 {
        env.raise(Exceptions::PRECISION);
    }
    if a.sign {
        (magnitude as i64).wrapping_neg()
    } else {
        magnitude as i64
    }
}

/// The nearest integral value in the rounding direction. Flags: IE (signaling NaN), PE.
pub fn round_to_integral<F: Format>(a: Unpacked, mode: RoundingMode, env: &mut FloatEnv) -> F {
    if a.class != Class::Finite || a.exponent >= 63 {
        return convert(a, env);
    }
    let (integer, rest) = split(a);
    let up = rounds_up(mode, a.sign, integer & 1 != 0, rest);
    // The integer is below 2^63, so the increment cannot carry out.
    let integral = convert(Unpacked::finite(a.sign, 63, integer + u64::from(up)), env);
    env.rounded_up = rest != 0 && up;
    if rest != 0 {
        env.raise(Exceptions::PRECISION);
    }
    integral
}
