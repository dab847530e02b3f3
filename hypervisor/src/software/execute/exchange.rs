//! Exchanges. Spec: Intel SDM vol. 2, XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B. With one
//! processor every instruction is atomic, so LOCK changes nothing here.

use super::alu::{Add, Alu, Cmp};
use super::operand::{M, Target};
use crate::software::cpu::Cpu;
use crate::software::op::{Op, Outcome, reg};
use crate::software::width::Width;

/// XCHG of operand 0 with a register.
pub extern "C" fn exchange<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let a = D::get_to_modify::<W>(cpu, op)?;
    let b = W::get(cpu, op.src);
    D::put(cpu, op, b)?;
    W::set(cpu, op.src, a);
    Ok(())
}

/// XADD.
pub extern "C" fn exchange_add<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let a = D::get_to_modify::<W>(cpu, op)?;
    let b = W::get(cpu, op.src);
    let mut flags = cpu.flags;
    let sum = Add::apply(&mut flags, a, b);
    // Memory may fault, so it is written first; a register that is both operands keeps the sum.
    D::put(cpu, op, sum)?;
    W::set(cpu, op.src, a);
    if !D::IN_MEMORY {
        D::put(cpu, op, sum)?;
    }
    cpu.flags = flags;
    Ok(())
}

/// CMPXCHG: the destination is written either way, as the processor does.
pub extern "C" fn compare_exchange<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let found = D::get_to_modify::<W>(cpu, op)?;
    let wanted = W::get(cpu, reg::RAX as u8);
    let mut flags = cpu.flags;
    Cmp::apply(&mut flags, wanted, found);
    if wanted == found {
        let new = W::get(cpu, op.src);
        D::put(cpu, op, new)?;
    } else {
        D::put(cpu, op, found)?;
        W::set(cpu, reg::RAX as u8, found);
    }
    cpu.flags = flags;
    Ok(())
}

/// CMPXCHG8B.
pub extern "C" fn compare_exchange_8(cpu: &mut Cpu, op: &Op) -> Outcome {
    let found: u64 = M::get_to_modify(cpu, op)?;
    let low_half = |cpu: &Cpu, register: usize| cpu.regs[register] & 0xffff_ffff;
    let wanted = low_half(cpu, reg::RDX) << 32 | low_half(cpu, reg::RAX);
    let equal = wanted == found;
    if equal {
        M::put(
            cpu,
            op,
            low_half(cpu, reg::RCX) << 32 | low_half(cpu, reg::RBX),
        )?;
    } else {
        M::put(cpu, op, found)?;
        cpu.regs[reg::RAX] = found & 0xffff_ffff;
        cpu.regs[reg::RDX] = found >> 32;
    }
    cpu.flags.set_zero(equal);
    Ok(())
}

/// CMPXCHG16B: #GP when the operand is not aligned.
pub extern "C" fn compare_exchange_16(cpu: &mut Cpu, op: &Op) -> Outcome {
    let linear = cpu.linear(op, 16, true)?;
    if linear & 15 != 0 {
        return Err(cpu.general_protection(0));
    }
    let found: u128 = cpu.load_to_modify(linear)?;
    let wide = |cpu: &Cpu, high: usize, low: usize| {
        u128::from(cpu.regs[high]) << 64 | u128::from(cpu.regs[low])
    };
    let equal = wide(cpu, reg::RDX, reg::RAX) == found;
    if equal {
        let new = wide(cpu, reg::RCX, reg::RBX);
        cpu.store(linear, new)?;
    } else {
        cpu.store(linear, found)?;
        cpu.regs[reg::RAX] = found as u64;
        cpu.regs[reg::RDX] = (found >> 64) as u64;
    }
    cpu.flags.set_zero(equal);
    Ok(())
}
