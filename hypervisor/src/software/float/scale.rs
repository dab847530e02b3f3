//! FSCALE and FXTRACT: powers of two added to a value and taken out of it.

use super::environment::{Exceptions, FloatEnv, RoundingMode};
use super::format::{F80, Format};
use super::round::round_full;
use super::unpacked::{Class, Unpacked};
use super::{arithmetic, convert};

/// FSCALE: `a * 2^trunc(b)`. Flags: IE, DE, OE, UE, PE.
pub fn scale(a: Unpacked, b: Unpacked, env: &mut FloatEnv) -> F80 {
    if let Some(nan) = arithmetic::nan_result(a, b, env) {
        return nan;
    }
    match (a.class, b.class, b.sign) {
        (Class::Zero, Class::Infinity, false) | (Class::Infinity, Class::Infinity, true) => {
            return env.invalid();
        }
        _ => {}
    }
    env.note_denormal(a);
    env.note_denormal(b);
    match (a.class, b.class) {
        (Class::Finite, Class::Infinity) if b.sign => F80::zero(a.sign),
        (Class::Finite, Class::Infinity) => F80::infinity(a.sign),
        (Class::Zero | Class::Infinity, _) => convert::convert(a, env),
        _ => {
            let exponent = a.exponent + whole(b);
            round_full(a.sign, exponent, u128::from(a.significand) << 64, env)
        }
    }
}

/// The integer part of a scale, clamped to where only overflow or underflow can come out.
fn whole(b: Unpacked) -> i32 {
    const LIMIT: i64 = 1 << 17;
    let mut ignored = FloatEnv::default();
    let integer = match b.class {
        Class::Finite if b.exponent > 20 => {
            if b.sign {
                -LIMIT
            } else {
                LIMIT
            }
        }
        _ => convert::to_integer(b, 64, RoundingMode::Zero, &mut ignored),
    };
    integer.clamp(-LIMIT, LIMIT) as i32
}

/// FXTRACT: the exponent as a value, and the significand with exponent zero. Flags: IE, DE, ZE.
pub fn extract(a: Unpacked, env: &mut FloatEnv) -> (F80, F80) {
    match a.class {
        Class::Zero => {
            env.raise(Exceptions::DIVIDE_BY_ZERO);
            (F80::infinity(true), F80::zero(a.sign))
        }
        Class::Infinity => (F80::infinity(false), F80::infinity(a.sign)),
        Class::Finite => {
            env.note_denormal(a);
            let exponent = convert::from_i64(i64::from(a.exponent), env);
            (exponent, F80::assemble(a.sign, 0x3fff, a.significand))
        }
        _ => {
            let nan = convert::convert(a, env);
            (nan, nan)
        }
    }
}
