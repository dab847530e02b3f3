//! Where operands are: the types that pick a register, memory or an immediate at compile time.
//!
//! Operand 0 is `op.dst`, operand 1 `op.src`, operand 2 `op.third` when they are registers.

use crate::software::cpu::Cpu;
use crate::software::op::{Op, Outcome, Stop};
use crate::software::width::Width;

/// Something that can be read.
pub trait Operand {
    /// Reads it.
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop>;
}

/// Something that can be written.
pub trait Target: Operand {
    /// Whether writing it can stop.
    const IN_MEMORY: bool;
    /// Reads it, raising at once any fault that writing it would raise.
    fn get_to_modify<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop>;
    /// Writes it.
    fn put<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Outcome;
}

/// Operand 0 in a register.
pub struct R0;
/// Operand 1 in a register.
pub struct R1;
/// Operand 2 in a register.
pub struct R2;
/// The memory operand.
pub struct M;
/// The immediate.
pub struct I;
/// The immediate of a fused op: the low half, sign-extended.
pub struct LowI;

impl Operand for R0 {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop> {
        Ok(W::get(cpu, op.dst))
    }
}

impl Target for R0 {
    const IN_MEMORY: bool = false;
    #[inline(always)]
    fn get_to_modify<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop> {
        Ok(W::get(cpu, op.dst))
    }
    #[inline(always)]
    fn put<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Outcome {
        W::set(cpu, op.dst, value);
        Ok(())
    }
}

impl Operand for R1 {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop> {
        Ok(W::get(cpu, op.src))
    }
}

impl Operand for R2 {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop> {
        Ok(W::get(cpu, op.third))
    }
}

impl Operand for M {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop> {
        cpu.load_operand(op)
    }
}

impl Target for M {
    const IN_MEMORY: bool = true;
    #[inline(always)]
    fn get_to_modify<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Stop> {
        let linear = cpu.linear(op, W::BYTES, true)?;
        cpu.load_to_modify(linear)
    }
    #[inline(always)]
    fn put<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Outcome {
        cpu.store_operand(op, value)
    }
}

impl Operand for I {
    #[inline(always)]
    fn get<W: Width>(_: &mut Cpu, op: &Op) -> Result<W, Stop> {
        Ok(W::from_u64(op.imm))
    }
}

impl Operand for LowI {
    #[inline(always)]
    fn get<W: Width>(_: &mut Cpu, op: &Op) -> Result<W, Stop> {
        Ok(W::from_u64(op.imm as u32 as i32 as u64))
    }
}
