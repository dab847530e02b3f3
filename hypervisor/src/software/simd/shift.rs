//! Shifts of lanes by one count for all of them, and of the whole register by bytes.
//!
//! The count is the whole low quadword of the count operand (or the immediate, zero-extended): a
//! count of the lane size or more gives zero, or the sign for the arithmetic forms. Spec: Intel
//! SDM vol. 2, PSLL, PSRL and PSRA families.

use super::vector::Vector;

/// Every lane of a quadword holding `lane`; `LANES` has the lowest bit of each lane.
#[inline(always)]
fn repeat<const LANES: u64>(lane: u64) -> u64 {
    lane.wrapping_mul(LANES)
}

/// The lowest bit of each word of a quadword.
const WORDS: u64 = 0x0001_0001_0001_0001;
/// The lowest bit of each doubleword of a quadword.
const DOUBLEWORDS: u64 = 0x0000_0001_0000_0001;

/// Logical shifts: name, bits of a lane, lanes of a quadword, direction, and what it does.
///
/// The quadword is shifted whole and what crossed into a neighbouring lane is masked off.
macro_rules! logical {
    ($($name:ident, $bits:literal, $lanes:expr, $op:tt, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline]
        pub fn $name<V: Vector>(a: V, count: u64) -> V {
            if count >= $bits {
                return a.map64(|_| 0);
            }
            let lane = u64::MAX >> (64 - $bits);
            let kept = repeat::<{ $lanes }>((lane $op count) & lane);
            a.map64(|x| (x $op count) & kept)
        }
    )*};
}

logical! {
    psllw, 16, WORDS, <<, "PSLLW: words left.";
    pslld, 32, DOUBLEWORDS, <<, "PSLLD: doublewords left.";
    psllq, 64, 1, <<, "PSLLQ: quadwords left.";
    psrlw, 16, WORDS, >>, "PSRLW: words right, logical.";
    psrld, 32, DOUBLEWORDS, >>, "PSRLD: doublewords right, logical.";
    psrlq, 64, 1, >>, "PSRLQ: quadwords right, logical.";
}

/// PSRAW: words right, arithmetic.
#[inline]
pub fn psraw<V: Vector>(a: V, count: u64) -> V {
    let count = count.min(15) as u32;
    a.map16(|x| ((x as i16) >> count) as u16)
}

/// PSRAD: doublewords right, arithmetic.
#[inline]
pub fn psrad<V: Vector>(a: V, count: u64) -> V {
    let count = count.min(31) as u32;
    a.map32(|x| ((x as i32) >> count) as u32)
}

/// PSLLDQ: the register left by `count` bytes.
#[inline]
pub fn pslldq(a: u128, count: u8) -> u128 {
    a.checked_shl(u32::from(count) * 8).unwrap_or(0)
}

/// PSRLDQ: the register right by `count` bytes.
#[inline]
pub fn psrldq(a: u128, count: u8) -> u128 {
    a.checked_shr(u32::from(count) * 8).unwrap_or(0)
}
