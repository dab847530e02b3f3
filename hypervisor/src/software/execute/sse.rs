//! The shapes of SSE to SSE4.2 instructions: where operands come from, what may fault, where the
//! result goes. What is computed is in [`crate::software::simd`]; the decoder pairs the two by
//! implementing one of the traits here for each instruction.
//!
//! Faults of all: #UD (CR0.EM, CR4.OSFXSR), #NM (CR0.TS), those of memory; #GP for a 16-byte
//! memory operand that is not aligned, but for the forms that allow it. Floating-point forms
//! raise #XM after the operand was read and MXCSR's flags were set.

use super::operand::Operand;
use crate::arch::x86_64::control::rflags::{CF, OF, PF, SF, ZF};
use crate::software::cpu::Cpu;
use crate::software::mmu::fast::Scalar;
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::simd::float_compare::ComparisonFlags;
use crate::software::simd::logic::TestFlags;
use crate::software::simd::string::StringComparison;
use crate::software::simd::{Mxcsr, SimdFault};
use crate::software::width::Width;

/// A value that can be the low part of an XMM register.
pub trait Lane: Scalar {
    /// Where such a source operand in memory is: aligned when it is a whole register.
    type Memory: Source<Self>;
    /// The low bits.
    fn low(register: u128) -> Self;
}

macro_rules! lane {
    ($($type:ty, $memory:ty;)*) => {$(
        impl Lane for $type {
            type Memory = $memory;
            #[inline(always)]
            fn low(register: u128) -> Self {
                register as $type
            }
        }
    )*};
}
lane! { u8, Unaligned; u16, Unaligned; u32, Unaligned; u64, Unaligned; u128, Aligned; }

/// A source operand of type `T`.
pub trait Source<T> {
    /// Reads it.
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop>;
}

/// Operand 1 in an XMM register.
pub struct Register;
/// The memory operand, at a multiple of its size.
pub struct Aligned;
/// The memory operand, anywhere.
pub struct Unaligned;

impl<T: Lane> Source<T> for Register {
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop> {
        Ok(T::low(source(cpu, op)))
    }
}

impl<T: Scalar> Source<T> for Unaligned {
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop> {
        cpu.load_operand(op)
    }
}

impl<T: Scalar> Source<T> for Aligned {
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop> {
        let linear = cpu.linear(op, T::SIZE, false)?;
        require_aligned::<T>(cpu, linear)?;
        cpu.load(linear)
    }
}

/// #GP(0) unless `linear` is a multiple of the size of `T`.
#[inline(always)]
pub fn require_aligned<T: Scalar>(cpu: &mut Cpu, linear: u64) -> Outcome {
    if linear & (T::SIZE - 1) == 0 {
        Ok(())
    } else {
        Err(cpu.general_protection(0))
    }
}

/// The XMM register of operand 0.
#[inline(always)]
pub fn target<'a>(cpu: &'a mut Cpu, op: &Op) -> &'a mut u128 {
    &mut cpu.fpu.xmm[usize::from(op.dst & 15)]
}

/// The XMM register of operand 1.
#[inline(always)]
pub fn source(cpu: &Cpu, op: &Op) -> u128 {
    cpu.fpu.xmm[usize::from(op.src & 15)]
}

/// An instruction that computes its destination from its operands and an immediate.
pub trait Compute<T> {
    /// The new destination; `a` is the old one.
    fn apply(a: u128, b: T, immediate: u8) -> u128;
}

/// Destination and source.
pub extern "C" fn compute<T: Lane, C: Compute<T>, S: Source<T>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    let target = target(cpu, op);
    *target = C::apply(*target, b, op.imm as u8);
    Ok(())
}

/// Destination alone, as in the shifts by an immediate.
pub extern "C" fn compute_alone<C: Compute<u128>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let target = target(cpu, op);
    *target = C::apply(*target, 0, op.imm as u8);
    Ok(())
}

/// Destination, and a general register or memory: PINSRx.
pub extern "C" fn insert<W: Width + Lane, C: Compute<W>, S: Operand>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_sse()?;
    let b = S::get::<W>(cpu, op)?;
    let target = target(cpu, op);
    *target = C::apply(*target, b, op.imm as u8);
    Ok(())
}

/// An instruction that merges by the top bits of XMM0: PBLENDVB, BLENDVPS, BLENDVPD.
pub trait Blend {
    /// The new destination.
    fn apply(a: u128, b: u128, mask: u128) -> u128;
}

/// Destination, source, and XMM0.
pub extern "C" fn blend<B: Blend, S: Source<u128>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    let mask = cpu.fpu.xmm[0];
    let target = target(cpu, op);
    *target = B::apply(*target, b, mask);
    Ok(())
}

/// A floating-point instruction.
pub trait Float<T> {
    /// The new destination; sets the flags of `mxcsr`.
    fn apply(a: u128, b: T, immediate: u8, mxcsr: &mut Mxcsr) -> Result<u128, SimdFault>;
}

/// Destination and source, floating-point.
pub extern "C" fn float<T: Lane, F: Float<T>, S: Source<T>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    finish_float::<T, F>(cpu, op, b)
}

/// Destination and an integer in a general register or memory, sign-extended: CVTSI2SS, CVTSI2SD.
pub extern "C" fn float_from_integer<W: Width, F: Float<u64>, S: Operand>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_sse()?;
    let b = S::get::<W>(cpu, op)?.sign_extend();
    finish_float::<u64, F>(cpu, op, b)
}

#[inline(always)]
fn finish_float<T, F: Float<T>>(cpu: &mut Cpu, op: &Op, b: T) -> Outcome {
    let a = *target(cpu, op);
    match F::apply(a, b, op.imm as u8, &mut cpu.fpu.mxcsr) {
        Ok(value) => {
            *target(cpu, op) = value;
            Ok(())
        }
        Err(SimdFault) => Err(cpu.simd_exception()),
    }
}

/// A floating-point instruction with an integer result in a general register.
pub trait ToInteger<T> {
    /// The result, zero-extended; sets the flags of `mxcsr`.
    fn apply(b: T, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault>;
}

/// CVTSS2SI and relatives.
pub extern "C" fn to_integer<T: Lane, C: ToInteger<T>, S: Source<T>>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    match C::apply(b, &mut cpu.fpu.mxcsr) {
        Ok(value) => {
            u64::set(cpu, op.dst, value);
            Ok(())
        }
        Err(SimdFault) => Err(cpu.simd_exception()),
    }
}

/// A floating-point comparison into the flags.
pub trait CompareLanes<T> {
    /// The flags; sets those of `mxcsr`.
    fn apply(a: T, b: T, mxcsr: &mut Mxcsr) -> Result<ComparisonFlags, SimdFault>;
}

fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

/// COMISS and relatives: OF, SF and AF are cleared.
pub extern "C" fn compare_lanes<T: Lane, C: CompareLanes<T>, S: Source<T>>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    let a = T::low(*target(cpu, op));
    match C::apply(a, b, &mut cpu.fpu.mxcsr) {
        Ok(ComparisonFlags {
            zero,
            parity,
            carry,
        }) => {
            cpu.flags
                .set_bits(flag(zero, ZF) | flag(parity, PF) | flag(carry, CF));
            Ok(())
        }
        Err(SimdFault) => Err(cpu.simd_exception()),
    }
}

/// PTEST: OF, SF, AF and PF are cleared.
pub extern "C" fn test<S: Source<u128>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    let TestFlags { zero, carry } = crate::software::simd::logic::ptest(*target(cpu, op), b);
    cpu.flags.set_bits(flag(zero, ZF) | flag(carry, CF));
    Ok(())
}

/// An XMM register to an integer: MOVMSKPS, PMOVMSKB, PEXTRx.
pub trait Extract<W> {
    /// The result.
    fn apply(b: u128, immediate: u8) -> W;
}

/// Extraction to a general register, zero-extended.
pub extern "C" fn extract<W: Width, E: Extract<W>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let value = E::apply(source(cpu, op), op.imm as u8);
    u64::set(cpu, op.dst, value.zero_extend());
    Ok(())
}

/// Extraction to memory.
pub extern "C" fn extract_to_memory<W: Width, E: Extract<W>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_sse()?;
    let value = E::apply(source(cpu, op), op.imm as u8);
    cpu.store_operand(op, value)
}

/// An SSE4.2 string comparison.
pub trait CompareStrings {
    /// Compares; the lengths count for the explicit forms only.
    fn apply(a: u128, b: u128, lengths: [i64; 2], immediate: u8) -> StringComparison;
}

/// PCMPxSTRI (`MASK` false: result in ECX) and PCMPxSTRM (result in XMM0); `W` is the width of
/// the explicit lengths. AF and PF are cleared. The memory operand may be anywhere.
pub extern "C" fn compare_strings<
    W: Width,
    C: CompareStrings,
    S: Source<u128>,
    const MASK: bool,
>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_sse()?;
    let b = S::get(cpu, op)?;
    let a = *target(cpu, op);
    let length = |register: usize| W::get(cpu, register as u8).sign_extend() as i64;
    let lengths = [length(reg::RAX), length(reg::RDX)];
    let found = C::apply(a, b, lengths, op.imm as u8);
    if MASK {
        cpu.fpu.xmm[0] = found.mask();
    } else {
        cpu.regs[reg::RCX] = u64::from(found.index());
    }
    cpu.flags.set_bits(
        flag(found.carry, CF)
            | flag(found.zero, ZF)
            | flag(found.sign, SF)
            | flag(found.overflow, OF),
    );
    Ok(())
}
