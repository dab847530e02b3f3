//! Floating-point arithmetic: add, subtract, multiply, divide, square root, and the horizontal,
//! alternating and dot-product forms.
//!
//! `…ps`/`…pd` work on all lanes, `…ss`/`…sd` on the lowest one and keep the rest of the
//! destination. Every function sets MXCSR's flags and fails with [`SimdFault`] on an unmasked
//! exception. Exceptions: IE, DE, ZE (divide), OE, UE, PE. Spec: Intel SDM vol. 2 under each
//! mnemonic, vol. 1 section 11.5.

use super::mxcsr::{FastPath, Mxcsr, SimdFault};
use super::shuffle::{with_low32, with_low64};
use super::vector::lanes128;
use crate::software::float::{FloatEnv, Format, Unpacked, arithmetic, fast};

/// A soft operation on unpacked operands.
type SoftOperation<F> = fn(Unpacked, Unpacked, &mut FloatEnv) -> F;

/// One lane the soft way.
#[cold]
#[inline(never)]
fn soft_lane<F: Format>(
    a: F,
    b: F,
    mxcsr: &mut Mxcsr,
    operation: SoftOperation<F>,
) -> Result<F, SimdFault> {
    let [lane] = soft_lanes([a], [b], mxcsr, [operation])?;
    Ok(lane)
}

/// All lanes the soft way, each with its operation; the flags of all count together.
fn soft_lanes<F: Format, const N: usize>(
    a: [F; N],
    b: [F; N],
    mxcsr: &mut Mxcsr,
    operations: [SoftOperation<F>; N],
) -> Result<[F; N], SimdFault> {
    let mut env = mxcsr.env();
    let mut result = a;
    for i in 0..N {
        result[i] = operations[i](env.unpack(a[i]), env.unpack(b[i]), &mut env);
    }
    mxcsr.commit(env.flags)?;
    Ok(result)
}

/// All lanes with one operation, by the fast path if every lane allows it.
#[inline(always)]
fn packed<F: Format, const N: usize>(
    a: [F; N],
    b: [F; N],
    mxcsr: &mut Mxcsr,
    operation: SoftOperation<F>,
    fast: impl Fn(F, F, bool) -> fast::Fast<F>,
) -> Result<[F; N], SimdFault> {
    let path = mxcsr.fast_path();
    if path == FastPath::Closed {
        return soft_lanes(a, b, mxcsr, [operation; N]);
    }
    let mut result = a;
    let mut inexact = false;
    for i in 0..N {
        match fast(a[i], b[i], path == FastPath::Tracked) {
            Some((lane, lane_inexact)) => {
                result[i] = lane;
                inexact |= lane_inexact;
            }
            None => return soft_lanes(a, b, mxcsr, [operation; N]),
        }
    }
    mxcsr.note_inexact(inexact);
    Ok(result)
}

/// One lane, by the fast path if it allows it.
#[inline(always)]
fn scalar<F: Format>(
    a: F,
    b: F,
    mxcsr: &mut Mxcsr,
    operation: SoftOperation<F>,
    fast: impl Fn(F, F, bool) -> fast::Fast<F>,
) -> Result<F, SimdFault> {
    let path = mxcsr.fast_path();
    if path != FastPath::Closed
        && let Some((lane, inexact)) = fast(a, b, path == FastPath::Tracked)
    {
        mxcsr.note_inexact(inexact);
        return Ok(lane);
    }
    soft_lane(a, b, mxcsr, operation)
}

/// The fast form of an operation, tracked or not.
macro_rules! fast_form {
    ($format:ident, $operation:ident) => {
        |a, b, track| {
            if track {
                fast::$format::$operation::<true>(a, b)
            } else {
                fast::$format::$operation::<false>(a, b)
            }
        }
    };
}

macro_rules! binary {
    ($($operation:ident, $ps:ident, $ss:ident, $pd:ident, $sd:ident, $name:literal;)*) => {$(
        #[doc = concat!($name, "PS: four binary32 lanes.")]
        #[inline]
        pub fn $ps(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let (x, y) = (lanes128::to32(a), lanes128::to32(b));
            let form = fast_form!(single, $operation);
            packed(x, y, mxcsr, arithmetic::$operation, form).map(lanes128::from32)
        }

        #[doc = concat!($name, "SS: the lowest binary32 lane.")]
        #[inline]
        pub fn $ss(a: u128, b: u32, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let form = fast_form!(single, $operation);
            let lane = scalar(a as u32, b, mxcsr, arithmetic::$operation, form)?;
            Ok(with_low32(a, lane))
        }

        #[doc = concat!($name, "PD: two binary64 lanes.")]
        #[inline]
        pub fn $pd(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let (x, y) = (lanes128::to64(a), lanes128::to64(b));
            let form = fast_form!(double, $operation);
            packed(x, y, mxcsr, arithmetic::$operation, form).map(lanes128::from64)
        }

        #[doc = concat!($name, "SD: the lowest binary64 lane.")]
        #[inline]
        pub fn $sd(a: u128, b: u64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let form = fast_form!(double, $operation);
            let lane = scalar(a as u64, b, mxcsr, arithmetic::$operation, form)?;
            Ok(with_low64(a, lane))
        }
    )*};
}

binary! {
    add, addps, addss, addpd, addsd, "ADD";
    subtract, subps, subss, subpd, subsd, "SUB";
    multiply, mulps, mulss, mulpd, mulsd, "MUL";
    divide, divps, divss, divpd, divsd, "DIV";
}

/// The square root as an operation of two operands that ignores the second.
fn root<F: Format>(a: Unpacked, _: Unpacked, env: &mut FloatEnv) -> F {
    arithmetic::square_root(a, env)
}

/// The fast square root as an operation of two operands that ignores the second.
macro_rules! fast_root {
    ($format:ident) => {
        |a, _, track| {
            if track {
                fast::$format::square_root::<true>(a)
            } else {
                fast::$format::square_root::<false>(a)
            }
        }
    };
}

/// SQRTPS: square roots of four binary32 lanes. Exceptions: IE, DE, PE.
#[inline]
pub fn sqrtps(b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let lanes = lanes128::to32(b);
    packed(lanes, lanes, mxcsr, root, fast_root!(single)).map(lanes128::from32)
}

/// SQRTSS: square root of a binary32 value into the lowest lane. Exceptions: IE, DE, PE.
#[inline]
pub fn sqrtss(a: u128, b: u32, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    Ok(with_low32(
        a,
        scalar(b, b, mxcsr, root, fast_root!(single))?,
    ))
}

/// SQRTPD: square roots of two binary64 lanes. Exceptions: IE, DE, PE.
#[inline]
pub fn sqrtpd(b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let lanes = lanes128::to64(b);
    packed(lanes, lanes, mxcsr, root, fast_root!(double)).map(lanes128::from64)
}

/// SQRTSD: square root of a binary64 value into the lowest lane. Exceptions: IE, DE, PE.
#[inline]
pub fn sqrtsd(a: u128, b: u64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    Ok(with_low64(
        a,
        scalar(b, b, mxcsr, root, fast_root!(double))?,
    ))
}

/// ADDSUBPS: even lanes are subtracted, odd lanes added.
pub fn addsubps(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let operations: [SoftOperation<u32>; 4] = [
        arithmetic::subtract,
        arithmetic::add,
        arithmetic::subtract,
        arithmetic::add,
    ];
    let lanes = soft_lanes(lanes128::to32(a), lanes128::to32(b), mxcsr, operations)?;
    Ok(lanes128::from32(lanes))
}

/// ADDSUBPD: the low lane is subtracted, the high one added.
pub fn addsubpd(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let operations: [SoftOperation<u64>; 2] = [arithmetic::subtract, arithmetic::add];
    let lanes = soft_lanes(lanes128::to64(a), lanes128::to64(b), mxcsr, operations)?;
    Ok(lanes128::from64(lanes))
}

/// The even and the odd lanes of `b:a`, for the horizontal forms.
fn neighbours32(a: u128, b: u128) -> (u128, u128) {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (lanes128::to32(a), lanes128::to32(b));
    (
        lanes128::from32([a0, a2, b0, b2]),
        lanes128::from32([a1, a3, b1, b3]),
    )
}

fn neighbours64(a: u128, b: u128) -> (u128, u128) {
    let ([a0, a1], [b0, b1]) = (lanes128::to64(a), lanes128::to64(b));
    (lanes128::from64([a0, b0]), lanes128::from64([a1, b1]))
}

/// HADDPS: sums of neighbouring binary32 lanes.
pub fn haddps(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let (even, odd) = neighbours32(a, b);
    addps(even, odd, mxcsr)
}

/// HSUBPS: differences of neighbouring binary32 lanes, the lower minus the higher.
pub fn hsubps(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let (even, odd) = neighbours32(a, b);
    subps(even, odd, mxcsr)
}

/// HADDPD: sums of neighbouring binary64 lanes.
pub fn haddpd(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let (even, odd) = neighbours64(a, b);
    addpd(even, odd, mxcsr)
}

/// HSUBPD: differences of neighbouring binary64 lanes, the lower minus the higher.
pub fn hsubpd(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let (even, odd) = neighbours64(a, b);
    subpd(even, odd, mxcsr)
}

/// Products of the lanes chosen by `enabled`; the others are positive zero and raise nothing.
fn chosen_products<F: Format, const N: usize>(
    a: [F; N],
    b: [F; N],
    enabled: u8,
    mxcsr: &mut Mxcsr,
) -> Result<[F; N], SimdFault> {
    let mut env = mxcsr.env();
    let mut products = [F::zero(false); N];
    for i in 0..N {
        if enabled >> i & 1 != 0 {
            products[i] = arithmetic::multiply(env.unpack(a[i]), env.unpack(b[i]), &mut env);
        }
    }
    mxcsr.commit(env.flags)?;
    Ok(products)
}

/// DPPS: dot product of the lanes chosen by control bits 7:4, into those chosen by bits 3:0.
///
/// Products and sums are rounded one by one; an unmasked exception ends the step it occurs in.
pub fn dpps(a: u128, b: u128, control: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let products = chosen_products(lanes128::to32(a), lanes128::to32(b), control >> 4, mxcsr)?;
    let [p0, p1, p2, p3] = products;
    let halves = soft_lanes([p0, p2], [p1, p3], mxcsr, [arithmetic::add; 2])?;
    let sum = soft_lane(halves[0], halves[1], mxcsr, arithmetic::add)?;
    Ok(lanes128::from32(std::array::from_fn(|i| {
        if control >> i & 1 != 0 { sum } else { 0 }
    })))
}

/// DPPD: dot product of the lanes chosen by control bits 5:4, into those chosen by bits 1:0.
pub fn dppd(a: u128, b: u128, control: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let [low, high] = chosen_products(lanes128::to64(a), lanes128::to64(b), control >> 4, mxcsr)?;
    let sum = soft_lane(low, high, mxcsr, arithmetic::add)?;
    Ok(lanes128::from64(std::array::from_fn(|i| {
        if control >> i & 1 != 0 { sum } else { 0 }
    })))
}
