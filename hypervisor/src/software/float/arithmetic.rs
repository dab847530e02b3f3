//! Add, subtract, multiply, divide, square root, and which NaN an operation returns.
//!
//! Operands come unpacked, so that one function serves operands of mixed formats (the x87 adds a
//! binary32 from memory to an extended register without converting it first).

use std::cmp::Ordering;

use super::environment::{Exceptions, FloatEnv, RoundingMode};
use super::format::Format;
use super::round::{round, shift_right_sticky};
use super::unpacked::{Class, QUIET, Unpacked};

/// `a + b`. Flags: IE, DE, OE, UE, PE.
#[inline]
pub fn add<F: Format>(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> F {
    add_with_sign(a, b, b.sign, env)
}

/// `a - b`. Flags: IE, DE, OE, UE, PE.
#[inline]
pub fn subtract<F: Format>(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> F {
    add_with_sign(a, b, !b.sign, env)
}

/// `a * b`. Flags: IE, DE, OE, UE, PE.
pub fn multiply<F: Format>(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> F {
    if let Some(nan) = nan_result(a, b, env) {
        return nan;
    }
    let sign = a.sign ^ b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => env.invalid(),
        (Class::Infinity, _) | (_, Class::Infinity) => {
            note_denormals(a, b, env);
            F::infinity(sign)
        }
        (Class::Zero, _) | (_, Class::Zero) => {
            note_denormals(a, b, env);
            F::zero(sign)
        }
        _ => {
            note_denormals(a, b, env);
            let product = u128::from(a.significand) * u128::from(b.significand);
            let shift = product.leading_zeros();
            let exponent = a.exponent + b.exponent + 1 - shift as i32;
            round(sign, exponent, product << shift, env)
        }
    }
}

/// `a / b`. Flags: IE, DE, ZE, OE, UE, PE.
pub fn divide<F: Format>(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> F {
    if let Some(nan) = nan_result(a, b, env) {
        return nan;
    }
    let sign = a.sign ^ b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => env.invalid(),
        (Class::Infinity, _) => {
            note_denormals(a, b, env);
            F::infinity(sign)
        }
        (Class::Zero, _) | (_, Class::Infinity) => {
            note_denormals(a, b, env);
            F::zero(sign)
        }
        (_, Class::Zero) => {
            // ZE takes precedence over DE of a denormal dividend.
            env.raise(Exceptions::DIVIDE_BY_ZERO);
            F::infinity(sign)
        }
        _ => {
            note_denormals(a, b, env);
            let (quotient, below) = divide_significands(a.significand, b.significand);
            let exponent = a.exponent - b.exponent - i32::from(below);
            round(sign, exponent, quotient, env)
        }
    }
}

/// The quotient of two normalised significands: 64 exact bits, then the rest compared to one half.
///
/// The flag tells that the quotient is below one (and was doubled).
fn divide_significands(a: u64, b: u64) -> (u128, bool) {
    let below = a < b;
    let dividend = u128::from(a) << if below { 64 } else { 63 };
    let divisor = u128::from(b);
    let quotient = dividend / divisor;
    let remainder = dividend % divisor;
    let rest: u128 = match (2 * remainder).cmp(&divisor) {
        _ if remainder == 0 => 0,
        Ordering::Less => 1,
        Ordering::Equal => 1 << 63,
        Ordering::Greater => 1 << 63 | 1,
    };
    (quotient << 64 | rest, below)
}

/// The square root of `a`. Flags: IE, DE, PE.
pub fn square_root<F: Format>(a: Unpacked, env: &mut FloatEnv) -> F {
    match a.class {
        Class::QuietNan => return F::quiet(a),
        Class::SignalingNan => {
            env.raise(Exceptions::INVALID);
            return F::quiet(a);
        }
        Class::Unsupported => return env.invalid(),
        Class::Zero => return F::zero(a.sign),
        Class::Finite | Class::Infinity if a.sign => return env.invalid(),
        Class::Infinity => return F::infinity(false),
        Class::Finite => {}
    }
    env.note_denormal(a);
    let radicand = u128::from(a.significand) << if a.exponent & 1 == 0 { 63 } else { 64 };
    let root = radicand.isqrt();
    let remainder = radicand - root * root;
    let rest: u128 = if remainder == 0 {
        0
    } else if remainder <= root {
        1
    } else {
        1 << 63 | 1
    };
    round(false, a.exponent >> 1, root << 64 | rest, env)
}

fn note_denormals(a: Unpacked, b: Unpacked, env: &mut FloatEnv) {
    env.note_denormal(a);
    env.note_denormal(b);
}

/// The result if an operand is a NaN or unsupported, with IE for signaling ones.
///
/// SSE returns the first operand that is a NaN. The x87 prefers a quiet NaN to a signaling one,
/// then the larger significand, then the positive sign.
pub(super) fn nan_result<F: Format>(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> Option<F> {
    if a.is_number() && b.is_number() {
        return None;
    }
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Some(env.invalid());
    }
    if a.is_signaling() || b.is_signaling() {
        env.raise(Exceptions::INVALID);
    }
    Some(F::quiet(if F::EXTENDED {
        select_x87(a, b)
    } else {
        select_sse(a, b)
    }))
}

fn select_sse(a: Unpacked, b: Unpacked) -> Unpacked {
    if a.is_nan() { a } else { b }
}

fn select_x87(a: Unpacked, b: Unpacked) -> Unpacked {
    match (a.class, b.class) {
        (Class::QuietNan, Class::SignalingNan) => a,
        (Class::SignalingNan, Class::QuietNan) => b,
        _ if !b.is_nan() => a,
        _ if !a.is_nan() => b,
        _ => match (a.significand | QUIET).cmp(&(b.significand | QUIET)) {
            Ordering::Greater => a,
            Ordering::Less => b,
            Ordering::Equal => {
                if a.sign {
                    b
                } else {
                    a
                }
            }
        },
    }
}

fn add_with_sign<F: Format>(a: Unpacked, b: Unpacked, b_sign: bool, env: &mut FloatEnv) -> F {
    if let Some(nan) = nan_result(a, b, env) {
        return nan;
    }
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if a.sign != b_sign => return env.invalid(),
        _ => note_denormals(a, b, env),
    }
    match (a.class, b.class) {
        (Class::Infinity, _) => F::infinity(a.sign),
        (_, Class::Infinity) => F::infinity(b_sign),
        (Class::Zero, Class::Zero) if a.sign == b_sign => F::zero(a.sign),
        (Class::Zero, Class::Zero) => zero_difference(env),
        (Class::Zero, _) => round(b_sign, b.exponent, u128::from(b.significand) << 64, env),
        (_, Class::Zero) => round(a.sign, a.exponent, u128::from(a.significand) << 64, env),
        _ => add_finite(a, b, b_sign, env),
    }
}

/// The zero of `x - x`: negative only when rounding down.
fn zero_difference<F: Format>(env: &FloatEnv) -> F {
    F::zero(env.rounding == RoundingMode::Down)
}

fn add_finite<F: Format>(a: Unpacked, b: Unpacked, b_sign: bool, env: &mut FloatEnv) -> F {
    let a_larger = (a.exponent, a.significand) >= (b.exponent, b.significand);
    let (large, small, sign) = if a_larger {
        (a, b, a.sign)
    } else {
        (b, a, b_sign)
    };
    let distance = (large.exponent - small.exponent) as u32;
    // One bit is left for the carry; 63 bits below hold every bit of a close operand.
    let high = u128::from(large.significand) << 63;
    let low = shift_right_sticky(u128::from(small.significand) << 63, distance);
    let sum = if a.sign == b_sign {
        high + low
    } else {
        high - low
    };
    if sum == 0 {
        return zero_difference(env);
    }
    let shift = sum.leading_zeros();
    round(sign, large.exponent + 1 - shift as i32, sum << shift, env)
}
