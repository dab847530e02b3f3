//! Moving lanes: pack, unpack, shuffle, align, insert, extract, widen, and the moves that combine
//! registers.
//!
//! `a` is the destination operand and `b` the source; lanes count from the least significant.
//! Functions generic over [`Vector`] have an MMX form. Spec: Intel SDM vol. 2 under each mnemonic.

use super::vector::{Vector, lanes128};

/// PACKSSWB: signed words to signed bytes, saturating.
#[inline]
pub fn packsswb<V: Vector>(a: V, b: V) -> V {
    a.narrow16(b, |x| (x as i16).clamp(-0x80, 0x7f) as u8)
}

/// PACKUSWB: signed words to unsigned bytes, saturating.
#[inline]
pub fn packuswb<V: Vector>(a: V, b: V) -> V {
    a.narrow16_unsigned(b)
}

/// PACKSSDW: signed doublewords to signed words, saturating.
#[inline]
pub fn packssdw<V: Vector>(a: V, b: V) -> V {
    a.narrow32(b, |x| (x as i32).clamp(-0x8000, 0x7fff) as u16)
}

/// PACKUSDW: signed doublewords to unsigned words, saturating.
#[inline]
pub fn packusdw(a: u128, b: u128) -> u128 {
    a.narrow32(b, |x| (x as i32).clamp(0, 0xffff) as u16)
}

/// PUNPCKLBW: interleaves the low bytes.
#[inline]
pub fn punpcklbw<V: Vector>(a: V, b: V) -> V {
    a.interleave8::<false>(b)
}

/// PUNPCKHBW: interleaves the high bytes.
#[inline]
pub fn punpckhbw<V: Vector>(a: V, b: V) -> V {
    a.interleave8::<true>(b)
}

/// PUNPCKLWD: interleaves the low words.
#[inline]
pub fn punpcklwd<V: Vector>(a: V, b: V) -> V {
    a.interleave16::<false>(b)
}

/// PUNPCKHWD: interleaves the high words.
#[inline]
pub fn punpckhwd<V: Vector>(a: V, b: V) -> V {
    a.interleave16::<true>(b)
}

/// PUNPCKLDQ, UNPCKLPS: interleaves the low doublewords.
#[inline]
pub fn punpckldq<V: Vector>(a: V, b: V) -> V {
    a.interleave32::<false>(b)
}

/// PUNPCKHDQ, UNPCKHPS: interleaves the high doublewords.
#[inline]
pub fn punpckhdq<V: Vector>(a: V, b: V) -> V {
    a.interleave32::<true>(b)
}

/// PUNPCKLQDQ, UNPCKLPD, MOVLHPS: the low quadwords.
#[inline]
pub fn punpcklqdq(a: u128, b: u128) -> u128 {
    a & u128::from(u64::MAX) | b << 64
}

/// PUNPCKHQDQ, UNPCKHPD: the high quadwords.
#[inline]
pub fn punpckhqdq(a: u128, b: u128) -> u128 {
    a >> 64 | b >> 64 << 64
}

/// MOVHLPS: the high quadword of `b` in the low one of `a`.
#[inline]
pub fn movhlps(a: u128, b: u128) -> u128 {
    a >> 64 << 64 | b >> 64
}

/// MOVLPS, MOVLPD, MOVSD between registers: replaces the low quadword.
#[inline]
pub fn with_low64(a: u128, value: u64) -> u128 {
    a >> 64 << 64 | u128::from(value)
}

/// MOVHPS, MOVHPD from memory: replaces the high quadword.
#[inline]
pub fn with_high64(a: u128, value: u64) -> u128 {
    a & u128::from(u64::MAX) | u128::from(value) << 64
}

/// MOVSS between registers: replaces the low doubleword.
#[inline]
pub fn with_low32(a: u128, value: u32) -> u128 {
    a >> 32 << 32 | u128::from(value)
}

/// MOVDDUP: the low quadword twice.
#[inline]
pub fn movddup(low: u64) -> u128 {
    u128::from(low) << 64 | u128::from(low)
}

/// MOVSLDUP: the even doublewords, each twice.
#[inline]
pub fn movsldup(b: u128) -> u128 {
    pshufd(b, 0b10_10_00_00)
}

/// MOVSHDUP: the odd doublewords, each twice.
#[inline]
pub fn movshdup(b: u128) -> u128 {
    pshufd(b, 0b11_11_01_01)
}

/// The two-bit field `i` of a shuffle control.
#[inline(always)]
fn field(control: u8, i: usize) -> usize {
    usize::from(control >> (2 * i) & 3)
}

/// The doubleword chosen by field `i` of a control, without a trip through memory.
#[inline(always)]
fn choose32(value: u128, control: u8, i: usize) -> u128 {
    let index = field(control, i);
    let half = if index & 2 == 0 {
        value as u64
    } else {
        (value >> 64) as u64
    };
    u128::from((half >> (32 * (index & 1))) as u32) << (32 * i)
}

/// PSHUFD: doublewords of `b` by two-bit indices.
#[inline]
pub fn pshufd(b: u128, control: u8) -> u128 {
    shufps(b, b, control)
}

/// PSHUFW: words of an MMX register by two-bit indices.
#[inline]
pub fn pshufw(b: u64, control: u8) -> u64 {
    let choose = |i: usize| (b >> (16 * field(control, i)) & 0xffff) << (16 * i);
    choose(0) | choose(1) | choose(2) | choose(3)
}

/// PSHUFLW: shuffles the low four words, keeps the rest.
#[inline]
pub fn pshuflw(b: u128, control: u8) -> u128 {
    with_low64(b, pshufw(b as u64, control))
}

/// PSHUFHW: shuffles the high four words, keeps the rest.
#[inline]
pub fn pshufhw(b: u128, control: u8) -> u128 {
    with_high64(b, pshufw((b >> 64) as u64, control))
}

/// SHUFPS: two doublewords chosen from `a`, then two from `b`.
#[inline]
pub fn shufps(a: u128, b: u128, control: u8) -> u128 {
    let low = choose32(a, control, 0) | choose32(a, control, 1);
    low | choose32(b, control, 2) | choose32(b, control, 3)
}

/// SHUFPD: one quadword chosen from `a`, then one from `b`.
#[inline]
pub fn shufpd(a: u128, b: u128, control: u8) -> u128 {
    let low = a >> (64 * (control & 1)) & u128::from(u64::MAX);
    let high = b >> (64 * (control >> 1 & 1));
    low | high << 64
}

/// PSHUFB: bytes of `a` chosen by the bytes of `b`.
#[inline]
pub fn pshufb<V: Vector>(a: V, b: V) -> V {
    a.select8(b)
}

/// PALIGNR: `a:b` shifted right by `count` bytes.
#[inline]
pub fn palignr<V: Vector>(a: V, b: V, count: u8) -> V {
    b.align_right(a, count)
}

/// PINSRW: replaces word `index`.
#[inline]
pub fn pinsrw<V: Vector>(a: V, value: u16, index: u8) -> V {
    a.with_lane16(index, value)
}

/// PEXTRW: word `index`.
#[inline]
pub fn pextrw<V: Vector>(b: V, index: u8) -> u16 {
    b.lane16(index)
}

/// PINSRB: replaces byte `index & 15`.
#[inline]
pub fn pinsrb(a: u128, value: u8, index: u8) -> u128 {
    let shift = 8 * (index & 15);
    a & !(0xff << shift) | u128::from(value) << shift
}

/// PINSRD: replaces doubleword `index & 3`.
#[inline]
pub fn pinsrd(a: u128, value: u32, index: u8) -> u128 {
    let shift = 32 * (index & 3);
    a & !(0xffff_ffff << shift) | u128::from(value) << shift
}

/// PINSRQ: replaces quadword `index & 1`.
#[inline]
pub fn pinsrq(a: u128, value: u64, index: u8) -> u128 {
    if index & 1 == 0 {
        with_low64(a, value)
    } else {
        with_high64(a, value)
    }
}

/// PEXTRB: byte `index & 15`.
#[inline]
pub fn pextrb(b: u128, index: u8) -> u8 {
    (b >> (8 * (index & 15))) as u8
}

/// PEXTRD, EXTRACTPS: doubleword `index & 3`.
#[inline]
pub fn pextrd(b: u128, index: u8) -> u32 {
    (b >> (32 * (index & 3))) as u32
}

/// PEXTRQ: quadword `index & 1`.
#[inline]
pub fn pextrq(b: u128, index: u8) -> u64 {
    (b >> (64 * (index & 1))) as u64
}

/// INSERTPS with a register source: bits 7:6 of the control choose its lane.
#[inline]
pub fn insertps_register(a: u128, b: u128, control: u8) -> u128 {
    insertps_memory(a, pextrd(b, control >> 6), control)
}

/// INSERTPS with a memory source: bits 5:4 choose the lane written, bits 3:0 the lanes zeroed.
#[inline]
pub fn insertps_memory(a: u128, value: u32, control: u8) -> u128 {
    let mut lanes = lanes128::to32(pinsrd(a, value, control >> 4));
    for (i, lane) in lanes.iter_mut().enumerate() {
        if control >> i & 1 != 0 {
            *lane = 0;
        }
    }
    lanes128::from32(lanes)
}

/// PMOVMSKB: the top bit of each byte.
#[inline]
pub fn pmovmskb<V: Vector>(b: V) -> u32 {
    b.sign_bits8()
}

/// MOVMSKPS: the top bit of each doubleword.
#[inline]
pub fn movmskps(b: u128) -> u32 {
    let signs = lanes128::to32(b).map(|lane| lane >> 31);
    signs[0] | signs[1] << 1 | signs[2] << 2 | signs[3] << 3
}

/// MOVMSKPD: the top bit of each quadword.
#[inline]
pub fn movmskpd(b: u128) -> u32 {
    (b >> 63) as u32 & 1 | ((b >> 127) as u32) << 1
}

/// Widening moves: name, source lanes, result lanes, conversion of one lane, and what it does.
macro_rules! widen {
    ($($name:ident, $to:ident, $from:ident, $f:expr, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[inline]
        pub fn $name(b: u128) -> u128 {
            let lanes = lanes128::$to(b);
            lanes128::$from(std::array::from_fn(|i| $f(lanes[i])))
        }
    )*};
}

widen! {
    pmovzxbw, to8, from16, u16::from, "PMOVZXBW: unsigned bytes to words.";
    pmovzxbd, to8, from32, u32::from, "PMOVZXBD: unsigned bytes to doublewords.";
    pmovzxbq, to8, from64, u64::from, "PMOVZXBQ: unsigned bytes to quadwords.";
    pmovzxwd, to16, from32, u32::from, "PMOVZXWD: unsigned words to doublewords.";
    pmovzxwq, to16, from64, u64::from, "PMOVZXWQ: unsigned words to quadwords.";
    pmovzxdq, to32, from64, u64::from, "PMOVZXDQ: unsigned doublewords to quadwords.";
    pmovsxbw, to8, from16, |x| i16::from(x as i8) as u16, "PMOVSXBW: signed bytes to words.";
    pmovsxbd, to8, from32, |x| i32::from(x as i8) as u32, "PMOVSXBD: signed bytes to doublewords.";
    pmovsxbq, to8, from64, |x| i64::from(x as i8) as u64, "PMOVSXBQ: signed bytes to quadwords.";
    pmovsxwd, to16, from32, |x| i32::from(x as i16) as u32,
        "PMOVSXWD: signed words to doublewords.";
    pmovsxwq, to16, from64, |x| i64::from(x as i16) as u64, "PMOVSXWQ: signed words to quadwords.";
    pmovsxdq, to32, from64, |x| i64::from(x as i32) as u64,
        "PMOVSXDQ: signed doublewords to quadwords.";
}
