//! Near branches, calls and returns. Spec: Intel SDM vol. 2, JMP Jcc CALL RET LOOPcc JrCXZ.
//!
//! Each ends its block, and the run loop has set RIP to the end of the block beforehand.

use super::alu::{self, Alu};
use super::operand::{Operand, Target};
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::width::Width;

/// JMP to an immediate target.
pub extern "C" fn jump(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.rip = op.imm;
    Ok(())
}

/// Jcc.
pub extern "C" fn jump_if<const CODE: u8>(cpu: &mut Cpu, op: &Op) -> Outcome {
    if cpu.flags.condition(CODE) {
        cpu.rip = op.imm;
    }
    Ok(())
}

/// CMP or TEST and the Jcc behind it, fused: RIP is the end of both, and the high half of the
/// immediate is the distance from there. A fault is the comparison's, and nothing has happened.
pub extern "C" fn compare_and_jump<W: Width, A: Alu, D: Target, S: Operand, const CODE: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> Outcome {
    alu::binary::<W, A, D, S>(cpu, op)?;
    if cpu.flags.condition(CODE) {
        cpu.rip = cpu.rip.wrapping_add((op.imm as i64 >> 32) as u64);
    }
    Ok(())
}

fn check_target(cpu: &mut Cpu, target: u64) -> Outcome {
    if cpu.mode == Mode::Long && !cpu.is_canonical(target) {
        return Err(cpu.general_protection(0));
    }
    Ok(())
}

/// JMP through a register or memory.
pub extern "C" fn jump_indirect<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let target = S::get::<W>(cpu, op)?.zero_extend();
    check_target(cpu, target)?;
    cpu.rip = target;
    Ok(())
}

/// CALL to an immediate target.
pub extern "C" fn call<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.push(W::from_u64(cpu.rip))?;
    cpu.rip = op.imm;
    Ok(())
}

/// CALL through a register or memory.
pub extern "C" fn call_indirect<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let target = S::get::<W>(cpu, op)?.zero_extend();
    check_target(cpu, target)?;
    cpu.push(W::from_u64(cpu.rip))?;
    cpu.rip = target;
    Ok(())
}

/// RET, with the bytes to drop besides in the immediate.
pub extern "C" fn ret<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let target = cpu.peek::<W>(0)?.zero_extend();
    check_target(cpu, target)?;
    cpu.drop_stack(W::BYTES + op.imm);
    cpu.rip = target;
    Ok(())
}

/// LOOP, LOOPE, LOOPNE by `KIND` 0, 1, 2; `W` is the counter's width.
pub extern "C" fn repeat<W: Width, const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let count = W::from_u64(W::get(cpu, reg::RCX as u8).zero_extend().wrapping_sub(1));
    W::set(cpu, reg::RCX as u8, count);
    let wanted = match KIND {
        0 => true,
        1 => cpu.flags.zero(),
        _ => !cpu.flags.zero(),
    };
    if wanted && count.zero_extend() != 0 {
        cpu.rip = op.imm;
    }
    Ok(())
}

/// JCXZ, JECXZ, JRCXZ.
pub extern "C" fn jump_if_no_count<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    if W::get(cpu, reg::RCX as u8).zero_extend() == 0 {
        cpu.rip = op.imm;
    }
    Ok(())
}

/// An instruction that always raises #UD (UD0, UD1, UD2, or one that this model does not have).
pub extern "C" fn undefined(cpu: &mut Cpu, _: &Op) -> Result<(), Stop> {
    Err(cpu.undefined())
}
