//! The shapes of MMX instructions, those of SSE to SSSE3 that work on MMX registers included.
//!
//! Faults of all: #UD (CR0.EM), #NM (CR0.TS), #MF, those of memory. All but EMMS mark every x87
//! register as in use and set TOP to zero. Spec: Intel SDM vol. 1 chapter 9; vol. 2.

use super::operand::Operand;
use super::sse;
use super::sse_move::store_bytes;
use crate::software::cpu::Cpu;
use crate::software::mmu::fast::Scalar;
use crate::software::op::{Op, Outcome, Stop};
use crate::software::simd::logic::maskmov_bytes;
use crate::software::simd::{Mxcsr, SimdFault};
use crate::software::width::Width;

/// A value that can be the low part of an MMX register.
pub trait Lane: Scalar {
    /// The low bits.
    fn low(register: u64) -> Self;
}
impl Lane for u32 {
    #[inline(always)]
    fn low(register: u64) -> Self {
        register as u32
    }
}
impl Lane for u64 {
    #[inline(always)]
    fn low(register: u64) -> Self {
        register
    }
}

/// A source operand of type `T`.
pub trait Source<T> {
    /// Reads it.
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop>;
}

/// Operand 1 in an MMX register.
pub struct Register;
/// The memory operand.
pub struct Memory;

impl<T: Lane> Source<T> for Register {
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop> {
        Ok(T::low(cpu.fpu.x87.mmx(op.src)))
    }
}

impl<T: Scalar> Source<T> for Memory {
    #[inline(always)]
    fn get(cpu: &mut Cpu, op: &Op) -> Result<T, Stop> {
        cpu.load_operand(op)
    }
}

/// An instruction that computes its destination from its operands and an immediate.
pub trait Compute<T> {
    /// The new destination; `a` is the old one.
    fn apply(a: u64, b: T, immediate: u8) -> u64;
}

#[inline(always)]
fn commit(cpu: &mut Cpu, register: u8, value: u64) {
    cpu.fpu.x87.enter_mmx();
    cpu.fpu.x87.set_mmx(register, value);
}

/// Destination and source.
pub extern "C" fn compute<T: Lane, C: Compute<T>, S: Source<T>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let b = S::get(cpu, op)?;
    let value = C::apply(cpu.fpu.x87.mmx(op.dst), b, op.imm as u8);
    commit(cpu, op.dst, value);
    Ok(())
}

/// Destination alone, as in the shifts by an immediate.
pub extern "C" fn compute_alone<C: Compute<u64>>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let value = C::apply(cpu.fpu.x87.mmx(op.dst), 0, op.imm as u8);
    commit(cpu, op.dst, value);
    Ok(())
}

/// PINSRW from a general register or memory.
pub extern "C" fn insert<C: Compute<u16>, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let b = S::get::<u16>(cpu, op)?;
    let value = C::apply(cpu.fpu.x87.mmx(op.dst), b, op.imm as u8);
    commit(cpu, op.dst, value);
    Ok(())
}

/// An MMX register to a general one.
pub trait Extract {
    /// The result, zero-extended.
    fn apply(b: u64, immediate: u8) -> u64;
}

/// PMOVMSKB, PEXTRW.
pub extern "C" fn extract<E: Extract>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let value = E::apply(cpu.fpu.x87.mmx(op.src), op.imm as u8);
    cpu.fpu.x87.enter_mmx();
    u64::set(cpu, op.dst, value);
    Ok(())
}

/// MOVD, MOVQ from a general register or memory; MOVQ between registers with memory sources.
pub extern "C" fn from_general<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let value = S::get::<W>(cpu, op)?.zero_extend();
    commit(cpu, op.dst, value);
    Ok(())
}

/// MOVD, MOVQ to a general register.
pub extern "C" fn to_general<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let value = cpu.fpu.x87.mmx(op.src);
    cpu.fpu.x87.enter_mmx();
    W::set(cpu, op.dst, W::from_u64(value));
    Ok(())
}

/// MOVD, MOVQ, MOVNTQ to memory.
pub extern "C" fn store<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let value = cpu.fpu.x87.mmx(op.src);
    cpu.store_operand(op, W::from_u64(value))?;
    cpu.fpu.x87.enter_mmx();
    Ok(())
}

/// MASKMOVQ: the bytes of operand 1 whose mask byte in operand 2 is negative, to DS:RDI.
pub extern "C" fn store_masked(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.require_mmx()?;
    let value = cpu.fpu.x87.mmx(op.src);
    let chosen = maskmov_bytes(cpu.fpu.x87.mmx(op.third));
    store_bytes(cpu, op, &value.to_le_bytes(), chosen)?;
    cpu.fpu.x87.enter_mmx();
    Ok(())
}

/// EMMS.
pub extern "C" fn empty(cpu: &mut Cpu, _: &Op) -> Outcome {
    cpu.require_mmx()?;
    cpu.fpu.x87.emms();
    Ok(())
}

/// MOVQ2DQ.
pub extern "C" fn to_xmm(cpu: &mut Cpu, op: &Op) -> Outcome {
    require_both(cpu)?;
    let value = cpu.fpu.x87.mmx(op.src);
    cpu.fpu.x87.enter_mmx();
    *sse::target(cpu, op) = u128::from(value);
    Ok(())
}

/// MOVDQ2Q.
pub extern "C" fn from_xmm(cpu: &mut Cpu, op: &Op) -> Outcome {
    require_both(cpu)?;
    let value = sse::source(cpu, op) as u64;
    commit(cpu, op.dst, value);
    Ok(())
}

fn require_both(cpu: &mut Cpu) -> Outcome {
    cpu.require_sse()?;
    cpu.require_no_pending()
}

/// CVTPI2PS and CVTPI2PD: operand 1 in an MMX register. With a memory operand CVTPI2PS still
/// enters MMX state (`ENTERS`), CVTPI2PD does not.
pub extern "C" fn to_float<F: sse::Float<u64>, S: Source<u64>, const ENTERS: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    cpu.require_sse()?;
    if ENTERS {
        cpu.require_no_pending()?;
    }
    let b = S::get(cpu, op)?;
    let a = *sse::target(cpu, op);
    match F::apply(a, b, 0, &mut cpu.fpu.mxcsr) {
        Ok(value) => {
            if ENTERS {
                cpu.fpu.x87.enter_mmx();
            }
            *sse::target(cpu, op) = value;
            Ok(())
        }
        Err(SimdFault) => Err(cpu.simd_exception()),
    }
}

/// A conversion of floating-point lanes to an MMX register.
pub trait FromFloat<T> {
    /// The result; sets the flags of `mxcsr`.
    fn apply(b: T, mxcsr: &mut Mxcsr) -> Result<u64, SimdFault>;
}

/// CVTPS2PI, CVTPD2PI and their truncating forms.
pub extern "C" fn from_float<T: sse::Lane, C: FromFloat<T>, S: sse::Source<T>>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    require_both(cpu)?;
    let b = S::get(cpu, op)?;
    match C::apply(b, &mut cpu.fpu.mxcsr) {
        Ok(value) => {
            commit(cpu, op.dst, value);
            Ok(())
        }
        Err(SimdFault) => Err(cpu.simd_exception()),
    }
}
