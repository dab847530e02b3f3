//! The stack. Spec: Intel SDM vol. 2, PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE.

use super::operand::{Operand, Target};
use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::segment::SS;
use crate::software::cpu::{Cpu, Mode};
use crate::software::op::{Op, Outcome, reg};
use crate::software::width::Width;

/// PUSH of a register, memory or immediate.
pub extern "C" fn push<W: Width, S: Operand>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = S::get::<W>(cpu, op)?;
    cpu.push(value)
}

/// POP to a register or memory; memory is addressed with the stack pointer already moved.
pub extern "C" fn pop<W: Width, D: Target>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let value = cpu.peek::<W>(0)?;
    let before = cpu.regs[reg::RSP];
    cpu.drop_stack(W::BYTES);
    if let Err(stop) = D::put(cpu, op, value) {
        cpu.regs[reg::RSP] = before;
        return Err(stop);
    }
    Ok(())
}

/// PUSH of a segment register, `op.third` its number.
pub extern "C" fn push_segment<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let selector = u64::from(cpu.segments[usize::from(op.third)].selector);
    cpu.push(W::from_u64(selector))
}

/// POP of a segment register.
pub extern "C" fn pop_segment<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let selector = cpu.peek::<W>(0)?.zero_extend() as u16;
    let index = usize::from(op.third);
    // The width of the pop is that of the old stack segment.
    let top = cpu.regs[reg::RSP].wrapping_add(W::BYTES);
    let mask = cpu.stack_mask();
    cpu.load_segment(index, selector)?;
    let rsp = &mut cpu.regs[reg::RSP];
    *rsp = if mask == 0xffff {
        (*rsp & !mask) | (top & mask)
    } else {
        top & mask
    };
    if index == SS {
        cpu.interrupt_shadow = true;
        cpu.attention = true;
    }
    Ok(())
}

/// PUSHA.
pub extern "C" fn push_all<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let before = cpu.regs[reg::RSP];
    for register in 0..8u8 {
        let value = if register == reg::RSP as u8 {
            before
        } else {
            cpu.regs[register as usize]
        };
        if let Err(stop) = cpu.push(W::from_u64(value)) {
            cpu.regs[reg::RSP] = before;
            return Err(stop);
        }
    }
    Ok(())
}

/// POPA: the saved stack pointer is skipped.
pub extern "C" fn pop_all<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let mut values = [W::from_u64(0); 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = cpu.peek(index as u64 * W::BYTES)?;
    }
    for (register, value) in (0..8u8).rev().zip(values) {
        if register != reg::RSP as u8 {
            W::set(cpu, register, value);
        }
    }
    cpu.drop_stack(8 * W::BYTES);
    Ok(())
}

/// PUSHF.
pub extern "C" fn push_flags<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let flags = cpu.rflags() & !(rflags::RF | rflags::VM);
    cpu.push(W::from_u64(flags))
}

/// POPF: what may change depends on the privilege level.
pub extern "C" fn pop_flags<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let value = cpu.peek::<W>(0)?.zero_extend();
    let mut allowed = rflags::WRITABLE & !rflags::RF;
    if cpu.mode != Mode::Real {
        if cpu.cpl > 0 {
            allowed &= !rflags::IOPL;
        }
        if cpu.cpl > cpu.iopl() {
            allowed &= !rflags::IF;
        }
    }
    if W::BITS == 16 {
        allowed &= 0xffff;
    }
    cpu.drop_stack(W::BYTES);
    cpu.set_rflags((cpu.rflags() & !allowed) | (value & allowed));
    Ok(())
}

/// ENTER: frame size in the low 16 bits of the immediate, nesting level above them.
pub extern "C" fn enter<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let (size, level) = (op.imm & 0xffff, (op.imm >> 16) % 32);
    let (old_top, old_frame) = (cpu.regs[reg::RSP], cpu.regs[reg::RBP]);
    let entered = enter_frames::<W>(cpu, size, level);
    if entered.is_err() {
        cpu.regs[reg::RSP] = old_top;
        cpu.regs[reg::RBP] = old_frame;
    }
    entered
}

fn enter_frames<W: Width>(cpu: &mut Cpu, size: u64, level: u64) -> Outcome {
    cpu.push(W::get(cpu, reg::RBP as u8))?;
    let frame = cpu.regs[reg::RSP];
    for nested in 1..level {
        let at = cpu.regs[reg::RBP].wrapping_sub(nested * W::BYTES);
        let linear = cpu.stack_linear(at, W::BYTES, false)?;
        let link: W = cpu.load(linear)?;
        cpu.push(link)?;
    }
    if level > 0 {
        cpu.push(W::from_u64(frame))?;
    }
    let top = cpu.regs[reg::RSP].wrapping_sub(size);
    // The processor probes the new top for writing.
    let linear = cpu.stack_linear(top, W::BYTES, true)?;
    cpu.load_to_modify::<u8>(linear)?;
    W::set(cpu, reg::RBP as u8, W::from_u64(frame));
    cpu.set_stack_pointer(top);
    Ok(())
}

/// LEAVE.
pub extern "C" fn leave<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    let frame = cpu.regs[reg::RBP];
    let linear = cpu.stack_linear(frame, W::BYTES, false)?;
    let value: W = cpu.load(linear)?;
    cpu.set_stack_pointer(frame.wrapping_add(W::BYTES));
    W::set(cpu, reg::RBP as u8, value);
    Ok(())
}
