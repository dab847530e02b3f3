//! Integer comparison: each lane becomes all ones where the relation holds, else zero.
//!
//! Spec: Intel SDM vol. 2, PCMPEQ and PCMPGT families.

use super::swar;
use super::vector::Vector;

/// Comparisons: name, lane accessor, lane type, relation, and what is compared.
macro_rules! comparison {
    ($($name:ident, $zip:ident, $lane:ty, $f:expr, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline]
        pub fn $name<V: Vector>(a: V, b: V) -> V {
            a.$zip(b, |x, y| if $f(x, y) { <$lane>::MAX } else { 0 })
        }
    )*};
}

comparison! {
    pcmpeqd, zip32, u32, |x, y| x == y, "PCMPEQD: doublewords equal.";
    pcmpeqq, zip64, u64, |x, y| x == y, "PCMPEQQ: quadwords equal.";
    pcmpgtd, zip32, u32, |x, y| (x as i32) > (y as i32), "PCMPGTD: signed doublewords greater.";
    pcmpgtq, zip64, u64, |x, y| (x as i64) > (y as i64), "PCMPGTQ: signed quadwords greater.";
}

/// PCMPEQB: bytes equal.
#[inline]
pub fn pcmpeqb<V: Vector>(a: V, b: V) -> V {
    a.zip64(b, swar::equal::<8>)
}

/// PCMPEQW: words equal.
#[inline]
pub fn pcmpeqw<V: Vector>(a: V, b: V) -> V {
    a.zip64(b, swar::equal::<16>)
}

/// PCMPGTB: signed bytes greater.
#[inline]
pub fn pcmpgtb<V: Vector>(a: V, b: V) -> V {
    a.zip64(b, swar::greater::<8>)
}

/// PCMPGTW: signed words greater.
#[inline]
pub fn pcmpgtw<V: Vector>(a: V, b: V) -> V {
    a.zip64(b, swar::greater::<16>)
}
