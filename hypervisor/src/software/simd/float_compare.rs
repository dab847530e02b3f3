//! Floating-point comparison (CMPxx, COMISx, UCOMISx), minimum and maximum.
//!
//! Exceptions: IE, DE. Spec: Intel SDM vol. 2 under each mnemonic.

use super::mxcsr::{Mxcsr, SimdFault};
use super::shuffle::{with_low32, with_low64};
use super::vector::lanes128;
use crate::software::float::compare::{Relation, compare, maximum, minimum};
use crate::software::float::{FloatEnv, Format, fast};

/// The flags that COMISx and UCOMISx write; they clear OF, SF and AF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComparisonFlags {
    /// ZF: equal or unordered.
    pub zero: bool,
    /// PF: unordered.
    pub parity: bool,
    /// CF: less or unordered.
    pub carry: bool,
}

impl From<Relation> for ComparisonFlags {
    #[inline]
    fn from(relation: Relation) -> Self {
        let unordered = relation == Relation::Unordered;
        Self {
            zero: unordered || relation == Relation::Equal,
            parity: unordered,
            carry: unordered || relation == Relation::Less,
        }
    }
}

/// Whether the predicate of a CMPxx immediate (bits 2:0) holds.
#[inline]
fn holds(predicate: u8, relation: Relation) -> bool {
    let positive = match predicate & 3 {
        0 => relation == Relation::Equal,
        1 => relation == Relation::Less,
        2 => matches!(relation, Relation::Less | Relation::Equal),
        _ => relation == Relation::Unordered,
    };
    positive ^ (predicate & 4 != 0)
}

/// Whether the predicate raises IE for quiet NaNs: the ordering ones do.
#[inline]
fn is_signaling(predicate: u8) -> bool {
    matches!(predicate & 3, 1 | 2)
}

/// Compares by the soft path.
fn soft<F: Format>(a: F, b: F, signaling: bool, env: &mut FloatEnv) -> Relation {
    compare(env.unpack(a), env.unpack(b), signaling, env)
}

macro_rules! comparisons {
    ($bits:ty, $format:ident, $to:ident, $from:ident, $with_low:ident,
     $packed:ident, $scalar:ident, $comi:ident, $ucomi:ident,
     $min:ident, $minimum:ident, $max:ident, $maximum:ident, $suffix:literal, $letter:literal) => {
        #[doc = concat!("CMPP", $letter, ": ones in each lane where the predicate holds.")]
        pub fn $packed(
            a: u128,
            b: u128,
            predicate: u8,
            mxcsr: &mut Mxcsr,
        ) -> Result<u128, SimdFault> {
            let mut env = mxcsr.env();
            let mut lanes = lanes128::$to(a);
            for (lane, other) in lanes.iter_mut().zip(lanes128::$to(b)) {
                let relation = fast::$format::compare(*lane, other)
                    .unwrap_or_else(|| soft(*lane, other, is_signaling(predicate), &mut env));
                *lane = if holds(predicate, relation) {
                    <$bits>::MAX
                } else {
                    0
                };
            }
            mxcsr.commit(env.flags)?;
            Ok(lanes128::$from(lanes))
        }

        #[doc = concat!("CMP", $suffix, ": the same in the lowest lane.")]
        #[inline]
        pub fn $scalar(
            a: u128,
            b: $bits,
            predicate: u8,
            mxcsr: &mut Mxcsr,
        ) -> Result<u128, SimdFault> {
            let relation = $format(a as $bits, b, is_signaling(predicate), mxcsr)?;
            let mask = if holds(predicate, relation) {
                <$bits>::MAX
            } else {
                0
            };
            Ok($with_low(a, mask))
        }

        #[doc = concat!("COMI", $suffix, ": any NaN raises IE.")]
        #[inline]
        pub fn $comi(a: $bits, b: $bits, mxcsr: &mut Mxcsr) -> Result<ComparisonFlags, SimdFault> {
            $format(a, b, true, mxcsr).map(ComparisonFlags::from)
        }

        #[doc = concat!("UCOMI", $suffix, ": only a signaling NaN raises IE.")]
        #[inline]
        pub fn $ucomi(a: $bits, b: $bits, mxcsr: &mut Mxcsr) -> Result<ComparisonFlags, SimdFault> {
            $format(a, b, false, mxcsr).map(ComparisonFlags::from)
        }

        #[doc = concat!("MINP", $letter, ": the lesser lanes; the source where neither is.")]
        pub fn $min(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let mut env = mxcsr.env();
            let mut lanes = lanes128::$to(a);
            for (lane, other) in lanes.iter_mut().zip(lanes128::$to(b)) {
                *lane = minimum(*lane, other, &mut env);
            }
            mxcsr.commit(env.flags)?;
            Ok(lanes128::$from(lanes))
        }

        #[doc = concat!("MIN", $suffix, ": the same in the lowest lane.")]
        #[inline]
        pub fn $minimum(a: u128, b: $bits, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let lane = match fast::$format::compare(a as $bits, b) {
                Some(Relation::Less) => a as $bits,
                Some(_) => b,
                None => {
                    let mut env = mxcsr.env();
                    let lane = minimum(a as $bits, b, &mut env);
                    mxcsr.commit(env.flags)?;
                    lane
                }
            };
            Ok($with_low(a, lane))
        }

        #[doc = concat!("MAXP", $letter, ": the greater lanes; the source where neither is.")]
        pub fn $max(a: u128, b: u128, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let mut env = mxcsr.env();
            let mut lanes = lanes128::$to(a);
            for (lane, other) in lanes.iter_mut().zip(lanes128::$to(b)) {
                *lane = maximum(*lane, other, &mut env);
            }
            mxcsr.commit(env.flags)?;
            Ok(lanes128::$from(lanes))
        }

        #[doc = concat!("MAX", $suffix, ": the same in the lowest lane.")]
        #[inline]
        pub fn $maximum(a: u128, b: $bits, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
            let lane = match fast::$format::compare(a as $bits, b) {
                Some(Relation::Greater) => a as $bits,
                Some(_) => b,
                None => {
                    let mut env = mxcsr.env();
                    let lane = maximum(a as $bits, b, &mut env);
                    mxcsr.commit(env.flags)?;
                    lane
                }
            };
            Ok($with_low(a, lane))
        }

        /// The relation of two scalars, by the fast path where it applies.
        #[inline]
        fn $format(
            a: $bits,
            b: $bits,
            signaling: bool,
            mxcsr: &mut Mxcsr,
        ) -> Result<Relation, SimdFault> {
            if let Some(relation) = fast::$format::compare(a, b) {
                return Ok(relation);
            }
            let mut env = mxcsr.env();
            let relation = soft(a, b, signaling, &mut env);
            mxcsr.commit(env.flags)?;
            Ok(relation)
        }
    };
}

comparisons!(
    u32, single, to32, from32, with_low32, cmpps, cmpss, comiss, ucomiss, minps, minss, maxps,
    maxss, "SS", "S"
);
comparisons!(
    u64, double, to64, from64, with_low64, cmppd, cmpsd, comisd, ucomisd, minpd, minsd, maxpd,
    maxsd, "SD", "D"
);
