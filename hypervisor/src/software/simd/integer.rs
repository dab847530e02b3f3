//! Integer arithmetic on vector lanes: add, subtract, multiply, average, minimum and maximum,
//! absolute values, sums of differences, and the horizontal forms.
//!
//! Functions are named after the instruction. Those generic over [`Vector`] have an MMX form
//! (`u64`) and an SSE form (`u128`); the rest exist for XMM registers only. None has an exception
//! of its own. Spec: Intel SDM vol. 2, AMD APM vol. 4 and 5, under each mnemonic.

use super::swar;
use super::vector::{Vector, lanes128};

/// Lane-wise instructions: name, lane accessor, lane type, operation, and what it computes.
macro_rules! lanewise {
    ($($name:ident, $zip:ident, $f:expr, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline]
        pub fn $name<V: Vector>(a: V, b: V) -> V {
            a.$zip(b, $f)
        }
    )*};
}

lanewise! {
    paddb, zip64, swar::add::<8>, "PADDB: bytes, modulo.";
    paddw, zip64, swar::add::<16>, "PADDW: words, modulo.";
    paddd, zip32, u32::wrapping_add, "PADDD: doublewords, modulo.";
    paddq, zip64, u64::wrapping_add, "PADDQ: quadwords, modulo.";
    psubb, zip64, swar::subtract::<8>, "PSUBB: bytes, modulo.";
    psubw, zip64, swar::subtract::<16>, "PSUBW: words, modulo.";
    psubd, zip32, u32::wrapping_sub, "PSUBD: doublewords, modulo.";
    psubq, zip64, u64::wrapping_sub, "PSUBQ: quadwords, modulo.";
    paddusb, zip64, swar::add_unsigned::<8>, "PADDUSB: unsigned bytes, saturating.";
    paddusw, zip64, swar::add_unsigned::<16>, "PADDUSW: unsigned words, saturating.";
    psubusb, zip64, swar::subtract_unsigned::<8>, "PSUBUSB: unsigned bytes, saturating.";
    psubusw, zip64, swar::subtract_unsigned::<16>, "PSUBUSW: unsigned words, saturating.";
    paddsb, zip64, swar::add_signed::<8>,
        "PADDSB: signed bytes, saturating.";
    paddsw, zip64, swar::add_signed::<16>,
        "PADDSW: signed words, saturating.";
    psubsb, zip64, swar::subtract_signed::<8>,
        "PSUBSB: signed bytes, saturating.";
    psubsw, zip64, swar::subtract_signed::<16>,
        "PSUBSW: signed words, saturating.";
    pmullw, zip16, u16::wrapping_mul, "PMULLW: low halves of the products of words.";
    pmulhw, zip16, |x, y| ((i32::from(x as i16) * i32::from(y as i16)) >> 16) as u16,
        "PMULHW: high halves of the products of signed words.";
    pmulhuw, zip16, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16,
        "PMULHUW: high halves of the products of unsigned words.";
    pmulhrsw, zip16, |x, y| {
        let product = i32::from(x as i16) * i32::from(y as i16);
        (((product >> 14) + 1) >> 1) as u16
    }, "PMULHRSW: products of signed words as fractions, rounded.";
    pmulld, zip32, u32::wrapping_mul, "PMULLD: low halves of the products of doublewords.";
    pmuludq, zip64, |x, y| u64::from(x as u32) * u64::from(y as u32),
        "PMULUDQ: products of the even unsigned doublewords.";
    pmuldq, zip64, |x, y| i64::from(x as i32).wrapping_mul(i64::from(y as i32)) as u64,
        "PMULDQ: products of the even signed doublewords.";
    pavgb, zip64, swar::average::<8>,
        "PAVGB: averages of unsigned bytes, rounded up.";
    pavgw, zip64, swar::average::<16>,
        "PAVGW: averages of unsigned words, rounded up.";
    pminub, zip64, swar::minimum::<8>, "PMINUB: minimum of unsigned bytes.";
    pminuw, zip64, swar::minimum::<16>, "PMINUW: minimum of unsigned words.";
    pminud, zip32, |x, y| x.min(y), "PMINUD: minimum of unsigned doublewords.";
    pmaxub, zip64, swar::maximum::<8>, "PMAXUB: maximum of unsigned bytes.";
    pmaxuw, zip64, swar::maximum::<16>, "PMAXUW: maximum of unsigned words.";
    pmaxud, zip32, |x, y| x.max(y), "PMAXUD: maximum of unsigned doublewords.";
    pminsb, zip64, swar::minimum_signed::<8>, "PMINSB: minimum of signed bytes.";
    pminsw, zip64, swar::minimum_signed::<16>, "PMINSW: minimum of signed words.";
    pminsd, zip32, |x, y| (x as i32).min(y as i32) as u32,
        "PMINSD: minimum of signed doublewords.";
    pmaxsb, zip64, swar::maximum_signed::<8>, "PMAXSB: maximum of signed bytes.";
    pmaxsw, zip64, swar::maximum_signed::<16>, "PMAXSW: maximum of signed words.";
    pmaxsd, zip32, |x, y| (x as i32).max(y as i32) as u32,
        "PMAXSD: maximum of signed doublewords.";
    psignb, zip8, |x, y| (x as i8).wrapping_mul((y as i8).signum()) as u8,
        "PSIGNB: bytes of the first operand with the signs of the second.";
    psignw, zip16, |x, y| (x as i16).wrapping_mul((y as i16).signum()) as u16,
        "PSIGNW: words of the first operand with the signs of the second.";
    psignd, zip32, |x, y| (x as i32).wrapping_mul((y as i32).signum()) as u32,
        "PSIGND: doublewords of the first operand with the signs of the second.";
}

/// PABSB: absolute values of signed bytes; the most negative one stays.
#[inline]
pub fn pabsb<V: Vector>(a: V) -> V {
    a.map8(|x| (x as i8).wrapping_abs() as u8)
}

/// PABSW: absolute values of signed words; the most negative one stays.
#[inline]
pub fn pabsw<V: Vector>(a: V) -> V {
    a.map16(|x| (x as i16).wrapping_abs() as u16)
}

/// PABSD: absolute values of signed doublewords; the most negative one stays.
#[inline]
pub fn pabsd<V: Vector>(a: V) -> V {
    a.map32(|x| (x as i32).wrapping_abs() as u32)
}

/// PMADDWD: sums of two neighbouring products of signed words, modulo.
#[inline]
pub fn pmaddwd<V: Vector>(a: V, b: V) -> V {
    a.pairs16(b, |a0, a1, b0, b1| {
        let low = i32::from(a0 as i16) * i32::from(b0 as i16);
        let high = i32::from(a1 as i16) * i32::from(b1 as i16);
        low.wrapping_add(high) as u32
    })
}

/// PMADDUBSW: unsigned bytes of `a` times signed bytes of `b`, neighbours added, saturating.
#[inline]
pub fn pmaddubsw<V: Vector>(a: V, b: V) -> V {
    a.pairs8(b, |a0, a1, b0, b1| {
        let low = i32::from(a0) * i32::from(b0 as i8);
        let high = i32::from(a1) * i32::from(b1 as i8);
        saturate16(low + high)
    })
}

/// PHADDW: sums of neighbouring words, modulo.
#[inline]
pub fn phaddw<V: Vector>(a: V, b: V) -> V {
    a.horizontal16(b, u16::wrapping_add)
}

/// PHADDD: sums of neighbouring doublewords, modulo.
#[inline]
pub fn phaddd<V: Vector>(a: V, b: V) -> V {
    a.horizontal32(b, u32::wrapping_add)
}

/// PHADDSW: sums of neighbouring signed words, saturating.
#[inline]
pub fn phaddsw<V: Vector>(a: V, b: V) -> V {
    a.horizontal16(b, |x, y| (x as i16).saturating_add(y as i16) as u16)
}

/// PHSUBW: differences of neighbouring words (lower minus higher), modulo.
#[inline]
pub fn phsubw<V: Vector>(a: V, b: V) -> V {
    a.horizontal16(b, u16::wrapping_sub)
}

/// PHSUBD: differences of neighbouring doublewords (lower minus higher), modulo.
#[inline]
pub fn phsubd<V: Vector>(a: V, b: V) -> V {
    a.horizontal32(b, u32::wrapping_sub)
}

/// PHSUBSW: differences of neighbouring signed words (lower minus higher), saturating.
#[inline]
pub fn phsubsw<V: Vector>(a: V, b: V) -> V {
    a.horizontal16(b, |x, y| (x as i16).saturating_sub(y as i16) as u16)
}

/// PSADBW: in each quadword, the sum of the absolute differences of its eight unsigned bytes.
#[inline]
pub fn psadbw<V: Vector>(a: V, b: V) -> V {
    a.zip64(b, swar::sum_of_differences)
}

/// MPSADBW: eight sums of absolute differences of four bytes, at sliding offsets.
///
/// `control` bits 1:0 choose the block of `source`, bit 2 the start in `destination`.
#[inline]
pub fn mpsadbw(destination: u128, source: u128, control: u8) -> u128 {
    let window = lanes128::to8(destination);
    let bytes = lanes128::to8(source);
    let start = usize::from(control >> 2 & 1) * 4;
    let block = usize::from(control & 3) * 4;
    let mut sums = [0u16; 8];
    for (i, sum) in sums.iter_mut().enumerate() {
        for j in 0..4 {
            *sum += u16::from(window[start + i + j].abs_diff(bytes[block + j]));
        }
    }
    lanes128::from16(sums)
}

/// PHMINPOSUW: the smallest unsigned word in word 0 and the index of its first place in word 1.
#[inline]
pub fn phminposuw(source: u128) -> u128 {
    let mut smallest = u32::MAX;
    for (i, word) in (0u32..).zip(lanes128::to16(source)) {
        smallest = smallest.min(u32::from(word) << 16 | i);
    }
    u128::from(smallest >> 16 | (smallest & 0xffff) << 16)
}

/// A 32-bit value saturated to a signed word.
#[inline]
fn saturate16(value: i32) -> u16 {
    value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u16
}
