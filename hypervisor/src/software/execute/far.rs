//! Far transfers and returns from interrupts. Spec: Intel SDM vol. 2, JMP far, CALL far, RETF,
//! IRET, INT n. Gates as targets are refused with #GP, see [`crate::software::segment`].

use crate::arch::x86_64::control::rflags;
use crate::arch::x86_64::exception;
use crate::arch::x86_64::segment::{CS, SS, access};
use crate::software::cpu::{Cpu, Mode};
use crate::software::exception::Fault;
use crate::software::op::{Op, Outcome, Stop, reg};
use crate::software::width::Width;
use crate::state::Segment;

/// Goes to `selector:offset` without a change of privilege.
fn transfer(cpu: &mut Cpu, selector: u16, offset: u64) -> Outcome {
    if cpu.mode == Mode::Real {
        cpu.load_real_segment(CS, selector);
    } else {
        let code = cpu.code_segment(selector, cpu.cpl)?;
        let long = cpu.long_mode() && code.access & access::LONG != 0;
        if long && !cpu.is_canonical(offset) {
            return Err(cpu.general_protection(0));
        }
        cpu.set_segment(CS, code);
    }
    cpu.rip = if cpu.mode == Mode::Long {
        offset
    } else {
        offset & 0xffff_ffff
    };
    cpu.attention = true;
    Ok(())
}

/// The far pointer: `op.third` the selector's place; immediate form.
pub extern "C" fn jump_immediate(cpu: &mut Cpu, op: &Op) -> Outcome {
    transfer(cpu, op.disp as u16, op.imm)
}

fn pointer<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Stop> {
    let linear = cpu.linear(op, W::BYTES + 2, false)?;
    let offset: W = cpu.load(linear)?;
    let selector: u16 = cpu.load(linear.wrapping_add(W::BYTES))?;
    Ok((selector, offset.zero_extend()))
}

/// JMP far through memory.
pub extern "C" fn jump_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let (selector, offset) = pointer::<W>(cpu, op)?;
    transfer(cpu, selector, offset)
}

fn call<W: Width>(cpu: &mut Cpu, selector: u16, offset: u64) -> Outcome {
    let before = cpu.regs[reg::RSP];
    let (old_code, next) = (cpu.segments[CS].selector, cpu.rip);
    let pushed = cpu
        .push(W::from_u64(u64::from(old_code)))
        .and_then(|()| cpu.push(W::from_u64(next)))
        .and_then(|()| transfer(cpu, selector, offset));
    if pushed.is_err() {
        cpu.regs[reg::RSP] = before;
    }
    pushed
}

/// CALL far, immediate form.
pub extern "C" fn call_immediate<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    call::<W>(cpu, op.disp as u16, op.imm)
}

/// CALL far through memory.
pub extern "C" fn call_memory<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let (selector, offset) = pointer::<W>(cpu, op)?;
    call::<W>(cpu, selector, offset)
}

/// RETF, with the bytes to drop besides in the immediate.
pub extern "C" fn ret<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let offset = cpu.peek::<W>(0)?.zero_extend();
    let selector = cpu.peek::<W>(W::BYTES)?.zero_extend() as u16;
    let size = 2 * W::BYTES + op.imm;
    if cpu.mode == Mode::Real {
        cpu.drop_stack(size);
        return transfer(cpu, selector, offset);
    }
    let rpl = (selector & 3) as u8;
    if rpl < cpu.cpl {
        return Err(cpu.general_protection(u32::from(selector & !3)));
    }
    let outer = rpl > cpu.cpl;
    let stack = if outer {
        let top = cpu.peek::<W>(size)?.zero_extend();
        let ss = cpu.peek::<W>(size + W::BYTES)?.zero_extend() as u16;
        Some((top.wrapping_add(op.imm), ss))
    } else {
        None
    };
    let code = cpu.code_segment(selector, rpl)?;
    finish_return(cpu, code, rpl, offset, size, stack)
}

/// The common end of RETF and IRET: everything is checked, then all of it changes.
fn finish_return(
    cpu: &mut Cpu,
    code: Segment,
    cpl: u8,
    offset: u64,
    size: u64,
    stack: Option<(u64, u16)>,
) -> Outcome {
    let to_long = cpu.long_mode() && code.access & access::LONG != 0;
    if to_long && !cpu.is_canonical(offset) {
        return Err(cpu.general_protection(0));
    }
    let new_stack = match stack {
        Some((top, selector)) => Some((top, cpu.return_stack(selector, cpl, to_long)?)),
        None => None,
    };
    let outer = cpl > cpu.cpl;
    if new_stack.is_none() {
        cpu.drop_stack(size);
    }
    cpu.cpl = cpl;
    cpu.set_segment(CS, code);
    if let Some((top, segment)) = new_stack {
        cpu.set_segment(SS, segment);
        cpu.set_stack_pointer(top);
    }
    cpu.rip = if to_long {
        offset
    } else {
        offset & 0xffff_ffff
    };
    if outer {
        cpu.drop_inner_segments();
    }
    cpu.attention = true;
    Ok(())
}

/// IRET.
pub extern "C" fn iret<W: Width>(cpu: &mut Cpu, _: &Op) -> Outcome {
    // Even an IRET that faults lets the next non-maskable interrupt in.
    cpu.nmi_blocked = false;
    let offset = cpu.peek::<W>(0)?.zero_extend();
    let selector = cpu.peek::<W>(W::BYTES)?.zero_extend() as u16;
    let flags = cpu.peek::<W>(2 * W::BYTES)?.zero_extend();
    let size = 3 * W::BYTES;
    if cpu.mode == Mode::Real {
        cpu.drop_stack(size);
        transfer(cpu, selector, offset)?;
        return restore_flags::<W>(cpu, flags, 0);
    }
    if cpu.system_flags & rflags::NT != 0 {
        // Nested tasks do not exist in long mode, and this model has no task switches.
        return Err(cpu.general_protection(0));
    }
    let rpl = (selector & 3) as u8;
    if rpl < cpu.cpl {
        return Err(cpu.general_protection(u32::from(selector & !3)));
    }
    let code = cpu.code_segment(selector, rpl)?;
    // 64-bit mode always takes the stack off the frame.
    let stack = if rpl > cpu.cpl || cpu.mode == Mode::Long {
        let top = cpu.peek::<W>(size)?.zero_extend();
        let ss = cpu.peek::<W>(size + W::BYTES)?.zero_extend() as u16;
        Some((top, ss))
    } else {
        None
    };
    let old_cpl = cpu.cpl;
    finish_return(cpu, code, rpl, offset, size, stack)?;
    restore_flags::<W>(cpu, flags, old_cpl)
}

fn restore_flags<W: Width>(cpu: &mut Cpu, value: u64, cpl: u8) -> Outcome {
    let mut allowed = rflags::WRITABLE;
    if cpl > 0 {
        allowed &= !rflags::IOPL;
    }
    if cpl > cpu.iopl() {
        allowed &= !rflags::IF;
    }
    if W::BITS == 16 {
        allowed &= 0xffff;
    }
    cpu.set_rflags((cpu.rflags() & !allowed) | (value & allowed));
    Ok(())
}

/// INT n (immediate), INT3 and INT1 (by vector in the immediate).
pub extern "C" fn interrupt(cpu: &mut Cpu, op: &Op) -> Outcome {
    cpu.software_interrupt(op.imm as u8)
}

/// INTO.
pub extern "C" fn interrupt_on_overflow(cpu: &mut Cpu, _: &Op) -> Outcome {
    if cpu.flags.overflow() {
        cpu.software_interrupt(exception::OF)
    } else {
        Ok(())
    }
}

/// BOUND.
pub extern "C" fn bound<W: Width>(cpu: &mut Cpu, op: &Op) -> Outcome {
    let linear = cpu.linear(op, 2 * W::BYTES, false)?;
    let low = cpu.load::<W>(linear)?.sign_extend() as i64;
    let high = cpu.load::<W>(linear.wrapping_add(W::BYTES))?.sign_extend() as i64;
    let index = W::get(cpu, op.dst).sign_extend() as i64;
    if index < low || index > high {
        return Err(cpu.raise(Fault::plain(exception::BR)));
    }
    Ok(())
}
