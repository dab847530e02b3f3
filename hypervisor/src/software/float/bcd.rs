//! Packed decimal: eighteen digits and a sign in ten bytes, as FBLD and FBSTP move them.

use super::convert::to_integer;
use super::environment::{Exceptions, FloatEnv};
use super::format::F80;
use super::unpacked::Unpacked;
use super::{Format, convert};

/// The largest magnitude of eighteen digits.
const LARGEST: u64 = 999_999_999_999_999_999;

/// What FBSTP stores for a masked invalid operation.
pub const INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// FBLD: the value of a packed decimal. Digits above nine count as their binary value.
pub fn load(bytes: [u8; 10]) -> F80 {
    let magnitude = bytes[..9].iter().rev().fold(0u64, |sum, byte| {
        sum.wrapping_mul(100) + u64::from(byte >> 4) * 10 + u64::from(byte & 15)
    });
    let value = Unpacked::finite(bytes[9] & 0x80 != 0, 63, magnitude);
    // 64 bits hold the magnitude, so nothing is rounded and nothing raised.
    convert::convert(value, &mut FloatEnv::default())
}

/// FBSTP: the packed decimal of a value, rounded to an integer. Flags: IE, PE.
pub fn store(value: F80, env: &mut FloatEnv) -> [u8; 10] {
    let unpacked = value.unpack();
    let mut rounding = *env;
    let integer = to_integer(unpacked, 64, env.rounding, &mut rounding);
    let too_large = integer.unsigned_abs() > LARGEST;
    if too_large {
        env.raise(Exceptions::INVALID);
        return INDEFINITE;
    }
    *env = rounding;
    let mut rest = integer.unsigned_abs();
    let mut bytes = [0; 10];
    for byte in &mut bytes[..9] {
        let pair = (rest % 100) as u8;
        *byte = ((pair / 10) << 4) | (pair % 10);
        rest /= 100;
    }
    bytes[9] = u8::from(unpacked.sign) << 7;
    bytes
}
