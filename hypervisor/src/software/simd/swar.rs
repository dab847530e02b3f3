//! Arithmetic on the bytes or words of a `u64` all at once ("SIMD within a register").
//!
//! An XMM value reaches the interpreter in two general registers of the host. Splitting it into
//! sixteen bytes there costs a hundred host instructions; these forms need about ten per half.
//! `BITS` is the lane size, 8 or 16. A *lane mask* has only the top bit of some lanes set;
//! [`fill`] widens it to whole lanes. The per-lane loops of the oracle tests are the reference.

/// The top bit of each lane.
const fn tops(bits: u32) -> u64 {
    match bits {
        8 => 0x8080_8080_8080_8080,
        _ => 0x8000_8000_8000_8000,
    }
}

/// Turns a lane mask into all ones in each marked lane.
#[inline(always)]
pub(super) fn fill<const BITS: u32>(mask: u64) -> u64 {
    (mask - (mask >> (BITS - 1))) | mask
}

/// Lanes of `a` where `mask` has ones, else of `b`.
#[inline(always)]
fn select(mask: u64, a: u64, b: u64) -> u64 {
    b ^ ((a ^ b) & mask)
}

/// Sums, modulo: the top bits are added without their carry out.
#[inline(always)]
pub(super) fn add<const BITS: u32>(a: u64, b: u64) -> u64 {
    let tops = tops(BITS);
    ((a & !tops) + (b & !tops)) ^ ((a ^ b) & tops)
}

/// Differences, modulo: a set top bit absorbs the borrow of the bits below it.
#[inline(always)]
pub(super) fn subtract<const BITS: u32>(a: u64, b: u64) -> u64 {
    let tops = tops(BITS);
    ((a | tops) - (b & !tops)) ^ ((a ^ !b) & tops)
}

/// Lane mask of `a < b`, unsigned: the borrow out of each lane.
#[inline(always)]
fn below<const BITS: u32>(a: u64, b: u64) -> u64 {
    ((!a & b) | (!(a ^ b) & subtract::<BITS>(a, b))) & tops(BITS)
}

/// Whole-lane mask of equality.
#[inline(always)]
pub(super) fn equal<const BITS: u32>(a: u64, b: u64) -> u64 {
    let tops = tops(BITS);
    let difference = a ^ b;
    let nonzero = ((difference & !tops) + !tops) | difference;
    fill::<BITS>(!nonzero & tops)
}

/// Whole-lane mask of `a > b`, signed.
#[inline(always)]
pub(super) fn greater<const BITS: u32>(a: u64, b: u64) -> u64 {
    let tops = tops(BITS);
    fill::<BITS>(below::<BITS>(b ^ tops, a ^ tops))
}

/// Unsigned minimum.
#[inline(always)]
pub(super) fn minimum<const BITS: u32>(a: u64, b: u64) -> u64 {
    select(fill::<BITS>(below::<BITS>(a, b)), a, b)
}

/// Unsigned maximum.
#[inline(always)]
pub(super) fn maximum<const BITS: u32>(a: u64, b: u64) -> u64 {
    select(fill::<BITS>(below::<BITS>(a, b)), b, a)
}

/// Signed minimum.
#[inline(always)]
pub(super) fn minimum_signed<const BITS: u32>(a: u64, b: u64) -> u64 {
    select(greater::<BITS>(b, a), a, b)
}

/// Signed maximum.
#[inline(always)]
pub(super) fn maximum_signed<const BITS: u32>(a: u64, b: u64) -> u64 {
    select(greater::<BITS>(a, b), a, b)
}

/// Unsigned sums, saturating: a carry out fills the lane.
#[inline(always)]
pub(super) fn add_unsigned<const BITS: u32>(a: u64, b: u64) -> u64 {
    let sum = add::<BITS>(a, b);
    let carry = ((a & b) | ((a | b) & !sum)) & tops(BITS);
    sum | fill::<BITS>(carry)
}

/// Unsigned differences, saturating: a borrow out clears the lane.
#[inline(always)]
pub(super) fn subtract_unsigned<const BITS: u32>(a: u64, b: u64) -> u64 {
    subtract::<BITS>(a, b) & !fill::<BITS>(below::<BITS>(a, b))
}

/// The signed limit on the side of each lane's sign.
#[inline(always)]
fn limits<const BITS: u32>(a: u64) -> u64 {
    let tops = tops(BITS);
    !tops + ((a & tops) >> (BITS - 1))
}

/// Signed sums, saturating.
#[inline(always)]
pub(super) fn add_signed<const BITS: u32>(a: u64, b: u64) -> u64 {
    let sum = add::<BITS>(a, b);
    let overflow = !(a ^ b) & (a ^ sum) & tops(BITS);
    select(fill::<BITS>(overflow), limits::<BITS>(a), sum)
}

/// Signed differences, saturating.
#[inline(always)]
pub(super) fn subtract_signed<const BITS: u32>(a: u64, b: u64) -> u64 {
    let difference = subtract::<BITS>(a, b);
    let overflow = (a ^ b) & (a ^ difference) & tops(BITS);
    select(fill::<BITS>(overflow), limits::<BITS>(a), difference)
}

/// Unsigned averages, rounded up.
#[inline(always)]
pub(super) fn average<const BITS: u32>(a: u64, b: u64) -> u64 {
    let lowest = tops(BITS) >> (BITS - 1);
    (a | b) - (((a ^ b) & !lowest) >> 1)
}

/// The sum of the absolute differences of eight unsigned bytes.
#[inline(always)]
pub(super) fn sum_of_differences(a: u64, b: u64) -> u64 {
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let difference = subtract_unsigned::<8>(a, b) | subtract_unsigned::<8>(b, a);
    let words = (difference & EVEN) + (difference >> 8 & EVEN);
    words.wrapping_mul(0x0001_0001_0001_0001) >> 48
}

/// The top bits of eight bytes, byte 0 in bit 0.
#[inline(always)]
pub(super) fn sign_bits(a: u64) -> u32 {
    ((a & tops(8)).wrapping_mul(0x0002_0408_1020_4081) >> 56) as u32
}

/// The low four bytes moved to the even bytes.
#[inline(always)]
fn spread(a: u64) -> u64 {
    let a = a & 0xffff_ffff;
    let a = (a | a << 16) & 0x0000_ffff_0000_ffff;
    (a | a << 8) & 0x00ff_00ff_00ff_00ff
}

/// Alternating bytes of the low halves.
#[inline(always)]
pub(super) fn interleave_bytes(a: u64, b: u64) -> u64 {
    spread(a) | spread(b) << 8
}

/// Four signed words saturated to unsigned bytes, in the low half.
#[inline(always)]
pub(super) fn narrow_unsigned(a: u64) -> u64 {
    let negative = fill::<16>(a & tops(16));
    let over = ((a & 0x7f00_7f00_7f00_7f00) + 0x7f00_7f00_7f00_7f00) & tops(16);
    let bytes = (a | fill::<16>(over)) & !negative & 0x00ff_00ff_00ff_00ff;
    let pairs = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    (pairs | pairs >> 16) & 0xffff_ffff
}
