//! FPATAN: the angle of a point.

use super::{HALF_PI, PI, QUARTER_PI, THREE_QUARTER_PI};
use crate::software::float::arithmetic::nan_result;
use crate::software::float::wide::Wide;
use crate::software::float::{Class, F80, FloatEnv, Format, Unpacked};

/// Arctangents of 1/8 to 8/8.
const EIGHTHS: [Wide; 8] = [
    Wide::constant(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    Wide::constant(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::constant(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::constant(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::constant(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    Wide::constant(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::constant(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    QUARTER_PI,
];

/// Terms of the series: `1/16` to the 34th power is below `2^-128`.
const TERMS: u32 = 17;

/// The angle of the point `(x, y)`, from -pi to pi. Flags: IE, DE, UE, PE.
pub fn arctangent(y: Unpacked, x: Unpacked, env: &mut FloatEnv) -> F80 {
    if let Some(nan) = nan_result(y, x, env) {
        return nan;
    }
    env.note_denormal(y);
    env.note_denormal(x);
    let angle = match (y.class, x.class) {
        (Class::Infinity, Class::Infinity) if x.sign => THREE_QUARTER_PI,
        (Class::Infinity, Class::Infinity) => QUARTER_PI,
        (Class::Zero, _) | (_, Class::Infinity) if x.sign => PI,
        (Class::Zero, _) | (_, Class::Infinity) => return F80::zero(y.sign),
        (Class::Infinity, _) | (_, Class::Zero) => HALF_PI,
        _ => finite_angle(y, x),
    };
    angle.with_sign(y.sign).round_inexact(env)
}

/// The magnitude of the angle of a point off the axes.
fn finite_angle(y: Unpacked, x: Unpacked) -> Wide {
    let height = Wide::from_unpacked(y).with_sign(false);
    let width = Wide::from_unpacked(x).with_sign(false);
    let acute = if width.is_smaller(height) {
        HALF_PI.subtract(ratio_angle(width, height))
    } else {
        ratio_angle(height, width)
    };
    if x.sign { PI.subtract(acute) } else { acute }
}

/// The arctangent of `small / large`, at most one.
///
/// With `c = k/8` nearest to the ratio, `atan(s/l) = atan(c) + atan((s - c l) / (l + c s))`, whose
/// argument is at most 1/16. Both combinations are exact enough because `c` has four bits.
fn ratio_angle(small: Wide, large: Wide) -> Wide {
    let eighths = nearest_eighth(small, large);
    if eighths == 0 {
        return series(small.divide(large));
    }
    let c = Wide::from_i32(eighths).multiply(Wide::constant(-3, 1 << 127));
    let numerator = small.subtract(c.multiply(large));
    let denominator = large.add(c.multiply(small));
    EIGHTHS[eighths as usize - 1].add(series(numerator.divide(denominator)))
}

/// The number of eighths nearest to the ratio, from 0 to 8.
fn nearest_eighth(small: Wide, large: Wide) -> i32 {
    let distance = large.exponent - small.exponent;
    if distance > 5 {
        return 0;
    }
    let numerator = (small.significand >> 72) >> distance;
    let denominator = large.significand >> 72;
    ((16 * numerator + denominator) / (2 * denominator)) as i32
}

/// `t - t^3/3 + t^5/5 - ...`
fn series(t: Wide) -> Wide {
    if t.is_zero() {
        return t;
    }
    let square = t.multiply(t);
    let sum = (0..TERMS).rev().fold(Wide::ZERO, |sum, k| {
        Wide::ONE
            .divide_by(2 * k + 1)
            .subtract(sum.multiply(square))
    });
    t.multiply(sum)
}
