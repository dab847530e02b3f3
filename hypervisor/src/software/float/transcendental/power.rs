//! F2XM1: two to a power, minus one.

use super::LN_2;
use crate::software::float::wide::Wide;
use crate::software::float::{Class, Exceptions, F80, FloatEnv, Unpacked, convert};

/// Terms of the exponential series: `0.6932^33 / 33!` is below `2^-130`.
const TERMS: u32 = 33;

/// `2^a - 1` for `a` from -1 to 1. Flags: IE, DE, UE, PE.
///
/// Outside that range the architecture leaves the result undefined; here it is the operand, with
/// PE.
pub fn power_minus_one(a: Unpacked, env: &mut FloatEnv) -> F80 {
    match a.class {
        Class::Infinity if a.sign => {
            return F80 {
                sign_exponent: 0xbfff,
                ..F80::ONE
            };
        }
        Class::Finite => env.note_denormal(a),
        _ => return convert::convert(a, env),
    }
    if a.exponent >= 0 {
        let minus_one = a.sign && a.exponent == 0 && a.significand == 1 << 63;
        if minus_one {
            return F80 {
                sign_exponent: 0xbffe,
                ..F80::ONE
            };
        }
        let one = !a.sign && a.exponent == 0 && a.significand == 1 << 63;
        if !one {
            env.raise(Exceptions::PRECISION);
        }
        return convert::convert(a, env);
    }
    exponential_minus_one(Wide::from_unpacked(a).multiply(LN_2)).round_inexact(env)
}

/// `e^t - 1` for small `t`, as `t (1 + t/2 (1 + t/3 (...)))`, exact in relative terms near zero.
fn exponential_minus_one(t: Wide) -> Wide {
    let series = (2..=TERMS).rev().fold(Wide::ONE, |sum, n| {
        Wide::ONE.add(sum.multiply(t).divide_by(n))
    });
    t.multiply(series)
}
