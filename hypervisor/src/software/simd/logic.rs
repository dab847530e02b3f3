//! Bitwise logic and selection: PAND and its floating-point namesakes, blends, PTEST.
//!
//! ANDPS, ANDPD and PAND compute the same value (likewise the others), so there is one function
//! for each. Spec: Intel SDM vol. 2 under each mnemonic.

use super::vector::{Vector, lanes128};

/// PAND, ANDPS, ANDPD.
#[inline]
pub fn pand<V: Vector>(a: V, b: V) -> V {
    a.and(b)
}

/// PANDN, ANDNPS, ANDNPD: the complement of the destination, and the source.
#[inline]
pub fn pandn<V: Vector>(a: V, b: V) -> V {
    a.not().and(b)
}

/// POR, ORPS, ORPD.
#[inline]
pub fn por<V: Vector>(a: V, b: V) -> V {
    a.or(b)
}

/// PXOR, XORPS, XORPD.
#[inline]
pub fn pxor<V: Vector>(a: V, b: V) -> V {
    a.xor(b)
}

/// The two flags that PTEST writes; it clears OF, AF, PF and SF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestFlags {
    /// ZF: `a & b` is zero.
    pub zero: bool,
    /// CF: `!a & b` is zero.
    pub carry: bool,
}

/// PTEST.
#[inline]
pub fn ptest(a: u128, b: u128) -> TestFlags {
    TestFlags {
        zero: a & b == 0,
        carry: !a & b == 0,
    }
}

/// Merges by a mask: bits set in `mask` come from `b`.
#[inline(always)]
fn merge(a: u128, b: u128, mask: u128) -> u128 {
    (a & !mask) | (b & mask)
}

/// PBLENDW: words of `b` where the immediate has a one.
#[inline]
pub fn pblendw(a: u128, b: u128, control: u8) -> u128 {
    let mut lanes = lanes128::to16(a);
    for (i, (lane, other)) in lanes.iter_mut().zip(lanes128::to16(b)).enumerate() {
        if control >> i & 1 != 0 {
            *lane = other;
        }
    }
    lanes128::from16(lanes)
}

/// BLENDPS: doublewords of `b` where the immediate has a one.
#[inline]
pub fn blendps(a: u128, b: u128, control: u8) -> u128 {
    let mut lanes = lanes128::to32(a);
    for (i, (lane, other)) in lanes.iter_mut().zip(lanes128::to32(b)).enumerate() {
        if control >> i & 1 != 0 {
            *lane = other;
        }
    }
    lanes128::from32(lanes)
}

/// BLENDPD: quadwords of `b` where the immediate has a one.
#[inline]
pub fn blendpd(a: u128, b: u128, control: u8) -> u128 {
    let low = if control & 1 != 0 { b } else { a } as u64;
    let high = if control & 2 != 0 { b } else { a } >> 64;
    high << 64 | u128::from(low)
}

/// PBLENDVB: bytes of `b` where the byte of `mask` (XMM0) has its top bit set.
#[inline]
pub fn pblendvb(a: u128, b: u128, mask: u128) -> u128 {
    merge(a, b, mask.map8(|x| ((x as i8) >> 7) as u8))
}

/// BLENDVPS: doublewords of `b` where the one of `mask` (XMM0) has its top bit set.
#[inline]
pub fn blendvps(a: u128, b: u128, mask: u128) -> u128 {
    merge(a, b, mask.map32(|x| ((x as i32) >> 31) as u32))
}

/// BLENDVPD: quadwords of `b` where the one of `mask` (XMM0) has its top bit set.
#[inline]
pub fn blendvpd(a: u128, b: u128, mask: u128) -> u128 {
    merge(a, b, mask.map64(|x| ((x as i64) >> 63) as u64))
}

/// MASKMOVQ, MASKMOVDQU: which bytes of the register are written to memory, byte 0 in bit 0.
#[inline]
pub fn maskmov_bytes<V: Vector>(mask: V) -> u32 {
    mask.sign_bits8()
}
