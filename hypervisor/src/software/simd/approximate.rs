//! RCPPS, RCPSS, RSQRTPS, RSQRTSS: approximations with a relative error of at most 1.5 * 2^-12.
//!
//! Processors differ in the bits they return, within that bound. Here the result is the exact
//! value rounded to 12 significant bits (relative error at most 2^-12), computed in integers, so
//! that it is the same on every host. No exception is raised; denormals count as zeros, whatever
//! DAZ says, and tiny results are zeros. Spec: Intel SDM vol. 2, RCPPS and RSQRTPS.

use super::shuffle::with_low32;
use super::vector::lanes128;
use crate::software::float::{Class, Format, Unpacked};

/// RCPPS: four reciprocals.
pub fn rcpps(b: u128) -> u128 {
    lanes128::from32(lanes128::to32(b).map(reciprocal))
}

/// RCPSS: the lowest lane only.
pub fn rcpss(a: u128, b: u32) -> u128 {
    with_low32(a, reciprocal(b))
}

/// RSQRTPS: four reciprocal square roots.
pub fn rsqrtps(b: u128) -> u128 {
    lanes128::from32(lanes128::to32(b).map(reciprocal_root))
}

/// RSQRTSS: the lowest lane only.
pub fn rsqrtss(a: u128, b: u32) -> u128 {
    with_low32(a, reciprocal_root(b))
}

/// Unpacks with denormals as zeros.
fn unpack(value: u32) -> Unpacked {
    let unpacked = value.unpack();
    if unpacked.denormal {
        Unpacked::zero(unpacked.sign)
    } else {
        unpacked
    }
}

/// `significand / 2^63 * 2^exponent` to 12 bits; out of range it is an infinity or a zero.
fn short(sign: bool, exponent: i32, significand: u64) -> u32 {
    let rounded = Unpacked::finite(sign, exponent, significand);
    let kept = (rounded.significand >> 52) + (rounded.significand >> 51 & 1);
    let rounded = Unpacked::finite(sign, rounded.exponent + 1, kept << 51);
    match rounded.exponent {
        128.. => u32::infinity(sign),
        -126.. => u32::assemble(sign, (rounded.exponent + 127) as u32, rounded.significand),
        _ => u32::zero(sign),
    }
}

fn reciprocal(value: u32) -> u32 {
    let a = unpack(value);
    match a.class {
        Class::Zero => u32::infinity(a.sign),
        Class::Infinity => u32::zero(a.sign),
        Class::Finite => {
            // 2^126 / significand lies in (2^62, 2^63]; twelve bits are kept.
            let quotient = (1u128 << 126) / u128::from(a.significand);
            short(a.sign, -a.exponent, quotient as u64)
        }
        _ => u32::quiet(a),
    }
}

fn reciprocal_root(value: u32) -> u32 {
    let a = unpack(value);
    match a.class {
        Class::Zero => u32::infinity(a.sign),
        Class::Infinity if !a.sign => u32::zero(false),
        Class::Finite if !a.sign => {
            // The radicand is scaled to an even exponent, [1, 4) * 2^62.
            let odd = a.exponent & 1;
            let radicand = u128::from(a.significand >> 1) << odd;
            let root = (radicand << 62).isqrt();
            let quotient = (1u128 << 125) / root;
            short(false, -((a.exponent - odd) / 2), quotient as u64)
        }
        Class::Finite | Class::Infinity => u32::indefinite(),
        _ => u32::quiet(a),
    }
}
