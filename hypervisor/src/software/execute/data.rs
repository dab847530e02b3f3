//! Moves and conversions that touch no flags. Spec: Intel SDM vol. 2, MOV MOVZX MOVSX MOVSXD LEA
//! CMOVcc SETcc BSWAP MOVBE XLAT CBW CWD and relatives.

use super::operand::{M, Operand, Target};
use crate::arch::x86_64::segment::SS;
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, reg};
use crate::software::width::Width;

/// MOV.
pub extern "C" fn mov<W: Width, D: Target, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?;
    D::put(cpu, op, value)
}

/// MOVZX: `F` is the narrower source.
pub extern "C" fn zero_extend<W: Width, F: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<F>(cpu, op)?;
    W::set(cpu, op.dst, W::from_u64(value.zero_extend()));
    Ok(())
}

/// MOVSX and MOVSXD: `F` is the narrower source.
pub extern "C" fn sign_extend<W: Width, F: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<F>(cpu, op)?;
    W::set(cpu, op.dst, W::from_u64(value.sign_extend()));
    Ok(())
}

/// LEA: the sum without its segment.
pub extern "C" fn lea<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let mut sum = op.sum(cpu);
    match op.addressing {
        crate::software::op::FLAT => {}
        crate::software::op::LEGACY_16 => sum &= 0xffff,
        _ => sum &= 0xffff_ffff,
    }
    W::set(cpu, op.dst, W::from_u64(sum));
    Ok(())
}

/// CMOVcc: a 32-bit destination is zero-extended even when the condition fails.
pub extern "C" fn conditional_move<W: Width, S: Operand, const CODE: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    let value = S::get::<W>(cpu, op)?;
    let kept = W::get(cpu, op.dst);
    let chosen = if cpu.flags.condition(CODE) {
        value
    } else {
        kept
    };
    W::set(cpu, op.dst, chosen);
    Ok(())
}

/// SETcc.
pub extern "C" fn set_condition<D: Target, const CODE: u8>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = u8::from(cpu.flags.condition(CODE));
    D::put(cpu, op, value)
}

/// BSWAP; with 16 bits (undefined in the manual) the low half is swapped.
pub extern "C" fn byte_swap<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = W::get(cpu, op.dst).zero_extend().swap_bytes() >> (64 - W::BITS);
    W::set(cpu, op.dst, W::from_u64(value));
    Ok(())
}

/// MOVBE, load.
pub extern "C" fn load_swapped<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = M::get::<W>(cpu, op)?.zero_extend().swap_bytes() >> (64 - W::BITS);
    W::set(cpu, op.dst, W::from_u64(value));
    Ok(())
}

/// MOVBE, store.
pub extern "C" fn store_swapped<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = W::get(cpu, op.src).zero_extend().swap_bytes() >> (64 - W::BITS);
    M::put(cpu, op, W::from_u64(value))
}

/// CBW, CWDE, CDQE: the lower half of RAX sign-extended to `W`.
pub extern "C" fn extend_accumulator<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let value = cpu.regs[reg::RAX];
    let extended = match W::BITS {
        16 => (value as u8).sign_extend(),
        32 => (value as u16).sign_extend(),
        _ => (value as u32).sign_extend(),
    };
    W::set(cpu, reg::RAX as u8, W::from_u64(extended));
    Ok(())
}

/// CWD, CDQ, CQO: the sign of RAX spread over RDX.
pub extern "C" fn spread_sign<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let negative = cpu.regs[reg::RAX] & W::SIGN != 0;
    W::set(
        cpu,
        reg::RDX as u8,
        W::from_u64(if negative { u64::MAX } else { 0 }),
    );
    Ok(())
}

/// XLAT: the operand's index, AL, is added here.
pub extern "C" fn translate(cpu: &mut Cpu, op: &Op) -> Outcome {
    let index = u64::from(u8::get(cpu, reg::RAX as u8));
    let indexed = Op {
        disp: op.disp.wrapping_add(index),
        ..*op
    };
    let value = M::get::<u8>(cpu, &indexed)?;
    u8::set(cpu, reg::RAX as u8, value);
    Ok(())
}

/// MOV to a segment register, `op.third` its number.
pub extern "C" fn mov_to_segment<S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let selector = S::get::<u16>(cpu, op)?;
    let index = usize::from(op.third);
    cpu.load_segment(index, selector)?;
    if index == SS {
        cpu.interrupt_shadow = true;
        cpu.attention = true;
    }
    Ok(())
}

/// MOV from a segment register to a register of width `W` (zero-extended) or 16 bits of memory.
pub extern "C" fn mov_from_segment<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let selector = u64::from(cpu.segments[usize::from(op.third)].selector);
    D::put(cpu, op, W::from_u64(selector))
}

/// LDS, LES, LSS, LFS, LGS: offset, then selector.
pub extern "C" fn load_far_pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let linear = cpu.linear(op, W::BYTES + 2, false)?;
    let offset: W = cpu.load(linear)?;
    let selector: u16 = cpu.load(linear.wrapping_add(W::BYTES))?;
    cpu.load_segment(usize::from(op.third), selector)?;
    W::set(cpu, op.dst, offset);
    Ok(())
}

/// NOP, PAUSE, ENDBR, prefetches and fences: this processor executes in order, alone.
pub extern "C" fn nothing(_: &mut Cpu, _: &Op) -> Outcome {
    Ok(())
}

/// SALC (undocumented, legacy modes): AL is all ones when carry is set.
pub extern "C" fn set_al_from_carry(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.mode == Mode::Long {
        return Err(cpu.undefined());
    }
    let value = if cpu.flags.carry() { 0xff } else { 0 };
    u8::set(cpu, reg::RAX as u8, value);
    Ok(())
}
