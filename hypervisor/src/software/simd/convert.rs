//! Conversions: between binary32, binary64 and integers, and rounding to integral values.
//!
//! Sources are given as the bits they occupy (`u64` for an MMX register or two binary32 lanes).
//! Spec: Intel SDM vol. 2, CVTxx and ROUNDxx.

use super::mxcsr::{FastPath, Mxcsr, SimdFault};
use super::shuffle::{with_low32, with_low64};
use super::vector::{lanes64, lanes128};
use crate::software::float::convert::{convert, from_i64, round_to_integral, to_integer};
use crate::software::float::{Exceptions, FloatEnv, Format, RoundingMode, fast};

/// Runs a computation in the environment of MXCSR and commits its flags.
#[inline]
fn with_env<T>(
    mxcsr: &mut Mxcsr,
    compute: impl FnOnce(&mut FloatEnv) -> T,
) -> Result<T, SimdFault> {
    let mut env = mxcsr.env();
    let result = compute(&mut env);
    mxcsr.commit(env.flags)?;
    Ok(result)
}

/// One value in the other format. Flags: IE, DE, OE, UE, PE.
fn resize<From: Format, To: Format>(value: From, env: &mut FloatEnv) -> To {
    let unpacked = env.unpack(value);
    env.note_denormal(unpacked);
    convert(unpacked, env)
}

/// One value as a signed integer of 32 or 64 bits. Flags: IE, PE.
fn integer<F: Format>(value: F, bits: u32, mode: RoundingMode, env: &mut FloatEnv) -> i64 {
    to_integer(env.unpack(value), bits, mode, env)
}

/// CVTSS2SD: the low lane replaced. Exceptions: IE, DE.
#[inline]
pub fn cvtss2sd(a: u128, b: u32, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let lane = match fast::widen(b) {
        Some(lane) => lane,
        None => with_env(mxcsr, |env| resize(b, env))?,
    };
    Ok(with_low64(a, lane))
}

/// CVTSD2SS: the low lane replaced. Exceptions: IE, DE, OE, UE, PE.
#[inline]
pub fn cvtsd2ss(a: u128, b: u64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let lane = match fast::narrow(b) {
        Some((lane, inexact)) if mxcsr.fast_path() != FastPath::Closed => {
            mxcsr.note_inexact(inexact);
            lane
        }
        _ => with_env(mxcsr, |env| resize(b, env))?,
    };
    Ok(with_low32(a, lane))
}

/// CVTPS2PD: the low two binary32 lanes. Exceptions: IE, DE.
pub fn cvtps2pd(b: u64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    with_env(mxcsr, |env| {
        lanes128::from64(lanes64::to32(b).map(|lane| resize(lane, env)))
    })
}

/// CVTPD2PS: two binary32 lanes, zeros above. Exceptions: IE, DE, OE, UE, PE.
pub fn cvtpd2ps(b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    with_env(mxcsr, |env| {
        u128::from(lanes64::from32(
            lanes128::to64(b).map(|lane| resize(lane, env)),
        ))
    })
}

/// CVTSI2SD: a 32-bit integer (sign-extended by the caller) or a 64-bit one. Exceptions: PE.
#[inline]
pub fn cvtsi2sd(a: u128, b: i64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let lane = match i32::try_from(b) {
        Ok(small) => f64::from(small).to_bits(),
        Err(_) => with_env(mxcsr, |env| from_i64(b, env))?,
    };
    Ok(with_low64(a, lane))
}

/// CVTSI2SS: a 32-bit integer (sign-extended by the caller) or a 64-bit one. Exceptions: PE.
#[inline]
pub fn cvtsi2ss(a: u128, b: i64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let lane = match i16::try_from(b) {
        Ok(small) => f32::from(small).to_bits(),
        Err(_) => with_env(mxcsr, |env| from_i64(b, env))?,
    };
    Ok(with_low32(a, lane))
}

/// CVTDQ2PD, CVTPI2PD: two signed doublewords, always exact.
#[inline]
pub fn cvtdq2pd(b: u64) -> u128 {
    lanes128::from64(lanes64::to32(b).map(|lane| f64::from(lane as i32).to_bits()))
}

/// CVTDQ2PS: four signed doublewords. Exceptions: PE.
pub fn cvtdq2ps(b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    with_env(mxcsr, |env| {
        lanes128::from32(lanes128::to32(b).map(|lane| from_i64(i64::from(lane as i32), env)))
    })
}

/// CVTPI2PS: two signed doublewords into the low lanes. Exceptions: PE.
pub fn cvtpi2ps(a: u128, b: u64, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    let low = with_env(mxcsr, |env| {
        lanes64::from32(lanes64::to32(b).map(|lane| from_i64(i64::from(lane as i32), env)))
    })?;
    Ok(with_low64(a, low))
}

/// Scalar conversions to integers: rounding and truncating, 32 and 64 bits.
macro_rules! scalar_to_integer {
    ($bits:ty, $format:ident, $round32:ident, $truncate32:ident, $round64:ident,
     $truncate64:ident, $name:literal) => {
        #[doc = concat!("CVT", $name, "2SI, 32 bits. Exceptions: IE, PE.")]
        pub fn $round32(b: $bits, mxcsr: &mut Mxcsr) -> Result<u32, SimdFault> {
            let mode = mxcsr.rounding();
            with_env(mxcsr, |env| integer(b, 32, mode, env) as u32)
        }

        #[doc = concat!("CVT", $name, "2SI, 64 bits. Exceptions: IE, PE.")]
        pub fn $round64(b: $bits, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
            let mode = mxcsr.rounding();
            with_env(mxcsr, |env| integer(b, 64, mode, env) as u64)
        }

        #[doc = concat!("CVTT", $name, "2SI, 32 bits. Exceptions: IE, PE.")]
        #[inline]
        pub fn $truncate32(b: $bits, mxcsr: &mut Mxcsr) -> Result<u32, SimdFault> {
            if mxcsr.fast_path() != FastPath::Closed
                && let Some((integer, inexact)) = fast::$format::truncate(b)
                && let Ok(integer) = i32::try_from(integer)
            {
                mxcsr.note_inexact(inexact);
                return Ok(integer as u32);
            }
            with_env(mxcsr, |env| integer(b, 32, RoundingMode::Zero, env) as u32)
        }

        #[doc = concat!("CVTT", $name, "2SI, 64 bits. Exceptions: IE, PE.")]
        #[inline]
        pub fn $truncate64(b: $bits, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
            if mxcsr.fast_path() != FastPath::Closed
                && let Some((integer, inexact)) = fast::$format::truncate(b)
            {
                mxcsr.note_inexact(inexact);
                return Ok(integer as u64);
            }
            with_env(mxcsr, |env| integer(b, 64, RoundingMode::Zero, env) as u64)
        }
    };
}

scalar_to_integer!(
    u32,
    single,
    cvtss2si32,
    cvttss2si32,
    cvtss2si64,
    cvttss2si64,
    "SS"
);
scalar_to_integer!(
    u64,
    double,
    cvtsd2si32,
    cvttsd2si32,
    cvtsd2si64,
    cvttsd2si64,
    "SD"
);

/// Four binary32 lanes as signed doublewords.
fn singles_to_integers(b: u128, mode: RoundingMode, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    with_env(mxcsr, |env| {
        lanes128::from32(lanes128::to32(b).map(|lane| integer(lane, 32, mode, env) as u32))
    })
}

/// Two binary64 lanes as signed doublewords.
fn doubles_to_integers(b: u128, mode: RoundingMode, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
    with_env(mxcsr, |env| {
        lanes64::from32(lanes128::to64(b).map(|lane| integer(lane, 32, mode, env) as u32))
    })
}

/// Two binary32 lanes as signed doublewords.
fn pair_to_integers(b: u64, mode: RoundingMode, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
    with_env(mxcsr, |env| {
        lanes64::from32(lanes64::to32(b).map(|lane| integer(lane, 32, mode, env) as u32))
    })
}

/// CVTPS2DQ. Exceptions: IE, PE.
pub fn cvtps2dq(b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    singles_to_integers(b, mxcsr.rounding(), mxcsr)
}

/// CVTTPS2DQ. Exceptions: IE, PE.
pub fn cvttps2dq(b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    singles_to_integers(b, RoundingMode::Zero, mxcsr)
}

/// CVTPD2DQ (zeros above) and CVTPD2PI. Exceptions: IE, PE.
pub fn cvtpd2dq(b: u128, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
    doubles_to_integers(b, mxcsr.rounding(), mxcsr)
}

/// CVTTPD2DQ (zeros above) and CVTTPD2PI. Exceptions: IE, PE.
pub fn cvttpd2dq(b: u128, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
    doubles_to_integers(b, RoundingMode::Zero, mxcsr)
}

/// CVTPS2PI. Exceptions: IE, PE.
pub fn cvtps2pi(b: u64, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
    pair_to_integers(b, mxcsr.rounding(), mxcsr)
}

/// CVTTPS2PI. Exceptions: IE, PE.
pub fn cvttps2pi(b: u64, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
    pair_to_integers(b, RoundingMode::Zero, mxcsr)
}

/// Rounds lanes to integral values as the immediate of ROUNDxx says.
///
/// Bits 1:0 are the mode unless bit 2 selects MXCSR's; bit 3 suppresses PE.
fn round_lanes<F: Format, const N: usize>(
    lanes: [F; N],
    control: u8,
    mxcsr: &mut Mxcsr,
) -> Result<[F; N], SimdFault> {
    let mode = if control & 4 != 0 {
        mxcsr.rounding()
    } else {
        RoundingMode::from_field(control)
    };
    with_env(mxcsr, |env| {
        let rounded = lanes.map(|lane| round_to_integral(env.unpack(lane), mode, env));
        if control & 8 != 0 {
            env.flags = env.flags & !Exceptions::PRECISION;
        }
        rounded
    })
}

/// ROUNDPS. Exceptions: IE, PE.
pub fn roundps(b: u128, control: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    round_lanes(lanes128::to32(b), control, mxcsr).map(lanes128::from32)
}

/// ROUNDPD. Exceptions: IE, PE.
pub fn roundpd(b: u128, control: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    round_lanes(lanes128::to64(b), control, mxcsr).map(lanes128::from64)
}

/// ROUNDSS: the low lane replaced. Exceptions: IE, PE.
pub fn roundss(a: u128, b: u32, control: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    round_lanes([b], control, mxcsr).map(|[lane]| with_low32(a, lane))
}

/// ROUNDSD: the low lane replaced. Exceptions: IE, PE.
pub fn roundsd(a: u128, b: u64, control: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
    round_lanes([b], control, mxcsr).map(|[lane]| with_low64(a, lane))
}
