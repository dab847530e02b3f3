//! FYL2X and FYL2XP1: a factor times a binary logarithm.

use super::TWO_OVER_LN_2;
use crate::software::float::arithmetic::nan_result;
use crate::software::float::wide::Wide;
use crate::software::float::{Class, Exceptions, F80, FloatEnv, Format, Unpacked};

/// Terms of the arctanh series: `0.1716^2` to the 25th power is below `2^-127`.
const TERMS: u32 = 25;

/// Significands above the square root of 2 are halved before taking the logarithm.
const SQUARE_ROOT_OF_2: u64 = 0xb504_f333_f9de_6484;

/// `y * log2(x)`. Flags: IE, DE, ZE, OE, UE, PE.
pub fn log2_times(x: Unpacked, y: Unpacked, env: &mut FloatEnv) -> F80 {
    if let Some(nan) = nan_result(x, y, env) {
        return nan;
    }
    let is_one = x.class == Class::Finite && x.exponent == 0 && x.significand == 1 << 63;
    match (x.class, y.class) {
        (Class::Finite | Class::Infinity, _) if x.sign => return env.invalid(),
        (Class::Zero | Class::Infinity, Class::Zero) => return env.invalid(),
        (_, Class::Infinity) if is_one => return env.invalid(),
        (Class::Zero, Class::Finite) => {
            env.raise(Exceptions::DIVIDE_BY_ZERO);
            return F80::infinity(!y.sign);
        }
        _ => {}
    }
    env.note_denormal(x);
    env.note_denormal(y);
    let negative = x.class == Class::Zero || (x.class == Class::Finite && x.exponent < 0);
    let sign = y.sign ^ negative;
    match (x.class, y.class) {
        (Class::Zero | Class::Infinity, _) | (_, Class::Infinity) => F80::infinity(sign),
        (_, Class::Zero) => F80::zero(sign),
        _ if is_one => F80::zero(y.sign),
        _ => {
            let product = Wide::from_unpacked(y).multiply(binary_logarithm(x));
            finish(product, is_power_of_two(x), env)
        }
    }
}

/// `y * log2(x + 1)`. Flags: IE, DE, OE, UE, PE.
///
/// The architecture defines it for `x` within `1 - sqrt(1/2)` of zero; here any `x` above -1 works
/// and those below raise IE. An `x` of -1 gives an infinity.
pub fn log2_plus_one_times(x: Unpacked, y: Unpacked, env: &mut FloatEnv) -> F80 {
    if let Some(nan) = nan_result(x, y, env) {
        return nan;
    }
    let minus_one =
        x.sign && x.class == Class::Finite && x.exponent == 0 && x.significand == 1 << 63;
    let below =
        x.sign && (x.class == Class::Infinity || (x.class == Class::Finite && x.exponent >= 0));
    match (x.class, y.class) {
        _ if below && !minus_one => return env.invalid(),
        (Class::Zero, Class::Infinity) | (Class::Infinity, Class::Zero) => return env.invalid(),
        _ if minus_one && y.class == Class::Zero => return env.invalid(),
        _ => {}
    }
    env.note_denormal(x);
    env.note_denormal(y);
    let sign = x.sign ^ y.sign;
    match (x.class, y.class) {
        _ if minus_one => F80::infinity(sign),
        (Class::Infinity, _) | (_, Class::Infinity) => F80::infinity(sign),
        (Class::Zero, _) | (_, Class::Zero) => F80::zero(sign),
        _ => {
            let x = Wide::from_unpacked(x);
            let ratio = x.divide(x.add(Wide::from_i32(2)));
            // Large arguments leave the range of the series and have no small logarithm.
            let logarithm = if x.exponent >= -1 {
                binary_logarithm_wide(x.add(Wide::ONE))
            } else {
                arctanh_scaled(ratio)
            };
            finish(Wide::from_unpacked(y).multiply(logarithm), false, env)
        }
    }
}

/// Rounds a product; the logarithm of a power of two is an integer, and the product exact.
fn finish(product: Wide, exact_logarithm: bool, env: &mut FloatEnv) -> F80 {
    if exact_logarithm {
        product.round(env)
    } else {
        product.round_inexact(env)
    }
}

fn is_power_of_two(x: Unpacked) -> bool {
    x.significand == 1 << 63
}

/// The binary logarithm of a positive number other than one.
fn binary_logarithm(x: Unpacked) -> Wide {
    if is_power_of_two(x) {
        return Wide::from_i32(x.exponent);
    }
    binary_logarithm_wide(Wide::from_unpacked(x))
}

fn binary_logarithm_wide(x: Wide) -> Wide {
    let halve = (x.significand >> 64) as u64 > SQUARE_ROOT_OF_2;
    let mantissa = Wide::constant(-i32::from(halve), x.significand);
    let whole = Wide::from_i32(x.exponent + i32::from(halve));
    let ratio = mantissa.subtract(Wide::ONE).divide(mantissa.add(Wide::ONE));
    whole.add(arctanh_scaled(ratio))
}

/// `2 / ln 2 * arctanh(s)`: the binary logarithm of `(1 + s) / (1 - s)`.
fn arctanh_scaled(s: Wide) -> Wide {
    if s.is_zero() {
        return s;
    }
    let square = s.multiply(s);
    let series = (0..TERMS).rev().fold(Wide::ZERO, |sum, k| {
        Wide::ONE.divide_by(2 * k + 1).add(sum.multiply(square))
    });
    s.multiply(series).multiply(TWO_OVER_LN_2)
}
