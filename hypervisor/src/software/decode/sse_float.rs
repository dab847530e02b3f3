//! Handlers of the floating-point instructions on XMM registers.

use iced_x86::{Instruction, Mnemonic};

use super::select::{in_memory, operand_bits};
use super::sse_move::compute;
use crate::software::execute::operand::{M, R1};
use crate::software::execute::{mmx, sse};
use crate::software::op::Handler;
use crate::software::simd::{Mxcsr, SimdFault, approximate, convert, float, float_compare};

/// Implements [`sse::Float`] for an instruction, and picks the form for its operand.
macro_rules! float {
    ($i:expr, $type:ty,
     |$a:pat_param, $b:pat_param, $immediate:pat_param, $mxcsr:ident| $body:expr) => {{
        struct Operation;
        impl sse::Float<$type> for Operation {
            #[inline(always)]
            fn apply(
                $a: u128,
                $b: $type,
                $immediate: u8,
                $mxcsr: &mut Mxcsr,
            ) -> Result<u128, SimdFault> {
                $body
            }
        }
        if in_memory($i, 1) {
            sse::float::<$type, Operation, <$type as sse::Lane>::Memory> as Handler
        } else {
            sse::float::<$type, Operation, sse::Register>
        }
    }};
}

/// A function of destination and source.
macro_rules! binary {
    ($i:expr, $type:ty, $function:path) => {
        float!($i, $type, |a, b, _, mxcsr| $function(a, b, mxcsr))
    };
}

/// A function of the source.
macro_rules! unary {
    ($i:expr, $type:ty, $function:path) => {
        float!($i, $type, |_, b, _, mxcsr| $function(b, mxcsr))
    };
}

/// A function of destination, source and immediate.
macro_rules! controlled {
    ($i:expr, $type:ty, $function:path) => {
        float!($i, $type, |a, b, control, mxcsr| $function(
            a, b, control, mxcsr
        ))
    };
}

/// Chooses the handler, or `None` when the instruction is not of this family.
pub fn choose(i: &Instruction) -> Option<Handler> {
    if i.op_count() == 0 || i.is_string_instruction() {
        return None;
    }
    arithmetic(i)
        .or_else(|| roots(i))
        .or_else(|| comparison(i))
        .or_else(|| between_formats(i))
        .or_else(|| with_integers(i))
        .or_else(|| with_mmx(i))
        .or_else(|| rounding(i))
}

fn arithmetic(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Addps => binary!(i, u128, float::addps),
        N::Addpd => binary!(i, u128, float::addpd),
        N::Addss => binary!(i, u32, float::addss),
        N::Addsd => binary!(i, u64, float::addsd),
        N::Subps => binary!(i, u128, float::subps),
        N::Subpd => binary!(i, u128, float::subpd),
        N::Subss => binary!(i, u32, float::subss),
        N::Subsd => binary!(i, u64, float::subsd),
        N::Mulps => binary!(i, u128, float::mulps),
        N::Mulpd => binary!(i, u128, float::mulpd),
        N::Mulss => binary!(i, u32, float::mulss),
        N::Mulsd => binary!(i, u64, float::mulsd),
        N::Divps => binary!(i, u128, float::divps),
        N::Divpd => binary!(i, u128, float::divpd),
        N::Divss => binary!(i, u32, float::divss),
        N::Divsd => binary!(i, u64, float::divsd),
        N::Addsubps => binary!(i, u128, float::addsubps),
        N::Addsubpd => binary!(i, u128, float::addsubpd),
        N::Haddps => binary!(i, u128, float::haddps),
        N::Haddpd => binary!(i, u128, float::haddpd),
        N::Hsubps => binary!(i, u128, float::hsubps),
        N::Hsubpd => binary!(i, u128, float::hsubpd),
        N::Dpps => controlled!(i, u128, float::dpps),
        N::Dppd => controlled!(i, u128, float::dppd),
        _ => return None,
    })
}

fn roots(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Sqrtps => unary!(i, u128, float::sqrtps),
        N::Sqrtpd => unary!(i, u128, float::sqrtpd),
        N::Sqrtss => binary!(i, u32, float::sqrtss),
        N::Sqrtsd => binary!(i, u64, float::sqrtsd),
        N::Rcpps => compute!(i, u128, |_, b, _| approximate::rcpps(b)),
        N::Rcpss => compute!(i, u32, |a, b, _| approximate::rcpss(a, b)),
        N::Rsqrtps => compute!(i, u128, |_, b, _| approximate::rsqrtps(b)),
        N::Rsqrtss => compute!(i, u32, |a, b, _| approximate::rsqrtss(a, b)),
        _ => return None,
    })
}

/// COMISx and UCOMISx.
macro_rules! ordered {
    ($i:expr, $type:ty, $function:path) => {{
        struct Operation;
        impl sse::CompareLanes<$type> for Operation {
            #[inline(always)]
            fn apply(
                a: $type,
                b: $type,
                mxcsr: &mut Mxcsr,
            ) -> Result<float_compare::ComparisonFlags, SimdFault> {
                $function(a, b, mxcsr)
            }
        }
        if in_memory($i, 1) {
            sse::compare_lanes::<$type, Operation, sse::Unaligned> as Handler
        } else {
            sse::compare_lanes::<$type, Operation, sse::Register>
        }
    }};
}

fn comparison(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Cmpps => controlled!(i, u128, float_compare::cmpps),
        N::Cmppd => controlled!(i, u128, float_compare::cmppd),
        N::Cmpss => controlled!(i, u32, float_compare::cmpss),
        N::Cmpsd => controlled!(i, u64, float_compare::cmpsd),
        N::Comiss => ordered!(i, u32, float_compare::comiss),
        N::Comisd => ordered!(i, u64, float_compare::comisd),
        N::Ucomiss => ordered!(i, u32, float_compare::ucomiss),
        N::Ucomisd => ordered!(i, u64, float_compare::ucomisd),
        N::Minps => binary!(i, u128, float_compare::minps),
        N::Minpd => binary!(i, u128, float_compare::minpd),
        N::Minss => binary!(i, u32, float_compare::minss),
        N::Minsd => binary!(i, u64, float_compare::minsd),
        N::Maxps => binary!(i, u128, float_compare::maxps),
        N::Maxpd => binary!(i, u128, float_compare::maxpd),
        N::Maxss => binary!(i, u32, float_compare::maxss),
        N::Maxsd => binary!(i, u64, float_compare::maxsd),
        _ => return None,
    })
}

fn between_formats(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Cvtss2sd => binary!(i, u32, convert::cvtss2sd),
        N::Cvtsd2ss => binary!(i, u64, convert::cvtsd2ss),
        N::Cvtps2pd => unary!(i, u64, convert::cvtps2pd),
        N::Cvtpd2ps => unary!(i, u128, convert::cvtpd2ps),
        N::Cvtdq2ps => unary!(i, u128, convert::cvtdq2ps),
        N::Cvtdq2pd => compute!(i, u64, |_, b, _| convert::cvtdq2pd(b)),
        N::Cvtps2dq => unary!(i, u128, convert::cvtps2dq),
        N::Cvttps2dq => unary!(i, u128, convert::cvttps2dq),
        N::Cvtpd2dq => {
            float!(i, u128, |_, b, _, mxcsr| convert::cvtpd2dq(b, mxcsr)
                .map(u128::from))
        }
        N::Cvttpd2dq => {
            float!(i, u128, |_, b, _, mxcsr| convert::cvttpd2dq(b, mxcsr)
                .map(u128::from))
        }
        _ => return None,
    })
}

/// A conversion to a general register.
macro_rules! to_integer {
    ($i:expr, $type:ty, $narrow:path, $wide:path) => {{
        struct Narrow;
        impl sse::ToInteger<$type> for Narrow {
            #[inline(always)]
            fn apply(b: $type, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
                $narrow(b, mxcsr).map(u64::from)
            }
        }
        struct Wide;
        impl sse::ToInteger<$type> for Wide {
            #[inline(always)]
            fn apply(b: $type, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
                $wide(b, mxcsr)
            }
        }
        match (operand_bits($i, 0), in_memory($i, 1)) {
            (32, false) => sse::to_integer::<$type, Narrow, sse::Register> as Handler,
            (32, true) => sse::to_integer::<$type, Narrow, sse::Unaligned>,
            (_, false) => sse::to_integer::<$type, Wide, sse::Register>,
            (_, true) => sse::to_integer::<$type, Wide, sse::Unaligned>,
        }
    }};
}

/// A conversion from a general register or memory.
macro_rules! from_integer {
    ($i:expr, $function:path) => {{
        struct Operation;
        impl sse::Float<u64> for Operation {
            #[inline(always)]
            fn apply(a: u128, b: u64, _: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
                $function(a, b as i64, mxcsr)
            }
        }
        match (operand_bits($i, 1), in_memory($i, 1)) {
            (32, false) => sse::float_from_integer::<u32, Operation, R1> as Handler,
            (32, true) => sse::float_from_integer::<u32, Operation, M>,
            (_, false) => sse::float_from_integer::<u64, Operation, R1>,
            (_, true) => sse::float_from_integer::<u64, Operation, M>,
        }
    }};
}

fn with_integers(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Cvtss2si => to_integer!(i, u32, convert::cvtss2si32, convert::cvtss2si64),
        N::Cvttss2si => to_integer!(i, u32, convert::cvttss2si32, convert::cvttss2si64),
        N::Cvtsd2si => to_integer!(i, u64, convert::cvtsd2si32, convert::cvtsd2si64),
        N::Cvttsd2si => to_integer!(i, u64, convert::cvttsd2si32, convert::cvttsd2si64),
        N::Cvtsi2ss => from_integer!(i, convert::cvtsi2ss),
        N::Cvtsi2sd => from_integer!(i, convert::cvtsi2sd),
        _ => return None,
    })
}

/// CVTPI2PS.
struct PairToSingles;
impl sse::Float<u64> for PairToSingles {
    fn apply(a: u128, b: u64, _: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault> {
        convert::cvtpi2ps(a, b, mxcsr)
    }
}

/// CVTPI2PD.
struct PairToDoubles;
impl sse::Float<u64> for PairToDoubles {
    fn apply(_: u128, b: u64, _: u8, _: &mut Mxcsr) -> Result<u128, SimdFault> {
        Ok(convert::cvtdq2pd(b))
    }
}

/// A conversion to an MMX register.
macro_rules! to_mmx {
    ($i:expr, $type:ty, $function:path) => {{
        struct Operation;
        impl mmx::FromFloat<$type> for Operation {
            fn apply(b: $type, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault> {
                $function(b, mxcsr)
            }
        }
        if in_memory($i, 1) {
            mmx::from_float::<$type, Operation, <$type as sse::Lane>::Memory> as Handler
        } else {
            mmx::from_float::<$type, Operation, sse::Register>
        }
    }};
}

fn with_mmx(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Cvtpi2ps if in_memory(i, 1) => mmx::to_float::<PairToSingles, mmx::Memory, true>,
        N::Cvtpi2ps => mmx::to_float::<PairToSingles, mmx::Register, true>,
        N::Cvtpi2pd if in_memory(i, 1) => mmx::to_float::<PairToDoubles, mmx::Memory, false>,
        N::Cvtpi2pd => mmx::to_float::<PairToDoubles, mmx::Register, true>,
        N::Cvtps2pi => to_mmx!(i, u64, convert::cvtps2pi),
        N::Cvttps2pi => to_mmx!(i, u64, convert::cvttps2pi),
        N::Cvtpd2pi => to_mmx!(i, u128, convert::cvtpd2dq),
        N::Cvttpd2pi => to_mmx!(i, u128, convert::cvttpd2dq),
        _ => return None,
    })
}

fn rounding(i: &Instruction) -> Option<Handler> {
    use Mnemonic as N;
    Some(match i.mnemonic() {
        N::Roundps => {
            float!(i, u128, |_, b, control, mxcsr| convert::roundps(
                b, control, mxcsr
            ))
        }
        N::Roundpd => {
            float!(i, u128, |_, b, control, mxcsr| convert::roundpd(
                b, control, mxcsr
            ))
        }
        N::Roundss => controlled!(i, u32, convert::roundss),
        N::Roundsd => controlled!(i, u64, convert::roundsd),
        _ => return None,
    })
}
