//! FSIN, FCOS, FSINCOS, FPTAN.

use super::HALF_PI;
use crate::software::float::wide::Wide;
use crate::software::float::{Class, F80, FloatEnv, Format, Unpacked, convert};

/// 2/pi as a fraction of 256 bits, most significant limb first.
const TWO_OVER_PI: [u64; 4] = [
    0xa2f9_836e_4e44_1529,
    0xfc27_57d1_f534_ddc0,
    0xdb62_9599_3c43_9041,
    0xfe51_63ab_debb_c561,
];

/// Terms of each series: `(pi/4)^32 / 32!` is below `2^-128`.
const TERMS: u32 = 16;

/// Sine and cosine of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SineCosine {
    /// The sine.
    pub sine: F80,
    /// The cosine.
    pub cosine: F80,
}

/// The sine; `None` if the magnitude is 2^63 or more. Flags: IE, DE, UE, PE.
pub fn sine(a: Unpacked, env: &mut FloatEnv) -> Option<F80> {
    evaluate(
        a,
        env,
        |angle, env| angle.sine().round_inexact(env),
        F80::zero(a.sign),
    )
}

/// The cosine; `None` if the magnitude is 2^63 or more. Flags: IE, DE, PE.
pub fn cosine(a: Unpacked, env: &mut FloatEnv) -> Option<F80> {
    evaluate(
        a,
        env,
        |angle, env| angle.cosine().round_inexact(env),
        F80::ONE,
    )
}

/// Both; `None` if the magnitude is 2^63 or more. Flags: IE, DE, UE, PE.
pub fn sine_cosine(a: Unpacked, env: &mut FloatEnv) -> Option<SineCosine> {
    let sine = sine(a, env)?;
    // Rounding direction of the sine is reported: it is computed last by the processor's account.
    let mut second = *env;
    let cosine = cosine(a, &mut second)?;
    env.flags |= second.flags;
    env.rounded_up = second.rounded_up;
    Some(SineCosine { sine, cosine })
}

/// The tangent; `None` if the magnitude is 2^63 or more. Flags: IE, DE, UE, PE.
pub fn tangent(a: Unpacked, env: &mut FloatEnv) -> Option<F80> {
    let quotient =
        |angle: Angle, env: &mut FloatEnv| angle.sine().divide(angle.cosine()).round_inexact(env);
    evaluate(a, env, quotient, F80::zero(a.sign))
}

/// Handles the special operands, then computes from the reduced angle.
fn evaluate(
    a: Unpacked,
    env: &mut FloatEnv,
    compute: impl FnOnce(Angle, &mut FloatEnv) -> F80,
    at_zero: F80,
) -> Option<F80> {
    match a.class {
        Class::Zero => Some(at_zero),
        Class::Infinity => Some(env.invalid()),
        Class::Finite if a.exponent >= 63 => None,
        Class::Finite => {
            env.note_denormal(a);
            Some(compute(Angle::reduce(a), env))
        }
        _ => Some(convert::convert(a, env)),
    }
}

/// An angle as a number of right angles and a rest of at most half a right angle.
#[derive(Clone, Copy)]
struct Angle {
    quadrant: u64,
    rest: Wide,
}

impl Angle {
    /// Reduces a finite value below 2^63.
    fn reduce(a: Unpacked) -> Self {
        if a.exponent < -1 {
            return Self {
                quadrant: 0,
                rest: Wide::from_unpacked(a),
            };
        }
        let (mut quadrant, mut fraction) = turns(a);
        let mut sign = a.sign;
        // The nearest multiple of a right angle leaves the smaller rest.
        if fraction[0] >> 63 != 0 {
            quadrant += 1;
            fraction = negate(fraction);
            sign = !sign;
        }
        if a.sign {
            quadrant = quadrant.wrapping_neg();
        }
        let shift = leading_zeros(fraction);
        let significand = top(fraction, shift);
        let rest = Wide::new(sign, -1 - shift as i32, significand).multiply(HALF_PI);
        Self {
            quadrant: quadrant & 3,
            rest,
        }
    }

    fn sine(self) -> Wide {
        let value = if self.quadrant & 1 == 0 {
            sine_series(self.rest)
        } else {
            cosine_series(self.rest)
        };
        if self.quadrant & 2 == 0 {
            value
        } else {
            value.negated()
        }
    }

    fn cosine(self) -> Wide {
        Self {
            quadrant: (self.quadrant + 1) & 3,
            rest: self.rest,
        }
        .sine()
    }
}

/// `|a| * 2/pi` as an integer (its low bits) and a 256-bit fraction, most significant limb first.
///
/// The product of a 64-bit significand and a 256-bit fraction has an error below one unit of the
/// significand times `2^-256`: the fraction is right to about 190 bits, and no argument comes
/// closer than about `2^-70` to a multiple of pi/2.
fn turns(a: Unpacked) -> (u64, [u64; 4]) {
    let mut limbs = [0u64; 5];
    let mut carry = 0u128;
    for i in (0..4).rev() {
        let product = u128::from(a.significand) * u128::from(TWO_OVER_PI[i]) + carry;
        limbs[i + 1] = product as u64;
        carry = product >> 64;
    }
    limbs[0] = carry as u64;
    // `limbs` is the value with the significand as an integer; it weighs 2^(exponent - 63).
    let shift = (63 - a.exponent) as u32;
    let [l0, l1, l2, l3, l4] = match shift {
        64.. => [0, limbs[0], limbs[1], limbs[2], limbs[3]],
        _ => limbs,
    };
    let bits = shift % 64;
    let join = |high: u64, low: u64| ((u128::from(high) << 64 | u128::from(low)) >> bits) as u64;
    (
        l0 >> bits,
        [join(l0, l1), join(l1, l2), join(l2, l3), join(l3, l4)],
    )
}

/// `1 - fraction`.
fn negate(fraction: [u64; 4]) -> [u64; 4] {
    let mut result = fraction;
    let mut carry = true;
    for limb in result.iter_mut().rev() {
        let (value, next) = (!*limb).overflowing_add(u64::from(carry));
        *limb = value;
        carry = next;
    }
    result
}

fn leading_zeros(fraction: [u64; 4]) -> u32 {
    let empty = fraction.iter().take_while(|&&limb| limb == 0).count();
    empty as u32 * 64 + fraction.get(empty).map_or(0, |limb| limb.leading_zeros())
}

/// The 128 bits of the fraction after `skip`.
fn top(fraction: [u64; 4], skip: u32) -> u128 {
    let limb = |i: usize| u128::from(fraction.get(i).copied().unwrap_or(0));
    let first = (skip / 64) as usize;
    let bits = skip % 64;
    let high = limb(first) << 64 | limb(first + 1);
    match bits {
        0 => high,
        _ => high << bits | limb(first + 2) >> (64 - bits),
    }
}

/// `x - x^3/3! + x^5/5! - ...`
fn sine_series(x: Wide) -> Wide {
    x.multiply(alternating_series(x, 1))
}

/// `1 - x^2/2! + x^4/4! - ...`
fn cosine_series(x: Wide) -> Wide {
    alternating_series(x, 0)
}

/// `1 - x^2/((n+1)(n+2)) (1 - x^2/((n+3)(n+4)) (...))`
fn alternating_series(x: Wide, n: u32) -> Wide {
    let square = x.multiply(x);
    (0..TERMS).rev().fold(Wide::ONE, |sum, k| {
        let divisor = (2 * k + n + 1) * (2 * k + n + 2);
        Wide::ONE.subtract(sum.multiply(square).divide_by(divisor))
    })
}
