//! The one place where exact results are rounded into a format.

use super::environment::{Exceptions, FloatEnv, RoundingMode};
use super::format::Format;

/// Shifts right, keeping "something was lost" in the lowest bit.
#[inline]
pub(super) fn shift_right_sticky(value: u128, count: u32) -> u128 {
    match count {
        0 => value,
        1..=127 => (value >> count) | u128::from(value << (128 - count) != 0),
        _ => u128::from(value != 0),
    }
}

/// Whether a magnitude is rounded away from zero.
///
/// `rest` is what lies below the last kept bit, aligned so that one half of that bit is
/// `1 << 127`; `odd` is the last kept bit.
#[inline]
pub(super) fn rounds_up(mode: RoundingMode, sign: bool, odd: bool, rest: u128) -> bool {
    const HALF: u128 = 1 << 127;
    match mode {
        RoundingMode::Nearest => rest > HALF || (rest == HALF && odd),
        RoundingMode::Down => sign && rest != 0,
        RoundingMode::Up => !sign && rest != 0,
        RoundingMode::Zero => false,
    }
}

/// A significand of `bits` bits after rounding.
struct Rounded {
    /// The kept bits, right-aligned; `1 << bits` if the increment carried out.
    kept: u128,
    inexact: bool,
    up: bool,
}

#[inline]
fn round_significand(significand: u128, bits: u32, sign: bool, mode: RoundingMode) -> Rounded {
    let kept = significand >> (128 - bits);
    let rest = significand << bits;
    let up = rounds_up(mode, sign, kept & 1 != 0, rest);
    Rounded {
        kept: kept + u128::from(up),
        inexact: rest != 0,
        up,
    }
}

/// Rounds `significand / 2^127 * 2^exponent` into the format, under its precision control.
///
/// Bit 127 of the significand must be set; its lowest bit may stand for any nonzero rest.
pub(super) fn round<F: Format>(
    sign: bool,
    exponent: i32,
    significand: u128,
    env: &mut FloatEnv,
) -> F {
    let bits = if F::EXTENDED {
        env.precision.bits()
    } else {
        F::PRECISION
    };
    round_to_bits(sign, exponent, significand, bits, env)
}

/// As [`round`], with the full precision of the format whatever the precision control.
pub(super) fn round_full<F: Format>(
    sign: bool,
    exponent: i32,
    significand: u128,
    env: &mut FloatEnv,
) -> F {
    round_to_bits(sign, exponent, significand, F::PRECISION, env)
}

fn round_to_bits<F: Format>(
    sign: bool,
    exponent: i32,
    significand: u128,
    bits: u32,
    env: &mut FloatEnv,
) -> F {
    debug_assert!(significand >> 127 == 1);
    let mut exponent = exponent;
    let mut rounded = round_significand(significand, bits, sign, env.rounding);
    if exponent < 1 - F::MAX_EXPONENT {
        let carried = rounded.kept >> bits != 0;
        let tiny = exponent < -F::MAX_EXPONENT || !carried;
        if !env.masks.intersects(Exceptions::UNDERFLOW) && tiny {
            env.raise(Exceptions::UNDERFLOW);
            exponent += F::WRAP;
        } else {
            return round_denormal(sign, exponent, significand, bits, tiny, env);
        }
    }
    if rounded.kept >> bits != 0 {
        rounded.kept >>= 1;
        exponent += 1;
    }
    env.rounded_up = rounded.inexact && rounded.up;
    if exponent > F::MAX_EXPONENT {
        env.raise(Exceptions::OVERFLOW);
        if env.masks.intersects(Exceptions::OVERFLOW) {
            return overflow(sign, bits, env);
        }
        exponent -= F::WRAP;
    }
    // The wrapped exponent of FSCALE can still be out of range: it then gives infinity or zero.
    // (So can that of a narrowing conversion, but its result is never delivered.)
    let beyond = exponent.clamp(1 - F::MAX_EXPONENT, F::MAX_EXPONENT) != exponent;
    if rounded.inexact || (F::EXTENDED && beyond) {
        env.raise(Exceptions::PRECISION);
    }
    if beyond {
        env.rounded_up = exponent > 0;
        return if exponent > 0 {
            F::infinity(sign)
        } else {
            F::zero(sign)
        };
    }
    let biased = (exponent + F::MAX_EXPONENT) as u32;
    F::assemble(sign, biased, (rounded.kept as u64) << (64 - bits))
}

/// Rounds a value below the normal range at the format's smallest denormal bit.
fn round_denormal<F: Format>(
    sign: bool,
    exponent: i32,
    significand: u128,
    bits: u32,
    tiny: bool,
    env: &mut FloatEnv,
) -> F {
    if env.flush_to_zero && tiny {
        env.raise(Exceptions::UNDERFLOW | Exceptions::PRECISION);
        env.rounded_up = false;
        return F::zero(sign);
    }
    let shift = (1 - F::MAX_EXPONENT - exponent) as u32;
    let shifted = shift_right_sticky(significand, shift);
    let rounded = round_significand(shifted, bits, sign, env.rounding);
    env.rounded_up = rounded.inexact && rounded.up;
    if rounded.inexact {
        env.raise(Exceptions::PRECISION);
        if tiny {
            env.raise(Exceptions::UNDERFLOW);
        }
    }
    let significand = (rounded.kept as u64) << (64 - bits);
    F::assemble(sign, (significand >> 63) as u32, significand)
}

/// The masked response to overflow: infinity or the largest finite value, by direction.
fn overflow<F: Format>(sign: bool, bits: u32, env: &mut FloatEnv) -> F {
    env.raise(Exceptions::PRECISION);
    let to_infinity = match env.rounding {
        RoundingMode::Nearest => true,
        RoundingMode::Down => sign,
        RoundingMode::Up => !sign,
        RoundingMode::Zero => false,
    };
    env.rounded_up = to_infinity;
    if to_infinity {
        F::infinity(sign)
    } else {
        F::assemble(sign, F::special_exponent() - 1, u64::MAX << (64 - bits))
    }
}
